"""What silencing each single head would harm, estimated by gradients for all heads and measured for some."""

import pandas as pd

from stages.page import head_maps, rows, verdicts
from stages.page.inputs import Slot
from stages.page.page import Chart, Figure, Note, Table
from stages.page.section import Context, SlotSection
from stages.page.sentences import capital, decimals, number

NOTE = (
    "The first-order effect of a head is the gradient of the task's measure at the head's output, times what silencing "
    "would change in that output, summed over positions: one backward pass gives it for all heads at once. It is an "
    "estimate, good where the model is near linear; heads that were really silenced one by one show how good it is."
)


def every_head(slot: Slot, context: Context) -> list:
    """Return a map of first-order harm per task, their agreement with exact ones, and the exact ones."""
    single = rows.single_heads(slot.causal)
    path = slot.path("causal.csv")
    if single.empty:
        why = capital(slot.reasons.get("ablation", "")) or f"{path} has no rows"
        return [Note(f"No head was measured by gradients. {why}.")]
    whole = head_maps.whole_layers(slot.model)
    maps = [
        Chart(head_maps.harm_map(part, whole), capital(f"{context.task(task)}: {measure}"))
        for (task, measure), part in single.groupby(["task", "measure"], sort=False)
        if part["first_order"].notna().any()
    ]
    says = "First-order harm per head: orange (+) is worse, blue better; outlined: heads that were silenced alone."
    blocks: list = [Note(NOTE)]
    if maps:
        blocks.append(Figure(maps, says, path, "maps"))
    agreement = [verdicts.agreement(row) for row in slot.agreement.itertuples()]
    agreement = agreement or [f"Not measured ({slot.path('agreement.csv')} has no rows)."]
    blocks.append(Note(" ".join(["How well first-order effects agree with exact ones.", *agreement])))
    return [*blocks, *exact(single, rows.silenced_in(slot.effects), context, path)]


def exact(single: pd.DataFrame, families: dict[str, list[str]], context: Context, path: str) -> list[Table]:
    """Return the exact harm: of heads that stand for a family in a table, of the random sample in a folded one."""
    measured = single[single["exact"].notna()]
    kinds = list(dict.fromkeys(zip(measured["task"], measured["measure"], strict=True)))
    columns = ["head", "silenced with", *(capital(f"{context.task(task)}: {measure}") for task, measure in kinds)]
    cells: dict[bool, list[list[str]]] = {True: [], False: []}
    for (_, _, name), part in measured.groupby(["layer", "head", "name"]):
        values = {(row.task, row.measure): _both(row) for row in part.itertuples()}
        named = families.get(name, [])
        cells[bool(named)].append([name, ", ".join(named) or "–", *(values.get(kind, "–") for kind in kinds)])
    says = "Exact harm when the head alone is silenced, + is worse; in brackets the first-order estimate."
    numeric, tables = tuple(range(2, len(columns))), []
    if cells[True]:
        tables.append(Table(columns, cells[True], says, path, numeric))
    if cells[False]:
        folded = f"Heads silenced alone that stand for no family ({len(cells[False])}, drawn at random)"
        tables.append(Table(columns, cells[False], says, path, numeric, folded=folded))
    return tables


def _both(row) -> str:
    digits = max(3, decimals(row.measure))
    estimate = "" if pd.isna(row.first_order) else f" ({number(row.first_order, digits, True)})"
    return number(row.exact, digits, True) + estimate


SECTION = SlotSection("every-head", "Every head, by gradients", 105, every_head, predicts=True, seen=2)
