"""The doctor on states that are really broken: what it says, and that its way out leads out."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from stages import doctor
from stages.checks import artefacts, caches, environment, locks, space
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
            table = tables.outputs(8) if table.schema is None else table
            for task in content["tasks"]:
                of = ((task,) if by_task else ("tiny",), ("tiny", task))[table.place.count("{}") == 2]
                table.write_empty(*of, why="a test")
    record = {"source": "path", "name": "model", "revision": "", "parameters": 1000}
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
    record = json.loads(paths.model("tiny").read_text(encoding="utf-8"))
    paths.model("tiny").write_text(json.dumps(record | {"name": "another"}), encoding="utf-8")
    lines = said(artefacts.findings(params.load()))
    assert "data/heads/tiny.parquet: not there; dvc pull, or dvc repro" in lines
    assert "data/asked/text.parquet: not a readable Parquet file" in lines and "rm data/asked/text.parquet" in lines
    assert "slot tiny: data/models/tiny.json is of another name ('another'); dvc repro" in lines
    paths.model("tiny").write_text("{}", encoding="utf-8")
    assert "data/models/tiny.json: no record of a model" in said(artefacts.findings(params.load()))


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
    assert all(f"{path}: its slot, task or recipe is not in params.yaml; dvc repro tidy" in lines for path in gone)
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
    assert [finding.about.split(":")[0] for finding in wrong] == ["dvc.lock", ".dvc/tmp/rwlock", ".git/index.lock"]
    for finding in wrong:
        Path(finding.way_out.split()[1]).unlink()  # each begins with rm <file>
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


@pytest.mark.parametrize(
    ("where", "value", "about"),
    [
        ("tasks.text", None, "tasks.text = None: allowed: the task's section, or no key"),
        ("tasks", None, "tasks = None: allowed: a section with keys of blimp"),
        ("recipes.parity", None, "recipes.parity = None: allowed: a section with keys of arms"),
        ('models.de"coder', {}, "models.de\"coder = 'de\"coder': String should match"),
    ],
)
def test_where_dvc_names_no_key_of_params_the_doctor_does(where, value, about, tmp_path, monkeypatch, capsys):
    """DVC reads dvc.yaml, with what params.yaml has for it, before any stage of ours: nothing runs, nothing is lost."""
    for name in (".dvc", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "cache", "tmp"))
    for name in ("dvc.yaml", "dvc.lock", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path / name)
    content = yaml.safe_load((ROOT / "tests/params.yaml").read_text(encoding="utf-8"))
    *outer, key = where.split(".")
    (content[outer[0]] if outer else content)[key] = value
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEAD_ATLAS_CACHE", str(tmp_path / "cache"))
    subprocess.run(["git", "init", "-q"], check=True)
    before = Path("dvc.lock").read_bytes()
    done = dvc("repro", "-s", "prepare@text")
    assert done.returncode and done.stderr.count("ERROR: ") == 1 and "Traceback" not in done.stderr
    assert Path("dvc.lock").read_bytes() == before
    with pytest.raises(SystemExit) as end:
        doctor.main()
    lines = capsys.readouterr().out.splitlines()
    assert end.value.code == 1 and any(line.startswith(f"wrong: params.yaml: {about}") for line in lines)


def test_it_prints_a_line_each_and_ends_with_1(folder, capsys):
    Path("requirements.lock").write_text("", encoding="utf-8")
    Path("params.yaml").write_text("seed: 1\n", encoding="utf-8")
    with pytest.raises(SystemExit) as end:
        doctor.main()
    lines = capsys.readouterr().out.splitlines()
    assert end.value.code == 1 and lines[-1] == "1 wrong"
    assert lines[0].startswith("wrong: params.yaml: ") and "; mend this key" in lines[0]
