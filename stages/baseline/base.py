"""What a counting model backs off to: the protocol of a distribution over words, and the two simplest ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

UNKNOWN = 0  # the id of <unk> in every vocabulary of words


class Distribution(Protocol):
    """A probability for each of `size` words, the integers from 0 on, given the words so far."""

    size: int

    def probability(self, word: int, context: Sequence[int]) -> float:
        """Return p(word | context); context: all words since the sequence began."""

    def distribution(self, context: Sequence[int]) -> np.ndarray:
        """Return p(. | context), a new array (V,)."""


@dataclass(frozen=True)
class Uniform:
    """The same probability for every word."""

    size: int

    def probability(self, word: int, context: Sequence[int]) -> float:
        """Return 1 / V."""
        return 1 / self.size

    def distribution(self, context: Sequence[int]) -> np.ndarray:
        """Return 1 / V for all (V,)."""
        return np.full(self.size, 1 / self.size)


class Widened:
    """A model with `extra` more words, which it knows nothing of: they share the probability of <unk> equally with it.

    To the model each of them is <unk>, also in the context.
    """

    def __init__(self, model: Distribution, extra: int) -> None:
        self.model, self.extra, self.size = model, extra, model.size + extra

    def probability(self, word: int, context: Sequence[int]) -> float:
        """Return p(word | context)."""
        p = self.model.probability(self._known(word), self._all_known(context))
        return p / (1 + self.extra) if self._known(word) == UNKNOWN else p

    def distribution(self, context: Sequence[int]) -> np.ndarray:
        """Return p(. | context), (V + extra,)."""
        p_V = np.pad(self.model.distribution(self._all_known(context)), (0, self.extra))
        p_V[[UNKNOWN, *range(self.model.size, self.size)]] = p_V[UNKNOWN] / (1 + self.extra)
        return p_V

    def _known(self, word: int) -> int:
        return word if word < self.model.size else UNKNOWN

    def _all_known(self, context: Sequence[int]) -> list[int]:
        return [self._known(word) for word in context]
