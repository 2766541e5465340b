"""How many heads families share beyond chance."""

import pandas as pd

from stages.page import charts, rows, sentences
from stages.page.inputs import Slot
from stages.page.page import Chart, Figure, Note
from stages.page.section import Context, SlotSection
from stages.page.sentences import listed

SCALE = (
    "Numbers are chance-corrected Jaccard indices, of the heads in both among those in either: 1 = the same heads, "
    "0 = chance; grey = not defined."
)


def overlap(slot: Slot, context: Context) -> list:
    """Return the matrix of overlaps, or a sentence where none is defined."""
    shared = rows.overlap(slot.overlap, list(context.families))
    nested = pd.Series([_nested(row, context) for row in shared.itertuples()], shared.index, dtype=bool)
    says = sentences.overlap(shared[~nested])
    if not shared["corrected"].notna().any():
        return [Note(says)]
    there = set(shared["family_a"]) | set(shared["family_b"])
    order = [family for family in context.families if family in there]
    order += sorted(there - set(order))
    text = f"{says} {by_definition(shared[nested & (shared['shared'] > 0)])}".strip()
    return [Note(text), Figure([Chart(charts.overlap(shared, order))], SCALE, slot.path("overlap.csv"), "single")]


def by_definition(nested: pd.DataFrame) -> str:
    """Say which shared heads are no finding, because one relation holds the other; '' where none are."""
    pairs = [f"{row.family_a} and {row.family_b} ({int(row.shared)})" for row in nested.itertuples()]
    if not pairs:
        return ""
    return f"Left out there, as one relation holds the other, so that heads in both are no finding: {listed(pairs)}."


def _nested(row, context: Context) -> bool:
    a, b = (context.families.get(name) for name in (row.family_a, row.family_b))
    return a is not None and b is not None and (a.name in b.within or b.name in a.within)


SECTION = SlotSection("overlap", "Heads in several families", 100, overlap, seen=1)
