"""Sink heads park their attention on the first token or a special one: 'nothing to say' (Gu+ ICLR 2025).

Gu+ take the mean over ALL queries k..T of the attention to position k = the first token, T = 64; the first query, which
sees only itself, is part of their mean and so of ours.
"""

import numpy as np

from stages.families.family import Family, Relation, Tokens


def relation(tokens: Tokens) -> Relation | None:
    """t -> the first token, the special tokens and a learned sink, on short passages (T = 64)."""
    if tokens.role != "short":
        return None
    sinks = tokens.special.copy()
    sinks[0] = True
    return Relation(np.arange(len(tokens)), np.tile(sinks, (len(tokens), 1)), sink=True)


FAMILY = Family(
    name="sink",
    order=3,
    task="text",
    threshold=0.3,
    convention=False,
    statistic="mass",
    content=False,
    relation_text="t → first and special tokens, T = 64",
    source="Gu+ ICLR 2025 (arXiv 2410.10781)",
    relation=relation,
    home=("text",),
)
