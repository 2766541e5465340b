"""Exact indirect effects of every head: `python -m stages.trace <slot>` writes data/indirect/<slot>.parquet.

For each function the model solves: in prompts with shuffled labels, replace one head's last-token output by its mean
over clean solved prompts (split a), and see what the right first token's probability gains. Only the last token
changes, so every replacement costs one token (`LastToken`).
"""

import json
import logging
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
from tqdm import tqdm

from stages.store import params, paths, tables
from stages.store.budget import announce
from stages.store.errors import run

log = logging.getLogger(__name__)


def main(slot: str) -> None:
    """Trace all functions with 10-shot accuracy of at least `trace.solved_above`, or say why there is none."""
    settings = params.load()
    record = json.loads(paths.model(slot).read_text(encoding="utf-8"))
    if settings.tasks.icl is None:
        return _write_empty(slot, "tasks.icl is not in params")
    why = tables.reason(paths.outputs(slot, "icl"))
    if why:
        return _write_empty(slot, why)
    outputs = tables.read(paths.outputs(slot, "icl"))
    accuracy = outputs[outputs.split == "a"].drop_duplicates("prompt").groupby("group").solved.mean()
    solved = sorted(accuracy.index[accuracy >= settings.trace.solved_above])
    log.info(
        "accuracy with demonstrations, split a: %s",
        ", ".join(f"{name} {value:.2f}" for name, value in accuracy.items()),
    )
    if not solved:
        best = f"{accuracy.idxmax()} {accuracy.max():.2f}"
        return _write_empty(slot, f"no function reaches {settings.trace.solved_above:g} accuracy (best: {best})")
    from stages.model.load import load
    from stages.model.tokens import fitting
    from stages.model.vectors import mean_outputs

    loaded = load(slot, attention="sdpa")
    prompts = tables.read(paths.prompts("icl"), tables.PROMPTS)
    shuffled = prompts[(prompts.role == "shuffled") & prompts.group.isin(solved)]
    shuffled = shuffled.assign(turn=shuffled.groupby(["group", "cluster"]).cumcount()).sort_values(["turn", "cluster"])
    shuffled = shuffled.groupby("group").head(settings.trace.prompts).sort_values("id")
    rows, encoded = fitting(loaded, list(shuffled.itertuples()))
    # a patched run is one token and a row of the LM head, which costs about three
    tokens = sum(map(len, encoded)) + len(rows) * len(loaded.anatomy.heads) * 4
    log.info(announce(f"trace {slot}", len(rows), tokens, record["parameters"]))
    good = outputs[(outputs.split == "a") & outputs.solved.astype(bool) & outputs.group.isin(solved)]
    means = {function: mean_outputs(mine, loaded) for function, mine in good.groupby("group")}
    with tables.writer(paths.indirect(slot), tables.INDIRECT) as add:
        for row, tokens in tqdm(list(zip(rows, encoded, strict=True)), desc="trace", unit="prompt"):
            add(indirect(loaded, row, tokens, means[row.group]))


def indirect(loaded, row, tokens, means) -> pd.DataFrame:
    """Return what each head's mean output at the last token adds to the probability of the right first token.

    row, tokens: a shuffled prompt of the prompts table; means: mean output (K,) per head. Columns as in INDIRECT.
    """
    from stages.model.intervene import Edit
    from stages.model.score import LastToken

    heads = loaded.anatomy.heads
    last = LastToken(loaded, _first_only(tokens))
    scored = last.edited([Edit(), *(Edit(heads={head: means[head]}) for head in heads)])
    base, *patched = (float(np.exp(one.logprob[0])) for one in scored)
    layers, numbers = np.array(heads).T
    same = {"function": row.group, "prompt": row.id, "split": row.split, "cluster": row.cluster, "base": base}
    return pd.DataFrame(same | {"layer": layers, "head": numbers, "effect": [value - base for value in patched]})


def _first_only(tokens):
    """Cut the prompt after its first answer token."""
    end = int(tokens.target[0]) + 1
    return replace(tokens, ids=tokens.ids[:end], special=tokens.special[:end], target=tokens.target[:1])


def _write_empty(slot: str, why: str) -> None:
    log.info("%s: nothing to trace: %s", slot, why)
    tables.write(paths.indirect(slot), tables.empty(tables.INDIRECT, why), tables.INDIRECT)


if __name__ == "__main__":
    run(main, *sys.argv[1:])
