"""Does in-context learning need induction heads or function heads: each silenced without the other's."""

from math import nan
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from stages.page import against, charts, counting, verdicts
from stages.page.inputs import Slot
from stages.page.page import Chart, Figure, Note, Table
from stages.page.rows import MAIN, Change, falls, harm
from stages.page.section import Context, SlotSection
from stages.page.sentences import capital, decimals, family_heads, listed, number, p_value

LOOKS = ((charts.BLUE, "circle"), (charts.ORANGE, "square"))  # of the two families
WHAT = (
    "Heads that find an earlier occurrence and heads that carry the function overlap, so silencing the best of one "
    "family silences some of the other (Yin & Steinhardt 2025 asked which of both in-context learning needs). Here a "
    "set holds the best k heads of one family, ranked on one half of the prompts, that are no members of the other and "
    "do not rank higher there; the two families' sets never share a head. Ranks go on below the threshold of members, "
    "so that large sets hold heads that do little of what the family is named after. Each set is ranked among other "
    "heads, and the two families' sets of as many heads are compared on the same prompts."
)


def switch(slot: Slot, context: Context) -> list:
    """Draw accuracy over the number of heads silenced, say how both families rank, and list all functions."""
    study = slot.longer.get("plan")
    if study is None or study.slot.switch.empty:
        return _blocks(slot, context)
    usual, more = _blocks(slot, context), _blocks(study.slot, context)
    if usual[0] == more[0]:  # what it is about
        more = more[1:]
    return [*usual, study.fold("more prompts of each function", more)]


def _blocks(slot: Slot, context: Context) -> list:
    path, table = slot.path("switch.csv"), slot.switch
    rows = table[table["measure"] == table["task"].map(MAIN)]
    whole = rows[rows["condition"] == "all"]
    if whole.empty:
        why = slot.reasons.get("switch") or f"{path} has no rows"
        return [Note(f"No two families were silenced without each other: {why}.")]
    families = list(dict.fromkeys(whole["family"]))
    blocks: list = [Note(WHAT)]
    for task, of_task in whole.groupby("task", sort=False):
        legend = [
            (*LOOKS[at % 2], f"{family_heads(name)} that are not the other's") for at, name in enumerate(families)
        ]
        name = f"{of_task['measure'].iloc[0]} on {context.task(task)}"
        says = (
            f"Over {int(of_task['trials'].iloc[0])} prompts of split b, {int(of_task['clusters'].iloc[0])} sets of "
            f"demonstrations; {verdicts.method(of_task['kind'].iloc[0])} in the heads' place. Grey and dashed: the "
            "intact model on the same prompts. Lines: 95 % intervals, for these heads. "
        ) + counting.guesses(slot, context, [(task, of_task["measure"].iloc[0], "all")])
        guess = counting.guess(slot, context.counted, task, of_task["measure"].iloc[0])
        blocks.append(Figure([Chart(curve(of_task, name, families, guess))], says, path, "single", legend))
        blocks.append(Note(_short(of_task, name)))
        blocks += [Note(f"{_said(part, name, context.alpha)}") for _, part in of_task.groupby("family", sort=False)]
        blocks += [Note(text) for text in [against.said(of_task, name, context.alpha)] if text]
    blocks += _matching(whole[whole["controls"] > 0], path)
    few = int(rows[rows["condition"] != "all"]["trials"].min()) if (rows["condition"] != "all").any() else 0
    if few:
        folded = f"By function (from {few} prompts each: no claim rests on one)"
        blocks.append(Table(["function", *(f"{r.family} {int(r.k)}" for r in _sets(rows)), "intact"], _lines(rows),
                            "Columns: family and number of its heads silenced.", path,
                            tuple(range(1, 2 + len(_sets(rows)))), folded=folded))  # fmt: skip
    return blocks


def curve(rows: pd.DataFrame, measure: str, families: list[str], guess: float | None = None) -> alt.LayerChart:
    """Draw a value in 0..1 over the number of heads silenced (columns family, k, value, intact, low, high)."""
    colours, shapes = zip(*(LOOKS[at % 2] for at in range(len(families))), strict=True)
    ends = {name: (rows["intact"] + rows[name]).clip(0, 1) for name in ("low", "high")}
    rows = rows.assign(**ends)
    rows = rows[["family", "k", "value", "intact", "low", "high", "heads"]]
    base = alt.Chart(rows, width="container", height=220).encode(
        x=alt.X("k:Q", title="heads silenced", axis=alt.Axis(tickMinStep=1)),
        color=alt.Color("family:N", scale=alt.Scale(domain=families, range=colours), legend=None),
        tooltip=[alt.Tooltip("family:N"), alt.Tooltip("k:Q", title="heads"), alt.Tooltip("heads:N", title="which"),
                 alt.Tooltip("value:Q", title=measure, format=".2f")],
    )  # fmt: skip
    y = alt.Y("value:Q", title=measure, scale=alt.Scale(domain=[0, 1]))
    shape = alt.Shape("family:N", scale=alt.Scale(domain=families, range=shapes), legend=None)
    intact = alt.Chart(rows.head(1)).mark_rule(color=charts.GREY, strokeDash=[4, 3]).encode(y="intact:Q")
    return alt.layer(
        intact,
        *([] if guess is None else [charts.at_chance(guess, "y")]),
        base.mark_line().encode(y=y),
        base.mark_rule(strokeWidth=1.2).encode(y="low:Q", y2="high:Q"),
        base.mark_point(filled=True, size=60, opacity=1).encode(y=y, shape=shape),
    )


def _short(rows: pd.DataFrame, measure: str) -> str:
    """Say what is left without each number of each family's heads, and how the sets rank."""
    digits, parts = decimals(rows["measure"].iloc[0]), []
    for name, part in rows.groupby("family", sort=False):
        values, ranks = ([number(value, digits) for value in part["value"]], [p_value(p) for p in part["p"]])
        heads = listed(str(int(k)) for k in part["k"])
        inside = listed(str(int(count)) for count in part["members"])
        parts.append(
            f"without {heads} {family_heads(name)} (members: {inside}) {listed(values)} (rank p {listed(ranks)})"
        )
    said = f"{capital(measure)}: {number(rows['intact'].iloc[0], digits)} intact; {'; '.join(parts)}."
    tried = int(rows["p"].notna().sum())
    return f"{said} These ranks are not corrected for there being {tried} of them." if tried > 1 else said


def _said(rows: pd.DataFrame, measure: str, alpha: float) -> str:
    """Say what each number of one family's heads changes, and how the set ranks where control sets were run."""
    first, digits = rows.iloc[0], decimals(rows["measure"].iloc[0])
    if first["note"].startswith("not measurable"):
        return f"Without {family_heads(first['family'])}: {first['note']}."
    last = rows.loc[rows["k"].idxmax()]
    out = listed(str(last["passed_over"]).split())
    heads = [f"{number(r.value, digits)} without {int(r.k)} ({_members(int(r.members))}; harm "
             f"{verdicts.written(harm(r), r.measure)})"
             for r in rows.itertuples()]  # fmt: skip
    text = (
        f"{family_heads(first['family']).capitalize()}: {measure} {number(first['intact'], digits)} intact, "
        f"{listed(heads)}; passed over as the other family's: {out or 'none'}."
    )
    for row in rows.itertuples():
        if row.controls > 0 and pd.notna(row.p):
            sets, as_bad = int(row.controls), round(row.p * (1 + row.controls)) - 1
            mean = number(Change(row.control_change, nan, nan).harm(falls(row.task, row.measure)).value, digits, True)
            text += (
                f" Of {sets} control sets for the {int(row.k)} (as many heads, "
                f"{verdicts.matched(row.matching.partition('; ')[0])}), {as_bad or 'none'} "
                f"{'does' if as_bad < 2 else 'do'} as much (their mean harm {mean}): "
                f"rank p = {p_value(row.p)}{', its floor' * (as_bad == 0)}"
                f"{_verdict(row, alpha)}"
            )
    if not (rows["controls"] > 0).any():
        text += " No control sets were run, so that this may be what any heads do."
    elif (rows["controls"] == 0).any():
        text += " The other numbers have no control sets: as many other heads may do as much."
    unsure = rows[(rows["low"] <= 0) & (rows["high"] >= 0) & (rows["p"] <= alpha)]
    if len(unsure):
        floor = np.isclose(unsure["p"], unsure["p_floor"]).all()
        rank = "a rank at its floor" if floor else f"a rank p of {alpha} or below"
        text += (
            f" Where an interval over prompts holds 0, {rank} says that other heads do less on the same prompts, not "
            "that other prompts would show the loss."
        )
    few = rows[rows["note"] != ""]
    return text + (f" Note: {few['note'].iloc[0]}." if len(few) else "")


def _verdict(row: Any, alpha: float) -> str:
    if row.p <= alpha and harm(row).value > 0:
        return "."
    left = ", and nothing was left to lose" if row.measure == "accuracy" and row.value == 0 else ""
    return f"; not told apart from other heads{left}."


def _matching(rows: pd.DataFrame, path: str) -> list[Table]:
    """List how the control sets of every set are matched; rows: of all conditions together, with control sets."""
    lines = [[f"{row.family} {int(row.k)}", verdicts.matched(row.matching)] for row in rows.itertuples()]
    says = "Control sets hold as many heads as the set."
    folded = "How control sets are matched, and whose members they hold"
    return [Table(["set", "its control sets"], lines, says, path, folded=folded)] if lines else []


def _members(count: int) -> str:
    return f"{count or 'no'} member{'s' if count > 1 else ''}"


def _sets(rows: pd.DataFrame) -> list:
    return list(rows[rows["condition"] == "all"].itertuples())


def _lines(rows: pd.DataFrame) -> list[list[str]]:
    lines = []
    for condition, part in rows[rows["condition"] != "all"].groupby("condition"):
        at = {(r.family, r.k): r for r in part.itertuples()}
        cells = [number(at[r.family, r.k].value) if (r.family, r.k) in at else "–" for r in _sets(rows)]
        lines.append([condition, *cells, number(part["intact"].iloc[0])])
    return lines


SECTION = SlotSection("switch", "Induction or function heads", 72, switch, predicts=True, seen=3)
