"""The heat maps, layer x head: one per family, of one design, members outlined."""

import math

import altair as alt
import pandas as pd

from stages.families.family import Family
from stages.page.charts import DIVERGING, GREY, INK, ORANGE, PALE, SEQUENTIAL

PREFIX = "grammar:"  # of the names of grammar families, one per label and direction


def head_map(heads: pd.DataFrame, family: Family | None, whole: list[int]) -> alt.LayerChart:
    """Draw one family's scores, layer x head, members outlined; `whole` = layers with global attention, in bold.

    Shares are drawn from 0 to 1, so that families and models compare; hits and effects from 0 to their own top.
    """
    data = heads.assign(
        name=[head_name(*pair) for pair in zip(heads["layer"], heads["head"], strict=True)],
        interval=[f"{low:.3f} to {high:.3f}" for low, high in zip(heads["low"], heads["high"], strict=True)],
        verdict=heads["member"].map({1: "yes"}).fillna("no"),
    )
    tooltip = [
        alt.Tooltip("name:N", title="head"),
        *(alt.Tooltip(f"{field}:Q", format=".3f") for field in ("score", "score_null", "baseline")),
        alt.Tooltip("interval:N", title="95 % interval"),
        alt.Tooltip("q:Q", title="q-value", format=".4f"),
        alt.Tooltip("verdict:N", title="member"),
        alt.Tooltip("prompts:Q", title="prompts"),
        alt.Tooltip("note:N", title="note"),
    ]
    top = scale_top(data["score"], family)
    base = grid_of(data, whole, tooltip)
    scale = alt.Scale(domain=[0, top], range=SEQUENTIAL, clamp=True)
    legend = legend_of(data["head"].nunique(), [0, top])
    cells = base.mark_rect(stroke="#ffffff", strokeWidth=0.5).encode(
        color=alt.Color("score:Q", scale=scale, legend=legend)
    )
    noted = base.transform_filter("datum.note != ''").mark_point(size=5, color=GREY, filled=True)
    members = base.transform_filter("datum.member == 1").mark_rect(fill="transparent", stroke=ORANGE, strokeWidth=2)
    return alt.layer(cells, noted, members, view=alt.ViewConfig(fill=PALE))


def harm_map(heads: pd.DataFrame, whole: list[int]) -> alt.LayerChart:
    """Draw one task's first-order harm, layer x head, around 0: worse is orange; heads with exact harm are outlined.

    heads: layer, head, name, first_order, exact, low, high, q, as of `rows.single_heads`.
    """
    data = heads.assign(
        interval=[f"{low:+.3f} to {high:+.3f}" for low, high in zip(heads["low"], heads["high"], strict=True)],
        measured=heads["exact"].notna().astype(int),
    )
    data["interval"] = data["interval"].where(data["low"].notna(), "–")
    tooltip = [
        alt.Tooltip("name:N", title="head"),
        alt.Tooltip("first_order:Q", title="first order", format="+.4f"),
        alt.Tooltip("exact:Q", title="exact", format="+.4f"),
        alt.Tooltip("interval:N", title="95 % interval"),
        alt.Tooltip("q:Q", title="q-value of the exact harm", format=".4f"),
    ]
    top = max(float(data["first_order"].abs().max()), 1e-6)
    scale = alt.Scale(domain=[-top, 0, top], range=DIVERGING, interpolate="lab")
    legend = legend_of(data["head"].nunique(), [-top, top], ".2g")
    base = grid_of(data, whole, tooltip)
    cells = base.mark_rect(stroke="#ffffff", strokeWidth=0.5).encode(
        color=alt.Color("first_order:Q", scale=scale, legend=legend)
    )
    exact = base.transform_filter("datum.measured == 1").mark_rect(fill="transparent", stroke=INK, strokeWidth=1)
    return alt.layer(cells, exact, view=alt.ViewConfig(fill=PALE))


def grid_of(data: pd.DataFrame, whole: list[int], tooltip: list) -> alt.Chart:
    """Return the grid of all maps: layers down, heads across."""
    count = data["head"].nunique()
    bold = {"condition": {"test": f"indexof({whole}, +datum.value) >= 0", "value": "bold"}, "value": "normal"}
    every = max(1, count // 8)
    height = alt.Step(14 if data["layer"].nunique() <= 24 else 9)
    return alt.Chart(data, width=alt.Step(_step(count)), height=height).encode(
        x=alt.X("head:O", title=None, axis=alt.Axis(labelAngle=0, labelExpr=_every(every), ticks=False)),
        y=alt.Y("layer:O", title=None, axis=alt.Axis(labelFontWeight=bold, ticks=False, labelOverlap=True)),
        tooltip=tooltip,
    )


def legend_of(count: int, ends: list[float], form: str = "") -> alt.Legend:
    """Return the legend of all maps: a bar under the map with its ends."""
    return alt.Legend(
        title=None,
        orient="bottom",
        direction="horizontal",
        gradientLength=max(60, _step(count) * count),
        gradientThickness=6,
        values=ends,
        offset=4,
        **({"format": form} if form else {}),
    )


def _step(count: int) -> int:
    return 18 if count <= 8 else 14 if count <= 16 else 9 if count <= 32 else 6


def scale_top(score: pd.Series, family: Family | None) -> float:
    """Return where a family's colour scale ends: 1 for shares of attention, else its top score, rounded up."""
    if family is None or family.statistic == "mass":
        return 1.0
    top = max(float(score.max()), family.threshold)
    unit = 10.0 ** math.floor(math.log10(top)) / 2  # 0.37 -> steps of 0.05; 0.012 -> of 0.005
    return round(math.ceil(top / unit) * unit, 6)


def atlas(heads: pd.DataFrame, families: dict[str, Family], whole: list[int], title: str) -> alt.ConcatChart | None:
    """Put all families' heat maps into one figure for a README; None where nothing was measured."""
    parts = [
        head_map(rows, families.get(family), whole).properties(title=f"{family} ({int(rows['member'].sum())})")
        for family, rows in by_family(heads, families)
    ]
    if not parts:
        return None
    lines = math.ceil(len(parts) / (9 if heads["head"].nunique() <= 8 else 3))
    chart = alt.concat(*parts, columns=math.ceil(len(parts) / lines), spacing=18)
    return chart.resolve_scale(color="independent").properties(title=alt.Title(title, fontSize=14, offset=12))


def whole_layers(model: dict) -> list[int]:
    """Return the layers that see the whole context, of a model that also has others; [] where all do."""
    layers = model.get("attention", [])
    return [x["layer"] for x in layers if not x.get("window")] if any(x.get("window") for x in layers) else []


def by_family(heads: pd.DataFrame, families: dict[str, Family]) -> list[tuple[str, pd.DataFrame]]:
    """Split a heads table by family, in display order; without families that have no score, and without grammar."""
    names = [*families, *sorted(set(heads["family"]) - set(families))]
    names = [name for name in names if not name.startswith(PREFIX)]  # 60 relations have a map of their own
    parts = [(name, heads[heads["family"] == name]) for name in names]
    return [(name, rows) for name, rows in parts if rows["score"].notna().any()]


def head_name(layer: float, head: float) -> str:
    """Name a head, counted from 0: L5H1."""
    return f"L{int(layer)}H{int(head)}"


def _every(step: int) -> str:
    return f"(+datum.value) % {step} == 0 ? datum.label : ''"
