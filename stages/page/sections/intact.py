"""Values and trials of the untouched model."""

from stages import tasks
from stages.page import charts, counting, rows, sentences
from stages.page.inputs import Slot
from stages.page.page import Chart, Figure, Note, Table
from stages.page.section import Context, SlotSection
from stages.page.sentences import MEASURES, number


def intact(slot: Slot, context: Context) -> list:
    """Return charts by condition, and a table of all tasks and measures."""
    whole = rows.intact(slot.effects)
    whole = whole[~whole["task"].isin(own_section())]
    path = slot.path("effects.csv")
    if whole.empty:
        return [Note(f"No task was measured on the intact model ({path} has no such rows).")]
    table = [
        [context.task(r["task"]), MEASURES.get(r["measure"], (r["measure"],))[0], number(r["value"], d),
         sentences.interval(r["low"], r["high"], d) or "–", str(int(r["trials"])), r["note"]]
        for _, r in whole.iterrows() for d in [sentences.decimals(r["measure"])]
    ]  # fmt: skip
    scored = whole[whole["measure"].isin(["accuracy", "recall"])]
    says = "; ".join(sentences.intact(r, context.task(r["task"])) for _, r in scored.iterrows())
    says = f"The intact model: {says}." if says else "Only losses were measured on the intact model."
    says += (
        " Nothing is chosen here: rows are of all prompts, both halves of them, where extraction measured that "
        "already, and else of the fewer prompts of the second half that heads are silenced on."
    )
    blocks: list = [Note(says)]
    numbers = Table(["task", "measure", "value", "95 % interval", "trials", "note"], table, "", path, (2, 3, 4))
    figure, cells = [], []
    for task in [task for task in tasks.names() if task not in own_section() and tasks.of(task).parts]:
        grouped, kind = rows.by_condition(slot.effects, task), tasks.of(task)
        places = rows.by_place(grouped)
        cells += [(task, kind.main, "all")] if len(grouped) else []
        if len(places):
            says = sentences.spread(places, "places (tokens@depth)")
            figure.append(Chart(charts.grid(places, kind.main), f"Needle {kind.main} by length and depth", says))
        elif len(grouped):
            guess = counting.guess(slot, context.counted, task, kind.main)
            chart = charts.by_condition(grouped, kind.main, guess)
            label = f"{sentences.capital(context.task(task))} by {kind.part[0]}"
            figure.append(Chart(chart, label, sentences.spread(grouped, kind.part[1])))
    if figure:
        line = "Bars with 95 % intervals. " + counting.guesses(slot, context, cells)
        blocks.append(Figure(figure, line, path))
    return [*blocks, numbers]


def own_section() -> list[str]:
    """Return the tasks that have a section of their own."""
    return [task for task in tasks.names() if tasks.of(task).own_section]


SECTION = SlotSection("intact", "What the intact model can do", 20, intact, predicts=True, seen=2)
