"""Processes of one thread that share the work of a stage, and end when it does."""

import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from threading import Thread

import torch
from threadpoolctl import threadpool_limits

from stages.store.errors import UserError

PINNED = {"OMP_PROC_BIND", "GOMP_CPU_AFFINITY", "KMP_AFFINITY"}  # forked processes would share one processor


def forks() -> bool:
    """Say whether processes are forked, with all that is loaded: macOS's libraries and CUDA do not bear it."""
    return sys.platform == "linux" and not torch.accelerator.is_available() and not PINNED & os.environ.keys()


@contextmanager
def pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    """Give a pool of processes of one thread; they end with the block, with an error in it, and when this one is gone.

    By `kill -9` as well: left alone, they would finish what they are at and then wait for work for ever. One that is
    killed raises `UserError`.
    """
    context = multiprocessing.get_context("fork" if forks() else "spawn")
    with ProcessPoolExecutor(processes, context, initializer=_begin) as made:
        try:
            yield made
        except BaseException as error:
            for process in multiprocessing.active_children():  # nobody waits for what they are at
                process.terminate()
            if isinstance(error, BrokenProcessPool):
                raise UserError(
                    "a process that shared the work ended of itself: killed, as the system does where memory ends? "
                    "HEAD_ATLAS_WORKERS=1 takes least"
                ) from error
            raise


def _begin() -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)  # and never more where they are forked: OpenMP's threads are not
    threadpool_limits(1)  # numpy's neither
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # nor the tokenizer's


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
