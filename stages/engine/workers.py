"""Processes of one thread that share the work of a stage, and end when it does."""

import multiprocessing
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from threading import Thread

import torch

METHOD = "fork" if sys.platform == "linux" else "spawn"  # forked ones have what is loaded; macOS's libraries forbid it


def pool(processes: int) -> ProcessPoolExecutor:
    """Return a pool of processes of one thread that end when this one is gone, by `kill -9` as well.

    Left alone, they would finish what they are at and then wait for work for ever.
    """
    return ProcessPoolExecutor(processes, multiprocessing.get_context(METHOD), initializer=_begin)


def _begin() -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)  # and never more where they are forked: OpenMP's threads are not
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # nor the tokenizer's


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)
