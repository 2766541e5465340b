"""The figures of section 'The MLP as a store': changing one output, layer by layer, and recall by number of facts."""

from collections.abc import Mapping

import altair as alt
import pandas as pd

from stages.page.charts import BLUE, GREEN, GREY, ORANGE, PURPLE

LINES = {  # line: (label, colour, shape, dash)
    "donor": ("the other subject's answer, its output put in", ORANGE, "circle", [1, 0]),
    "own": ("the own answer, the mean put in", BLUE, "square", [1, 0]),
    "copy": ("a word copied, the mean put in", GREEN, "triangle-up", [4, 3]),
    "capitalize": ("a word capitalised, the mean put in", GREY, "diamond", [4, 3]),
}


RECALLED = {  # line: (label, colour, shape, dash)
    "joint": ("recalled, solved jointly", ORANGE, "circle", [1, 0]),
    "joint_preserved": ("recalled, jointly, known ones preserved", PURPLE, "cross", [1, 0]),
    "summed": ("recalled, single edits summed", BLUE, "square", [1, 0]),
    "joint known": ("known subjects still right, jointly", ORANGE, "triangle-up", [4, 3]),
    "joint_preserved known": ("known subjects still right, others preserved", PURPLE, "triangle-down", [4, 3]),
}


def by_layer(rows: pd.DataFrame) -> alt.LayerChart:
    """Draw shares in 0..1 against the layer, a line each (columns line, layer, value, low, high, trials)."""
    at = alt.X("layer:Q", title="layer", axis=alt.Axis(tickMinStep=1, format="d"))
    lines, _, points = _shares(rows, LINES, at, alt.Tooltip("layer:Q", title="layer"), "share of answers")
    return alt.layer(lines, points)


def by_number(rows: pd.DataFrame) -> alt.LayerChart:
    """Draw shares in 0..1 against the number of facts inserted at once (columns line, facts, value, low, high, trials).

    Numbers of facts stand at equal distances.
    """
    at = alt.X("facts:O", title="facts inserted at once", axis=alt.Axis(labelAngle=0))
    return alt.layer(*_shares(rows, RECALLED, at, alt.Tooltip("facts:O", title="facts at once"), "share"))


def _shares(
    rows: pd.DataFrame, looks: Mapping[str, tuple], at: alt.X, named: alt.Tooltip, title: str
) -> tuple[alt.Chart, alt.Chart, alt.Chart]:
    """Return lines, rules of the intervals and points; looks: of each line; named: what a point is at, in words."""
    names = [name for name in looks if name in set(rows["line"])]
    labels, colours, shapes, dashes = zip(*(looks[name] for name in names), strict=True)
    rows = rows.assign(shown=rows["line"].map({name: looks[name][0] for name in names}))
    legend = alt.Legend(title=None, orient="bottom", columns=1, labelLimit=400)
    base = alt.Chart(rows, width="container", height=190).encode(
        x=at,
        color=alt.Color("shown:N", scale=alt.Scale(domain=labels, range=colours), legend=legend),
        tooltip=[
            named,
            alt.Tooltip("shown:N", title="share of"),
            alt.Tooltip("value:Q", title="share", format=".2f"),
            alt.Tooltip("low:Q", title="95 % from", format=".2f"),
            alt.Tooltip("high:Q", title="to", format=".2f"),
            alt.Tooltip("trials:Q", title="prompts"),
        ],
    )
    y = alt.Y("value:Q", title=title, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5))
    dash = alt.StrokeDash("shown:N", scale=alt.Scale(domain=labels, range=dashes), legend=None)
    shape = alt.Shape("shown:N", scale=alt.Scale(domain=labels, range=shapes), legend=legend)
    return (
        base.mark_line(strokeWidth=1.3).encode(y=y, strokeDash=dash),
        base.mark_rule(strokeWidth=1, opacity=0.5).encode(y=alt.Y("low:Q"), y2="high:Q"),
        base.mark_point(filled=True, size=34, opacity=1).encode(y=y, shape=shape),
    )
