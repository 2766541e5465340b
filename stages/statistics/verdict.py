"""From values per prompt to verdicts per head: score, interval, p, q, membership. Pure numpy.

score = mean over prompts; interval = percentile bootstrap, clusters of prompts resampled whole; p = one-sided sign-flip
test of the mean of (value - null), clusters flipped whole; q = Benjamini-Hochberg over the heads of the family.
Member = score >= threshold and q < alpha and score - null >= margin and, where a fixed offset could fake the score,
lower bound > the best offset's accuracy. For indirect effects, whose null is 0, the threshold is the margin.

Legend: P prompt, H head (all layers), C cluster, R resample.
"""

import numpy as np

from stages.families.family import Family
from stages.statistics.ranks import adjusted


def clusters(
    values_PH: np.ndarray, names: np.ndarray, weights_P: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return weighted sums (C, H) and weights (C,) of the clusters, in order of their names."""
    weights_P = np.ones(len(names)) if weights_P is None else weights_P
    unique, inverse = np.unique(names, return_inverse=True)
    sums = np.zeros((len(unique), values_PH.shape[1]))
    np.add.at(sums, inverse, values_PH * weights_P[:, None])
    return sums, np.bincount(inverse, weights_P).astype(float)


def bootstrap(
    values_PH: np.ndarray,
    names: np.ndarray,
    samples: int,
    rng: np.random.Generator,
    weights_P: np.ndarray | None = None,
) -> np.ndarray:
    """Return the 2.5 % and 97.5 % bounds (2, H) of the mean over prompts; nan for a column that holds nan.

    Clusters are resampled with replacement, the same ones for all columns.
    """
    sums, sizes = clusters(values_PH, names, weights_P)
    weights = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=samples).astype(float)  # (R, C)
    return np.percentile((weights @ sums) / (weights @ sizes)[:, None], [2.5, 97.5], axis=0)


def sign_flip(values_PH: np.ndarray, names: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Return one-sided p-values (H,) of 'the mean is above 0': how often random signs of clusters do as well.

    (1 + count) / (1 + resamples), so p is never 0 (Phipson & Smyth 2010). A column that holds nan has p = nan.
    """
    sums, _ = clusters(values_PH, names)
    seen, count = sums.sum(axis=0), np.zeros(sums.shape[1])
    for start in range(0, resamples, 1000):
        signs = rng.integers(0, 2, size=(min(1000, resamples - start), len(sums))) * 2.0 - 1  # (R, C)
        count += (signs @ sums >= seen - 1e-12).sum(axis=0)
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
    bootstrap, alpha, margin, thresholds (by family, where they differ from the families' own).
    """
    score = _mean(values_PH, weights_P)
    null = _mean(null_PH, weights_P)
    low, high = bootstrap(values_PH, names, settings.bootstrap, rng, weights_P)
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
    if family.content:
        baseline[:] = np.average(baseline_P, weights=weights_P)
        member &= low > baseline
    columns = {"score": score, "score_a": halves["a"], "score_b": halves["b"], "null": null, "baseline": baseline}
    return columns | {"low": low, "high": high, "p": p, "q": q, "member": member}


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
        return {"both": both, "jaccard": np.nan, "expected": np.nan, "corrected": np.nan}
    index, chance = both / (a + b - both), a * b / n
    expected = chance / (a + b - chance)
    corrected = (index - expected) / (1 - expected) if expected < 1 else np.nan
    return {"both": both, "jaccard": index, "expected": expected, "corrected": corrected}
