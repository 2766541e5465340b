"""Every head alone on every task: what silencing it changes, by gradients for all, exactly for some. Pure pandas.

`first_order` is the estimate of all heads (stages/model/first_order.py), `exact` the change when the head was really
silenced, where it was; `change` is the exact one where there is one. low, high and q are those of `change`, on the
prompts that it was measured on: q = Benjamini-Hochberg, of a two-sided sign-flip test over clusters, over the heads
of a task and measure that were silenced and, apart from them, over those that were only estimated (on more prompts;
the q of an estimate says nothing of how far it is from the truth). How far first order may be trusted is measured,
never assumed: rank correlation over the heads that have both, on the prompts that have both, and how often the signs
of the largest exact effects agree.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.stats import false_discovery_control, spearmanr

from stages.statistics.intervals import interval
from stages.statistics.verdict import sign_flip

CAUSAL = "layer head task measure change low high q first_order exact".split()
AGREEMENT = "task measure heads rank_correlation sign_agreement top".split()
KIND = "mean"  # the kind that both are of
TOP = 20  # heads with the largest exact effects, whose signs are compared
RESAMPLES = 10_000  # sign flips


def tables(
    first_order: pd.DataFrame, effects: pd.DataFrame, stream: Callable[[str], np.random.Generator]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return causal.csv (a row per head, task and measure) and agreement.csv (a row per task and measure).

    first_order: table FIRST_ORDER; effects: table EFFECTS, of which rows of single heads count; stream: a name -> its
    random stream.
    """
    estimates = first_order[first_order.kind == KIND]
    single = effects[(effects.purpose == "single") & (effects.kind == KIND)]
    places = single["heads"].str.extract(r"^L(\d+)H(\d+)$").astype(int)
    exact = single.assign(layer=places[0], head=places[1], change=single.value - single.intact)
    causal, agreement = [], []
    for (task, measure), estimated in estimates.groupby(["task", "measure"], sort=True):
        silenced = exact[(exact.task == task) & (exact.measure == measure)]
        heads = _heads(estimated, silenced, stream(f"{task}/{measure}"))
        causal.append(heads.assign(task=task, measure=measure))
        agreement.append({"task": task, "measure": measure} | _agreement(estimated, silenced))
    if not causal:
        return pd.DataFrame(columns=CAUSAL), pd.DataFrame(columns=AGREEMENT)
    return pd.concat(causal, ignore_index=True)[CAUSAL], pd.DataFrame(agreement, columns=AGREEMENT)


def _heads(estimated: pd.DataFrame, silenced: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Return a row per head of one task and measure."""
    rows, p = [], []
    exactly = dict(iter(silenced.groupby(["layer", "head"])))
    for (layer, head), of_head in estimated.groupby(["layer", "head"], sort=True):
        shown = exactly.get((layer, head))
        row = {"layer": layer, "head": head, "first_order": of_head.change.mean()}
        row["exact"] = np.nan if shown is None else shown.change.mean()
        shown = of_head if shown is None else shown
        low, high = interval(shown.change, shown.cluster)
        rows.append(row | {"change": shown.change.mean(), "low": low, "high": high})
        values_P1 = shown.change.to_numpy(float)[:, None]
        sides = [sign_flip(side * values_P1, shown.cluster.to_numpy(str), RESAMPLES, rng)[0] for side in (1, -1)]
        p.append(min(1.0, 2 * min(sides)))
    table, p_H, q_H = pd.DataFrame(rows), np.array(p), np.full(len(p), np.nan)
    for silenced_alone in (True, False):
        group_H = (table.exact.notna().to_numpy() == silenced_alone) & ~np.isnan(p_H)
        if group_H.any():
            q_H[group_H] = false_discovery_control(p_H[group_H])
    return table.assign(q=q_H)


def _agreement(estimated: pd.DataFrame, silenced: pd.DataFrame) -> dict[str, float]:
    """Compare both over the heads and prompts that have both; nan where fewer than three heads do."""
    both = silenced.merge(estimated, on=["layer", "head", "prompt"], suffixes=("_exact", "_first"))
    means = both.groupby(["layer", "head"])[["change_exact", "change_first"]].mean()
    row = {"heads": len(means), "rank_correlation": np.nan, "sign_agreement": np.nan, "top": min(TOP, len(means))}
    if len(means) >= 3 and means.nunique().min() > 1:
        row["rank_correlation"] = spearmanr(means.change_exact, means.change_first).statistic
    if len(means):
        top = means.loc[means.change_exact.abs().sort_values(ascending=False, kind="stable").index[:TOP]]
        row["sign_agreement"] = float((np.sign(top.change_exact) == np.sign(top.change_first)).mean())
    return row
