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
from stages.model.score import Batch, Scored
from stages.model.tokens import encode


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


def outcomes(
    loaded: Loaded, task: str, rows: Sequence[Any], max_tokens: int, under: Sequence[Callable[[Batch], list[Scored]]]
) -> Iterator[tuple[Any, list[dict[str, float]]]]:
    """Yield (row, measures intact and under each intervention) for every prompt, batch by batch.

    under: functions from a batch to its scores, such as `lambda batch: batch.ablated(values, everywhere=True)`.
    """
    trials = [trial(loaded, task, row) for row in rows]
    for chosen in _together(trials, max_tokens):
        sequences = [tokens for index in chosen for tokens in trials[index].tokens]
        positions = [at for index in chosen for at in trials[index].positions]
        batch = Batch(loaded, sequences, positions)
        passes = [batch.intact, *[run(batch) for run in under]]
        start = 0
        for index in chosen:
            end = start + len(trials[index].tokens)
            tokens = trials[index].tokens
            yield trials[index].row, [outcome(task, tokens, scored[start:end]) for scored in passes]
            start = end


def _together(trials: Sequence[Trial], max_tokens: int) -> Iterable[list[int]]:
    """Batch trials: those of one in-context cluster share a prefix; others go by length."""
    clusters: dict[str, list[int]] = {}
    for index, asked in enumerate(trials):
        clusters.setdefault(asked.row.cluster, []).append(index)
    shared = [group for group in clusters.values() if len(group) > 1]
    alone = [group[0] for group in clusters.values() if len(group) == 1]
    yield from shared
    widest = [max(trials[index].tokens, key=len) for index in alone]
    rows = [sum(map(len, trials[index].positions)) for index in alone]
    per_trial = max((len(trials[index].tokens) for index in alone), default=1)
    for batch in batches(widest, max_tokens // per_trial, rows):
        yield [alone[index] for index in batch]
