"""Labelled demonstrations: does a new item get the label of those that resemble it?

margin = log P(right label) - log P(other label), nats, whole labels; accuracy = 1, 1/2 for a tie, 0. A guess, the label
that most demonstrations have, the label of the last one and always the same label all get exactly 1/2 of the prompts
of every set of demonstrations (see prompts.py).
"""

from collections.abc import Sequence

import numpy as np

from stages.tasks.neighbours.settings import Settings
from stages.tasks.task import Answered, Read, Task


def compared(read: Sequence[Read], answered: Sequence[Answered]) -> dict[str, float]:
    """Return accuracy and margin (nats) of the right label against the other one."""
    right, other = (float(label.logprob.sum(dtype=np.float64)) for label in answered)
    return {"accuracy": 0.5 if right == other else float(right > other), "margin": right - other}


TASK = Task(
    name="neighbours",
    order=8,
    label="labelled demonstrations",
    unit="sets of demonstrations",
    settings=Settings,
    targets=2,
    measures=compared,
    main="accuracy",
    smooth="margin",
    chance={"accuracy": 0.5},
    needs="decoder",
    parts="condition",
    part=("kind of items", "kinds of items"),
    own_section=True,
    own_stage=True,
)
