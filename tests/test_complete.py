"""No row of a table lacks unseen: every table of the schema, with a name left out by the project's own writer."""

import ast
import re
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
from synthetic import record

from stages.store import files, paths, tables
from stages.store.errors import UserError

ROOT = Path(__file__).parents[1]
TABLES = {name: table for name, table in vars(tables).items() if isinstance(table, tables.Table)}
CHOSEN = "settings are chosen, or control sets found, while it is measured"
UNCOUNTED = {  # columns whose names no stage knows beforehand: all rows of one may lack, though not of one prompt
    "EFFECTS": ({"measure"}, "its task says of the answers; of the intact model one may lack of a prompt, too"),
    "NEIGHBOURS_SILENCED": ({"measure"}, "as EFFECTS"),
    "STEERING": ({"vector", "layer", "strength", "heads", "draw", "chosen"}, CHOSEN),
    "COMPOSED": ({"vector", "heads", "draw", "beside"}, CHOSEN),
    "SHIFTS": ({"kind", "factor"}, "kind says which of the vectors was chosen; factors are three, in the code"),
    "OFFSETS": ({"layer", "measure"}, "the layer is chosen by steer; measures are seven, in the code"),
    "ORDERS": ({"context", "vector", "heads", "draw"}, CHOSEN),
    "CIRCUIT": ({"direction", "purpose", "sources", "draw"}, "feeders are chosen on split a"),
    "CACHE": ({"measure"}, "recall and log-probability, as the task says of the answers"),
    "STREAMING": ({"positions", "length"}, "whether positions can be re-counted shows when it is tried"),
    "PROBES": ({"layer"}, "whether the first block's input is seen shows when the model has run"),
    "NGRAM": ({"baseline", "measure"}, "what counting says of a prompt is its task's"),
}
BY_RESULT = {  # tables whose stage counts what it has made: a cut table is refused, not a stage that leaves out a name
    "PLANS": "the plan is drawn, not measured: it is what other tables are held against",
    "COMPOSITION": "which heads are linear maps shows when they are read",
    "MEMORY": "what is inserted, and missed, hangs on what was found; its rows have no names",
}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A slot of two heads, two prompts, a plan of two sets."""
    monkeypatch.chdir(tmp_path)
    files.write_text(paths.model("a"), record("a"))
    for table, of, names in ((tables.PROMPTS, "text", PROMPTS), (tables.PLANS, "a", SETS)):
        table.write([dict.fromkeys(table.names) | {"id": name} for name in names], of)


PROMPTS, SETS = ("text/x", "text/y"), ("single/L0H0/mean", "single/L0H1/mean")
VALUES = {"prompt": PROMPTS, "id": PROMPTS, "task": ("text",), "intervention": SETS, "layer": (0,), "head": (0, 1)}


def rows_of(table: tables.Table) -> pd.DataFrame:
    """Return rows of all names that two values of each column of the key make."""
    fields = {field.name: str(field.type) for field in table.schema}
    ids = {"id": SETS} if table is tables.PLANS else {}
    kinds = {"string": ("p", "q"), "bool": (False, True)}
    values = [(ids | VALUES).get(name) or kinds.get(fields[name], (1, 2)) for name in table.key]
    names = pd.DataFrame(product(*values), columns=list(table.key))
    return names if table.key else pd.DataFrame({"value": [1.0, 2.0]})


def write(table: tables.Table, of: tuple[str, ...], rows: pd.DataFrame, asked: int) -> None:
    empty = {name: [None] * len(rows) for name in table.names if name not in rows}
    same = {"split": "a", "ordering": "p", "category": "p", "purpose": "single", "family": "p"}
    empty |= {name: [value] * len(rows) for name, value in same.items() if name in empty}
    table.write(rows.assign(**empty).astype(object), *of, asked=asked)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_without_a_name_that_was_asked_for_is_neither_written_nor_read(name):
    table = TABLES[name]
    of = ("a", "text")[: table.place.count("{}")] if "{}/{}" in table.place else ("a",) * table.place.count("{}")
    of = ("text",) if name in ("PROMPTS", "ASKED", "PICTURES") else of
    rows = rows_of(table)
    names = rows.drop(columns=["layer", "head"]) if table.every_head else rows[list(table.asked)] if table.key else rows
    asked = len(names.drop_duplicates())
    write(table, of, rows, asked)
    good = table.path(*of).read_bytes()
    assert len(table.read(*of)) == len(rows)
    lacking = [rows[rows[column] != rows[column].iloc[-1]] for column in table.asked] or [rows.iloc[1:]]
    for less in lacking:
        with pytest.raises(AssertionError, match=f"^{table.path(*of)}: .*where [0-9]+ were to be written"):
            write(table, of, less, asked)
        assert table.path(*of).read_bytes() == good
    for less in [*lacking, rows.iloc[:-1]]:  # the last: one row, of one prompt
        cut(table, of, less, asked)
        with pytest.raises(UserError, match=rf"^{table.path(*of)}: .*; dvc checkout .*, or dvc repro -f -s"):
            table.read(*of)


def cut(table: tables.Table, of: tuple[str, ...], rows: pd.DataFrame, asked: int) -> None:
    """Write fewer rows than were asked for, as an earlier writer's slip would."""
    noting = table.with_metadata({"asked": str(asked)})
    if len(rows):
        write(noting, of, rows, None)
    else:
        noting.write([], *of)


@pytest.mark.parametrize("name", TABLES)
def test_what_is_not_counted_has_a_reason(name):
    table = TABLES[name]
    uncounted = set(table.key) - set(table.asked) - ({"layer", "head"} if table.every_head else set())
    assert uncounted == UNCOUNTED.get(name, (set(), ""))[0]
    assert not uncounted or table.alike is not None  # one row of one prompt is seen


def test_every_stage_says_how_many_names_it_writes():
    calls, by_result = [], set()
    for file in [*ROOT.glob("stages/*.py"), *ROOT.glob("stages/applied/*.py")]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                of = ast.unparse(node.func.value)
                if node.func.attr in ("write", "writer") and of not in ("control_vector", "sys.stdout"):  # no tables
                    calls.append((file.name, of))
                    said = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                    assert "asked" in said, f"{file.name}: {ast.unparse(node)}"
                    made = re.match(r"\w+", ast.unparse(node.args[0]))[0]
                    if said["asked"] == f"len({made})":
                        by_result.add(re.search(r"[A-Z]+", of)[0])
    assert len(calls) >= 25, calls
    assert by_result == set(BY_RESULT)
