"""Work shared by processes of this machine, forked from this one: each has the model without loading it again.

    for rows in each(measured, prompts, loaded):   # in the order of prompts

Each runs one thread. Two of them take .86 of the time that two threads of one process take for the same shards of
`ablate` (Gemma 3 270M, 2 cores): small products make threads wait for each other, and what is Python's is one thread's.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch

from stages.engine import workers
from stages.store.errors import UserError

WORKER = 3_000_000_000  # bytes that a worker may take beside the weights, which all share
LIMIT = Path("/sys/fs/cgroup/memory.max")  # of a container
SHARE = 2  # pieces of work of each worker, at least: they are of unequal length

Item, Result = TypeVar("Item"), TypeVar("Result")

_work: Callable[[int], Any] | None = None  # of the forked processes


def processes(pieces: int, loaded: Any) -> int:
    """Return how many processes of one thread share so many pieces of work with a model; 1: they do not.

    As many as torch has threads (OMP_NUM_THREADS, else processors), where that is most of them. It depends on nothing
    that changes from run to run, such as what memory is free: sums depend on the threads that make them.
    """
    threads = torch.get_num_threads()
    if workers.METHOD != "fork" or torch.accelerator.is_available():  # CUDA cannot be forked
        return 1
    weights = sum(weight.numel() * weight.element_size() for weight in loaded.model.parameters())
    room = int((_memory() - weights) // WORKER)
    number = min(threads, pieces // SHARE, room)
    return number if number > threads // 2 else 1  # few workers would leave processors idle


def each(work: Callable[[Item], Result], items: Sequence[Item], loaded: Any) -> Iterator[Result]:
    """Yield what `work` returns of every item, in order; it changes nothing here, and returns no tensors."""
    many = processes(len(items), loaded)
    if many == 1:
        yield from map(work, items)
        return
    early: dict[int, Result] = {}
    following = 0
    for number, result in finished(lambda number: work(items[number]), range(len(items)), many):
        early[number] = result
        while following in early:
            yield early.pop(following)
            following += 1


def _memory() -> int:
    """Return the bytes of memory that this machine, or this container, has."""
    limit = LIMIT.read_text().strip() if LIMIT.is_file() else "max"
    return min(psutil.virtual_memory().total, 2**63 if limit == "max" else int(limit))


def finished(work: Callable[[int], Any], numbers: Sequence[int], many: int) -> Iterator[tuple[int, Any]]:
    """Yield (number, what `work` returns of it) as `many` forked processes are done with them; begun in order."""
    global _work
    _work = work
    with workers.pool(many) as pool:
        futures = {pool.submit(_run, number): number for number in numbers}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed, as the system does where memory ends; what is finished is kept; fewer "
                "run at once with OMP_NUM_THREADS=1"
            ) from None
        finally:
            _work = None
            pool.shutdown(cancel_futures=True)


def _run(number: int) -> Any:
    return _work(number)
