"""A table's file with one fault in its rows, its metadata kept: what a cut copy or a hand at work leaves."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from stages.store import tables


def mutations(rows: pa.Table, key: tuple[str, ...], at: int) -> Iterator[tuple[str, pa.Table]]:
    """Yield what was done and the rows: none, one dropped, one doubled, and each column of the key changed in one."""
    before, one, after = rows.slice(0, at), rows.slice(at, 1), rows.slice(at + 1)
    yield "none", rows.slice(0, 0)
    yield "dropped", pa.concat_tables([before, after])
    yield "doubled", pa.concat_tables([before, one, one, after])
    for name in key:
        value, place = one[name][0].as_py(), one.column_names.index(name)
        other = [f"{value}x" if isinstance(value, str) else not value if isinstance(value, bool) else value + 1]
        changed = one.set_column(place, one.schema.field(name), pa.array(other, one.schema.field(name).type))
        yield f"another {name}", pa.concat_tables([before, changed, after])


def written(data: Path) -> Iterator[tuple[str, tables.Table, tuple[str, ...], Path]]:
    """Yield the tables with rows under a folder data/: name, table, what each is of, file."""
    for name, table in vars(tables).items():
        if isinstance(table, tables.Table):
            head, *ends = table.place.removeprefix("data/").split("{}")
            for path in sorted(data.glob("*".join([head, *ends]))):
                of, rest = [], str(path.relative_to(data)).removeprefix(head)
                for end in ends:
                    part, _, rest = rest.partition(end)
                    of.append(part)
                if pq.read_metadata(path).num_rows:
                    yield name, table, tuple(of), path


def put(path: Path, rows: pa.Table) -> None:
    """Write rows where a file was, which may be a link into a cache."""
    path.unlink()
    pq.write_table(rows, path)
