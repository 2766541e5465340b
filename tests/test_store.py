"""Params and tables: a user's mistake gets one line that names the place; a write is whole or not at all."""

import errno
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from synthetic import record

from stages import tasks
from stages.store import files, params, parquet, paths, records, tables
from stages.store.errors import UserError, run

ROOT = Path(__file__).parents[1]
GOOD = yaml.safe_load((ROOT / "tests/params.yaml").read_text())


def broken(tmp_path: Path, change) -> str:
    content = yaml.safe_load((ROOT / "tests/params.yaml").read_text())
    change(content)
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError) as error:
        params.load(file)
    message = str(error.value)
    assert "\n" not in message and message.startswith(str(file))
    return message


def put(*path_and_value):
    *path, key, value = path_and_value

    def change(content):
        for part in path:
            content = content[part]
        content[key] = value

    return change


def test_misspelt_keys_name_themselves_and_what_is_allowed(tmp_path):
    message = broken(tmp_path, put("ablate", "promts", 3))
    assert "ablate.promts = 3: unknown key; allowed: prompts, shard, single" in message
    assert "nearest: prompts" in message
    message = broken(tmp_path, lambda content: content.update(ablat=content.pop("ablate")))
    assert "ablat = {" in message and "nearest: ablate (and 1 more)" in message
    assert "nearest" not in broken(tmp_path, put("zzz", 3))
    allowed = ", ".join(sorted(tasks.names()))
    assert f"tasks.icll = {{}}: unknown key; allowed: {allowed}" in broken(tmp_path, put("tasks", "icll", {}))
    message = broken(tmp_path, put("tasks", "needle", "length", 3))
    assert "tasks.needle.length = 3: unknown key; allowed: depths, lengths, path, source, trials" in message
    assert (
        "models.decoder.nam" in (message := broken(tmp_path, put("models", "decoder", "nam", "x")))
        and "revision" in message
    )


def test_a_misspelt_key_is_named_before_the_one_that_it_leaves_missing(tmp_path):
    def misspell(content):
        content["extract"] = {"batch_token": 2048}

    assert "extract.batch_token = 2048: unknown key; allowed: batch_tokens (and 1 more)" in broken(tmp_path, misspell)


def test_no_value_of_a_list_of_a_section_stands_twice(tmp_path):
    """What is done for each value would be done twice: rows of one name, or as many trials again."""
    sections = {name: of for name, of in GOOD.items() if name not in ("tasks", "models", "recipes") and of}
    sections |= {"plan.sweep": GOOD["plan"]["sweep"]}
    lists = {(name, key): value for name, of in sections.items() if isinstance(of, dict) for key, value in of.items()}
    lists = {of: value for of, value in lists.items() if isinstance(value, list) and value}
    assert {("memory", "together"), ("neighbours", "silenced"), ("steer", "heads")} < set(lists)
    for (name, key), value in lists.items():
        twice = [value[0]] * max(2, len(value))
        message = broken(tmp_path, put(*name.split("."), key, twice))
        assert f"{name}.{key} = " in message and "each value may stand once" in message


def test_lists_that_contradict_themselves_are_named(tmp_path):
    message = broken(tmp_path, put("plan", "kinds", ["mean", "zero", "zero"]))
    assert "plan.kinds = ['mean', 'zero', 'zero']: each value may stand once" in message
    assert "least: 9 is above top: 5" in broken(tmp_path, put("plan", "least", 9))
    message = broken(tmp_path, put("plan", "also", {"zero": ["sink"]}))
    assert "also: zero is one of kinds, which all families have" in message
    message = broken(tmp_path, put("plan", "controlled", ["resample"]))
    assert "controlled: has to name mean, the first of kinds: claims are made with it" in message
    message = broken(tmp_path, put("plan", "controlled", ["mean", "resample"]))
    assert "controlled: resample is no way that heads are silenced in; allowed: mean, zero, sink" in message
    assert "steer.zero_shot = 0" in broken(tmp_path, put("steer", "zero_shot", 0))


def test_no_task_and_a_sweep_of_one_family_or_of_other_numbers_are_named(tmp_path):
    assert "tasks = {}: no task: at least one is needed" in broken(tmp_path, lambda content: content.update(tasks={}))
    message = broken(tmp_path, put("plan", "sweep", "families", ["function", "function"]))
    assert "plan.sweep.families = ['function', 'function']: each value may stand once" in message
    assert "controlled: 2 is not among numbers" in broken(tmp_path, put("plan", "sweep", "controlled", [2]))
    for labels in (["A", "A"], ["A", "AB"]):
        assert "two different words" in broken(tmp_path, put("tasks", "neighbours", "labels", labels))
    message = broken(tmp_path, put("tasks", "repeats", "prompts", 10**9))
    assert "tasks.repeats.prompts = 1000000000" in message and "less than or equal to 1000000" in message


def test_values_out_of_range_name_key_value_and_range(tmp_path):
    message = broken(tmp_path, put("classify", "alpha", 7))
    assert "classify.alpha = 7" in message and "less than 1" in message
    message = broken(tmp_path, put("plan", "specificity", ["blimp", "blump"]))
    assert "plan.specificity = ['blimp', 'blump']: 'blump' is no task; allowed: text, blimp" in message
    assert "ablate.single = {'icll': 3}: 'icll' is no task" in broken(tmp_path, put("ablate", "single", {"icll": 3}))
    assert "Decoder" in broken(tmp_path, put("models", "Decoder", GOOD["models"]["decoder"]))
    message = broken(tmp_path, put("tasks", "icl", "template", "Q: {x}"))
    assert "{y} once" in message
    hub = {"source": "hub", "name": "gpt2", "revision": "main"}
    assert "tasks.text.path = ''" in broken(tmp_path, put("tasks", "text", "path", ""))
    assert "40 hex digits" in broken(tmp_path, put("models", "decoder", hub))


def test_what_is_no_section_names_the_keys_of_one(tmp_path):
    message = broken(tmp_path, put("tasks", "text", None))
    assert "tasks.text = None: allowed: the task's section, or no key at all; null leaves no task out" in message
    message = broken(tmp_path, put("models", "decoder", None))
    assert "models.decoder = None: allowed: a section with keys of device_map, dtype, name, revision, source" in message
    assert "ngram = []: allowed: a section with keys of order, path" in broken(tmp_path, put("ngram", []))
    assert "recipes = None: allowed: a section, {} where it may be empty" in broken(tmp_path, put("recipes", None))


def test_missing_keys_and_no_yaml(tmp_path):
    assert "classify: missing key" in broken(tmp_path, lambda content: content.pop("classify"))
    (tmp_path / "params.yaml").write_text("seed: [1")
    with pytest.raises(UserError, match="not YAML"):
        params.load(tmp_path / "params.yaml")
    with pytest.raises(UserError, match="no such file"):
        params.load(tmp_path / "absent.yaml")


def test_tasks_are_the_folders_in_display_order(tmp_path):
    """A task that is left out is None; every key of params.yaml is one of them."""
    settings = params.load(ROOT / "tests/params.yaml")
    assert isinstance(settings, params.Params) and pickle.loads(pickle.dumps(settings)) == settings
    assert tuple(name for name, _ in settings.tasks) == tasks.names()
    assert {name for name, task in settings.tasks if task is not None} == set(GOOD["tasks"])
    content = GOOD | {"tasks": {"text": GOOD["tasks"]["text"]}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    few = params.load(tmp_path / "params.yaml").tasks
    loaded = params.load(tmp_path / "params.yaml")
    assert pickle.loads(pickle.dumps(loaded)) == loaded  # with its left-out tasks
    assert few.blimp is None and few.text.passages == GOOD["tasks"]["text"]["passages"]


def test_params_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        params.load(ROOT / "tests/params.yaml").seed = 3


ROWS = pd.DataFrame({"function": ["f"] * 3, "prompt": list("abc"), "split": "a", "cluster": "c", "layer": 0, "head": 1})
ROWS = ROWS.assign(base=0.5, effect=[0.1, 0.2, 0.3])
SCHEMA = tables.INDIRECT.schema


def test_tables_round_trip_and_carry_meanings(tmp_path):
    path = tmp_path / "t.parquet"
    parquet.write(path, ROWS.assign(layer="0"), SCHEMA)
    assert parquet.read(path, SCHEMA).effect.tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert all(field.metadata[b"meaning"] for field in parquet.read_schema(path))


def test_the_size_of_pieces_does_not_change_the_bytes(tmp_path, monkeypatch):
    monkeypatch.setattr(parquet, "ROW_GROUP", 4)
    for name, pieces in (("one", [5]), ("many", [1, 2, 2])):
        with parquet.writer(tmp_path / name, SCHEMA) as add:
            for size in pieces:
                add(pd.concat([ROWS.head(1)] * size))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "many").read_bytes()


def test_a_killed_write_leaves_nothing(tmp_path):
    path = tmp_path / "t.parquet"
    parquet.write(path, ROWS.assign(layer="0"), SCHEMA)
    before = path.read_bytes()
    with pytest.raises(RuntimeError), parquet.writer(path, SCHEMA) as add:
        add(ROWS)
        raise RuntimeError
    assert path.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["t.parquet"]


def test_damaged_and_foreign_files_are_named(tmp_path):
    path = tmp_path / "t.parquet"
    with pytest.raises(UserError, match=r"t\.parquet: no such file; run dvc repro"):
        parquet.read(path, SCHEMA)
    path.write_bytes(b"PAR1 this is not Parquet")
    with pytest.raises(
        UserError, match=r"t\.parquet: damaged, or written by another program .*; delete it and run dvc"
    ):
        parquet.read(path, SCHEMA)
    parquet.write(path, ROWS.drop(columns="effect"), SCHEMA.remove(SCHEMA.get_field_index("effect")))
    with pytest.raises(UserError, match="columns are"):
        parquet.read(path, SCHEMA)
    parquet.write(path, ROWS.assign(layer="0"), SCHEMA.set(4, SCHEMA.field(4).with_type(pa.string())))
    with pytest.raises(UserError, match="layer is string, expected int16; run dvc repro"):
        parquet.read(path, SCHEMA)


def test_a_table_that_another_program_wrote_over_is_named(tmp_path):
    """Rows left out by hand look like rows that never were: the file itself says that its stage did not write it."""
    path = tmp_path / "t.parquet"
    for rows in (ROWS, ROWS.head(0)):
        parquet.write(path, rows, SCHEMA)
        assert len(parquet.read(path, SCHEMA)) == len(rows)
        pq.write_table(pq.read_table(path), path, compression=parquet.CODEC)
        with pytest.raises(UserError, match=r"t\.parquet: .*written by another program .* run dvc checkout"):
            parquet.read(path, SCHEMA)


def test_no_byte_of_a_table_changes_unseen(tmp_path):
    """In pages a flipped byte is another number; in a footer it renames, hides rows or ends the process in pyarrow."""
    path = tmp_path / "t.parquet"
    way_out = r"delete it and run dvc checkout \S+ \(not of an earlier version\), or dvc repro$"
    damaged = rf"^\S+t\.parquet: damaged, .*; {way_out}"
    parquet.write(path, ROWS, SCHEMA)
    content, rows = path.read_bytes(), parquet.read(path)
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :])
        os.utime(path, ns=(at, at))  # a clock that ticks between two writes
        for read in (parquet.read, parquet.reason, parquet.number_of_rows):
            with pytest.raises(UserError, match=damaged):
                read(path)
    for end in range(0, len(content), 7):
        path.write_bytes(content[:end])
        with pytest.raises(UserError, match="damaged"):
            parquet.read_schema(path)
    path.write_bytes(content)
    assert parquet.read(path, SCHEMA).equals(rows)


def test_other_programs_read_a_sealed_table(tmp_path):
    path = tmp_path / "t.parquet"
    parquet.write(path, ROWS, SCHEMA)
    table = pq.read_table(path)
    assert table.schema.equals(SCHEMA, check_metadata=True)
    assert table.equals(pa.Table.from_pandas(ROWS, SCHEMA, preserve_index=False))


def test_what_dead_processes_left_is_removed_and_living_ones_keep_theirs(tmp_path):
    """Two writers of one output never share a temporary name."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead, living = (tmp_path / f".t.txt.{process}.part" for process in (gone.pid, os.getppid()))
    dead.touch(), living.touch()
    files.write_text(tmp_path / "t.txt", "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [living.name, "t.txt"]


def test_a_process_that_nobody_has_reaped_and_another_of_the_same_number_are_dead(tmp_path):
    killed = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    killed.kill()
    while psutil.Process(killed.pid).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.01)
    (tmp_path / f".t.txt.{killed.pid}.part").touch()
    older = tmp_path / f".t.txt.{os.getppid()}.part"  # than the process that has its number now
    older.mkdir()
    os.utime(older, (psutil.Process(os.getppid()).create_time() - 3600,) * 2)
    files.write_text(tmp_path / "t.txt", "whole")
    killed.communicate()
    assert [path.name for path in tmp_path.iterdir()] == ["t.txt"]


def test_a_disk_that_cannot_be_written_is_one_line(tmp_path):
    full = r"t\.txt: cannot be written \(No space left on device\)"
    with pytest.raises(UserError, match=full), files.replacing(tmp_path / "t.txt"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(UserError, match=r"cannot be written \(File name too long\)"):
        files.write_text(tmp_path / ("t" * 300), "")


def test_a_table_is_read_as_it_was_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = tables.INDIRECT.noting(skipped={"g": "why"})
    files.write_text(paths.model("a"), record("a"))
    rows = pd.concat([ROWS.assign(head=0), ROWS])
    table.write(rows[ROWS.columns[::-1]], "a", otherwise="no function is solved")
    assert Path("data/indirect/a.parquet").is_file() and table.reason("a") == ""
    assert list(table.read("a")) == table.names and table.read("a", only=[("prompt", "==", "b")]).effect[0] < 0.3
    assert table.skipped("a") == {"g": "why"} and table.note("chosen", "a") == {}
    assert str(tables.RELATIONS.path("a", "text")) == "data/activations/a/text.relations.parquet"


def test_a_table_that_is_cut_or_of_another_model_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write_text(paths.model("a"), record("a"))  # two heads
    for rows in (pd.concat([ROWS.assign(head=0), ROWS]).head(5), ROWS, pd.concat([ROWS.assign(layer=1), ROWS])):
        tables.INDIRECT.write(rows, "a")
        with pytest.raises(UserError, match=r"indirect/a\.parquet: not the same number of rows for each head in data"):
            tables.INDIRECT.read("a")
        with pytest.raises(UserError, match=r"indirect/a\.parquet: not the same number of rows for each head in data"):
            list(tables.INDIRECT.batches("a", columns=["prompt", "layer", "head"]))
        if len(rows) % 2:
            with pytest.raises(UserError, match="not the same number of rows for each head"):
                tables.INDIRECT.read("a", columns=["effect"])
        else:
            assert len(tables.INDIRECT.read("a", columns=["effect"])) == len(rows)


def test_a_table_of_other_prompts_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write_text(paths.model("a"), record("a"))
    empty = dict.fromkeys(tables.RELATIONS.names)
    rows = [empty | {"prompt": name, "layer": 0, "head": head} for name in "xy" for head in (0, 1)]
    tables.RELATIONS.write(rows, "a", "text")
    assert len(tables.RELATIONS.read("a", "text")) == 4  # nothing to compare with
    for known, wrong in ("xyz", False), ("xz", True):
        tables.PROMPTS.write([dict.fromkeys(tables.PROMPTS.names) | {"id": name} for name in known], "text")
        if wrong:
            with pytest.raises(UserError, match=r"a/text\.relations\.parquet: y is no prompt of data/prompts/text\.pa"):
                tables.RELATIONS.read("a", "text")
            with pytest.raises(UserError, match=r"a/text\.relations\.parquet: y is no prompt of data/prompts/text\.pa"):
                list(tables.RELATIONS.batches("a", "text", columns=["prompt", "layer", "head"]))
        else:
            assert len(tables.RELATIONS.read("a", "text")) == 4
            (batch,) = tables.RELATIONS.batches("a", "text", columns=["prompt", "layer", "head"])
            assert batch["prompt"].to_pylist() == list("xxyy")
    with pytest.raises(UserError, match=r"a/text\.relations\.parquet: no column output; run dvc repro"):
        list(tables.RELATIONS.batches("a", "text", columns=["prompt", "output"]))


@pytest.mark.parametrize("wrong", [{"slot": "b"}, {"attention": []}, {"kind": "rnn"}, {"parameters": "many"}])
def test_a_record_that_is_anothers_or_wrong_is_named(wrong, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files.write_text(paths.model("a"), record("a", **wrong))
    with pytest.raises(UserError, match=rf"data/models/a\.json: {next(iter(wrong))}: .*run dvc repro -f -s fetch@a"):
        records.read("a")


def test_a_slot_that_was_not_fetched_is_told_which_were(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"data/models/b\.json: no such file; expected [^,]* -s fetch@b$"):
        records.read("b")
    files.write_text(paths.model("a"), record("a"))
    with pytest.raises(UserError, match=r"data/models/b\.json: no such file; .*or name a slot that was fetched: a$"):
        records.read("b")


def test_empty_tables_say_why(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for write in (tables.INDIRECT.write_empty, lambda name, why: tables.INDIRECT.write([], name, otherwise=why)):
        write("a", why="no function is solved")
        assert tables.INDIRECT.reason("a") == "no function is solved" and tables.INDIRECT.read("a").empty


def test_a_users_mistake_is_one_line_and_exit_code_1(capsys):
    def stage():
        raise UserError("params.yaml: seed = -1")

    with pytest.raises(SystemExit) as stopped:
        run(stage)
    assert stopped.value.code == "error: params.yaml: seed = -1"  # a string: printed to stderr, exit code 1

    def bug():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(bug)
