"""When a measure jumps: the stretch of training with the steepest rise, with an interval. Pure numpy.

For a curve f over training steps (linear between checkpoints) and a window w:

    onset = t* + w/2,  rise = f(t* + w) - f(t*),  t* = argmax_t f(t + w) - f(t)

Every curve has such a stretch, also one that never jumps: the rise says whether there is anything to locate. Intervals
are percentile bootstraps in which held-out sequences are drawn again, the same for all measures, and, from three seeds
on, seeds too: what other sequences and other initial weights would have given, as far as so few seeds can tell.

Legend: S seed, C checkpoint, P held-out sequence, R resample, G grid of steps.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass

import numpy as np

SEEDS = 3  # from so many on, an interval is also over seeds
GRID = 20  # points in a window


@dataclass(frozen=True)
class Located:
    """A measure's onset, rise and last value per seed, (S,), and their bootstrap means over seeds, (R,) each."""

    onset_S: np.ndarray
    rise_S: np.ndarray
    final_S: np.ndarray
    onset_R: np.ndarray
    rise_R: np.ndarray
    final_R: np.ndarray


def locate(
    values: Mapping[str, np.ndarray],
    falls: Set[str],
    steps_C: np.ndarray,
    window: int,
    resamples: int,
    rng: np.random.Generator,
    weights: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Located]:
    """Locate every measure's jump.

    values: per measure (S, C, P), nan where a sequence does not define it; falls: measures whose fall is the jump.
    weights: per measure (P,) where sequences do not weigh equally: a measure is then a ratio of sums, resampled as one.
    """
    seeds, _, prompts = next(iter(values.values())).shape
    weights_RP = rng.multinomial(prompts, np.full(prompts, 1 / prompts), size=resamples).astype(float)
    weights_RS = np.full((resamples, seeds), 1 / seeds)
    if seeds >= SEEDS:
        weights_RS = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
    found = {}
    for name, values_SCP in values.items():
        sign = -1 if name in falls else 1
        weight_1P = np.ones((1, prompts)) if weights is None else weights[name][None]
        once = jump(sign * means(values_SCP, weight_1P)[0], steps_C, window)
        again = jump(sign * means(values_SCP, weights_RP * weight_1P), steps_C, window)
        scale = (1, sign, sign)
        over_seeds = [(part * weights_RS).sum(axis=1) * factor for part, factor in zip(again, scale, strict=True)]
        found[name] = Located(*(part * factor for part, factor in zip(once, scale, strict=True)), *over_seeds)
    return found


def means(values_SCP: np.ndarray, weights_RP: np.ndarray) -> np.ndarray:
    """Return weighted means over the sequences that define a measure, (R, S, C)."""
    defined_SCP = ~np.isnan(values_SCP)
    sums = np.einsum("rp,scp->rsc", weights_RP, np.where(defined_SCP, values_SCP, 0.0), optimize=True)
    with np.errstate(invalid="ignore"):
        return sums / np.einsum("rp,scp->rsc", weights_RP, defined_SCP.astype(float), optimize=True)


def jump(curve_C: np.ndarray, steps_C: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return onset, rise and last value of curves (..., C)."""
    window = min(window, int(steps_C[-1]))
    grid_G = np.arange(0, steps_C[-1] + 1, max(1, window // GRID))
    ahead = max(1, round(window / (grid_G[1] - grid_G[0])))
    mixing_CG = np.stack([np.interp(grid_G, steps_C, row) for row in np.eye(len(steps_C))])
    curve_G = curve_C @ mixing_CG
    rise_G = curve_G[..., ahead:] - curve_G[..., :-ahead]
    at = rise_G.argmax(axis=-1)
    rise = np.take_along_axis(rise_G, at[..., None], axis=-1)[..., 0]
    return grid_G[at] + window / 2, rise, curve_C[..., -1]
