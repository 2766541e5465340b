"""Figures of function vectors beyond their own prompts: what was tried, composed functions, plain text."""

import altair as alt
import pandas as pd

from stages.page.charts import BLACK, BLUE, BROWN, GREEN, GREY, INK, ORANGE, PURPLE

SUMS = {  # kind of row of composed.csv: (label, colour, shape), in display order
    "demonstrations": ("nothing written, after demonstrations", INK, "circle"),
    "own": ("vector of the composed function itself", GREEN, "triangle-up"),
    "analogy": ("sum of both vectors, less that of copying", BLUE, "circle"),
    "sum": ("sum of both", ORANGE, "square"),
    "inner": ("the first function's alone", BROWN, "cross"),
    "outer": ("the second's alone", PURPLE, "diamond"),
    "random": ("random vectors in the second one's place", BLACK, "triangle-down"),
    "other": ("other functions' in the second one's place", GREY, "cross"),
}
SOURCES = {  # what is written in a plain text: (label, colour, shape)
    "": ("nothing", GREY, "circle"),
    "own": ("the function's own", BLUE, "circle"),
    "other": ("another function's", ORANGE, "square"),
    "random": ("random, mean over draws", BLACK, "triangle-down"),
}
ADDED = {"function": ("sum of the heads", ORANGE), "layer_average": ("layer average", GREEN)}  # swept over layers


def sweep(rows: pd.DataFrame) -> alt.LayerChart:
    """Draw accuracy against the layer, a line per added vector and strength; what was chosen is ringed.

    rows: of sweep.csv, one function or all together, vectors of `ADDED`.
    """
    names = [name for name in ADDED if name in set(rows["vector"])]
    labels, colours = zip(*(ADDED[name] for name in names), strict=True)
    strengths = sorted(set(rows["strength"]))
    labelled = rows.assign(what=rows["vector"].map(dict(zip(names, labels, strict=True))))
    base = alt.Chart(labelled, width="container", height=130).encode(
        x=alt.X("layer:Q", title="added after layer", axis=alt.Axis(tickMinStep=1, tickCount=6)),
        y=alt.Y("accuracy:Q", title="accuracy", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5)),
        color=alt.Color("what:N", scale=alt.Scale(domain=list(labels), range=list(colours)), legend=None),
        tooltip=[
            alt.Tooltip("what:N", title="vector"),
            alt.Tooltip("layer:Q"),
            alt.Tooltip("strength:Q"),
            alt.Tooltip("accuracy:Q", format=".2f"),
            alt.Tooltip("logprob:Q", title="log-probability", format=".2f"),
            alt.Tooltip("chosen:Q"),
            alt.Tooltip("trials:Q", title="prompts"),
        ],
    )
    dashes = [[], [5, 3], [2, 2], [8, 3, 2, 3]]
    dash = alt.StrokeDash(
        "strength:N", legend=None,
        scale=alt.Scale(domain=strengths, range=[dashes[place % 4] for place in range(len(strengths))]),
    )  # fmt: skip
    chosen = base.transform_filter("datum.chosen > 0").mark_point(size=90, strokeWidth=1.6, filled=False, opacity=1)
    return alt.layer(
        base.mark_line(strokeWidth=1.6).encode(strokeDash=dash),
        base.mark_point(filled=True, size=18, opacity=1),
        chosen,
    )


def sums(rows: pd.DataFrame) -> alt.LayerChart:
    """Draw accuracy per composed function and kind of `SUMS` (column kind), with intervals."""
    names = [name for name in SUMS if name in set(rows["kind"])]
    labels, colours, shapes = zip(*(SUMS[name] for name in names), strict=True)
    position = {
        "y": alt.Y("function:N", title=None, scale=alt.Scale(paddingInner=0.3)),
        "yOffset": alt.YOffset("kind:N", sort=names, scale=alt.Scale(domain=names)),
    }
    base = alt.Chart(
        rows.assign(what=rows["kind"].map(dict(zip(names, labels, strict=True)))),
        width="container",
        height={"step": 11},
    ).encode(
        **position,
        color=alt.Color("kind:N", scale=alt.Scale(domain=names, range=colours), legend=None),
        tooltip=[
            alt.Tooltip("function:N"),
            alt.Tooltip("what:N", title="written"),
            alt.Tooltip("accuracy:Q", format=".2f"),
            alt.Tooltip("low:Q", title="95 % from", format=".2f"),
            alt.Tooltip("high:Q", title="to", format=".2f"),
            alt.Tooltip("trials:Q", title="words"),
        ],
    )
    shape = alt.Shape("kind:N", scale=alt.Scale(domain=names, range=shapes), legend=None)
    x = alt.X("accuracy:Q", title="accuracy", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5))
    return alt.layer(
        base.mark_rule(strokeWidth=1.4).encode(x=alt.X("low:Q"), x2="high:Q"),
        base.mark_point(filled=True, size=42, opacity=1).encode(x=x, shape=shape),
    )


def texts(rows: pd.DataFrame, said: str) -> alt.LayerChart:
    """Draw the share of next tokens that show a function, per vector written (columns shown, source)."""
    names = [name for name in SOURCES if name in set(rows["source"])]
    _, colours, shapes = zip(*(SOURCES[name] for name in names), strict=True)
    base = alt.Chart(rows, width="container", height={"step": 17}).encode(
        y=alt.Y("shown:N", title=None, sort=list(rows["shown"])),
        color=alt.Color("source:N", scale=alt.Scale(domain=names, range=colours), legend=None),
        tooltip=[
            alt.Tooltip("shown:N", title="written"),
            alt.Tooltip("share:Q", format=".2f"),
            alt.Tooltip("low:Q", title="95 % from", format=".2f"),
            alt.Tooltip("high:Q", title="to", format=".2f"),
            alt.Tooltip("trials:Q", title="places"),
        ],
    )
    x = alt.X("share:Q", title=f"next tokens {said}", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5))
    shape = alt.Shape("source:N", scale=alt.Scale(domain=names, range=shapes), legend=None)
    return alt.layer(
        base.mark_rule(strokeWidth=1.4).encode(x=alt.X("low:Q"), x2="high:Q"),
        base.mark_point(filled=True, size=46, opacity=1).encode(x=x, shape=shape),
    )
