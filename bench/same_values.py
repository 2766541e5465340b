"""Compare the tables of two runs, value by value: `python bench/same_values.py data other/data out.csv`.

A row per table (`parquet`) and column (`measure`) that both have: how many differ, and numbers by how much at most (NaN
equals NaN). Rows are put side by side by what names them: all columns that hold no floating-point numbers and no
lists, in both orders as they stand where these are equal, else sorted by them. Where the counts of rows differ nothing
is compared.
"""

import csv
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

COLUMNS = "parquet measure count other_count differing largest".split()


def compared(table: str, one: pd.DataFrame, other: pd.DataFrame) -> list[list]:
    """Return the rows of the result for one table."""
    shared = [name for name in one.columns if name in other.columns]
    if len(one) != len(other):
        return [[table, "", len(one), len(other), "", ""]]
    exact = [name for name in shared if one[name].dtype.kind not in "f" and not _lists(one[name])]
    if exact and not one[exact].equals(other[exact]):
        one, other = (some.sort_values(exact, kind="stable", ignore_index=True) for some in (one, other))
    return [[table, name, len(one), len(other), *_differ(one[name], other[name])] for name in shared]


def _lists(values: pd.Series) -> bool:
    return any(isinstance(value, list | np.ndarray | dict) for value in values.head(100))


def _differ(one: pd.Series, other: pd.Series) -> tuple[int, float | str]:
    """Return how many values of two columns differ, and numbers by how much at most."""
    if _lists(one):
        lengths = [len(value) if value is not None else 0 for value in one]
        if lengths != [len(value) if value is not None else 0 for value in other]:
            return sum(a != len(b) for a, b in zip(lengths, other, strict=True)), "other lengths"
        flat = [pd.Series([item for value in some if value is not None for item in value]) for some in (one, other)]
        return _differ(*flat) if len(flat[0]) and not _lists(flat[0]) else (int(str(flat[0]) != str(flat[1])), "")
    if one.dtype.kind in "fiu" and other.dtype.kind in "fiu":
        a, b = one.to_numpy(float), other.to_numpy(float)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        return int((~same).sum()), float(np.nanmax(np.abs(a - b)[~same])) if (~same).any() else 0.0
    same = (one == other) | (one.isna() & other.isna())
    return int((~same.fillna(value=False).astype(bool)).sum()), ""


if __name__ == "__main__":
    first, second, out = map(Path, sys.argv[1:])
    rows = []
    for file in sorted(first.rglob("*.parquet")):
        beside = second / file.relative_to(first)
        if beside.is_file():
            rows += compared(
                str(file.relative_to(first)), *(pq.read_table(path).to_pandas() for path in (file, beside))
            )
    with out.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *rows])
    print(pd.DataFrame(rows, columns=COLUMNS).to_string())
