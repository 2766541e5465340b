"""Interventions run on shards of prompts, and nothing else silences a head.

`run` is a pure function of (model, mean outputs, shard), which `effects` hands to the engine (`stages.engine.kept`).
Shards are cut by the order of prompts and a size, never by workers, and batches inside a shard by the shard alone.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from typing import Any

import pandas as pd
import torch

from stages.engine.kept import Job
from stages.model.intervene import Head
from stages.model.load import Loaded, load
from stages.model.outcome import outcomes, speaks, trial
from stages.model.score import Ablation, Batch
from stages.model.silence import Donors, Firsts, Writable, silencing
from stages.model.tokens import encode
from stages.store import paths, tables
from stages.store.errors import UserError


@dataclass(frozen=True)
class Intervention:
    """A row of the plan: what it is called, and which heads are silenced how."""

    id: str
    purpose: str
    family: str
    k: int
    kind: str
    draw: int
    heads: str

    @classmethod
    def of(cls, planned: Any) -> "Intervention":
        """Return the intervention of a row of the plan (a named tuple)."""
        return cls(*(getattr(planned, field.name) for field in fields(cls)))

    @property
    def silences(self) -> tuple[Head, ...]:
        """The heads as (layer, head): 'L5H1 L11H2' -> ((5, 1), (11, 2))."""
        found = (re.fullmatch(r"L(\d+)H(\d+)", name) for name in self.heads.split())
        return tuple((int(match[1]), int(match[2])) for match in found)


INTACT = Intervention("none", "none", "", 0, "", 0, "")


@dataclass(frozen=True, eq=False)  # rows of tables hold arrays, which have no one truth of being equal
class Shard:
    """Prompts of one task and the interventions that all of them are scored under, besides intact.

    prompts: rows of the prompts table; donors: per prompt, another one, whose outputs may be written (`resample`).
    """

    task: str
    prompts: tuple[Any, ...]
    donors: tuple[Any, ...]
    interventions: tuple[Intervention, ...]

    @property
    def passes(self) -> int:
        """How often its prompts are scored."""
        return len(self.prompts) * (1 + len(self.interventions))


def cut(task: str, prompts: Sequence[Any], asked: Mapping[str, Sequence[Intervention]], size: int) -> list[Shard]:
    """Cut prompts into shards of at most `size`: those that the same interventions are run on, in the order given.

    asked: prompt id -> its interventions. A prompt is in one shard, so it is scored intact once. Raises `UserError`
    where another prompt's outputs are to be written and no other cluster has one: a prompt is not its own donor.
    """
    donor = _donors(prompts)
    for row in prompts:
        if donor[row.id].cluster == row.cluster and any(i.kind == "resample" for i in asked.get(row.id, ())):
            raise UserError(
                f"{paths.PARAMS}: plan: kind 'resample' needs prompts of two clusters, and all of {task} that heads "
                f"are silenced on are of {row.cluster}: ask for more, or leave 'resample' out"
            )
    alike: dict[tuple[Intervention, ...], list[Any]] = {}
    for row in prompts:
        alike.setdefault(tuple(asked.get(row.id, ())), []).append(row)
    return [
        Shard(task, tuple(rows[at : at + size]), tuple(donor[row.id] for row in rows[at : at + size]), interventions)
        for interventions, rows in alike.items()
        for at in range(0, len(rows), size)
    ]


def names(loaded: Loaded, shards: Sequence[Shard]) -> set[tuple[str, str, str]]:
    """Return (intervention, task, prompt) of all that shards say something of (`outcome.speaks`).

    A prompt may be in two shards, and is scored intact in both.
    """
    return {
        (intervention.id, shard.task, row.id)
        for shard in shards
        for row in shard.prompts
        if speaks(shard.task, trial(loaded, shard.task, row))
        for intervention in (INTACT, *shard.interventions)
    }


def _donors(prompts: Sequence[Any]) -> dict[str, Any]:
    """Return each prompt's donor: the first prompt of the next cluster, so that prompts of a cluster share theirs."""
    first: dict[str, Any] = {}
    for row in prompts:
        first.setdefault(row.cluster, row)
    clusters = list(first)
    after = dict(zip(clusters, [*clusters[1:], *clusters[:1]], strict=True))
    return {row.id: first[after[row.cluster]] for row in prompts}


def run(loaded: Loaded, means: Mapping[Head, torch.Tensor], shard: Shard, max_tokens: int) -> pd.DataFrame:
    """Score the prompts of a shard intact and under each intervention: rows of the effects table.

    means: every head's mean output (K,); max_tokens: padded tokens that run together, at most (one prompt at least).
    """
    means = {head: mean_K.to(loaded.device) for head, mean_K in means.items()}
    donor = {row.id: other for row, other in zip(shard.prompts, shard.donors, strict=True)}
    encoded = {row.id: encode(loaded, row) for row in shard.donors}
    writable: dict[int, Writable] = {}  # of the batch that runs

    def given(batch: Batch) -> Writable:
        if id(batch) not in writable:
            writable.clear()
            others = [encoded[donor[tokens.prompt].id] for tokens in batch.prompts]
            writable[id(batch)] = Writable(means, Donors(loaded, batch.prompts, others), Firsts(loaded, batch.prompts))
        return writable[id(batch)]

    def under(intervention: Intervention) -> Callable[[Batch], Ablation]:
        return lambda batch: silencing(intervention.silences, intervention.kind, given(batch))

    rows = []
    passes = [under(intervention) for intervention in shard.interventions]
    for prompt, results in outcomes(loaded, shard.task, shard.prompts, max_tokens, passes):
        for intervention, measures in zip((INTACT, *shard.interventions), results, strict=True):
            for measure, value in measures.items():
                same = row(intervention, shard.task, prompt, measure, value)
                rows.append(same | {"intact": results[0][measure]})
    return pd.DataFrame(rows, columns=tables.EFFECTS.names)


def row(intervention: Intervention, task: str, prompt: Any, measure: str, value: float) -> dict[str, Any]:
    """Return a row of the effects table; `intact` is the value itself until it is replaced."""
    names = {"condition": prompt.condition, "category": prompt.category, "cluster": prompt.cluster, "prompt": prompt.id}
    what = {"intervention" if name == "id" else name: field for name, field in asdict(intervention).items()}
    return what | {"task": task} | names | {"measure": measure, "value": value, "intact": value}


def effects(slot: str, means: Mapping[Head, torch.Tensor], max_tokens: int) -> Job:
    """Return what runs a plan's shards on a slot's model: a table of effects from each."""
    work = partial(_scored, means=means, max_tokens=max_tokens)
    return Job(partial(load, slot, attention="sdpa", lays_out=True), work, [tables.EFFECTS.schema], [paths.model(slot)])


def _scored(loaded: Loaded, shard: Shard, means: Mapping[Head, torch.Tensor], max_tokens: int) -> list[pd.DataFrame]:
    return [run(loaded, means, shard, max_tokens)]
