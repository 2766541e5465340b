"""What a prompt's scored tokens say about the task, intact or under an ablation: from log-probabilities to measures.

blimp:   margin = log P(good) - log P(bad) of whole sentences (nats), accuracy = 1, 1/2 for a tie, 0. Tokens that the
         two sentences share at their start have the same probability in both: scoring begins where they differ.
icl:     accuracy = every answer token is the argmax, teacher-forced: greedy decoding gives the answer.
needle:  recall = share of answer tokens that are the argmax, teacher-forced (Wu+ take the share of answer words found).
iteration: the same of the tape's tokens.
these:   logprob = mean over the answer's tokens (nats).
repeats, text: loss = mean negative log-probability (nats per token), of `COPIED` tokens of the last copy / of every
         `STRIDE`th token.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from stages.families.family import Tokens
from stages.model.forward import batches
from stages.model.load import Loaded
from stages.model.score import Batch, Scored
from stages.model.tokens import encode

STRIDE = 4  # LM-head rows cost twice what the body costs a token: text is scored at every 4th position
COPIED = 16  # tokens of the last copy that are scored, at most, evenly spaced: for the same reason


@dataclass(frozen=True)
class Trial:
    """One prompt's token sequences (two for a minimal pair) and the positions scored in each."""

    row: Any
    tokens: tuple[Tokens, ...]
    positions: tuple[np.ndarray, ...]


def trial(loaded: Loaded, task: str, row: Any) -> Trial:
    """Tokenise a row of the prompts table for scoring."""
    if task == "blimp":
        good, bad = (encode(loaded, row, target) for target in (0, 1))
        width = min(len(good), len(bad))
        differs = np.flatnonzero(good.ids[:width] != bad.ids[:width])
        first = int(differs[0]) if len(differs) else width
        both = tuple(tokens.target[tokens.target >= first] for tokens in (good, bad))
        return Trial(row, (good, bad), both)
    tokens = encode(loaded, row)
    if task == "text":
        return Trial(row, (tokens,), (np.arange(STRIDE, len(tokens), STRIDE),))
    if task == "repeats":
        first = int(np.flatnonzero(~tokens.special)[0])
        period = _period(tokens.ids[first:])
        return Trial(row, (tokens,), (np.arange(len(tokens) - period, len(tokens), -(-period // COPIED)),))
    return Trial(row, (tokens,), (tokens.target,))


def _period(ids: np.ndarray) -> int:
    """Return the length of the repeated sequence."""
    return next(p for p in range(1, len(ids) + 1) if len(ids) % p == 0 and (ids[p:] == ids[:-p]).all())


def outcome(task: str, scored: Sequence[Scored]) -> dict[str, float]:
    """Return measure -> value of one trial."""
    if task == "blimp":
        good, bad = (float(one.logprob.sum(dtype=np.float64)) for one in scored)
        return {"accuracy": 0.5 if good == bad else float(good > bad), "margin": good - bad}
    (one,) = scored
    if task in ("text", "repeats"):
        return {"loss": -float(one.logprob.mean(dtype=np.float64))}
    right = {"recall": one.recalled} if task in ("needle", "iteration") else {"accuracy": float(one.solved)}
    return right | {"logprob": float(one.logprob.mean())}


def outcomes(
    loaded: Loaded, task: str, rows: Sequence[Any], max_tokens: int, under: Sequence[Callable[[Batch], list[Scored]]]
) -> Iterator[tuple[Any, list[dict[str, float]]]]:
    """Yield (row, measures intact and under each intervention) for every prompt, batch by batch.

    under: functions from a batch to its scores, such as `lambda batch: batch.ablated(values, everywhere=True)`.
    """
    trials = [trial(loaded, task, row) for row in rows]
    for chosen in _together(trials, max_tokens):
        tokens = [one for index in chosen for one in trials[index].tokens]
        positions = [at for index in chosen for at in trials[index].positions]
        batch = Batch(loaded, tokens, positions)
        passes = [batch.intact, *[run(batch) for run in under]]
        start = 0
        for index in chosen:
            end = start + len(trials[index].tokens)
            yield trials[index].row, [outcome(task, scored[start:end]) for scored in passes]
            start = end


def _together(trials: Sequence[Trial], max_tokens: int) -> Iterable[list[int]]:
    """Batch trials: those of one in-context cluster share a prefix; others go by length."""
    clusters: dict[str, list[int]] = {}
    for index, one in enumerate(trials):
        clusters.setdefault(one.row.cluster, []).append(index)
    shared = [group for group in clusters.values() if len(group) > 1]
    alone = [group[0] for group in clusters.values() if len(group) == 1]
    yield from shared
    widest = [max(trials[index].tokens, key=len) for index in alone]
    rows = [sum(map(len, trials[index].positions)) for index in alone]
    per_trial = max((len(trials[index].tokens) for index in alone), default=1)
    for batch in batches(widest, max_tokens // per_trial, rows):
        yield [alone[index] for index in batch]
