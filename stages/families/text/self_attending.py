"""Self heads look at the token they stand on (Clark+ 2019)."""

import numpy as np

from stages.families.family import Family, Relation, Tokens, one_key


def relation(tokens: Tokens) -> Relation | None:
    """t -> t, on long passages."""
    if tokens.role == "short":
        return None
    queries = np.flatnonzero(~tokens.special)
    queries = queries[queries > 0]  # the first token of a causal model has nowhere else to look
    return one_key(len(tokens), queries, queries)


FAMILY = Family(
    name="self",
    order=1,
    task="text",
    threshold=0.4,
    convention=True,
    statistic="mass",
    content=False,
    relation_text="t → t",
    source="Clark+ 2019 (arXiv 1906.04341)",
    relation=relation,
    within=("local", "streaming"),
)
