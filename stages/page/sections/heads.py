"""All heads in all families, and who the members are."""

import pandas as pd

from stages.families.family import Family
from stages.page import charts, head_maps, sentences
from stages.page.head_maps import PREFIX
from stages.page.inputs import Slot
from stages.page.page import Chart, Figure, Note, Table
from stages.page.section import Context, SlotSection
from stages.page.sentences import TASKS, number

RHO = (
    "ρ: rank correlation of the scores of two disjoint halves of the prompts. Score against effect: rank correlation "
    "over heads of the score on one half and, on the other, the harm that gradients estimate silencing the head alone "
    "would do to the task named (see 'Every head, by gradients'), with its one-sided p-value under permutation of the "
    "heads within layers."
)


def heads(slot: Slot, context: Context) -> list:
    """Return a heat map per family, and a table of members."""
    parts = head_maps.by_family(slot.heads, context.families)
    path = slot.path("heads.csv")
    if not parts:
        other = " outside grammar" if len(slot.heads) else ""
        return [Note(f"No head was scored{other} ({path} has no such rows).")]
    whole = head_maps.whole_layers(slot.model)
    maps = [
        Chart(head_maps.head_map(scores, context.families.get(family), whole), family, sentences.strongest(scores))
        for family, scores in parts
    ]
    says = (
        f"{sentences.members(slot.heads)} Under each map: the head with the highest score on one half of the prompts, "
        "and its score on the other. Rows are layers, from 0 at the top, columns are heads; point at a cell for its "
        "numbers." + (" Layers that see the whole context are bold." if whole else "")
    )
    legend = [(charts.ORANGE, "outline", "member"), (charts.GREY, "dot", "verdict has a note"),
              (charts.PALE, "cell", "not scored")]  # fmt: skip
    table = [_member_row(family, scores, context.families.get(family), slot.reliability) for family, scores in parts]
    table += _grammar_row(slot)
    columns = ["family", "looks from → to", "member at", "members", "split-half ρ", "score against effect",
               "top members, strongest first"]  # fmt: skip
    return [
        Figure(maps, says, path, "maps", legend),
        Table(columns, table, RHO, slot.path("reliability.csv"), (2, 3, 4)),
    ]


def _member_row(name: str, scores: pd.DataFrame, family: Family | None, reliability: pd.DataFrame) -> list[str]:
    inside = scores[scores["member"] == 1].sort_values(["score", "layer", "head"], ascending=[False, True, True])
    names = [head_maps.head_name(*pair) for pair in zip(inside["layer"], inside["head"], strict=True)]
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    measured = reliability[reliability["family"] == name]
    rho = measured["spearman"].iloc[0] if len(measured) else None
    threshold = measured["threshold"].iloc[0] if len(measured) else family.threshold if family else None
    bar = "–" if threshold is None or pd.isna(threshold) else f"{threshold:g}"
    relation = family.relation_text if family else "–"
    effect = _against_effect(measured.iloc[0]) if len(measured) else "–"
    return [name, relation, bar, str(len(names)), number(rho), effect, (", ".join(names[:10]) + more) or "none"]


def _against_effect(row: pd.Series) -> str:
    if pd.isna(row["effect_rho"]):
        return "–"
    task = TASKS.get(row["effect_task"], row["effect_task"])
    return f"{number(row['effect_rho'])} ({task}; p = {sentences.p_value(row['effect_p'])})"


def _grammar_row(slot: Slot) -> list[list[str]]:
    """Return one row for all relations of grammar: who is a member of any, and the median of their reliability."""
    if not slot.heads["family"].str.startswith(PREFIX).any():
        return []
    inside = slot.heads[slot.heads["family"].str.startswith(PREFIX) & (slot.heads["member"] == 1)]
    spearman = slot.reliability[slot.reliability["family"].str.startswith(PREFIX)]["spearman"].dropna()
    counts = inside.groupby(["layer", "head"]).size().sort_values(ascending=False, kind="stable")
    names = [f"{head_maps.head_name(*key)} in {count}" for key, count in counts.head(5).items()]
    more = f" and {len(counts) - 5} more" if len(counts) > 5 else ""
    rho = f"{number(spearman.median())} (median of {len(spearman)})" if len(spearman) else "–"
    top = f"{', '.join(names)}{more}; see Grammar heads" if names else "none"
    return [["grammar", "a word → its head or dependents, by label", "best offset", str(len(counts)), rho, "–", top]]


SECTION = SlotSection("heads", "The heads", 40, heads, seen=1)
