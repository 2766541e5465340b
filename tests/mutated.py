"""A table's file with one fault in its rows: what a cut copy or a hand at work leaves."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stages.store import parquet, tables


def written(data: Path) -> Iterator[tuple[tables.Table, tuple[str, ...], Path]]:
    """Yield the tables with rows under a folder data/: table, what it is of, file."""
    for table in vars(tables).values():
        if isinstance(table, tables.Table):
            head, *ends = table.place.removeprefix("data/").split("{}")
            for path in sorted(data.glob("*".join([head, *ends]))):
                of, rest = [], str(path.relative_to(data)).removeprefix(head)
                for end in ends:
                    part, _, rest = rest.partition(end)
                    of.append(part)
                if pq.read_metadata(path).num_rows:
                    yield table, tuple(of), path


def mutations(rows: pa.Table, key: tuple[str, ...], at: int) -> Iterator[tuple[str, pa.Table]]:
    """Yield what was done and the rows: none, one dropped, one doubled, and each column of the key changed in one."""
    before, one, after = rows.slice(0, at), rows.slice(at, 1), rows.slice(at + 1)
    yield "none", rows.slice(0, 0)
    yield "dropped", pa.concat_tables([before, after])
    yield "doubled", pa.concat_tables([before, one, one, after])
    for name in key:
        value, field = one[name][0].as_py(), one.schema.field(name)
        other = f"{value}x" if isinstance(value, str) else not value if isinstance(value, bool) else value + 1
        changed = one.set_column(one.column_names.index(name), field, pa.array([other], field.type))
        yield f"another {name}", pa.concat_tables([before, changed, after])


def put(path: Path, rows: pa.Table, ours: bool) -> None:
    """Write rows where a file was, which may be a link into a cache; ours: as a stage would, else as others do."""
    path.unlink()
    if ours:
        parquet.write(path, rows, rows.schema)
    else:
        pq.write_table(rows, path)
