"""The fixed offset that could fake a relation: what any claim about content must beat. Pure numpy."""

from collections import Counter
from collections.abc import Iterable

import numpy as np

from stages.families.family import Relation


class Offsets:
    """How often each offset d (query t -> key t - d) hits, over prompts that come one by one.

    Prompts weigh equally; of relations between words, queries do, as in their score. Memory: one number per offset.
    """

    def __init__(self) -> None:
        self.totals: Counter[int] = Counter()
        self.prompts = 0

    def add(self, relation: Relation) -> None:
        """Add the relation of a prompt."""
        rows, keys = relation.pairs
        offsets, counts = np.unique(relation.queries[rows] - keys, return_counts=True)
        shares = counts if relation.words else counts / len(relation.queries)
        for offset, hits in zip(offsets.tolist(), shares.tolist(), strict=True):
            self.totals[offset] += hits
        self.prompts += 1

    @property
    def best(self) -> int | None:
        """The offset that hits most often when every query of every prompt uses it; None where no prompt was added."""
        return max(sorted(self.totals), key=self.totals.__getitem__, default=None)


def best_offset(relations: Iterable[Relation]) -> int | None:
    """Return the best offset of all prompts; choosing it on those it is then scored on favours the baseline."""
    offsets = Offsets()
    for relation in relations:
        offsets.add(relation)
    return offsets.best


def offset_accuracy(relation: Relation, offset: int) -> float:
    """Return the share of the relation's queries that a head looking `offset` back would hit."""
    rows, keys = relation.pairs
    return float((keys == relation.queries[rows] - offset).sum() / len(relation.queries))
