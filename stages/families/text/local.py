"""Local heads keep nearly all attention on the last eight tokens, the current one included."""

import numpy as np

from stages.families.family import Family, Relation, Tokens, sparse

NEAR = 8  # tokens


def relation(tokens: Tokens) -> Relation | None:
    """t -> t-7 .. t, on long passages, from queries that could look farther."""
    if tokens.role == "short":
        return None
    queries = np.arange(len(tokens))
    queries = queries[~tokens.special & (queries >= 2 * NEAR)]
    if not len(queries):
        return None
    keys_QN = queries[:, None] - np.arange(NEAR)
    return sparse(len(tokens), queries, np.where(tokens.special[keys_QN], -1, keys_QN))


FAMILY = Family(
    name="local",
    order=2,
    task="text",
    threshold=0.8,
    convention=True,
    statistic="mass",
    content=False,
    relation_text="t → last 8 tokens",
    source="convention of this project; locality in Clark+ 2019 (arXiv 1906.04341)",
    relation=relation,
    within=("streaming",),
)
