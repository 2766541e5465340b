"""The figures of section 'The MLP as a store': changing one output, layer by layer, and recall by number of facts."""

import altair as alt
import pandas as pd

from stages.page.charts import BLUE, GREEN, GREY, ORANGE, PURPLE

LINES = {  # line: (label, colour, shape, dash)
    "donor": ("the other subject's answer, its output put in", ORANGE, "circle", [1, 0]),
    "own": ("the own answer, the mean put in", BLUE, "square", [1, 0]),
    "copy": ("a word copied, the mean put in", GREEN, "triangle-up", [4, 3]),
    "capitalize": ("a word capitalised, the mean put in", GREY, "diamond", [4, 3]),
}


def by_layer(rows: pd.DataFrame) -> alt.LayerChart:
    """Draw shares in 0..1 against the layer, a line each (columns line, layer, value, low, high, trials)."""
    names = [name for name in LINES if name in set(rows["line"])]
    labels, colours, shapes, dashes = zip(*(LINES[name] for name in names), strict=True)
    rows = rows.assign(shown=rows["line"].map({name: LINES[name][0] for name in names}))
    legend = alt.Legend(title=None, orient="bottom", columns=1, labelLimit=400)
    base = alt.Chart(rows, width="container", height=190).encode(
        x=alt.X("layer:Q", title="layer", axis=alt.Axis(tickMinStep=1, format="d")),
        color=alt.Color("shown:N", scale=alt.Scale(domain=labels, range=colours), legend=legend),
        tooltip=[
            alt.Tooltip("layer:Q", title="layer"),
            alt.Tooltip("shown:N", title="share of"),
            alt.Tooltip("value:Q", title="share", format=".2f"),
            alt.Tooltip("low:Q", title="95 % from", format=".2f"),
            alt.Tooltip("high:Q", title="to", format=".2f"),
            alt.Tooltip("trials:Q", title="prompts"),
        ],
    )
    y = alt.Y("value:Q", title="share of answers", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5))
    dash = alt.StrokeDash("shown:N", scale=alt.Scale(domain=labels, range=dashes), legend=None)
    shape = alt.Shape("shown:N", scale=alt.Scale(domain=labels, range=shapes), legend=legend)
    return alt.layer(
        base.mark_line(strokeWidth=1.3).encode(y=y, strokeDash=dash),
        base.mark_point(filled=True, size=34, opacity=1).encode(y=y, shape=shape),
    )


RECALLED = {  # line: (label, colour, shape, dash)
    "joint": ("recalled, solved jointly", ORANGE, "circle", [1, 0]),
    "joint_preserved": ("recalled, jointly, known ones preserved", PURPLE, "cross", [1, 0]),
    "summed": ("recalled, single edits summed", BLUE, "square", [1, 0]),
    "joint known": ("known subjects still right, jointly", ORANGE, "triangle-up", [4, 3]),
    "joint_preserved known": ("known subjects still right, others preserved", PURPLE, "triangle-down", [4, 3]),
}


def by_number(rows: pd.DataFrame) -> alt.LayerChart:
    """Draw shares in 0..1 against the number of facts inserted at once (columns line, facts, value, low, high, trials).

    Numbers of facts stand at equal distances.
    """
    names = [name for name in RECALLED if name in set(rows["line"])]
    labels, colours, shapes, dashes = zip(*(RECALLED[name] for name in names), strict=True)
    rows = rows.assign(shown=rows["line"].map({name: RECALLED[name][0] for name in names}))
    legend = alt.Legend(title=None, orient="bottom", columns=1, labelLimit=400)
    base = alt.Chart(rows, width="container", height=190).encode(
        x=alt.X("facts:O", title="facts inserted at once", axis=alt.Axis(labelAngle=0)),
        color=alt.Color("shown:N", scale=alt.Scale(domain=labels, range=colours), legend=legend),
        tooltip=[
            alt.Tooltip("facts:O", title="facts at once"),
            alt.Tooltip("shown:N", title="share of"),
            alt.Tooltip("value:Q", title="share", format=".2f"),
            alt.Tooltip("low:Q", title="95 % from", format=".2f"),
            alt.Tooltip("high:Q", title="to", format=".2f"),
            alt.Tooltip("trials:Q", title="prompts"),
        ],
    )
    y = alt.Y("value:Q", title="share", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5))
    dash = alt.StrokeDash("shown:N", scale=alt.Scale(domain=labels, range=dashes), legend=None)
    shape = alt.Shape("shown:N", scale=alt.Scale(domain=labels, range=shapes), legend=legend)
    return alt.layer(
        base.mark_line(strokeWidth=1.3).encode(y=y, strokeDash=dash),
        base.mark_rule(strokeWidth=1, opacity=0.5).encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_point(filled=True, size=34, opacity=1).encode(y=y, shape=shape),
    )
