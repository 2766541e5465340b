"""Measure a recipe's checkpoints as any model is measured: `python -m stages.dynamics <recipe>`.

Writes, per checkpoint, every head's attention on the task's relations and the model's outcomes on held-out sequences
(curve.csv); when each measure jumps and how that differs between measures and arms, with intervals (findings.csv); the
means over seeds that branches compare (metrics.json); and where heads look in one sequence (picture.csv). The best head
of a checkpoint is chosen on split a of the held-out sequences, its values are those of split b. At the last checkpoint,
each head is silenced in turn.
"""

import json
import logging
import sys

import pandas as pd
from tqdm import tqdm

from stages.prompts.prompt import stream
from stages.recipes.findings import FINDINGS, arrays, best, compared, levelled, metrics, summary, together
from stages.recipes.onset import locate
from stages.recipes.task import create
from stages.store import params, paths, tables
from stages.store.errors import UserError, run

log = logging.getLogger(__name__)
RAW = ["arm", "seed", "step", "measure", "head", "sequence", "value", "null", "weight"]
PICTURE = ["head", "query", "token", "predicts", "key", "looks_at", "weight"]


def main(name: str) -> None:
    """Measure all checkpoints, locate the jumps, write the summaries."""
    settings = params.load()
    if name not in settings.recipes:
        raise UserError(f"{paths.PARAMS}: recipes.{name}: no such recipe in params")
    from stages.model.study import measured, opened, pictured, silenced
    from stages.model.train import one_thread

    one_thread()
    recipe, study = settings.recipes[name], settings.recipes[name].study
    arms = {arm: recipe.arm(arm) for arm in recipe.ordered}
    tasks = {arm: create(name, recipe, training.arguments) for arm, training in arms.items()}
    kept, located, levels = [], {}, {}
    total = sum(len(training.kept) * training.seeds for training in arms.values())
    with tqdm(total=total, desc=f"dynamics {name}", unit="checkpoint") as progress:
        for arm, training in arms.items():
            held, rows = tasks[arm].held_out(stream(settings.seed, f"recipes/{name}/held_out"), study.sequences), []
            for seed in range(training.seeds):
                for step in training.kept:
                    loaded = opened(name, arm, seed, step, tasks[arm])
                    rows += [(arm, seed, step, *row) for row in measured(loaded, tasks[arm], held)]
                    progress.update()
                rows += [(arm, seed, step, *row) for row in silenced(loaded, tasks[arm], held)]
                if arm == recipe.main and seed == 0:
                    picture = list(pictured(loaded, tasks[arm], held[tasks[arm].shown(held)]))
            kept.append(together(best(pd.DataFrame(rows, columns=RAW))))
            levels = levels or tasks[arm].levels(held)  # of the main arm
            rng = stream(settings.seed, f"recipes/{name}/bootstrap")  # the same resamples for every arm
            values, steps_C, weights = arrays(kept[-1])
            located[arm] = locate(values, tasks[arm].falls, steps_C, study.window, study.bootstrap, rng, weights)
    findings = pd.DataFrame([*compared(located, tasks), *levelled(levels, recipe.main)], columns=FINDINGS)
    summaries = {"curve": summary(pd.concat(kept)), "findings": findings}
    summaries["picture"] = pd.DataFrame(picture, columns=PICTURE)
    for file, table in summaries.items():
        tables.write_text(paths.study(name) / f"{file}.csv", table.to_csv(index=False, float_format="%.5f"))
    counts = {arm: training.seeds for arm, training in arms.items()}
    tables.write_text(paths.study(name) / "metrics.json", json.dumps(metrics(findings, counts), indent=2) + "\n")


if __name__ == "__main__":
    run(main, *sys.argv[1:])
