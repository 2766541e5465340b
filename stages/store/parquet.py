"""Parquet files: written whole or not at all, with fixed compression and row groups and no timestamps.

The same rows give the same bytes. What is read is checked byte for byte (`stages.store.sealed`) and against the schema
that it should have. This is the only door: nothing else of the pipeline opens a Parquet file.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from stages.store import sealed
from stages.store.errors import UserError
from stages.store.files import replacing

ROW_GROUP = 65_536  # rows
CODEC = "ZSTD"
PIECE = 2048  # rows of a table that is read piece by piece
BATCH = 16_384  # rows of a table that is gone through once


def reason(path: Path) -> str:
    """Return why a table has no rows (or lacks those it exists for), or '' where everything was measured."""
    return noted(path, "reason") or ""


def noted(path: Path, name: str) -> str | None:
    """Return what a table's metadata say under a name, None where nothing; errors: see `read_schema`."""
    value = (read_schema(path).metadata or {}).get(name.encode())
    return None if value is None else value.decode()


def read_schema(path: Path) -> pa.Schema:
    """Read the schema only; a missing or damaged file is a `UserError`."""
    with _readable(path):
        return pq.read_schema(path)


def read(
    path: Path, schema: pa.Schema | None = None, columns: list[str] | None = None, only: list[tuple] | None = None
) -> pd.DataFrame:
    """Read a table as a data frame and check its columns against `schema`.

    only: conditions that the rows read meet, such as ("task", "==", "icl"): rows that do not never become Python's.
    ("id", "in", []) is met by none.
    Raises `UserError` naming the file when it is missing, is not Parquet or has other columns.
    """
    table = arrow(path, columns, only)
    if schema is not None:
        _check(path, table.schema, schema, columns)
    return table.to_pandas()


def arrow(path: Path, columns: list[str] | None = None, only: list[tuple] | None = None) -> pa.Table:
    """Read a table as Arrow's, of whatever columns it has. Arguments, errors: see `read`."""
    with _readable(path):
        if any(how == "in" and not len(values) for _, how, values in only or ()):  # pyarrow knows no type of nothing
            schema = pq.read_schema(path)
            return schema.empty_table().select(columns or schema.names)
        return pq.read_table(path, columns=columns, filters=only)


def number_of_pieces(path: Path) -> int:
    """Return how many pieces of `PIECE` rows a table has."""
    return -(-number_of_rows(path) // PIECE)


def number_of_rows(path: Path) -> int:
    """Return how many rows a table has, by its footer; errors: see `read_schema`."""
    with _readable(path):
        return pq.read_metadata(path).num_rows


def number_of_names(path: Path, columns: Sequence[str]) -> int:
    """Return how many different rows some columns have, read a row group at a time. Errors: see `read_schema`."""
    with _readable(path), pq.ParquetFile(path) as file:
        groups = (file.read_row_group(number, list(columns)).to_pandas() for number in range(file.num_row_groups))
        parts = [group.drop_duplicates() for group in groups]
    return len(pd.concat(parts).drop_duplicates()) if parts else 0


def piece(path: Path, schema: pa.Schema, number: int) -> pd.DataFrame:
    """Read some `PIECE` rows of a table: memory does not grow with it. Errors: see `read`."""
    _check(path, read_schema(path), schema, None)
    group, inside = divmod(number * PIECE, ROW_GROUP)
    with _readable(path), pq.ParquetFile(path) as file:
        batches = file.iter_batches(PIECE, row_groups=[group])
        return next(islice(batches, inside // PIECE, None)).to_pandas()


def batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield some columns of a table, `BATCH` rows at a time: memory does not grow with it. Errors: see `read`."""
    if lacking := set(columns) - set(read_schema(path).names):
        raise UserError(f"{path}: no column {', '.join(sorted(lacking))}; run dvc repro")
    with _readable(path), pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield from file.iter_batches(BATCH, row_groups=[group], columns=columns)


def _check(path: Path, there: pa.Schema, schema: pa.Schema, columns: list[str] | None) -> None:
    """Raise `UserError` unless a table's columns have the names and types of the schema."""
    wanted = {field.name: field.type for field in schema if columns is None or field.name in columns}
    if there.names != list(wanted):
        raise UserError(f"{path}: columns are {there.names}, expected {list(wanted)}; run dvc repro")
    for field in there:
        if field.type != wanted[field.name]:
            raise UserError(f"{path}: {field.name} is {field.type}, expected {wanted[field.name]}; run dvc repro")


def intact(path: Path) -> bool:
    """Tell whether a file is, byte for byte, as `writer` left it."""
    return sealed.whole(Path(path))


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raise `UserError` naming the file where it is missing or not as it was written, before pyarrow sees a byte."""
    try:
        if not intact(path):
            why = "damaged, or written by another program or an earlier version (its checksum is another)"
            raise UserError(
                f"{path}: {why}; delete it and run dvc checkout {path} (not of an earlier version), or dvc repro"
            )
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; run dvc repro") from None
    except (OSError, pa.ArrowInvalid) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{path}: not a readable Parquet file ({reason}); delete it and run dvc repro") from None


def write(path: Path, rows: pd.DataFrame | list[dict], schema: pa.Schema) -> None:
    """Write rows in one go, in the order given."""
    with writer(path, schema) as add:
        add(rows)


@contextmanager
def writer(path: Path, schema: pa.Schema, check: Callable[[Path], None] = lambda _: None) -> Iterator:
    """Yield a function that appends rows, so that memory does not grow with the number of prompts.

    The file appears under its name only when the block ends without an error, and `check`, which is given the finished
    file under another name, raises none. Row groups have fixed sizes, whatever the sizes of the pieces.
    """
    with replacing(path) as temporary:
        with pq.ParquetWriter(temporary, schema, compression=CODEC) as file:
            waiting: list[pa.Table] = []

            def add(rows: pd.DataFrame | pa.Table | list[dict]) -> None:
                if isinstance(rows, pd.DataFrame):
                    rows = pa.Table.from_pandas(rows, schema, preserve_index=False)
                elif isinstance(rows, list):
                    rows = pa.Table.from_pylist(rows, schema)
                waiting.append(rows.replace_schema_metadata(schema.metadata))
                while sum(map(len, waiting)) >= ROW_GROUP:
                    table = pa.concat_tables(waiting)
                    file.write_table(table.slice(0, ROW_GROUP))
                    waiting[:] = [table.slice(ROW_GROUP)]

            yield add
            if waiting:
                file.write_table(pa.concat_tables(waiting), row_group_size=ROW_GROUP)
        sealed.seal(temporary)
        check(temporary)
