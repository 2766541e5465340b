"""The fixed offset that could fake a relation: what any claim about content must beat. Pure numpy."""

from collections import Counter
from collections.abc import Iterable

import numpy as np

from stages.families.family import Relation


def best_offset(relations: Iterable[Relation]) -> int:
    """Return the offset d (query t -> key t - d) that hits most often when every query of every prompt uses it.

    Prompts weigh equally; of relations between words, queries do, as in their score.
    Choosing it on the prompts it is then scored on favours the baseline. Memory: one number per offset.
    """
    totals: Counter[int] = Counter()
    for relation in relations:
        rows, keys = relation.pairs
        offsets, counts = np.unique(relation.queries[rows] - keys, return_counts=True)
        shares = counts if relation.words else counts / len(relation.queries)
        for offset, hits in zip(offsets.tolist(), shares.tolist(), strict=True):
            totals[offset] += hits
    return max(sorted(totals), key=totals.__getitem__)


def offset_accuracy(relation: Relation, offset: int) -> float:
    """Return the share of the relation's queries that a head looking `offset` back would hit."""
    rows, keys = relation.pairs
    return float((keys == relation.queries[rows] - offset).sum() / len(relation.queries))
