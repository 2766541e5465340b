"""Iteration heads step through a string while its tape is written: s_{t+1} = f(s_t, x_{t+1}) (Cabannes+ 2024).

One family per function, because copying can be done without stepping: there an induction head finds x_{t+1} by the
symbol before it. The score is the paper's, by which recipes trained on these functions are watched too: the share of
tape positions with more than half of their attention on x_{t+1}. Its null is the same share for an average other key.
"""

from functools import partial

import numpy as np

from stages.families.family import Family, Relation, Tokens, one_key

FUNCTIONS = {"copy": "s = x", "parity": "s + x mod 2", "polynomial": "s x + 1 mod 5"}


def name(function: str) -> str:
    """Return the family's name: iteration:parity."""
    return f"iteration:{function}"


def relation(tokens: Tokens, span: str) -> Relation | None:
    """The position that predicts a tape symbol -> what its span says; None where a symbol is not a token of its own."""
    pairs = tokens.spans.get(span, ())
    if not pairs or any(len(answer) != 1 or len(key) != 1 for answer, key in pairs):
        return None
    answers, keys = (np.concatenate(side) for side in zip(*pairs, strict=True))
    if (np.diff(answers) < 1).any() or (keys >= answers).any():
        return None
    return one_key(len(tokens), answers - 1, keys)


FAMILIES = tuple(
    Family(
        name=name(function),
        order=9 + index,
        task="iteration",
        threshold=0.5,
        convention=True,
        statistic="over_half",
        content=True,
        relation_text=f"tape position that predicts the next symbol → the input symbol it steps to ({text})",
        source="Cabannes+ NeurIPS 2024 (arXiv 2406.02128)",
        relation=partial(relation, span=name(function)),
        home=("iteration",),
        home_condition=function,
    )
    for index, (function, text) in enumerate(FUNCTIONS.items())
)
