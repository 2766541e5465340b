"""Work shared by processes of this machine, forked from this one: each has the model without loading it again.

    for rows in each(measured, prompts, loaded):   # in the order of prompts

Each runs one thread. Two of them take .86 of the time that two threads of one process take for the same shards of
`ablate` (Gemma 3 270M, 2 cores): small products make threads wait for each other, and what is Python's is one thread's.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import closing
from itertools import islice
from typing import Any, TypeVar

import torch

from stages.engine import workers
from stages.model.machine import memory
from stages.store.errors import UserError

WORKER = 3_000_000_000  # bytes of a process beside the weights, which all share; and as many as the weights
SHARE = 2  # pieces of work of each process, at least: they are of unequal length

Item, Result = TypeVar("Item"), TypeVar("Result")

_work: Callable[[int], Any] | None = None  # of the forked processes


def processes(pieces: int, loaded: Any) -> int:
    """Return how many processes of one thread share so many pieces of work with a model; 1: they do not.

    As many as torch has threads (OMP_NUM_THREADS, else processors), where memory has room for most of them; of
    HEAD_ATLAS_WORKERS as many as there is room for.
    It depends on nothing that changes from run to run, such as what memory is free: sums depend on the threads that
    make them. Raises `UserError` where HEAD_ATLAS_WORKERS is no number of processes.
    """
    threads = torch.get_num_threads()
    most = os.environ.get("HEAD_ATLAS_WORKERS", "")
    if most and (not most.isdecimal() or not int(most)):
        raise UserError(f"HEAD_ATLAS_WORKERS = {most!r}: allowed: a number of workers")
    if not workers.forks():
        return 1
    weights = sum(weight.numel() * weight.element_size() for weight in loaded.model.parameters())
    room = int((memory() - weights) // (weights + WORKER))
    number = max(1, min(threads, pieces // SHARE, room, int(most or threads)))
    return number if most or number > threads // 2 else 1  # few would leave processors idle


def sharing() -> tuple[int, int, bool, str]:
    """Return what decides, beside the model and the work, how many processes of how many threads share it."""
    return torch.get_num_threads(), memory(), workers.forks(), os.environ.get("HEAD_ATLAS_WORKERS", "")


def each(work: Callable[[Item], Result], items: Sequence[Item], loaded: Any) -> Iterator[Result]:
    """Yield what `work` returns of every item, in order; it changes nothing here, and returns no tensors."""
    many = processes(len(items), loaded)
    if many == 1:
        yield from map(work, items)
        return
    early: dict[int, Result] = {}
    following = 0
    with closing(finished(lambda number: work(items[number]), range(len(items)), many)) as results:
        for number, result in results:
            early[number] = result
            while following in early:
                yield early.pop(following)
                following += 1


def finished(work: Callable[[int], Any], numbers: Sequence[int], many: int) -> Iterator[tuple[int, Any]]:
    """Yield (number, what `work` returns of it) as `many` forked processes are done with them; begun in order."""
    global _work
    _work, left = work, iter(numbers)
    try:
        with workers.pool(many) as pool:
            running = {pool.submit(_run, number): number for number in islice(left, 2 * many)}
            while running:
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    number = running.pop(future)
                    running |= {pool.submit(_run, other): other for other in islice(left, 1)}
                    yield number, future.result()
    finally:
        _work = None


def _run(number: int) -> Any:
    return _work(number)
