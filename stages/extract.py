"""Run one task's prompts through one slot's model: `python -m stages.extract <slot> <task>`.

Writes attention masses per (prompt, layer, head, relation) and head outputs per (prompt, layer, head): what the task
keeps of them, z at the last prompt token, its mean over ordinary positions, or none. Rows go to disk as batches finish.
"""

import logging
import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
from tqdm import tqdm

from stages import families, tasks
from stages.families.family import Family, Relation, Tokens
from stages.families.offset import best_offset, offset_accuracy
from stages.store import params, records, tables
from stages.store.budget import announce
from stages.store.errors import run

log = logging.getLogger(__name__)


def main(slot: str, task: str) -> None:
    """Measure the pair, or write empty tables that say why it makes no sense."""
    record = records.read(slot)
    prompts = tables.PROMPTS.read(task)
    asked = tasks.of(task)
    why = asked.refuses(record["kind"]) or _unmeasured(task)
    size = max(layer["head_size"] for layer in record["attention"])
    if why:
        return _write_empty(slot, task, size, why)
    settings = params.load()
    from stages.model.load import load  # torch is loaded only where something is measured
    from stages.model.tokens import fitting, longest

    loaded = load(slot)
    if asked.roles:
        prompts = prompts[prompts.role.isin(asked.roles)]
    rows, encoded = fitting(loaded, list(prompts.itertuples()))
    if not rows:
        return _write_empty(
            slot, task, size, f"all prompts are longer than the {longest(loaded)} tokens the model reads"
        )
    log.info(announce(f"extract {task} on {slot}", len(rows), sum(map(len, encoded)), record["parameters"]))
    batch_tokens, outputs = settings.extract.batch_tokens, tables.outputs(size)
    if not asked.outputs:
        outputs = outputs.with_reason(f"no head outputs of {asked.label} are used")
    with (
        tables.RELATIONS.writer(slot, task) as add_relations,
        outputs.writer(slot, task) as add_outputs,
    ):
        if any(family.relation for family in families.of(task).values()):
            _measured(loaded, rows, encoded, task, batch_tokens, add_relations, add_outputs)
        if asked.outputs == "last":
            _in_context(loaded, rows, encoded, task, batch_tokens, add_relations, add_outputs)


def _unmeasured(task: str) -> str:
    return "" if families.of(task) else "no head family is measured on this task; other stages score it"


def _write_empty(slot: str, task: str, size: int, why: str) -> None:
    log.info("%s on %s: %s", task, slot, why)
    tables.RELATIONS.write_empty(slot, task, why=why)
    tables.outputs(size).write_empty(slot, task, why=why)


def _measured(
    loaded, rows, encoded, task: str, batch_tokens: int, add_relations: Callable, add_outputs: Callable
) -> None:
    """Measure all relations of the task's families, batch by batch."""
    from stages.model.forward import batches
    from stages.model.measure import measure

    attentional = [family for family in families.of(task).values() if family.relation]
    offsets = {family.name: _offset(family, encoded) for family in attentional if family.content}
    progress = tqdm(total=sum(map(len, encoded)), unit="token", desc=task)
    for chosen in batches(encoded, batch_tokens, [len(tokens.target) for tokens in encoded]):
        tokens = [encoded[index] for index in chosen]
        relations = [_relations(attentional, prompt) for prompt in tokens]
        masses = measure(loaded, tokens, relations)
        for position, index in enumerate(chosen):
            row, means, scored = rows[index], masses.means[position], masses.scored[position]
            if means:
                add_relations(_relation_rows(loaded, row, means, relations[position], offsets, scored))
            if tasks.of(task).outputs == "mean":
                ordinary = ~tokens[position].special
                z = {layer: x[position, : len(ordinary)][ordinary].mean(0) for layer, x in masses.outputs.items()}
                add_outputs(_output_rows(loaded, row, None, z))
        progress.update(sum(map(len, tokens)))
    progress.close()


def _relations(attentional: list[Family], tokens: Tokens) -> dict[str, Relation]:
    """Return the relations that a prompt has, by family."""
    relations = {family.name: family.relation(tokens) for family in attentional}
    return {name: relation for name, relation in relations.items() if relation is not None}


def _in_context(
    loaded, rows, encoded, task: str, batch_tokens: int, add_relations: Callable, add_outputs: Callable
) -> None:
    """Collect last-token head outputs; prompts with the same demonstrations share one run of them."""
    from stages.model.intervene import capturing
    from stages.model.score import Batch

    together = pd.Series(range(len(rows))).groupby([row.cluster for row in rows]).apply(list)
    for chosen in tqdm(together, desc=task, unit="set"):
        tokens = [encoded[index] for index in chosen]
        with capturing(loaded) as outputs:
            batch = Batch(loaded, tokens, [prompt.target for prompt in tokens])
        for position, index in enumerate(chosen):
            last = int(tokens[position].target[0]) - 1 - batch.cut
            z = {layer: x[batch.sharing.tail[position], last] for layer, x in outputs.items()}
            add_outputs(_output_rows(loaded, rows[index], batch.intact[position].solved, z))


def _relation_rows(loaded, row, means: dict, relations: dict[str, Relation], offsets: dict, scored) -> pa.Table:
    """Return the rows of one prompt: one per relation and head."""
    layer, head = np.array(loaded.anatomy.heads).T
    size = len(layer)
    statistics = {name for mean in means.values() for name in mean.values}
    offset = {name: offsets.get(name) for name in means}
    accuracy = {name: None if at is None else offset_accuracy(relations[name], at) for name, at in offset.items()}
    columns = {"prompt": row.id, "split": row.split, "cluster": row.cluster}
    columns |= {"recalled": None if scored is None else scored.recalled}
    columns = {name: [value] * size * len(means) for name, value in columns.items()}
    columns |= {"layer": np.tile(layer, len(means)), "head": np.tile(head, len(means))}
    each = {"relation": list(means), "queries": [mean.count for mean in means.values()]}
    each |= {"baseline": list(accuracy.values()), "offset": list(offset.values())}
    columns |= {name: [value for value in values for _ in range(size)] for name, values in each.items()}
    for name in statistics:
        columns[name] = np.concatenate([mean.values[name][layer, head] for mean in means.values()])
    missing = [None] * size * len(means)
    return pa.table(
        {
            field.name: pa.array(columns.get(field.name, missing), field.type, from_pandas=True)
            for field in tables.RELATIONS.schema
        },
        schema=tables.RELATIONS.schema,
    )


def _offset(family: Family, encoded) -> int | None:
    """Return the best fixed offset of a relation over all prompts; None where no prompt has it."""
    having = [tokens for tokens in encoded if family.relation(tokens) is not None]
    if having:
        log.info("%s: %d of %d prompts have the relation", family.name, len(having), len(encoded))
    return best_offset(family.relation(tokens) for tokens in having) if having else None


def _output_rows(loaded, row, solved: bool | None, z: dict) -> pa.Table:
    """Return the rows of one prompt: z per layer is (H K,)."""
    size = max(layer.head_size for layer in loaded.anatomy.layers.values())
    heads = loaded.anatomy.heads
    values = np.zeros((len(heads), size), dtype=np.float32)
    for index, (layer, head) in enumerate(heads):
        own = loaded.anatomy.layers[layer].head_size
        values[index, :own] = z[layer][head * own : (head + 1) * own].cpu().numpy()
    same = {"prompt": row.id, "split": row.split, "role": row.role, "group": row.group, "solved": solved}
    schema = tables.outputs(size).schema
    columns = {name: pa.array([value] * len(heads), schema.field(name).type) for name, value in same.items()}
    columns |= {
        "layer": pa.array([at[0] for at in heads], pa.int16()),
        "head": pa.array([at[1] for at in heads], pa.int16()),
    }
    columns["output"] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), size)
    return pa.table(columns, schema=schema)


if __name__ == "__main__":
    run(main, *sys.argv[1:])
