"""Streaming heads need only four sinks and the last 64 tokens: their KV cache can be cut (Xiao+ ICLR 2025).

The mass says whether the cut would lose anything, so there is no chance level to test against.
"""

import numpy as np

from stages.families.family import Family, Relation, Tokens, sparse

FROM, SINKS, RECENT = 256, 4, 64  # tokens


def relation(tokens: Tokens) -> Relation | None:
    """t >= 256 -> the first four tokens, a learned sink and the last 64, on long passages."""
    queries = np.arange(FROM, len(tokens))
    if tokens.role != "long" or not len(queries):
        return None
    recent_QN = queries[:, None] - np.arange(RECENT)
    sinks_QN = np.tile(np.arange(SINKS), (len(queries), 1))
    return sparse(len(tokens), queries, np.hstack([recent_QN, sinks_QN]), sink=True)


FAMILY = Family(
    name="streaming",
    order=4,
    task="text",
    threshold=0.95,
    convention=True,
    statistic="mass",
    content=False,
    relation_text="t ≥ 256 → 4 sinks + last 64 tokens",
    source="Xiao+ ICLR 2025 (arXiv 2410.10819)",
    relation=relation,
    tested=False,
)
