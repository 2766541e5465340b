"""Sentences on two families' sets of as many heads, held against each other on the same prompts (`switch.csv`).

Which does more harm is said by the interval alone, and only where it is clear of 0 whether pairs of control sets are as
far apart: an interval is of these heads, a rank asks whether any others would differ as much.
"""

from typing import Any

import pandas as pd

from stages.page import verdicts
from stages.page.rows import MAIN, Change, falls
from stages.page.sentences import family_heads, interval, listed, number, p_value


def said(rows: pd.DataFrame, measure: str, alpha: float) -> str:
    """Say for each number of heads which family's do more harm, '' where no other family was silenced.

    rows: of switch.csv, of one task and measure over all conditions, which `measure` names. Both families' rows say the
    same with the signs turned: the first of each number is read.
    """
    pairs = [row for row in rows.drop_duplicates("k").sort_values("k").itertuples() if row.other]
    stated = [row for row in pairs if pd.notna(row.beyond)]
    text = ""
    if stated:
        prompts = listed(dict.fromkeys(str(int(row.beyond_trials)) for row in stated))
        text = f"Against each other on the same {prompts} prompts, {measure}, these heads of this model alone: "
        text += f"{'; '.join(_apart(row) for row in stated)}."
        text += f" These intervals are not corrected for there being {len(stated)} of them." if len(stated) > 1 else ""
        clear = [row for row in stated if verdicts.side(_harm(row), row.measure)]
        if ranked := [_ranked(row, alpha) for row in clear if pd.notna(row.beyond_p)]:
            text += " Could other heads differ so? Of pairs of control sets, one matched to each family, without a "
            text += f"common head, as far apart either way: {'; '.join(ranked)}."
        unranked = [row for row in clear if pd.isna(row.beyond_p)]
        for why in dict.fromkeys(row.beyond_note for row in unranked):
            sizes = listed(str(int(row.k)) for row in unranked if row.beyond_note == why)
            text += f" With {sizes} of each, other heads may differ as much ({why})."
    reasons = dict.fromkeys(row.beyond_note for row in pairs if pd.isna(row.beyond))
    for why in reasons:
        sizes = listed(str(int(row.k)) for row in pairs if pd.isna(row.beyond) and row.beyond_note == why)
        text += f"{' ' * bool(text)}Not held against each other with {sizes} heads of each silenced: {why}."
    return text


def _harm(row: Any) -> Change:
    return Change(row.beyond, row.beyond_low, row.beyond_high).harm(falls(row.task, row.measure))


def _apart(row: Any) -> str:
    """Say which of both families' heads do more harm, and by how much; named first: those that do on these prompts."""
    harm, first, second = _harm(row), row.family, row.other
    if harm.value < 0:
        harm, first, second = Change(-harm.value, -harm.high, -harm.low), second, first
    digits = verdicts.digits_of(harm, row.measure)
    more, between = number(harm.value, digits), interval(harm.low, harm.high, digits)
    than = f"without {int(row.k)} {_heads(first, row.k)} {more} {between}".rstrip()
    than += f" more harm than without {int(row.k)} {_heads(second, row.k)}"
    if verdicts.side(harm, row.measure):
        return than
    nothing_left = row.measure == MAIN[row.task] and min(row.value, row.value - row.beyond) <= 0
    floor = f" (without {_heads(first, row.k)} nothing is left to lose)" if nothing_left else ""
    return f"{than}, not told apart{floor or ('' if between else f' ({row.beyond_note})')}"


def _heads(family: str, k: float) -> str:
    return family_heads(family) if k > 1 else family_heads(family).removesuffix("s")


def _ranked(row: Any, alpha: float) -> str:
    """Say how many pairs of control sets are as far apart as the two families' sets: none of 19 with 4 of each."""
    pairs, as_far = int(row.pairs), round(row.beyond_p * (1 + row.pairs)) - 1
    floor = ", its floor" if not as_far else ""
    left = "" if row.beyond_p <= alpha else "; not told apart from other heads"
    return f"with {int(row.k)} of each {as_far or 'none'} of {pairs} (rank p = {p_value(row.beyond_p)}{floor}{left})"
