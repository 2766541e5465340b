"""What a prompt's scored tokens say about its task, intact or under an ablation: from log-probabilities to measures.

Which tokens are scored and what their scores say is the task's own (`stages.tasks.task.Task`).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages import tasks
from stages.families.family import Tokens
from stages.model.forward import batches
from stages.model.load import Loaded
from stages.model.score import Ablation, Batch, Scored
from stages.model.sharing import shared
from stages.model.tokens import encode

PADDED = 0.05  # of a batch that many ablations repeat: more padding than that cuts it, where
SOME = 64  # tokens are in it: a part of fewer is a small pass in the first layers, where few ablations have parted


@dataclass(frozen=True)
class Trial:
    """One prompt's token sequences (two for rivals) and the positions scored in each."""

    row: Any
    tokens: tuple[Tokens, ...]
    positions: tuple[np.ndarray, ...]


def trial(loaded: Loaded, task: str, row: Any) -> Trial:
    """Tokenise a row of the prompts table for scoring."""
    tokens = tuple(encode(loaded, row, target) for target in range(tasks.of(task).targets))
    return Trial(row, tokens, tasks.of(task).scored(tokens))


def outcome(task: str, tokens: Sequence[Tokens], scored: Sequence[Scored]) -> dict[str, float]:
    """Return measure -> value of one trial, from its sequences and their scores."""
    return tasks.of(task).measures(tokens, scored)


def speaks(task: str, asked: Trial) -> bool:
    """Tell whether the task says anything of a trial: of one without scored tokens some do (a tie), others do not."""
    answered = [Scored(np.zeros(len(at)), np.zeros(len(at), dtype=bool)) for at in asked.positions]
    return bool(outcome(task, asked.tokens, answered))


def outcomes(
    loaded: Loaded, task: str, rows: Sequence[Any], max_tokens: int, under: Sequence[Callable[[Batch], Ablation]] = ()
) -> Iterator[tuple[Any, list[dict[str, float]]]]:
    """Yield (row, measures intact and under each ablation) for every prompt, batch by batch.

    under: functions from a batch to an ablation of it, such as `lambda batch: Ablation(values, everywhere=True)`.
    """
    trials = [trial(loaded, task, row) for row in rows]
    for chosen in _together(trials, max_tokens, alike=bool(under)):
        sequences = [tokens for index in chosen for tokens in trials[index].tokens]
        positions = [at for index in chosen for at in trials[index].positions]
        batch = Batch(loaded, sequences, positions, runs=1 + len(under))
        passes = [batch.intact, *batch.ablations([ablation(batch) for ablation in under], max_tokens)]
        start = 0
        for index in chosen:
            end = start + len(trials[index].tokens)
            tokens = trials[index].tokens
            yield trials[index].row, [outcome(task, tokens, scored[start:end]) for scored in passes]
            start = end


def _together(trials: Sequence[Trial], max_tokens: int, alike: bool) -> Iterable[list[int]]:
    """Batch trials: those of one in-context cluster share a prefix, as many as fit; others go by length.

    alike: rivals go by how many tokens they share as well, so that their beginnings are of one length: what many
    ablations repeat is worth smaller batches.
    """
    clusters: dict[str, list[int]] = {}
    for index, asked in enumerate(trials):
        clusters.setdefault(asked.row.cluster, []).append(index)
    for group in (group for group in clusters.values() if len(group) > 1):
        longest = [max(len(tokens) for tokens in trials[index].tokens) for index in group]
        size = max(1, max_tokens // max(longest))  # as if nothing were shared: a cluster may be of any size
        yield from (group[start : start + size] for start in range(0, len(group), size))
    alone: dict[int, list[int]] = {}
    for group in clusters.values():
        if len(group) == 1:
            tokens = trials[group[0]].tokens
            rivals = alike and len(tokens) > 1
            alone.setdefault(shared([t.ids for t in tokens], len(tokens[0])) if rivals else 0, []).extend(group)
    for _, group in sorted(alone.items()):
        widest = [max(trials[index].tokens, key=len) for index in group]
        rows = [sum(map(len, trials[index].positions)) for index in group]
        per_trial = max(len(trials[index].tokens) for index in group)
        for batch in batches(widest, max_tokens // per_trial, rows):
            parts = _level(batch, [len(tokens) for tokens in widest]) if alike else [batch]
            yield from ([group[index] for index in part] for part in parts)


def _level(batch: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Cut a batch, shortest prompts first, where padding would be much of it: copies of each part fill passes."""
    part: list[int] = []
    for index in batch:
        real = sum(lengths[other] for other in part)
        if real >= SOME and len(part) * lengths[index] - real > PADDED * real:
            yield part
            part = []
        part.append(index)
    yield part
