"""A table as one object: where it lies, what its columns mean, and the only way to read and write it.

    tables.SHIFTS.write(rows, slot, otherwise="no function was steered")
    tables.SHIFTS.read(slot, only=[("function", "==", "antonym")])

`of` is whatever the table is kept for: a slot, a task, a slot and a task, or nothing.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from stages.store import origin, parquet, records
from stages.store.errors import UserError

log = logging.getLogger(__name__)
STAGES = {  # folder of data/ -> the stage that writes it, where their names differ
    **dict.fromkeys(("prompts", "asked", "pictures"), "prepare"),
    **{"activations": "extract", "answers": "answer", "indirect": "trace", "heads": "classify", "plans": "plan"},
    **{"effects": "ablate", "vectors": "steer", "applied": "apply", "circuits": "circuit"},
}


@dataclass(frozen=True)
class Table:
    """A Parquet table.

    place: where it lies, a {} for each part of `of`. about: what it holds. schema: its columns, each with its unit and
    meaning. key: the columns that name a row, none where rows have no name. every_head: each head of the model in the
    slot, `of[0]`, has a row for each of the others' names. prompts: the table of each task's prompts, where its rows'
    are from. plan: the table of the slot's sets of heads, likewise.

    That no name lacks is known in two ways. asked: columns of the key whose names a stage knows before it measures,
    from what it reads: how many it set out to write stands in the metadata (`writer`). alike, unit: of rows that are
    alike in some columns, each `unit`, such as a prompt, has those of each other one; None where that is not so.
    """

    place: str
    about: str
    schema: pa.Schema
    key: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    alike: tuple[str, ...] | None = None
    unit: str = "prompt"
    every_head: bool = False
    prompts: "Table | None" = None
    plan: "Table | None" = None

    @property
    def names(self) -> list[str]:
        """Names of the columns, in their order."""
        return self.schema.names

    def path(self, *of: str) -> Path:
        """Return where the table lies."""
        return Path(self.place.format(*of))

    def read(self, *of: str, columns: list[str] | None = None, only: list[tuple] | None = None) -> pd.DataFrame:
        """Read the table, its columns, names, heads, prompts and sets checked; columns, only: see `parquet.read`.

        Raises `UserError` naming the file, what is wrong and the way out.
        """
        rows = parquet.read(self.path(*of), self.schema, columns, only)
        if why := origin.fault(self, of, rows, only or []) or origin.incomplete(self, of, self.path(*of)):
            raise self._refused(of, why)
        return rows

    def batches(self, *of: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """Yield some columns of all rows, some rows at a time, as they are checked; prompt, layer and head among them.

        That no head has more rows than others is known after the last ones. Errors: see `read`.
        """
        self.complete(*of)
        heads, counts = records.heads(of[0]), pd.Series()
        for batch in parquet.batches(self.path(*of), columns):
            there = batch.select(["layer", "head"]).to_pandas().groupby(["layer", "head"]).size()
            counts = counts.add(there, fill_value=0) if len(counts) else there
            if why := origin.of_prompts(self, of, batch["prompt"].unique().to_pylist()):
                raise self._refused(of, why)
            if not set(heads).issuperset(there.index):
                break
            yield batch
        if len(counts) and (why := origin.of_heads(of[0], counts)):
            raise self._refused(of, why)

    def complete(self, *of: str) -> None:
        """Raise `UserError` where names lack that the stage set out to write: see `origin.incomplete`."""
        if why := origin.incomplete(self, of, self.path(*of)):
            raise self._refused(of, why)

    def _refused(self, of: tuple[str, ...], why: str) -> UserError:
        return UserError(f"{self.path(*of)}: {why}; {self.way_out(*of)}")

    def way_out(self, *of: str) -> str:
        """Return the commands that bring the table back as its stage wrote it."""
        room = Path(self.place).with_suffix("").parts[1]
        stage = "@".join(filter(None, [STAGES.get(room, room), *of[:1]]))
        return f"dvc checkout {self.path(*of)}, or dvc repro -f -s {stage}"

    def of_prompts(self, *of: str, columns: list[str], only: Sequence[tuple] = ()) -> pd.DataFrame:
        """Read what rows say of their prompts, which those of all heads say alike: from the first head's rows alone."""
        layer, head = records.heads(of[0])[0]
        return self.read(*of, columns=columns, only=[("layer", "==", layer), ("head", "==", head), *only])

    def number_of_pieces(self, *of: str) -> int:
        """Return how many pieces the table is read in, the names of all its rows checked."""
        self.read(*of, columns=list(self.key))
        return parquet.number_of_pieces(self.path(*of))

    def piece(self, *of: str, number: int) -> pd.DataFrame:
        """Read some of the table's rows: see `parquet.piece`."""
        return parquet.piece(self.path(*of), self.schema, number)

    def writer(self, *of: str, asked: int | None = None) -> AbstractContextManager:
        """Return a context that yields a function which appends rows: see `parquet.writer`.

        asked: how many names the columns of that name will have (without heads, where every head has a row): the stage
        counts them in what it reads, not in what it has made. Where the rows have others nothing is written: a bug.
        """
        if asked is None:
            return parquet.writer(self.path(*of), self.schema)
        metadata = {**(self.schema.metadata or {}), origin.ASKED: str(asked)}

        def check(file: Path) -> None:
            if why := origin.incomplete(self, of, file):
                raise AssertionError(f"{self.path(*of)}: {why}")

        return parquet.writer(self.path(*of), self.schema.with_metadata(metadata), check)

    def write(self, rows: pd.DataFrame | list[dict], *of: str, asked: int | None = None, otherwise: str = "") -> None:
        """Write rows in the order given, or where there are none the reason, `otherwise`. asked: see `writer`.

        A NaN of a frame is a null of the file, and its columns may stand in any order.
        """
        if not len(rows) and otherwise and not asked:
            log.info("%s: nothing measured: %s", self.path(*of), otherwise)
            return self.write_empty(*of, why=otherwise)
        with self.writer(*of, asked=asked) as add:
            add(rows[self.names] if isinstance(rows, pd.DataFrame) else rows)

    def write_empty(self, *of: str, why: str) -> None:
        """Write a table of no rows that says why."""
        parquet.write(self.path(*of), [], self.with_reason(why).schema)

    def with_metadata(self, metadata: dict[str, str]) -> "Table":
        """Return the table with other metadata."""
        return replace(self, schema=self.schema.with_metadata(metadata))

    def with_reason(self, why: str) -> "Table":
        """Return the table as one that lacks what it exists for: `why` goes to its metadata."""
        return self.with_metadata({"reason": why})

    def noting(self, **notes: Any) -> "Table":
        """Return the table with notes in its metadata, as JSON, such as what it leaves out and why."""
        return self.with_metadata({name: json.dumps(note, sort_keys=True) for name, note in notes.items()})

    def reason(self, *of: str) -> str:
        """Return why a table has no rows (or lacks those it exists for), or '' where everything was measured."""
        return parquet.reason(self.path(*of))

    def note(self, name: str, *of: str) -> dict[str, Any]:
        """Return what a table notes under a name, {} where nothing."""
        return json.loads((parquet.read_schema(self.path(*of)).metadata or {}).get(name.encode()) or b"{}")

    def skipped(self, *of: str) -> dict[str, str]:
        """Return what a table leaves out and why, by name: functions of `trace`, sets of heads of `plan`."""
        return self.note("skipped", *of)
