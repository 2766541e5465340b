"""Exact indirect effects of every head: `python -m stages.trace <slot>` writes data/indirect/<slot>.parquet.

For each function the model solves: in prompts with shuffled labels, replace one head's last-token output by its mean
over clean solved prompts, and see what the probability of the answer's first token that is not white space gains (a
model that writes ' 18' as a blank and digits knows the blank anyway). Only the last token changes, so every replacement
costs one token and those of the answer before that one (`LastTokens`).

Cross-fitted: a shuffled prompt of split b is scored with means over split a; one of split a with means over the other
half of split a's demonstration sets. So no prompt is scored with a mean that holds its own demonstrations, question or
answer, and no prompt of split b has a part in what is chosen by split a.

Functions that are left out, or traced on one split only, stand with the reason in the table's metadata, `skipped`.
"""

import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
from tqdm import tqdm

from stages import tasks
from stages.families.icl.function import FAMILY
from stages.store import params, paths, records, tables
from stages.store.errors import UserError, run

log = logging.getLogger(__name__)
TASK = FAMILY.task  # its prompts ask for the functions
TOGETHER = 5  # prompts whose edited rows the LM head reads at once: of some 70 heads each


def main(slot: str) -> None:
    """Trace all functions with 10-shot accuracy of at least `trace.solved_above`, or say why there is none."""
    settings = params.load()
    record = records.read(slot)
    if getattr(settings.tasks, TASK) is None:
        return _write_empty(slot, f"tasks.{TASK} is not in params")
    why = tables.SOLVED.reason(slot, TASK)
    if why:
        return _write_empty(slot, why)
    shown = tables.SOLVED.read(slot, TASK)
    accuracy = shown[shown.split == "a"].groupby("condition").solved.mean()
    solved = sorted(accuracy.index[accuracy >= settings.trace.solved_above])
    log.info(
        "accuracy with demonstrations, split a: %s",
        ", ".join(f"{name} {value:.2f}" for name, value in accuracy.items()),
    )
    if not solved:
        best = f"{accuracy.idxmax()} {accuracy.max():.2f}"
        return _write_empty(slot, f"no function reaches {settings.trace.solved_above:g} accuracy (best: {best})")
    from stages.engine.kept import Job, forget, keys, tables_of
    from stages.engine.means import solved_means
    from stages.model.cost import Work, announce
    from stages.model.load import load
    from stages.model.tokens import fitting

    loaded = load(slot, attention="sdpa")
    shuffled = tables.ASKED.read(TASK, only=[("role", "==", "shuffled"), ("condition", "in", solved)])
    shuffled = shuffled.assign(turn=shuffled.groupby(["condition", "cluster"]).cumcount()).sort_values(
        ["turn", "cluster"]
    )
    shuffled = shuffled.groupby("condition").head(settings.trace.prompts).sort_values("id")
    rows, encoded = fitting(loaded, list(shuffled.itertuples()))
    means = {of: mean for of, mean in solved_means(slot, TASK).items() if of[0] in solved}
    todo = [(row, tokens) for row, tokens in zip(rows, encoded, strict=True) if (row.condition, half(row)) in means]
    skipped = left_out(accuracy, settings.trace.solved_above, {(row.condition, row.split) for row, _ in todo})
    for function, why in skipped.items():
        log.info("%s: left out: %s", function, why)
    if not todo:
        return _write_empty(slot, "; ".join(f"{function}: {why}" for function, why in skipped.items()))
    work = Work(sum(len(tokens) for _, tokens in todo), len(todo)) + Work(1, 1) * (
        len(todo) * len(loaded.anatomy.heads)
    )
    log.info(announce(f"trace {slot}", len(todo), work, loaded))
    cut = [todo[at : at + TOGETHER] for at in range(0, len(todo), TOGETHER)]
    start, folder, largest = partial(load, slot, attention="sdpa"), paths.shards(slot, "trace"), []
    job = Job(start, partial(_traced, means=means), [tables.INDIRECT.schema], [paths.model(slot)])
    with (
        tables.INDIRECT.noting(skipped=skipped).writer(slot, asked=len(todo)) as add,
        tqdm(total=len(todo), desc="trace", unit="prompt") as progress,
    ):
        names, done = map(keys(record, means), cut), lambda at: progress.update(len(cut[at]))
        work = tables_of(job, cut, names, folder, loaded, done)
        for (table,) in work:
            largest.append(float(table["effect"].to_pandas().abs().max()))
            add(table)
        if largest and not max(largest):
            projection = next(iter(loaded.anatomy.layers.values())).projection
            raise UserError(
                f"{paths.PARAMS}: models.{slot}: no head's replaced output at the last token changed any probability: "
                f"what is written into {projection} and its like does not arrive; this model cannot be traced"
            )
    forget(folder)


def _traced(loaded, shard: Sequence[tuple], means: dict[tuple[str, str], dict]) -> list[pd.DataFrame]:
    """Return the indirect effects of some prompts, (row, tokens) each; means: see `engine.means.solved_means`."""
    return [indirect(loaded, shard, [means[row.condition, half(row)] for row, _ in shard])]


def left_out(accuracy: pd.Series, above: float, traced: set[tuple[str, str]]) -> dict[str, str]:
    """Return why functions are not traced, or on one split only, by function.

    accuracy: with demonstrations on split a, by function; above: what it must reach; traced: the (function, split)
    pairs of all prompts that are traced.
    """
    why = {}
    for function, share in accuracy.sort_index().items():
        lacks = [split for split in "ab" if (function, split) not in traced]
        if share < above:
            why[function] = f"accuracy with demonstrations is {share:.2f}, below {above:g}"
        elif lacks:
            why[function] = (
                f"no shuffled prompt of split {' or '.join(lacks)} can be traced: the model solves no clean prompt of "
                "other demonstration sets, or reads no shuffled prompt whole"
            )
    return why


def half(row) -> str:
    """Return which half of split a a prompt's means come from: the other one, or both ('') for a prompt of split b."""
    return "" if row.split == "b" else str(1 - int(tasks.of(TASK).half(row.cluster)))


def indirect(loaded, prompts: Sequence[tuple], means: Sequence[dict]) -> pd.DataFrame:
    """Return what each head's mean output at the last token adds to the probability of the answer's first real token.

    prompts: shuffled ones, (row of the prompts table, tokens) each; means: of each, mean output (K,) per head. Columns
    as in INDIRECT.
    """
    from stages.model.intervene import Edit
    from stages.model.score import LastTokens
    from stages.model.tokens import first_answering

    heads = loaded.anatomy.heads
    numbers = [first_answering(loaded, tokens) for _, tokens in prompts]
    last = LastTokens(loaded, [_up_to(tokens, at) for (_, tokens), at in zip(prompts, numbers, strict=True)])
    scored = last.edited([[Edit(), *(Edit(heads={head: of[head]}) for head in heads)] for of in means])
    tables_of_prompts = []
    for (row, _), at, of_prompt in zip(prompts, numbers, scored, strict=True):
        base, *patched = (float(np.exp(answer.logprob[at])) for answer in of_prompt)
        layers, of_layer = np.array(heads).T
        same = {"function": row.condition, "prompt": row.id, "split": row.split, "cluster": row.cluster, "base": base}
        effects = [value - base for value in patched]
        tables_of_prompts.append(pd.DataFrame(same | {"layer": layers, "head": of_layer, "effect": effects}))
    return pd.concat(tables_of_prompts, ignore_index=True)


def _up_to(tokens, number: int):
    """Cut the prompt after one of its target's tokens."""
    end = int(tokens.target[number]) + 1
    return replace(tokens, ids=tokens.ids[:end], special=tokens.special[:end], target=tokens.target[: number + 1])


def _write_empty(slot: str, why: str) -> None:
    log.info("%s: nothing to trace: %s", slot, why)
    tables.INDIRECT.write_empty(slot, why=why)


if __name__ == "__main__":
    run(main, *sys.argv[1:])
