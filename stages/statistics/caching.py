"""Caches cut head by head: which key heads keep all, by which ranking, and what that costs. Pure numpy and pandas.

A key head's cache serves all query heads that read it, so a policy is a set of key heads that keep every key; all
others keep some first tokens (sinks) and a window. Rankings of key heads, best first:

    gate       how far the last hidden state moves when the key head alone streams (split a)
    retrieval  Wu's score of its best query head (split a)
    first      the order of layers
    random     sets of as many, drawn: what a rank p is taken against

Everything else is reported on split b.
"""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd

from stages.statistics.intervals import interval
from stages.statistics.ranks import rank_p

HALF = 0.5
NEAR = 0.75  # of the gate that counts: query heads that reach it on the first prompts are measured on all
CLOSE = 0.05  # recall lost, at most, where a cache does as well as the full one (a convention)
ALONE = -1  # in column head: all query heads that read a key head stream together
KeyHead = tuple[int, int]  # (layer, key head)
CURVE = (
    "task measure method share kept kept_heads entries value low high change change_low change_high prompts clusters "
    "draws draws_mean draws_best draws_close draws_worse p p_floor"
).split()
GATES = (
    "layer head key_head layer_window change low high logprob key_change key_low key_high key_logprob mass mass_answer "
    "wu induction echo prompts key_prompts weighed"
).split()
OVERLAP = "a b threshold_a threshold_b heads_a heads_b shared heads spearman".split()
STREAMED = "sinks positions length loss change low high passages tokens".split()


def name(heads: list[KeyHead]) -> str:
    """Return 'L5K0 L11K0': key heads, in order."""
    return " ".join(f"L{layer}K{key_head}" for layer, key_head in sorted(heads))


def ranked(values: Mapping[KeyHead, float]) -> list[KeyHead]:
    """Return key heads, the largest value first; what is equal in order of layers."""
    return sorted(values, key=lambda at: (-values[at], at))


def screened(gates: list[dict], small: float) -> set[tuple[int, int]]:
    """Return the query heads (layer, head) whose mean change is at least NEAR of `small`: they are measured on."""
    raw = pd.DataFrame(gates, columns=["layer", "head", "change"])
    change = raw[raw["head"] != ALONE].groupby(["layer", "head"]).change.mean()
    return {(int(layer), int(head)) for layer, head in change.index[change >= NEAR * small]}


def kept(share: float, count: int) -> int:
    """Return how many of so many key heads a share is."""
    return int(np.floor(share * count + 0.5))


def policies(
    rankings: Mapping[str, list[KeyHead]],
    shares: tuple,
    draws: int,
    rng: np.random.Generator,
    controlled: tuple = (HALF,),
    compared: tuple = (HALF,),
) -> list[tuple]:
    """Return (method, share, draw, key heads that keep all); rankings: method -> key heads, the best first.

    The gate's of every share; the others' at half and at the shares `compared`; `draws` random sets at each of the
    shares `controlled`.
    """
    everything = sorted(rankings["gate"])
    tried = [("none", 0.0, 0, [])]
    sizes = {share: kept(share, len(everything)) for share in (*shares, *controlled, *compared, HALF)}
    tried += [("gate", share, 0, rankings["gate"][: sizes[share]]) for share in sorted(sizes)]
    others = {method: order for method, order in rankings.items() if method != "gate"}
    for share in sorted({*compared, HALF}):
        tried += [(method, share, 0, order[: sizes[share]]) for method, order in others.items()]
    for share in sorted(controlled, reverse=True):
        for draw in range(1, draws + 1):
            drawn = rng.permutation(len(everything))[: sizes[share]]
            tried.append(("random", share, draw, [everything[place] for place in sorted(drawn)]))
    return tried


def entries(full: list[KeyHead], windows: Mapping[KeyHead, int | None], tokens: int, size: int) -> float:
    """Return the share of a cache's entries that is kept after so many tokens.

    windows: of the model's own, by key head: such a layer needs no more than its window, cut or not.
    """
    own = {at: min(tokens, window or tokens) for at, window in windows.items()}
    left = {at: count if at in full else min(count, size) for at, count in own.items()}
    return sum(left.values()) / sum(own.values())


def _told_apart(raw: pd.DataFrame) -> pd.DataFrame:
    """Return random sets at half again, as 'random_with' and 'random_without': do they hold the best by the gate?

    The best are the key heads of the gate's smallest share: a large random set may hold them all by chance.
    """
    gate = raw[raw.method == "gate"]
    best = set(gate[gate.share == gate.share.min()].kept_heads.iloc[0].split()) if len(gate) else set()
    drawn = raw[(raw.method == "random") & (raw.share == HALF)]
    holds = np.array([best <= set(full.split()) for full in drawn.kept_heads], dtype=bool)
    return drawn.assign(method=np.where(holds, "random_with", "random_without")) if best else drawn.head(0)


def table(raw: pd.DataFrame) -> pd.DataFrame:
    """Return one row per task, measure, method and share: the mean, its change from the full cache, and a rank p.

    p: (1 + random sets that do as well as the gate's or better) / (1 + sets); change: paired on the same prompts;
    draws_close: random sets whose mean is within CLOSE of the full cache's; draws_worse: those that lose more than
    this row's.
    """
    rows, raw = [], pd.concat([raw, _told_apart(raw)], ignore_index=True).astype({"value": float})  # ties stay ties
    for (task, measure), of_task in raw.groupby(["task", "measure"], sort=False):
        full_P = of_task[of_task.method == "full"].set_index("prompt").value
        sign = -1 if measure == "loss" else 1
        random = of_task[of_task.method == "random"]
        for (method, share), rows_P in of_task.groupby(["method", "share"], sort=False):
            drawn = random[random.share == share].groupby("draw").value.mean()
            means = rows_P.groupby("prompt", as_index=False).agg({"value": "mean", "cluster": "first"})
            change_P = (means.value - means.prompt.map(full_P)).astype(float)
            shares = {"share": True} if measure == "recall" else {}
            shown = interval(means.value, means.cluster, **shares)
            if measure == "recall":
                moved = change_interval(means.prompt.map(full_P), means.value, means.cluster)
            else:
                moved = interval(change_P, means.cluster)
            row = {"task": task, "measure": measure, "method": method, "share": share, "kept": rows_P.kept.iloc[0]}
            row |= {
                "kept_heads": "" if method.startswith("random") else rows_P.kept_heads.iloc[0],
                "entries": rows_P.entries.mean(),
            }
            row |= {"value": means.value.mean(), "low": shown[0], "high": shown[1], "change": change_P.mean()}
            row |= {"change_low": moved[0], "change_high": moved[1], "prompts": len(means)}
            row |= {"clusters": means.cluster.nunique(), "draws": 0}
            if method in ("random_with", "random_without"):
                row |= {"draws": rows_P.draw.nunique()}
            elif len(drawn):
                row |= {"draws": len(drawn), "draws_mean": drawn.mean(), "draws_best": sign * (sign * drawn).max()}
                row |= {"draws_close": int((sign * drawn >= sign * full_P.mean() - CLOSE).sum())}
                if method != "random":
                    p, floor = rank_p(sign * means.value.mean(), sign * drawn)
                    row |= {"draws_worse": round(len(drawn) + 1 - p * (len(drawn) + 1)), "p": p, "p_floor": floor}
            rows.append(row)
    return pd.DataFrame(rows, columns=CURVE).astype({"draws_close": "Int64", "draws_worse": "Int64"})


def change_interval(full_P, value_P, clusters) -> tuple[float, float]:
    """Return low and high of the mean change of shares from full_P to value_P, of the same prompts, given full_P.

    What can be lost of a prompt is full, what can be gained 1 - full. The part that is lost of all that can be, and
    the part that is gained, are shares, each with Wilson's interval over clusters (0 to 1 where clusters are too few);
    the change, -full x lost + (1 - full) x gained, puts both together (Newcombe 1998, Stat. Med. 17: the distances to
    their bounds add in squares). So value = full + change never leaves 0..1. (nan, nan) below 8 clusters.
    """
    full_P, value_P = np.asarray(full_P, dtype=float), np.asarray(value_P, dtype=float)
    if np.isnan(interval(value_P, clusters, share=True)).any():
        return np.nan, np.nan
    parts = []
    for room_P, used_P in ((full_P, full_P - value_P), (1 - full_P, value_P - full_P)):
        if not (there := room_P > 1e-9).any():
            parts.append((0.0, 0.0, 0.0, 0.0))
            continue
        part_P = np.round(np.clip(used_P[there], 0, None) / room_P[there], 6)  # shares are float32: none is exactly 0
        low, high = interval(part_P, np.asarray(clusters)[there], room_P[there], share=True)
        part = np.average(part_P, weights=room_P[there])
        parts.append((room_P.mean(), part, *((0.0, 1.0) if np.isnan(low) else (low, high))))
    (full, lost, lost_low, lost_high), (room, gained, gained_low, gained_high) = parts
    change = room * gained - full * lost
    low = change - np.hypot(full * (lost_high - lost), room * (gained - gained_low))
    high = change + np.hypot(full * (lost - lost_low), room * (gained_high - gained))
    return float(low), float(high)


def gates(raw: pd.DataFrame, heads: pd.DataFrame, windows: Mapping[int, int | None]) -> pd.DataFrame:
    """Return one row per query head: what is lost when it alone streams, when its key head does, and other scores.

    raw: GATES; heads: HEADS, whose scores of split a stand beside; windows: the layers' own. prompts, key_prompts,
    weighed: how many the head's gate, its key head's, and its attention to what is cut rest on. low, high: 95 % over
    clusters of a gate, `change`; none of fewer than `FEWEST`.
    """
    alone, together = raw[raw["head"] != ALONE], raw[raw["head"] == ALONE]
    means = alone.groupby(["layer", "head", "key_head"], as_index=False).agg(
        change=("change", "mean"), logprob=("logprob", "mean"), mass=("mass", "mean"),
        mass_answer=("mass_answer", "mean"), prompts=("prompt", "nunique"), weighed=("mass", "count"),
    )  # fmt: skip
    of_keys = together.groupby(["layer", "key_head"], as_index=False).agg(
        key_change=("change", "mean"), key_logprob=("logprob", "mean"), key_prompts=("prompt", "nunique")
    )
    means = means.merge(of_keys, on=["layer", "key_head"], how="left")
    means = means.merge(_bounds(alone, ["layer", "head"], "low", "high"), on=["layer", "head"], how="left")
    keys = _bounds(together, ["layer", "key_head"], "key_low", "key_high")
    means = means.merge(keys, on=["layer", "key_head"], how="left")
    for column, family in (("wu", "retrieval"), ("induction", "induction"), ("echo", "duplicate")):
        of_family = heads[heads.family == family][["layer", "head", "score_a"]].rename(columns={"score_a": column})
        means = means.merge(of_family, on=["layer", "head"], how="left")
    means["layer_window"] = means.layer.map(windows).astype("Int64")
    return means[GATES].sort_values(["layer", "head"], ignore_index=True)


def _bounds(raw: pd.DataFrame, by: list[str], low: str, high: str) -> pd.DataFrame:
    rows = [
        dict(zip((*by, low, high), (*of, *interval(part.change, part.cluster)), strict=True))
        for of, part in raw.groupby(by)
    ]
    return pd.DataFrame(rows, columns=[*by, low, high])


def overlap(measured: pd.DataFrame, thresholds: Mapping[str, float]) -> pd.DataFrame:
    """Return how far definitions of a head that needs the far past agree: heads of each, of both, Spearman's rho.

    measured: as `gates` gives it; thresholds: definition -> smallest value; those not measured are left out.
    """
    from scipy.stats import spearmanr

    values = {"gate": measured.change, "logprob": -measured.logprob, "mass": measured.mass}
    values |= {"mass_answer": measured.mass_answer, "wu": measured.wu, "induction": measured.induction}
    values |= {"echo": measured.echo}
    values = {definition: value for definition, value in values.items() if len(value) and value.notna().all()}
    rows = []
    for a, b in [*((each, each) for each in values), *combinations(values, 2)]:
        in_a, in_b = values[a] >= thresholds[a], values[b] >= thresholds[b]
        alike = values[a].nunique() < 2 or values[b].nunique() < 2
        rows.append(
            {"a": a, "b": b, "threshold_a": thresholds[a], "threshold_b": thresholds[b], "heads_a": int(in_a.sum()),
             "heads_b": int(in_b.sum()), "shared": int((in_a & in_b).sum()), "heads": len(measured),
             "spearman": np.nan if alike else spearmanr(values[a], values[b]).statistic}
        )  # fmt: skip
    return pd.DataFrame(rows, columns=OVERLAP)


def streamed(raw: pd.DataFrame) -> pd.DataFrame:
    """Return the mean loss per number of sinks, positions and length, and its change from full attention, paired."""
    rows = []
    full = raw[raw.sinks == -1].set_index(["prompt", "length"]).loss
    for (sinks, positions, length), of_cell in raw.groupby(["sinks", "positions", "length"], sort=True):
        change_P = of_cell.loss.to_numpy(float) - full.loc[list(zip(of_cell.prompt, of_cell.length, strict=True))]
        low, high = interval(change_P.to_numpy(), of_cell.cluster)
        rows.append(
            {"sinks": sinks, "positions": positions, "length": length, "loss": of_cell.loss.mean(),
             "change": change_P.mean(), "low": low, "high": high, "passages": of_cell.prompt.nunique(),
             "tokens": int(of_cell.tokens.sum())}
        )  # fmt: skip
    return pd.DataFrame(rows, columns=STREAMED)


def metrics(measured: pd.DataFrame, curve: pd.DataFrame, small: float) -> dict:
    """Return `gates.streaming_share` and `cache.half.{recall,random}`; what was not measured is left out."""
    tree: dict = {}
    if len(measured):
        tree["gates"] = {"streaming_share": round(float((measured.change < small).mean()), 5)}
    at = curve[(curve.measure == "recall") & (curve.share == HALF)].set_index("method").value
    names = {"gate": "recall", "random": "random"}
    half = {metric: round(float(at[method]), 5) for method, metric in names.items() if method in at.index}
    return tree | ({"cache": {"half": half}} if half else {})
