"""The figures: Vega-Lite charts from data frames, pure, with one shared design (`CONFIG`).

Colours are of the Okabe-Ito palette, told apart in all common kinds of colour blindness, and never the only cue: what
they say is also in shape, fill or text. A chart is built only from rows that exist; callers say a sentence instead of
drawing an empty one.
"""

import altair as alt
import pandas as pd

INK, MUTED, PALE = "#1f2933", "#5f6b76", "#ececec"
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072b2", "#d55e00", "#007a5a", "#a3508a", "#767676"
BROWN, BLACK = "#8c5a2b", "#333333"
DIVERGING = ["#3a83bd", "#ffffff", "#c8651b"]  # better, the same, worse
SEQUENTIAL = ["#f6f8fa", "#c9ddee", "#84b4d9", "#3a83bd", "#0b4f8a", "#062c54"]  # from 0 upwards
CONFIG = {
    "aria": False,  # figures are described by their caption; 72 labels a heat map would bury it
    "background": "#ffffff",
    "font": "Helvetica, Arial, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "domainColor": "#c3c9cf",
        "gridColor": "#e8ebee",
        "labelColor": INK,
        "labelFontSize": 11,
        "labelLimit": 190,
        "tickColor": "#c3c9cf",
        "titleColor": MUTED,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
    },
    "legend": {"labelColor": INK, "labelFontSize": 10, "titleColor": MUTED, "titleFontWeight": "normal"},
    "title": {"color": INK, "fontSize": 12, "anchor": "start"},
}
VECTORS = {  # kind of vector: (label, colour, shape), in display order
    "none": ("no vector", GREY, "circle"),
    "heads": ("heads: their mean outputs in place", BLUE, "circle"),
    "held_out": ("held out: as many heads that other functions rank first", BLUE, "triangle-down"),
    "function": ("function: their sum added at one layer", ORANGE, "square"),
    "layerwise": ("layer by layer: their sums, each added after its own block", BROWN, "cross"),
    "layer_average": ("layer average", GREEN, "triangle-up"),
    "random": ("random vectors of the sum's length", BLACK, "triangle-down"),
    "control": ("control sets: as many other heads in place", PURPLE, "diamond"),
}
SERIES = {  # who answers: (label, colour, shape), in display order
    "model": ("the intact model", BLUE, "circle"),
    "ngram_prompt": ("n-grams of the text and of the prompt so far", PURPLE, "diamond"),
    "ngram": ("n-grams of the text", GREY, "square"),
}


def by_condition(rows: pd.DataFrame, measure: str, chance: float | None = None) -> alt.LayerChart:
    """Draw a value in 0..1 per condition as bars with 95 % intervals, best first, with a line at chance."""
    base = alt.Chart(rows, width="container", height=alt.Step(19)).encode(
        y=alt.Y(
            "condition:N",
            sort=list(rows.sort_values(["value", "condition"], ascending=[False, True])["condition"]),
            title=None,
        ),
        tooltip=[
            alt.Tooltip("condition:N", title="condition"),
            alt.Tooltip("value:Q", title=measure, format=".2f"),
            alt.Tooltip("low:Q", title="95 % from", format=".2f"),
            alt.Tooltip("high:Q", title="to", format=".2f"),
            alt.Tooltip("trials:Q", title="trials"),
        ],
    )
    axis = alt.X("value:Q", title=measure, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5))
    layers = [
        base.mark_bar(color="#9cc4e0", height=12).encode(x=axis),
        base.mark_rule(color=INK, strokeWidth=1.4).encode(x="low:Q", x2="high:Q"),
        base.mark_point(color=INK, filled=True, size=22, opacity=1).encode(x="value:Q"),
    ]
    if chance is not None:
        layers.append(at_chance(chance))
    return alt.layer(*layers)


def series(rows: pd.DataFrame, measure: str, chance: float | None, order: list[str]) -> alt.LayerChart:
    """Draw a value in 0..1 per condition and series of `SERIES` (columns: both, value, low, high, trials)."""
    names = [name for name in SERIES if name in set(rows["series"])]
    _, colours, shapes = zip(*(SERIES[name] for name in names), strict=True)
    colour = alt.Color("series:N", scale=alt.Scale(domain=names, range=colours), legend=None)
    shape = alt.Shape("series:N", scale=alt.Scale(domain=names, range=shapes), legend=None)
    labels = {name: SERIES[name][0] for name in names}
    base = alt.Chart(rows.assign(shown=rows["series"].map(labels)), width="container", height={"step": 7}).encode(
        y=alt.Y("condition:N", sort=order, title=None, scale=alt.Scale(paddingInner=0.3)),
        yOffset=alt.YOffset("series:N", sort=names),
        color=colour,
        tooltip=[
            alt.Tooltip("condition:N", title="condition"),
            alt.Tooltip("shown:N", title="who"),
            alt.Tooltip("value:Q", title=measure, format=".2f"),
            alt.Tooltip("low:Q", title="95 % from", format=".2f"),
            alt.Tooltip("high:Q", title="to", format=".2f"),
            alt.Tooltip("trials:Q", title="trials"),
        ],
    )
    x = alt.X("value:Q", title=measure, scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(tickCount=5))
    layers = [
        base.mark_rule(strokeWidth=1.2).encode(x=alt.X("low:Q"), x2="high:Q"),
        base.mark_point(filled=True, size=30, opacity=1).encode(x=x, shape=shape),
    ]
    if chance is not None:
        layers.insert(0, at_chance(chance))
    return alt.layer(*layers)


def two_lines() -> alt.Axis:
    """Return an axis whose labels 'what: of what' take two lines, so that a phone has room for the values."""
    return alt.Axis(labelExpr="split(datum.label, ': ')", labelLineHeight=12)


def at_chance(chance: float, axis: str = "x") -> alt.Chart:
    """Draw the dashed line at chance, across the axis of values."""
    line = alt.Chart(pd.DataFrame({"chance": [chance]})).mark_rule(color=ORANGE, strokeDash=[4, 3], strokeWidth=1.5)
    return line.encode(**{axis: "chance:Q"}, tooltip=alt.Tooltip("chance:Q", title="what a guess gets", format=".2f"))


def grid(rows: pd.DataFrame, measure: str) -> alt.LayerChart:
    """Draw needle results over prompt length and depth (columns `length`, `depth`, `value`, `trials`), with numbers."""
    base = alt.Chart(rows, width="container", height=alt.Step(30)).encode(
        x=alt.X("depth:O", title="depth of the needle (0 = start)", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("length:O", title="prompt tokens"),
        tooltip=[
            alt.Tooltip("length:O"),
            alt.Tooltip("depth:O"),
            alt.Tooltip("value:Q", title=measure, format=".2f"),
            alt.Tooltip("trials:Q", title="trials"),
        ],
    )
    scale = alt.Scale(domain=[0, 1], range=SEQUENTIAL, clamp=True)
    cells = base.mark_rect(stroke="#ffffff").encode(color=alt.Color("value:Q", scale=scale, legend=None))
    return alt.layer(
        cells,
        base.mark_text(fontSize=11).encode(text=alt.Text("value:Q", format=".2f"), color=on_dark("value", 0.5)),
    )


def effects(rows: pd.DataFrame, measure: str, order: list[str]) -> alt.LayerChart:
    """Draw one task's effects: per family the harm with the interval for its heads, and every control set's harm.

    rows: columns family, series ('family' or 'control'), harm, low, high, heads, apart (1: told apart, filled).
    """
    base = alt.Chart(rows, width="container", height=alt.Step(26)).encode(
        y=alt.Y("family:N", sort=order, title=None),
        tooltip=[
            alt.Tooltip("family:N", title="family"),
            alt.Tooltip("series:N", title="silenced"),
            alt.Tooltip("heads:N", title="heads"),
            alt.Tooltip("harm:Q", title=f"harm: {measure}", format="+.3f"),
            alt.Tooltip("low:Q", title="95 % from", format="+.3f"),
            alt.Tooltip("high:Q", title="to", format="+.3f"),
        ],
    )
    x = alt.X("harm:Q", title=f"harm: {measure}", axis=alt.Axis(tickCount=5))
    own = base.transform_filter("datum.series == 'family'")
    controls = base.transform_filter("datum.series == 'control'")
    fill = alt.condition("datum.apart == 1", alt.value(BLUE), alt.value("#ffffff"))
    zero = alt.Chart(pd.DataFrame({"harm": [0.0]})).mark_rule(color=INK, strokeWidth=1).encode(x="harm:Q")
    return alt.layer(
        zero,
        controls.mark_point(color=GREY, filled=True, size=26, opacity=0.55).encode(x=x),
        own.mark_rule(color=BLUE, strokeWidth=1.6).encode(x=alt.X("low:Q"), x2="high:Q"),
        own.mark_point(shape="diamond", size=80, opacity=1, strokeWidth=1.8, color=BLUE).encode(x=x, fill=fill),
    )


def steering(rows: pd.DataFrame) -> alt.LayerChart:
    """Draw the accuracy per function and kind of vector in one context, with intervals."""
    names = [name for name in VECTORS if name in set(rows["vector"])]
    _, colours, shapes = zip(*(VECTORS[name] for name in names), strict=True)
    colour = alt.Color("vector:N", scale=alt.Scale(domain=names, range=colours), legend=None)
    base = alt.Chart(rows, width="container", height={"step": 11}).encode(
        y=alt.Y("function:N", title=None, scale=alt.Scale(paddingInner=0.3)),
        yOffset=alt.YOffset("vector:N", sort=names),
        color=colour,
        tooltip=[
            alt.Tooltip("function:N"),
            alt.Tooltip("vector:N"),
            alt.Tooltip("accuracy:Q", format=".2f"),
            alt.Tooltip("low:Q", title="95 % from", format=".2f"),
            alt.Tooltip("high:Q", title="to", format=".2f"),
            alt.Tooltip("trials:Q"),
            alt.Tooltip("layer:Q"),
            alt.Tooltip("heads:Q"),
        ],
    )
    shape = alt.Shape("vector:N", scale=alt.Scale(domain=names, range=shapes), legend=None)
    return alt.layer(
        base.mark_rule(strokeWidth=1.4).encode(x=alt.X("low:Q", scale=alt.Scale(domain=[0, 1])), x2="high:Q"),
        base.mark_point(filled=True, size=42, opacity=1).encode(
            x=alt.X("accuracy:Q", title="accuracy", axis=alt.Axis(tickCount=5)), shape=shape
        ),
    )


def concentration(rows: pd.DataFrame) -> alt.LayerChart:
    """Draw the share of positive effect carried against heads by rank; rows: rank, share, name, score (split b)."""
    base = alt.Chart(rows, width="container", height=200).encode(
        x=alt.X(
            "rank:Q",
            title="heads, largest effect on one half first",
            scale=alt.Scale(nice=False),
            axis=alt.Axis(tickMinStep=1),
        ),
        y=alt.Y(
            "share:Q",
            title="share of all positive effect on the other",
            scale=alt.Scale(domainMax=1),
            axis=alt.Axis(tickCount=5),
        ),
        tooltip=[
            alt.Tooltip("name:N", title="head"),
            alt.Tooltip("rank:Q"),
            alt.Tooltip("score:Q", title="effect", format=".4f"),
            alt.Tooltip("share:Q", title="share so far", format=".0%"),
        ],
    )
    return alt.layer(
        base.mark_line(color=BLUE, strokeWidth=1.5),
        base.mark_point(color=BLUE, filled=True, size=22, opacity=1),
    )


def overlap(rows: pd.DataFrame, order: list[str]) -> alt.LayerChart:
    """Draw the overlap of families as a matrix with numbers; rows: as made by `rows.overlap`."""
    axis = {"sort": order, "title": None}
    base = alt.Chart(rows, width={"step": 46}, height={"step": 26}).encode(
        x=alt.X("family_a:N", axis=alt.Axis(labelAngle=-40, orient="top"), **axis),
        y=alt.Y("family_b:N", **axis),
        tooltip=[
            alt.Tooltip("family_a:N", title="family"),
            alt.Tooltip("family_b:N", title="and"),
            alt.Tooltip("both:Q", title="heads in both"),
            alt.Tooltip("jaccard:Q", format=".2f"),
            alt.Tooltip("expected:Q", title="expected by chance", format=".2f"),
            alt.Tooltip("corrected:Q", title="chance-corrected", format=".2f"),
        ],
    )
    scale = alt.Scale(domain=[0, 1], range=SEQUENTIAL, clamp=True)
    cells = base.mark_rect(stroke="#ffffff").encode(color=alt.Color("corrected:Q", scale=scale, legend=None))
    return alt.layer(
        base.mark_rect(color=PALE, stroke="#ffffff"),
        cells,
        base.mark_text(fontSize=10.5).encode(text="text:N", color=on_dark("corrected", 0.5)),
    )


def on_dark(field: str, above: float) -> dict:
    """Return the colour of a number written on a cell: white where the cell is dark."""
    return alt.condition(f"datum.{field} > {above}", alt.value("#ffffff"), alt.value(INK))


def circuit(edges: pd.DataFrame, middle: float) -> alt.LayerChart:
    """Draw sources at the left, each with a line to one target at the right, as wide as its effect.

    edges: columns source, target, said (its label), effect, wide (no less than 0), low, high, previous, feeder (1, 0),
    y (its place, from the top); middle: the target's place.
    """
    edges = edges.assign(left=0.0, right=1.0, middle=middle)
    hidden = {"axis": None, "scale": alt.Scale(domain=[-0.55, 1.3])}
    y = alt.Y("y:Q", axis=None, scale=alt.Scale(domain=[len(edges) - 0.5, -0.5]))
    colour = alt.condition("datum.feeder == 1", alt.value(BLUE), alt.value(GREY))
    base = alt.Chart(edges, width="container", height=max(26 * len(edges), 80)).encode(
        tooltip=[
            alt.Tooltip("source:N", title="earlier head"),
            alt.Tooltip("effect:Q", title="induction score lost", format=".3f"),
            alt.Tooltip("low:Q", title="95 % from", format=".3f"),
            alt.Tooltip("high:Q", title="to", format=".3f"),
            alt.Tooltip("previous:Q", title="previous-token score", format=".2f"),
        ]
    )
    lines = base.mark_rule(opacity=0.75, strokeCap="round").encode(
        x=alt.X("left:Q", **hidden), x2="right:Q", y=y, y2="middle:Q", color=colour,
        strokeWidth=alt.StrokeWidth("wide:Q", scale=alt.Scale(domain=[0, 1], range=[0.6, 16]), legend=None),
    )  # fmt: skip
    ends = base.mark_point(filled=True, size=60, opacity=1).encode(x=alt.X("left:Q", **hidden), y=y, color=colour)
    names = base.mark_text(align="right", dx=-9, fontSize=11, color=INK).encode(
        x=alt.X("left:Q", **hidden), y=y, text="said:N"
    )
    goal = alt.Chart(edges.head(1)).encode(x=alt.X("right:Q", **hidden), y=alt.Y("middle:Q"))
    return alt.layer(
        lines,
        ends,
        names,
        goal.mark_point(filled=True, size=110, opacity=1, color=INK),
        goal.mark_text(align="left", dx=10, fontSize=11.5, fontWeight="bold", color=INK).encode(text="target:N"),
    )
