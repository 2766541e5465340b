"""From values per prompt to verdicts per head: score, interval, p, q, membership. Pure numpy.

score = mean over prompts; interval = t over clusters of prompts (stages/statistics/intervals.py: Wilson's for scores,
which are shares, Hall's for effects), none below 8 clusters; p = one-sided sign-flip test of the mean of
(value - null), clusters flipped whole; q = Benjamini-Hochberg over the heads of the family.
Member = score >= threshold and q < alpha and score - null >= margin and, where a fixed offset could fake the score,
lower bound > the best offset's accuracy. For indirect effects, whose null is 0, the threshold is the margin. Below 8
clusters a head cannot be shown to beat an offset: families that have one then have no members, and the note says so.

Simulated on scores as heads have them (tests/test_statistics.py: skewed shares of attention, hits of few queries, half
of the clusters at 0) these intervals cover 92-98 % at 8, 20 and 67 clusters; percentile bootstraps of the same cover
82-90 % at 8 and 88-94 % at 20. Shares of about 0.02 that a few clusters make up are covered by neither (78-90 % and
64-76 % at 8): it is the upper bound that is missed, and no member is made by that.

Legend: P prompt, H head (all layers), C cluster, R resample.
"""

import numpy as np

from stages.families.family import Family
from stages.statistics.intervals import FEWEST, interval
from stages.statistics.ranks import adjusted

HELD = 1 << 22  # random signs held at once, at most
NO_BOUND = f"fewer than {FEWEST} clusters of prompts: not shown to beat the best offset"


def clusters(values_PH: np.ndarray, names: np.ndarray) -> np.ndarray:
    """Return the sums (C, H) of the clusters, in order of their names."""
    unique, inverse = np.unique(names, return_inverse=True)
    sums_CH = np.zeros((len(unique), values_PH.shape[1]))
    np.add.at(sums_CH, inverse, values_PH)
    return sums_CH


def bounds(values_PH: np.ndarray, names: np.ndarray, weights_P: np.ndarray, share: bool) -> np.ndarray:
    """Return low and high (2, H) of the weighted mean over prompts; nan below 8 clusters of prompts with a value.

    share: values lie in 0..1.
    """
    _, owner_P = np.unique(names, return_inverse=True)
    return np.array([interval(values_P, owner_P, weights_P, share=share) for values_P in values_PH.T]).T


def sign_flip(values_PH: np.ndarray, names: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Return one-sided p-values (H,) of 'the mean is above 0': how often random signs of clusters do as well.

    (1 + count) / (1 + resamples), so p is never 0 (Phipson & Smyth 2010). A column that holds nan has p = nan.
    """
    sums_CH = clusters(values_PH, names)
    seen, count = sums_CH.sum(axis=0), np.zeros(sums_CH.shape[1])
    together = min(1000, max(1, HELD // len(sums_CH)))
    for start in range(0, resamples, together):
        signs_RC = rng.integers(0, 2, size=(min(together, resamples - start), len(sums_CH))) * 2.0 - 1
        count += (signs_RC @ sums_CH >= seen - 1e-12).sum(axis=0)
    return np.where(np.isnan(seen), np.nan, (1 + count) / (1 + resamples))


def judge(
    family: Family,
    values_PH: np.ndarray,
    null_PH: np.ndarray,
    baseline_P: np.ndarray,
    names: np.ndarray,
    split: np.ndarray,
    weights_P: np.ndarray,
    settings,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Return the columns of the heads table for one family, (H,) each.

    values, null: per prompt and head; baseline: accuracy of the best offset per prompt; names: cluster of each prompt;
    split: 'a' or 'b'; weights: of the prompts (ones, or queries where these weigh equally); settings: resamples,
    alpha, margin, thresholds (by family, where they differ from the families' own).
    """
    score = _mean(values_PH, weights_P)
    null = _mean(null_PH, weights_P)
    low, high = bounds(values_PH, names, weights_P, share=family.statistic != "effect")
    halves = {half: _mean(values_PH[split == half], weights_P[split == half]) for half in "ab"}
    member = score >= settings.thresholds.get(family.name, family.threshold)
    p = q = np.full(len(score), np.nan)
    if family.tested:
        beyond_PH = (values_PH - np.nan_to_num(null_PH)) * weights_P[:, None]
        p = sign_flip(beyond_PH, names, settings.resamples, rng)
        q = adjusted(p)
        member &= q < settings.alpha
    if family.statistic != "effect":
        member &= score - null >= settings.margin
    baseline = np.full(len(score), np.nan)
    note = np.full(len(score), "", dtype=object)
    if family.content:
        baseline[:] = np.average(baseline_P, weights=weights_P)
        note[member & (score > baseline) & np.isnan(low)] = NO_BOUND
        member &= low > baseline
    columns = {"score": score, "score_a": halves["a"], "score_b": halves["b"], "score_null": null, "baseline": baseline}
    return columns | {"low": low, "high": high, "p": p, "q": q, "member": member, "note": note}


def _mean(values_PH: np.ndarray, weights_P: np.ndarray) -> np.ndarray:
    """Return the weighted mean over prompts, of those that have a value; nan where none has."""
    there = ~np.isnan(values_PH)
    total = (there * weights_P[:, None]).sum(axis=0)
    return np.where(
        total > 0, (np.nan_to_num(values_PH) * weights_P[:, None]).sum(axis=0) / np.maximum(total, 1e-12), np.nan
    )


def jaccard(members_a: np.ndarray, members_b: np.ndarray) -> dict[str, float]:
    """Return how much two sets of heads overlap, corrected for chance.

    members: boolean, over the same heads. Expected is the Jaccard index of the mean overlap |A||B|/n of random sets of
    these sizes; corrected = (J - E) / (1 - E): 1 for equal sets, 0 at chance; nan where a set is empty or E = 1.
    """
    a, b, n = members_a.sum(), members_b.sum(), len(members_a)
    both = int((members_a & members_b).sum())
    if not a or not b:
        return {"shared": both, "jaccard": np.nan, "expected": np.nan, "corrected": np.nan}
    index, chance = both / (a + b - both), a * b / n
    expected = chance / (a + b - chance)
    corrected = (index - expected) / (1 - expected) if expected < 1 else np.nan
    return {"shared": both, "jaccard": index, "expected": expected, "corrected": corrected}
