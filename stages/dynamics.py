"""Measure a recipe's checkpoints as any model is measured: `python -m stages.dynamics <recipe>`.

Writes, per checkpoint, every head's attention on the task's relations and the model's outcomes on held-out sequences
(curve.csv); when each measure jumps and how that differs between measures and arms, with intervals (findings.csv);
and the means over seeds that branches compare (metrics.json). The best head of a checkpoint is chosen on split a of the
held-out sequences, its values are those of split b. At the last checkpoint, each head is silenced in turn.
"""

import json
import logging
import sys
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pandas as pd
from tqdm import tqdm

from stages.heads.family import Tokens
from stages.prompts.prompt import stream
from stages.recipes.onset import Located, locate
from stages.recipes.task import Task, create
from stages.store import params, paths, tables
from stages.store.errors import UserError, run
from stages.store.params import Recipe

log = logging.getLogger(__name__)
RAW = ["arm", "seed", "step", "measure", "head", "sequence", "value", "null"]
FINDINGS = ["finding", "arm", "measure", "versus", "seed", "value", "low", "high"]

PICTURE = ["head", "query", "token", "predicts", "key", "looks_at", "weight"]


def main(name: str) -> None:
    """Measure all checkpoints, locate the jumps, write the summaries."""
    settings = params.load()
    if name not in settings.recipes:
        raise UserError(f"{paths.PARAMS}: recipes.{name}: no such recipe in params")
    recipe, raw, located, tasks = settings.recipes[name], [], {}, {}
    total = sum(len(recipe.arm(arm).kept) * recipe.arm(arm).seeds for arm in recipe.arms)
    with tqdm(total=total, desc=f"dynamics {name}", unit="checkpoint") as progress:
        for arm in recipe.arms:
            tasks[arm] = create(name, recipe, recipe.arm(arm).arguments)
            raw.append(_measured(name, recipe, arm, tasks[arm], settings.seed, progress))
    raw = [best(rows) for rows in raw]
    for arm, rows in zip(recipe.arms, raw, strict=True):
        values, steps_C = arrays(rows)
        rng = stream(settings.seed, f"recipes/{name}/bootstrap")  # the same resamples for every arm
        study = recipe.study
        located[arm] = locate(values, tasks[arm].falls, steps_C, study.window, study.bootstrap, rng)
    findings = pd.DataFrame(compared(located, tasks), columns=FINDINGS)
    folder, csv = paths.study(name), {"index": False, "float_format": "%.5f"}
    tables.write_text(folder / "curve.csv", summary(pd.concat(raw)).to_csv(**csv))
    tables.write_text(folder / "findings.csv", findings.to_csv(**csv))
    tables.write_text(folder / "picture.csv", pictured(name, recipe, settings.seed).to_csv(**csv))
    tables.write_text(folder / "metrics.json", json.dumps(metrics(findings, recipe), indent=2) + "\n")


def _measured(name: str, recipe: Recipe, arm: str, task: Task, seed: int, progress: tqdm) -> pd.DataFrame:
    """Return one row per (seed, step, measure, head or '', sequence) of an arm."""
    from stages.model.build import numbered, read
    from stages.model.load import Loaded, find
    from stages.model.measure import measure
    from stages.model.train import one_thread

    one_thread()
    held = task.held_out(stream(seed, f"recipes/{name}/held_out"), recipe.study.sequences)
    names = dict.fromkeys(watched.relation for watched in task.watched.values())
    relations = [{r: found for r in names if (found := task.relation(r, one)) is not None} for one in held]
    tokenizer, rows, training = numbered(task.symbols), [], recipe.arm(arm)
    for number in range(training.seeds):
        for step in training.kept:
            model = read(paths.checkpoint(name, arm, number, step))
            loaded = Loaded(model, tokenizer, find(model), "decoder")
            found = measure(loaded, held, relations)
            for one, means, scored in zip(held, found.means, found.scored, strict=True):
                rows += [(arm, number, step, *row) for row in _rows(loaded, task, one, means, scored)]
            if step == training.steps:
                rows += [(arm, number, step, *row) for row in _silenced(loaded, task, held)]
            progress.update()
    return pd.DataFrame(rows, columns=RAW)


def _rows(loaded, task: Task, tokens: Tokens, means: dict, scored) -> Iterator[tuple]:
    """Yield (measure, head, sequence, value, null) of one sequence: outcomes of the model, masses of the heads."""
    for measure, value in task.outcomes(tokens, scored.logprob, scored.top).items():
        yield measure, "", tokens.prompt, float(value), np.nan
    for measure, (relation, statistic, only) in task.watched.items():
        for layer, head in loaded.anatomy.heads:
            if relation in means and only in (None, layer):
                values = means[relation].values
                null = float(values["null"][layer, head]) if statistic == "mass" else np.nan
                yield measure, f"L{layer}H{head}", tokens.prompt, float(values[statistic][layer, head]), null


def _silenced(loaded, task: Task, held: list[Tokens]) -> Iterator[tuple]:
    """Yield the outcomes without each head (zero ablation), as measures `<outcome>@without <head>`."""
    import torch

    from stages.model.score import Batch

    batch = Batch(loaded, held, [tokens.target for tokens in held])
    for layer, head in loaded.anatomy.heads:
        zero = torch.zeros(loaded.anatomy.layers[layer].head_size)
        for tokens, scored in zip(held, batch.ablated({(layer, head): zero}, everywhere=True), strict=True):
            for measure, value in task.outcomes(tokens, scored.logprob, scored.top).items():
                if "@" not in measure:
                    yield f"{measure}@without L{layer}H{head}", "", tokens.prompt, float(value), np.nan


def pictured(name: str, recipe: Recipe, seed: int) -> pd.DataFrame:
    """Return where every head of the first arm's first run looks in one held-out sequence: rows of picture.csv.

    Where the task says so, the sequence is written by greedy decoding. One row per head, query and key, from the token
    that predicts the first target on: token = what stands at the query, predicts = the argmax there.
    """
    from stages.model.build import numbered, read
    from stages.model.forward import forward
    from stages.model.load import Loaded, find
    from stages.model.measure import weighing

    arm = next(iter(recipe.arms))
    task, step = create(name, recipe, recipe.arm(arm).arguments), recipe.arm(arm).steps
    held = task.held_out(stream(seed, f"recipes/{name}/held_out"), recipe.study.sequences)
    model = read(paths.checkpoint(name, arm, 0, step))
    loaded = Loaded(model, numbered(task.symbols), find(model), "decoder")
    tokens = held[task.shown(held)]
    ids, first = tokens.ids, int(tokens.target[0])
    if task.decoded:
        ids = ids[:first]
        for _ in tokens.target:
            ids = np.append(ids, int(forward(loaded, [ids], [np.array([len(ids) - 1])])[0].argmax()))
    seen: dict[int, np.ndarray] = {}

    def keep(layer: int, weights_BHTS, visible, start: int) -> None:
        seen[layer] = weights_BHTS[0].numpy()

    with weighing(loaded, keep):
        predicted = forward(loaded, [ids], [np.arange(len(ids))]).argmax(1).numpy()
    rows = [
        (f"L{layer}H{head}", query, task.symbol(ids[query]), task.symbol(predicted[query]), key, task.symbol(ids[key]),
         seen[layer][head, query, key])
        for layer, head in loaded.anatomy.heads
        for query in range(first - 1, len(ids) - 1)
        for key in range(query + 1)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=PICTURE)


def best(rows: pd.DataFrame) -> pd.DataFrame:
    """Mark the head with the largest mean on split a, per seed, step and relation; keep its values on split b.

    Splits are by the order of sequences, in equal parts. A model's outcomes are marked too and stay on both splits, as
    there is no choice in them.
    """
    on_a = rows.sequence.astype(int) % 2 == 0
    keys = ["arm", "seed", "step", "measure"]
    scores = rows[on_a].groupby([*keys, "head"], sort=True).value.mean().reset_index()
    top = scores.loc[scores.groupby(keys).value.idxmax(), [*keys, "head"]].assign(best=1)
    merged = rows[~on_a | (rows["head"] == "")].merge(top, how="left", on=[*keys, "head"])
    return merged.assign(best=merged.best.fillna(0).astype(int))


def arrays(rows: pd.DataFrame) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return an arm's measures as (S, C, P), best heads standing for relations, and its steps (C,)."""
    chosen, values = rows[(rows.best == 1) & ~rows.measure.str.contains("@")], {}
    index = [sorted(rows[column].unique()) for column in ("seed", "step", "sequence")]
    for measure, mine in chosen.groupby("measure", sort=False):
        full = mine.set_index(["seed", "step", "sequence"]).value
        full = full.reindex(pd.MultiIndex.from_product(index))
        values[measure] = full.to_numpy().reshape(*map(len, index))
    return values, np.array(index[1])


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of curve.csv: means over sequences, with the checkpoint's best head marked."""
    keys = ["arm", "seed", "step", "measure", "head", "best"]
    return rows.groupby(keys, sort=False)[["value", "null"]].mean().reset_index()


def compared(located: dict[str, dict[str, Located]], tasks: dict[str, Task]) -> Iterator[tuple]:
    """Yield the rows of findings.csv.

    onset, rise, final: of a measure, mean over seeds with its interval, and per seed without one. after: by how many
    steps a measure's onset follows that of the one named in `versus`. beyond: how much larger the first arm's rise or
    last value (`versus` = arm) is than another arm's.
    """
    first = next(iter(located))
    for arm, measures in located.items():
        for measure, one in measures.items():
            for finding in ("onset", "rise", "final"):
                values_S, values_R = getattr(one, f"{finding}_S"), getattr(one, f"{finding}_R")
                yield finding, arm, measure, "", "", values_S.mean(), *_bounds(values_R)
                yield from ((finding, arm, measure, "", s, value, np.nan, np.nan) for s, value in enumerate(values_S))
        onsets = [measure for measure in tasks[arm].onsets if measure in measures]
        for earlier, later in pairwise(onsets):
            a, b = measures[earlier], measures[later]
            change = (b.onset_S - a.onset_S).mean()
            yield "after", arm, later, earlier, "", change, *_bounds(b.onset_R - a.onset_R)
        if arm != first:
            for measure, other in measures.items():
                one = located[first].get(measure)
                if one is not None:
                    for finding in ("rise", "final"):
                        means = [getattr(x, f"{finding}_S").mean() for x in (one, other)]
                        bounds = _bounds(getattr(one, f"{finding}_R") - getattr(other, f"{finding}_R"))
                        yield f"{finding} beyond", first, measure, arm, "", means[0] - means[1], *bounds


def _bounds(values_R: np.ndarray) -> tuple[float, float]:
    low, high = np.nanpercentile(values_R, [2.5, 97.5])
    return float(low), float(high)


def metrics(findings: pd.DataFrame, recipe: Recipe) -> dict[str, float | int]:
    """Return the means over seeds that branches compare: last values, and onsets of the first arm.

    `<measure>` and `<measure>_onset` are the first arm's, `<arm>_<measure>` those of the others.
    """
    first = next(iter(recipe.arms))
    found: dict[str, float | int] = {"seeds": recipe.arm(first).seeds}
    for row in findings[findings.seed.astype(str) == ""].itertuples():
        if row.finding == "final":
            found[row.measure if row.arm == first else f"{row.arm}_{row.measure}"] = round(row.value, 5)
        elif row.finding == "onset" and row.arm == first:
            found[f"{row.measure}_onset"] = round(row.value, 1)
    return found


if __name__ == "__main__":
    run(main, *sys.argv[1:])
