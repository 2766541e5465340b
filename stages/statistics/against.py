"""Two families' sets of as many heads against each other, on the prompts that both were silenced on.

`beyond` is the mean over prompts of one set's change minus the other's. The intact model is the same under both and
cancels: what is averaged is the value under one set minus that under the other. low and high bound it over other
prompts, for THESE heads. Whether any two sets differ as much is asked of pairs of control sets, one matched to each
family, of the same draw: p = (1 + number of pairs at least as far apart, either way) / (1 + pairs). Sets with common
heads differ less than others; the two families' have none, so that pairs with a common head are left out.
"""

from dataclasses import replace

import pandas as pd

from stages.statistics.effects import ALL, PROMPTS, Cell, few
from stages.statistics.intervals import interval
from stages.statistics.ranks import rank_p

COLUMNS = "other beyond beyond_low beyond_high beyond_trials pairs beyond_p beyond_p_floor beyond_note".split()


def against(
    cell: Cell, measure: str, controls: pd.DataFrame, other: str, others: pd.DataFrame, other_controls: pd.DataFrame
) -> dict:
    """Return `COLUMNS` of one set of heads in a cell: how much its change lies beyond that of the other family's set.

    others: rows of EFFECTS, with `change`, of the other's set of as many heads, empty where it has too few; controls,
    other_controls: of the two sets' control sets. `beyond` is empty, and the note says why, where no comparison can be
    stated; the rank is given over all conditions only.
    """
    row: dict = {"other": other, "beyond_trials": 0, "pairs": 0}
    theirs = others[(others.task == cell.task.name) & (others.measure == measure)]
    if theirs.empty:
        size = int(cell.values.k.iloc[0])
        which = f"set of {size} {other} heads" if other else "other family"
        return row | {"beyond_note": f"no {which} was silenced"}
    both = cell.of(measure).merge(
        theirs[["prompt", "change"]], on="prompt", suffixes=("", "_other"), validate="one_to_one"
    )
    asked = replace(cell, values=cell.values[cell.values.prompt.isin(both.prompt)])
    unable = asked.unable()
    row |= {"beyond_trials": both.prompt.nunique(), "beyond_note": unable or few(both)}
    if unable or row["beyond_trials"] < PROMPTS:
        return row
    beyond_P = both.change - both.change_other
    low, high = interval(beyond_P, both.cluster, change=cell.share(measure))
    row |= {"beyond": beyond_P.mean(), "beyond_low": low, "beyond_high": high}
    if cell.condition != ALL:
        return row
    same_prompts = [
        rows[(rows.task == cell.task.name) & (rows.measure == measure) & rows.prompt.isin(both.prompt)]
        for rows in (controls, other_controls)
    ]
    beyond_D, why = _pairs(*same_prompts)
    p, floor = rank_p(abs(row["beyond"]), beyond_D.abs())
    notes = "; ".join(filter(None, [row["beyond_note"], why]))
    return row | {"pairs": len(beyond_D), "beyond_p": p, "beyond_p_floor": floor, "beyond_note": notes}


def _pairs(own: pd.DataFrame, others: pd.DataFrame) -> tuple[pd.Series, str]:
    """Return how far the two control sets of a draw are apart, of those without a common head, and why there are none.

    own, others: rows of EFFECTS, with `change`, of one measure on the same prompts; index of the result: draw.
    """
    own_D, others_D = (rows.drop_duplicates("draw").set_index("draw").heads.str.split() for rows in (own, others))
    draws = own_D.index.intersection(others_D.index)
    apart = [draw for draw in draws if not set(own_D[draw]) & set(others_D[draw])]
    why = "" if apart else "no rank: the control sets of every draw have common heads"
    why = why if len(draws) else "no rank: no control sets of both"
    return own.groupby("draw").change.mean()[apart] - others.groupby("draw").change.mean()[apart], why
