"""Does in-context learning need induction heads or function heads: each silenced without the other's."""

import altair as alt
import pandas as pd

from stages.page import charts, verdicts
from stages.page.inputs import Slot
from stages.page.page import Chart, Figure, Note, Table
from stages.page.rows import MAIN
from stages.page.section import Context, SlotSection
from stages.page.sentences import decimals, family_heads, interval, listed, number, p_value

LOOKS = ((charts.BLUE, "circle"), (charts.ORANGE, "square"))  # of the two families
WHAT = (
    "Heads that find an earlier occurrence and heads that carry the function overlap, so silencing the best of one "
    "family silences some of the other (Yin & Steinhardt 2025 asked which of both in-context learning needs). Here a "
    "set holds the best k heads of one family, ranked on one half of the prompts, that are no members of the other and "
    "do not rank higher there; the two families' sets never share a head. Ranks go on below the threshold of members, "
    "so that large sets hold heads that do little of what the family is named after."
)


def switch(slot: Slot, context: Context) -> list:
    """Draw accuracy over the number of heads silenced, say how both families rank, and list all functions."""
    path, table = slot.path("switch.csv"), slot.switch
    rows = table[table["measure"] == table["task"].map(MAIN)]
    whole = rows[rows["condition"] == "all"]
    if whole.empty:
        return [Note(f"No two families were silenced without each other ({path} has no rows).")]
    families = list(dict.fromkeys(whole["family"]))
    blocks: list = [Note(WHAT)]
    for task, of_task in whole.groupby("task", sort=False):
        legend = [
            (*LOOKS[at % 2], f"{family_heads(name)} that are not the other's") for at, name in enumerate(families)
        ]
        name = f"{of_task['measure'].iloc[0]} on {context.task(task)}"
        says = (
            f"Over {int(of_task['trials'].iloc[0])} prompts of split b, {int(of_task['clusters'].iloc[0])} sets of "
            f"demonstrations; {verdicts.method(of_task['kind'].iloc[0])} in the heads' place. Dashed: the intact model "
            "on the same prompts. Lines: 95 % intervals of the change, for these heads."
        )
        blocks.append(Figure([Chart(curve(of_task, name, families))], says, path, "single", legend))
        blocks += [Note(f"{_said(part, name, context.alpha)}") for _, part in of_task.groupby("family", sort=False)]
    blocks += _matching(whole[whole["controls"] > 0], path)
    few = int(rows[rows["condition"] != "all"]["trials"].min()) if (rows["condition"] != "all").any() else 0
    if few:
        folded = f"By function (from {few} prompts each: no claim rests on one)"
        blocks.append(Table(["function", *(f"{r.family} {int(r.k)}" for r in _sets(rows)), "intact"], _lines(rows),
                            "Columns: family and number of its heads silenced.", path,
                            tuple(range(1, 2 + len(_sets(rows)))), folded=folded))  # fmt: skip
    return blocks


def curve(rows: pd.DataFrame, measure: str, families: list[str]) -> alt.LayerChart:
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
        base.mark_line().encode(y=y),
        base.mark_rule(strokeWidth=1.2).encode(y="low:Q", y2="high:Q"),
        base.mark_point(filled=True, size=60, opacity=1).encode(y=y, shape=shape),
    )


def _said(rows: pd.DataFrame, measure: str, alpha: float) -> str:
    """Say what each number of one family's heads changes, and how the set ranks where control sets were run."""
    first, digits = rows.iloc[0], decimals(rows["measure"].iloc[0])
    if first["note"].startswith("not measurable"):
        return f"Without {family_heads(first['family'])}: {first['note']}."
    last = rows.loc[rows["k"].idxmax()]
    out = listed(str(last["passed_over"]).split())
    heads = [f"{number(r.value, digits)} without {int(r.k)} ({_members(int(r.members))}; change "
             f"{number(r.change, digits, True)} {interval(r.low, r.high, digits, True)})".replace(" )", ")")
             for r in rows.itertuples()]  # fmt: skip
    text = (
        f"{family_heads(first['family']).capitalize()}: {measure} {number(first['intact'], digits)} intact, "
        f"{listed(heads)}; passed over as the other family's: {out or 'none'}."
    )
    for row in rows.itertuples():
        if row.controls > 0 and pd.notna(row.p):
            sets, as_bad = int(row.controls), round(row.p * (1 + row.controls)) - 1
            mean = number(row.control_change, digits, True)
            text += (
                f" Of {sets} control sets for the {int(row.k)} (as many heads, "
                f"{verdicts.matched(row.matching.partition('; ')[0])}), {as_bad or 'none'} "
                f"{'does' if as_bad < 2 else 'do'} as much (their mean change {mean}): "
                f"rank p = {p_value(row.p)}{', its floor' * (as_bad == 0)}"
                f"{'.' if row.p <= alpha and row.change < 0 else '; not told apart from other heads.'}"
            )
    if not (rows["controls"] > 0).any():
        text += " No control sets were run, so that this may be what any heads do."
    elif (rows["controls"] == 0).any():
        text += " The other numbers have no control sets: as many other heads may do as much."
    if ((rows["low"] <= 0) & (rows["high"] >= 0) & (rows["p"] <= alpha)).any():
        text += (
            " Where an interval over prompts holds 0, a rank at its floor says that other heads do less on the same "
            "prompts, not that other prompts would show the loss."
        )
    few = rows[rows["note"] != ""]
    return text + (f" Note: {few['note'].iloc[0]}." if len(few) else "")


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


SECTION = SlotSection("switch", "Induction or function heads", 72, switch, predicts=True)
