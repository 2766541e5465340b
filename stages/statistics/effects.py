"""From raw paired values to the table of effects: each family's set of heads beside its control sets.

The claim 'these heads matter for this task' is a rank among D control sets: p = (1 + number of them at least as
harmful) / (1 + D), printed with its floor 1 / (1 + D); q = Benjamini-Hochberg over the claims of one way of silencing:
each family on its home tasks, in the task's main measure. low and high bound the change of THESE heads over other
prompts: they say nothing of other heads.

A cell is `not measurable` where the intact model cannot do the task on those prompts: accuracy or recall below `ABLE`,
or, where two answers are to choose from, not above chance; loss not below that of a uniform guess, ln V. Then p is
left out, as it is in a cell of fewer than `PROMPTS` prompts; conditions of fewer than 8 clusters have no row. A
silenced model whose own loss is above ln V has left its distribution: 'worse than uniform'.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from stages import tasks
from stages.statistics.control import matching_in_all, overlap
from stages.statistics.intervals import FEWEST, interval
from stages.statistics.ranks import adjusted, rank_p
from stages.tasks.task import Task

COLUMNS = (
    "purpose family k kind draw heads members task condition measure value intact change low high trials clusters "
    "controls control_change p p_floor q overlap matching note"
).split()
SHARES = ("accuracy", "recall")  # measures in 0..1, as is what stands beside a task's main one
ABLE = 0.2  # accuracy or recall of the intact model, beyond chance, from which on losing it can be seen
PROMPTS = 20  # prompts that a cell needs to carry a claim
ALL = "all"
WORSE = "worse than uniform"
SET = ["family", "k", "kind"]  # what a set of heads and its control sets have in common


@dataclass(frozen=True)
class Cell:
    """The values of one set of heads (or of the intact model) on all prompts of a task or on one of its conditions.

    values: rows of EFFECTS, with `change`; limit: the loss of a uniform guess, ln V (nats per token).
    """

    task: Task
    condition: str
    values: pd.DataFrame
    limit: float

    def of(self, measure: str) -> pd.DataFrame:
        """Return the rows of one measure."""
        return self.values[self.values.measure == measure]

    @property
    def measures(self) -> list[str]:
        """The measures that were read, in alphabetical order."""
        return sorted(self.values.measure.unique())

    def share(self, measure: str) -> bool:
        """Tell whether a measure lies in 0..1."""
        return measure in SHARES or measure in self.task.beside

    def unable(self) -> str:
        """Return why the intact model has nothing to lose here, '' where it has."""
        measure, read = self.task.main, self.of(self.task.main)
        value = read.intact.mean()
        if measure == "loss" and value >= self.limit:
            return (
                f"not measurable: the intact model's loss, {value:.2f}, is not below a uniform guess, {self.limit:.2f}"
            )
        if measure not in SHARES:
            return ""
        chance = self.task.chance.get(measure, 0.0)
        if self.task.chance_in:  # a mean over prompts, as the value is
            chance = float(read[self.task.parts].map(self.task.chance_in).astype(float).mean())
        low, _ = interval(read.intact, read.cluster, share=True)
        if chance and (value <= chance or low <= chance):
            return f"not measurable: the intact model's {measure}, {value:.2f}, is not above chance, {chance:.2f}"
        if value < chance + ABLE * (1 - chance):
            return f"not measurable: the intact model's {measure} is {value:.2f}"
        return ""


def table(raws: Iterable[pd.DataFrame], plan: pd.DataFrame, vocabulary: int) -> pd.DataFrame:
    """Return effects.csv: rows of the intact model ('none'), of families and of their control sets.

    raws: tables EFFECTS, each with all rows of some tasks, read one after the other; plan: table PLANS, whose order is
    kept; vocabulary: V, tokens. Measures that say something about the prompts (a task's `beside`, such as ties) are
    given of the intact model only.
    """
    planned, limit = plan.set_index("id"), float(np.log(vocabulary))
    places = {name: place for place, name in enumerate(planned.index)}
    ordered: list[tuple[tuple, dict]] = []  # by place in the plan, a family before its controls, by task
    for raw in raws:
        names = {name: "category" for name in raw if name not in ("value", "intact")}  # of few values: much faster
        raw = changed(raw).astype(names)
        intact = raw[raw.purpose == "none"].drop_duplicates(["task", "prompt", "measure"])
        rows = (_intact_row(cell, measure) for cell in cells(intact, limit) for measure in cell.measures)
        ordered += [((-1, False, row["task"]), row) for row in rows]
        controls = raw[raw.purpose == "control"]
        controls_of = dict(iter(controls.groupby(SET, observed=True)))
        place_of: dict[tuple, int] = {}
        for name, family in raw[raw.purpose == "family"].groupby("intervention", observed=True):
            if name not in places:
                continue
            of_set = tuple(family.iloc[0][SET])
            place_of[of_set] = places[name]
            rows = _family_rows(family, controls_of.get(of_set, raw.head(0)), planned, limit)
            ordered += [((places[name], False, row["task"]), row) for row in rows]
        for row in _control_rows(controls, planned):
            place = place_of.get(tuple(row[name] for name in SET))
            ordered += [((place, True, row["task"]), row)] if place is not None else []
    frame = pd.DataFrame([row for _, row in sorted(ordered, key=lambda keyed: keyed[0])], columns=COLUMNS)
    claim = (
        frame.p.notna() & (frame.condition == ALL) & (frame.measure == frame.task.map(lambda task: tasks.of(task).main))
    )
    whole = {name: "Int64" for name in ("members", "controls")}  # numbers that rows may lack
    p = frame.p.where(claim).astype(float)
    return frame.assign(q=p.groupby(frame.kind).transform(adjusted)).astype(whole)


def changed(raw: pd.DataFrame) -> pd.DataFrame:
    """Return rows of EFFECTS with `change`, in float64: float32 means differ by how they are taken, and so do ties."""
    raw = raw.astype({"value": float, "intact": float})
    return raw.assign(change=raw.value - raw.intact)


def _family_rows(family: pd.DataFrame, controls: pd.DataFrame, planned: pd.DataFrame, limit: float) -> list[dict]:
    """Return the rows of a family's set in every cell; conditions of a handful of prompts say nothing and have none."""
    rows, name = [], family.intervention.iloc[0]
    levels = planned.matching.reindex(controls.intervention.unique()).dropna()
    for cell in cells(family, limit):
        if cell.condition != ALL and cell.values.cluster.nunique() < FEWEST:
            continue
        beside = controls[(controls.task == cell.task.name) & controls.prompt.isin(cell.values.prompt)]
        matching = matching_in_all(levels) if len(beside) else planned.matching[name]  # or why there is no control
        same = {"members": planned.members[name], "matching": matching}
        skill = [measure for measure in cell.measures if measure not in cell.task.beside]
        rows += [_family_row(cell, measure, beside) | same for measure in skill]
    return rows


def cells(rows: pd.DataFrame, limit: float) -> Iterator[Cell]:
    """Yield all prompts of a task, then each of its conditions where there are several."""
    for name, of_task in rows.groupby("task", observed=True):
        task = tasks.of(name)
        yield Cell(task, ALL, of_task, limit)
        if task.parts and of_task[task.parts].nunique() > 1:
            for condition, of_condition in of_task.groupby(task.parts, observed=True):
                yield Cell(task, condition, of_condition, limit)


def _intact_row(cell: Cell, measure: str) -> dict:
    read = cell.of(measure)
    low, high = interval(read.value, read.cluster, share=cell.share(measure))
    row = {"purpose": "none", "family": "", "k": 0, "kind": "", "draw": 0, "heads": ""}
    row |= {"task": cell.task.name, "condition": cell.condition, "measure": measure}
    row |= {"value": read.value.mean(), "low": low, "high": high, **_counts(read)}
    ties = cell.of("ties").value.mean()
    notes = [cell.unable(), few(read)]
    notes += [f"{100 * ties:.1f} % ties, counted half"] if measure == cell.task.main and ties > 0 else []
    return row | {"note": "; ".join(filter(None, notes))}


def _family_row(cell: Cell, measure: str, controls: pd.DataFrame) -> dict:
    """Return the row of a family's set; controls: rows of its control sets on the same prompts."""
    read = cell.of(measure)
    first, change = read.iloc[0], read.change.mean()
    low, high = interval(read.change, read.cluster, change=cell.share(measure))
    row = {name: first[name] for name in ("purpose", "family", "k", "kind", "draw", "heads", "task")}
    row |= {"condition": cell.condition, "measure": measure, "value": read.value.mean(), "intact": read.intact.mean()}
    row |= {"change": change, "low": low, "high": high, **_counts(read)}
    beside = controls[controls.measure == measure]
    changes_D = beside.groupby("draw", observed=True).change.mean()
    row |= {"controls": len(changes_D), "control_change": changes_D.mean()}
    why = cell.unable()
    if len(changes_D):
        row |= {"overlap": overlap([heads.split() for heads in beside.drop_duplicates("draw").heads])}
        if not why and read.prompt.nunique() >= PROMPTS:
            sign = 1 if measure in cell.task.falls else -1  # harm is above 0
            row["p"], row["p_floor"] = rank_p(sign * change, sign * changes_D)
    notes = [why, WORSE if beyond(measure, row["value"], cell.limit) else "", few(read)]
    return row | {"note": "; ".join(filter(None, notes))}


def beyond(measure: str, value: float, limit: float) -> bool:
    """Tell whether a loss, or a mean log-probability, is worse than that of a uniform guess, `limit` nats."""
    return {"loss": value > limit, "logprob": value < -limit}.get(measure, False)


def _control_rows(controls: pd.DataFrame, planned: pd.DataFrame) -> list[dict]:
    """Return one row per control set, task and measure: its change, without an interval."""
    sets = controls.groupby(["task", "measure", "draw", "intervention"], observed=True)
    read = sets[["value", "intact", "change"]].mean().join(sets[["purpose", "family", "k", "kind", "heads"]].first())
    read = read.join(sets[["prompt", "cluster"]].nunique().set_axis(["trials", "clusters"], axis=1)).reset_index()
    of_plan = planned[["members", "matching"]].reindex(read.pop("intervention")).reset_index(drop=True)
    rows = read.assign(condition=ALL, note="").join(of_plan).to_dict("records")
    return [row for row in rows if row["measure"] not in tasks.of(row["task"]).beside]


def _counts(read: pd.DataFrame) -> dict[str, int]:
    return {"trials": int(read.prompt.nunique()), "clusters": int(read.cluster.nunique())}


def few(read: pd.DataFrame) -> str:
    """Return what a cell of few prompts does not allow."""
    trials, clusters = _counts(read).values()
    notes = [f"{trials} prompts: fewer than {PROMPTS}"] if trials < PROMPTS else []
    notes += [f"{clusters} clusters: fewer than {FEWEST}, no interval"] if clusters < FEWEST else []
    return "; ".join(notes)
