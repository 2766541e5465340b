"""The engine on Ray: actors that each hold the model, on one machine or many; Ray decides where.

    HEAD_ATLAS_RAY      auto (a cluster that runs here), local (one of this process) or the address of a cluster
    HEAD_ATLAS_WORKERS  how many actors; as many as fit the cluster's processors and GPUs where it is not set
    HEAD_ATLAS_GPUS     GPUs per actor, 1 where the cluster has any

An actor asks for as many processors as this process has threads (OMP_NUM_THREADS) and runs as many: sums depend on it.
A shard whose worker or machine dies is given to another worker, and another actor is asked for in its place.
"""

import logging
import os
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from stages.engine.kept import CODE, Job, Results
from stages.store.errors import WAITING, UserError

log = logging.getLogger(__name__)

ATTEMPTS = 3  # deaths of a shard's workers, or per worker while loading, that are not taken for the work's own fault
PATIENCE = 60  # seconds until it is said that nothing has ended: a long shard, or no machine that fits a worker


class Worker:
    """An actor: it makes its state once, then runs shards."""

    def __init__(self, job: Job, folder: str, files: dict[str, bytes], threads: int) -> None:
        torch.set_num_threads(threads)
        enter(Path(folder), files)
        self.job, self.state = job, None

    def load(self) -> None:
        """Make the state."""
        self.state = self.job.start()

    def run(self, shard: Any) -> Results:
        """Return the seconds and the tables of a shard."""
        return self.job.timed(self.state, shard)


def enter(folder: Path, files: Mapping[str, bytes]) -> None:
    """Go to a folder that has these files: the one of this path, or a new one where there is none or it has others.

    A machine of its own may have no such folder, or a clone of another branch there, whose models are other ones.
    """
    others = any((folder / name).is_file() and (folder / name).read_bytes() != files[name] for name in files)
    os.chdir(tempfile.mkdtemp() if others or not folder.is_dir() else folder)
    for name, content in files.items():
        if not Path(name).is_file():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_bytes(content)


def finished(
    job: Job, shards: Sequence[Any], missing: Sequence[int], address: str, threads: int
) -> Iterator[tuple[int, Results]]:
    """Yield (number of a shard, its results) as missing ones are finished, by workers that have loaded the model.

    threads: of each worker.
    """
    if not missing:
        return
    ray = _connected(address)
    gpus = _gpus(ray)
    workers = min(_workers(ray, threads, gpus), len(missing))
    log.info("Ray: %d workers, each of %d threads and %g GPUs", workers, threads, gpus)
    files = {str(file): Path(file).read_bytes() for file in job.files}
    made = ray.remote(num_cpus=threads, num_gpus=gpus, max_restarts=0)(Worker)
    waiting, idle, lost, left = deque(missing), [], Counter(), len(missing)
    running: dict[Any, tuple[Any, int | None]] = {}  # what is awaited -> its worker and shard, None while it loads

    def start() -> None:
        worker = made.remote(job, os.getcwd(), files, threads)
        running[worker.load.remote()] = worker, None

    for _ in range(workers):
        start()
    try:
        while left:
            ready, _ = ray.wait(list(running), timeout=PATIENCE)
            if not ready:
                log.info(
                    "Ray: nothing has ended for %d s; a worker asks for %d processors, %g GPUs", PATIENCE, threads, gpus
                )
                continue
            worker, number = running.pop(ready[0])
            try:
                results = ray.get(ready[0])
                idle.append(worker)
            except ray.exceptions.RayTaskError as error:  # what the stage raised
                raise error.cause if isinstance(error.cause, UserError) else error from None
            except ray.exceptions.RayError as error:  # the worker or its machine is gone
                results, lost[number] = None, lost[number] + 1
                if lost[number] > ATTEMPTS * (workers if number is None else 1):
                    raise UserError(f"Ray: workers died {lost[number]} times at the same work: {error}") from None
                log.info("Ray: a worker was lost; its work is done again")
                ray.kill(worker)
                if number is not None:
                    waiting.appendleft(number)
                start()
            while idle and waiting:
                worker, at = idle.pop(), waiting.popleft()
                running[worker.run.remote(shards[at])] = worker, at
            if number is not None and results is not None:
                left -= 1
                yield number, results
    finally:
        for worker in [*idle, *(worker for worker, _ in running.values())]:
            ray.kill(worker)


def _connected(address: str) -> Any:
    """Return Ray, connected to a cluster."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UserError("HEAD_ATLAS_RAY is set, but Ray is not installed: pip install ray") from None
    if not ray.is_initialized():
        waits = {name: os.environ[name] for name in WAITING if name in os.environ}
        environment = {"py_modules": [str(CODE)], "env_vars": waits}
        try:
            ray.init(address, runtime_env=environment, logging_level=logging.ERROR, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            message = f"HEAD_ATLAS_RAY = {address}: no cluster of Ray there ({reason}); run: ray start --head"
            raise UserError(message) from None
    return ray


def _gpus(ray: Any) -> float:
    return _number("HEAD_ATLAS_GPUS", 1 if ray.cluster_resources().get("GPU") else 0)


def _workers(ray: Any, threads: int, gpus: float) -> int:
    resources = ray.cluster_resources()
    fitting = resources.get("GPU", 0) / gpus if gpus else resources.get("CPU", 0) / threads
    return int(_number("HEAD_ATLAS_WORKERS", max(1, int(fitting))))


def _number(name: str, otherwise: float) -> float:
    try:
        value = float(os.environ.get(name, otherwise))
    except ValueError:
        value = -1.0
    if value < 0 or (name == "HEAD_ATLAS_WORKERS" and value < 1):
        raise UserError(f"{name} = {os.environ[name]!r}: allowed: a number of {name.rpartition('_')[2].lower()}")
    return value
