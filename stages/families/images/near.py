"""Heads that look at the patch itself, or at those around it: what previous and local heads are in two dimensions.

Early heads of vision transformers are local, late ones global (Dosovitskiy+ ICLR 2021, figure 7).
"""

import numpy as np

from stages.families.family import Family, Relation, Tokens, one_key


def same(tokens: Tokens) -> Relation | None:
    """Patch -> itself."""
    patches = np.flatnonzero(tokens.ids >= 0)
    return one_key(len(tokens), patches, patches) if tokens.columns else None


def around(tokens: Tokens) -> Relation | None:
    """Patch -> the up to eight patches around it."""
    if not tokens.columns:
        return None
    patches = np.flatnonzero(tokens.ids >= 0)
    row_P, column_P = np.divmod(tokens.ids[patches], tokens.columns)
    far_PP = np.maximum(abs(row_P[:, None] - row_P), abs(column_P[:, None] - column_P))
    keys = np.zeros((len(patches), len(tokens)), dtype=bool)
    keys[:, patches] = far_PP == 1
    return Relation(patches, keys)


FAMILIES = [
    Family(
        name=name,
        order=order,
        task="images",
        threshold=0.4,
        convention=True,
        statistic="mass",
        content=False,
        relation_text=text,
        source="Dosovitskiy+ ICLR 2021 (arXiv 2010.11929)",
        relation=relation,
    )
    for name, order, text, relation in (
        ("same_patch", 92, "patch → itself", same),
        ("around", 93, "patch → the patches around it", around),
    )
]
