"""The figures of grammar heads: relations over heads, and 'nothing to say'.

The map is laid out in numbers, not categories, so that layers and groups of relations stand apart.
"""

import altair as alt
import pandas as pd

from stages.page.charts import BLUE, GREY, INK, MUTED, ORANGE, SEQUENTIAL

WIDTH = 830  # of the map, at most, in pixels


def relation_map(cells: pd.DataFrame, rows: pd.DataFrame, layers: pd.DataFrame) -> alt.LayerChart:
    """Draw what every head gains over the best offset in every relation; what is below the offset is left pale.

    cells: x, y (left and upper corner), lead (score - baseline), member, chosen and the tooltip's columns.
    rows: y, text, heading (0 or 1). layers: x (the middle), text.
    """
    wide, high = cells["x"].max() + 1, rows["y"].max() + 1
    step = max(3.0, min(13.0, WIDTH / wide))
    x = alt.X("x:Q", scale=alt.Scale(domain=[0, wide], nice=False), axis=None)
    y = alt.Y("y:Q", scale=alt.Scale(domain=[high, 0], nice=False), axis=None)
    top = max(0.1, float(cells["lead"].max()))
    legend = alt.Legend(title="accuracy beyond the best offset", orient="bottom", direction="horizontal", format=".0%",
                        gradientLength=220, gradientThickness=8, offset=6, tickCount=4, titleLimit=300)  # fmt: skip
    colour = alt.Color("lead:Q", scale=alt.Scale(domain=[0, top], range=SEQUENTIAL, clamp=True), legend=legend)
    shares = {"score": "accuracy", "baseline": "best offset", "lead": "accuracy beyond it"}
    tooltip = [
        alt.Tooltip("name:N", title="head"),
        alt.Tooltip("relation:N", title="relation"),
        *(alt.Tooltip(f"{field}:Q", title=title, format=".1%") for field, title in shares.items()),
        alt.Tooltip("interval:N", title="95 % interval"),
        alt.Tooltip("q:Q", title="q-value", format=".4f"),
        alt.Tooltip("verdict:N", title="member"),
        alt.Tooltip("prompts:Q", title="sentences"),
    ]
    base = alt.Chart(cells).encode(x=x, y=y, tooltip=tooltip)
    ends = {"x2": "x2:Q", "y2": "y2:Q"}
    base = base.transform_calculate(x2="datum.x + 1", y2="datum.y + 1")
    outline = base.transform_filter("datum.member == 1").mark_rect(fill="transparent", stroke=ORANGE, strokeWidth=1.6)
    middle = base.transform_filter("datum.chosen == 1").transform_calculate(mx="datum.x + 0.5", my="datum.y + 0.5")
    names = alt.Chart(rows).encode(y=alt.Y("at:Q"), text="text:N").transform_calculate(at="datum.y + 0.5")
    relation = names.transform_filter("datum.heading == 0").mark_text(align="right", fontSize=10.5, color=INK)
    group = names.transform_filter("datum.heading == 1").mark_text(align="left", fontSize=11, color=MUTED)
    return alt.layer(
        base.mark_rect(stroke="#ffffff", strokeWidth=0.5).encode(color=colour, **ends),
        outline.encode(**ends),
        middle.mark_point(filled=True, size=16, color=ORANGE, opacity=1).encode(x="mx:Q", y="my:Q"),
        relation.encode(x=alt.value(-6)),
        group.encode(x=alt.value(0)),
        alt.Chart(layers).mark_text(fontSize=10.5, color=INK).encode(x="x:Q", y=alt.value(-12), text="text:N"),
        width=round(wide * step),
        height=round(high * 13),
        view=alt.ViewConfig(fill=None),
    )


def rise(rows: pd.DataFrame, order: list[str], domain: tuple[float, float]) -> alt.LayerChart:
    """Draw how much attention to first and special tokens rises where the relation is absent, beside other heads.

    rows: label, name (of the head), rise, low, high, others, beyond (1: above that of the others), and the tooltip's.
    domain: ends of the axis, the same for both directions.
    """
    base = alt.Chart(rows, width="container", height=alt.Step(15)).encode(
        y=alt.Y("label:N", sort=order, title=None),
        tooltip=[
            alt.Tooltip("label:N", title="relation"),
            alt.Tooltip("name:N", title="head"),
            alt.Tooltip("sink:Q", title="attention to them, with the relation", format=".1%"),
            alt.Tooltip("sink_elsewhere:Q", title="without it", format=".1%"),
            alt.Tooltip("rise:Q", title="rise", format="+.1%"),
            alt.Tooltip("interval:N", title="95 % interval"),
            alt.Tooltip("others:Q", title="other heads' mean rise", format="+.1%"),
            alt.Tooltip("difference:N", title="rise minus theirs, 95 %"),
            alt.Tooltip("trials:Q", title="query words"),
        ],
    )
    x = alt.X("rise:Q", title="rise of attention to first and special tokens",
              scale=alt.Scale(domain=domain, nice=False),
              axis=alt.Axis(format="+.0%", tickCount=6, labelExpr="datum.value == 0 ? '0' : datum.label"))  # fmt: skip
    colour = alt.condition("datum.beyond == 1", alt.value(ORANGE), alt.value(BLUE))
    fill = alt.condition("datum.beyond == 1", alt.value(ORANGE), alt.value("#ffffff"))
    zero = alt.Chart(pd.DataFrame({"rise": [0.0]})).mark_rule(color=INK, strokeWidth=1).encode(x="rise:Q")
    return alt.layer(
        zero,
        base.mark_point(shape="square", size=38, color=GREY, filled=True, opacity=1).encode(x="others:Q"),
        base.mark_rule(strokeWidth=1.6).encode(x="low:Q", x2="high:Q", color=colour),
        base.mark_point(size=46, opacity=1, strokeWidth=1.6).encode(x=x, stroke=colour, fill=fill),
    )
