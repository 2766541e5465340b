"""Every stage of a slot that runs its model, on this machine's GPU (or processor), and what share of its peak it has.

    python bench/gpu.py peak decoder 2048 16384  what the card multiplies, and passes of so many tokens
    python bench/gpu.py run decoder              every stage, in order, with the params and the prompts of this folder
    python bench/gpu.py run decoder ablate       of these, the ones that are named

Rows are appended to bench/gpu.csv. Operations are those of products with weights, forwards: attention's own and
gradients' are left out, so a share of the peak is a lower bound. The peak is the fastest product of two square matrices
here, in the model's dtype, without TF32. `seconds` leave out `load_seconds`. The stages are those of the pipeline:
their tables are in data/.
"""

import csv
import importlib
import os
import shutil
import sys
import time
import traceback
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from stages.model import load as loading
from stages.model import placed
from stages.model.forward import forward
from stages.store import params, records

FILE = Path(__file__).with_suffix(".csv")
COLUMNS = "card dtype batch_tokens part seconds load_seconds tflop tflop_per_second share_of_peak memory_gb".split()
SIZE = 8192  # of the matrices that the peak is measured with
STAGES = "answer trace classify plan ablate steer apply circuit neighbours gates sinks memory examples".split()
os.environ["HEAD_ATLAS_WORKERS"] = "1"  # what other processes multiply is not counted here
DEVICE = placed.chosen()
GPU = DEVICE.type == "cuda"


class Counter:
    """Operations of a model's products with weights while it runs, and seconds that models took to load."""

    def __init__(self) -> None:
        self.operations = self.load_seconds = 0.0

    def watch(self, model: torch.nn.Module) -> None:
        """Count every linear layer's work from now on."""
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(self._add)

    def _add(self, module: torch.nn.Linear, args: tuple, output: torch.Tensor) -> None:
        self.operations += 2 * output.numel() * module.in_features


def finished() -> float:
    """Return the time when all work given to the device is done."""
    if GPU:
        torch.cuda.synchronize()
    return time.perf_counter()


def peak(dtype: torch.dtype) -> float:
    """Return operations per second of the fastest of nine products of two matrices of random numbers."""
    size = SIZE if GPU else SIZE // 4
    a, b = (torch.randn(size, size, device=DEVICE).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(10):
        start = finished()
        a @ b
        seconds.append(finished() - start)
    return 2 * size**3 / min(seconds[1:])


def add(dtype: torch.dtype, batch_tokens: int, part: str, seconds: float, counter: Counter, best: float) -> None:
    """Append a row, and show it."""
    rate = counter.operations / seconds
    card = torch.cuda.get_device_name() if GPU else f"{torch.get_num_threads()} cores"
    numbers = [seconds, counter.load_seconds, counter.operations / 1e12, rate / 1e12, rate / best]
    numbers += [torch.cuda.max_memory_allocated() / 1e9 if GPU else 0.0]
    row = [card, str(dtype).removeprefix("torch."), batch_tokens, part, *(f"{number:.4g}" for number in numbers)]
    new = not FILE.is_file()
    with FILE.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([COLUMNS, row] if new else [row])
    print(dict(zip(COLUMNS, row, strict=True)), flush=True)


@contextmanager
def counted():
    """Count the work of every model that is loaded, and the seconds of loading."""
    counter, own = Counter(), loading.load

    def load(*args, **kwargs):
        start = finished()
        loaded = own(*args, **kwargs)
        counter.watch(loaded.model)
        counter.load_seconds += finished() - start
        return loaded

    loading.load = load
    if GPU:
        torch.cuda.reset_peak_memory_stats()
    try:
        yield counter
    finally:
        loading.load = own


def timed(slot: str, named: list[str]) -> None:
    """Run the stages of a slot as the pipeline does, all or those that are named."""
    dtype = getattr(torch, records.read(slot)["dtype"])
    best, settings = peak(dtype), params.load()
    tasks = [name for name, section in settings.tasks if section is not None]
    for stage in named or ("extract", *STAGES):
        for task in tasks if stage == "extract" else [None]:
            module, given = importlib.import_module(f"stages.{stage}"), (slot, task) if task else (slot,)
            shutil.rmtree("data/extracted", ignore_errors=True)  # else `extract` has nothing to do
            with counted() as counter:
                start = finished()
                try:
                    module.main(*given)
                except Exception:  # the others are worth their time on a card that is lent
                    traceback.print_exc()
                    continue
                seconds = finished() - start - counter.load_seconds
            if counter.load_seconds:
                add(dtype, settings.extract.batch_tokens, f"{stage} {task or ''}".strip(), seconds, counter, best)


def passes(slot: str, sizes: list[int]) -> None:
    """Run plain passes of one size after the other, each with a row of 128 tokens of which the LM head reads eight."""
    with counted() as counter:
        loaded = loading.load(slot, attention="sdpa")
    dtype, rng = loaded.model.dtype, np.random.default_rng(0)
    best = peak(dtype)
    for size in sizes:
        ids = list(rng.integers(4, 1000, (max(1, size // 128), 128)))
        rows = [np.arange(8)] * len(ids)
        forward(loaded, ids, rows)
        counter.operations, start = 0.0, finished()
        for _ in range(10):
            forward(loaded, ids, rows)
        add(dtype, size, "10 passes", finished() - start, counter, best)


if __name__ == "__main__":
    what, slot, *more = sys.argv[1:]
    if what == "peak":
        for dtype in (torch.float32, torch.bfloat16):
            print(dtype, f"{peak(dtype) / 1e12:.1f} TFLOP/s", flush=True)
        if slot != "none":
            passes(slot, [int(size) for size in more])
    else:
        timed(slot, more)
