"""Minimal pairs: is the good sentence likelier than the bad one?

margin = log P(good) - log P(bad) of whole sentences (nats), accuracy = 1, 1/2 for a tie, 0. Tokens that the two share
at their start have the same probability in both: scoring begins where they differ. Beside them stand, 1 or 0: `ties`
(both exactly as likely), `equal_ids` (the tokenizer makes the same tokens of both: no model could tell them apart) and
`unequal_length` (different numbers of tokens: the shorter one tends to be likelier for that alone).
"""

from collections.abc import Sequence

import numpy as np

from stages.tasks.blimp.settings import Settings
from stages.tasks.task import Answered, Read, Task


def from_the_difference(read: Sequence[Read]) -> tuple[np.ndarray, ...]:
    """Score both sentences from the first token in which they differ."""
    good, bad = read
    width = min(len(good), len(bad))
    differs = np.flatnonzero(good.ids[:width] != bad.ids[:width])
    first = int(differs[0]) if len(differs) else width
    return tuple(tokens.target[tokens.target >= first] for tokens in read)


def compared(read: Sequence[Read], answered: Sequence[Answered]) -> dict[str, float]:
    """Return accuracy and margin (nats) of a pair, and what stands beside them."""
    good, bad = (float(sentence.logprob.sum(dtype=np.float64)) for sentence in answered)
    return {
        "accuracy": 0.5 if good == bad else float(good > bad),
        "margin": good - bad,
        "ties": float(good == bad),
        "equal_ids": float(np.array_equal(*(tokens.ids for tokens in read))),
        "unequal_length": float(len(read[0]) != len(read[1])),
    }


TASK = Task(
    name="blimp",
    order=1,
    label="minimal pairs",
    unit="pairs",
    settings=Settings,
    targets=2,
    scored=from_the_difference,
    measures=compared,
    main="accuracy",
    smooth="margin",
    beside=("ties", "equal_ids", "unequal_length"),
    chance={"accuracy": 0.5},
    parts="category",
    part=("phenomenon", "phenomena"),
    counted=lambda baselines, prompt: baselines.pair(*prompt.targets),
)
