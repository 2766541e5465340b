"""Interpolated modified Kneser-Ney n-grams (Chen & Goodman 1999, Computer Speech and Language 13:359, section 3).

    p_k(w | h) = (c(h w) - D(c(h w))) / sum_v c(h v) + left(h) p_{k-1}(w | h without its first word)

with k = order .. 1, left(h) the mass that the discounts took off h, and p_0 a `base`: uniform, or another model. c
counts occurrences at the top order, and below it the distinct words seen before an n-gram (continuation counts). An
n-gram that begins a sequence keeps its own count: nothing stands before it. D(1), D(2), D(3+) come from the counts of
counts n_1 .. n_4 of each order (`discounts`). A history never seen leaves p_{k-1} as it is. So all sums are 1.

Words are integers in [0, V); START stands before every sequence and is never predicted. The end of a sentence is a word
like others: who wants it predicted counts it. An n-gram's type is numbered by (type of all but its last word, last
word), and types are sorted: what follows a history is one slice, and millions of words are a few arrays.

Legend: V vocabulary, N distinct n-grams of one order, H distinct histories, the n-grams of the order below.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from stages.baseline.base import Distribution

START = -1


@dataclass(frozen=True)
class Level:
    """All n-grams of one order: sorted keys (N,), discounted shares (N,), mass left to lower orders (H,)."""

    keys: np.ndarray
    share: np.ndarray
    left: np.ndarray


def discounts(counts: np.ndarray) -> np.ndarray:
    """Return [0, D1, D2, D3+] by Chen & Goodman's equation: Y = n1 / (n1 + 2 n2), D_c = c - (c + 1) Y n_{c+1} / n_c.

    Where these are not defined or not inside (0, c), as on a short prompt: one discount Y for all counts (Ney, Essen &
    Kneser 1994), and 1/2 where n1 or n2 is 0.
    """
    n = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].astype(float)
    once = n[0] / (n[0] + 2 * n[1]) if n[0] and n[1] else 0.5
    if n.all():
        c = np.arange(1, 4)
        found = c - (c + 1) * once * n[1:] / n[:-1]
        if ((found > 0) & (found < c)).all():
            return np.array([0, *found])
    return np.array([0, once, once, once])


class KneserNey:
    """An n-gram model counted on sequences of words, over the vocabulary of its base."""

    def __init__(self, sequences: Iterable[Sequence[int]], base: Distribution, order: int = 5) -> None:
        self.base, self.size, self.order = base, base.size, order
        begun = [[START, *sequence] for sequence in sequences]
        words = np.array([word for sequence in begun for word in sequence], dtype=np.int64)
        place = np.concatenate([np.arange(len(sequence)) for sequence in begun])
        types = np.zeros(len(words), dtype=np.int64)  # of the (k-1)-gram that ends at each position
        adjusted: list[tuple[np.ndarray, ...]] = []  # per order: keys, counts, which begin a sequence
        for k in range(1, order + 1):
            at = np.flatnonzero(place >= k - 1)  # where a k-gram ends
            keys, first, inverse, counts = np.unique(
                self._key(types[at - 1], words[at]), return_index=True, return_inverse=True, return_counts=True
            )
            if k > 1:  # a distinct k-gram is one more word before the (k-1)-gram that it ends with
                below, own, begins = adjusted[-1]
                before = np.bincount(types[at[first]], minlength=len(below))
                adjusted[-1] = below, np.where(begins, own, before), begins
            adjusted.append((keys, np.where(words[at[first]] == START, 0, counts), place[at[first]] == k - 1))
            types[at] = inverse
        self.levels, histories = [], 1
        for keys, counts, _ in adjusted:
            history, off = keys // (self.size + 1), discounts(counts)[np.minimum(counts, 3)]
            total, mass = (np.bincount(history, weights, minlength=histories) for weights in (counts, off))
            left = np.divide(mass, total, out=np.ones(histories), where=total > 0)
            self.levels.append(Level(keys, (counts - off) / np.maximum(total[history], 1), left))
            histories = len(keys)

    def probability(self, word: int, context: Sequence[int]) -> float:
        """Return p(word | context); context: all words since the sequence began."""
        p = self.base.probability(word, context)
        for level, history in self._seen(context):
            at = _find(level.keys, self._key(history, word))
            p = level.left[history] * p + (level.share[at] if at >= 0 else 0)
        return float(p)

    def distribution(self, context: Sequence[int]) -> np.ndarray:
        """Return p(. | context), (V,)."""
        p_V = self.base.distribution(context)
        for level, history in self._seen(context):
            start, end = np.searchsorted(level.keys, [self._key(history, 0), self._key(history + 1, START)])
            p_V *= level.left[history]
            p_V[level.keys[start:end] - self._key(history, 0)] += level.share[start:end]
        return p_V

    def _seen(self, context: Sequence[int]) -> Iterator[tuple[Level, int]]:
        """Yield each level, from order 1 up, with the type of the context's last words, as long as they were seen."""
        recent = [START, *context[-self.order + 1 :]] if len(context) < self.order - 1 else context[-self.order + 1 :]
        for k, level in enumerate(self.levels[: len(recent) + 1]):
            history = 0
            for below, word in zip(self.levels[:k], recent[len(recent) - k :], strict=True):
                history = _find(below.keys, self._key(history, word))
                if history < 0:
                    return
            yield level, history

    def _key(self, history, word):
        return history * (self.size + 1) + word + 1


def _find(keys: np.ndarray, key: int) -> int:
    """Return where a key stands, or -1."""
    at = int(keys.searchsorted(key))
    return at if at < len(keys) and keys[at] == key else -1
