"""The figures on sinks: threshold curves, lengths of residuals, and what probes read, layer by layer."""

import altair as alt
import pandas as pd

from stages.page.charts import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SEQUENTIAL
from stages.page.head_maps import grid_of, head_name, legend_of

INPUTS = {  # kind of input: (label, colour, shape), in display order
    "natural": ("natural text", BLUE, "circle"),
    "random": ("random tokens", ORANGE, "square"),
    "repeated": ("one token repeated", GREEN, "triangle-up"),
    "moved": ("another token put first", PURPLE, "diamond"),
    "without": ("without its first token", BLACK, "cross"),
}
KINDS = {
    "first": ("first token", BLUE, "circle"),
    "attended": ("most attended other token", ORANGE, "square"),
    "largest": ("other token of the largest norm", PURPLE, "diamond"),
    "ordinary": ("ordinary token", GREY, "triangle-up"),
    "beside": ("ordinary token beside that", GREEN, "square"),
}


def curve(rows: pd.DataFrame) -> alt.LayerChart:
    """Draw the sink rate of the first position against the threshold, a line per input, with intervals."""
    x = alt.X("threshold:Q", title="threshold of mean attention", scale=alt.Scale(domain=[0, 1]))
    return _lines(rows, "input", INPUTS, x, alt.Y("value:Q", title="share of heads", scale=alt.Scale(domain=[0, 1])))


def norms(rows: pd.DataFrame) -> alt.LayerChart:
    """Draw residual norms over the median, layer by layer (columns series, layer, value)."""
    kinds = {"norm_first": KINDS["first"], "norm_largest": KINDS["largest"]}
    scale = alt.Scale(type="log", nice=False)
    y = alt.Y("value:Q", title="norm over the median (log)", scale=scale)
    return _lines(rows, "measure", kinds, alt.X("layer:Q", title="layer", axis=alt.Axis(tickMinStep=1)), y)


def probes(rows: pd.DataFrame, title: str) -> alt.LayerChart:
    """Draw what probes read of one target, layer by layer, a line per kind of token, with intervals; chance dashed."""
    domain = [min(0.0, max(-0.5, float(rows["value"].min()))), 1]
    y = alt.Y("value:Q", title=title, scale=alt.Scale(domain=domain, clamp=True))
    x = alt.X("layer:Q", title="layer (−1: embeddings)", axis=alt.Axis(tickMinStep=1))
    lines = _lines(rows, "kind", KINDS, x, y)
    chance = rows.groupby("layer", as_index=False)["majority"].mean()
    return alt.layer(lines, alt.Chart(chance).mark_line(color=GREY, strokeDash=[4, 3]).encode(x=x, y="majority:Q"))


def _lines(rows: pd.DataFrame, field: str, kinds: dict, x: alt.X, y: alt.Y) -> alt.LayerChart:
    names = [name for name in kinds if name in set(rows[field])]
    labels, colours, shapes = zip(*(kinds[name] for name in names), strict=True)
    shown = rows.assign(shown=rows[field].map({name: kinds[name][0] for name in names})).dropna(subset="value")
    tooltip = [alt.Tooltip("shown:N", title="what"), alt.Tooltip(x.shorthand), alt.Tooltip("value:Q", format=".3f")]
    for bound, title in (("low", "95 % from"), ("high", "to")):
        tooltip += [alt.Tooltip(f"{bound}:Q", title=title, format=".3f")] if bound in rows else []
    colour = alt.Color("shown:N", scale=alt.Scale(domain=labels, range=colours), legend=None)
    shape = alt.Shape("shown:N", scale=alt.Scale(domain=labels, range=shapes), legend=None)
    base = alt.Chart(shown, width="container", height=200).encode(x=x, color=colour, tooltip=tooltip)
    layers = [base.mark_line(strokeWidth=1.3).encode(y=y)]
    if "low" in rows and rows["low"].notna().any():
        layers.append(base.mark_rule(opacity=0.5).encode(y="low:Q", y2="high:Q"))
    layers.append(base.mark_point(filled=True, size=34, opacity=1).encode(y=y, shape=shape))
    return alt.layer(*layers)


def head_shares(rows: pd.DataFrame, whole: list[int], top: float, title: str) -> alt.Chart:
    """Draw one number of every head, layer x head, from 0 to `top` (columns layer, head, value)."""
    data = rows.assign(name=[head_name(*pair) for pair in zip(rows["layer"], rows["head"], strict=True)])
    tooltip = [alt.Tooltip("name:N", title="head"), alt.Tooltip("value:Q", title=title, format=".3f")]
    scale = alt.Scale(domain=[0, top], range=SEQUENTIAL, clamp=True)
    legend = legend_of(data["head"].nunique(), [0, top])
    colour = alt.Color("value:Q", scale=scale, legend=legend)
    return grid_of(data, whole, tooltip).mark_rect(stroke="#ffffff", strokeWidth=0.5).encode(color=colour)
