"""What a stage costs, counted before it runs, and about how long that takes at the speed that the machine has now.

Every weight is multiplied with every token that runs through it: the blocks' with the tokens, the LM head's with the
rows that it reads. A stage counts both, with what is shared or skipped left out; a product measured on the spot says
what a multiplication takes on this device, with these threads and whatever runs beside.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch
from safetensors import safe_open

from stages.model import sharing
from stages.model.intervene import Head
from stages.model.linear import linear
from stages.model.load import Loaded

SIDE = 1024  # width of the square matrix that is multiplied
TIMES = 15
LONG = 30  # seconds: of a stage that seems to take more, speed is measured again, and the best counts: for some tenths
AGAIN = 5  # of a second two threads may begin on one processor, where a product takes twice its time
READING = 30  # tokens, or rows, that take as long as reading the weights once: few in a pass cost as much as so many
PROVEN = 1900  # tokens that take as long as loading a model and all checks of it: Gemma 3 270M, 1 thread
OVERHEAD = 1.5  # a model takes so many times what its products alone take: Gemma 3 270M, 1 and 2 threads


@dataclass(frozen=True)
class Work:
    """tokens: run through all blocks (half of them: half a token); rows: read by the LM head."""

    tokens: float = 0
    rows: float = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.tokens + other.tokens, self.rows + other.rows)

    def __mul__(self, times: float) -> "Work":
        return Work(times * self.tokens, times * self.rows)


def announce(stage: str, prompts: int, work: Work, loaded: Loaded) -> str:
    """Return a line such as 'trace decoder: 108 prompts, 16,020 tokens, 7,776 rows of the LM head, about 0.8 min'."""
    count, taken = products(work, loaded), seconds(loaded)
    if count * taken > LONG:
        taken = min(taken, *(seconds(loaded) for _ in range(AGAIN)))
    minutes = count * taken / 60
    rows = f", {work.rows:,.0f} rows of the LM head" if work.rows and weights(loaded)[1] else ""
    return f"{stage}: {prompts:,} prompts, {work.tokens:,.0f} tokens{rows}, about {minutes:.1f} min"


def products(work: Work, loaded: Loaded) -> float:
    """Return how many multiplications with weights some work is."""
    blocks, head = weights(loaded)
    return work.tokens * blocks + work.rows * head


def checking(stage: str, files: Sequence[Path]) -> str:
    """Return a line such as 'fetch decoder: 1,072 MB and 268,098,176 weights to read and prove, about 0.4 min'.

    files: of safetensors; their headers say how many weights there are.
    """
    count = 0
    for file in files:
        with safe_open(file, framework="np") as opened:
            count += sum(prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118
    minutes = PROVEN * count * product() / 60
    megabytes = sum(file.stat().st_size for file in files) / 1e6
    return f"{stage}: {megabytes:,.0f} MB and {count:,} weights to read and prove, about {minutes:.1f} min"


def weights(loaded: Loaded) -> tuple[int, int]:
    """Return how many weights a token meets in the blocks, and a row in the LM head (0 where there is none)."""
    head, words = loaded.model.get_output_embeddings(), loaded.model.get_input_embeddings()
    apart = {id(weight) for module in (head, words) for weight in (module.parameters() if module else ())}
    blocks = sum(weight.numel() for weight in loaded.model.parameters() if id(weight) not in apart)
    return blocks, 0 if head is None else sum(weight.numel() for weight in head.parameters())


def seconds(loaded: Loaded) -> float:
    """Return about what one multiplication with a weight takes a model here and now, seconds."""
    return product(next(loaded.model.parameters()).dtype, loaded.device)


def product(
    dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu", multiply: Callable = linear
) -> float:
    """Return what one multiplication takes in a model's products, seconds: measured, in some 0.1 s.

    multiply: what makes them: torch's own linear layer where there are gradients.
    A linear layer's product, whose matrix is read by rows: the other order takes ten times as long in bfloat16 on a
    processor that has no instructions for it (2.0e-9 s a multiplication beside 1.9e-10).
    """
    square = torch.ones(SIDE, SIDE, dtype=dtype, device=device)
    rows, took = square[: SIDE // 4], []
    for _ in range(1 + TIMES):
        start = perf_counter()
        with torch.no_grad():
            multiply(rows, square)[0, 0].item()  # waits for the device
        took.append(perf_counter() - start)
    return OVERHEAD * median(took[1:]) / rows.numel() / SIDE


def shared(sequences: Sequence[np.ndarray]) -> int:
    """Return how many tokens run where texts that begin alike share a run of their beginning; sequences: ids (T,)."""
    ordered = sorted(ids.tolist() for ids in sequences)
    return sum(map(len, ordered)) - sum(_alike(*pair) for pair in pairwise(ordered))


def _alike(ids: list[int], others: list[int]) -> int:
    """Return how many tokens two texts begin with that are the same."""
    differ = (at for at, (a, b) in enumerate(zip(ids, others, strict=False)) if a != b)
    return next(differ, min(len(ids), len(others)))


def branched(loaded: Loaded, silenced: Sequence[tuple[str, Sequence[Head]]]) -> float:
    """Return how often all blocks run under ablations, where those that write the same up to a layer run as one.

    silenced: (kind, heads) of each.
    """
    count, ran = len(loaded.anatomy.blocks), 0
    for layer, stop in sharing.steps((heads for _, heads in silenced), loaded.resumes) if silenced else ():
        end = count if stop is None else stop
        written = {(kind, *sorted(head for head in heads if head[0] < end)) for kind, heads in silenced}
        ran += (end - layer if loaded.resumes else count) * sum(len(copy) > 1 for copy in written)
    return ran / count
