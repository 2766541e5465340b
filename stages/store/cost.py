"""What a stage without passes of a model takes, counted before it runs: in small calculations, timed on the spot.

What such stages do (select rows, group them, average) takes about as long for a few rows as for a thousand. How many of
these their work is worth was measured once, in processor time of the default run; what one takes is measured each time,
on this machine, beside whatever runs.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd

ROWS = 1000  # of the table that one calculation is done on
WINDOW = 0.1  # seconds that are measured: long enough to hold what other processes take


def announce(stage: str, counts: Mapping[str, int], calculations: float) -> str:
    """Return a line such as 'classify decoder: 40 families, 72 heads, 410,976 rows, about 0.1 min'."""
    return told(stage, counts, calculations * calculation())


def told(stage: str, counts: Mapping[str, int], seconds: float) -> str:
    """Return the same line of seconds that are known."""
    counted = ", ".join(f"{count:,} {what}" for what, count in counts.items())
    return f"{stage}: {counted}, about {seconds / 60:.1f} min"


def calculation() -> float:
    """Return what one small calculation on a table takes here and now, seconds: measured, in some 0.1 s."""
    table = pd.DataFrame({"group": np.arange(ROWS) % 20, "value": np.arange(ROWS, dtype=float)})
    done, start = 0, perf_counter()
    while (took := perf_counter() - start) < WINDOW or not done:
        table[table.value > 10].groupby("group").value.mean()
        done += 1
    return took / done


def size(files: Iterable[Path]) -> int:
    """Return how many bytes files have together."""
    return sum(file.stat().st_size for file in files)
