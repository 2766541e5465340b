"""Processes that share the work of a stage, and end when it does."""

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from threading import Thread


def pool(processes: int) -> ProcessPoolExecutor:
    """Return a pool of fresh processes that end when this one is gone, by `kill -9` as well.

    Left alone, they would finish what they are at and then wait for work for ever.
    """
    return ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_follow)


def _follow() -> None:
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
