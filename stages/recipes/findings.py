"""From measures per checkpoint and sequence to findings: best heads, onsets, their order, arms against each other.

Pure pandas and numpy. A row is (arm, seed, step, measure, head, sequence, value, null); head is '' for what the whole
model does; a measure with '@' is a part of another one and is not located.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np
import pandas as pd

from stages.recipes.onset import Located
from stages.recipes.task import Task

FINDINGS = ["finding", "arm", "measure", "versus", "seed", "value", "low", "high"]


def best(rows: pd.DataFrame) -> pd.DataFrame:
    """Mark the head with the largest weighted mean on split a, per seed, step and relation; keep its values on split b.

    Splits are by the order of sequences, in equal parts. A model's outcomes are marked too and stay on both splits, as
    there is no choice in them.
    """
    on_a = rows.sequence.astype(int) % 2 == 0
    keys = ["arm", "seed", "step", "measure"]
    scores = averaged(rows[on_a], [*keys, "head"], sort=True)
    top = scores.loc[scores.groupby(keys).value.idxmax(), [*keys, "head"]].assign(best=1)
    merged = rows[~on_a | (rows["head"] == "")].merge(top, how="left", on=[*keys, "head"])
    return merged.assign(best=merged.best.fillna(0).astype(int))


def averaged(rows: pd.DataFrame, keys: list[str], sort: bool = False) -> pd.DataFrame:
    """Return means of value and null by keys, every sequence with its weight."""
    sums = rows.assign(value=rows.value * rows.weight, null=rows.null * rows.weight)
    sums["there"] = rows.weight.where(rows.null.notna(), 0.0)
    sums = sums.groupby(keys, sort=sort)[["value", "null", "weight", "there"]].sum().reset_index()
    with np.errstate(invalid="ignore"):
        return sums.assign(value=sums.value / sums.weight, null=sums.null / sums.there)


def together(rows: pd.DataFrame) -> pd.DataFrame:
    """Add, to rows with their best heads, the average over a measure's parts (`uas@obj` ...) as that measure (`uas`).

    Of relations between words (they have a head): an arc counts once, found or not by the best head of its label. A
    sequence has the share of its arcs that are found, weighed by their number. Of the parts only the best heads stay.
    """
    part = rows.measure.str.contains("@") & (rows["head"] != "")
    if not part.any():
        return rows
    arcs = rows[part & (rows.best == 1)]
    keys = ["arm", "seed", "step", "measure", "sequence"]
    whole = averaged(arcs.assign(measure=arcs.measure.str.split("@").str[0]), keys)
    whole = whole.assign(head="", best=1)[rows.columns]
    return pd.concat([rows[~part], arcs, whole], ignore_index=True)


def arrays(rows: pd.DataFrame) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, np.ndarray]]:
    """Return an arm's measures as (S, C, P), best heads standing for relations, its steps (C,) and the weights (P,)."""
    chosen, values, weights = rows[(rows.best == 1) & ~rows.measure.str.contains("@")], {}, {}
    index = [sorted(rows[column].unique()) for column in ("seed", "step", "sequence")]
    for measure, mine in chosen.groupby("measure", sort=False):
        full = mine.set_index(["seed", "step", "sequence"]).value
        full = full.reindex(pd.MultiIndex.from_product(index))
        values[measure] = full.to_numpy().reshape(*map(len, index))
        weights[measure] = mine.groupby("sequence").weight.first().reindex(index[2]).fillna(0.0).to_numpy()
    return values, np.array(index[1]), weights


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of curve.csv: means over sequences, with the checkpoint's best head marked."""
    keys = ["arm", "seed", "step", "measure", "head", "best"]
    return averaged(rows, keys)[[*keys, "value", "null"]]


def compared(located: dict[str, dict[str, Located]], tasks: dict[str, Task]) -> Iterator[tuple]:
    """Yield the rows of findings.csv.

    onset, rise, final: of a measure, mean over seeds with its interval, and per seed without one. after: by how many
    steps a measure's onset follows that of the one named in `versus`. beyond: how much further the first arm's
    rise or last value goes than another arm's (`versus`), positive in the direction of the jump, down for losses.
    ahead: by how many steps the first arm's onset comes before another arm's. level: see `levelled`.
    """
    first = next(iter(located))
    for arm, measures in located.items():
        for measure, one in measures.items():
            for finding in ("onset", "rise", "final"):
                values_S, values_R = getattr(one, f"{finding}_S"), getattr(one, f"{finding}_R")
                yield finding, arm, measure, "", "", values_S.mean(), *_bounds(values_R)
                yield from ((finding, arm, measure, "", s, value, np.nan, np.nan) for s, value in enumerate(values_S))
        onsets = [measure for measure in tasks[arm].onsets if measure in measures]
        for earlier, later in pairwise(onsets):
            a, b = measures[earlier], measures[later]
            change = (b.onset_S - a.onset_S).mean()
            yield "after", arm, later, earlier, "", change, *_bounds(b.onset_R - a.onset_R)
        if arm != first:
            for measure, other in measures.items():
                one = located[first].get(measure)
                if one is not None:
                    sign = -1 if measure in tasks[arm].falls else 1
                    for finding in ("rise", "final"):
                        value = sign * (getattr(one, f"{finding}_S").mean() - getattr(other, f"{finding}_S").mean())
                        bounds = _bounds(sign * (getattr(one, f"{finding}_R") - getattr(other, f"{finding}_R")))
                        yield f"{finding} beyond", first, measure, arm, "", value, *bounds
                    ahead = (other.onset_S.mean() - one.onset_S.mean()), *_bounds(other.onset_R - one.onset_R)
                    yield "ahead", first, measure, arm, "", *ahead


def levelled(levels: Mapping[tuple[str, str], float], arm: str) -> Iterator[tuple]:
    """Yield what simpler means (`versus`) reach on the held-out sequences: rows of findings.csv without intervals."""
    for (measure, means), value in levels.items():
        yield "level", arm, measure, means, "", value, np.nan, np.nan


def _bounds(values_R: np.ndarray) -> tuple[float, float]:
    low, high = np.nanpercentile(values_R, [2.5, 97.5])
    return float(low), float(high)


def metrics(findings: pd.DataFrame, seeds: Mapping[str, int]) -> dict[str, float | int]:
    """Return the means over seeds that branches compare: last values, and onsets of the first arm.

    `<measure>` and `<measure>_onset` are the first arm's, `<arm>_<measure>` those of the others; seeds: runs per arm.
    `<means>_<measure>`: what simpler means reach on the same sequences, such as ngram_accuracy.
    """
    first = next(iter(seeds))
    found: dict[str, float | int] = {"seeds": seeds[first]}
    for row in findings[findings.seed.astype(str) == ""].itertuples():
        if row.finding == "final":
            found[row.measure if row.arm == first else f"{row.arm}_{row.measure}"] = round(row.value, 5)
        elif row.finding == "onset" and row.arm == first:
            found[f"{row.measure}_onset"] = round(row.value, 1)
        elif row.finding == "level" and "@" not in row.measure:
            found[f"{row.versus}_{row.measure}"] = round(row.value, 5)
    return found
