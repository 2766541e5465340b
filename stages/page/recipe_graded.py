"""What stands on the page of a lesson that grades answers: every arm's last values, and what they mean."""

import pandas as pd

from stages.page import recipe_findings as say
from stages.page.page import Note, Table
from stages.page.recipe_design import bounds
from stages.page.recipe_design import design as designed
from stages.page.sentences import number
from stages.recipes.graded import End
from stages.recipes.lesson import create
from stages.recipes.settings import Recipe

SAYS = {  # what the design says of other recipes: what it says here
    "with the code that measures pretrained models. ": "and on all that was to be stored. ",
    "over seeds and held-out sequences.": "over seeds and what is asked.",
}
AXES = {"loss": "loss on what is to be stored, nats per answer", "accuracy": "answers right, of what is to be stored"}


def design(recipe: Recipe) -> str:
    """Say what was trained; the answers are graded by the lesson itself."""
    text = designed(recipe)
    for other, own in SAYS.items():
        text = text.replace(other, own)
    return text


def blocks(recipe: Recipe, whole: pd.DataFrame, curve: pd.DataFrame, path: str) -> list[Note | Table]:
    """Return a verdict per arm, a table of the last values, and the main arm's values by part."""
    final = whole[(whole["finding"] == "final") & ~whole["measure"].str.contains("@")]
    of_arm = {arm: final[final["arm"] == arm].itertuples() for arm in recipe.ordered}
    ends = {arm: {row.measure: End(row.value, row.low, row.high, row.ranged) for row in rows}
            for arm, rows in of_arm.items()}  # fmt: skip
    notes = [
        Note(f"`{arm}` {create(recipe.task, recipe, recipe.arm(arm).arguments).verdict(of)}")
        for arm, of in ends.items()
        if of
    ]
    levels = whole[(whole["finding"] == "level") & ~whole["measure"].str.contains("@")]
    levels = levels.set_index(["arm", "versus", "measure"])["value"].to_dict()
    measures = list(dict.fromkeys(final["measure"]))
    rows = []
    for measure in measures:
        cells = [
            f"{number(of[measure].value)} {say.around(of[measure])}"
            + (f" (guessed {say.small(levels[arm, 'chance', measure])})" if (arm, "chance", measure) in levels else "")
            if measure in of
            else "–"
            for arm, of in ends.items()
        ]
        beside = [levels.get((recipe.main, means, measure)) for means in _means(levels)]
        rows.append([say.said(measure), *cells, *("–" if level is None else say.small(level) for level in beside)])
    columns = ["measure", *(arm.replace("_", " ") for arm in ends)]
    columns += [f"{say.LEVELS.get(means, means)}, for {recipe.main.replace('_', ' ')}" for means in _means(levels)]
    says = (
        f"Last values, mean over seeds and {bounds(recipe.train.seeds)}; in the last columns what is reached without "
    )
    says += "a network."
    parts = say.parts(curve, whole, recipe.main)
    return [*notes, Table(columns, rows, says, path), *([Note(parts)] if parts else [])]


def _means(levels: dict[tuple[str, str, str], float]) -> list[str]:
    """Return the simpler means besides guessing, in their order."""
    return list(dict.fromkeys(means for _, means, _ in levels if means != "chance"))
