"""Previous-token heads look one token back: the first half of the induction circuit (Clark+ 2019; Olsson+ 2022)."""

import numpy as np

from stages.families.family import Family, Relation, Tokens, one_key


def relation(tokens: Tokens) -> Relation | None:
    """t -> t-1, on long passages and repeats; special tokens neither ask nor answer."""
    if tokens.role == "short":
        return None
    queries = np.arange(1, len(tokens))
    queries = queries[~tokens.special[queries] & ~tokens.special[queries - 1]]
    return one_key(len(tokens), queries, queries - 1)


FAMILY = Family(
    name="previous",
    order=0,
    task="text",
    threshold=0.4,
    convention=True,
    statistic="mass",
    content=False,
    relation_text="t → t-1",
    source="Clark+ 2019 (arXiv 1906.04341)",
    relation=relation,
    home=("repeats", "icl"),
    within=("local", "streaming"),
)
