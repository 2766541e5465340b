"""Figures of a comparison: the difference of two maps of heads, and both over relative depth where shapes differ."""

import altair as alt
import pandas as pd

from stages.page.charts import BLUE, DIVERGING, INK, ORANGE, PALE
from stages.page.head_maps import grid_of, head_name, legend_of

RUNS = [(BLUE, "circle"), (ORANGE, "square")]  # colour and shape of the first and of the second run


def difference_map(rows: pd.DataFrame, labels: tuple[str, str], whole: list[int]) -> alt.LayerChart:
    """Draw second minus first, layer x head, around 0; members gained have a whole outline, members lost a dashed one.

    rows: columns layer, head, score_1, score_2, difference, turned ('gained', 'lost' or '').
    """
    data = rows.assign(name=[head_name(*pair) for pair in zip(rows["layer"], rows["head"], strict=True)])
    tooltip = [
        alt.Tooltip("name:N", title="head"),
        alt.Tooltip("score_1:Q", title=labels[0], format=".3f"),
        alt.Tooltip("score_2:Q", title=labels[1], format=".3f"),
        alt.Tooltip("difference:Q", format="+.3f"),
        alt.Tooltip("turned:N", title="member"),
    ]
    top = max(float(data["difference"].abs().max()), 1e-6)
    scale = alt.Scale(domain=[-top, 0, top], range=DIVERGING, interpolate="lab")
    base = grid_of(data, whole, tooltip)
    legend = legend_of(data["head"].nunique(), [-top, top], ".2g")
    outline = {"fill": "transparent", "stroke": INK, "strokeWidth": 2}
    return alt.layer(
        base.mark_rect(stroke="#ffffff", strokeWidth=0.5).encode(
            color=alt.Color("difference:Q", scale=scale, legend=legend)
        ),
        base.transform_filter("datum.turned == 'gained'").mark_rect(**outline),
        base.transform_filter("datum.turned == 'lost'").mark_rect(**outline, strokeDash=[3, 2]),
        view=alt.ViewConfig(fill=PALE),
    )


def profile(rows: pd.DataFrame, labels: tuple[str, str]) -> alt.LayerChart:
    """Draw the highest score of each layer over relative depth, a line per run (columns run, depth, score, name)."""
    colours, shapes = zip(*RUNS, strict=True)
    base = alt.Chart(rows, width="container", height=150).encode(
        x=alt.X("depth:Q", title="relative depth (0 first layer, 1 last)", scale=alt.Scale(domain=[0, 1]),
                axis=alt.Axis(tickCount=5)),
        y=alt.Y("score:Q", title="highest score of the layer", axis=alt.Axis(tickCount=4)),
        color=alt.Color("run:N", scale=alt.Scale(domain=list(labels), range=colours), legend=None),
        tooltip=[
            alt.Tooltip("run:N"),
            alt.Tooltip("name:N", title="head"),
            alt.Tooltip("depth:Q", format=".2f"),
            alt.Tooltip("score:Q", format=".3f"),
        ],
    )  # fmt: skip
    shape = alt.Shape("run:N", scale=alt.Scale(domain=list(labels), range=shapes), legend=None)
    return alt.layer(
        base.mark_line(strokeWidth=1.4, opacity=0.7),
        base.mark_point(filled=True, size=36, opacity=1).encode(shape=shape),
    )


def legend(labels: tuple[str, str]) -> list[tuple[str, str, str]]:
    """Return the legend of both runs, as `page.Figure` takes it."""
    return [(colour, shape, label) for (colour, shape), label in zip(RUNS, labels, strict=True)]
