"""From measures per checkpoint and sequence to findings: best heads, onsets, their order, arms against each other.

Pure pandas and numpy. A row is (arm, seed, step, measure, head, sequence, value, value_null); head is '' for what the
whole model does; a measure with '@' is a part of another one and is not located.
"""

from collections.abc import Iterator, Mapping, Set
from itertools import pairwise
from typing import Protocol

import numpy as np
import pandas as pd

from stages.statistics.intervals import FEWEST
from stages.statistics.onset import RISES, SEEDS, Located, rises


class Lesson(Protocol):
    """What is asked of a recipe's lesson here; see `stages.recipes.lesson.Lesson`."""

    falls: Set[str]
    onsets: tuple[str, ...]
    solved: Mapping[str, float]


FINDINGS = ["finding", "arm", "measure", "versus", "seed", "value", "low", "high"]
ORDERS = ("after", "onset later", "solved later")  # findings that are about an order
ORDERED = 6  # runs from which on an order is claimed: all of one sign have p < 0.05 (sign test), and 5 do not
Spans = Mapping[tuple[str, str], float]  # range by arm and measure


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
    return merged.assign(best=merged.best.fillna(0).where(merged["head"] != "", 1).astype(int))


def leader(rows: pd.DataFrame, measure: str, falls: bool) -> int:
    """Return the seed whose last value of a measure is best on split a, the first of equals: the run that is pictured.

    rows: as `measured` yields them, of one arm; falls: the measure is better when lower.
    """
    on_a = (rows.sequence.astype(int) % 2 == 0) & (rows.measure == measure) & (rows.step == rows.step.max())
    means = rows[on_a].groupby("seed").value.mean()
    return int(means.idxmin() if falls else means.idxmax())


def averaged(rows: pd.DataFrame, keys: list[str], sort: bool = False) -> pd.DataFrame:
    """Return means of value and null by keys, every sequence with its weight, and the values' standard deviation."""
    sums = rows.assign(value=rows.value * rows.weight, value_null=rows.value_null * rows.weight)
    sums["square"] = rows.value**2 * rows.weight
    sums["there"] = rows.weight.where(rows.value_null.notna(), 0.0)
    sums = sums.groupby(keys, sort=sort)[["value", "square", "value_null", "weight", "there"]].sum().reset_index()
    with np.errstate(invalid="ignore"):
        mean = sums.value / sums.weight
        spread = np.sqrt(np.maximum(0.0, sums.square / sums.weight - mean**2))
        return sums.assign(value=mean, spread=spread, value_null=sums.value_null / sums.there)


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
    for measure, of_measure in chosen.groupby("measure", sort=False):
        full = of_measure.set_index(["seed", "step", "sequence"]).value
        full = full.reindex(pd.MultiIndex.from_product(index))
        values[measure] = full.to_numpy().reshape(*map(len, index))
        weights[measure] = of_measure.groupby("sequence").weight.first().reindex(index[2]).fillna(0.0).to_numpy()
    return values, np.array(index[1]), weights


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of curve.csv: mean and spread over sequences, with the checkpoint's best head marked."""
    keys = ["arm", "seed", "step", "measure", "head", "best"]
    return averaged(rows, keys)[[*keys, "value", "spread", "value_null"]]


def compared(located: dict[str, dict[str, Located]], lessons: Mapping[str, Lesson]) -> Iterator[tuple]:
    """Yield the rows of findings.csv.

    onset, rise, final: of a measure, mean over seeds with its interval, and per seed without one. after: by how many
    steps a measure's onset follows that of the one named in `versus`. beyond: how much further the first arm's
    rise or last value goes than another arm's (`versus`), positive in the direction of the jump, down for losses.
    solved: the first checkpoint at which a measure is at its lesson's level, without a value where a seed never is.
    later: by how many steps an arm's onset (`onset later`) or its being solved follows that of the first arm
    (`versus`), negative where the arm is ahead. Resamples are the same for both.
    level: see `levelled`.
    """
    first = next(iter(located))
    for arm, measures in located.items():
        for measure, location in measures.items():
            solved = ("solved",) if measure in lessons[arm].solved else ()
            for finding in ("onset", "rise", "final", *solved):
                values_S, values_R = getattr(location, f"{finding}_S"), getattr(location, f"{finding}_R")
                yield finding, arm, measure, "", "", values_S.mean(), *_bounds(values_R, finding == "solved")
                yield from ((finding, arm, measure, "", s, value, np.nan, np.nan) for s, value in enumerate(values_S))
        onsets = [measure for measure in lessons[arm].onsets if measure in measures]
        for earlier, later in pairwise(onsets):
            a, b = measures[earlier], measures[later]
            change = (b.onset_S - a.onset_S).mean()
            yield "after", arm, later, earlier, "", change, *_bounds(b.onset_R - a.onset_R)
        if arm != first:
            for measure in onsets:
                reference, other = located[first].get(measure), measures[measure]
                solved = ("solved",) if measure in lessons[arm].solved else ()
                for finding in ("onset", *solved) if reference is not None else ():
                    value = getattr(other, f"{finding}_S").mean() - getattr(reference, f"{finding}_S").mean()
                    later_R = getattr(other, f"{finding}_R") - getattr(reference, f"{finding}_R")
                    bounds = _bounds(later_R, finding == "solved")
                    yield f"{finding} later", arm, measure, first, "", value, *bounds
            for measure, other in measures.items():
                reference = located[first].get(measure)
                if reference is not None:
                    sign = -1 if measure in lessons[arm].falls else 1
                    for finding in ("rise", "final"):
                        value = sign * (
                            getattr(reference, f"{finding}_S").mean() - getattr(other, f"{finding}_S").mean()
                        )
                        bounds = _bounds(sign * (getattr(reference, f"{finding}_R") - getattr(other, f"{finding}_R")))
                        yield f"{finding} beyond", first, measure, arm, "", value, *bounds


def spans(curve: pd.DataFrame, falls: Set[str]) -> dict[tuple[str, str], float]:
    """Return the range of every arm's measures of curve.csv: 1 for shares, its largest mean loss for what is in nats.

    Of each arm alone: that another one's loss leaps up says nothing of this one's fall.
    """
    losses = curve[(curve["best"] == 1) & curve["measure"].isin([measure for measure in falls if "loss" in measure])]
    nats = losses.groupby(["arm", "step", "measure"])["value"].mean().groupby("arm").max().to_dict()
    found = curve[["arm", "measure"]].drop_duplicates().itertuples(index=False)
    return {(arm, measure): float(nats.get(arm, 1.0)) if measure in falls else 1.0 for arm, measure in found}


def guessed(chance: Mapping[str, Mapping[str, float]]) -> pd.DataFrame:
    """Return what guessing gets, by arm and measure, as rows of findings.csv."""
    rows = [(arm, measure, value) for arm, levels in chance.items() for measure, value in levels.items()]
    table = pd.DataFrame(rows, columns=["arm", "measure", "value"]).astype({"value": float})
    table = table.assign(finding="level", versus="chance", seed=np.nan, low=np.nan, high=np.nan, ranged=False)
    return table[[*FINDINGS, "ranged"]]


def bounded(findings: pd.DataFrame, falls: Set[str]) -> pd.DataFrame:
    """Return the rows over all runs; of fewer than FEWEST, low and high are the lowest and the highest run: `ranged`.

    So few runs give no interval. Of two arms: the smallest and the largest difference of a run of one and a run of the
    other, so that a range beyond 0 says that all runs of one are beyond all of the other. A single run keeps its
    interval, over held-out sequences. findings: `compared`'s, as read: seed is nan in rows over all runs.
    """
    whole = findings[findings["seed"].isna()]
    each = findings.dropna(subset="seed").sort_values("seed").groupby(["finding", "arm", "measure"])["value"]
    runs = {key: values.to_numpy() for key, values in each}

    def of_runs(row) -> np.ndarray | None:
        what, _, how = row.finding.partition(" ")
        own_S, sign = runs.get((what, row.arm, row.measure)), -1 if how == "beyond" and row.measure in falls else 1
        if row.finding == "after":
            return runs["onset", row.arm, row.measure] - runs["onset", row.arm, row.versus]
        return sign * np.subtract.outer(own_S, runs[what, row.versus, row.measure]) if how else own_S

    bounds = []
    for row in whole.itertuples():
        values = of_runs(row)
        ranged = values is not None and 1 < min(values.shape) < FEWEST
        bounds.append((ranged, values.min(), values.max()) if ranged else (False, row.low, row.high))
    return whole.assign(**pd.DataFrame(bounds, whole.index, ["ranged", "low", "high"]))


def supported(whole: pd.DataFrame, falls: Set[str], spans: Spans, seeds: int, spacing: float = 0) -> pd.DataFrame:
    """Return the rows of findings.csv, without those per seed, that a sentence may be made of.

    Dropped are onsets of what does not rise (`onset.rises`, `spans`: range by arm and measure) or ends at chance
    (`level` by the means `chance`); orders of onsets, and arms ahead of others, where one of the two has no onset or
    there are fewer than SEEDS seeds; differences between arms whose chance differs, since they are not of the same
    thing. The difference of two onsets is not known better than `spacing`, the steps between checkpoints: its low and
    high are farther apart by as much on both sides.
    """
    keyed = whole[whole["versus"].fillna("") == ""].set_index(["finding", "arm", "measure"])[["value", "low", "high"]]
    chance = whole[(whole["finding"] == "level") & (whole["versus"] == "chance")]
    chance = chance.set_index(["arm", "measure"])["value"].to_dict()

    def learned(arm: str, measure: str) -> bool:
        if ("rise", arm, measure) not in keyed.index or not rises(
            *keyed.loc[("rise", arm, measure)], measure in falls, spans[arm, measure]
        ):
            return False
        final, guess = keyed.loc[("final", arm, measure)], chance.get((arm, measure), np.nan)
        return not (final["high"] >= guess if measure in falls else final["low"] <= guess)

    def alike(measure: str, *arms: str) -> bool:
        return len({chance.get((arm, measure)) for arm in arms}) == 1

    def kept(row) -> bool:
        match row.finding:
            case "onset":
                return learned(row.arm, row.measure)
            case "after":
                return seeds >= SEEDS and learned(row.arm, row.measure) and learned(row.arm, row.versus)
            case "onset later" | "solved later":
                both = learned(row.arm, row.measure) and learned(row.versus, row.measure)
                return seeds >= SEEDS and both and alike(row.measure, row.arm, row.versus)
            case "rise beyond" | "final beyond":
                return alike(row.measure, row.arm, row.versus)
        return True

    rows = whole[[kept(row) for row in whole.itertuples()]]
    margin = spacing * rows["finding"].isin(("after", "onset later", "solved later"))
    return rows.assign(low=rows["low"] - margin, high=rows["high"] + margin)


def flat(findings: pd.DataFrame, falls: Set[str], spans: Spans) -> set[tuple[str, str]]:
    """Return arm and measure where a run does not jump: its onset is noise, and so is a mean that it is part of."""
    rows = findings[(findings["finding"] == "rise") & findings["seed"].notna()]
    return {
        (row.arm, row.measure)
        for row in rows.itertuples()
        if row.value * (-1 if row.measure in falls else 1) < RISES * spans[row.arm, row.measure]
    }


def placed(whole: pd.DataFrame, flat: Set[tuple[str, str]], seeds: int) -> pd.DataFrame:
    """Return findings without the onsets of what does not jump in every run, and without orders of too few runs."""

    def kept(row) -> bool:
        ends = {(row.arm, row.measure)}
        if row.finding in ORDERS:
            ends.add((row.arm, row.versus) if row.finding == "after" else (row.versus, row.measure))
        return row.finding not in ("onset", *ORDERS) or not (ends & flat or (row.finding in ORDERS and seeds < ORDERED))

    return whole[[kept(row) for row in whole.itertuples()]]


def told(
    findings: pd.DataFrame, curve: pd.DataFrame, chance: pd.DataFrame, falls: Set[str], seeds: int, spacing: float = 0
) -> pd.DataFrame:
    """Return what may be said of findings.csv, in sentences as in metrics: `bounded`, `supported` and `placed`.

    findings: as `bounded` takes them; chance: `guessed`'s.
    """
    whole = pd.concat([bounded(findings, falls), *([chance] if len(chance) else [])], ignore_index=True)
    ranges = spans(curve, falls)
    whole = supported(whole, falls, ranges, seeds, spacing)
    return placed(whole, flat(findings, falls, ranges), seeds)


def levelled(levels: Mapping[tuple[str, str], float], arm: str) -> Iterator[tuple]:
    """Yield what simpler means (`versus`) reach on the held-out sequences: rows of findings.csv without intervals."""
    for (measure, means), value in levels.items():
        yield "level", arm, measure, means, "", value, np.nan, np.nan


def _bounds(values_R: np.ndarray, unless_never: bool = False) -> tuple[float, float]:
    """Return the percentile interval; `unless_never`: none where a resample has no value, as of what never comes."""
    if unless_never and np.isnan(values_R).any():
        return np.nan, np.nan
    low, high = np.nanpercentile(values_R, [2.5, 97.5])
    return float(low), float(high)


def metrics(whole: pd.DataFrame, seeds: Mapping[str, int]) -> dict[str, float | int]:
    """Return the means over seeds that branches compare: last values; the first arm's onsets and solved step.

    whole: findings as `told` leaves them, so that what does not rise in every run has no onset here.

    `<measure>` and `<measure>_onset` are the first arm's, `<arm>_<measure>` those of the others; seeds: runs per arm.
    `<means>_<measure>`: what simpler means reach on the same sequences, such as ngram_accuracy.
    """
    first = next(iter(seeds))
    numbers: dict[str, float | int] = {"seeds": seeds[first]}
    for row in whole.itertuples():
        if row.finding == "final":
            numbers[row.measure if row.arm == first else f"{row.arm}_{row.measure}"] = round(row.value, 5)
        elif row.finding == "onset" and row.arm == first:
            numbers[f"{row.measure}_onset"] = round(row.value, 1)
        elif row.finding == "solved" and row.arm == first and not np.isnan(row.value):
            numbers[f"{row.measure}_solved"] = round(row.value, 1)
        elif row.finding == "level" and row.arm == first and "@" not in row.measure:
            numbers[f"{row.versus}_{row.measure}"] = round(row.value, 5)
    return numbers
