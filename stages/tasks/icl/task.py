"""In-context functions: does the model answer as the demonstrations did?

accuracy = every answer token is the argmax given the right ones before it: greedy decoding begins with the answer (and
may go on: a 1 is right where 10 would be written). logprob = mean over the answer's tokens (nats).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from stages.tasks.icl.settings import Settings
from stages.tasks.task import Answered, Read, Task


def solved(read: Sequence[Read], answered: Sequence[Answered]) -> dict[str, float]:
    """Return accuracy and mean log-probability (nats) of an answer."""
    (answer,) = answered
    return {"accuracy": float(answer.top.all()), "logprob": float(answer.logprob.mean())}


def counted(baselines: Any, prompt: Any) -> dict[str, dict[str, float]]:
    """Return accuracy: every word of the answer is the baseline's argmax."""
    hits = baselines.answer(prompt.text, prompt.targets[0])
    return {name: {"accuracy": float(np.prod(words))} for name, words in hits.items()}


def half(cluster: str) -> str:
    """Return which half of its split a set of demonstrations, <function>/<number>, lies in: split a has even ones."""
    return str(int(cluster.rpartition("/")[2]) // 2 % 2)


# a task whose prompts have an answer that the model gives or not, as those of in-context functions
answer_task = partial(
    Task, measures=solved, main="accuracy", smooth="logprob", needs="decoder", roles=("clean",), parts="condition"
)

TASK = answer_task(
    name="icl",
    order=2,
    label="in-context functions",
    unit="sets of demonstrations",
    settings=Settings,
    traced=True,
    extracted=("solved", "solved"),
    outputs="last",
    half=half,
    part=("function", "functions"),
    counted=counted,
)
