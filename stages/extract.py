"""Run one task's prompts through one slot's model: `python -m stages.extract <slot> <task>`.

Writes attention masses per (prompt, layer, head, relation) and head outputs, of which a task keeps those at the last
prompt token per (prompt, layer, head), means over all prompts of a (split, role), or none. Rows go to disk as batches
finish.
"""

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

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
TOGETHER = 4096  # padded tokens of prompts with the same demonstrations that run at once, at most


def main(slot: str, task: str) -> None:
    """Measure the pair, or write empty tables that say why it makes no sense."""
    record = records.read(slot)
    asked = tasks.of(task)
    why = asked.refuses(record["kind"]) or _unmeasured(task)
    size = max(layer["head_size"] for layer in record["attention"])
    if why:
        return _write_empty(slot, task, size, why)
    settings = params.load()
    from stages.model.load import load  # torch is loaded only where something is measured
    from stages.model.tokens import longest

    loaded = load(slot)
    rows, encoded = _encoded(loaded, task, asked.roles)
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


class Named(NamedTuple):
    """What rows say of a prompt; its text and relations are in its tokens."""

    id: str
    split: str
    role: str
    group: str
    cluster: str


def _encoded(loaded, task: str, roles: Sequence[str]) -> tuple[list[Named], list[Tokens]]:
    """Return all prompts that the model can read whole, of some roles where these are given."""
    from stages.model.tokens import fitting

    rows, encoded = [], []
    for prompts in tables.PROMPTS.pieces(task):
        asked = prompts[prompts.role.isin(roles)] if roles else prompts
        kept, tokens = fitting(loaded, list(asked.itertuples()))
        rows += [Named(*(getattr(row, name) for name in Named._fields)) for row in kept]
        encoded += tokens
    return rows, encoded


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
    averaged, by_role = tasks.of(task).outputs == "mean", bool(tasks.of(task).mean_role)
    totals: dict[tuple[str, str], tuple[int, dict]] = {}  # (split, role) -> prompts, sums of their mean outputs
    for chosen in batches(encoded, batch_tokens, [len(tokens.target) for tokens in encoded]):
        tokens = [encoded[index] for index in chosen]
        relations = [_relations(attentional, prompt) for prompt in tokens]
        masses = measure(loaded, tokens, relations, outputs=averaged)
        measured = zip([rows[index] for index in chosen], masses.means, relations, masses.scored, strict=True)
        if pieces := [prompt for prompt in measured if prompt[1]]:
            add_relations(_relation_rows(loaded, pieces, offsets))
        for position, index in enumerate(chosen) if averaged else ():
            key = rows[index].split, rows[index].role if by_role else ""
            number, sums = totals.get(key, (0, {}))
            z = {layer: x_BC[position].double() for layer, x_BC in masses.outputs.items()}
            totals[key] = number + 1, {layer: sums[layer] + z[layer] for layer in z} if sums else z
        progress.update(sum(map(len, tokens)))
    progress.close()
    for (split, role), (number, sums) in sorted(totals.items()):
        of_all = Named(id="", split=split, role=role, group="", cluster="")
        add_outputs(_output_rows(loaded, of_all, None, {layer: total / number for layer, total in sums.items()}))


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
    for chosen in tqdm([part for whole in together for part in _parts(whole, encoded)], desc=task, unit="set"):
        tokens = [encoded[index] for index in chosen]
        with capturing(loaded) as outputs:
            batch = Batch(loaded, tokens, [prompt.target for prompt in tokens])
        for position, index in enumerate(chosen):
            last = int(tokens[position].target[0]) - 1 - batch.cut
            z = {layer: x[batch.sharing.tail[position], last] for layer, x in outputs.items()}
            add_outputs(_output_rows(loaded, rows[index], batch.intact[position].solved, z))


def _parts(chosen: list[int], encoded: list[Tokens]) -> Iterator[list[int]]:
    """Yield prompts of one set that run together: at most `TOGETHER` padded tokens."""
    step = max(1, TOGETHER // max(len(encoded[index]) for index in chosen))
    for start in range(0, len(chosen), step):
        yield chosen[start : start + step]


def _relation_rows(loaded, prompts: Sequence[tuple], offsets: dict[str, int | None]) -> pa.Table:
    """Return the rows of prompts, (row, means, relations, scored) each: one per prompt, relation and head."""
    layer, head = np.array(loaded.anatomy.heads).T
    size, schema = len(layer), tables.RELATIONS.schema
    each: dict[str, list] = {name: [] for name in schema.names}  # a value per relation, or (L H,) of them
    for row, means, relations, scored in prompts:
        for name, mean in means.items():
            at = offsets.get(name)
            same = {"prompt": row.id, "split": row.split, "cluster": row.cluster, "relation": name, "offset": at}
            same |= {"queries": mean.count, "recalled": None if scored is None else scored.recalled}
            same |= {"baseline": None if at is None else offset_accuracy(relations[name], at)}
            of_heads = {statistic: values[layer, head] for statistic, values in mean.values.items()}
            for column, values in each.items():
                values.append(same.get(column, of_heads.get(column)))
    number = len(each["relation"])
    columns = {name: pa.array(np.tile(of, number), pa.int16()) for name, of in (("layer", layer), ("head", head))}
    nothing, repeated = np.full(size, np.nan, np.float32), np.repeat(np.arange(number), size)
    for name, values in each.items():
        if any(isinstance(value, np.ndarray) for value in values):
            flat = np.concatenate([nothing if value is None else value for value in values])
            columns[name] = pa.array(flat, schema.field(name).type, from_pandas=True)
        elif name not in columns:
            columns[name] = pa.array(values, schema.field(name).type, from_pandas=True).take(pa.array(repeated))
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def _offset(family: Family, encoded) -> int | None:
    """Return the best fixed offset of a relation over all prompts; None where no prompt has it."""
    having = [tokens for tokens in encoded if family.relation(tokens) is not None]
    if having:
        log.info("%s: %d of %d prompts have the relation", family.name, len(having), len(encoded))
    return best_offset(family.relation(tokens) for tokens in having) if having else None


def _output_rows(loaded, row, solved: bool | None, z: dict) -> pa.Table:
    """Return the rows of one prompt, or of the mean over some: z per layer is (H K,)."""
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
