"""What stands on the page for checkpoints: curves over training, onsets marked, and what they say.

Checkpoints are of models trained here from scratch, or revisions of a pretrained one. A claim is made only where a 95 %
interval allows it; intervals are over seeds from three seeds on, else over held-out sequences, and the page says which.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import altair as alt
import pandas as pd

from stages.page import charts, inputs, recipe_design, recipe_findings
from stages.page.page import Chart, Figure, Note, Section, Table
from stages.page.sentences import capital
from stages.store.params import Params, Recipe, Revisions, Study, digest

CURVE = "arm seed step measure head best value null"
FINDINGS = "finding arm measure versus seed value low high"
PICTURE = "seed head query token predicts key looks_at weight"
TEXT = {"arm", "measure", "head", "finding", "versus", "token", "predicts", "looks_at"}
COLOURS = [charts.BLUE, charts.ORANGE, charts.GREEN, charts.PURPLE, charts.GREY]
DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 4]]


def sections(recipes: Mapping[str, Recipe], folders: Mapping[str, Path]) -> list[Section]:
    """Return one section per recipe of params.yaml, read from its folder of results."""
    return [
        Section(f"recipe-{name}", f"Heads that emerge: {name}", _blocks(recipe, folders[name]))
        for name, recipe in recipes.items()
    ]


def longer(settings: Params, folders: Mapping[str, Path]) -> list[Section]:
    """Return one section per recipe of params.full.yaml with results in git, saying whether its params still hold."""
    found = []
    for name, recipe in settings.recipes.items():
        stamp = folders[name] / "params.json"
        if stamp.exists():
            then, now = json.loads(stamp.read_text())["sha256"], digest(settings.seed, recipe)
            text = f"Not made by `dvc repro` but by `python -m bench.full_recipes {name}`, from `params.full.yaml` "
            text += f"(sha256 of seed and recipe: {then[:12]}). "
            text += "" if then == now else f"THE PARAMS HAVE CHANGED SINCE (now {now[:12]}): run it again."
            title = f"Heads that emerge, the longer study: {name}"
            blocks = _blocks(recipe, folders[name], pictured=False)
            found.append(Section(f"full-{name}", title, [Note(text.strip()), *blocks]))
    return found


def _blocks(recipe: Recipe, folder: Path, pictured: bool = True) -> list:
    path = (folder / "curve.csv").as_posix()
    curve = inputs.frame(folder / "curve.csv", CURVE.split(), TEXT)
    findings = inputs.frame(folder / "findings.csv", FINDINGS.split(), TEXT)
    if curve.empty:
        return [Note(f"No results yet: {path} has no rows. Run `dvc repro`.")]
    arms, say = recipe.ordered, recipe_findings
    whole = findings[findings["seed"].isna()]
    cards = [
        Chart(
            chart(curve, whole, measure, arms, recipe.study),
            capital(say.said(measure)),
            say.jumps(whole, measure, arms),
        )
        for measure in dict.fromkeys(curve["measure"])
        if "@" not in measure
    ]
    legend = [(colour, "circle", arm.replace("_", " ")) for arm, colour in zip(arms, COLOURS, strict=False)]
    factor = recipe.study.factor
    stretch = (
        f"{recipe.study.window} steps with" if factor is None else f"stretch in which steps grow {factor:g}-fold with"
    )
    caption = ("Dashed and level: what simpler means reach. " if (whole["finding"] == "level").any() else "") + (
        f"Thin lines: seeds; the band: the {stretch} the steepest change of the first variant, "
        "at its mean onset; the bar above: the 95 % interval of the onset. For attention, the head with the largest "
        "score at each checkpoint, chosen on one half of the held-out sequences and shown on the other."
    )
    blocks = [
        Note(recipe_design.design(recipe) + recipe_design.schedule(recipe)),
        Figure(cards, caption, path, "cards", legend),
        Note(say.order(whole, arms[0])),
    ]
    if isinstance(recipe.train, Revisions):
        return blocks
    header, rows = say.every_run(findings, arms)
    if len(header) > 1:
        runs = "Every run's last values, seed by seed: a mean over seeds hides who found the mechanism and who did not."
        blocks.append(Table(header, rows, runs, (folder / "findings.csv").as_posix()))
    notes = [
        *say.ahead(recipe, whole, curve),
        say.against(whole, [arm for arm in arms if not recipe.arms[arm].get("first")]),
        say.solved(findings, arms),
        say.parts(curve, whole, arms[0]),
        say.without(curve, arms[0]),
    ]
    blocks += [Note(note) for note in notes if note]
    seen = inputs.frame(folder / "picture.csv", PICTURE.split(), TEXT)
    if pictured and len(seen):
        maps = [Chart(looks(seen[seen["head"] == head]), head) for head in sorted(set(seen["head"]))]
        filled = say.FILLED if recipe.train.architecture.type == "bert" else ""
        caption = say.pictured(seen, arms[0]) + filled
        blocks.append(Figure(maps, caption, (folder / "picture.csv").as_posix(), "maps"))
    return blocks


def looks(seen: pd.DataFrame) -> alt.Chart:
    """Draw where one head looks: a row per query, `token → what is predicted there`, a column per token."""
    queries = seen.drop_duplicates("query").sort_values("query")
    keys = seen.drop_duplicates("key").sort_values("key")
    labels = [f"{token} → {predicts}" for token, predicts in zip(queries["token"], queries["predicts"], strict=True)]
    first, step = int(queries["query"].iloc[0]), alt.Step(15 if len(keys) <= 24 else 9)
    base = alt.Chart(seen[["query", "key", "weight"]], width=step, height=step).encode(
        x=alt.X(
            "key:O",
            title="looks at",
            axis=alt.Axis(labelAngle=0, orient="top", labelExpr=f"{list(keys['looks_at'])}[datum.value]", ticks=False),
        ),
        y=alt.Y(
            "query:O", title="at → predicts", axis=alt.Axis(labelExpr=f"{labels}[datum.value - {first}]", ticks=False)
        ),
        tooltip=[alt.Tooltip("query:O"), alt.Tooltip("key:O"), alt.Tooltip("weight:Q", format=".2f")],
    )
    scale = alt.Scale(domain=[0, 1], range=charts.SEQUENTIAL, clamp=True)
    return base.mark_rect(stroke="#ffffff").encode(color=alt.Color("weight:Q", scale=scale, legend=None))


def chart(curve: pd.DataFrame, whole: pd.DataFrame, measure: str, arms: list[str], study: Study) -> alt.LayerChart:
    """Draw a measure over training: a line per arm and seed, the first arm's steepest stretch and its interval."""
    rows = curve[(curve["measure"] == measure) & (curve["best"] == 1)]
    colour = alt.Color("arm:N", scale=alt.Scale(domain=arms, range=COLOURS[: len(arms)]), legend=None)
    dash = alt.StrokeDash("arm:N", scale=alt.Scale(domain=arms, range=DASHES[: len(arms)]), legend=None)
    onset = whole[(whole["finding"] == "onset") & (whole["measure"] == measure) & (whole["arm"] == arms[0])]
    scale = alt.Scale(nice=False)
    if study.factor is None:
        onset = onset.assign(start=onset["value"] - study.steps / 2, end=onset["value"] + study.steps / 2)
    else:
        scale = alt.Scale(nice=False, type="symlog", constant=1)
        half = study.factor**0.5
        onset = onset.assign(start=(1 + onset["value"]) / half - 1, end=(1 + onset["value"]) * half - 1)
    title = recipe_findings.MEASURES.get(measure, ("", recipe_findings.said(measure)))[1]
    lines = (
        alt.Chart(rows[["arm", "seed", "step", "head", "value"]], width="container", height=170)
        .mark_line(strokeWidth=1.3, opacity=0.85)
        .encode(
            x=alt.X("step:Q", title="training step", scale=scale, axis=alt.Axis(tickCount=5)),
            y=alt.Y("value:Q", title=title, scale=alt.Scale(zero=False)),
            color=colour,
            strokeDash=dash,
            detail="seed:N",
            tooltip=[
                alt.Tooltip("arm:N"),
                alt.Tooltip("seed:N"),
                alt.Tooltip("step:Q"),
                alt.Tooltip("head:N", title="best head"),
                alt.Tooltip("value:Q", title=recipe_findings.said(measure), format=".3f"),
            ],
        )
    )
    marks = alt.Chart(onset[["start", "end", "value", "low", "high"]])
    band = marks.mark_rect(color=charts.PALE).encode(x="start:Q", x2="end:Q")
    bar = marks.mark_rule(color=charts.INK, strokeWidth=3).encode(x="low:Q", x2="high:Q", y=alt.value(4))
    at = marks.mark_point(color=charts.INK, filled=True, size=40, opacity=1).encode(x="value:Q", y=alt.value(4))
    level = whole[(whole["finding"] == "level") & (whole["measure"] == measure)][["value", "versus"]]
    rule = alt.Chart(level).mark_rule(color=charts.GREY, strokeDash=[3, 3])
    rule = rule.encode(y="value:Q", tooltip=[alt.Tooltip("versus:N"), alt.Tooltip("value:Q", format=".3f")])
    return alt.layer(band, lines, bar, at, *([rule] if len(level) else []))
