"""Sink heads park their attention on the first token or a special one: 'nothing to say' (Gu+ ICLR 2025).

Gu+ take the mean over ALL queries k..T of the attention to position k = the first token, T = 64. Their first query sees
only itself: it has no null, and with it a head that looks at all tokens alike would be beyond chance. So it is left out
here (1 of 64); their own measure is that of stage `sinks`.
"""

import numpy as np

from stages.families.family import Family, Relation, Tokens


def relation(tokens: Tokens) -> Relation | None:
    """t -> the first token, the special tokens and a learned sink, on short passages (T = 64)."""
    if tokens.role != "short":
        return None
    sinks = tokens.special.copy()
    sinks[0] = True
    queries = np.arange(1, len(tokens))  # the first token of a causal model has nowhere else to look
    return Relation(queries, np.tile(sinks, (len(queries), 1)), sink=True) if len(queries) else None


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
