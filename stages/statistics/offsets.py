"""Is a function one offset? What its pairs (x, y) look like in a space of vectors, beside controls.

If f were a translation there, y = x + v for all pairs, then
    cosine         the mean cosine of two pairs' offsets y - x would be 1 (and -1 of one's with the other's reverse)
    axis           so would its size, the mean absolute cosine: high as well where offsets lie along a line, either way
    dimensions     the offsets would span one dimension: participation ratio of their singular values (Gao+ 2017)
    parallelogram  x plus the mean offset of the OTHER pairs would lie nearest to y, of all x and y but x, by cosine
    minus          so would y minus it to x,
    again          and y plus it would lie beyond all pairs: near x only by accident
Controls: `NULL` deals the y out anew, none to its own x: what words of two kinds have between them without being pairs.
`nearest` leaves the offset away: y may lie nearest to x anyway (Linzen 2016), so that a parallelogram shows nothing. An
involution, f(f(x)) = x, is no translation other than by nothing: y = x + v and x = y + v give 2 v = 0.

Legend: P pair, D width of the space, C candidate.
"""

from collections.abc import Callable, Mapping

import numpy as np

from stages.statistics.intervals import interval
from stages.statistics.ranks import rank_p

DRAWS = 99  # dealings
FEW = 8  # pairs; below it nothing is measured
SAME = 1 - 1e-9  # cosine of two vectors of one word


def cosine(x_PD: np.ndarray, y_PD: np.ndarray) -> float:
    """Return the mean cosine of two pairs' offsets, -1 / (P - 1) to 1."""
    unit_PD = _unit(y_PD - x_PD)
    count = len(unit_PD)
    return float((np.square(unit_PD.sum(0)).sum() - np.square(unit_PD).sum()) / (count * (count - 1)))


def axis(x_PD: np.ndarray, y_PD: np.ndarray) -> float:
    """Return the mean absolute cosine of two pairs' offsets, 0 to 1."""
    unit_PD = _unit(y_PD - x_PD)
    cosine_PP = np.abs(unit_PD @ unit_PD.T)
    return float(cosine_PP[np.triu_indices(len(unit_PD), 1)].mean())


def dimensions(x_PD: np.ndarray, y_PD: np.ndarray) -> float:
    """Return the participation ratio of the offsets: 1 for one direction, P for as many alike as there are pairs."""
    unit_PD = _unit(y_PD - x_PD)
    return float(len(unit_PD) ** 2 / np.square(unit_PD @ unit_PD.T).sum())  # trace(G)^2 / trace(G^2)


def hits(x_PD: np.ndarray, y_PD: np.ndarray, factor: float = 1.0) -> np.ndarray:
    """Tell for each pair whether y lies nearest to x plus `factor` times the mean offset of the other pairs, (P,)."""
    offsets_PD = y_PD - x_PD
    others_PD = (offsets_PD.sum(0) - offsets_PD) / (len(x_PD) - 1)
    return _nearest(x_PD + factor * others_PD, x_PD, y_PD)


def returns(x_PD: np.ndarray, y_PD: np.ndarray, factor: float) -> np.ndarray:
    """Tell for each pair whether x lies nearest to y plus `factor` times the others' mean offset, x to y, (P,)."""
    return hits(y_PD, x_PD, -factor)


def _nearest(guess_PD: np.ndarray, x_PD: np.ndarray, y_PD: np.ndarray) -> np.ndarray:
    candidates_CD = _unit(np.concatenate([y_PD, x_PD]))
    others_PC = _unit(guess_PD) @ candidates_CD.T
    own_P = others_PC.diagonal().copy()
    for word_PD in (x_PD, y_PD):  # pairs may share a word: y is not beaten by itself, and x is no candidate
        others_PC[_unit(word_PD) @ candidates_CD.T > SAME] = -np.inf
    return own_P > others_PC.max(1)


MEASURES: Mapping[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "cosine": cosine,
    "axis": axis,
    "dimensions": dimensions,
}
SHARES: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "parallelogram": hits,
    "nearest": lambda x_PD, y_PD: hits(x_PD, y_PD, 0.0),
    "minus": lambda x_PD, y_PD: returns(x_PD, y_PD, -1.0),
    "again": lambda x_PD, y_PD: returns(x_PD, y_PD, 1.0),
}
FALLS = ("dimensions", "again")  # smaller where there is one offset


def rows(x_PD: np.ndarray, y_PD: np.ndarray, rng: np.random.Generator) -> list[dict]:
    """Return a row per measure: value, low, high (of shares), null, p and pairs; none for fewer than `FEW` pairs.

    p: rank of the value among dealings, in the direction of one offset.
    """
    x_PD, y_PD = (np.asarray(words, dtype=np.float64) for words in (x_PD, y_PD))
    if len(x_PD) < FEW:
        return []
    x_PD, y_PD = np.split(_small(np.concatenate([x_PD, y_PD])), 2)
    dealt = [y_PD[_derangement(len(y_PD), rng)] for _ in range(DRAWS)]
    made = []
    for name in (*MEASURES, *SHARES):
        measure = MEASURES.get(name) or (lambda *pairs, name=name: float(SHARES[name](*pairs).mean()))
        value, null = measure(x_PD, y_PD), [measure(x_PD, other) for other in dealt]
        sign = -1 if name in FALLS else 1
        p, _ = rank_p(sign * value, [sign * other for other in null])
        low, high = interval(SHARES[name](x_PD, y_PD), range(len(x_PD)), share=True) if name in SHARES else (None, None)
        made.append({"measure": name, "value": value, "low": low, "high": high, "value_null": float(np.mean(null)),
                     "p": p, "pairs": len(x_PD)})  # fmt: skip
    return made


def _small(vectors_ND: np.ndarray) -> np.ndarray:
    """Return the vectors (N, N at most) in the coordinates of the space that they span: the same inner products."""
    left_NK, sizes_K, _ = np.linalg.svd(vectors_ND, full_matrices=False)
    return left_NK * sizes_K


def _derangement(count: int, rng: np.random.Generator) -> np.ndarray:
    """Return a random permutation without a fixed point."""
    while True:
        order = rng.permutation(count)
        if (order != np.arange(count)).all():
            return order


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12)
