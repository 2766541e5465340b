"""What a stage gives the engine, and how finished shards are kept: a killed stage goes on where it was.

    job = Job(partial(load, slot), scored, [tables.EFFECTS.schema])
    for (table,) in tables_of(job, shards, keys(record, limit), paths.shards(slot, "ablate"), loaded):
        add(table)

`job.run` is a pure function of the worker's state (a model) and a shard. Shards are fixed by prompts and sizes in
params, never by workers, and every worker runs as many threads as this process: the same bytes from 1, 2 or 8 of them.
They run in this process, or on Ray where HEAD_ATLAS_RAY says so (`stages.engine.on_ray`).
"""

import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from stages.store import parquet

CODE = Path(__file__).parents[1]  # stages/: kept shards are not trusted by changed code


@dataclass(frozen=True)
class Job:
    """What is run on every shard.

    start: makes a worker's state, once per worker, such as the loaded model. run: from state and shard to its tables,
    one per schema. Both are functions of a module, or partials of such: they travel to other machines.
    files: what `start` reads of this folder. threads: of each worker, where not those of this process. processes: how
    many of this machine share the shards, without Ray; 0: this one runs them.
    """

    start: Callable[[], Any]
    run: Callable[[Any, Any], Sequence[pa.Table | pd.DataFrame | list[dict]]]
    schemas: Sequence[pa.Schema]
    files: Sequence[Path] = ()
    threads: int = 0
    processes: int = 0


def tables_of(
    job: Job,
    shards: Sequence[Any],
    key: Callable[[Any], str],
    folder: Path,
    here: Any = None,
    done: Callable[[Any], None] = lambda shard: None,
) -> Iterator[list[pa.Table]]:
    """Yield the tables of every shard, in order: kept ones as they are, others run and then kept in `folder`.

    key: a shard's content key; here: the state of this process, where it has one already; done: told every shard that
    is finished. The folder is the caller's to `forget`, when its stage ends.
    """
    names = [key(shard) for shard in shards]
    missing = [number for number, name in enumerate(names) if not _last(job, folder, name).is_file()]
    running, awaited = _finished(job, [shards[number] for number in missing], here), set(missing)
    for number in set(range(len(names))) - awaited:
        done(shards[number])
    for number, name in enumerate(names):
        while number in awaited:  # later ones may be finished before it
            at, results = next(running)
            for place, (rows, schema) in enumerate(zip(results, job.schemas, strict=True)):
                parquet.write(_file(folder, names[missing[at]], place), rows, schema)
            awaited.remove(missing[at])
            done(shards[missing[at]])
        yield [pq.read_table(_file(folder, name, place)) for place in range(len(job.schemas))]


def _finished(job: Job, shards: Sequence[Any], here: Any) -> Iterator[tuple[int, Sequence[Any]]]:
    """Yield (number of a shard, its results) as shards are finished."""
    if address := os.environ.get("HEAD_ATLAS_RAY"):
        from stages.engine.on_ray import finished

        yield from finished(job, shards, address)
    elif job.processes and shards:
        yield from _by_processes(job, shards)
    else:
        for number, shard in enumerate(shards):
            here = job.start() if here is None else here
            yield number, job.run(here, shard)


def _by_processes(job: Job, shards: Sequence[Any]) -> Iterator[tuple[int, Sequence[Any]]]:
    with ProcessPoolExecutor(job.processes, multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(_alone, job, shard): number for number, shard in enumerate(shards)}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _alone(job: Job, shard: Any) -> Sequence[Any]:
    return job.run(job.start(), shard)


def _file(folder: Path, name: str, place: int) -> Path:
    return folder / f"{name}.{place}.parquet"


def _last(job: Job, folder: Path, name: str) -> Path:
    return _file(folder, name, len(job.schemas) - 1)  # written last: where it is, all are


def keys(*common: Any) -> Callable[[Any], str]:
    """Return the function from a shard to its content key: a sha256 over all that its tables depend on.

    That is what all shards have in common (the model's record, what runs together ...), the shard, the code of this
    project's stages, and torch with its device and threads.
    """
    digest = hashlib.sha256(_content(common))
    for file in sorted(CODE.rglob("*.py")):
        digest.update(file.read_bytes())
    digest.update(_content([torch.__version__, torch.cuda.is_available(), torch.get_num_threads()]))

    def key(shard: Any) -> str:
        whole = digest.copy()
        whole.update(_content(shard))
        return whole.hexdigest()

    return key


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
