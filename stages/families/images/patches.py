"""What a patch of an image looks at: itself, those around it, the class token, the registers.

To itself and those around it: what previous and local heads are in two dimensions. Early heads of vision transformers
are local, late ones global (Dosovitskiy+ ICLR 2021, figure 7). To the class token and registers: sinks of images. A
model with registers can park attention, and what is common to the whole image, on tokens that hold no patch; without
them it takes patches of the background for that, and their norms stand out (Darcet+ ICLR 2024). The class token is
where an image is summed up, so that attention to it has a use as well.
"""

import numpy as np

from stages.families.family import CLASS, REGISTER, Family, Relation, Tokens, one_key

LOCAL = "Dosovitskiy+ ICLR 2021 (arXiv 2010.11929)"
SINKS = "Darcet+ ICLR 2024 (arXiv 2309.16588); threshold of Gu+ ICLR 2025 (arXiv 2410.10781)"


def _to(tokens: Tokens, kind: int) -> Relation | None:
    keys, queries = tokens.ids == kind, np.flatnonzero(tokens.ids >= 0)
    return Relation(queries, np.tile(keys, (len(queries), 1))) if keys.any() and tokens.columns else None


def to_class(tokens: Tokens) -> Relation | None:
    """Patch -> class token."""
    return _to(tokens, CLASS)


def to_registers(tokens: Tokens) -> Relation | None:
    """Patch -> registers, all of them together."""
    return _to(tokens, REGISTER)


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
        threshold=threshold,
        convention=True,
        statistic="mass",
        content=False,
        relation_text=text,
        source=source,
        relation=relation,
    )
    for name, order, threshold, text, source, relation in (
        ("class_token", 90, 0.3, "patch → class token", SINKS, to_class),
        ("registers", 91, 0.3, "patch → registers", SINKS, to_registers),
        ("same_patch", 92, 0.4, "patch → itself", LOCAL, same),
        ("around", 93, 0.4, "patch → the patches around it", LOCAL, around),
    )
]
