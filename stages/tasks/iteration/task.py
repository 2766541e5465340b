"""Strings and tapes: is every step through a string written right?

recall = share of the tape's symbols that are the argmax given the right ones before; what a guess gets depends on the
function and, in `polynomial`, on the length (`stages.tasks.iteration.tape.chance`): GUESSED is that of the shortest
strings of params.yaml, where it is the largest; logprob = mean over the tape's symbols (nats).
"""

from typing import Any

import numpy as np

from stages.tasks.iteration.settings import Settings
from stages.tasks.task import Task, recalled

GUESSED = {"copy": 0.1, "parity": 0.5, "polynomial": 0.472}  # recall, of strings of four symbols


def counted(baselines: Any, prompt: Any) -> dict[str, dict[str, float]]:
    """Return the share of symbols that are the baseline's argmax, and whether the whole tape is."""
    hits = baselines.answer(prompt.text, prompt.targets[0])
    return {name: {"symbols": float(np.mean(s)), "tapes": float(np.prod(s))} for name, s in hits.items()}


TASK = Task(
    name="iteration",
    order=6,
    label="strings and tapes",
    unit="strings",
    settings=Settings,
    measures=recalled,
    main="recall",
    smooth="logprob",
    chance_in=GUESSED,
    needs="decoder",
    parts="condition",
    part=("function", "functions"),
    own_section=True,  # a model does some functions and not others: no number for all of them
    counted=counted,
)
