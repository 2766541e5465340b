"""The functions that took a path and a schema, for branches that still call them; gone when these are merged."""
# ruff: noqa: D103

import json
from typing import Any

import pyarrow as pa

from stages.store import files, parquet


def _columns(table: Any) -> pa.Schema | None:
    return getattr(table, "schema", table)


def read(path, table=None, columns=None, only=None):
    return parquet.read(path, _columns(table), columns, only)


def write(path, rows, table):
    empty_rows = isinstance(rows, pa.Table)
    parquet.write(path, [] if empty_rows else rows, rows.schema if empty_rows else _columns(table))


def writer(path, table):
    return parquet.writer(path, _columns(table))


def empty(table, reason):
    return _columns(table).with_metadata({"reason": reason}).empty_table()


def skipping(table, why):
    return _columns(table).with_metadata({"skipped": json.dumps(why, sort_keys=True)})


def skipped(path):
    return json.loads((parquet.read_schema(path).metadata or {}).get(b"skipped") or b"{}")


read_schema, reason, replacing, write_text = parquet.read_schema, parquet.reason, files.replacing, files.write_text
