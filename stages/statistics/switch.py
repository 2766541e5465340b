"""Two families against each other: what in-context learning loses without heads of one that are not the other's.

After Yin & Steinhardt (2025, "Which attention heads matter for in-context learning?"): induction and function heads
share members, so that silencing the best of one family silences the other as well. Here a set holds the first k heads
of a family, ranked on split a, that are no members of the other and do not rank higher there (`stages.plan.exclusive`).
A row per task, condition, family, k and measure. p = (1 + number of control sets at least as harmful) / (1 + D), on the
same prompts; only over all conditions, on `effects.PROMPTS` prompts, where the intact model has something to lose.
Both families are held against each other as well (`stages.statistics.against`): their rows say the same, signs turned.
"""

import pandas as pd

from stages.statistics.against import COLUMNS as AGAINST
from stages.statistics.against import against
from stages.statistics.control import matching_in_all
from stages.statistics.effects import ALL, PROMPTS, cells, changed
from stages.statistics.intervals import interval
from stages.statistics.ranks import rank_p

COLUMNS = [
    *"family k kind heads members passed_over task condition measure value intact change low high trials".split(),
    *"clusters controls control_change p p_floor matching note".split(),
    *AGAINST,
]


def table(raw: pd.DataFrame, plan: pd.DataFrame, limit: float) -> pd.DataFrame:
    """Return switch.csv from rows of EFFECTS and the table PLANS; limit: the loss of a uniform guess, ln V.

    change: mean over prompts of silenced minus intact; control_change: the mean of that over control sets; matching:
    how these are matched, in all, or why there are none; other: the other family, beyond: this one's change minus that.
    """
    raw, levels, sweep = changed(raw), plan.set_index("id").matching, plan[plan.purpose == "sweep"]
    rows = []
    for planned in sweep.itertuples():
        own = raw[raw.intervention == planned.id]
        other = next((name for name in sweep.family.unique() if name != planned.family), "")
        controls, others, other_controls = (
            raw[(raw.purpose == purpose) & (raw.family == name) & (raw.k == planned.k)]
            for purpose, name in (("sweep_control", planned.family), ("sweep", other), ("sweep_control", other))
        )
        for cell in cells(own, limit):
            beside = controls[(controls.task == cell.task.name) & controls.prompt.isin(cell.values.prompt)]
            same = {name: getattr(planned, name) for name in ("family", "k", "kind", "heads", "members")}
            out, why = passed_over(planned.matching)
            matching = matching_in_all(levels[beside.intervention.unique()]) if len(beside) else why
            same |= {"passed_over": out, "matching": matching}
            for measure in cell.measures:
                if measure not in cell.task.beside:
                    beyond = against(cell, measure, beside, other, others, other_controls)
                    rows.append(same | _row(cell, measure, beside[beside.measure == measure]) | beyond)
    return pd.DataFrame(rows, columns=COLUMNS)


def passed_over(planned: str) -> tuple[str, str]:
    """Return the heads that were passed over as the other family's, and why there are no control sets.

    planned: both in the plan's words: 'without L5H1; no control sets asked for'; either may be lacking.
    """
    out, _, why = planned.partition("; ")
    return (out.removeprefix("without "), why) if out.startswith("without ") else ("", planned)


def _row(cell, measure: str, controls: pd.DataFrame) -> dict:
    read, share = cell.of(measure), cell.share(measure)
    low, high = interval(read.change, read.cluster, change=share)
    changes_D = controls.groupby("draw").change.mean()
    row = {"task": cell.task.name, "condition": cell.condition, "measure": measure, "value": read.value.mean()}
    row |= {"intact": read.intact.mean(), "change": read.change.mean(), "low": low, "high": high}
    row |= {"trials": read.prompt.nunique(), "clusters": read.cluster.nunique(), "controls": len(changes_D)}
    row |= {"control_change": changes_D.mean(), "note": cell.unable()}
    if not row["note"] and row["trials"] < PROMPTS:
        row["note"] = f"{row['trials']} prompts: fewer than {PROMPTS}"
    elif not row["note"] and cell.condition == ALL:
        sign = 1 if measure in cell.task.falls else -1
        row["p"], row["p_floor"] = rank_p(sign * row["change"], sign * changes_D)
    return row


def metrics(rows: pd.DataFrame) -> dict:
    """Return `switch.<family>.<k>.{change,p}`: accuracy over all conditions (the task's main measure)."""
    tree: dict = {}
    for row in rows[(rows.condition == ALL) & (rows.measure == "accuracy")].itertuples():
        values = {"change": round(float(row.change), 5)}
        values |= {"p": round(float(row.p), 5)} if pd.notna(row.p) else {}
        tree.setdefault(row.family, {})[str(row.k)] = values
    return tree
