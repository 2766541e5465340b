"""What stands on the page about how a recipe's models were trained and measured: read from params."""

import numpy as np

from stages.page.sentences import listed, number
from stages.recipes.lesson import IGNORED, create
from stages.recipes.settings import First, Recipe, Revisions
from stages.recipes.states import States
from stages.statistics.intervals import FEWEST


def design(recipe: Recipe) -> str:
    """Say what was trained, how often, and what the intervals are over."""
    if isinstance(recipe.train, Revisions):
        return surveyed(recipe)
    shape = recipe.train.architecture
    mlp = f"MLPs of {shape.inner}" if shape.inner else "no MLPs"
    before = f"All of them {learned(recipe, recipe.train.before)}. " if recipe.train.before else ""
    seeds = recipe.train.seeds
    return (
        f"Trained from scratch on the task `{recipe.task}`, {seeds} seed{'s' * (seeds > 1)} each, "
        f"{recipe.train.steps} steps of {recipe.train.batch} sequences: {variants(recipe)}; "
        f"width {shape.width}, {mlp}. "
        f"{before}Every checkpoint is measured on {recipe.study.sequences} held-out sequences with the code that "
        f"measures pretrained models. {uncertain(seeds)}"
    )


def asked(recipe: Recipe) -> str:
    """Say what the task asks and, of variants that are asked something else, what that is; '' where nothing is said."""
    lessons = {arm: create(recipe.task, recipe, recipe.arm(arm).arguments) for arm in recipe.ordered}
    usual = lessons[recipe.main]
    others: dict[str, list[str]] = {}
    for arm, lesson in lessons.items():
        own = [part for part in _sentences(lesson.remarks) if part not in _sentences(usual.remarks)]
        if own and isinstance(lesson, States) and not lesson.chance(1):
            own.append(_commonest(lesson, recipe.study.sequences))
        if own:
            others.setdefault(" ".join(filter(None, own)), []).append(arm.replace("_", " "))
    said = [
        usual.remarks,
        *(f"Of variant{'s' * (len(arms) > 1)} {listed(arms)}: {own}" for own, arms in others.items()),
    ]
    painted = [arm.replace("_", " ") for arm, lesson in lessons.items() if isinstance(lesson, States) and lesson.paints]
    said += [f"Every patch also gives back its own pixels in {listed(painted)}."] if painted else []
    return " ".join(filter(None, said))


def _sentences(remarks: str) -> list[str]:
    return [f"{part.removesuffix('.')}." for part in remarks.split(". ") if part]


def _commonest(lesson: States, count: int) -> str:
    """Say what always giving the commonest answer gets, of a lesson in which guessing has no one level."""
    labels_NT = lesson.held_out(np.random.default_rng(0), count).labels_NT
    shares = np.bincount(labels_NT[labels_NT != IGNORED]) / (labels_NT != IGNORED).sum()
    return (
        f"Always giving the commonest answer is right in {number(shares.max())} of them, so that accuracies and harms "
        "are not of the same thing as where something else is asked."
    )


def variants(recipe: Recipe) -> str:
    """List a recipe's variants, each with what it changes, or with its size."""
    shape = recipe.train.architecture
    size = f"{_count(shape.layers, 'layer')} of {_count(shape.heads, 'head')}"
    size = f"{_count(shape.layers, 'MLP')}, no attention" if shape.type == "bag" else size
    return listed(f"{arm.replace('_', ' ')} ({_changes(recipe.arms[arm]) or size})" for arm in recipe.ordered)


def uncertain(seeds: int) -> str:
    """Say what stands in brackets behind a mean over so many seeds, and from when on two things are told apart."""
    if 1 < seeds < FEWEST:
        return (
            f"{seeds} seeds are too few for an interval over seeds: in brackets stand the lowest and the highest, and "
            "two things are told apart only where all seeds of one lie beyond all of the other."
        )
    over = "seeds and held-out sequences" if seeds > 1 else "held-out sequences only: other seeds may differ"
    return f"Intervals are 95 % bootstrap intervals over {over}."


def bounds(seeds: int) -> str:
    """Name what is drawn around a mean over so many seeds."""
    return "the range over seeds" if 1 < seeds < FEWEST else "the 95 % interval"


def widened(spacing: int) -> str:
    """Say by how much bounds of differences of onsets are widened: by `spacing`, the steps between checkpoints."""
    if not spacing:
        return ""
    return (
        f" No onset is known better than the {spacing} steps between two checkpoints: what stands in brackets behind a "
        "difference of two onsets is widened by as much on both sides."
    )


def schedule(recipe: Recipe) -> str:
    """Say which training data change with the step: onsets are then those of this schedule."""
    given = recipe.train.arguments
    ends = {key: value["until"] for key, value in given.items() if isinstance(value, dict) and "until" in value}
    if given.get("copying"):
        ends = {"copying": given["copying"], **ends}
    if not ends:
        return ""
    each = listed(f"{key} until step {step}" for key, step in ends.items())
    return (
        f" The training data change on the way ({each}): the onsets are those of this schedule, which may set when "
        "and in which order heads appear."
    )


def learned(recipe: Recipe, before: list[First]) -> str:
    """Say what was learned first: its steps, and in what its arguments differ."""
    main, each = recipe.train.arguments, []
    for first in before:
        changed = {key: value for key, value in first.arguments.items() if main.get(key) != value}
        what = ", ".join(f"{key} {value}" for key, value in changed.items() if isinstance(value, str | int | float))
        each.append(f"{first.steps} steps of {what or 'other data'}")
    return f"learned something else first: {', then '.join(each)}" if each else "learned nothing else first"


def _changes(changes: dict) -> str:
    """Write what an arm changes, `key: value`; of a section that is no number or word, its name."""
    said_each = []
    for key, value in changes.items():
        if key == "first":  # said by `learned`
            said_each.append("something else learned first")
        elif isinstance(value, dict):
            said_each.append(_changes(value) if key in ("arguments", "architecture", "optimizer") else key)
        elif key == "arcs":
            kind = "punished" if value > 0 else "rewarded"
            said_each.append(f"attention on gold arcs {kind} with a factor of {abs(value):g}")
        else:
            said_each.append(f"{key.replace('_', ' ')}: {'no' if value is None or value is False else value}")
    return ", ".join(said_each)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number > 1 else ''}"


def surveyed(recipe: Recipe) -> str:
    """Say whose checkpoints are measured, on what, and what is left out."""
    names = []
    for arm in recipe.ordered:
        run = recipe.arm(arm)
        first, last = run.kept[0], run.kept[-1]
        says = f"{arm.replace('_', ' ')} (`{run.name}`, {run.source}, {len(run.kept)} checkpoints, "
        names.append(f"{says}steps {first:,} to {last:,})")
    axis = ""
    if recipe.study.factor is not None:
        axis = "Steps are drawn, and curves joined, on a logarithmic axis of 1 + step. "
    kinds = listed(recipe.train.arguments["tasks"])
    return (
        f"Checkpoints that others trained: {listed(names)}; their weights are pinned by hash, not kept here. Each is "
        f"measured on up to {recipe.study.sequences} prompts of every kind of {kinds}, those that slots are measured "
        "on, by the same code. No head is silenced, and the function family, which is no attention, is left out. "
        f"{axis}Intervals are 95 % bootstrap intervals over prompts only: each variant is one run, and another "
        "may differ. What happens between two neighbouring checkpoints is not known, nor an order of onsets there: an "
        "interval of no width says only that the steepest change is always between the same two."
    )
