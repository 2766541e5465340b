"""Sentences on what silencing heads does: one verdict per claim, by the rank of the family among its control sets.

An interval is over prompts, for exactly the heads that were silenced; whether other heads would do as much is asked of
the control sets alone. Rows are those of `rows.silenced`.
"""

import re
from typing import Any

import pandas as pd

from stages.page.sentences import capital, decimals, family_heads, interval, listed, measured, number, p_value

ALIKE = re.compile(
    r"(?P<same>\d+) of (?P<size>\d+) in the same layers, (?P<kind>\d+) of \d+ of the same attention kind"
)
NO_MEMBER = "no member of a causal family"


def change(row: Any) -> str:
    """Write a row's change with its interval, where there is one."""
    digits = decimals(row.measure)
    if any(0 < abs(bound) < 0.5 * 10**-digits for bound in (row.low, row.high)):
        digits += 1  # a bound that is not 0 must not read as 0
    return f"{number(row.change, digits, True)} {interval(row.low, row.high, digits, True)}".strip()


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
        f"{what} takes {name} from {number(row.intact, digits)} to {number(row.value, digits)}, "
        f"{change(row)} for these heads over {int(row.trials)} prompts"
    )
    note = f" Note: {row.note}." if row.note else ""
    return f"{text}{verdict(row, alpha, again)}.{note}"


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
    return text if row.p <= alpha else f"{text}; not told apart from other heads"


def matched(matching: str) -> str:
    """Shorten how control sets are matched: a family's sets each have a text of their own, joined by '; '."""
    parts = list(dict.fromkeys(part.strip() for part in matching.split(";") if part.strip()))
    alike = [ALIKE.fullmatch(part) for part in parts]
    said = [part for part, levels in zip(parts, alike, strict=True) if not levels]
    if levels := [match for match in alike if match]:
        same, kind = ([int(match[name]) for match in levels] for name in ("same", "kind"))
        size = levels[0]["size"]
        each = f"{_range(same)} of {size} in the same layers, the others from the nearest"
        each = "all in the same layers" if min(same) == int(size) else each
        each += "" if min(kind) == int(size) else f"; {_range(kind)} of {size} of the same attention kind"
        said = [each, *said]
    held = [part for part in said if part.startswith("holds members")]
    if held and NO_MEMBER in said:
        said = [part for part in said if part != NO_MEMBER and part not in held] + [f"some: {held[0]}"]
    return "; ".join(said) or "from the same or nearest layers"


def _range(counts: list[int]) -> str:
    return f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"


def specificity(rows: pd.DataFrame) -> str:
    """Say what the same heads do to tasks that the family is not asked about; no control sets are run there."""
    parts = [f"{measured(row.task, row.measure)} by {change(row)}" for row in rows.itertuples() if pd.notna(row.change)]
    if not parts:
        return ""
    return f"As a check that the damage is not general, without control sets: it changes {listed(parts)}."


def controls(claims: pd.DataFrame) -> str:
    """Say how many control sets there were, and how much they overlap."""
    ranked = claims[claims["controls"] > 0].drop_duplicates("family")
    if ranked.empty:
        return "No control sets were run."
    counts = listed(sorted({str(int(count)) for count in ranked["controls"]}, key=int))
    text = f"Control sets per family: {counts}."
    shared = ranked.dropna(subset="overlap")
    if len(shared):
        each = listed(f"{row.family.replace('_', ' ')} {number(row.overlap)}" for row in shared.itertuples())
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
