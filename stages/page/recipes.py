"""What stands on the page for checkpoints: curves over training, onsets marked, and what they say.

Checkpoints are of models trained here from scratch, or revisions of a pretrained one. A claim is made only where a 95 %
interval allows it or, of 2 to 7 seeds, where it holds of every run: so few have a range and no interval. One seed's
interval is over held-out sequences. The page says which.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

import altair as alt
import numpy as np
import pandas as pd

from stages.page import charts, inputs, recipe_design, recipe_findings, recipe_graded, recipe_lengths, recipe_states
from stages.page.page import Chart, Figure, Note, Section, Table
from stages.page.sentences import capital
from stages.recipes.graded import Graded
from stages.recipes.lesson import Lesson, create
from stages.recipes.settings import Measuring, Recipe, Revisions, digest
from stages.recipes.states import States
from stages.statistics.findings import guessed, told
from stages.statistics.onset import RISES, earliest
from stages.store import paths
from stages.store.errors import UserError
from stages.store.params import Studies

CURVE = "arm seed step measure head best value value_null"
LEARNING = "arm seed step loss"
FINDINGS = "finding arm measure versus seed value low high"
PICTURE = "seed head query token predicts key looks_at weight"
TEXT = {"arm", "measure", "head", "finding", "versus", "token", "predicts", "looks_at"}
COLOURS = [charts.BLUE, charts.ORANGE, charts.GREEN, charts.PURPLE, charts.GREY]
BEST = (
    " For attention, the head with the largest score at each checkpoint, chosen on one half of the held-out sequences "
    "and shown on the other."
)
SHORT = (
    "Over training: a thin line per seed; band and bar: where the first variant changes fastest; dashed: what guessing "
    "or simpler means reach. The other curves, and how this was measured, are folded below."
)
LEAD = 3  # charts that are seen at once
TITLE = 30  # letters in a line of an axis title, as long as the axis
DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [4, 4]]
STROKES = ["line", "line dashed", "line dotted", "line dash-dot", "line even"]  # the same in legends


@dataclass(frozen=True)
class Results:
    """One study of a recipe: its params, where its results lie, and whether `dvc repro` alone makes them."""

    seed: int
    recipe: Recipe
    folder: Path
    default: bool

    @property
    def runs(self) -> int:
        """Runs of the main arm."""
        return self.recipe.arm(self.recipe.main).seeds

    @property
    def spacing(self) -> int:
        """The most steps between two checkpoints of the main arm; 0 where steps double, which have no one distance."""
        return 0 if self.recipe.study.factor is not None else int(max(np.diff(self.recipe.arm(self.recipe.main).kept)))

    @property
    def made(self) -> bool:
        """Whether there are any."""
        return (self.folder / "curve.csv").is_file()


def sections(studies: Mapping[Path, Studies], root: Path = Path()) -> list[Section]:
    """Return one section per recipe, read from the results below the folder of its params file.

    studies: folder -> its params.yaml; that of `dvc repro` first, then full/. A recipe in both is shown by the study
    with more runs; the other one stands beside it in a table, so that no two sentences answer one question.
    """
    by_recipe: dict[str, list[Results]] = {}
    for number, (folder, settings) in enumerate(studies.items()):
        for name, recipe in settings.recipes.items():
            results = Results(settings.seed, recipe, root / folder / paths.study(name), not number)
            by_recipe.setdefault(name, []).append(results)
    shown_each = []
    for name, results in by_recipe.items():
        shown, *others = sorted(results, key=lambda study: (not study.made, -study.runs))
        blocks = _blocks(shown) + [Note(text) for text in [provenance(shown)] if text]
        for other in others:
            blocks += _beside(shown, other) if other.made and shown.made else []
        lesson = _lesson(shown.recipe)
        title = "What states hold" if isinstance(lesson, States) else "Heads that emerge"
        title = "What a store gives" if isinstance(lesson, Graded) else title
        first = min((number for number, block in enumerate(blocks) if block.kind == "figure"), default=-1)
        usual = any(study.default for study in results)  # of what `dvc repro` trains the figure is seen at once
        shown_each.append(Section(f"recipe-{name}", f"{title}: {name}", blocks, seen=first + usual))
    return shown_each


def _lesson(recipe: Recipe) -> Lesson:
    return create(recipe.task, recipe, recipe.arm(recipe.main).arguments)


def provenance(results: Results) -> str:
    """Say what made the results of a longer study, and whether the params have changed since; '' for `dvc repro`."""
    stamp, text = results.folder / "params.json", ""
    if not stamp.is_file():
        return "" if results.default else "Not yet run: see `full/dvc.yaml`."
    said = json.loads(stamp.read_text())
    then, now = said["sha256"], digest(results.seed, results.recipe)
    if not results.default:
        text = "A longer study, which `dvc repro` leaves as it is: made by `dvc repro full/dvc.yaml` from "
        text += f"`full/params.yaml` (sha256 of seed and recipe: {then[:12]})."
    if "params" in said:  # made before full/dvc.yaml
        text += (
            " These results are older than that pipeline, which would make them anew: the same stages made them, "
            "started by a script, and their code has changed since."
        )
    return text + ("" if then == now else f" THE PARAMS HAVE CHANGED SINCE (now {now[:12]}): run it again.")


def _curve(folder: Path) -> pd.DataFrame:
    """Read curve.csv; a `UserError` unless its runs, and their last steps, are those of learning.csv."""
    curve = inputs.frame(folder / "curve.csv", CURVE.split(), TEXT)
    learning = inputs.frame(folder / "learning.csv", LEARNING.split(), TEXT)
    ends, trained = (table.groupby(["arm", "seed"]).step.max().to_dict() for table in (curve, learning))
    if len(curve) and trained and ends != trained:
        raise UserError(f"{folder / 'curve.csv'}: not the runs and last steps of learning.csv: cut; run dvc repro")
    return curve


def _findings(results: Results) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read all findings, and those of them that a sentence may be made of, with chance among their levels."""
    recipe = results.recipe
    findings = inputs.frame(results.folder / "findings.csv", FINDINGS.split(), TEXT)
    curve = _curve(results.folder)
    lessons = {arm: create(recipe.task, recipe, recipe.arm(arm).arguments) for arm in recipe.ordered}
    chance = guessed({arm: lesson.chance(recipe.study.sequences) for arm, lesson in lessons.items()})
    return findings, told(findings, curve, chance, lessons[recipe.main].falls, results.runs, results.spacing)


def _compared(results: Results) -> list[str]:
    """Return the measures whose onsets are compared."""
    recipe = results.recipe
    return list(create(recipe.task, recipe, recipe.arm(recipe.main).arguments).onsets)


def _beside(shown: Results, other: Results) -> list:
    """Return what is said of the study with fewer runs."""
    columns, rows = recipe_findings.beside(
        _findings(shown)[1], _findings(other)[1], other.recipe.ordered, _compared(other)
    )
    where = "`dvc repro` alone" if other.default else "`dvc repro full/dvc.yaml`"
    runs, above = other.runs, shown.runs
    says = f"Last values of the same recipe as {where} trains it, {runs} seed{'s' * (runs > 1)} instead of {above}. "
    there, here = (recipe_design.bounds(seeds) for seeds in (above, runs))
    brackets = here if here == there else f"above {there}, here {here}"
    says += f"What is claimed here rests on the study with more seeds. In brackets: {brackets}."
    return [Table(columns, rows, says, (other.folder / "findings.csv").as_posix())]


def _blocks(results: Results) -> list:
    recipe, folder = results.recipe, results.folder
    path = (folder / "curve.csv").as_posix()
    curve = _curve(folder)
    if curve.empty:
        return [Note(f"No results yet: {path} has no rows. Run `dvc repro`.")]
    arms, say, compared = recipe.ordered, recipe_findings, _compared(results)
    findings, whole = _findings(results)
    study, kept = recipe.study, recipe.arm(recipe.main).kept
    main = recipe.arm(recipe.main)  # changes are compared between variants with one beginning and the same checkpoints
    alike = [arm for arm in arms if recipe.arm(arm).before == main.before and recipe.arm(arm).kept == main.kept]
    first = earliest(kept[0], min(study.steps, kept[-1] - kept[0]), study.factor)
    lesson = _lesson(recipe)
    axes = recipe_graded.AXES if isinstance(lesson, Graded) else {}
    cards = {
        measure: Chart(
            chart(curve, whole, measure, arms, study, axes.get(measure, "")),
            capital(say.said(measure)),
            say.jumps(whole, measure, alike, first),
        )
        for measure in dict.fromkeys(curve["measure"])
        if "@" not in measure
    }
    reach = recipe_lengths.reach(recipe, curve, whole, COLOURS, DASHES)
    lead = [*reach, *(cards.pop(measure) for measure in compared[len(reach) - LEAD :] if measure in cards)]
    legend = [(c, stroke, arm.replace("_", " ")) for arm, c, stroke in zip(arms, COLOURS, STROKES, strict=False)]
    factor = study.factor
    stretch = f"{study.window} steps with" if factor is None else f"stretch in which steps grow {factor:g}-fold with"
    caption = (
        "Dashed and level, where drawn: what guessing or simpler means reach in the task of the first variant. "
        if (whole["finding"] == "level").any()
        else ""
    ) + (
        f"Thin lines: seeds; the band: the {stretch} the steepest change of the first variant, "
        f"at its mean onset; the bar above: {recipe_design.bounds(results.runs)} of the onset; neither where the "
        f"change is not clear of 0, is less than {100 * RISES:.0f} % of the measure's range (1 for shares; the "
        "variant's largest mean loss for nats) in any run, or ends at chance."
    )
    caption += "" if isinstance(lesson, Graded) else BEST
    curves = [Figure(lead, SHORT if cards else caption, path, "cards", legend)] if lead else []
    others = [Figure(list(cards.values()), caption, path, "cards", legend)] if cards else []

    def opening(design: str) -> list:
        """Return what is asked, the first figure, how it was measured, the other curves."""
        asked = recipe_design.asked(recipe)
        asked, how = ([asked], [design]) if asked else ([design], [])
        return [*map(Note, asked), *curves, *map(Note, how), *others]

    if isinstance(lesson, States):
        where = folder / "states.csv"
        states = inputs.frame(where, recipe_states.COLUMNS, recipe_states.TEXT)
        return [*opening(recipe_states.design(recipe)), *recipe_states.blocks(states, recipe, where.as_posix())]
    if isinstance(lesson, Graded):
        where = (folder / "findings.csv").as_posix()
        return [*opening(recipe_graded.design(recipe)), *recipe_graded.blocks(recipe, whole, curve, where)]
    design = recipe_design.design(recipe) + recipe_design.widened(results.spacing) + recipe_design.schedule(recipe)
    blocks = [*opening(design), Note(say.order(whole, arms[0], results.runs))]
    if isinstance(recipe.train, Revisions):
        return blocks
    header, rows = say.every_run(findings, arms, [name for name in compared if name in set(findings["measure"])])
    if len(header) > 1:
        runs = "Every run's last values, seed by seed: a mean over seeds hides who found the mechanism and who did not."
        blocks.append(Table(header, rows, runs, (folder / "findings.csv").as_posix()))
    notes = [
        *say.ahead(recipe, findings, whole, curve),
        say.against(whole, [arm for arm in arms if not recipe.arms[arm].get("first")], compared),
        say.solved(findings, arms),
        say.parts(curve, whole, arms[0]),
        say.without(curve, arms[0]),
    ]
    blocks += [Note(note) for note in notes if note]
    seen = inputs.frame(folder / "picture.csv", PICTURE.split(), TEXT)
    if len(seen):
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
    first, few = int(queries["query"].iloc[0]), len(keys) <= 24
    step, size = alt.Step(15 if few else 9), 11 if few else 8
    upright = (
        0 if few and keys["looks_at"].str.len().max() == 1 else -90
    )  # more than a symbol has no room beside others
    base = alt.Chart(seen[["query", "key", "weight"]], width=step, height=step).encode(
        x=alt.X(
            "key:O",
            title="looks at",
            axis=alt.Axis(
                labelAngle=upright,
                labelFontSize=size,
                orient="top",
                labelExpr=f"{list(keys['looks_at'])}[datum.value]",
                ticks=False,
            ),
        ),
        y=alt.Y(
            "query:O",
            title="at → predicts",
            axis=alt.Axis(labelFontSize=size, labelExpr=f"{labels}[datum.value - {first}]", ticks=False),
        ),
        tooltip=[alt.Tooltip("query:O"), alt.Tooltip("key:O"), alt.Tooltip("weight:Q", format=".2f")],
    )
    scale = alt.Scale(domain=[0, 1], range=charts.SEQUENTIAL, clamp=True)
    return base.mark_rect(stroke="#ffffff").encode(color=alt.Color("weight:Q", scale=scale, legend=None))


def chart(
    curve: pd.DataFrame, whole: pd.DataFrame, measure: str, arms: list[str], study: Measuring, axis: str = ""
) -> alt.LayerChart:
    """Draw a measure over training: a line per arm and seed, the first arm's steepest stretch and its interval.

    axis: what its axis says, where that is not as everywhere.
    """
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
    title = wrap(axis or recipe_findings.MEASURES.get(measure, ("", recipe_findings.said(measure)))[1], TITLE)
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
    level = whole[(whole["finding"] == "level") & (whole["measure"] == measure) & (whole["arm"] == arms[0])]
    level = level[["value", "versus"]]
    rule = alt.Chart(level).mark_rule(color=charts.GREY, strokeDash=[3, 3])
    rule = rule.encode(y="value:Q", tooltip=[alt.Tooltip("versus:N"), alt.Tooltip("value:Q", format=".3f")])
    below, above = ([band], [bar, at]) if len(onset) else ([], [])
    return alt.layer(*below, lines, *above, *([rule] if len(level) else []))
