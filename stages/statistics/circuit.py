"""From patched paths to who feeds an induction head: choice on split a, effects and ranks on split b. Pure numpy.

Of a target head: intact = its induction score (attention on the tokens after earlier occurrences), keys = the same with
all keys of the corrupted run. Of what is patched:

    noising    effect = intact - patched     what is lost without the intact contribution
    denoising  effect = patched - keys       what it brings back alone
    share      effect / (intact - keys)

and the same of the loss on repeats, the larger the worse (noising) or the better (denoising). Shares need not sum to 1:
softmax, and heads that stand in for each other.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from stages.statistics.control import NONE, Head, Pool, alike, alike_in_all, controls
from stages.statistics.intervals import FEWEST, interval
from stages.statistics.ranks import rank_p, score_with_effect

LOST = ("intact", "keys", "feeders", "others")  # what the loss is always measured of, beside single feeders
CARRIED = 0.05  # attention that corrupted keys must lose, at least: less is no effect to share out
PROMPTS = 20  # prompts that a claim rests on, at least
COLUMNS = (
    "target place purpose direction source kind layer head feeder previous composition copying intact value effect low "
    "high share loss loss_effect loss_low loss_high trials clusters controls control_largest p p_floor "
    "loss_control_largest loss_p loss_p_floor rho rho_p matching note"
).split()


def name(head: Head) -> str:
    """Write a head as people do: L5H1."""
    return f"L{head[0]}H{head[1]}"


def head_of(written: str) -> Head | None:
    """Read a head's name; None where it names something else."""
    parts = re.fullmatch(r"L(\d+)H(\d+)", written)
    return (int(parts[1]), int(parts[2])) if parts else None


def targets(judged: pd.DataFrame, most: int) -> list[Head]:
    """Return the strongest members by split a, at most so many; a head of the first layer has no earlier head.

    judged: rows of the heads table, of induction.
    """
    if judged.empty:
        return []
    inside = judged[judged.member_a & (judged.layer > judged.layer.min())]
    inside = inside.sort_values(["score_a", "layer", "head"], ascending=[False, True, True]).head(most)
    return [(int(layer), int(head)) for layer, head in zip(inside.layer, inside["head"], strict=True)]


def feeders(raw: pd.DataFrame, target: Head, share: float) -> list[Head]:
    """Return the heads whose noising loses at least this share on split a, the largest first.

    raw: rows of CIRCUIT. None where the corrupted keys lose next to nothing.
    """
    rows = raw[(raw.target == name(target)) & (raw.split == "a")]
    intact, keys = (rows[rows.purpose == purpose].score.mean() for purpose in ("intact", "keys"))
    alone = rows[(rows.purpose == "single") & (rows.direction == "noising")].groupby("sources").score.mean()
    lost = (intact - alone).sort_values(ascending=False, kind="stable")
    heads = {source: head_of(source) for source in lost.index}
    if not intact - keys >= CARRIED:
        return []
    return [heads[source] for source, effect in lost.items() if heads[source] and effect >= share * (intact - keys)]


def sets(feeding: Sequence[Head], target: Head, anatomy, draws: int, rng: np.random.Generator) -> dict:
    """Return (purpose, draw) -> heads that are patched together: the feeders, all others, matched other sets.

    anatomy: of the model: its `heads`, and `layers` with a `kind`. Controls may hold any earlier head but the feeders.
    """
    earlier = [head for head in anatomy.heads if head[0] < target[0]]
    together = {("others", 0): [head for head in earlier if head not in feeding]}
    if feeding:
        kinds = {number: layer.kind for number, layer in anatomy.layers.items()}
        pool = Pool(tuple(earlier), kinds, {"feeders": frozenset()})
        drawn = controls(list(feeding), "feeders", pool, draws, rng)
        together |= {("feeders", 0): list(feeding)}
        together |= {("control", number): list(heads) for number, heads in enumerate(drawn, start=1)}
    return {key: heads for key, heads in together.items() if heads}


def table(
    raw: pd.DataFrame, weights: pd.DataFrame, heads: pd.DataFrame, rng_of, resamples: int, kinds: Mapping[int, str]
) -> pd.DataFrame:
    """Return the summary, split b alone, with `COLUMNS`: per target one row of it, then what was patched.

    raw, weights: CIRCUIT and COMPOSITION; heads: the heads table, for previous-token scores; rng_of: name -> stream;
    kinds: kind of attention of each layer.
    """
    previous = heads[heads.family == "previous"].set_index(["layer", "head"]).score.to_dict()
    parts = [
        _of_target(rows, weights, previous, rng_of, resamples, kinds)
        for _, rows in raw[raw.split == "b"].groupby("place", sort=True)
    ]
    rows = [row for part in parts for row in part]
    return pd.DataFrame(rows, columns=COLUMNS)


def _of_target(rows: pd.DataFrame, weights: pd.DataFrame, previous: Mapping, rng_of, resamples, kinds) -> list[dict]:
    target, place = rows.target.iloc[0], int(rows.place.iloc[0])
    chosen = rows[rows.purpose == "feeders"].sources
    feeding = [head_of(source) for source in chosen.iloc[0].split()] if len(chosen) else []
    copied = weights[weights.measure == "copying"].set_index(["layer", "head"]).value.to_dict()
    composed = weights[weights.target == target].set_index(["layer", "head"]).value.to_dict()
    base = {
        purpose: rows[rows.purpose == purpose].set_index("prompt")[["score", "loss"]] for purpose in ("intact", "keys")
    }
    same = {"target": target, "place": place}
    span = (base["intact"].score - base["keys"].score).mean()
    everything = rows[rows.purpose == "keys"].assign(direction="noising")
    whole = same | {"purpose": "target", "source": target, "copying": copied.get(head_of(target))}
    whole |= _effect(everything, base, span) | {"direction": ""}
    made = []
    patched = rows[rows.direction != ""].groupby(["direction", "purpose", "draw", "sources"], sort=True)
    for (direction, purpose, draw, source), part in patched:
        head = head_of(source) if purpose == "single" else None
        row = same | {"purpose": purpose, "direction": direction, "source": source} | _effect(part, base, span)
        if purpose == "single":
            row["kind"] = "head" if head else "embedding" if source == "embedding" else "rest"
            row["feeder"] = int(head in feeding)
        if head:
            row |= {"layer": head[0], "head": head[1], "previous": previous.get(head)}
            row |= {"composition": composed.get(head), "copying": copied.get(head)}
        made.append(row | {"draw": draw})
    for row in made:
        if row["purpose"] == "feeders":
            beside = [r for r in made if r["purpose"] == "control" and r["direction"] == row["direction"]]
            effects_D = [r["effect"] for r in beside]
            losses_D = [r.get("loss_effect", np.nan) for r in beside]  # measured where params ask for it
            row["controls"], row["control_largest"] = len(beside), max(effects_D, default=np.nan)
            row["loss_control_largest"] = np.max(losses_D) if beside else np.nan  # nan if one lacks it
            if row["trials"] >= PROMPTS:
                row["p"], row["p_floor"] = rank_p(row["effect"], effects_D)
                row["loss_p"], row["loss_p_floor"] = rank_p(row.get("loss_effect", np.nan), losses_D)
            else:
                row["note"] = "; ".join(filter(None, [f"{row['trials']} prompts: fewer than {PROMPTS}", row["note"]]))
            pool = Pool((), kinds, {})
            levels = [alike(feeding, [head_of(s) for s in r["source"].split()], pool) for r in beside]
            row["matching"] = alike_in_all(levels) if levels else NONE
    alone = [r for r in made if r["purpose"] == "single" and r["kind"] == "head" and r["direction"] == "noising"]
    scores_H = np.array([np.nan if r["previous"] is None else r["previous"] for r in alone], dtype=float)
    effects_H, layers_H = np.array([r["effect"] for r in alone]), np.array([r["layer"] for r in alone])
    if len(alone):
        rho = score_with_effect(scores_H, effects_H, layers_H, rng_of(f"summarize/circuit/{target}"), resamples)
        whole["rho"], whole["rho_p"] = rho
    order = {"feeders": 0, "others": 1, "single": 2, "control": 3}
    made.sort(key=lambda r: (order[r["purpose"]], r["direction"] != "noising", -r["effect"], r["source"]))
    return [whole, *made]


def _effect(part: pd.DataFrame, base: Mapping[str, pd.DataFrame], span: float) -> dict:
    """Return value, effect and interval of what was patched, of the score and of the loss where it was measured."""
    noised = part.direction.iloc[0] == "noising"
    beside, sign = base["intact" if noised else "keys"].loc[part.prompt], -1 if noised else 1
    effect_P = sign * (part.score.to_numpy() - beside.score.to_numpy())
    low, high = interval(effect_P, part.cluster)
    row = {"intact": base["intact"].score.mean(), "value": part.score.mean(), "effect": effect_P.mean()}
    row |= {"low": low, "high": high, "share": effect_P.mean() / span if span >= CARRIED else np.nan}
    row |= {"trials": part.prompt.nunique(), "clusters": part.cluster.nunique()}
    lost_P = -sign * (part.loss.to_numpy(float) - beside.loss.to_numpy(float))
    if not np.isnan(lost_P).any():
        low, high = interval(lost_P, part.cluster)
        row |= {"loss": part.loss.mean(), "loss_effect": lost_P.mean(), "loss_low": low, "loss_high": high}
    few = row["clusters"] < FEWEST
    return row | {"note": f"{row['clusters']} clusters: fewer than {FEWEST}, no interval" if few else ""}


def metrics(summary: pd.DataFrame) -> dict[str, float]:
    """Return feeder_effect and null_effect of the strongest target: noising, attention lost, split b.

    feeder_effect: the first feeder's, chosen on split a; null_effect: the largest of all other earlier heads; joint:
    all feeders together. Nothing where no circuit was traced, no feeder where none was found.
    """
    rows = summary[(summary.place == 1) & (summary.direction == "noising")]
    heads, joint = rows[(rows.purpose == "single") & (rows.kind == "head")], rows[rows.purpose == "feeders"]
    values = {}
    if len(joint):
        first = joint.source.iloc[0].split()[0]
        values = {"feeder_effect": heads[heads.source == first].effect.iloc[0], "joint_effect": joint.effect.iloc[0]}
    null = heads[heads.feeder == 0].effect
    values |= {"null_effect": null.max()} if len(null) else {}
    return {key: round(float(value), 5) for key, value in values.items()}
