"""What torch's two threads lose beside busy processes, by how they wait for each other.

    python bench/waiting.py    # -> bench/waiting.csv

Passes of 24 layers of Gemma 3 270M's sizes, each in a fresh process: waiting as stages do (`stages.store.errors.run`),
as OpenMP does where nothing is set, and spinning for ever. On a machine of two processors that is idle but for the busy
processes started here. The fair share of two threads beside n busy ones is 2 / (2 + n) of the two processors, so that
it takes (2 + n) / 2 times the seconds.
"""

import csv
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

WAYS = {  # what is set before torch is loaded
    "as stages do": {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"},
    "nothing set": {},
    "spinning": {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "infinity"},
}
BUSY = (0, 1, 2)  # processes beside it
ROWS = (1, 64)  # tokens of a pass: many short regions, and fewer long ones
TURNS = 3
SECONDS = 3.0  # of passes, idle


@torch.no_grad()
def passes(rows: int, number: int) -> float:
    """Return the seconds of so many passes."""
    torch.set_num_threads(2)
    layers = [[torch.randn(outer, inner) for inner, outer in ((640, 2048), (2048, 640))] for _ in range(24)]
    start = time.perf_counter()
    for _ in range(number):
        x = torch.randn(rows, 640)
        for up, down in layers:
            x = torch.nn.functional.linear(torch.nn.functional.gelu(torch.nn.functional.linear(x, up)), down)
            x = x / x.norm(dim=-1, keepdim=True)
    return time.perf_counter() - start


def apart(way: str, rows: int, number: int) -> float:
    """Return the same of a fresh process."""
    ours = {name: value for name, value in os.environ.items() if name not in {n for of in WAYS.values() for n in of}}
    asked = [sys.executable, __file__, str(rows), str(number)]
    return float(subprocess.run(asked, env=ours | WAYS[way], check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Measure each way beside each number of busy processes, in turn, and write medians."""
    if len(sys.argv) > 1:
        print(passes(int(sys.argv[1]), int(sys.argv[2])))
        return
    took: dict[tuple[int, str, int], list[float]] = {}
    for rows in ROWS:
        number = max(1, int(20 * SECONDS / apart("as stages do", rows, 20)))
        for _ in range(TURNS):
            for busy in BUSY:
                beside = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
                try:
                    for way in WAYS:
                        took.setdefault((rows, way, busy), []).append(apart(way, rows, number))
                finally:
                    for process in beside:
                        process.kill()
                        process.wait()
    with Path(__file__).with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["rows", "waiting", "busy", "seconds", "times_idle", "fair"])
        for (rows, way, busy), seconds in took.items():
            median, idle = statistics.median(seconds), statistics.median(took[rows, "as stages do", 0])
            writer.writerow([rows, way, busy, f"{median:.2f}", f"{median / idle:.2f}", f"{(2 + busy) / 2:.1f}"])


if __name__ == "__main__":
    main()
