"""How far what was learned reaches: what is right at every length of string, the trained lengths shaded.

Drawn and said of variants that were trained on the same lengths as the main one; others have another shade.
"""

import altair as alt
import pandas as pd

from stages.page import charts
from stages.page.page import Chart
from stages.page.sentences import number
from stages.recipes.iteration import Iteration
from stages.recipes.lesson import create
from stages.recipes.settings import Recipe

PART = "accuracy@"  # followed by the length, symbols
INSIDE, OUTSIDE = "accuracy", "accuracy_beyond"


def reach(
    recipe: Recipe, curve: pd.DataFrame, whole: pd.DataFrame, colours: list[str], dashes: list[list[int]]
) -> list[Chart]:
    """Return the chart, or none where a recipe has no lengths; curve, whole: as `recipes.chart` draws them."""
    lessons = {arm: create(recipe.task, recipe, recipe.arm(arm).arguments) for arm in recipe.ordered}
    main = lessons[recipe.main]
    if not isinstance(main, Iteration):
        return []
    alike = [arm for arm, lesson in lessons.items() if _trained(lesson) == _trained(main)]
    last = curve[curve["step"] == curve.groupby("arm")["step"].transform("max")]
    rows = last[last["measure"].str.fullmatch(PART + r"\d+") & last["arm"].isin(alike)]
    guessed = whole[(whole["finding"] == "level") & (whole["versus"] == "chance") & whole["arm"].isin(alike)]
    guessed = guessed[guessed["measure"].str.fullmatch(PART + r"\d+")]
    drawn = chart(_at_lengths(rows), _at_lengths(guessed), _trained(main), recipe.ordered, colours, dashes)
    return [Chart(drawn, "Does it reach beyond the lengths it was trained on?", says(last, main, alike))]


def _trained(lesson: Iteration) -> tuple[int, int]:
    return lesson.shortest, lesson.longest


def _at_lengths(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the mean and the range over seeds by arm and length."""
    rows = rows.assign(length=rows["measure"].str.removeprefix(PART).astype(int))
    return rows.groupby(["arm", "length"], as_index=False)["value"].agg(value="mean", lowest="min", highest="max")


def chart(
    rows: pd.DataFrame,
    guessed: pd.DataFrame,
    trained: tuple[int, int],
    arms: list[str],
    colours: list[str],
    dashes: list[list[int]],
) -> alt.LayerChart:
    """Draw the share right over the length of the string; rows, guessed: arm, length, value, lowest, highest."""
    colour = alt.Color("arm:N", scale=alt.Scale(domain=arms, range=colours[: len(arms)]), legend=None)
    dash = alt.StrokeDash("arm:N", scale=alt.Scale(domain=arms, range=dashes[: len(arms)]), legend=None)
    scale = alt.Scale(domain=[rows["length"].min() - 0.5, rows["length"].max() + 0.5], nice=False, zero=False)
    x = alt.X("length:Q", title="symbols in the string", scale=scale)
    y = alt.Y("value:Q", title="share right", scale=alt.Scale(domain=[0, 1]))
    base = alt.Chart(rows, width="container", height=170).encode(
        x=x,
        color=colour,
        tooltip=[
            alt.Tooltip("arm:N"),
            alt.Tooltip("length:Q", title="symbols"),
            *(alt.Tooltip(f"{name}:Q", format=".2f") for name in ("value", "lowest", "highest")),
        ],
    )
    shade = alt.Chart(pd.DataFrame([{"start": trained[0] - 0.5, "end": trained[1] + 0.5}]))
    return alt.layer(
        shade.mark_rect(color=charts.PALE).encode(x=alt.X("start:Q", scale=scale), x2="end:Q"),
        alt.Chart(guessed).mark_line(strokeWidth=1, strokeDash=[2, 3], opacity=0.9).encode(x=x, y=y, color=colour),
        base.mark_line(strokeWidth=1.3, opacity=0.85).encode(y=y, strokeDash=dash),
        base.mark_rule(strokeWidth=1, opacity=0.5).encode(y=alt.Y("lowest:Q"), y2="highest:Q"),
        base.mark_point(filled=True, size=26, opacity=1).encode(y=y),
    )


def says(last: pd.DataFrame, main: Iteration, arms: list[str]) -> str:
    """Say what each variant gets right on trained lengths and beyond, with the range over seeds; what is drawn."""
    parts = []
    for arm in arms:
        values = [_share(last[(last["arm"] == arm) & (last["measure"] == name)]["value"]) for name in (INSIDE, OUTSIDE)]
        if all(values):
            parts.append(f"{arm.replace('_', ' ')} {values[0]} and {values[1]}")
    text = (
        f"Shaded: the lengths seen in training, {main.shortest} to {main.longest}; bars: the range over seeds; dotted: "
        "a guess."
    )
    if parts:
        text += f" Right on these, and on {main.longest + 1} to {main.beyond}, never seen: {'; '.join(parts)}."
    return text


def _share(values: pd.Series) -> str:
    ends = [number(end) for end in (values.min(), values.max())]
    spread = f" ({ends[0]} to {ends[1]})" if ends[0] != ends[1] else ""
    return f"{number(values.mean())}{spread}" if len(values) else ""
