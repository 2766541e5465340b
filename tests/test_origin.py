"""Tables against what they came from: prompts, sets of the plan, names of rows; those of a run: test_pipeline.py."""

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from synthetic import record

from stages.store import files, paths, tables
from stages.store.errors import UserError

ROOT = Path(__file__).parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A slot of two heads, prompts text/x and text/y, and a plan of one set."""
    monkeypatch.chdir(tmp_path)
    files.write_text(paths.model("a"), record("a"))
    write(tables.PROMPTS, "text", [{"id": name} for name in ("text/x", "text/y")])
    write(tables.PLANS, "a", [{"id": "single/L0H0/mean"}])


def write(table: tables.Table, of: str, rows: list[dict]) -> None:
    table.write([dict.fromkeys(table.names) | row for row in rows], of)


def said(table: tables.Table, *of: str, **asked) -> str:
    with pytest.raises(UserError) as error:
        table.read(*of, **asked)
    path = str(table.path(*of))
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    assert f"; dvc checkout {path}, or dvc repro -f -s " in str(error.value)
    return str(error.value).removeprefix(f"{path}: ").partition("; ")[0]


def effect(**changed) -> dict:
    return {"intervention": "none", "task": "text", "prompt": "text/x", "measure": "loss", "value": 1.0} | changed


def test_effects_are_of_the_plan_and_of_prompts_and_stand_once():
    silenced = effect(intervention="single/L0H0/mean")
    write(tables.EFFECTS, "a", [effect(), effect(), silenced])  # a prompt may be scored intact in two shards
    assert len(tables.EFFECTS.read("a")) == 3
    write(tables.EFFECTS, "a", [effect(), silenced, silenced])
    only = [("task", "==", "text")]
    name = "intervention single/L0H0/mean, {}prompt text/x, measure loss"
    assert said(tables.EFFECTS, "a") == f"1 rows stand there twice, the first of {name.format('task text, ')}"
    assert said(tables.EFFECTS, "a", only=only) == f"1 rows stand there twice, the first of {name.format('')}"
    assert len(tables.EFFECTS.read("a", columns=["value"])) == 3  # rows without names
    write(tables.EFFECTS, "a", [effect(), effect(intervention="single/L0H1/mean")])
    assert said(tables.EFFECTS, "a") == "single/L0H1/mean is no set of heads of data/plans/a.parquet"
    write(tables.EFFECTS, "a", [effect(prompt="text/z")])
    assert said(tables.EFFECTS, "a") == "text/z is no prompt of data/prompts/text.parquet"


def test_prompts_that_were_run_alike_have_rows_alike():
    """The intact model may be scored on more prompts, a single head on fewer than a set."""
    sets = {"s": "single", "c1": "control", "c2": "control"}
    write(tables.PLANS, "a", [{"id": name} for name in sets])
    rows = [
        effect(intervention=name, purpose=purpose, family="self", prompt=prompt)
        for name, purpose in sets.items()
        for prompt in ("text/x", "text/y")[: 1 if purpose == "single" else 2]
    ]
    write(tables.EFFECTS, "a", [effect(prompt="text/y"), *rows])
    assert len(tables.EFFECTS.read("a")) == 6
    write(tables.EFFECTS, "a", [effect(prompt="text/y"), *rows[:-1]])
    what = "not every prompt has the same intervention (task text, {}family self, measure loss): cut, or written over"
    assert said(tables.EFFECTS, "a") == what.format("purpose control, ")
    assert said(tables.EFFECTS, "a", only=[("purpose", "==", "control")]) == what.format("")
    assert len(tables.EFFECTS.read("a", only=[("purpose", "==", "single")])) == 1


def test_prompts_asked_are_all_of_them_or_none():
    write(tables.ASKED, "text", [{"id": "text/x"}, {"id": "text/y"}])
    assert len(tables.ASKED.read("text")) == 2
    tables.ASKED.write_empty("text", why="a test")
    assert tables.ASKED.read("text").empty
    write(tables.ASKED, "text", [{"id": "text/x"}])
    assert said(tables.ASKED, "text") == "1 prompts, where data/prompts/text.parquet has 2"
    write(tables.ASKED, "text", [{"id": "text/x"}, {"id": "text/z"}])
    assert said(tables.ASKED, "text") == "text/z is no prompt of data/prompts/text.parquet"
    write(tables.PROMPTS, "text", [{"id": "text/x"}, {"id": "text/x"}])
    with pytest.raises(UserError, match="1 rows stand there twice, the first of id text/x"):
        tables.PROMPTS.number_of_pieces("text")  # as `extract` reads them


def test_damaged_prompts_are_named_where_others_are_held_against_them():
    write(tables.ASKED, "text", [{"id": "text/x"}, {"id": "text/y"}])
    path = tables.PROMPTS.path("text")
    path.write_bytes(path.read_bytes()[:-8])
    way_out = rf"delete it and run dvc checkout {path} \(not of an earlier version\), or dvc repro$"
    with pytest.raises(UserError, match=f"^{path}: damaged, .*; {way_out}"):
        tables.ASKED.read("text")


def test_a_damaged_page_is_named_by_whoever_comes_to_it():
    """The footer and the names of rows are whole: what is read some rows at a time is read later than these."""
    row = {"prompt": "text/x", "split": "a", "cluster": "c", "layer": 0, "relation": "r", "queries": 1, "mass": 0.5}
    rows = [dict.fromkeys(tables.RELATIONS.names) | row | {"head": head} for head in (0, 1)]
    tables.RELATIONS.write(rows, "a", "text")
    columns = ["prompt", "layer", "head", "mass"]
    for table, of, column, read in (
        (tables.RELATIONS, ("a", "text"), "mass", lambda: list(tables.RELATIONS.batches("a", "text", columns=columns))),
        (tables.PROMPTS, ("text",), "id", lambda: tables.PROMPTS.piece("text", number=0)),
    ):
        path = table.path(*of)
        read()
        footer = pq.read_metadata(path).row_group(0)
        chunks = [footer.column(number) for number in range(footer.num_columns)]
        start = next(chunk.data_page_offset for chunk in chunks if chunk.path_in_schema.split(".")[0] == column)
        content = bytearray(path.read_bytes())
        content[start : start + 16] = bytes(16)
        path.unlink()
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"^{path}: damaged"):
            read()


def test_a_continued_passage_is_of_its_prompt():
    row = {"function": "f", "vector": "none", "source": "", "of": "", "draw": 0}
    write(tables.CONTINUED, "a", [row | {"prompt": "text/x:24"}])
    assert len(tables.CONTINUED.read("a")) == 1
    write(tables.CONTINUED, "a", [row | {"prompt": "text/z:24"}])
    assert said(tables.CONTINUED, "a") == "text/z:24 is no prompt of data/prompts/text.parquet"


def test_rows_of_several_tasks_are_held_against_the_prompts_that_are_there():
    """A clone may have pulled the tables of a slot, and of the prompts only those of a task that it changes."""
    write(tables.EFFECTS, "a", [effect(), effect(task="icl", prompt="icl/antonym/00-00#clean")])
    assert len(tables.EFFECTS.read("a")) == 2
    write(tables.PROMPTS, "icl", [{"id": "icl/antonym/00-01#clean"}])
    assert said(tables.EFFECTS, "a") == "icl/antonym/00-00#clean is no prompt of data/prompts/icl.parquet"


def test_every_head_has_every_name():
    """As many rows for each head, but not of the same families."""
    rows = [{"layer": 0, "head": head, "family": name} for head in (0, 1) for name in ("self", "local")]
    write(tables.HEADS, "a", rows)
    assert len(tables.HEADS.read("a")) == 4
    write(tables.HEADS, "a", [*rows[:3], rows[3] | {"family": "sink"}])
    assert said(tables.HEADS, "a") == "not every head has the same family: cut, or written over"


def test_the_way_out_is_a_stage_that_writes_the_table():
    for table in vars(tables).values():
        if isinstance(table, tables.Table):
            ends = re.findall("{}", table.place)
            stage, _, of = table.way_out(*("xy"[: len(ends)])).rpartition(" ")[2].partition("@")
            outs = [next(iter(out)) if isinstance(out, dict) else out for out in body(stage)["outs"]]
            outs = [re.sub(r"\${[^}]*}", "{}", out) for out in outs]
            assert any(table.place == out or table.place.startswith(f"{out}/") for out in outs), table.place
            assert of == "x"[: len(ends)]  # the slot, or the task of a stage of each


def body(stage: str) -> dict:
    return STAGES[stage].get("do", STAGES[stage])
