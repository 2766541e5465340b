"""Sentences on what silencing heads does: one verdict per claim, by the rank of the family among its control sets.

An interval is over prompts, for exactly the heads that were silenced; whether other heads would do as much is asked of
the control sets alone. Rows are those of `rows.silenced`.
"""

import re
from typing import Any

import numpy as np
import pandas as pd

from stages.page.inputs import Slot
from stages.page.rows import Change
from stages.page.sentences import (
    beyond,
    capital,
    decimals,
    family_heads,
    interval,
    listed,
    measured,
    number,
    p_value,
    pointer,
)

METHOD = {  # kind of ablation: what is written in the heads' place
    "mean": "their mean output",
    "zero": "zeros",
    "resample": "their outputs on other prompts",
    "sink": "what they fetch from the first token alone",
}
ALIKE = re.compile(  # as written by stages/statistics/effects.py: 0 to 2 of 5 in the same layers, ...
    r"(?P<same>\d+(?: to \d+)?) of (?P<size>\d+) in the same layers, "
    r"(?P<kind>\d+(?: to \d+)?) of \d+ of the same attention kind"
)
HOLDING = re.compile(r"(?P<sets>\d+) of (?P<of>\d+) sets hold members of (?P<family>[^\s,]+)")


def method(kind: str) -> str:
    """Say what a kind of ablation writes in the place of heads."""
    return METHOD.get(kind, f"`{kind}`")


def digits_of(change: Change, measure: str) -> int:
    """Return how many decimals a change is written with: a bound that is not 0 must not read as 0."""
    digits = decimals(measure)
    return digits + any(0 < abs(bound) < 0.5 * 10**-digits for bound in (change.low, change.high))


def harm(row: Any) -> str:
    """Write a row's harm with its interval, where there is one."""
    return written(_harm(row), row.measure)


def _harm(row: Any) -> Change:
    return Change(row.harm, row.harm_low, row.harm_high)


def written(change: Change, measure: str) -> str:
    """Write a change of a measure, or its harm, with its interval, where there is one."""
    digits = digits_of(change, measure)
    return f"{number(change.value, digits, True)} {interval(change.low, change.high, digits, True)}".strip()


def side(change: Change, measure: str) -> int:
    """Tell whether a change, as printed, is clear of 0: 1 above, -1 below, 0 not."""
    return beyond(change.low, change.high, 0.0, digits_of(change, measure))


def heads_said(row: Any) -> str:
    """Name the heads silenced and say how many are members: the 2 best induction heads (L5H1, L5H2; both members)."""
    k, members = int(row.k), 0 if pd.isna(row.members) else int(row.members)
    inside = "member" if k == members == 1 else "no member" if not members else "all members" if members == k else ""
    inside = inside or f"{members} member{'s' if members != 1 else ''}, the others the best that are none"
    best = f"{k} best {family_heads(row.family)}" if k > 1 else f"best of the {family_heads(row.family)}"
    return f"the {best} ({', '.join(row.heads.split())}; {inside})"


def claim(row: Any, alpha: float, again: bool = False) -> str:
    """Say what silencing a family does to a task that it is asked about, and whether control sets do as much.

    again: the sentence follows another one on the same heads.
    """
    name, digits = measured(row.task, row.measure), decimals(row.measure)
    if pd.isna(row.change):
        return f"{capital(heads_said(row))}: {name} was not measured{f' ({row.note})' if row.note else ''}."
    what = "Silencing the same heads" if again else f"Silencing {heads_said(row)}"
    text = (
        f"{what} takes {name} from {number(row.intact, digits)} to {number(row.value, digits)} on these "
        f"{int(row.trials)} prompts, harm {harm(row)} for these heads"
    )
    note = f" Note: {row.note}." if row.note else ""
    return f"{text}{verdict(row, alpha, again)}.{note}{disagreement(row)}"


def disagreement(row: Any) -> str:
    """Say what another kind of ablation does, by its interval alone, where only one of both is clear of 0."""
    here = side(_harm(row), row.measure)
    return "".join(
        f" With {method(kind)} in their place the harm is {written(other, row.measure)}, by its interval alone: no "
        "control sets are held against it."
        for kind, other in row.besides.items()
        if side(other, row.measure) != here
    )


def verdict(row: Any, alpha: float, again: bool = False) -> str:
    """Say how the family ranks among its control sets; starts with a punctuation mark."""
    if not row.controls > 0:
        why = f" ({row.matching})" if row.matching else ""
        return f"; no control set was run{why}, so that this may be what any heads do"
    if pd.isna(row.p):
        return f"; there are {int(row.controls)} control sets, but no rank among them"
    sets, worse = int(row.controls), int(row.as_harmful)
    p, q = p_value(row.p), f", q = {p_value(row.q)} over all claims" if pd.notna(row.q) else ""
    alike = "" if again else f" (as many heads, {matched(row.matching)})"
    if row.harm <= 0:
        return f", which is no harm; {worse} of {sets} control sets{alike} do at least as badly (rank p = {p}{q})"
    if worse == 0:
        text = f"; none of {sets} control sets{alike} does as much harm: rank p = {p}, its floor{q}"
        if row.p_floor > alpha:
            text += f"; with so few control sets that cannot fall below {p}, so that they are not told apart"
        return text
    text = f"; {worse} of {sets} control sets{alike} {'does' if worse == 1 else 'do'} as much: rank p = {p}{q}"
    if worse == sets and row.p > alpha:
        return f"{text}; so without each of them at least as much is lost"
    return text if row.p <= alpha else f"{text}; not told apart from other heads"


def as_accurate(row: Any, alpha: float) -> str:
    """Say how heads that are written in place rank among control sets by accuracy; starts with a semicolon."""
    if not row.controls > 0:
        return f"; no control set was run ({row.matching}), so that this may be what any heads do"
    sets = int(row.controls)
    if pd.isna(row.p):
        there = "is 1 control set" if sets == 1 else f"are {sets} control sets"
        return f"; there {there}, but no rank among them ({row.note})"
    as_good = round(row.p * (1 + sets)) - 1
    if as_good == 0:
        none = f"none of {sets} control sets is" if sets > 1 else "the only control set is not"
        said = f"; {none} as accurate: rank p = {p_value(row.p)}, its floor"
        few = f"; with so few control sets that cannot fall below {p_value(row.p)}, so that they are not told apart"
        return f"{said}{few if row.p_floor > alpha else ''}"
    said = f"; {as_good} of {sets} control set{'s' * (sets > 1)} {'is' if as_good == 1 else 'are'} as accurate: "
    return f"{said}rank p = {p_value(row.p)}{'' if row.p <= alpha else '; not told apart from other heads'}"


def matched(matching: str) -> str:
    """Shorten how a family's control sets are matched, and of which families they hold members."""
    levels, _, rest = matching.partition("; ")
    alike = ALIKE.fullmatch(levels)
    if not alike:
        return matching or "from the same or nearest layers"
    same, kind, size = alike["same"], alike["kind"], alike["size"]
    said = f"{same} of {size} in the same layers, the others from the nearest"
    said = "all in the same layers" if same == size else said
    said += "" if kind == size else f"; {kind} of {size} of the same attention kind"
    holding = {match["family"]: (int(match["sets"]), int(match["of"])) for match in HOLDING.finditer(rest)}
    if not holding:
        return f"{said}; {rest}" if rest else said
    most_first = sorted(holding.items(), key=lambda item: -item[1][0])
    held = [f"{plain(family)} ({'all sets' if sets == of else sets})" for family, (sets, of) in most_first]
    return f"{said}; hold members of {listed(held)}"


def plain(family: str) -> str:
    """Write the name of a family that sets are silenced under: grammar:function words."""
    return family.replace("_", " ")


def specificity(rows: pd.DataFrame) -> str:
    """Say what the same heads do to tasks that the family is not asked about; no control sets are run there."""
    parts = []
    for row in rows[rows["change"].notna()].itertuples():
        clear = side(_harm(row), row.measure)
        how = "not told apart from none" if not clear else "damage there, too" if row.harm > 0 else "for the better"
        parts.append(f"{harm(row)} to {measured(row.task, row.measure)} on {int(row.trials)} prompts ({how})")
    if not parts:
        return ""
    return f"As a check that the damage is not general, without control sets: harm {listed(parts)}."


def elsewhere(slot: Slot, claims: pd.DataFrame) -> str:
    """Point to the section that says what silencing does, from one on the heads of the claims; '' without claims."""
    if claims.empty:
        return ""
    sets = listed(dict.fromkeys(plain(family) for family in claims["family"]))
    where = pointer(slot.name, "effects", "What happens without them")
    return f"What is lost when the best heads of {sets} are silenced stands under {where}."


def over_all(claims: pd.DataFrame, alpha: float) -> str:
    """Say how many claims of a slot pass when all are asked at once, and why none can where that is so."""
    judged = claims[claims["q"].notna()]
    if judged.empty:
        return ""
    passes = (judged["q"] <= alpha) & (judged["harm"] > 0)  # where all sets help, p may be low of one that helps least
    passing = int(passes.sum())
    text = (
        f"Over all {len(judged)} claims of this model at once, {passing or 'none'} {'have' if passing > 1 else 'has'} "
    )
    text += f"q at most {alpha:g}"
    if passing < int((judged["q"] <= alpha).sum()):
        text += f" and {'do' if passing > 1 else 'does'} harm"
    if not (judged["q"] <= alpha).any() and judged["p_floor"].min() >= alpha:
        text += f": with so few control sets p cannot fall below {p_value(judged['p_floor'].min())}, nor q below p"
    elif passing:
        text += f": {_named(judged[passes])}"
    elif len(first := judged[np.isclose(judged["p"], judged["p_floor"]) & (judged["harm"] > 0)]):
        text += (
            f"; {_named(first)}, which no control set equals, {'have' if len(first) > 1 else 'has'} q = "
            f"{p_value(first['q'].max())}, as low as so many sets let {len(first)} of {len(judged)} claims come"
        )
    return f"{text}."


def _named(claims: pd.DataFrame) -> str:
    return listed(f"{family_heads(row.family)} ({measured(row.task, row.measure)})" for row in claims.itertuples())


def controls(claims: pd.DataFrame) -> str:
    """Say how many control sets there were, and how much they overlap."""
    ranked = claims[claims["controls"] > 0].drop_duplicates("family")
    if ranked.empty:
        return "No control sets were run."
    counts = listed(sorted({str(int(count)) for count in ranked["controls"]}, key=int))
    text = f"Control sets per family: {counts}."
    shared = ranked.dropna(subset="overlap")
    if len(shared):
        each = listed(f"{plain(row.family)} {number(row.overlap)}" for row in shared.itertuples())
        text += f" Two control sets of a family share, as their mean Jaccard index: {each}."
    return text


def rank(row: Any) -> str:
    """Write a row's rank among its control sets: 0 of 19."""
    return f"{int(row.as_harmful)} of {int(row.controls)}" if row.controls > 0 and pd.notna(row.p) else "–"


def agreement(row: Any) -> str:
    """Say how far first-order effects agree with exact ones on one task's measure, as it is."""
    name = capital(measured(row.task, row.measure))
    if pd.isna(row.rank_correlation):
        return f"{name}: no agreement could be computed ({int(row.heads)} heads were silenced alone)."
    signs = "" if pd.isna(row.sign_agreement) else (
        f"; of the {int(row.top)} largest exact effects, {100 * row.sign_agreement:.0f} % have the same sign"
    )  # fmt: skip
    return f"{name}: rank correlation {number(row.rank_correlation)} over {int(row.heads)} heads{signs}."
