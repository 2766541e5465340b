"""What counting words can do on the model's own prompts, beside what the intact model does: rows, sentences, blocks.

Differences are said as they are; the intervals stand beside them in the figure.
"""

from collections.abc import Iterable

import pandas as pd

from stages import tasks
from stages.page import charts, rows
from stages.page.inputs import Slot
from stages.page.page import Chart, Figure, Note
from stages.page.section import Context
from stages.page.sentences import TASKS, capital, interval, listed, number, tied
from stages.store.paths import COUNTING

SHOWN = {  # task: what its parts are called, one and many
    name: tasks.of(name).part
    for name in tasks.names()
    if tasks.of(name).part and tasks.of(name).main == "accuracy" and tasks.of(name).counted
}
REPEATS = "repeats"  # the one task whose loss is counted
STEPPING = "iteration"  # what a guess gets depends on the function
BASELINES = ("ngram", "ngram_prompt")
NOTE = (
    "A control that knows only which words followed which: n-grams (interpolated modified Kneser-Ney, Chen & Goodman "
    "1999) counted on the text at `ngram.path` in params.yaml, and the same with the prompt so far counted too, which "
    "is what copying by counting gives. Where the model is no better, its score is no evidence of more than that; "
    "where it is, more text could still bring the n-grams closer."
)


def counting(slot: Slot, context: Context) -> list:
    """Show accuracy per phenomenon and function beside both baselines', and the loss on random repeats."""
    counted, path = context.counted, COUNTING.as_posix()
    if counted.empty:
        return [Note(f"No n-gram baseline was measured ({path} has no rows).")]
    if not slot.decoder and not rows.intact(slot.effects)["task"].isin(SHOWN).any():
        return [Note("There is nothing to compare counting with: the model scores no sentence.")]
    figure = []
    for task, (part, parts) in SHOWN.items():
        conditions = beside(slot.effects, counted, task)
        if (conditions["series"] == "model").any():
            chart = charts.series(conditions, "accuracy", tasks.of(task).chance.get("accuracy"), order(conditions))
            says = " ".join(
                filter(None, [whole(slot.effects, counted, task, "accuracy", 2), compared(conditions, parts)])
            )
            figure.append(Chart(chart, f"{capital(context.task(task))} by {part}", says))
    says = [ties(counted), whole(slot.effects, counted, REPEATS, "loss", 3)]
    text = " ".join(filter(None, [*says, "Lines are 95 % intervals; dashed: chance (0.5 for minimal pairs)."]))
    if not figure:
        return [Note(NOTE), Note(f"{text} Data: `{path}`.")]
    legend = [(colour, shape, label) for label, colour, shape in charts.SERIES.values()]
    return [Note(NOTE), Figure(figure, text, path, "cards", legend)]


def guess(slot: Slot, counted: pd.DataFrame, task: str, measure: str, condition: str = "all") -> float | None:
    """Return what a guess gets: a task's chance, if that is one number, else that of its condition, else n-grams'."""
    chance = tasks.of(task).chance.get(measure)
    if chance is not None:
        return chance
    if task == STEPPING and condition in set(slot.iteration["function"]):
        return float(slot.iteration.set_index("function").loc[[condition], "symbols_chance"].iloc[0])
    rows = counted[(counted["task"] == task) & (counted["measure"] == measure) & (counted["condition"] == "all")]
    rows = rows[rows["baseline"] == BASELINES[0]]
    return float(rows["value"].iloc[0]) if len(rows) else None


def guesses(slot: Slot, context: Context, cells: Iterable[tuple[str, str, str]]) -> str:
    """Say what a guess gets in cells (task, measure, condition), and where that is not known."""
    known, unknown = {}, {}
    for task, measure, condition in cells:
        name = context.task(task) + ("" if condition == "all" else f" ({condition})")
        value = guess(slot, context.counted, task, measure, condition)
        if value is None:
            unknown[name] = f"no guess was counted for {name}"
        else:
            counts = task != STEPPING and measure not in tasks.of(task).chance
            known[name] = f"{number(value)} on {name}{' (n-grams of the text)' * counts}"
    said = [f"Dashed: what a guess gets, {listed(known.values())}"] if known else []
    return capital("; ".join([*said, *unknown.values()])) + "."


def beside(effects: pd.DataFrame, counted: pd.DataFrame, task: str) -> pd.DataFrame:
    """Return accuracy per condition of a task: the intact model's (series 'model') and both baselines'."""
    model = rows.by_condition(effects, task).assign(series="model")
    other = counted[(counted["task"] == task) & (counted["measure"] == "accuracy") & (counted["condition"] != "all")]
    other = other.rename(columns={"baseline": "series"})
    columns = ["condition", "series", "value", "low", "high", "trials"]
    return pd.concat([part[columns] for part in (model, other) if len(part)] or [other[columns]], ignore_index=True)


def order(conditions: pd.DataFrame) -> list[str]:
    """Return the conditions, those where the model is best first; without a model, the best counted first."""
    wide = conditions.pivot(index="condition", columns="series", values="value")
    by = [name for name in charts.SERIES if name in wide]
    return list(wide.sort_index().sort_values(by, ascending=False, kind="stable").index)


def compared(conditions: pd.DataFrame, parts: str) -> str:
    """Say by how much the model's accuracy lies above the better baseline's, by condition, and where most and least."""
    wide = conditions.pivot(index="condition", columns="series", values="value").sort_index()
    names = [name for name in BASELINES if name in wide]
    if "model" not in wide or not names:
        return ""
    lead = (wide["model"] - wide[names].max(axis=1)).dropna()
    if lead.empty:
        return ""
    return (
        f"Over {len(lead)} {parts}, the model's accuracy minus the better baseline's: "
        f"{number(lead.median(), 2, True)} in the median, from {number(lead.min(), 2, True)} "
        f"({tied(lead, lead.min())}) to {number(lead.max(), 2, True)} ({tied(lead, lead.max())})."
    )


def whole(effects: pd.DataFrame, counted: pd.DataFrame, task: str, measure: str, digits: int) -> str:
    """Say what the model and both baselines reach on a whole task; trials where they differ."""
    model = rows.intact(effects)
    parts = [("the intact model", model[(model["task"] == task) & (model["measure"] == measure)])]
    other = counted[(counted["task"] == task) & (counted["measure"] == measure) & (counted["condition"] == "all")]
    parts += [(charts.SERIES[name][0], other[other["baseline"] == name]) for name in BASELINES]
    parts = [(name, part.iloc[0]) for name, part in parts if len(part)]
    if not parts:
        return ""
    same = len({int(row["trials"]) for _, row in parts}) == 1
    said = [
        f"{name} {number(row['value'], digits)} {interval(row['low'], row['high'], digits)}".rstrip()
        + ("" if same else f" ({int(row['trials'])} prompts)")
        for name, row in parts
    ]
    unit = "loss, nats per token of the last copy" if measure == "loss" else measure
    known = "" if task != REPEATS else " The text says nothing of random tokens: its loss is that of a uniform guess."
    return f"{capital(TASKS[task])}, {unit}: {'; '.join(said)}.{known}"


def ties(counted: pd.DataFrame) -> str:
    """Say how many minimal pairs the baselines cannot tell apart."""
    tied = counted[(counted["measure"] == "ties") & (counted["condition"] == "all")].set_index("baseline")["value"]
    if tied.empty:
        return ""
    shares = listed(f"{tied[name]:.0%} ({charts.SERIES[name][0]})" for name in BASELINES if name in tied)
    return f"Both sentences of a minimal pair are equally likely in {shares} of the pairs; a tie counts half."
