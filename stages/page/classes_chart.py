"""The figure of extrapolation: functions from procedure to knowledge, classes of words side by side."""

import altair as alt
import pandas as pd

from stages.page.charts import BLUE, GREEN, GREY, INK, ORANGE, PURPLE

CLASSES = {  # class: (label, colour, shape), in display order
    "usual": ("usual words", BLUE, "circle"),
    "irregular": ("usual words with an irregular ending", GREEN, "triangle-up"),
    "rare": ("rare real words", ORANGE, "square"),
    "made_up": ("made-up words", PURPLE, "diamond"),
    "copied": ("made-up words without a right answer: share echoed", GREY, "cross"),
}


def classes(rows: pd.DataFrame, counted: pd.DataFrame, order: list[str]) -> alt.LayerChart:
    """Draw accuracy per function and class with 95 % intervals, and what n-grams get as ticks.

    rows, counted: columns shown (the function as the axis names it), class, accuracy, low, high, trials; order: of the
    functions as shown.
    """
    names = [name for name in CLASSES if name in set(rows["class"])]
    labels, colours, shapes = zip(*(CLASSES[name] for name in names), strict=True)
    position = {
        "y": alt.Y("shown:N", sort=order, title=None, scale=alt.Scale(paddingInner=0.35)),
        "yOffset": alt.YOffset("class:N", sort=names, scale=alt.Scale(domain=names)),
    }
    x = alt.X("accuracy:Q", title="accuracy", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5))
    labelled = rows.assign(label=rows["class"].map(dict(zip(names, labels, strict=True))))
    base = alt.Chart(labelled, width="container", height={"step": 7}).encode(
        **position,
        color=alt.Color("class:N", scale=alt.Scale(domain=names, range=colours), legend=None),
        tooltip=[
            alt.Tooltip("shown:N", title="function"),
            alt.Tooltip("label:N", title="words"),
            alt.Tooltip("accuracy:Q", format=".2f"),
            alt.Tooltip("low:Q", title="95 % from", format=".2f"),
            alt.Tooltip("high:Q", title="to", format=".2f"),
            alt.Tooltip("trials:Q", title="words asked"),
        ],
    )
    shape = alt.Shape("class:N", scale=alt.Scale(domain=names, range=shapes), legend=None)
    layers = [
        base.mark_rule(strokeWidth=1.4).encode(x=alt.X("low:Q"), x2="high:Q"),
        base.mark_point(filled=True, size=36, opacity=1).encode(x=x, shape=shape),
    ]
    if len(counted):
        layers.append(
            alt.Chart(counted).mark_tick(color=INK, thickness=2, size=7).encode(**position, x=alt.X("accuracy:Q"))
        )
    return alt.layer(*layers)
