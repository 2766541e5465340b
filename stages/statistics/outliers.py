"""Are there outliers among numbers, without a cut made up beforehand? Pure numpy and scipy.

`beyond` says which of them lie above the median by more than `SPREADS` median absolute deviations, scaled to be a
standard deviation where the numbers are normal. Some always may: a long tail has them too. Whether outliers are a kind
of their own is asked by `one_mode`, the dip test (Hartigan & Hartigan 1985, Annals of Statistics 13): how far are the
numbers' shares below each value, at most, from those of the nearest distribution with one mode, and are as many
uniform numbers as far? Of all distributions with one mode the uniform one dips most, so that long tails and single
stray numbers are no second mode; a small one, of less than some 5 % in a thousand, is missed.

(Silverman's test of 1981, tried before, takes one stray number in a thousand for a mode: p = 0.01 each time.)

Legend: N number, I number in the interval of the mode.
"""

from functools import cache

import numpy as np
from scipy.optimize import isotonic_regression

SPREADS = 5.0  # median absolute deviations above the median
NORMAL = 1.4826  # from a median absolute deviation to a standard deviation
DRAWS = 999  # samples of uniform numbers: the smallest p is 1 / (1 + draws)
ROUNDING = 1e-10  # of shares
FEWEST = 4  # numbers that can dip
NEAR = 1e-9  # of their range, between equal numbers


def beyond(values_N: np.ndarray, spreads: float = SPREADS) -> np.ndarray:
    """Return which values lie more than so many median absolute deviations above the median, (N,)."""
    middle = np.median(values_N)
    spread = NORMAL * np.median(np.abs(values_N - middle))
    return values_N > middle + spreads * spread


def one_mode(values_N: np.ndarray) -> float:
    """Return the p that numbers with one mode dip as far: the rank of their dip among those of uniform numbers."""
    if len(values_N) < FEWEST:
        return 1.0
    return float((1 + (_uniform(len(values_N)) >= dip(values_N)).sum()) / (1 + DRAWS))


def dip(values_N: np.ndarray) -> float:
    """Return the dip: the largest distance to the nearest distribution function with one mode; 1 / 2N at least.

    Such a function is convex up to its mode and concave from there. From all numbers on, the interval of the mode is
    narrowed to where the greatest convex minorant and the least concave majorant of what it holds are farthest apart,
    until nothing in it is farther than what was left out of it. Equal numbers stand side by side, as if rounded.
    """
    count, reach = len(values_N), np.ptp(values_N)
    value_N = np.sort(values_N.astype(float)) + NEAR * reach * np.arange(count) / count
    lower_N = np.arange(count) / count  # share of the numbers below each, without and with itself
    upper_N = lower_N + 1 / count
    low, high, far = 0, count if reach > 0 else 1, 1 / count
    while high - low > 1:
        value_I, lower_I, upper_I = (column_N[low:high] for column_N in (value_N, lower_N, upper_N))
        convex_I, concave_I = _minorant(value_I, lower_I), -_minorant(value_I, -upper_I)
        lows, highs = (np.flatnonzero(gap_I < ROUNDING) for gap_I in (lower_I - convex_I, concave_I - upper_I))
        touched = np.union1d(lows, highs)
        apart = (concave_I - convex_I)[touched]
        place = touched[apart.argmax()]
        start, end = lows[lows <= place].max(), highs[highs >= place].min() + 1
        if apart.max() <= far + ROUNDING:
            break
        far = max(far, (upper_I - convex_I)[: start + 1].max(), (concave_I - lower_I)[end - 1 :].max())
        if end - start == high - low:
            break
        low, high = low + start, low + end
    return far / 2


def _minorant(value_I: np.ndarray, height_I: np.ndarray) -> np.ndarray:
    """Return the greatest convex function below points: its slopes are theirs, made to rise."""
    width = np.diff(value_I)
    slopes = isotonic_regression(np.diff(height_I) / width, weights=width).x
    return height_I[0] + np.r_[0.0, np.cumsum(slopes * width)]


@cache
def _uniform(count: int) -> np.ndarray:
    """Return the dips of `DRAWS` samples of so many uniform numbers, always the same ones."""
    rng = np.random.default_rng(count)
    return np.array([dip(rng.random(count)) for _ in range(DRAWS)])
