"""Duplicate-token heads look at earlier occurrences of the current token (Elhage+ 2021)."""

import numpy as np

from stages.families.family import Family, Relation, Tokens, where


def relation(tokens: Tokens) -> Relation | None:
    """t -> all earlier occurrences of the same token."""
    same = tokens.ids[:, None] == tokens.ids
    earlier = np.tril(same, -1) & ~tokens.special
    return where(np.arange(len(tokens)), earlier & ~tokens.special[:, None])


FAMILY = Family(
    name="duplicate",
    order=5,
    task="repeats",
    threshold=0.4,
    convention=True,
    statistic="mass",
    content=True,
    relation_text="t → earlier occurrences of the same token",
    source="Elhage+ 2021 (transformer-circuits.pub)",
    relation=relation,
)
