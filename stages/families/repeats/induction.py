"""Induction heads look at what followed earlier occurrences of the current token: they copy patterns (Olsson+ 2022)."""

import numpy as np

from stages.families.family import Family, Relation, Tokens, where


def relation(tokens: Tokens) -> Relation | None:
    """t -> the tokens right after all earlier occurrences of the token at t."""
    same = tokens.ids[:, None] == tokens.ids
    earlier = np.tril(same, -1) & ~tokens.special & ~tokens.special[:, None]
    after = np.zeros_like(earlier)
    after[:, 1:] = earlier[:, :-1]  # the key after an earlier occurrence is at most t itself
    return where(np.arange(len(tokens)), after & ~tokens.special)


FAMILY = Family(
    name="induction",
    order=6,
    task="repeats",
    threshold=0.4,
    convention=True,
    statistic="mass",
    content=True,
    relation_text="t → tokens after earlier occurrences of the same token",
    source="Olsson+ 2022 (arXiv 2209.11895)",
    relation=relation,
    home=("repeats", "icl"),
)
