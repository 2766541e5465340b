"""One HTML file from the results of all slots: no network, no clock, the same bytes for the same inputs."""

import json
import os
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from stages.families.family import Family
from stages.page import cards
from stages.page.charts import CONFIG
from stages.page.inputs import Slot
from stages.page.sentences import listed
from stages.store import files
from stages.store.errors import UserError
from stages.store.paths import PAGE

HERE = Path(__file__).parent
LONGEST = 20  # rows of a table that is seen at once


@dataclass(frozen=True)
class Chart:
    """One chart of a figure; `label` stands above it, `note` below."""

    spec: alt.TopLevelMixin
    label: str = ""
    note: str = ""


@dataclass(frozen=True)
class Figure:
    """Charts with one caption: what they show, and the file with the numbers. `layout`: maps, cards or single."""

    charts: list[Chart]
    says: str
    path: str
    layout: str = "cards"
    legend: list[tuple[str, str, str]] = field(default_factory=list)  # (colour, shape, text)
    kind: str = "figure"


@dataclass(frozen=True)
class Table:
    """A table; cells of the columns in `numeric` align right, rows in `marked` are bold; a long one starts closed."""

    columns: list[str]
    rows: list[list[str]]
    says: str = ""
    path: str = ""
    numeric: tuple[int, ...] = ()
    marked: tuple[int, ...] = ()
    folded: str = ""  # summary text when the table starts closed
    kind: str = "table"

    def __post_init__(self) -> None:
        if len(self.rows) > LONGEST and not self.folded:
            names = f": {', '.join(filter(None, self.columns))}" if self.columns else ""
            object.__setattr__(self, "folded", f"Table of {len(self.rows)} rows{names}")


@dataclass(frozen=True)
class Note:
    """A paragraph."""

    text: str
    kind: str = "note"


@dataclass(frozen=True)
class Fold:
    """Blocks that start closed; a figure is drawn when it is opened."""

    title: str
    blocks: list[Figure | Table | Note]
    kind: str = "fold"


@dataclass(frozen=True)
class Section:
    """A headed part of the page; `seen`: so many of its blocks are seen at once, the others start closed; 0: all."""

    anchor: str
    title: str
    blocks: list[Figure | Table | Note | Fold]
    seen: int = 0


def render(
    title: str,
    slots: list[tuple[Slot, list[Section]]],
    families: dict[str, Family],
    methods: list[Section],
    template: str = "page.html.j2",
    checked: bool = False,
) -> str:
    """Write the page: the sections of every slot one after the other, then the methods.

    checked: hold every chart against Vega-Lite's schema, which takes a sixth of the time.
    """
    specs: dict[str, dict[str, Any]] = {}
    data: dict[str, dict[str, list]] = {}

    def place(chart: Chart) -> str:
        """Give a chart its id and keep its specification and its data, once, for the script at the end."""
        name = f"chart-{len(specs) + 1}"
        spec = chart.spec.to_dict(validate=checked)
        data.update({known: columns(rows) for known, rows in spec.get("datasets", {}).items()})
        specs[name] = spec | {"datasets": sorted(spec.get("datasets", {}))}
        return name

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"linked": linked, "beside": beside}
    body = environment.get_template(template)
    return body.render(
        title=title,
        slots=slots,
        families=len({name.split(":")[0] for name in families}),  # grammar counts as one
        silenced=listed(silenced([slot for slot, _ in slots])),
        methods=methods,
        place=place,
        specs=lambda: script_json({"charts": specs, "data": data}),
        cards=script_json(
            {
                slot.name: {
                    "heads": cards.cards(slot, families),
                    "strips": cards.strips(slot),
                    "listing": cards.listing(slot, families),
                }
                for slot, _ in slots
                if len(slot.heads)
            }
        ),
        cards_script=Markup((HERE / "cards.js").read_text(encoding="utf-8")),
        config=script_json(CONFIG),
        bundle=Markup(bundle()),
    )


def save(path: str | Path, html: str) -> Path:
    """Write a page where a user wants it, whole or not at all; raises `UserError` where that is not possible."""
    try:
        real = Path(os.path.realpath(path))  # a link stays one
        if real.exists() and not real.is_file():  # a device, say, would be replaced
            raise UserError(f"{str(path)!r}: cannot be written; expected the name of a file, such as reports/x.html")
        files.write_text(real, html)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    return Path(path)


def columns(rows: list[dict[str, Any]]) -> dict[str, list]:
    """Write records as their names, once, and a list of values each: a third of the bytes."""
    names = sorted({name for row in rows for name in row})
    return {"names": names, "rows": [[row.get(name) for name in names] for row in rows]}


def silenced(slots: list[Slot]) -> list[str]:
    """Return the families whose heads were silenced in any slot; grammar and iteration count as one."""
    names = [name.split(":")[0] for slot in slots for name in slot.effects.query("purpose == 'family'")["family"]]
    return sorted(set(names))


def linked(text: str) -> Markup:
    """Escape a text, link the arXiv numbers and the `[text](#anchor)` in it, set what stands in backticks as code."""
    safe = re.sub(r"arXiv (\d{4}\.\d{4,5})", r'<a href="https://arxiv.org/abs/\1">arXiv \1</a>', str(escape(text)))
    safe = re.sub(r"\[([^\[\]]+)\]\((#[\w-]+)\)", r'<a href="\2">\1</a>', safe)
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", safe))


def beside(path: str) -> str:
    """Return a path of the repository as the page, in its folder, links to it."""
    return Path(os.path.relpath(path, PAGE.parent)).as_posix()


def script_json(value: Any) -> Markup:
    """Write JSON that may stand inside a <script> element whatever its strings hold."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def svg(chart: alt.TopLevelMixin) -> str:
    """Draw a chart as SVG; gradients are renumbered, as vl_convert counts them on from chart to chart."""
    text = vl_convert.vegalite_to_svg(chart.to_dict(), vl_version=vega_lite(), config=CONFIG)
    order = list(dict.fromkeys(re.findall(r"\bgradient_(\d+)\b", text)))
    return re.sub(r"\bgradient_(\d+)\b", lambda found: f"gradient_{order.index(found[1])}", text) + "\n"


def vega_lite() -> str:
    """Return the Vega-Lite version that Altair writes for, as vl_convert names it: 6.4."""
    return alt.SCHEMA_VERSION[1:].rsplit(".", 1)[0]


@cache
def bundle() -> str:
    """Return Vega, Vega-Lite and vega-embed as one script that sets `drawChart`; it loads nothing."""
    code = vl_convert.javascript_bundle("window.drawChart = vegaEmbed;", vl_version=vega_lite())
    return code.replace("</script", "<\\/script")
