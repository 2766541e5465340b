"""Are there outliers among numbers, without a cut made up beforehand? Pure numpy and scipy.

`beyond` says which of them lie above the median by more than `SPREADS` median absolute deviations, scaled to be a
standard deviation where the numbers are normal. Some always may: a long tail has them too. Whether outliers are a kind
of their own is asked by `two_modes`, Silverman's test (1981, Journal of the Royal Statistical Society B 43): how much
must a Gaussian kernel smooth the numbers until they have one mode, and do draws from that one-moded density need as
much?

Legend: N number, G grid point.
"""

import numpy as np
from scipy.ndimage import gaussian_filter1d

SPREADS = 5.0  # median absolute deviations above the median
NORMAL = 1.4826  # from a median absolute deviation to a standard deviation
GRID = 512  # points that densities are looked at on
DRAWS = 399  # the smallest p is 1 / (1 + draws)
HALVINGS = 12  # of the interval in which the critical width is looked for


def beyond(values_N: np.ndarray, spreads: float = SPREADS) -> np.ndarray:
    """Return which values lie more than so many median absolute deviations above the median, (N,)."""
    middle = np.median(values_N)
    spread = NORMAL * np.median(np.abs(values_N - middle))
    return values_N > middle + spreads * spread


def two_modes(values_N: np.ndarray, rng: np.random.Generator, draws: int = DRAWS) -> float:
    """Return Silverman's p that the numbers come from a density of one mode; 1 where all are equal."""
    spread = values_N.std()
    if len(values_N) < 3 or spread == 0:
        return 1.0
    critical = _critical(values_N)
    shrunk = 1 / np.sqrt(1 + (critical / spread) ** 2)  # so that draws have the numbers' own variance
    wider = 0
    for _ in range(draws):
        drawn_N = rng.choice(values_N, len(values_N)) + critical * rng.standard_normal(len(values_N))
        drawn_N = values_N.mean() + shrunk * (drawn_N - values_N.mean())
        wider += _modes(drawn_N, critical) > 1
    return (1 + wider) / (1 + draws)


def _critical(values_N: np.ndarray) -> float:
    """Return the smallest width of a Gaussian kernel at which the density has one mode."""
    low, high = 0.0, float(np.ptp(values_N))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _modes(values_N, middle) > 1 else (low, middle)
    return high


def _modes(values_N: np.ndarray, width: float) -> int:
    """Return how many modes the numbers have when a Gaussian kernel of this width smooths them."""
    reach = np.ptp(values_N) + 6 * width
    start = values_N.min() - 3 * width
    counts_G = np.bincount(((values_N - start) / reach * (GRID - 1)).round().astype(int), minlength=GRID).astype(float)
    density_G = gaussian_filter1d(counts_G, width / reach * (GRID - 1), mode="constant", truncate=5.0)
    density_G[density_G < 1e-9 * density_G.max()] = 0.0
    signs = np.sign(np.diff(np.r_[0.0, density_G, 0.0]))
    signs = signs[signs != 0]
    return int(((signs[:-1] > 0) & (signs[1:] < 0)).sum())
