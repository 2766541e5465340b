"""The doctor on states that are really broken: what it says, and that its way out leads out."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors.numpy import save

from stages import doctor
from stages.checks import artefacts, caches, environment, folders, locks, space
from stages.checks.finding import Finding
from stages.model import files
from stages.store import keys, params, paths, tables

ROOT = Path(__file__).parents[1]
LOCK = """schema: '2.0'
stages:
  a:
    cmd: echo a > a.txt
    outs:
    - path: a.txt
      hash: md5
      md5: 60b725f10c9c85c70d97880dfe8191b3
      size: 2
"""


def said(findings) -> str:
    return "\n".join(map(str, findings))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with params of one slot and two tasks, and all that these need, empty."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEAD_ATLAS_CACHE", str(tmp_path / "cache"))
    Path("stages").symlink_to(ROOT / "stages")  # texts that params name
    content = yaml.safe_load((ROOT / "params.quick.yaml").read_text(encoding="utf-8"))
    content["models"] = {"tiny": {"source": "path", "name": "model"}}
    content["tasks"] = {name: content["tasks"][name] for name in ("text", "repeats")}
    Path("params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    for table in vars(tables).values():
        if isinstance(table, tables.Table):
            by_task = str(Path(table.place).parent) in keys.BY_TASK
            for task in content["tasks"]:
                of = ((task,) if by_task else ("tiny",), ("tiny", task))[table.place.count("{}") == 2]
                table.write_empty(*of, why="a test")
    layer = {"layer": 0, "heads": 1, "kv_heads": 1, "head_size": 8, "window": None, "kind": "global"}
    record = {
        "slot": "tiny", "source": "path", "name": "model", "revision": "", "kind": "decoder", "parameters": 1000,
        "vocabulary": 9, "files": {"model.safetensors": "0"}, "attention": [layer], "blocks": ["h.0"], "skipped": {},
        "proof": {},
    }  # fmt: skip
    paths.model("tiny").parent.mkdir(parents=True)
    paths.model("tiny").write_text(json.dumps(record), encoding="utf-8")
    return tmp_path


def test_nothing_is_wrong_with_what_params_ask_for(folder):
    assert said(artefacts.findings(params.load())) == ""
    assert not any(finding.wrong for finding in space.findings(params.load()))
    assert said(caches.findings()) == ""


def test_data_that_lack_are_damaged_or_of_another_model(folder):
    tables.HEADS.path("tiny").unlink()
    tables.ASKED.path("text").write_bytes(b"PAR1 no table")
    plan = tables.PLANS.path("tiny")
    pq.write_table(pq.read_table(plan), plan)
    record = json.loads(paths.model("tiny").read_text(encoding="utf-8"))
    paths.model("tiny").write_text(json.dumps(record | {"name": "another"}), encoding="utf-8")
    lines = said(artefacts.findings(params.load()))
    assert "data/heads/tiny.parquet: not there; dvc pull, or dvc repro" in lines
    why = "damaged, or written by another program or an earlier version (its checksum is another)"
    assert f"{plan}: {why}; rm -f {plan} && dvc checkout {plan} (from DVC's cache)" in lines
    assert "data/asked/text.parquet: damaged" in lines and "rm -f data/asked/text.parquet" in lines
    assert "slot tiny: data/models/tiny.json is of another name ('another'); dvc repro" in lines
    paths.model("tiny").write_text("{}", encoding="utf-8")
    assert "data/models/tiny.json: no record of a model" in said(artefacts.findings(params.load()))


def test_a_folder_of_weights_that_was_changed_since_fetch_is_named(folder):
    Path("model").mkdir()
    Path("model/config.json").write_text("{}", encoding="utf-8")
    weights = save({"x": np.zeros(2, np.float32)})
    Path("model/model.safetensors").write_bytes(weights)
    record = json.loads(paths.model("tiny").read_text(encoding="utf-8"))
    record["files"] = files.fingerprints(Path("model")) | {"float32/model.safetensors": "converted: another folder"}
    paths.model("tiny").write_text(json.dumps(record), encoding="utf-8")
    assert said(artefacts.findings(params.load())) == ""
    way_out = "and DVC does not watch that folder; dvc repro -f -s fetch@tiny, then dvc repro"
    Path("model/model.safetensors").write_bytes(save({"x": np.ones(2, np.float32)}))
    line = f"wrong: slot tiny: model.safetensors in model: not as data/models/tiny.json has it, {way_out}"
    assert said(artefacts.findings(params.load())) == line
    Path("model/vocab.txt").write_text("a", encoding="utf-8")
    Path("model/model.safetensors").write_bytes(weights)
    assert "slot tiny: vocab.txt (new) in model: not as" in said(artefacts.findings(params.load()))
    os.mkfifo("model/x.json")  # would be waited for, for ever
    assert "x.json: not a file: a pipe or a device is not opened: not as" in said(artefacts.findings(params.load()))
    Path("model/x.json").unlink()
    Path("model/x.json").symlink_to("/nowhere")
    assert "x.json: cannot be read (No such file or directory): not as" in said(artefacts.findings(params.load()))


def test_what_is_left_of_a_key_is_named_and_tidied(folder):
    tables.ASKED.write_empty("needle", why="a test")
    tables.RELATIONS.write_empty("tiny", "needle", why="a test")
    tables.HEADS.write_empty("old", why="a test")
    for gone in ("reports/slots/old", "reports/recipes/old", "data/effects/old"):
        Path(gone).mkdir(parents=True)
    gone = {
        "data/asked/needle.parquet", "data/activations/tiny/needle.relations.parquet", "data/heads/old.parquet",
        "reports/slots/old", "reports/recipes/old", "data/effects/old",
    }  # fmt: skip
    assert {str(path) for path in keys.stale(params.load())} == gone
    lines = said(artefacts.findings(params.load()))
    assert all(
        f"{path}: its slot, task or recipe is not in params.yaml; dvc repro -f -s tidy (or put the key back)" in lines
        for path in gone
    )
    from stages import tidy

    tidy.main()
    assert not any(Path(path).exists() for path in gone)
    assert json.loads(Path("data/prompts/keys.json").read_text()) == ["repeats", "text"]
    asked = json.loads(Path("data/asked/keys.json").read_text())
    assert asked == {name: getattr(params.load().tasks, name).model_dump() for name in ("repeats", "text")}
    assert said(artefacts.findings(params.load())) == ""  # nothing of today was removed


def test_every_place_of_a_table_is_known_by_its_key():
    known = {*keys.BY_TASK, *keys.BY_SLOT}
    for table in vars(tables).values():
        if isinstance(table, tables.Table) and "{}" in table.place:
            assert "/".join(Path(table.place).parts[:2]) in known, table.place
    assert {str(path.parent) for path in (paths.model("x"), paths.shards("x"), paths.report("x"))} <= known
    assert {str(path.parent) for path in (paths.checkpoints("x"), paths.study("x"))} == set(keys.BY_RECIPE)


def test_caches(folder):
    cache = files.cache()
    converted = cache / f"{'a' * 64}-transformers5-gguf1"
    converted.mkdir()
    (converted / "model.safetensors").write_bytes(b"zeroed")
    (converted / "content.sha256").write_text(json.dumps({"model.safetensors": "0"}), encoding="utf-8")
    parts = [cache / "b.part", Path("data/heads/.x.parquet.part")]
    parts[0].mkdir()
    (parts[0] / "model.safetensors").write_bytes(b"0" * 2_000_000)
    parts[1].write_bytes(b"half")
    assert "killed process" not in said(caches.findings())  # somebody may be writing
    hour_ago = time.time() - 3600
    for path in (*parts, parts[0] / "model.safetensors"):
        os.utime(path, (hour_ago, hour_ago))
    lines = said(caches.findings())
    assert f"{converted}: a converted model that is not as it was written; rm -r {converted}" in lines
    assert f"{parts[0]}: left by a killed process, 2.0 MB; rm -r {parts[0]}" in lines
    assert f"{parts[1]}: left by a killed process, 0.0 MB; rm {parts[1]}" in lines


def test_memory_and_disk_that_do_not_suffice(folder):
    record = json.loads(paths.model("tiny").read_text(encoding="utf-8"))
    paths.model("tiny").write_text(json.dumps(record | {"parameters": 10**14}), encoding="utf-8")
    lines = said(space.findings(params.load()))
    assert "wrong: memory: slot tiny needs about 800002.0 GB" in lines and "wrong: disk: " in lines


def test_environment(tmp_path):
    (tmp_path / "requirements.lock").write_text("numpy==1.0.0\nno_such_package==2.0\n# a comment\n", encoding="utf-8")
    (finding,) = environment._packages(tmp_path / "requirements.lock")
    assert "numpy " in finding.about and "(pinned 1.0.0), no_such_package missing (pinned 2.0)" in finding.about
    for content, about in ((b"\xff\x00", "cannot be read (UnicodeDecodeError: "), (b"", "no package is pinned in it")):
        (tmp_path / "requirements.lock").write_bytes(content)
        assert f"requirements.lock: {about}" in said(environment._packages(tmp_path / "requirements.lock"))
    (finding,) = environment._packages(tmp_path / "none.lock")
    assert "none.lock: cannot be read (FileNotFoundError: " in finding.about
    assert finding.way_out == "git checkout requirements.lock"
    assert [len(environment._python(version)) for version in ((3, 10), (3, 11), (3, 13), (3, 14))] == [1, 0, 0, 1]


def dvc(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "dvc", *arguments], capture_output=True, text=True, check=False)


def test_locks_of_a_real_repository_are_broken_and_mended(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    assert dvc("init", "-q").returncode == 0
    Path("dvc.yaml").write_text("stages:\n  a:\n    cmd: echo a > a.txt\n    outs: [a.txt]\n", encoding="utf-8")
    Path("dvc.lock").write_text(LOCK[: LOCK.index("outs") + 2], encoding="utf-8")
    Path(".dvc/tmp").mkdir(exist_ok=True)
    Path(".dvc/tmp/rwlock").write_text('{"write": {"/x": {"pid"', encoding="utf-8")
    Path(".git/index.lock").touch()
    os.utime(".git/index.lock", (0, 0))
    assert dvc("repro").returncode != 0
    wrong = [finding for finding in locks.findings() if finding.wrong]
    assert [finding.about.split(":")[0] for finding in wrong] == [".git/index.lock", ".dvc/tmp/rwlock", "dvc.lock"]
    for finding in wrong:  # from the top: each begins with rm <file>
        Path(finding.way_out.split()[1]).unlink()
    assert dvc("repro").returncode == 0 and Path("a.txt").read_text() == "a\n"
    assert not any(finding.wrong for finding in locks.findings())
    whole = Path("dvc.lock").read_text(encoding="utf-8")
    Path("dvc.lock").write_text(f"<<<<<<< HEAD\n{whole}=======\n{whole}>>>>>>> other\n", encoding="utf-8")
    assert "dvc.lock: a conflict of a merge in line 1; rm dvc.lock && dvc repro" in said(locks.findings())


@pytest.fixture
def three(tmp_path, monkeypatch):
    """A repository of three stages, run and committed; the last one's result is in git, not in DVC's cache."""
    monkeypatch.chdir(tmp_path)
    assert subprocess.run(["git", "init", "-q"], check=True) and dvc("init", "-q").returncode == 0
    outs = {"a": ["a.txt", "a2.txt"], "b": ["b.txt"], "c": [{"c.txt": {"cache": False}}]}
    stages = {name: {"cmd": f"touch {name}.txt a2.txt", "outs": out} for name, out in outs.items()}
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    assert dvc("repro", "-q").returncode == 0
    subprocess.run("git add -A && git -c user.name=t -c user.email=t@t commit -qm run", shell=True, check=True)
    return tmp_path


def test_a_lock_that_is_cut_anywhere_is_named(three):
    """At the end of every line and within it, with the results there and, as in a clone, without."""
    lock = Path("dvc.lock")
    whole = lock.read_text(encoding="utf-8")
    assert said(locks.findings()).count("\n") == 0  # full/dvc.lock is not there
    ends = [at + 1 for at, letter in enumerate(whole) if letter == "\n"]
    unclear = {whole.index("  b:\n"), whole.index("  c:\n")}  # a run from the start may have been stopped there
    for removed in ((), ("a.txt", "a2.txt", "b.txt")):
        for name in removed:
            Path(name).unlink()
        for at in sorted({*ends[:-1], *(end - 2 for end in ends)}):
            lock.write_text(whole[:at], encoding="utf-8")
            (line,) = [str(finding) for finding in locks.findings() if finding.about.startswith("dvc.lock")]
            assert "git checkout dvc.lock" in line, whole[:at]
            assert line.startswith("note " if at in unclear and not removed else "wrong"), whole[:at]


def test_a_lock_of_a_run_that_was_stopped_or_partial_is_not_wrong(three):
    def wrong():
        return [str(finding) for finding in locks.findings() if finding.wrong]

    lock = Path("dvc.lock")
    whole = lock.read_text(encoding="utf-8")
    for name in ("a.txt", "a2.txt", "b.txt"):
        Path(name).unlink()
    assert not wrong()  # a clone before dvc pull
    lock.unlink()
    assert not wrong()
    for stage in "ab":  # from the start, and stopped after each stage
        assert dvc("repro", "-q", "-s", stage).returncode == 0 and not wrong()
    assert whole.startswith(lock.read_text(encoding="utf-8"))
    lock.write_text(whole[: whole.index("  b:\n")] + whole[whole.index("  c:\n") :], encoding="utf-8")
    (note,) = [str(finding) for finding in locks.findings() if finding.about.startswith("dvc.lock")]
    assert note == "note : dvc.lock: lacks b.txt of stage b: DVC was killed before it wrote that; dvc repro goes on"
    pipeline = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))
    pipeline["stages"]["d"] = {"cmd": "touch d.txt", "outs": ["d.txt"]}
    pipeline["stages"]["a"]["outs"] += ["b2.txt", {"kept": {"cache": False}}]
    Path("kept").touch()  # an out is added to a stage, and not run yet
    Path("dvc.yaml").write_text(yaml.safe_dump(pipeline), encoding="utf-8")
    lock.write_text(whole, encoding="utf-8")
    assert not wrong()


def commands(finding, which: int) -> str:
    """Return the nth command that a way out offers, as a shell takes it."""
    return finding.way_out.split(", or ")[which].partition(" (")[0]


def test_lines_lead_out_when_followed_from_the_top(three):
    """Git's lock stops `git checkout`, DVC's every command, and a result that was edited stops `dvc checkout`."""
    lock = Path("dvc.lock")
    whole = lock.read_text(encoding="utf-8")
    lock.write_text(whole[: whole.index("  b:\n") - 3], encoding="utf-8")
    Path(".dvc/tmp/rwlock").write_text("{", encoding="utf-8")
    Path(".git/index.lock").touch()
    os.utime(".git/index.lock", (0, 0))
    Path("a.txt").write_text("edited", encoding="utf-8")
    for finding in [finding for finding in locks.findings() if finding.wrong]:
        assert subprocess.run(commands(finding, 0), shell=True, stdin=subprocess.DEVNULL).returncode == 0, finding
    assert lock.read_text(encoding="utf-8") == whole and Path("a.txt").read_bytes() == b""
    assert not [finding for finding in locks.findings() if finding.wrong]


def test_a_damaged_file_comes_back_from_the_cache_or_where_that_is_damaged_too_by_its_stage(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert subprocess.run(["git", "init", "-q"], check=True) and dvc("init", "-q").returncode == 0
    made = {"data": "mkdir data && echo a > data/a", "file": "cp data/a file"}
    stages = {name: {"cmd": cmd, "outs": [name]} for name, cmd in made.items()}
    stages["file"]["deps"] = ["data"]
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    assert dvc("repro", "-q").returncode == 0
    for path in (Path("data/a"), Path("file")):
        for lost in ("file", "cache"):
            way_out = Finding("", artefacts._again(path))
            path.write_text("damaged", encoding="utf-8")
            if lost == "cache":
                for kept in Path(".dvc/cache/files").rglob("*"):
                    if kept.is_file() and kept.read_bytes() == b"a\n":
                        kept.unlink()
                assert subprocess.run(commands(way_out, 0), shell=True).returncode  # then the second one is followed
            assert subprocess.run(commands(way_out, lost == "cache"), shell=True).returncode == 0, way_out
            assert path.read_text(encoding="utf-8") == "a\n"
    assert dvc("status").stdout.strip() == "Data and pipelines are up to date."


@pytest.fixture
def refused(monkeypatch):
    """Paths that this user may not write, as the system says of them: tests may run as root, who may write anywhere."""
    paths_of: set[str] = set()
    monkeypatch.setattr(folders.os, "access", lambda path, mode: str(path) not in paths_of)
    return paths_of


def test_folders_that_may_not_be_written(folder, refused, monkeypatch):
    assert said(folders.findings()) == ""
    Path("dvc.lock").touch()
    refused |= {"data/heads", "dvc.lock", str(files.cache())}
    lines = said(folders.findings())
    assert "wrong: data/heads: may not be written by you; chmod -R u+rwX data\n" in lines
    assert "wrong: dvc.lock: may not be written by you; chmod u+rwX dvc.lock\n" in lines
    assert f"chmod -R u+rwX {files.cache()}, or set HEAD_ATLAS_CACHE to another folder" in lines
    monkeypatch.setattr(folders.os, "geteuid", lambda: os.getuid() + 1)
    assert f"sudo chown -R {os.getuid() + 1} data\n" in said(folders.findings())
    refused |= {"."}
    monkeypatch.setattr(folders, "_read_only", lambda path: True)
    (line,) = map(str, folders.findings())  # what holds of it holds of all that is in it
    assert line.startswith("wrong: this folder: may not be written by you; clone to a disk that may be written")


def test_a_file_in_the_place_of_a_folder(folder):
    Path("reports").touch()
    Path(".git").touch()  # a worktree
    (finding,) = folders.findings()
    assert str(finding) == "wrong: reports: not a folder; mv reports reports.old"
    assert subprocess.run(finding.way_out, shell=True).returncode == 0 and not folders.findings()


def test_a_cache_that_cannot_be_made_is_said_once(folder, capsys, monkeypatch):
    Path("file").touch()
    monkeypatch.setenv("HEAD_ATLAS_CACHE", "file")
    about = "wrong: file: cannot be made (File exists); set HEAD_ATLAS_CACHE"
    assert [line for line in doctors_lines(capsys) if "HEAD_ATLAS_CACHE" in line] == [about]


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """What a clone holds, as one commit, with the params of tests and none of its data."""
    for name in (".dvc", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "cache", "tmp"))
    for name in ("dvc.yaml", "dvc.lock", "requirements.lock", "tests/params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEAD_ATLAS_CACHE", str(tmp_path / "cache"))
    subprocess.run("git init -q && git add .dvc *.* && git -c user.name=t -c user.email=t@t commit -qm all", shell=True)
    return tmp_path


def set_param(where: str, value: str) -> None:
    """Write a value of params.yaml as the user would, in YAML: it need not be one that can be dumped."""
    path = Path("params.yaml")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    *outer, key = where.split(".")
    section = content
    for name in outer:
        section = section[name]
    section[key] = "VALUE"
    path.write_text(yaml.safe_dump(content).replace("VALUE", value), encoding="utf-8")


def doctors_lines(capsys) -> list[str]:
    """Run the doctor where something is wrong: each line is a finding, the last one counts those that are wrong."""
    with pytest.raises(SystemExit) as end:
        doctor.main()
    *lines, last = capsys.readouterr().out.splitlines()
    assert end.value.code == 1 and all(line.startswith(("wrong: ", "note : ")) for line in lines)
    assert last == f"{sum(line.startswith('wrong') for line in lines)} wrong"
    return lines


@pytest.mark.parametrize(
    ("where", "value", "about"),
    [
        ("tasks.text", "null", "tasks.text = None: allowed: the task's section, or no key"),
        ("tasks", "null", "tasks = None: allowed: a section with keys of blimp"),
        ("recipes.parity", "null", "recipes.parity = None: allowed: a section with keys of arms"),
        ('models.de"coder', "{}", "models.de\"coder = 'de\"coder': String should match"),
    ],
)
def test_where_dvc_names_no_key_of_params_the_doctor_does(where, value, about, clone, capsys):
    """DVC reads dvc.yaml, with what params.yaml has for it, before any stage of ours: nothing runs, nothing is lost."""
    set_param(where, value)
    before = Path("dvc.lock").read_bytes()
    done = dvc("repro", "-s", "prepare@text")
    assert done.returncode and done.stderr.count("ERROR: ") == 1 and "Traceback" not in done.stderr
    assert Path("dvc.lock").read_bytes() == before
    assert any(line.startswith(f"wrong: params.yaml: {about}") for line in doctors_lines(capsys))


DEEP = "[" * 3000 + "]" * 3000


@pytest.mark.parametrize(
    ("where", "value", "about", "to_dvc"),
    [
        ("tasks.text.path", "7", "tasks.text.path = 7: Input should be a valid string", "AttributeError: "),
        ("tasks.text.path", "1.5", "tasks.text.path = 1.5: Input should be a valid string", "AttributeError: "),
        ("tasks.text.path", "true", "tasks.text.path = True: Input should be a valid string", ""),
        ("tasks.text.path", "null", "tasks.text.path = None: Input should be a valid string", ""),
        ("tasks.text.path", '""', "tasks.text.path = ''", ""),
        ("tasks.text.path", "s3://b/x", "tasks.text.path = 's3://b/x': no such file or folder", ""),
        ("tasks.text.path", "no/such", "tasks.text.path = 'no/such': no such file or folder", None),
        ("tasks.text.path", "x" * 5000, "tasks.text.path = 'xxx", None),
        ("ngram.path", "7", "ngram.path = 7: Input should be a valid string", "AttributeError: "),
        ("ngram.path", "null", "ngram.path = None: Input should be a valid string", ""),
        ("seed", "7" * 5000, "not YAML: Exceeds the limit", "ValueError: Exceeds the limit"),
        ("seed", "0x" + "f" * 5000, "seed = an integer of 6,021 digits: Input should be less than", None),
        ("seed", DEEP, "not YAML: nested too deeply", "RecursionError"),
        ("plan.kinds", "[mean, gone]", "plan.kinds: 'gone': no such way to silence; allowed: mean, zero", None),
        ("plan.also", "{gone: [sink]}", "plan.also: 'gone': no such way to silence; allowed: mean, zero", None),
        ("plan.also", "{sink: [gone]}", "plan.also.sink: 'gone': not a set of heads; allowed: ", None),
        ("plan.leave_out", "[gone]", "plan.leave_out: 'gone': not a set of heads; allowed: ", None),
        ("plan.sweep.families", "[gone, function]", "plan.sweep.families: 'gone': not a set of heads; allowed: ", None),
        ("classify.thresholds", "{gone: 0.5}", "classify.thresholds: 'gone': no such family; allowed: ", None),
        ("neighbours.silenced", "[gone]", "neighbours.silenced: 'gone': no such kind; allowed: forms_katakana, ", None),
        ("tasks.neighbours.groups", "[gone]", "tasks.neighbours.groups: 'gone': no such kind; allowed: ", None),
        ("tasks.icl.functions", "[gone]", "tasks.icl.functions = 'gone': not in ", None),
        ("recipes.parity.task", "gone", "recipes.parity.task = 'gone': no such lesson; allowed: ", None),
        ("recipes.parity.train.arguments.longest", "5", "recipes.parity.train.arguments", None),
    ],
)
def test_values_that_dvc_or_a_late_stage_ends_at(where, value, about, to_dvc, clone, capsys):
    """to_dvc: what DVC says of them; None where DVC reads them."""
    set_param(where, value)
    lines = doctors_lines(capsys)
    assert any(line.startswith(f"wrong: params.yaml: {about}") for line in lines), lines
    dvcs = [line for line in lines if line.startswith("wrong: dvc.yaml: DVC cannot read it and the params it names (")]
    assert len(dvcs) == (to_dvc is not None) and all(to_dvc in line for line in dvcs), lines


@pytest.mark.parametrize(
    ("before", "after", "about"),
    [
        ("\nsteer:\n", "\nstear:\n", "stear = {'heads': "),
        ("\nslots: [decoder]", "\nslots: 7", "slots = 7: "),
        ("    task: patches ", "    task: patchs ", "recipes.patches.task = 'patchs': no such lesson; allowed: "),
    ],
)
def test_params_of_the_longer_studies_are_read_as_well(before, after, about, clone, capsys):
    file = Path("full/params.yaml")
    text = (ROOT / file).read_text(encoding="utf-8")
    assert before in text
    file.parent.mkdir()
    file.write_text(text.replace(before, after, 1), encoding="utf-8")
    lines = doctors_lines(capsys)
    assert [line for line in lines if line.startswith(f"wrong: full/params.yaml: {about}")], lines


def test_a_pipeline_that_is_cut_and_a_lock_that_is_nested_too_deeply(clone, capsys):
    assert not [finding for finding in locks.findings() if finding.wrong]
    whole = Path("dvc.yaml").read_bytes()
    for cut in (0, 500, whole.index(b"  report:")):
        Path("dvc.yaml").write_bytes(whole[:cut])
        (line,) = [str(finding) for finding in locks.findings() if finding.about.startswith("dvc.yaml: ")]
        assert line.endswith("; git checkout dvc.yaml (or commit it, where that is meant)") and line.startswith("wrong")
    Path("dvc.yaml").write_bytes(b"stages: [" + whole)
    assert any(line.startswith("wrong: dvc.yaml: DVC cannot read it") for line in doctors_lines(capsys))
    subprocess.run(["git", "checkout", "-q", "dvc.yaml"], check=True)
    Path("dvc.lock").write_text(DEEP, encoding="utf-8")
    Path(".dvc/tmp").mkdir(exist_ok=True)
    Path(".dvc/tmp/rwlock").write_text("[" * 100_000, encoding="utf-8")
    assert [str(finding).partition(" (")[0] for finding in locks.findings() if finding.wrong] == [
        "wrong: .dvc/tmp/rwlock: cut; rm .dvc/tmp/rwlock", "wrong: dvc.lock: cut or not as DVC writes it",
    ]  # fmt: skip


def test_left_over_data_go_by_the_way_out_where_params_are_as_they_were(clone):
    assert dvc("repro", "-q", "-f", "-s", "tidy").returncode == 0
    tables.ASKED.write_empty("picture", why="a test")
    finding = artefacts.findings(params.load())[-1]
    assert dvc("repro", "-q", "-s", "tidy").returncode == 0 and tables.ASKED.path("picture").exists()
    arguments = finding.way_out.partition(" (")[0].split()
    assert arguments[0] == "dvc" and dvc(*arguments[1:]).returncode == 0
    assert not tables.ASKED.path("picture").exists()


def test_a_key_that_no_stage_names_is_refused_before_any_stage_runs(clone):
    """Else DVC would see no change: `ablat` beside `ablate` went unread, and all was up to date."""
    written = Path("params.yaml").read_text(encoding="utf-8")
    assert dvc("repro", "-q", "-s", "tidy").returncode == 0
    Path("params.yaml").write_text(f"{written}\nablat: {{shard: 3}}\n", encoding="utf-8")
    done = dvc("repro", "-s", "tidy")
    assert done.returncode and "error: params.yaml: ablat = {'shard': 3}: unknown key; allowed: " in done.stderr
    Path("params.yaml").write_text(f"{written}\n# a remark\n", encoding="utf-8")
    before = {path: path.read_bytes() for path in Path("data").glob("*/keys.json")}
    assert dvc("repro", "-s", "tidy").returncode == 0
    assert {path: path.read_bytes() for path in before} == before  # so that nothing that depends on them runs again


def test_stages_that_dvc_keeps_no_run_of_are_those_that_the_docs_name():
    pipeline = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    uncached = {
        name
        for name, stage in pipeline.items()
        for out in stage.get("do", stage).get("outs", ())
        if isinstance(out, dict) and not next(iter(out.values())).get("cache", True)
    }
    text = (ROOT / "docs/environment.md").read_text(encoding="utf-8")
    paragraph = text[text.index("After `rm dvc.lock`") : text.index("run again.")]
    assert set(paragraph.replace("`rm dvc.lock`", "").split("`")[1::2]) == uncached


def test_a_folder_that_is_no_repository(clone):
    shutil.rmtree(".git")
    assert "wrong: .git: not there, or not git's: DVC runs nothing without it; git init" in said(locks.findings())
    assert dvc("status").returncode
    subprocess.run(["git", "init", "-q"], check=True)
    assert "wrong" not in said(locks.findings())
    shutil.rmtree(".dvc")
    assert said(locks.findings()).startswith("wrong: .dvc: not there: DVC runs nothing without it; git checkout .dvc")
    assert dvc("status").returncode


def test_a_check_that_breaks_hides_no_other(folder, capsys, monkeypatch):
    monkeypatch.setattr(caches, "findings", lambda: 1 / 0)
    lines = doctors_lines(capsys)
    assert any(
        line.startswith("wrong: caches: cannot be checked (ZeroDivisionError: division by zero); ") for line in lines
    )
    assert any(line.startswith("note : disk: ") for line in lines)


def test_a_reader_that_is_gone(folder):
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "stages.doctor"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, env=os.environ, check=False)
    os.close(write)
    assert done.returncode == 1 and done.stderr == ""


@pytest.mark.parametrize(
    ("change", "about"),
    [
        ({"parameters": -5}, "parameters: Input should be greater than or equal to 1"),
        ({"parameters": "7"}, "parameters: Input should be a valid integer"),
        ({"parameters": True}, "parameters: Input should be a valid integer"),
        ({"parameters": float("1e999")}, ""),
        ({"parameters": 10**400}, "parameters: Input should be less than or equal to 1000000000000000000"),
        ({"attention": []}, "attention: List should have at least 1 item"),
        ({"slot": "other"}, "slot: 'other'"),
    ],
)
def test_a_record_that_stages_refuse_or_cannot_reckon_with(change, about, folder):
    path = paths.model("tiny")
    record = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(record | change).replace("Infinity", "1e999"), encoding="utf-8")
    (finding,) = artefacts.findings(params.load())
    assert finding.about.startswith(f"{path}: no record of a model ({about}") and finding.wrong
    assert finding.way_out == f"rm -f {path} && dvc checkout {path} (from DVC's cache), or rm -f {path} && dvc repro"
    assert said(space.findings(params.load())).startswith("note : no model is fetched yet")


def test_ways_out_are_quoted_for_a_shell(folder, monkeypatch):
    cache = folder / "my cache; x"
    monkeypatch.setenv("HEAD_ATLAS_CACHE", str(cache))
    converted, part = cache / f"{'a' * 64}-transformers5-gguf1", cache / "b.part"
    for each in (converted, part):
        each.mkdir(parents=True)
    hour_ago = time.time() - 3600
    os.utime(part, (hour_ago, hour_ago))
    for finding, path in zip(caches.findings(), (converted, part), strict=True):
        subprocess.run(finding.way_out.partition(" (it is")[0], shell=True, check=True)
        assert not path.exists() and cache.exists()


def test_it_prints_a_line_each_and_ends_with_1(folder, capsys):
    Path("params.yaml").write_text("seed: 1\n", encoding="utf-8")
    lines = [line for line in doctors_lines(capsys) if line.startswith("wrong: params.yaml: ")]
    assert len(lines) == 1 and "; mend this key" in lines[0]
