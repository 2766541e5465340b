"""Claims as ranks: is a family's set of heads worse to lose than other sets, and does its score go with the harm?

Of a set: p = (1 + number of control sets at least as harmful) / (1 + D). Under 'the set is one of them' every rank is
equally likely, whatever prompts and heads are like; with D sets p cannot be below its floor, 1 / (1 + D).
Of single heads: Spearman's correlation of score and harm over heads, against permutations of heads within layers, so
that 'late layers matter more' is no evidence.
"""

from collections.abc import Iterable

import numpy as np

TIE = 2e-7  # effects this near are equal: what float32 leaves of a difference of two shares, in either set


def rank_p(effect: float, controls: Iterable[float]) -> tuple[float, float]:
    """Return p and its floor; (nan, nan) without controls or where a value is nan. Effects: the larger, the worse.

    A tie is as harmful. Its tolerance is absolute, as the rounding is of the values whose difference an effect is.
    """
    controls_D = np.asarray(list(controls), dtype=float)
    if not len(controls_D) or np.isnan(effect) or np.isnan(controls_D).any():
        return np.nan, np.nan
    as_harmful = int((controls_D >= effect - TIE).sum())
    return (1 + as_harmful) / (1 + len(controls_D)), 1 / (1 + len(controls_D))


def adjusted(p: np.ndarray) -> np.ndarray:
    """Return Benjamini-Hochberg q-values; nan stays nan and counts as no test."""
    from scipy.stats import false_discovery_control

    p = np.asarray(p, dtype=float)
    there = ~np.isnan(p)
    q = np.full(p.shape, np.nan)
    if there.any():
        q[there] = false_discovery_control(p[there])
    return q


def score_with_effect(
    scores: np.ndarray, effects: np.ndarray, layers: np.ndarray, rng: np.random.Generator, resamples: int
) -> tuple[float, float]:
    """Return Spearman's rho of score and effect over heads, and its one-sided p under permutation within layers.

    scores, effects, layers: (H,); effects: the larger, the worse to lose the head. Heads without a value are left out;
    (nan, nan) where fewer than three are left or all are alike. p = (1 + count) / (1 + resamples).
    """
    there = ~(np.isnan(scores) | np.isnan(effects))
    if there.sum() < 3 or np.ptp(scores[there]) == 0 or np.ptp(effects[there]) == 0:
        return np.nan, np.nan
    order = np.argsort(layers[there], kind="stable")
    layers_H = layers[there][order]
    scores_H, effects_H = (_unit_ranks(values[there])[order] for values in (scores, effects))
    rho, count = float(scores_H @ effects_H), 0
    bounds = np.flatnonzero(np.diff(layers_H)) + 1
    for start in range(0, resamples, 1000):
        shuffled_RH = np.tile(effects_H, (min(1000, resamples - start), 1))
        for part in np.split(np.arange(len(layers_H)), bounds):
            shuffled_RH[:, part] = rng.permuted(shuffled_RH[:, part], axis=1)
        count += int((shuffled_RH @ scores_H >= rho - 1e-9).sum())
    return rho, (1 + count) / (1 + resamples)


def _unit_ranks(values_H: np.ndarray) -> np.ndarray:
    """Return ranks with mean 0 and length 1: their product is Spearman's rho."""
    from scipy.stats import rankdata

    ranks_H = rankdata(values_H)
    return (ranks_H - ranks_H.mean()) / np.linalg.norm(ranks_H - ranks_H.mean())
