"""How many heads families share beyond chance."""

from stages.page import charts, rows, sentences
from stages.page.inputs import Slot
from stages.page.page import Chart, Figure, Note
from stages.page.section import Context, SlotSection


def overlap(slot: Slot, context: Context) -> list:
    """Return the matrix of overlaps, or a sentence where none is defined."""
    shared = rows.overlap(slot.overlap, list(context.families))
    says = sentences.overlap(shared)
    if not shared["corrected"].notna().any():
        return [Note(says)]
    there = set(shared["family_a"]) | set(shared["family_b"])
    order = [family for family in context.families if family in there]
    order += sorted(there - set(order))
    text = "Numbers are chance-corrected Jaccard indices: 1 = the same heads, 0 = chance; grey = not defined."
    return [Figure([Chart(charts.overlap(shared, order))], f"{says} {text}", slot.path("overlap.csv"), "single")]


SECTION = SlotSection("overlap", "Heads in several families", 100, overlap)
