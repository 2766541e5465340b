"""What a stage gives the engine, and how finished shards are kept: a killed stage goes on where it was.

    job = Job(partial(load, slot), scored, [tables.EFFECTS.schema])
    key = keys(record, limit)
    for (table,) in tables_of(job, shards, map(key, shards), paths.shards(slot, "ablate"), loaded):
        add(table)

`job.run` is a pure function of the worker's state (a model) and a shard. Shards are fixed by prompts and sizes in
params, never by workers. They run in processes of this machine (`stages.engine.local`: one of all threads, or several
of one each), or on Ray where HEAD_ATLAS_RAY says so (`stages.engine.on_ray`), where every worker runs as many threads:
the same bytes from 1, 2 or 8 of them.
"""

import hashlib
import importlib.metadata
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from contextlib import closing
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import torch

from stages.engine import local, workers
from stages.store import files, parquet

log = logging.getLogger(__name__)

Results = tuple[float, Sequence[pa.Table | pd.DataFrame | list[dict]]]  # the seconds of a shard, and its tables
SECONDS = b"seconds"  # where a kept shard notes how long it took
PACKAGES = ("numpy", "pyarrow", "tokenizers", "transformers")  # and torch: other versions may give other numbers
CODE = Path(__file__).parents[1]  # stages/: kept shards are not trusted by changed code


@dataclass(frozen=True)
class Job:
    """What is run on every shard.

    start: makes a worker's state, once per worker, such as the loaded model. run: from state and shard to its tables,
    one per schema. Both are functions of a module, or partials of such: they travel to other machines.
    files: what `start` reads of this folder. threads: of each worker; 0: as `tables_of` finds. processes: how many of
    this machine, each with a state of its own, share the shards, without Ray; 0: as many as `stages.engine.local`
    finds, with this one's state.
    """

    start: Callable[[], Any]
    run: Callable[[Any, Any], Sequence[pa.Table | pd.DataFrame | list[dict]]]
    schemas: Sequence[pa.Schema]
    files: Sequence[Path] = ()
    threads: int = 0
    processes: int = 0

    def timed(self, state: Any, shard: Any) -> Results:
        """Run a shard; return the seconds that it took and its tables."""
        start = time.perf_counter()
        results = self.run(state, shard)
        return time.perf_counter() - start, results


def tables_of(
    job: Job,
    shards: Sequence[Any],
    names: Iterable[str],
    folder: Path,
    here: Any = None,
    done: Callable[[int], None] = lambda number: None,
    costs: Sequence[float] = (),
) -> Iterator[list[pa.Table]]:
    """Yield the tables of every shard, in order: kept ones as they are, others run and then kept in `folder`.

    shards: may make them as they are asked for (`stages.engine.pieces`). names: under which each is kept, told by all
    that its tables depend on (`keys`); here: the state of this process, where it has one already; done: told the number
    of every shard that is finished; costs: about what each takes, where the dearest are to run first, so that none is
    left alone at the end. The folder is the caller's to `forget`, when its stage ends.
    """
    alone = here is None or "HEAD_ATLAS_RAY" in os.environ
    processes = 1 if alone else local.processes(len(shards), here)
    threads = job.threads or (1 if processes > 1 else torch.get_num_threads())
    names = [f"{name}-{threads}" for name in names]
    missing = [number for number, name in enumerate(names) if not _kept(job, folder, name)]
    if costs:
        missing.sort(key=lambda number: -costs[number])
    awaited = set(missing)
    kept = [number for number in range(len(names)) if number not in awaited]
    if kept:
        saved = sum(_seconds(_last(job, folder, names[number])) for number in kept)
        log.info("%d of %d shards are kept from a run that was cut off: %.1f s saved", len(kept), len(names), saved)
    for number in kept:
        done(number)
    with closing(_finished(job, shards, missing, here, threads, processes)) as running:
        for number, name in enumerate(names):
            while number in awaited:  # later ones may be finished before it
                at, (seconds, results) = next(running)
                for place, (rows, schema) in enumerate(zip(results, job.schemas, strict=True)):
                    noted = schema.with_metadata({SECONDS: f"{seconds:.3f}"})
                    parquet.write(_file(folder, names[at], place), rows, noted)
                awaited.remove(at)
                done(at)
            yield [parquet.arrow(_file(folder, name, place)) for place in range(len(job.schemas))]


def _finished(
    job: Job, shards: Sequence[Any], missing: Sequence[int], here: Any, threads: int, processes: int
) -> Iterator[tuple[int, Results]]:
    """Yield (number of a shard, its results) as the missing shards are finished.

    threads: of each worker; processes: of this machine that share this one's state.
    """
    if address := os.environ.get("HEAD_ATLAS_RAY"):
        from stages.engine.on_ray import finished

        yield from finished(job, shards, missing, address, threads)
    elif job.processes and missing:
        yield from _by_processes(job, shards, missing)
    elif processes > 1 and missing:
        yield from local.finished(lambda number: job.timed(here, shards[number]), missing, processes)
    else:
        for number in missing:
            here = job.start() if here is None else here
            yield number, job.timed(here, shards[number])


def _by_processes(job: Job, shards: Sequence[Any], missing: Sequence[int]) -> Iterator[tuple[int, Results]]:
    with workers.pool(job.processes) as pool:
        futures = {pool.submit(_alone, job, shards[number]): number for number in missing}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _alone(job: Job, shard: Any) -> Results:
    return job.timed(job.start(), shard)


def _kept(job: Job, folder: Path, name: str) -> bool:
    """Say whether all tables of a shard are there as they were written: a damaged one is made again."""
    files = (_file(folder, name, place) for place in range(len(job.schemas)))
    return all(file.is_file() and parquet.intact(file) for file in files)


def _seconds(file: Path) -> float:
    return float((parquet.read_schema(file).metadata or {})[SECONDS])


def _file(folder: Path, name: str, place: int) -> Path:
    return folder / f"{name}.{place}.parquet"


def _last(job: Job, folder: Path, name: str) -> Path:
    return _file(folder, name, len(job.schemas) - 1)


def keys(*common: Any, code: Sequence[str] = ("",)) -> Callable[[Any], str]:
    """Return the function from a shard to its content key: a sha256 over all that its tables depend on.

    That is what all shards have in common (the model's record, what runs together ...), the shard, the code and word
    lists of this project's stages, the versions of torch and of `PACKAGES` and, as far as can be known here, the
    devices of workers; `tables_of` adds the threads of a worker. code: rooms and files of stages/, where not all of
    them are asked.
    """
    digest = hashlib.sha256(_content(common))
    for room in code:
        for file in sorted([CODE / room, *(CODE / room).rglob("*")]):
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(file.read_bytes())
    devices = [torch.cuda.is_available(), *(os.environ.get(f"HEAD_ATLAS_{name}", "") for name in ("RAY", "GPUS"))]
    versions = [torch.__version__, *map(importlib.metadata.version, PACKAGES)]
    digest.update(_content([*versions, *devices]))

    def key(shard: Any) -> str:
        whole = digest.copy()
        whole.update(_content(shard))
        return whole.hexdigest()

    return key


def keep(folder: Path, key: str, written: Sequence[Path]) -> None:
    """Keep whole tables under this key, as links to the same bytes where the disk has such, and none that was before.

    key: as `keys` makes it.
    """
    forget(folder)
    for place, path in enumerate(written):
        files.link(path, _file(folder, key, place))


def put_back(folder: Path, key: str, written: Sequence[Path]) -> bool:
    """Put tables where they belong that were kept under this key; False where they were not, or one is damaged."""
    there = [_file(folder, key, place) for place in range(len(written))]
    if not all(file.is_file() and parquet.intact(file) for file in there):
        return False
    for file, path in zip(there, written, strict=True):
        files.link(file, path)
    return True


def _content(value: Any) -> bytes:
    return json.dumps(_plain(value)).encode()


def _plain(value: Any) -> Any:
    """Return a value as JSON can write it: the same for equal ones, and another for others."""
    if is_dataclass(value):
        return [_plain(getattr(value, field.name)) for field in fields(value)]
    if isinstance(value, Mapping):
        return sorted([repr(name), _plain(item)] for name, item in value.items())
    if isinstance(value, pd.DataFrame):
        return _plain(value.to_dict("list"))
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return _plain(value.tolist()) if hasattr(value, "tolist") else value  # numpy's and torch's arrays and numbers


def forget(folder: Path) -> None:
    """Remove the kept shards of a stage that has ended."""
    shutil.rmtree(folder, ignore_errors=True)
