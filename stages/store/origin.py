"""What a table's rows say of where they come from, held against it: heads of the model, prompts, sets of the plan.

No table is read whole for it: of its own rows, those that a stage reads; of what they come from, a column of names.
"""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from stages.store import parquet, paths, records

if TYPE_CHECKING:
    from stages.store.table import Table

INTACT = "none"  # where no set of the plan is silenced


def fault(table: "Table", of: tuple[str, ...], rows: pd.DataFrame, only: list[tuple]) -> str:
    """Return what is wrong with rows that were read of a table, or ''. only: the conditions that they meet."""
    if rows.empty:
        return ""
    fixed = {column for column, relation, _ in only if relation == "=="}
    key = [column for column in table.key if column not in fixed]
    key = key if set(key) <= set(rows) else []  # by other columns a row has no name
    return (
        (_of_heads(table.path(*of), of[0], rows, key) if table.every_head else "")
        or (_twice(rows, key) if key else "")
        or (
            _not_alike(rows, key, [column for column in table.alike if column not in fixed])
            if key and table.alike
            else ""
        )
        or (_of_prompts(table, of, rows) if table.prompts else "")
        or (_of_plan(table.plan.path(*of), rows) if table.plan and "intervention" in rows else "")
    )


def _of_heads(path: Path, slot: str, rows: pd.DataFrame, key: list[str]) -> str:
    """Every head of the model has a row for each of the others' other names, whichever are read."""
    heads = records.heads(slot)
    wrong = f"not the same number of rows for each head in {paths.model(slot)}: cut, or of another model"
    if parquet.number_of_rows(path) % len(heads):
        return wrong
    if not {"layer", "head"} <= set(rows):
        return ""
    there = rows.groupby(["layer", "head"]).size()
    if there.nunique() > 1 or list(there.index) != heads:
        return wrong
    others = [column for column in key if column not in ("layer", "head")]
    if others and len(rows) != len(heads) * len(rows[others].drop_duplicates()):
        return f"not every head has the same {', '.join(others)}: cut, or written over"
    return ""


def _twice(rows: pd.DataFrame, key: list[str]) -> str:
    """No two rows have one name, but for those of the intact model, which shards score anew, each its own prompts."""
    again = rows.duplicated(key)
    if "intervention" in key and again.any():
        again &= rows.intervention != INTACT
    if not again.any():
        return ""
    first = ", ".join(f"{column} {value}" for column, value in rows.loc[again.idxmax(), key].items())
    return f"{again.sum()} rows stand there twice, the first of {first}"


def _not_alike(rows: pd.DataFrame, key: list[str], alike: list[str]) -> str:
    """Every prompt has the rows of every other one, among rows that are alike in some columns."""
    others = [column for column in key if column not in ("prompt", *alike)]
    rows = rows[rows.intervention != INTACT] if "intervention" in key else rows
    if not others or rows.empty or not set(alike) <= set(rows):
        return ""
    groups = rows.groupby(alike)
    whole = groups.prompt.nunique() * rows[[*alike, *others]].drop_duplicates().groupby(alike).size()
    lacking = groups.size() != whole
    if not lacking.any():
        return ""
    first = lacking.idxmax()
    where = zip(alike, first if isinstance(first, tuple) else (first,), strict=True)
    named = ", ".join(f"{column} {value}" for column, value in where)
    return f"not every prompt has the same {', '.join(others)} ({named}): cut, or written over"


def _of_prompts(table: "Table", of: tuple[str, ...], rows: pd.DataFrame) -> str:
    """Every prompt is one of the task's, of a table of several tasks one of theirs; asked again are all or none."""
    again = table.key == ("id",)
    column = "id" if again else "prompt"
    if column not in rows:
        return ""
    one_task = again or table.place.count("{}") == 2
    prompts = table.prompts.path(of[-1] if one_task else "*")
    files = sorted(Path().glob(str(prompts)))
    if not files:
        return ""
    strange = set(rows[column].unique()) - {""}  # '' of a row of several
    for file in files:
        known = _names(file, "id", file.stat().st_mtime_ns)
        strange = {name for name in strange if name not in known and _passage(name) not in known}
    if strange:
        return f"{min(strange)} is no prompt of {prompts}"
    there, here = parquet.number_of_rows(files[0]), parquet.number_of_rows(table.path(*of))
    return f"{here} prompts, where {prompts} has {there}" if again and here != there else ""


def _passage(name: str) -> str:
    """Return the prompt of which the first so many tokens were read: `<prompt>:<tokens>`."""
    return name.rpartition(":")[0]


def _of_plan(plan: Path, rows: pd.DataFrame) -> str:
    if not plan.exists():
        return ""
    strange = set(rows.intervention.unique()) - {INTACT} - _names(plan, "id", plan.stat().st_mtime_ns)
    return f"{min(strange)} is no set of heads of {plan}" if strange else ""


@lru_cache(maxsize=64)
def _names(path: Path, column: str, _written: int) -> frozenset[str]:
    return frozenset(parquet.read(path, columns=[column])[column])
