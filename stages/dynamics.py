"""Measure a recipe's checkpoints as any model is measured: `python -m stages.dynamics <recipe>`.

Writes, per checkpoint, every head's attention on the task's relations and the model's outcomes on held-out sequences
(curve.csv); when each measure jumps and how that differs between measures and arms, with intervals (findings.csv); the
means over seeds that branches compare (metrics.json); the hash of the params behind all this (params.json); and where
heads look in one sequence (picture.csv), in the main arm's run with the best outcome on split a. The best head of a
checkpoint is chosen on split a of the held-out sequences, its values are those of split b. At the last checkpoint, each
head is silenced in turn. Params are read and results written in the folder it runs in, as by `stages.train`.

Revisions of a pretrained model are measured likewise, on the prompts of slots (stages/recipes/families.py); nothing is
silenced there and nothing pictured.

Of lessons about states (stages/recipes/states.py) states.csv says what tokens' states hold at the last checkpoint and
whether they are used; no head is silenced there either. Nor is one of lessons that grade their answers themselves
(stages/recipes/graded.py).
"""

import json
import logging
import sys
from concurrent.futures import as_completed
from pathlib import Path, PurePath

import pandas as pd
from safetensors import SafetensorError, safe_open
from tqdm import tqdm

from stages.recipes.graded import Graded
from stages.recipes.lesson import Lesson, create
from stages.recipes.settings import Revisions, digest
from stages.recipes.states import STUDIED, Held, States
from stages.statistics.findings import (
    FINDINGS,
    arrays,
    best,
    compared,
    guessed,
    leader,
    levelled,
    metrics,
    summary,
    together,
    told,
)
from stages.statistics.onset import locate
from stages.store import files, params, paths
from stages.store.errors import UserError, run
from stages.tasks.prompt import stream

log = logging.getLogger(__name__)
RAW = ["arm", "seed", "step", "measure", "head", "sequence", "value", "value_null", "weight"]
PICTURE = ["seed", "head", "query", "token", "predicts", "key", "looks_at", "weight"]


def main(name: str) -> None:
    """Measure all checkpoints, locate the jumps, write the summaries; runs share the processor's cores."""
    settings = params.load_studies()
    if name not in settings.recipes:
        raise UserError(
            f"{paths.PARAMS}: recipes.{name}: no such recipe in params; allowed: {', '.join(settings.recipes)}"
        )
    recipe, study = settings.recipes[name], settings.recipes[name].study
    arms = {arm: recipe.arm(arm) for arm in recipe.ordered}
    lessons = {arm: create(name, recipe, training.arguments) for arm, training in arms.items()}
    if PurePath(recipe.families) != PurePath(lessons[recipe.main].families):
        raise UserError(
            f"{paths.PARAMS}: recipes.{name}.families = {recipe.families!r}: allowed: {lessons[recipe.main].families}, "
            "where its relations are from"
        )
    runs = [(arm, seed) for arm, training in arms.items() for seed in range(training.seeds)]
    checkpoints = sum(training.seeds * len(training.kept) for training in arms.values())
    for arm, seed in runs:
        for step in () if isinstance(arms[arm], Revisions) else arms[arm].kept:
            _check(paths.checkpoint(name, arm, seed, step), name)
    from stages.engine import workers  # torch is loaded only where something is measured
    from stages.training.cost import measuring
    from stages.training.train import threads

    processes = min(threads(), len(runs))
    about = measuring(checkpoints, processes)
    log.info("dynamics %s: %d checkpoints of %d runs, %s", name, checkpoints, len(runs), about)
    with workers.pool(processes) as pool:
        futures = {run: pool.submit(one_run, settings, name, *run) for run in runs}
        for done in tqdm(as_completed(futures.values()), f"dynamics {name}", len(runs), unit="run"):
            done.result()  # raises at once what a run raised
    kept, located = [], {}
    studied = [row for run in runs for row in futures[run].result()[2]]
    for arm in arms:
        raw = [row for run in runs if run[0] == arm for row in futures[run].result()[0]]
        table = pd.DataFrame(raw, columns=RAW)
        if arm == recipe.main:
            learned = lessons[arm].onsets[-1]
            seed = leader(table, learned, learned in lessons[arm].falls)
            picture = [(seed, *row) for row in futures[arm, seed].result()[1]]
        kept.append(together(best(table)))
        rng = stream(settings.seed, f"recipes/{name}/bootstrap")  # the same resamples for every arm
        values, steps_C, weights = arrays(kept[-1])
        falls, solved = lessons[arm].falls, lessons[arm].solved
        located[arm] = locate(values, falls, steps_C, study.steps, study.bootstrap, rng, solved, study.factor, weights)
    main_lesson = lessons[recipe.main]
    levels = main_lesson.levels(held_out(settings, name, main_lesson))
    findings = pd.DataFrame([*compared(located, lessons), *levelled(levels, recipe.main)], columns=FINDINGS)
    curve = summary(pd.concat(kept))
    chance = guessed({arm: lesson.chance(study.sequences) for arm, lesson in lessons.items()})
    numbered = findings.assign(seed=pd.to_numeric(findings.seed))
    whole = told(numbered, curve, chance, main_lesson.falls, arms[recipe.main].seeds)
    summaries = {"curve": curve, "findings": findings}
    summaries["picture"] = pd.DataFrame(picture, columns=PICTURE)
    summaries["states"] = pd.DataFrame(studied, columns=["arm", "seed", *STUDIED])
    for file, table in summaries.items():
        digits = "%.6g" if file == "states" else "%.5f"  # states: what is nearly nothing is not nothing
        files.write_text(paths.study(name) / f"{file}.csv", table.to_csv(index=False, float_format=digits))
    counts = {arm: training.seeds for arm, training in arms.items()}
    made_with = {"sha256": digest(settings.seed, recipe)}
    for file, content in {"metrics": metrics(whole, counts), "params": made_with}.items():
        files.write_text(paths.study(name) / f"{file}.json", json.dumps(content, indent=2) + "\n")


def held_out(settings: params.Studies, name: str, lesson: Lesson) -> list | Held:
    """Draw the sequences that all checkpoints of a recipe are measured on."""
    return lesson.held_out(stream(settings.seed, f"recipes/{name}/held_out"), settings.recipes[name].study.sequences)


def _check(folder: Path, name: str) -> None:
    """Raise `UserError` unless a checkpoint's files can be read and the weights are as long as their header says."""
    try:
        json.loads((folder / "config.json").read_bytes())
        with safe_open(folder / "model.safetensors", framework="np"):
            pass
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"{folder}: no whole checkpoint ({error}); run dvc repro -f -s train@{name}") from None


def one_run(settings: params.Studies, name: str, arm: str, seed: int) -> tuple[list[tuple], list[tuple], list[tuple]]:
    """Measure one run's checkpoints in a process of its own.

    Returns rows as in `RAW`; of the main arm a picture; of a lesson about states the rows of states.csv.
    """
    from stages.training import checkpoint
    from stages.training.train import one_thread

    one_thread()
    recipe = settings.recipes[name]
    training = recipe.arm(arm)
    lesson = create(name, recipe, training.arguments)
    held = held_out(settings, name, lesson)
    rows, last = [], training.kept[-1]
    if isinstance(training, Revisions):
        from stages.training import revisions, survey

        for step in training.kept:
            loaded = revisions.opened(name, arm, training, step)
            rows += [(arm, seed, step, *row) for row in survey.measured(loaded, lesson, held)]
        return rows, [], []  # silencing every head of a large model takes too long
    if isinstance(lesson, States):
        from stages.training import states

        rng = stream(settings.seed, f"recipes/{name}/{arm}/{seed}/probes")
        for step in training.kept:
            model = states.read(paths.checkpoint(name, arm, seed, step), training.architecture)
            run = states.intact(model, held, training.architecture.registers)
            rows += [(arm, seed, step, *row) for row in states.measured(lesson, held, training.architecture, run)]
        return rows, [], [(arm, seed, *row) for row in states.studied(model, lesson, held, training, run, rng)]
    if isinstance(lesson, Graded):
        from stages.training import graded

        for step in training.kept:
            model = graded.read(paths.checkpoint(name, arm, seed, step), training.architecture)
            graded_rows = list(graded.measured(model, lesson, held))
            rows += [(arm, seed, step, *row) for row in graded_rows if step == last or "@" not in row[0]]
        return rows, [], []
    for step in training.kept:
        loaded = checkpoint.opened(name, arm, seed, step, lesson)
        outcomes = checkpoint.measured(loaded, lesson, held)
        rows += [(arm, seed, step, *row) for row in outcomes if step == last or row[1] or "@" not in row[0]]
    rows += [(arm, seed, last, *row) for row in checkpoint.silenced(loaded, lesson, held)]
    shown = held[lesson.shown(held)]
    return rows, list(checkpoint.pictured(loaded, lesson, shown)) if arm == recipe.main else [], []


if __name__ == "__main__":
    run(main, *sys.argv[1:])
