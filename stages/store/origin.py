"""What a table's rows say of where they come from, held against it: heads of the model, prompts, sets of the plan.

No table is read whole for it: of its own rows, those that a stage reads; of what they come from, a column of names.
"""

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from stages.store import parquet, paths, records

if TYPE_CHECKING:
    from stages.store.table import Table

ASKED = "asked"  # in the metadata: how many names a stage set out to write
INTACT = "none"  # where no set of the plan is silenced


def fault(table: "Table", of: tuple[str, ...], rows: pd.DataFrame, only: list[tuple]) -> str:
    """Return what is wrong with rows that were read of a table, or ''. only: the conditions that they meet."""
    if rows.empty:
        return ""
    fixed = {column for column, relation, _ in only if relation == "=="}
    key = [column for column in table.key if column not in fixed]
    key = key if set(key) <= set(rows) else []  # by other columns a row has no name
    return (
        (_every_head(table.path(*of), of[0], rows, key) if table.every_head else "")
        or (_twice(rows, key) if key else "")
        or (
            _not_alike(rows, key, [column for column in table.alike if column not in fixed], table.unit)
            if key and table.alike is not None
            else ""
        )
        or _asked_of(table, of, rows)
        or (_of_plan(table.plan.path(*of), rows) if table.plan and "intervention" in rows else "")
    )


def incomplete(table: "Table", of: tuple[str, ...], file: Path) -> str:
    """Return what lacks of the names that the stage set out to write (`Table.asked`), or ''. file: the table's.

    The footer's number of rows tells, where they are all of the key, or all but the heads; else columns are read, once.
    """
    said = parquet.noted(file, ASKED)
    if said is None:
        return ""
    if table.every_head or table.asked == table.key:
        there = parquet.number_of_rows(file)
        wanted = int(said) * (len(records.heads(of[0])) if table.every_head else 1)
        return "" if there == wanted else f"{there} rows, where {wanted} were to be written: cut, or left out"
    state = file.stat()
    there = _number_of_names(file, table.asked, state.st_ino, state.st_mtime_ns)
    what = f"rows of {there} different ({', '.join(table.asked)}), where {said} were to be written"
    return "" if there == int(said) else f"{what}: cut, or left out"


@lru_cache(maxsize=256)
def _number_of_names(file: Path, columns: tuple[str, ...], *_state: int) -> int:
    return parquet.number_of_names(file, columns)


def of_heads(slot: str, counts: pd.Series) -> str:
    """Return what is wrong with the heads of rows, or ''; counts: of rows, by (layer, head)."""
    if counts.nunique() > 1 or list(counts.index) != records.heads(slot):
        return f"not the same number of rows for each head in {paths.model(slot)}: cut, or of another model"
    return ""


def _every_head(path: Path, slot: str, rows: pd.DataFrame, key: list[str]) -> str:
    """Every head of the model has a row for each of the others' other names, whichever are read."""
    heads = records.heads(slot)
    if parquet.number_of_rows(path) % len(heads):
        return f"not the same number of rows for each head in {paths.model(slot)}: cut, or of another model"
    if not {"layer", "head"} <= set(rows):
        return ""
    if why := of_heads(slot, rows.groupby(["layer", "head"]).size()):
        return why
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


def _not_alike(rows: pd.DataFrame, key: list[str], alike: list[str], unit: str) -> str:
    """Every prompt, or other unit, has the rows of every other one, among rows that are alike in some columns."""
    others = [column for column in key if column not in (unit, *alike)]
    rows = rows[rows.intervention != INTACT] if "intervention" in key else rows
    if not others or rows.empty or not {unit, *alike} <= set(rows):
        return ""
    if not alike:
        same = len(rows) == rows[unit].nunique() * len(rows[others].drop_duplicates())
        return "" if same else f"not every {unit} has the same {', '.join(others)}: cut, or written over"
    groups = rows.groupby(alike)
    whole = groups[unit].nunique() * rows[[*alike, *others]].drop_duplicates().groupby(alike).size()
    lacking = groups.size() != whole
    if not lacking.any():
        return ""
    first = lacking.idxmax()
    where = zip(alike, first if isinstance(first, tuple) else (first,), strict=True)
    named = ", ".join(f"{column} {value}" for column, value in where)
    return f"not every {unit} has the same {', '.join(others)} ({named}): cut, or written over"


def _asked_of(table: "Table", of: tuple[str, ...], rows: pd.DataFrame) -> str:
    """Prompts that rows name are the task's; a table of prompts that are asked again holds all of them, or none."""
    if not table.prompts or table.key != ("id",):
        return of_prompts(table, of, rows["prompt"].unique()) if "prompt" in rows else ""
    if "id" not in rows:
        return ""
    prompts, here = table.prompts.path(of[-1]), parquet.number_of_rows(table.path(*of))
    there = parquet.number_of_rows(prompts) if prompts.exists() else here
    more_or_less = f"{here} prompts, where {prompts} has {there}" if here != there else ""
    return of_prompts(table, of, rows["id"].unique()) or more_or_less


def of_prompts(table: "Table", of: tuple[str, ...], named: Iterable[str]) -> str:
    """Return which of the prompts that rows name is none of its task, or ''; tasks without a table here are not asked.

    A table of several tasks is held against as many of them as are there: some may not have been pulled.
    """
    if not table.prompts:
        return ""
    one_task = table.key == ("id",) or table.place.count("{}") == 2
    of_task: dict[str, list[str]] = {}
    for name in sorted(set(named) - {""}):  # '' of a row of several
        of_task.setdefault(of[-1] if one_task else name.partition("/")[0], []).append(name)
    for task, names in of_task.items():
        file = table.prompts.path(task)
        if file.exists() and (strange := _strange(names, file)):
            return f"{strange} is no prompt of {file}"
    return ""


def _strange(names: Iterable[str], prompts: Path) -> str:
    """Return the first name that is none of a file of prompts, or ''."""
    known = _names(prompts, "id", prompts.stat().st_mtime_ns)
    return next((name for name in names if name not in known and _passage(name) not in known), "")


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
