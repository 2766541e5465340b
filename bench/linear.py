"""Linear layers of Gemma 3 270M's sizes by MKL, by oneDNN, and by oneDNN of weights laid out beforehand, in one run.

    python bench/linear.py    # -> bench/linear.csv

As in a pass of a stage: a process of one thread on each processor, and the weights of 24 layers in turn, so that none
stays in a cache. They take turns, so that what the machine does beside meets all. On an idle machine.
Processors without AVX-512: as many instructions are used with ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2.
"""

import csv
import multiprocessing
import os
import statistics
import time
from pathlib import Path

import torch

from stages.model.linear import LAYING, _by_onednn

SIZES = {(640, 2048): 24, (2048, 640): 24, (640, 1024): 24, (640, 256): 24, (640, 262_144): 1}  # how many of each:
ROWS = [1, 4, 16, 64, 256, 1024]  # the MLP, queries, keys and values, the LM head
TURNS = 3
HEAD = 256  # rows of it, at most: their logits are a megabyte each
CPU = Path("/proc/cpuinfo")


def seconds(call, x: torch.Tensor, weights: list[torch.Tensor]) -> float:
    """Return what all layers take once."""
    start = time.perf_counter()
    for weight in weights:
        call(x, weight, None)
    return time.perf_counter() - start


@torch.no_grad()
def measured(barrier) -> list[dict]:
    """Return billions of operations a second, the median of turns, by rows and sizes, in this process."""
    torch.set_num_threads(1)
    rows = []
    for (inner, outer), layers in SIZES.items():
        weights = [torch.randn(outer, inner) for _ in range(layers)]
        laid_out = [getattr(torch.ops.mkldnn, LAYING)(weight) for weight in weights] if layers > 1 else []
        for count in ROWS if layers > 1 else [rows for rows in ROWS if rows <= HEAD]:
            x = torch.randn(count, inner)
            calls = {"mkl": (torch.nn.functional.linear, weights), "onednn": (_by_onednn, weights)}
            if laid_out and count > 1:  # neither the head's weights nor one row alone
                calls["laid_out"] = _by_onednn, laid_out
            took: dict[str, list[float]] = {name: [] for name in calls}
            barrier.wait()
            for _ in range(1 + TURNS):
                for name, (call, of) in calls.items():
                    took[name].append(seconds(call, x, of))
            speed = {name: 2e-9 * count * inner * outer * layers / statistics.median(took[name][1:]) for name in calls}
            rows.append({"inputs": inner, "outputs": outer, "rows": count} | speed)
    return rows


def main() -> None:
    """Measure in as many processes as processors at once, and write their means."""
    count = os.cpu_count() or 1
    with multiprocessing.Manager() as manager:
        barrier = manager.Barrier(count)
        with multiprocessing.get_context("spawn").Pool(count) as pool:
            of_processes = pool.map(measured, [barrier] * count, chunksize=1)
    named = [line.split(":")[1].strip() for line in CPU.read_text().splitlines() if line.startswith("model name")]
    processor = named[0] if named else "unknown"
    held = os.environ.get("ONEDNN_MAX_CPU_ISA", torch.backends.cpu.get_cpu_capability())
    path = Path(__file__).with_suffix(".csv")
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if fresh:
            writer.writerow(["processor", "instructions", "inputs", "outputs", "rows", "mkl", "onednn", "laid_out"])
        for cells in zip(*of_processes, strict=True):
            one = cells[0]
            speed = [
                f"{statistics.mean(cell[name] for cell in cells):.1f}" if name in one else ""
                for name in ("mkl", "onednn", "laid_out")
            ]
            writer.writerow([processor, held, one["inputs"], one["outputs"], one["rows"], *speed])


if __name__ == "__main__":
    main()
