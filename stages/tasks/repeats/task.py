"""Random tokens, repeated: the last copy can only be known by copying."""

from collections.abc import Sequence

import numpy as np

from stages.tasks.repeats.settings import Settings
from stages.tasks.task import Read, Task, mean_loss

SCORED = 8  # tokens of the last copy that are scored, at most: LM-head rows cost twice what the body costs a token


def last_copy(read: Sequence[Read]) -> tuple[np.ndarray, ...]:
    """Score up to `SCORED` evenly spaced tokens of the last copy."""
    return tuple(_spaced(len(tokens) - _period(tokens), len(tokens)) for tokens in read)


def _spaced(start: int, end: int) -> np.ndarray:
    return np.arange(start, end, -(-(end - start) // SCORED))


def _period(tokens: Read) -> int:
    """Return the length of the repeated sequence."""
    ids = tokens.ids[int(np.flatnonzero(~tokens.special)[0]) :]
    return next(p for p in range(1, len(ids) + 1) if len(ids) % p == 0 and (ids[p:] == ids[:-p]).all())


TASK = Task(
    name="repeats",
    order=4,
    label="random repeats",
    unit="sequences",
    settings=Settings,
    scored=last_copy,
    measures=mean_loss,
    main="loss",
    smooth="loss",
    falls=("loss",),
    counted=lambda baselines, prompt: baselines.repeated(prompt.ordinals.tolist()),
)
