"""Images: whose norms stand out, and who is looked at, layer by layer. Only models of images have this section."""

import altair as alt
import pandas as pd
from scipy.stats import false_discovery_control

from stages.page import charts
from stages.page.inputs import Slot
from stages.page.page import Chart, Figure, Note, Table
from stages.page.section import Context, SlotSection
from stages.page.sentences import interval, listed, number, p_value

LOOKS = {  # kind of token: colour, shape, what it is called
    "class": (charts.BLUE, "circle", "class token"),
    "register": (charts.GREEN, "square", "registers"),
    "outlier": (charts.ORANGE, "triangle-up", "patches that stand out"),
    "patch": (charts.GREY, "diamond", "all other patches"),
}
SOURCES = {
    "builtin": "canvases with handwritten digits on noise, made for this project",
    "path": "pictures of a folder",
}
WHAT = (
    "A vision transformer reads an image as patches, after a class token and, in some, registers. Without registers, "
    "trained models of some size were found to keep what is common to the image in a few patches of the background, "
    "whose norms are many times those of the others (Darcet+ 2024, arXiv 2309.16588). A patch stands out here when its "
    "norm is above the median of its image's patches by more than ten median absolute deviations of theirs, and at "
    "least twice that median (conventions of this page: patches with something to see differ from a plain background "
    "in a random model too, but by less). A skewed distribution has such patches as well: whether norms have more than "
    "one mode is asked by the dip test (Hartigan & Hartigan 1985), over the patches of all images, each norm over the "
    "median of its image."
)


def images(slot: Slot, context: Context) -> list:
    """Draw norms and attention per kind of token over layers, say what stands out, and list all of it."""
    path, table = slot.path("images.csv"), slot.images
    if table.empty:
        return [Note(f"No image was read ({path} has no rows): the task images is not in params.yaml.")]
    there = [kind for kind in LOOKS if kind in set(table["kind"])]
    legend = [LOOKS[kind] for kind in there]
    count = int(table["images"].max())
    says = (
        f"Over {count} images ({SOURCES.get(context.images, 'images')}). Norms of the states after a block, as a "
        "multiple of the median of the image's patches; attention that the heads of the next layer give to all tokens "
        "of a kind together, mean over heads and over the patches that look. Lines: 95 % intervals over images."
    )
    norms = Chart(curve(table, there, "ratio", "low", "high", "norm / median of patches"), "Norm")
    rows = table.dropna(subset="attention")
    figures = [norms]
    if len(rows):
        bounds = "attention", "attention_low", "attention_high"
        figures.append(Chart(curve(rows, there, *bounds, "share of attention", [0, 1]), "Attention that they get"))
    blocks = [
        Note(WHAT),
        Figure(figures, says, path, "cards", legend),
        Note(f"{standing_out(table)} {modes(table, context.alpha)}"),
        Note(looked_at(rows)),
    ]
    lines = [
        [str(int(r.layer)), LOOKS[r.kind][2], number(r.tokens, 1), number(r.norm), number(r.ratio),
         number(r.attention, 3), "–" if r.kind == "patch" else number(r.attention_null, 3), number(r.most, 3),
         str(int(r.images))]
        for r in table.itertuples()
    ]  # fmt: skip
    columns = [
        "layer",
        "tokens",
        "per image",
        "norm",
        "norm / median",
        "attention",
        "as many patches",
        "most",
        "images",
    ]
    note = (
        "Attention is that of the next layer. As many patches: what as many of the other patches get. Most: attention "
        "to the most attended token of the kind by the head that gives it most, mean over images."
    )
    blocks.append(Table(columns, lines, note, path, (0, *range(2, 9)), folded="Every layer"))
    return blocks


def curve(
    rows: pd.DataFrame, kinds: list[str], value: str, low: str, high: str, title: str, domain: list | None = None
) -> alt.LayerChart:
    """Draw a value with its interval over layers, one line per kind of token."""
    rows = rows[["layer", "kind", value, low, high]]
    colours, shapes, _ = zip(*(LOOKS[kind] for kind in kinds), strict=True)
    base = alt.Chart(rows, width="container", height=200).encode(
        x=alt.X("layer:Q", title="layer", axis=alt.Axis(tickMinStep=1)),
        color=alt.Color("kind:N", scale=alt.Scale(domain=kinds, range=colours), legend=None),
        tooltip=[alt.Tooltip("kind:N"), alt.Tooltip("layer:Q"), alt.Tooltip(f"{value}:Q", title=title, format=".3f")],
    )
    scale = alt.Scale(domain=domain) if domain else alt.Scale(zero=True)
    y = alt.Y(f"{value}:Q", title=title, scale=scale)
    shape = alt.Shape("kind:N", scale=alt.Scale(domain=kinds, range=shapes), legend=None)
    return alt.layer(
        base.mark_line(opacity=0.6).encode(y=y),
        base.mark_rule(strokeWidth=1.2).encode(y=f"{low}:Q", y2=f"{high}:Q"),
        base.mark_point(filled=True, size=45, opacity=1).encode(y=y, shape=shape),
    )


def standing_out(table: pd.DataFrame) -> str:
    """Say after how many blocks patches stand out, and how far after the last."""
    layers = sorted(table["layer"].unique())
    out = table[table["kind"] == "outlier"]
    if out.empty:
        return f"No patch of any image stands out after any of the {len(layers)} blocks with attention."
    text = f"Patches stand out after {len(out)} of {len(layers)} blocks with attention"
    last = out[out["layer"] == layers[-1]]
    if last.empty:
        return f"{text}; after the last of them none does."
    row = last.iloc[0]
    patches = table[(table["layer"] == layers[-1]) & (table["kind"] == "patch")]["tokens"].sum() + row["tokens"]
    return (
        f"{text}; after the last {100 * row['tokens'] / patches:.2g} % of the patches do, in {int(row['images'])} of "
        f"{int(table['images'].max())} images, with norms {number(row['ratio'], 1)} "
        f"{interval(row['low'], row['high'], 1)}".rstrip()
        + " times the median."
    )


def modes(table: pd.DataFrame, alpha: float) -> str:
    """Say after which blocks the norms of patches have more than one mode."""
    p = table.groupby("layer")["modes_p"].first()
    q = pd.Series(false_discovery_control(p), p.index)
    two = q[q <= alpha]
    if two.empty:
        return f"After no block more than one mode of norms is shown (dip test, smallest q {p_value(q.min())})."
    return (
        f"Norms have more than one mode after block{'s' * (len(two) > 1)} {listed(str(layer) for layer in two.index)} "
        f"(dip test, q at most {p_value(two.max())}; patches of an image count as independent, which favours modes). "
        "Patches with something to see may differ from a plain background in length as well: two modes alone make no "
        "outliers."
    )


def looked_at(rows: pd.DataFrame) -> str:
    """Say how much attention each kind of token gets, mean over layers, beside what as many other patches would get."""
    said = []
    for kind, (_, _, name) in LOOKS.items():
        part = rows[rows["kind"] == kind]
        if kind != "patch" and len(part):
            number_of = f"{len(part)} layer{'s' * (len(part) > 1)}"
            over = f" over the {number_of} where there are any" if kind == "outlier" else ""
            mean, null = part["attention"].mean(), part["attention_null"].mean()
            said.append(f"{name} {number(mean, 3)}{over} (as many other patches: {number(null, 3)})")
    if not said:
        return "This model has no tokens of its own, and no patch stands out: there is no attention to compare."
    return f"Attention, mean over layers from the second, heads and images: {'; '.join(said)}."


SECTION = SlotSection("images", "Tokens of images", 25, images, shown=lambda slot: slot.model.get("kind") == "vision")
