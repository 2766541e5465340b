"""What a recipe's findings say, in sentences that claim no more than a 95 % interval allows, or the range of few runs.

Rows are those of `statistics.findings.bounded`: low and high are one or the other, as `ranged` says.
"""

from typing import Any

import pandas as pd

from stages.page.recipe_design import learned
from stages.page.sentences import beyond, capital, interval, number
from stages.recipes.settings import Recipe
from stages.statistics.findings import ORDERED

PICTURED = (
    "Where each head looks in one held-out sequence, at the last checkpoint, seed {seed} of {arm}: the run that ended "
    "best on one half of the held-out sequences, the first of equals. Darker: more attention."
)
WRITTEN = " After '{string}' the model itself wrote '{tape}', one token at a time (greedy decoding)."
FILLED = " Behind the arrow: what the model fills in where that word is left out."
LEVELS = {  # simpler means: what they are called
    "chance": "guessing",
    "ngram": "a 5-gram counted on the same sentences",
    "offset": "the best fixed offset of each label",
    "suffix": "an n-gram with back-off (the longest stored ending)",
    "outer": "one sum of outer products of letters and digits",
}
MEASURES = {  # measure: (what it is called, what the axis says)
    "loss": ("loss", "loss on held-out sequences, nats per token"),
    "accuracy": ("accuracy", "share right (tokens, whole tapes or minimal pairs)"),
    "uas": ("UAS of heads", "arcs found by the best head of their label, share"),
    "registers": ("attention to registers", "attention to registers, best head"),
    "in_context": ("in-context score", "in-context score: loss late − early, nats"),
    "previous": ("previous-token score", "attention to the token before, best head"),
    "duplicate": ("duplicate-token score", "attention to earlier copies, best head"),
    "accuracy_beyond": ("accuracy beyond", "whole tapes right, lengths never trained on"),
    "loss_beyond": ("loss beyond", "loss on lengths never trained on, nats per token"),
    "attention_to_separator": ("attention to ':'", "share of queries with attention to ':' > 0.5, layer 0"),
    "attention_to_input": ("attention to the input", "share of queries with attention to x(t+1) > 0.5, layer 1"),
    "attention_to_separator_mean": ("mean attention to ':'", "attention to ':', layer 0"),
    "attention_to_input_mean": ("mean attention to the input", "attention to x(t+1), layer 1"),
    "induction": ("induction score", "attention to what followed earlier copies, best head"),
    "self": ("self score", "attention to the token itself, best head"),
    "local": ("local score", "attention to the last 8 tokens, best head"),
    "sink": ("sink score", "attention to first and special tokens, best head"),
    "streaming": ("streaming score", "attention to 4 sinks and the last 64 tokens, best head"),
    "retrieval": ("retrieval score", "needle tokens found, all needles, best head"),
    "grammar": ("grammar score", "share of arcs found, best head per label"),
    "repeats_loss": ("loss on repeats", "loss in the last quarter of random repeats, nats per token"),
    "repeats_in_context": ("in-context score on repeats", "random repeats: loss late − early, nats"),
    "recall": ("needle recall", "share of answer tokens right"),
    "recalled": ("recall of whole numbers", "stored names whose whole number is given, share"),
    "certainty": ("certainty for stored names", "largest probability of a digit, mean, stored names"),
    "certainty_unseen": ("certainty for unseen names", "largest probability of a digit, mean, unseen names"),
    "nearest_digits": ("digits of the nearest name", "unseen names: digits as of the nearest stored name, share"),
    "nearest_number": ("number of the nearest name", "unseen names: whole number of the nearest, share"),
    "random_digits": ("digits of other names", "unseen names: digits as of all other stored names, share"),
    "closest_digits": ("digits of the nearest key", "unseen names: digits as of the nearest key's name, share"),
    "closest_number": ("number of the nearest key", "unseen names: whole number of the nearest key's name, share"),
    "any_number": ("answers that are a stored number", "unseen names: whole number is any stored one, share"),
    "unseen_digits": ("digits right for unseen names", "unseen names: digits of their own number, never shown"),
}
TOLD = 0.01  # a last value nearer to a level is not told apart from it: intervals of shares at 0 or 1 have no width


def jumps(whole: pd.DataFrame, measure: str, arms: list[str], first: tuple[float, float]) -> str:
    """Say where the first arm's measure changes fastest and by how much, and whether other arms' do so less.

    first: the earliest onset that can be, and up to where one is not told apart from it.
    """
    rows = whole[whole["measure"] == measure]
    own = rows[(rows["arm"] == arms[0]) & (rows["versus"] == "")].set_index("finding")
    if own.empty:
        return ""
    rise, final = own.loc["rise"], own.loc["final"]
    text = f"{capital(arms[0].replace('_', ' '))}: last value {number(final.value)} {around(final)}; "
    text += f"steepest change {number(rise.value, sign=True)} {around(rise, sign=True)}"
    if "onset" in own.index:
        onset = own.loc["onset"]
        text += f" around step {onset.value:.0f} {around(onset, 0)}"
        text += "" if onset.value > first[1] else ", the earliest that can be: it changes from the start"
        text += "."
    else:
        text += ", too little (in at least one run), or no further than chance, to speak of an onset."
    for row in rows[(rows["finding"] == "level") & (rows["arm"] == arms[0])].itertuples():
        sides = {1: "above", -1: "below", 0: "not told apart from"}
        side = sides[beyond(final.low - TOLD, final.high + TOLD, row.value)]
        text += f" The last value is {side} what {LEVELS.get(row.versus, row.versus)} reaches, {small(row.value)}."
    for row in rows[(rows["finding"] == "rise beyond") & rows["versus"].isin(arms)].itertuples():
        other = row.versus.replace("_", " ")
        difference = f"{number(row.value, sign=True)} {around(row, sign=True)}"
        if beyond(row.low, row.high) > 0:
            text += f" Its change exceeds that of {other} by {difference}."
        elif beyond(row.low, row.high) < 0:
            text += f" Its change is smaller than that of {other}: {difference}."
        else:
            text += f" Not told apart from the steepest change of {other}."
    return text


def order(whole: pd.DataFrame, arm: str, seeds: int) -> str:
    """Say in which order the first arm's measures jump, as far as the intervals over `seeds` runs allow."""
    if seeds < ORDERED:
        runs = "one run" if seeds == 1 else f"{seeds} runs"
        return f"In which order heads and outcomes appear is not claimed from {runs}."
    parts = []
    for row in whole[(whole["finding"] == "after") & (whole["arm"] == arm)].itertuples():
        pair = f"the {said(row.measure)} and the {said(row.versus)}"
        side = beyond(row.low, row.high, digits=0)
        if side > 0:
            parts.append(f"the {said(row.measure)} jumps after the {said(row.versus)}, {steps(row)}")
        elif side < 0:
            parts.append(f"the {said(row.measure)} jumps before the {said(row.versus)}, {steps(row)}")
        else:
            by = f"difference {signed(row)}, positive where that of the {said(row.measure)} comes later"
            parts.append(f"the onsets of {pair} are not told apart: {by}")
    return f"{capital('; '.join(parts))}." if parts else "No two of the compared measures have an onset: no order."


def every_run(findings: pd.DataFrame, arms: list[str], measures: list[str]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of a table: every run's last values of the measures."""
    last = findings[(findings["finding"] == "final") & findings["seed"].notna()].sort_values("seed")
    values = {key: [number(value) for value in rows["value"]] for key, rows in last.groupby(["arm", "measure"])}
    rows = [[arm.replace("_", " "), *(" ".join(values.get((arm, name), ["–"])) for name in measures)] for arm in arms]
    return ["variant", *(said(measure) for measure in measures)], rows


def beside(
    longer: pd.DataFrame, shorter: pd.DataFrame, arms: list[str], measures: list[str]
) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of a table: last values of two studies of one recipe, with their bounds."""
    keys = ["arm", "measure"]
    studies = [
        findings[findings["finding"] == "final"].set_index(keys)[["value", "low", "high", "ranged"]]
        for findings in (longer, shorter)
    ]
    rows = [
        [
            arm.replace("_", " "),
            said(measure),
            *(f"{number(study.loc[key, 'value'])} {around(study.loc[key])}" for study in studies),
        ]
        for arm in arms
        for measure in measures
        for key in [(arm, measure)]
        if all(key in study.index for study in studies)
    ]
    return ["variant", "measure", "the study above", "this one"], rows


def against(whole: pd.DataFrame, arms: list[str], measures: list[str]) -> str:
    """Say, for the measures whose onsets are compared, where every arm ends and how that differs from the first arm."""
    chance = whole[(whole["finding"] == "level") & (whole["versus"] == "chance")].set_index(["arm", "measure"])["value"]
    ends = whole[whole["finding"] == "final"].set_index(["arm", "measure"])
    told = []
    for arm in arms:
        values = [
            f"{said(name)} {number(ends.loc[(arm, name), 'value'])} {around(ends.loc[(arm, name)])}"
            + (f", chance {small(chance[(arm, name)])}" if (arm, name) in chance.index else "")
            for name in measures
            if (arm, name) in ends.index
        ]
        told += [f"{arm.replace('_', ' ')}: {'; '.join(values)}"] if values else []
    differences = [
        f"{said(row.measure)} of {arms[0].replace('_', ' ')} over that of {row.versus.replace('_', ' ')} "
        f"{number(row.value, sign=True)} {around(row, sign=True)}"
        f"{'' if beyond(row.low, row.high) else ' (not told apart)'}"
        for row in whole[
            (whole["finding"] == "final beyond") & whole["measure"].isin(measures) & whole["versus"].isin(arms)
        ].itertuples()
    ]
    text = f"Last values, arm by arm. {'. '.join(map(capital, told))}." if told else ""
    if differences:
        text += f" Differences, positive in the direction of the jump: {'; '.join(differences)}."
    later = whole[(whole["finding"] == "onset later") & whole["measure"].isin(measures) & whole["arm"].isin(arms)]
    return text + "".join(f" {onsets(row, arms[0])}" for row in later.itertuples())


def onsets(row: Any, first: str) -> str:
    """Say which of two arms a measure jumps in first; row: `onset later`, its value the other arm's minus `first`'s."""
    own, other = f"{said(row.measure)} of {first.replace('_', ' ')}", row.arm.replace("_", " ")
    side = beyond(row.low, row.high, digits=0)
    if side > 0:
        return f"The {own} jumps before that of {other}, {steps(row)}."
    if side < 0:
        return f"The {own} jumps after that of {other}, {steps(row)}."
    return (
        f"The onsets of the {own} and of {other} are not told apart: difference {signed(row)}, positive where that of "
        f"{other} comes later."
    )


def around(row: Any, digits: int = 2, sign: bool = False) -> str:
    """Write the bounds of a mean over runs: [low, high] where they are an interval, (lowest to highest) of few runs."""
    if row.ranged and pd.notna(row.low):
        return f"({number(row.low, digits, sign)} to {number(row.high, digits, sign)})"
    return interval(row.low, row.high, digits, sign)


def signed(row: Any) -> str:
    """Write a difference of steps that may have either sign."""
    return f"{number(row.value, 0, True)} steps {around(row, 0, True)}"


def steps(row: Any) -> str:
    """Write by how many steps something comes before or after something else: no signs, the sentence says which."""
    low, high = sorted((abs(row.low), abs(row.high)))
    return f"by {number(abs(row.value), 0)} steps {around(row._replace(low=low, high=high), 0)}"


def ahead(recipe: Recipe, findings: pd.DataFrame, whole: pd.DataFrame, curve: pd.DataFrame) -> list[str]:
    """Say for every arm that learned something else first than the main arm whether it is ahead, and by how much.

    What was learned first may be there from step 0 on, without an onset: what the heads do there is said as well.
    findings: all, run by run; whole: those over all runs that a sentence may be made of.
    """
    main, said_each = recipe.main, []
    for arm in recipe.ordered:
        before = recipe.arm(arm).before
        rows = whole[(whole["arm"] == arm) & whole["finding"].str.endswith(" later")]
        if before == recipe.arm(main).before:
            continue
        levels = rows["measure"].isin(rows.loc[rows["finding"] == "solved later", "measure"])
        parts = []
        for row in rows[levels | (not levels.any())].itertuples():
            name = f"the {said(row.measure)} " + ("is solved" if row.finding == "solved later" else "jumps")
            side = beyond(row.low, row.high, digits=0) if pd.notna(row.low) else 0
            if pd.isna(row.value) or pd.isna(row.low):
                counts = [
                    f"{solved_runs(findings, each, row.measure)} of {each.replace('_', ' ')}" for each in (arm, main)
                ]
                parts.append(f"{name} in {' and '.join(counts)}, so that no times are compared")
            elif side > 0:
                parts.append(f"{name} later, {steps(row)}")
            elif side < 0:
                parts.append(f"{name} earlier, {steps(row)}")
            else:
                parts.append(f"when {name} is not told apart: difference {signed(row)}, negative where earlier")
        start = curve[(curve["arm"] == arm) & (curve["step"] == 0) & (curve["best"] == 1) & (curve["head"] != "")]
        values = [f"{said(name)} {number(value)}" for name, value in start.groupby("measure")["value"].mean().items()]
        text = f"{capital(arm.replace('_', ' '))} {learned(recipe, before)}. "
        against = f"Counted from there, against {main.replace('_', ' ')}: {'; '.join(parts)}. "
        text += against if parts else f"Whether it is ahead of {main.replace('_', ' ')} is not claimed. "
        text += "Steepest changes are not compared: what is there from the start has less left to rise."
        said_each.append(text + (f" At its step 0: {', '.join(values)}." if values else ""))
    return said_each


def solved_runs(findings: pd.DataFrame, arm: str, measure: str) -> str:
    """Write in how many of an arm's runs a measure reaches the task's level: 5 of 6 runs."""
    runs = findings[(findings["finding"] == "solved") & (findings["arm"] == arm) & (findings["measure"] == measure)]
    steps_S = runs[runs["seed"].notna()]["value"]
    return f"{int(steps_S.notna().sum())} of {len(steps_S)} runs"


def solved(findings: pd.DataFrame, arms: list[str]) -> str:
    """Say at which checkpoint every run counts as solved."""
    rows = findings[(findings["finding"] == "solved") & findings["seed"].notna()]
    texts = []
    for measure in dict.fromkeys(rows["measure"]):
        for arm in arms:
            steps_S = rows[(rows["arm"] == arm) & (rows["measure"] == measure)].sort_values("seed")["value"]
            each = ", ".join("never" if pd.isna(step) else f"{step:.0f}" for step in steps_S)
            texts += [f"{arm.replace('_', ' ')} {each}"] if len(steps_S) else []
        texts[-1] += f" (the first checkpoint at which the {said(measure)} is at least the task's level)"
    return f"Steps until solved, seed by seed: {'; '.join(texts)}." if texts else ""


def parts(curve: pd.DataFrame, whole: pd.DataFrame, arm: str) -> str:
    """Say the last checkpoint's measures by part of the held-out sequences, as means over seeds."""
    rows = _last(curve, arm, r"@(?!without)")
    levels = whole[(whole["finding"] == "level") & (whole["arm"] == arm)]
    rows = rows.assign(whole=rows["measure"].str.split("@").str[0])
    told = []
    for measure, of_measure in rows.groupby("whole", sort=False):
        shares = []
        for name, row in of_measure.groupby("measure")["value"].agg(["mean", "min"]).iterrows():
            share = f"{name.split('@')[1]}: {number(row['mean'])} ({number(row['min'])})"
            for level in levels[levels["measure"] == name].itertuples():
                share += f", {level.versus} {small(level.value)}"
            shares.append(share)
        head = f"{capital(said(measure))} by part at the last checkpoint, mean over seeds (worst seed)"
        told.append(f"{head}: {'; '.join(shares)}.")
    return " ".join(told)


def without(curve: pd.DataFrame, arm: str) -> str:
    """Say the last checkpoint's accuracy with each head silenced, as means over seeds."""
    rows = _last(curve, arm, r"^accuracy@without")
    means = rows.groupby("measure")["value"].agg(["mean", "min", "max"])
    shares = [
        f"without {name.split('without ')[1]} {number(row['mean'])} ({number(row['min'])} to {number(row['max'])})"
        for name, row in means.iterrows()
    ]
    return (
        f"Accuracy with a head silenced (zero ablation), mean and range over seeds: {'; '.join(shares)}."
        if shares
        else ""
    )


def _last(curve: pd.DataFrame, arm: str, pattern: str) -> pd.DataFrame:
    rows = curve[(curve["arm"] == arm) & curve["measure"].str.contains(pattern)]
    return rows[rows["step"] == curve.loc[curve["arm"] == arm, "step"].max()]


def pictured(seen: pd.DataFrame, arm: str) -> str:
    """Say which run is pictured and, where a ':' divides the sequence, what it wrote after it."""
    says = PICTURED.format(seed=int(seen["seed"].iloc[0]), arm=arm.replace("_", " "))
    words = seen.sort_values("key").drop_duplicates("key")["looks_at"].tolist()
    last = seen.loc[seen["query"].idxmax(), "predicts"]
    if words.count(":") != 1:
        return says
    at = words.index(":") + 1
    return says + WRITTEN.format(string="".join(words[:at]), tape="".join([*words[at:], last]))


def small(value: float) -> str:
    """Write a level: with four decimals where two would make it nothing."""
    return "< 0.0001" if 0 < value < 0.0001 else number(value, 2 if abs(value) >= 0.01 else 4)


def said(measure: str) -> str:
    """Return what a measure is called on the page."""
    return MEASURES.get(measure, (measure.replace("_", " "), ""))[0]
