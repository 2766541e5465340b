"""Procedure against knowledge: a function that is solved on usual words, asked of rare and of made-up ones.

accuracy = every token of the answer and of what ends it is the argmax given the right ones before (else `tables` would
be right wherever `tablesque` was begun). Stage `answer` judges what greedy decoding writes by its letters instead.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from stages.tasks.extrapolation.settings import Settings
from stages.tasks.task import Answered, Read, Task

USUAL, IRREGULAR, RARE, MADE_UP, COPIED = CLASSES = ("usual", "irregular", "rare", "made_up", "copied")
ASKED = "asked"  # the relation from the answer to the word asked about: it says which tokens they are


def solved(read: Sequence[Read], answered: Sequence[Answered]) -> dict[str, float]:
    """Return accuracy and mean log-probability (nats) of an answer with its end."""
    (answer,) = answered
    return {"accuracy": float(answer.top.all()), "logprob": float(answer.logprob.mean())}


def counted(baselines: Any, prompt: Any) -> dict[str, dict[str, float]]:
    """Return accuracy: every word of the answer is the baseline's argmax. Case and line ends are no words there."""
    hits = baselines.answer(prompt.text, prompt.targets[0])
    return {name: {"accuracy": float(np.prod(words))} for name, words in hits.items()}


TASK = Task(
    name="extrapolation",
    order=7,
    label="usual, rare and made-up words",
    unit="words",
    settings=Settings,
    measures=solved,
    main="accuracy",
    smooth="logprob",
    needs="decoder",
    roles=("clean",),
    parts="group",
    part=("function", "functions"),
    steered=True,
    own_section=True,
    counted=counted,
)
