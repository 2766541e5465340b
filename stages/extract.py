"""Run the prompts of all tasks through one slot's model: `python -m stages.extract <slot>`, of some with their names.

Writes, for each task, attention masses per (prompt, layer, head, relation) and means of head outputs: over ordinary
tokens of all prompts of a (split, role) or, where prompts show a function, at the last token of those that the model
answers right, by function and half of the demonstration sets. Of these also: which are answered right, and the mean
residual after every block. Rows of prompts go to disk as batches finish; of means there are sums alone.
"""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from stages import families, tasks
from stages.families.family import Family, Relation, Tokens
from stages.families.offset import Offsets, offset_accuracy
from stages.store import files, params, paths, records, tables
from stages.store.errors import run

if TYPE_CHECKING:
    import torch

    from stages.model.cost import Work
    from stages.model.load import Loaded

log = logging.getLogger(__name__)
ROOMS = ("engine", "extract.py", "families", "model", "store", "tasks")  # of stages/: the code that tables depend on
LOCKED = (Path("requirements.lock"),)
TOGETHER = 8192  # padded tokens of prompts with demonstrations that run at once, at most
RUN = 1024  # and tokens of them that run, demonstrations once, where these are not of one set
SUMS = pa.schema(  # over the prompts of a shard, of each layer's "output" of heads (H K,), or "residual" (D,)
    [(name, pa.string()) for name in ("split", "role", "condition", "half", "what")]
    + [("layer", pa.int16()), ("prompts", pa.int64()), ("total", pa.list_(pa.float64()))]
)
WRITTEN = (tables.RELATIONS, tables.OUTPUTS, tables.RESIDUALS, tables.SOLVED)  # of each task


class Named(NamedTuple):
    """What rows say of a prompt; its text and relations are in its tokens."""

    id: str
    split: str
    role: str
    condition: str
    cluster: str


class Group(NamedTuple):
    """Prompts that a mean is over; '' for all roles, conditions, halves of a split."""

    split: str
    role: str
    condition: str = ""
    half: str = ""


Best = tuple[int | None, int | None]  # a family's best fixed offset on all prompts, and on those of split a alone
Shard = tuple[str, list[tuple[Named, Tokens]]]  # what is done, `measure` or `answer`, and prompts that run together


def main(slot: str, *asked: str) -> None:
    """Measure the tasks that are named, all of params where none is: one process, one load of the model.

    A task that makes no sense for the model gets empty tables that say why. One that was measured before, of the same
    prompts by the same code, is put back as it was: another's prompts may have changed.
    """
    record, settings = records.read(slot), params.load()
    named = asked or [name for name, section in settings.tasks if section is not None]
    todo = []
    for task in named:
        if why := tasks.of(task).refuses(record["kind"]) or _unmeasured(task):
            _write_empty(slot, task, why)
        else:
            todo.append(task)
    if not todo:
        return
    from stages.engine import local  # torch is loaded only where something is measured
    from stages.engine.kept import forget, keep, keys, put_back
    from stages.model.load import load

    batch_tokens, locked = settings.extract.batch_tokens, [files.sha256(path) for path in LOCKED if path.is_file()]
    common, loaded = ("extract", record, batch_tokens, locked), None
    key, of_shards = keys(*common, local.sharing(), code=ROOMS), keys(*common, code=ROOMS)  # which add their threads
    for task in todo:
        of = partial(_key, key, task)
        written = [table.path(slot, task) for table in WRITTEN]
        asked_of, last = of(), paths.extracted(slot, task)
        if put_back(last, asked_of, written):
            log.info("%s on %s: as it was measured before, of the same prompts by the same code", task, slot)
            forget(paths.shards(slot, "extract", task))
            continue
        loaded = loaded or load(slot)
        _measure(loaded, slot, task, batch_tokens, _key(of_shards, task))
        if of() == asked_of:  # else somebody has changed the prompts meanwhile
            keep(last, asked_of, written)
        forget(paths.shards(slot, "extract", task))  # kept until the whole tables are


def _key(key: Callable[[list], str], task: str) -> str:
    """Return what a task's tables depend on, its prompts read as they are now."""
    tables.PROMPTS.complete(task)
    return key([task, files.sha256(tables.PROMPTS.path(task))])


def _measure(loaded: "Loaded", slot: str, task: str, batch_tokens: int, key: str) -> None:
    """Write the tables of a task; key: all that its shards depend on, but for threads."""
    from stages.engine.kept import Job, tables_of
    from stages.engine.pieces import Pieces
    from stages.model.cost import announce
    from stages.model.load import load
    from stages.model.tokens import longest

    piece = lru_cache(1)(partial(_encoded, loaded, task))  # a task of one piece is encoded once
    learned = _learned(piece, task, batch_tokens)
    if not learned.prompts:
        return _write_empty(slot, task, f"all prompts are longer than the {longest(loaded)} tokens the model reads")
    log.info(announce(f"extract {task} on {slot}", learned.prompts, learned.work, loaded))
    todo = Pieces(lambda number: _shards(*piece(number), task, batch_tokens), learned.sizes)
    schemas = [tables.RELATIONS.schema, tables.SOLVED.schema, SUMS]
    work = partial(_extracted, task=task, offsets=learned.offsets)
    job = Job(partial(load, slot), work, schemas, [paths.model(slot)])
    folder, sums = paths.shards(slot, "extract", task), _Sums()
    names = (f"{key}-{number}" for number in range(len(todo)))  # prompts, sizes and code say what each shard is
    kept, label = tasks.of(task).outputs, tasks.of(task).label
    solved, residuals, outputs = tables.SOLVED, tables.RESIDUALS, tables.OUTPUTS
    if not kept:
        outputs = outputs.with_reason(f"no head outputs of {label} are used")
    if kept != "last":
        solved, residuals = (of.with_reason(f"no function is looked for in {label}") for of in (solved, residuals))
    with (
        tables.RELATIONS.writer(slot, task, asked=learned.relations) as add_relations,
        solved.writer(slot, task, asked=learned.prompts if kept == "last" else 0) as add_solved,
        tqdm(total=sum(learned.costs), unit="token", desc=task) as progress,
    ):

        def done(number: int) -> None:
            progress.update(learned.costs[number])

        costs = learned.costs if len(learned.sizes) == 1 else ()  # several pieces are read one after the other
        for relations, answered, of_shard in tables_of(job, todo, names, folder, loaded, done, costs):
            for add, table in ((add_relations, relations), (add_solved, answered)):
                if len(table):
                    add(table)
            sums.add(of_shard)
    groups = sorted(learned.groups)
    with outputs.writer(slot, task, asked=len(groups)) as add:
        for group in groups:
            add(_output_rows(loaded, group, sums.means(group, "output")))
    averaged = groups if kept == "last" else []
    with residuals.writer(slot, task, asked=len(averaged) * len(loaded.anatomy.layers)) as add:
        for group in averaged:
            add(_residual_rows(loaded, group, sums.means(group, "residual")))


class _Sums:
    """Running sums over prompts, layer by layer, from those of shards."""

    def __init__(self) -> None:
        self.sums: dict[tuple[Group, str], dict[int, tuple[int, np.ndarray]]] = {}

    def add(self, sums: pa.Table) -> None:
        """Add the sums of a shard, rows of `SUMS`."""
        for row in sums.to_pylist():
            of_group = Group(*(row[name] for name in Group._fields)), row["what"]
            layers = self.sums.setdefault(of_group, {})
            number, total = layers.get(row["layer"], (0, 0.0))
            layers[row["layer"]] = number + row["prompts"], total + np.array(row["total"])

    def means(self, group: Group, what: str) -> dict[int, tuple[int, np.ndarray]]:
        """Return by layer of how many prompts there are sums, and their mean; {} where of none."""
        layers = self.sums.get((group, what), {})
        return {layer: (number, total / number) for layer, (number, total) in layers.items()}


@dataclass
class _Learned:
    """What only all prompts together say: how many they are, and the work; sizes: shards of each piece of them.

    costs: tokens of each shard. offsets: the best fixed offsets of every content family of the task.
    relations: of each head, how many of prompts there are to measure. groups: those that means are over.
    """

    prompts: int
    work: "Work"
    sizes: list[int]
    costs: list[int]
    offsets: dict[str, Best]
    relations: int = 0
    groups: set[Group] = field(default_factory=set)


def _learned(piece: Callable[[int], tuple[list[Named], list[Tokens]]], task: str, batch_tokens: int) -> _Learned:
    """Go through all prompts once, of which those of one piece are in memory. piece: its number -> its prompts."""
    from stages.model.cost import READING, Work, shared

    attentional = _attentional(task)
    offsets = {family.name: (Offsets(), Offsets()) for family in attentional if family.content}
    learned = _Learned(0, Work(), [], [], {})
    for number in range(tables.PROMPTS.number_of_pieces(task)):
        rows, encoded = piece(number)
        learned.prompts += len(rows)
        cut = _shards(rows, encoded, task, batch_tokens)
        learned.sizes.append(len(cut))
        for what, prompts in cut:
            length = sum(len(tokens) for _, tokens in prompts)
            targets = sum(len(tokens.target) for _, tokens in prompts)
            if what == "answer":  # two small passes: what they begin with, and the rest
                run = shared([tokens.ids for _, tokens in prompts])
                learned.work += Work(run + 2 * READING, targets + READING)
            else:
                learned.work += Work(length, targets)
            learned.costs.append(length)
        if tasks.of(task).outputs:
            learned.groups |= {_group(task, row) for row in rows}
        for row, tokens in zip(rows, encoded, strict=True):
            relations = _relations(attentional, tokens)
            learned.relations += len(relations)
            for name in offsets.keys() & relations.keys():
                for of_prompts in offsets[name][: 1 + (row.split == "a")]:
                    of_prompts.add(relations[name])
    for name, (of_all, of_a) in offsets.items():
        learned.offsets[name] = of_all.best, of_a.best
        if of_all.prompts:
            log.info("%s: %d of %d prompts have the relation", name, of_all.prompts, learned.prompts)
    return learned


def _encoded(loaded, task: str, number: int) -> tuple[list[Named], list[Tokens]]:
    """Return the prompts of a piece that the model can read whole, of the roles that the task measures."""
    from stages.model.tokens import fitting

    prompts, roles = tables.PROMPTS.piece(task, number=number), tasks.of(task).roles
    asked = prompts[prompts.role.isin(roles)] if roles else prompts
    kept, tokens = fitting(loaded, list(asked.itertuples()))
    return [Named(*(getattr(row, name) for name in Named._fields)) for row in kept], tokens


def _unmeasured(task: str) -> str:
    return "" if families.of(task) else "no head family is measured on this task; other stages score it"


def _write_empty(slot: str, task: str, why: str) -> None:
    log.info("%s on %s: %s", task, slot, why)
    for table in WRITTEN:
        table.write_empty(slot, task, why=why)


def _group(task: str, row: Named) -> Group:
    """Return with which other prompts the outputs of one are averaged."""
    of_task = tasks.of(task)
    if of_task.outputs == "last":
        return Group(row.split, row.role, row.condition, of_task.half(row.cluster))
    return Group(row.split, row.role if of_task.mean_role else "")


def _shards(rows: list[Named], encoded: list[Tokens], task: str, batch_tokens: int) -> list[Shard]:
    """Cut the prompts: batches whose relations are measured, then prompts that are answered after demonstrations.

    Those of one set run its demonstrations once; sets of about one length go together.
    """
    from stages.model.forward import batches, grown
    from stages.model.sharing import near

    chosen = []
    if _attentional(task):
        scored = [len(tokens.target) for tokens in encoded]
        chosen += [("measure", batch) for batch in batches(encoded, batch_tokens, scored)]
    if tasks.of(task).outputs == "last":
        first = [int(tokens.target[0]) for tokens in encoded]
        clusters, ids = [row.cluster for row in rows], [tokens.ids for tokens in encoded]
        limit, run = grown(TOGETHER, batch_tokens), grown(RUN, batch_tokens)
        for some in near(clusters, ids, first, run):
            chosen += [("answer", part) for part in _parts(some, encoded, limit)]
    return [(what, [(rows[index], encoded[index]) for index in part]) for what, part in chosen]


def _parts(chosen: list[int], encoded: list[Tokens], limit: int) -> Iterator[list[int]]:
    """Yield prompts of some sets that run together: at most so many padded tokens."""
    step = max(1, limit // max(len(encoded[index]) for index in chosen))
    for start in range(0, len(chosen), step):
        yield chosen[start : start + step]


def _extracted(loaded, shard: Shard, task: str, offsets: dict[str, Best]) -> tuple[pa.Table, list[dict], list[dict]]:
    """Return the relations of a shard, which of its prompts are answered right, and sums of outputs (`SUMS`)."""
    what, prompts = shard
    rows, tokens = zip(*prompts, strict=True)
    if what == "answer":
        return tables.RELATIONS.schema.empty_table(), *_answered(loaded, rows, tokens, task)
    relations, sums = _measured(loaded, rows, tokens, task, offsets)
    return relations, [], sums


def _measured(
    loaded, rows: Sequence[Named], tokens: Sequence[Tokens], task: str, offsets: dict[str, Best]
) -> tuple[pa.Table, list[dict]]:
    """Measure all relations of the task's families on prompts that run together; sums where the task keeps means."""
    from stages.model.measure import measure
    from stages.model.reduce import PEAKS

    attentional, averaged = _attentional(task), tasks.of(task).outputs == "mean"
    relations = [_relations(attentional, prompt) for prompt in tokens]
    peaks = any(family.statistic in PEAKS for family in attentional)
    masses = measure(loaded, tokens, relations, outputs=averaged, peaks=peaks)
    measured = zip(rows, masses.means, relations, masses.scored, strict=True)
    having = [prompt for prompt in measured if prompt[1]]
    table = _relation_rows(loaded, having, offsets) if having else tables.RELATIONS.schema.empty_table()
    return table, _summed([_group(task, row) for row in rows], {"output": masses.outputs}) if averaged else []


def _summed(groups: Sequence[Group | None], values: Mapping[str, Mapping[int, "torch.Tensor"]]) -> list[dict]:
    """Return the rows of `SUMS` of prompts that ran together.

    groups: of each prompt, None for one that is left out; values: by what they are and layer, (B, C).
    """
    from stages.model.reduce import brought

    places: dict[Group, list[int]] = {}
    for place, group in enumerate(groups):
        if group is not None:
            places.setdefault(group, []).append(place)
    rows = []
    for group, chosen in sorted(places.items()):
        same = group._asdict() | {"prompts": len(chosen)}
        for what, of_layers in values.items():
            totals = brought([x_BC[chosen].double().sum(0) for x_BC in of_layers.values()])
            rows += [
                same | {"what": what, "layer": layer, "total": total.numpy()}
                for layer, total in zip(of_layers, totals, strict=True)
            ]
    return rows


def _attentional(task: str) -> list[Family]:
    return [family for family in families.of(task).values() if family.relation]


def _relations(attentional: list[Family], tokens: Tokens) -> dict[str, Relation]:
    """Return the relations that a prompt has, by family."""
    relations = {family.name: family.relation(tokens) for family in attentional}
    return {name: relation for name, relation in relations.items() if relation is not None}


def _answered(loaded, rows: Sequence[Named], tokens: Sequence[Tokens], task: str) -> tuple[list[dict], list[dict]]:
    """Return the rows of SOLVED of prompts that run together, and sums over those that are answered right.

    Prompts with the same demonstrations share one run of them.
    """
    from stages.model.demonstrated import at_last

    last = at_last(loaded, tokens)
    right = [answer.solved for answer in last.answers]
    solved = [
        {"prompt": row.id, "split": row.split, "condition": row.condition, "cluster": row.cluster, "solved": good}
        for row, good in zip(rows, right, strict=True)
    ]
    groups = [_group(task, row) if good else None for row, good in zip(rows, right, strict=True)]
    return solved, _summed(groups, {"output": last.outputs, "residual": last.residuals})


def _relation_rows(loaded, prompts: Sequence[tuple], offsets: dict[str, Best]) -> pa.Table:
    """Return the rows of prompts, (row, means, relations, scored) each: one per prompt, relation and head."""
    layer, head = np.array(loaded.anatomy.heads).T
    size, schema = len(layer), tables.RELATIONS.schema
    each: dict[str, list] = {name: [] for name in schema.names}  # a value per relation, or (L H,) of them
    for row, means, relations, scored in prompts:
        for name, mean in means.items():
            at, at_a = offsets.get(name, (None, None))
            same = {"prompt": row.id, "split": row.split, "cluster": row.cluster, "relation": name, "best_offset": at}
            same |= {"queries": mean.count, "recalled": None if scored is None else scored.recalled}
            for column, offset in (("baseline", at), ("baseline_a", at_a)):
                same[column] = None if offset is None else offset_accuracy(relations[name], offset)
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


def _output_rows(loaded, group: Group, means: Mapping[int, tuple[int, np.ndarray]]) -> list[dict]:
    """Return the rows of OUTPUTS of a group; means: see `_Sums.means`, of each layer's heads (H K,)."""
    rows = []
    for layer, head in loaded.anatomy.heads:
        (number, mean), size = means.get(layer, (0, None)), loaded.anatomy.layers[layer].head_size
        output = None if mean is None else mean[head * size : (head + 1) * size]
        rows.append(group._asdict() | {"prompts": number, "layer": layer, "head": head, "output": output})
    return rows


def _residual_rows(loaded, group: Group, means: Mapping[int, tuple[int, np.ndarray]]) -> list[dict]:
    """Return the rows of RESIDUALS of a group; means: see `_Sums.means`, of the residual after each block (D,)."""
    of_layers = [(layer, *means.get(layer, (0, None))) for layer in loaded.anatomy.layers]
    return [
        group._asdict() | {"prompts": number, "layer": layer, "residual": mean} for layer, number, mean in of_layers
    ]


if __name__ == "__main__":
    run(main, *sys.argv[1:])
