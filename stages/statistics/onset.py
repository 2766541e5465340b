"""When a measure jumps: the stretch of training with the steepest rise, with an interval. Pure numpy.

For a curve f over training steps (linear between checkpoints) and a window w:

    onset = t* + w/2,  rise = f(t* + w) - f(t*),  t* = argmax_t f(t + w) - f(t)

Where several t are as steep (a jump shorter than w, or checkpoints further apart than w), t* is the middle of them.

Every curve has such a stretch, also one that never jumps: the rise says whether there is anything to locate (`rises`;
the largest of many differences is above 0 by noise alone, so that its interval is not enough). An onset can be at
`earliest` or after: what rises at once has its onset there. Where
checkpoints double apart, steps are counted in doublings of 1 + step, curves are linear between checkpoints on that
scale, and the window is a factor: onset = the geometric middle of the stretch over which 1 + step grows by it.

Intervals are percentile bootstraps in which held-out sequences are drawn again, the same for all measures, and, from
three seeds on, seeds too: what other sequences and other initial weights would have given, as far as so few can tell.

Where a measure has a level from which on its task counts as solved, the first checkpoint at that level is found as
well: not a number for a seed that never reaches it, and for a mean over seeds of which one never does.

Legend: S seed, C checkpoint, P held-out sequence, R resample, G grid of steps.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

SEEDS = 3  # from so many on, an interval is also over seeds
GRID = 20  # points in a window
TIE = 1e-9  # rises that differ by less are equal
RISES = 0.1  # of a measure's range: a smaller rise is not located
DOUBLING = 1000  # grid units in a doubling of 1 + step, where the window is a factor


@dataclass(frozen=True)
class Located:
    """A measure's onset, rise, last value and first step at its level per seed, (S,), and bootstrap means, (R,)."""

    onset_S: np.ndarray
    rise_S: np.ndarray
    final_S: np.ndarray
    solved_S: np.ndarray
    onset_R: np.ndarray
    rise_R: np.ndarray
    final_R: np.ndarray
    solved_R: np.ndarray


def locate(
    values: Mapping[str, np.ndarray],
    falls: Set[str],
    steps_C: np.ndarray,
    window: int,
    resamples: int,
    rng: np.random.Generator,
    levels: Mapping[str, float] = MappingProxyType({}),
    factor: float | None = None,
    weights: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Located]:
    """Locate every measure's jump.

    values: per measure (S, C, P), nan where a sequence does not define it; falls: measures whose fall is the jump;
    levels: from where on a measure's task counts as solved, for some measures;
    factor: the window as a factor on 1 + step, in the place of a number of steps;
    weights: per measure (P,) where sequences do not weigh equally: a measure is then a ratio of sums, resampled as one.
    """
    if factor is not None:
        steps_C, window = DOUBLING * np.log2(1 + steps_C), round(DOUBLING * np.log2(factor))
    seeds, _, prompts = next(iter(values.values())).shape
    weights_RP = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples).astype(float)
    weights_RS = np.full((resamples, seeds), 1 / seeds)
    if seeds >= SEEDS:
        weights_RS = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
    found = {}
    for name, values_SCP in values.items():
        sign = -1 if name in falls else 1
        level = sign * levels.get(name, np.nan)
        weight_1P = np.ones((1, prompts)) if weights is None else weights[name][None]
        curve_SC = sign * means(values_SCP, weight_1P)[0]
        curve_RSC = sign * means(values_SCP, weights_RP * weight_1P)
        once = [*jump(curve_SC, steps_C, window), reached(curve_SC, steps_C, level)]
        again = [*jump(curve_RSC, steps_C, window), reached(curve_RSC, steps_C, level)]
        if factor is not None:
            for place in (0, 3):
                once[place], again[place] = (2 ** (part[place] / DOUBLING) - 1 for part in (once, again))
        scale, drawn_RS = (1, sign, sign, 1), weights_RS > 0
        over_seeds = [
            np.where(drawn_RS, part * weights_RS, 0.0).sum(axis=1) * turn
            for part, turn in zip(again, scale, strict=True)
        ]
        found[name] = Located(*(part * turn for part, turn in zip(once, scale, strict=True)), *over_seeds)
    return found


def rises(rise: float, low: float, high: float, falls: bool, span: float) -> bool:
    """Say whether a rise is worth an onset: clear of 0 in its direction, and `RISES` of the measure's range `span`."""
    clear = high < 0 if falls else low > 0
    return clear and abs(rise) >= RISES * span


def earliest(first: int, window: int, factor: float | None = None) -> tuple[float, float]:
    """Return the earliest onset that can be, and up to where one is not told apart from it, in steps."""
    if factor is not None:
        return (1 + first) * factor**0.5 - 1, (1 + first) * factor ** (0.5 + 1 / GRID) - 1
    return first + window / 2, first + window / 2 + max(1, window // GRID)


def means(values_SCP: np.ndarray, weights_RP: np.ndarray) -> np.ndarray:
    """Return weighted means over the sequences that define a measure, (R, S, C)."""
    defined_SCP = ~np.isnan(values_SCP)
    sums = np.einsum("rp,scp->rsc", weights_RP, np.where(defined_SCP, values_SCP, 0.0), optimize=True)
    with np.errstate(invalid="ignore"):
        return sums / np.einsum("rp,scp->rsc", weights_RP, defined_SCP.astype(float), optimize=True)


def jump(curve_C: np.ndarray, steps_C: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return onset, rise and last value of curves (..., C); an onset is nan where nothing defines the curve."""
    window = min(window, int(steps_C[-1] - steps_C[0]))
    grid_G = np.arange(steps_C[0], steps_C[-1] + 1, max(1, window // GRID))
    ahead = max(1, round(window / (grid_G[1] - grid_G[0])))
    mixing_CG = np.stack([np.interp(grid_G, steps_C, row) for row in np.eye(len(steps_C))])
    curve_G = curve_C @ mixing_CG
    rise_G = curve_G[..., ahead:] - curve_G[..., :-ahead]
    rise = rise_G.max(axis=-1)
    ties_G = rise_G >= rise[..., None] - TIE
    at = (ties_G.argmax(axis=-1) + ties_G.shape[-1] - 1 - ties_G[..., ::-1].argmax(axis=-1)) // 2
    return np.where(np.isnan(rise), np.nan, grid_G[at] + window / 2), rise, curve_C[..., -1]


def reached(curve_C: np.ndarray, steps_C: np.ndarray, level: float) -> np.ndarray:
    """Return the first of the steps at which curves (..., C) are at a level or above; nan where they never are."""
    there_C = curve_C >= level
    return np.where(there_C.any(axis=-1), steps_C[there_C.argmax(axis=-1)], np.nan)
