"""Every column can be named in SQL without quotes: in SQLite, which is asked, and in DuckDB and PostgreSQL."""

import csv
import sqlite3
from pathlib import Path

import pandas as pd
import pytest
from defaults import EDITED

from stages.page import inputs
from stages.store import tables

ROOT = Path(__file__).parents[1]
RESERVED = set(  # words that DuckDB 2.0 or PostgreSQL 17 keep to themselves (`reserved`, `type_function`)
    "all analyse analyze and anti any array as asc asof asymmetric at authorization binary both by case cast check "
    "collate collation column concurrently constraint create cross current_catalog current_date current_role "
    "current_schema current_time current_timestamp current_user default deferrable desc describe distinct do else end "
    "except false fetch for foreign freeze from full glob grant group having ilike in initially inner intersect into "
    "is isnull join lambda lateral leading left like limit localtime localtimestamp map natural not notnull null "
    "offset on only or order outer overlaps pivot pivot_longer pivot_wider placing positional primary qualify "
    "references returning right select semi session_user show similar some struct summarize symmetric system_user "
    "table tablesample then to trailing true try_cast union unique unpack unpivot user using variadic verbose when "
    "where window with".split()
)
SCHEMAS = {name: table.schema.names for name, table in vars(tables).items() if isinstance(table, tables.Table)}
FILES = sorted(file for folder in ("reports", "full/reports", "bench") for file in (ROOT / folder).rglob("*.csv"))


def refused(columns: list[str]) -> list[str]:
    """Return the columns that need quotes: words kept, or that SQLite cannot make and ask for."""
    return [name for name in columns if name.lower() in RESERVED or not _asked(name)]


def _asked(name: str) -> bool:
    database = sqlite3.connect(":memory:")
    try:
        database.execute(f"CREATE TABLE rows ({name} INTEGER)")
        database.execute("INSERT INTO rows VALUES (1)")
        return database.execute(f"SELECT {name} + 1 FROM rows GROUP BY {name} ORDER BY {name}").fetchall() == [(2,)]
    except sqlite3.OperationalError:
        return False
    finally:
        database.close()


@pytest.mark.parametrize("name", SCHEMAS)
def test_no_column_of_a_table_needs_quotes(name):
    assert not refused(SCHEMAS[name])


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_column_of_a_csv_needs_quotes(file):
    with file.open(encoding="utf-8", newline="") as lines:
        assert not refused(next(csv.reader(lines)))


def test_a_column_that_needs_quotes_is_seen():
    bad = ["null", "group", "order", "offset", "right", "window", "full", "both", "Select", "95_low", "a-b"]
    assert refused([*bad, "layer", "score_null", "position", "of"]) == bad


@pytest.mark.parametrize("table", sorted(inputs.COLUMNS))
def test_the_page_reads_every_column_of_a_slots_summaries(table):
    """A column that a section asks for and the page does not read is no error until a slot has rows of it."""
    summaries = [*(ROOT / "reports" / "slots").glob(f"*/{table}.csv")]  # slots are called what the user calls them
    assert summaries or EDITED
    for summary in summaries:
        assert list(pd.read_csv(summary, nrows=0).columns) == inputs.COLUMNS[table].split(), summary
