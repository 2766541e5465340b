"""Lessons that grade the answers themselves: a model answers every input at once, without continuing what it wrote.

A lesson about heads is scored token by token, each after the right ones. Where that would tell the answer (the digits
of a number that the model should or should not give), the answers stand beside each other instead: labels are at
positions that see no other answer. `stages.training.graded` runs the model and hands over what it gave.

Legend: N input, T token, Q symbol, U hidden unit of the last MLP.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from stages.recipes.lesson import Lesson, Watched


class End(NamedTuple):
    """A measure at the last checkpoint, mean over seeds, with its 95 % interval or, `ranged`, their range."""

    value: float
    low: float
    high: float
    ranged: bool = False

    def __str__(self) -> str:
        low, high = f"{self.low:.2f}", f"{self.high:.2f}"
        return f"{self.value:.2f} {f'({low} to {high})' if self.ranged else f'[{low}, {high}]'}"


class Graded(Lesson):
    """Base of lessons that grade answers; `held_out` returns what `inputs` and `graded` read."""

    watched: ClassVar[dict[str, Watched]] = {}
    families: ClassVar[str] = "stages/families/text"

    def inputs(self, held: Any) -> np.ndarray:
        """Return token ids (N, T) of all that the model answers."""
        raise NotImplementedError

    def graded(self, held: Any, logprob_NTQ: np.ndarray, units_NTU: np.ndarray) -> Iterator[tuple[str, int, float]]:
        """Yield (measure, number of the input, value).

        logprob_NTQ: natural log-probabilities of every symbol; units_NTU: activations of the last MLP's hidden units,
        what its output matrix is multiplied with.
        """
        raise NotImplementedError

    def verdict(self, ends: Mapping[str, End]) -> str:
        """Say what the last values of one arm's measures mean, no more than their bounds allow."""
        raise NotImplementedError
