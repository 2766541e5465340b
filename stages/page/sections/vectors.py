"""What function vectors do without demonstrations, and how few heads carry the effect."""

import pandas as pd

from stages.page import charts, rows, sentences
from stages.page.inputs import Slot
from stages.page.page import Chart, Figure, Note, Table
from stages.page.section import Context, SlotSection
from stages.page.sentences import number


def vectors(slot: Slot, context: Context) -> list:
    """Show what function vectors do without demonstrations, and how few heads carry the effect."""
    path = slot.path("steering.csv")
    labels = {vector: label.split(":")[0] for vector, (label, _, _) in charts.VECTORS.items()}
    steered = slot.steering[slot.steering["vector"].isin(labels)]
    contexts = [c for c in ("zero_shot", "shuffled") if c in set(steered["context"])]
    blocks = []
    if contexts:
        cards = [
            Chart(charts.steering(steered[steered["context"] == c]), f"{c.replace('_', '-').capitalize()} prompts",
                  sentences.steering(steered, c, labels))
            for c in contexts
        ]  # fmt: skip
        legend = [(colour, shape, label) for label, colour, shape in charts.VECTORS.values()]
        says = "Layer, number of heads and strength were chosen on one half of the prompts; this is the other half."
        blocks += [Figure(cards, says, path, "cards", legend), _steering_table(steered, contexts, labels, path)]
    else:
        why = slot.reasons.get("function") or slot.reasons.get("icl") or slot.reasons.get("steering")
        blocks.append(Note(f"No function vector was tested: {why or f'{path} has no rows'}."))
    shares = rows.concentration(slot.heads)
    if len(shares):
        chart = Chart(charts.concentration(shares), "Concentration of the indirect effect", "")
        blocks.append(Figure([chart], sentences.concentration(shares), slot.path("heads.csv"), "single"))
    else:
        blocks.append(Note(sentences.concentration(shares)))
    return blocks


def _steering_table(steered: pd.DataFrame, contexts: list[str], labels: dict[str, str], path: str) -> Table:
    first = steered.groupby(["function", "context", "vector"]).first()

    def cell(column: str, *key: str) -> str:
        value = first[column].get(key)
        if value is None or pd.isna(value) or (column == "layer" and value < 0):
            return "–"
        return number(value) if column == "accuracy" else f"{value:g}"

    table = []
    for name in sorted(set(steered["function"])):
        demonstrated = cell("accuracy", name, "clean", "none")
        for c in contexts:
            accuracy = [cell("accuracy", name, c, vector) for vector in labels]
            setting = [cell("heads", name, c, "heads"), *(cell(x, name, c, "function") for x in ("layer", "strength"))]
            table.append([name, c.replace("_", "-"), demonstrated, *accuracy, *setting])
    columns = [
        "function",
        "prompt",
        "intact, with demonstrations",
        *labels.values(),
        "heads used",
        "function at layer",
        "strength",
    ]
    says = "Accuracy per function, and the number of heads, layer and strength chosen for it."
    return Table(columns, table, says, path, tuple(range(2, len(columns))))


SECTION = SlotSection("vectors", "Function vectors", 90, vectors, predicts=True)
