"""From raw paired values to the table of effects: each family's set of heads beside its control sets.

The claim 'these heads matter for this task' is a rank among D control sets: p = (1 + number of them at least as
harmful) / (1 + D), printed with its floor 1 / (1 + D); q = Benjamini-Hochberg over the claims: each family on its home
tasks, in the task's main measure. low and high bound the change of THESE heads over other prompts: they say nothing of
other heads.

A cell is `not measurable` where the intact model cannot do the task on those prompts: accuracy or recall below `ABLE`,
or, where two answers are to choose from, not above chance; loss not below that of a uniform guess, ln V. Then p is
left out. A silenced model whose own loss is above ln V has left its distribution: 'worse than uniform'.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from stages.statistics.intervals import FEWEST, interval
from stages.statistics.ranks import adjusted, harm, overlap, rank_p
from stages.store.metrics import MAIN

COLUMNS = (
    "purpose family k kind draw heads members task group measure value intact change low high trials clusters "
    "controls control_change p p_floor q overlap matching note"
).split()
SHARES = ("accuracy", "recall", "ties", "equal_ids", "unequal_length")  # measures in 0..1
ABLE = 0.2  # accuracy or recall of the intact model, beyond chance, from which on losing it can be seen
PROMPTS = 20  # prompts that a cell needs to carry a claim
# accuracy or recall of guessing, by task or its only group (tapes: stages/tasks/iteration/tape.py); 0 elsewhere
CHANCE = {"blimp": 0.5, "iteration/parity": 0.5, "iteration/polynomial": 0.412}
BY = {"blimp": "category", "icl": "group", "needle": "group", "iteration": "group"}  # what a task is broken down by
ALL = "all"


def table(
    raw: pd.DataFrame,
    plan: pd.DataFrame,
    vocabulary: int,
    by: Mapping[str, str] = BY,
    chance: Mapping[str, float] = CHANCE,
) -> pd.DataFrame:
    """Return effects.csv: rows of the intact model ('none'), of families and of their control sets.

    raw: table EFFECTS; plan: table PLANS, whose order is kept; vocabulary: V, tokens; by: column that a task's rows
    are broken down by; chance: as `CHANCE`.
    """
    intact = raw[raw.purpose == "none"].drop_duplicates(["task", "prompt", "measure"])
    limit = np.log(vocabulary)
    rows = [
        _intact_row(task, group, cell, measure, limit, _guessing(task, cell, chance))
        for task, group, cell in _cells(intact, by)
        for measure in sorted(cell.measure.unique())
    ]
    planned = plan.set_index("id")
    sets = raw[raw.purpose.isin(["family", "control"])].assign(change=lambda frame: frame.value - frame.intact)
    names = set(sets[sets.purpose == "family"].intervention)
    for name in [name for name in planned.index if name in names]:
        family = sets[sets.intervention == name]
        first = family.iloc[0]
        same = (sets.purpose == "control") & (sets.family == first.family) & (sets.k == first.k)
        controls = sets[same & (sets.kind == first.kind)]
        levels = {*planned.matching.reindex(controls.intervention.unique()).dropna(), planned.matching[name]}
        told = {"members": planned.members[name], "matching": "; ".join(sorted(levels - {""}))}
        for task, group, cell in _cells(family, by):
            beside = controls[(controls.task == task) & controls.prompt.isin(cell.prompt)]
            why = _unable(cell.assign(value=cell.intact), limit, _guessing(task, cell, chance))
            for measure in sorted(cell.measure.unique()):
                row = _family_row(task, group, cell, beside, measure, why, limit)
                rows.append(row | told)
        rows += _control_rows(controls, planned)
    frame = pd.DataFrame(rows, columns=COLUMNS)
    claim = frame.p.notna() & (frame.group == ALL)
    claim &= frame.measure == main_measures(frame)
    return frame.assign(q=adjusted(frame.p.where(claim)))


def main_measures(frame: pd.DataFrame) -> pd.Series:
    """Return the main measure of each row's task: the first of `MAIN` that an intervention was read by there."""
    silenced = frame[frame.purpose == "family"]
    of_task = {task: _main(rows.measure.unique()) for task, rows in silenced.groupby("task")}
    return frame.task.map(of_task)


def _main(measures) -> str:
    return next((measure for measure in MAIN if measure in measures), "")


def _cells(rows: pd.DataFrame, by: Mapping[str, str]):
    """Yield (task, group, rows): all prompts of a task, then each of its groups where there are several."""
    for task, of_task in rows.groupby("task"):
        yield task, ALL, of_task
        if task in by and of_task[by[task]].nunique() > 1:
            for group, of_group in of_task.groupby(by[task]):
                yield task, group, of_group


def _intact_row(task: str, group: str, cell: pd.DataFrame, measure: str, limit: float, chance: float) -> dict:
    read = cell[cell.measure == measure]
    low, high = interval(read.value, read.cluster, share=measure in SHARES)
    row = {"purpose": "none", "family": "", "k": 0, "kind": "", "draw": 0, "heads": "", "task": task, "group": group}
    row |= {"measure": measure, "value": read.value.mean(), "low": low, "high": high, **_counts(read)}
    ties = cell[cell.measure == "ties"].value.mean()
    notes = [_unable(cell, limit, chance), _few(read)]
    notes += [f"{100 * ties:.1f} % ties, counted half"] if measure == "accuracy" and ties > 0 else []
    return row | {"note": "; ".join(filter(None, notes))}


def _family_row(
    task: str, group: str, cell: pd.DataFrame, controls: pd.DataFrame, measure: str, why: str, limit: float
) -> dict:
    read = cell[cell.measure == measure]
    change = read.change.mean()
    low, high = interval(read.change, read.cluster, change=measure in SHARES)
    first = read.iloc[0]
    row = {name: first[name] for name in ("purpose", "family", "k", "kind", "draw", "heads")}
    row |= {"task": task, "group": group, "measure": measure, "value": read.value.mean(), "intact": read.intact.mean()}
    row |= {"change": change, "low": low, "high": high, **_counts(read)}
    beside = controls[controls.measure == measure]
    changes_D = beside.groupby("draw").change.mean()
    row |= {"controls": len(changes_D), "control_change": changes_D.mean()}
    if len(changes_D):
        row |= {"overlap": overlap(heads.split() for heads in beside.drop_duplicates("draw").heads)}
        if measure in MAIN and not why:
            row["p"], row["p_floor"] = rank_p(harm(change, measure), harm(changes_D.to_numpy(), measure))
    beyond = {"loss": row["value"] > limit, "logprob": row["value"] < -limit}.get(measure, False)
    notes = [why, "worse than uniform" if beyond else "", _few(read)]
    return row | {"note": "; ".join(filter(None, notes))}


def _control_rows(controls: pd.DataFrame, planned: pd.DataFrame) -> list[dict]:
    """Return one row per control set, task and measure: its change, without an interval."""
    rows = []
    for (name, draw, task, measure), read in controls.groupby(["intervention", "draw", "task", "measure"]):
        row = {key: read.iloc[0][key] for key in ("purpose", "family", "k", "kind", "heads")} | {"draw": draw}
        row |= {"task": task, "group": ALL, "measure": measure, "value": read.value.mean(), "note": ""}
        row |= {"intact": read.intact.mean(), "change": read.change.mean(), **_counts(read)}
        rows.append(row | {"members": planned.members[name], "matching": planned.matching[name]})
    return sorted(rows, key=lambda row: (row["task"], row["measure"], row["draw"]))


def _guessing(task: str, cell: pd.DataFrame, chance: Mapping[str, float]) -> float:
    groups = cell.group.unique()
    return chance.get(f"{task}/{groups[0]}" if len(groups) == 1 else task, chance.get(task, 0.0))


def _counts(read: pd.DataFrame) -> dict[str, int]:
    return {"trials": int(read.prompt.nunique()), "clusters": int(read.cluster.nunique())}


def _few(read: pd.DataFrame) -> str:
    """Return what a cell of few prompts does not allow."""
    trials, clusters = _counts(read).values()
    notes = [f"{trials} prompts: fewer than {PROMPTS}"] if trials < PROMPTS else []
    notes += [f"{clusters} clusters: fewer than {FEWEST}, no interval"] if clusters < FEWEST else []
    return "; ".join(notes)


def _unable(cell: pd.DataFrame, limit: float, chance: float) -> str:
    """Return why nothing can be lost on these prompts, '' where something can; `value` is the intact model's."""
    measure = _main(cell.measure.unique())
    read = cell[cell.measure == measure]
    value = read.value.mean()
    if measure == "loss" and value >= limit:
        return f"not measurable: the intact model's loss, {value:.2f}, is not below a uniform guess's, {limit:.2f}"
    if measure not in ("accuracy", "recall"):
        return ""
    low, _ = interval(read.value, read.cluster, share=True)
    if chance and (value <= chance or low <= chance):
        return f"not measurable: the intact model's {measure}, {value:.2f}, is not above chance, {chance:.2f}"
    if value < chance + ABLE * (1 - chance):
        return f"not measurable: the intact model's {measure} is {value:.2f}"
    return ""
