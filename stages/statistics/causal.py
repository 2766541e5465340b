"""Every head alone on every task: what silencing it changes, by gradients for all, exactly for some. Pure pandas.

`first_order` is the estimate of all heads (stages/model/first_order.py), `exact` the change when the head was really
silenced, where it was; `change` is the exact one where there is one. low and high bound `change` over the prompts that
it was measured on: where it is an estimate, they say nothing of how far it is from the truth. q is given of exact
changes alone: Benjamini-Hochberg over the heads silenced on a task, of a two-sided sign-flip test over clusters. How
far first order may be trusted is measured, never assumed: rank correlation over the heads that have both, on the
prompts that have both, and how often the signs of the largest exact effects agree. A head without which the model is
worse than a uniform guess has a note, as sets of heads have (`stages.statistics.effects`).

Legend: P prompt, H head.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from stages.statistics.effects import WORSE, beyond
from stages.statistics.intervals import interval
from stages.statistics.ranks import adjusted
from stages.statistics.verdict import sign_flip

CAUSAL = "layer head task measure change low high q first_order exact note".split()
AGREEMENT = "task measure heads rank_correlation sign_agreement top".split()
TOP = 20  # heads with the largest exact effects, whose signs are compared


def tables(
    first_order: pd.DataFrame,
    effects: pd.DataFrame,
    kind: str,
    resamples: int,
    stream: Callable[[str], np.random.Generator],
    limit: float,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return causal.csv (a row per head, task and measure) and agreement.csv (a row per task and measure).

    first_order: table FIRST_ORDER; effects: table EFFECTS, of which rows of single heads count; kind: of silencing;
    resamples: sign flips; stream: a name -> its random stream; limit: the loss of a uniform guess, ln V (nats).
    """
    estimates = first_order[first_order.kind == kind]
    single = effects[(effects.purpose == "single") & (effects.kind == kind)]
    places = single["heads"].str.extract(r"^L(\d+)H(\d+)$").astype(int)
    exact = single.assign(layer=places[0], head=places[1], change=single.value - single.intact)
    causal, agreement = [], []
    for (task, measure), estimated in estimates.groupby(["task", "measure"], sort=True):
        silenced = exact[(exact.task == task) & (exact.measure == measure)]
        heads = _heads(estimated, silenced, resamples, stream(f"{task}/{measure}"))
        alone = silenced.groupby(["layer", "head"]).value.mean()
        worse = alone.index[[beyond(measure, value, limit) for value in alone]]
        heads["note"] = np.where(pd.MultiIndex.from_frame(heads[["layer", "head"]]).isin(worse), WORSE, "")
        causal.append(heads.assign(task=task, measure=measure))
        agreement.append({"task": task, "measure": measure} | _agreement(estimated, silenced))
    if not causal:
        return pd.DataFrame(columns=CAUSAL), pd.DataFrame(columns=AGREEMENT)
    return pd.concat(causal, ignore_index=True)[CAUSAL], pd.DataFrame(agreement, columns=AGREEMENT)


def _heads(estimated: pd.DataFrame, silenced: pd.DataFrame, resamples: int, rng: np.random.Generator) -> pd.DataFrame:
    """Return a row per head of one task and measure."""
    rows = []
    exactly = dict(iter(silenced.groupby(["layer", "head"])))
    for (layer, head), estimates_P in estimated.groupby(["layer", "head"], sort=True):
        exact_P = exactly.get((layer, head))
        row = {"layer": layer, "head": head, "first_order": estimates_P.change.mean()}
        row["exact"] = np.nan if exact_P is None else exact_P.change.mean()
        shown_P = estimates_P if exact_P is None else exact_P
        low, high = interval(shown_P.change, shown_P.cluster)
        rows.append(row | {"change": shown_P.change.mean(), "low": low, "high": high})
    table = pd.DataFrame(rows)
    return table.merge(_tested(silenced, resamples, rng), "left", on=["layer", "head"])


def _tested(silenced: pd.DataFrame, resamples: int, rng: np.random.Generator) -> pd.DataFrame:
    """Return layer, head, q of the heads that were silenced alone on the same prompts; the same signs for all heads."""
    if silenced.empty:
        return pd.DataFrame({"layer": [], "head": [], "q": []})
    changes_PH = silenced.pivot(index="prompt", columns=["layer", "head"], values="change")
    clusters_P = silenced.drop_duplicates("prompt").set_index("prompt").cluster[changes_PH.index].to_numpy(str)
    values_PH = changes_PH.to_numpy(float)
    sides = sign_flip(np.hstack([values_PH, -values_PH]), clusters_P, resamples, rng).reshape(2, -1)
    return changes_PH.columns.to_frame(index=False).assign(q=adjusted(np.minimum(1, 2 * sides.min(axis=0))))


def _agreement(estimated: pd.DataFrame, silenced: pd.DataFrame) -> dict[str, float]:
    """Compare both over the heads and prompts that have both; nan where fewer than three heads do."""
    from scipy.stats import spearmanr

    both = silenced.merge(estimated, on=["layer", "head", "prompt"], suffixes=("_exact", "_first"))
    means = both.groupby(["layer", "head"])[["change_exact", "change_first"]].mean()
    row = {"heads": len(means), "rank_correlation": np.nan, "sign_agreement": np.nan, "top": min(TOP, len(means))}
    if len(means) >= 3 and means.nunique().min() > 1:
        row["rank_correlation"] = spearmanr(means.change_exact, means.change_first).statistic
    if len(means):
        top = means.loc[means.change_exact.abs().sort_values(ascending=False, kind="stable").index[:TOP]]
        row["sign_agreement"] = float((np.sign(top.change_exact) == np.sign(top.change_first)).mean())
    return row
