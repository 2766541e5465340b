"""Heads that look at a vision transformer's own tokens: sinks of images (Darcet+ ICLR 2024; Gu+ ICLR 2025).

A model with registers can park attention, and what is common to the whole image, on tokens that hold no patch; without
them it takes patches of the background for that, and their norms stand out. The class token is where an image is summed
up, so that attention to it has a use as well.
"""

import numpy as np

from stages.families.family import CLASS, REGISTER, Family, Relation, Tokens


def _to(tokens: Tokens, kind: int) -> Relation | None:
    keys, queries = tokens.ids == kind, np.flatnonzero(tokens.ids >= 0)
    return Relation(queries, np.tile(keys, (len(queries), 1))) if keys.any() and tokens.columns else None


def to_class(tokens: Tokens) -> Relation | None:
    """Patch -> class token."""
    return _to(tokens, CLASS)


def to_registers(tokens: Tokens) -> Relation | None:
    """Patch -> registers, all of them together."""
    return _to(tokens, REGISTER)


FAMILIES = [
    Family(
        name=name,
        order=order,
        task="images",
        threshold=0.3,
        convention=True,
        statistic="mass",
        content=False,
        relation_text=text,
        source="Darcet+ ICLR 2024 (arXiv 2309.16588); threshold of Gu+ ICLR 2025 (arXiv 2410.10781)",
        relation=relation,
    )
    for name, order, text, relation in (
        ("class_token", 90, "patch → class token", to_class),
        ("registers", 91, "patch → registers", to_registers),
    )
]
