"""What prompts that run together have in common, so that it runs once. Pure numpy: token ids in, a plan out.

A decoder's token depends on what stands before it alone. So prompts that begin alike share a run of their beginnings;
prompts that are equal up to the last token that predicts (rival answers of one token) are one row; and tokens that
follow equal texts are predicted once, as the LM head's rows are dear. Ablations that write the same up to a layer are
one copy of the prompts up to there.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

SHARED = 32  # tokens that a beginning must save for each pass, to be run apart: a pass of few costs as much as so many
PASS = 2048  # tokens of a pass, about, where runs are many
NEAR = 2  # by so many tokens may beginnings differ that run together: what is longer runs once for every prompt


@dataclass(frozen=True)
class Sharing:
    """What runs: `beginnings` of `cut` tokens, then `tails`, each a prompt (its number) that stands for all alike.

    beginning, tail: prompt -> its place among them; prompts without a scored position are in neither.
    lengths: tokens of each of `tails` that run, the beginning among them.
    read: positions predicted from each of `tails`; places: per prompt, which of all these predict its own (N,).
    pairs: (prompt, other, tokens) that are taken to be alike, wherever they are.
    """

    cut: int
    beginnings: list[int]
    tails: list[int]
    beginning: dict[int, int]
    tail: dict[int, int]
    lengths: list[int]
    read: list[np.ndarray]
    places: list[np.ndarray]
    pairs: list[tuple[int, int, int]]


def plan(
    ids: Sequence[np.ndarray], positions: Sequence[np.ndarray], share: bool, cached: bool, runs: int = 1
) -> Sharing:
    """Plan what runs of some prompts.

    ids: token ids of each prompt; positions: those scored in each; share: False for models in which a token depends on
    later ones, or where each prompt must run by itself; cached: beginnings can be continued; runs: how often all runs.
    """
    scored = [number for number, at in enumerate(positions) if len(at)]
    length = {number: int(positions[number].max()) if share else len(ids[number]) for number in scored}

    def key(number: int, tokens: int) -> Hashable:
        return ids[number][:tokens].tobytes() if share else (number, tokens)

    tails, tail = _representatives(scored, lambda number: key(number, length[number]))
    cut = 0
    if share and cached and len(tails) > 1:
        limit = min(int(positions[number].min()) for number in scored) - 1
        cut = beginning([ids[number][: length[number]] for number in tails], limit, runs)
    beginnings, place_of = _representatives(scored if cut else [], lambda number: key(number, cut))
    owners: dict[Hashable, tuple[int, int]] = {}  # what a position is predicted from -> row of `tails`, position
    for number in scored:
        for at in positions[number]:
            owners.setdefault(key(number, int(at)), (tail[number], int(at)))
    place = {known: number for number, known in enumerate(sorted(owners, key=lambda known: owners[known]))}
    read = [_whole(sorted(at for of, at in owners.values() if of == row)) for row in range(len(tails))]
    places = [_whole([place[key(number, int(at))] for at in asked]) for number, asked in enumerate(positions)]
    pairs = {(number, tails[tail[number]], length[number]) for number in scored}
    pairs |= {(number, beginnings[at], cut) for number, at in place_of.items()}
    pairs |= {
        (number, tails[owners[key(number, int(at))][0]], int(at)) for number in scored for at in positions[number]
    }
    pairs = sorted(pair for pair in pairs if pair[0] != pair[1])
    lengths = [length[number] for number in tails]
    return Sharing(cut, beginnings, tails, place_of, tail, lengths, read, places, pairs)


def steps(silenced: Iterable[Iterable[tuple[int, int]]], resumes: bool) -> list[tuple[int, int | None]]:
    """Return the stretches of layers between which paths of ablations may part: (layer, next one), the last to the end.

    silenced: heads (layer, head) of each, one head at least; resumes: passes may begin and end at any layer.
    """
    layers = sorted({layer for heads in silenced for layer, _ in heads})
    return list(pairwise([*(layers if resumes else layers[:1]), None]))


def _representatives(numbers: Sequence[int], key: Callable[[int], Hashable]) -> tuple[list[int], dict[int, int]]:
    """Return the first of all that have the same key, and for each number the place of its own among these."""
    first: dict[Hashable, int] = {}
    for number in numbers:
        first.setdefault(key(number), number)
    place = {known: at for at, known in enumerate(first)}
    return list(first.values()), {number: place[key(number)] for number in numbers}


def beginning(ids: Sequence[np.ndarray], limit: int, runs: int = 1) -> int:
    """Return how long beginnings that run apart should be, `limit` at most: as few tokens as possible are run.

    Beginnings of n tokens that are equal run once, U(n) of them, so that U(n) n + rows (longest - n) tokens run, and
    the least is where two prompts part. 0 where that saves fewer than `SHARED` for each pass that it adds.
    """
    rows = sorted(row.tolist() for row in ids)
    common = _whole([_common(one, other) for one, other in pairwise(rows)])
    saved = {n: len(rows) * n - (1 + int((common < n).sum())) * n for n in np.minimum(common, limit).tolist() if n > 0}
    best = max(saved, key=lambda n: (saved[n], n), default=0)
    passes = max(1, runs * sum(map(len, rows)) // PASS)
    return best if saved.get(best, 0) * runs >= SHARED * passes else 0


def shared(ids: Sequence[np.ndarray], limit: int) -> int:
    """Return how many tokens all prompts share at their start, `limit` at most."""
    return max(min([limit, *(_common(ids[0], row) for row in ids)]), 0)


def near(begins: Sequence[Hashable], ids: Sequence[np.ndarray], first: Sequence[int], limit: int) -> list[list[int]]:
    """Return which prompts run together: sets of one beginning each, of about one length, whole and in order.

    One set alone is a few dozen tokens and a few rows of the LM head: weights are read for them as for many more.
    begins: what each prompt begins with; first: where what is scored of it starts; limit: tokens that run, beginnings
    once, at most (one set at least).
    """
    sets: dict[Hashable, list[int]] = {}
    for number, begun in enumerate(begins):
        sets.setdefault(begun, []).append(number)
    sized = []
    for of_set in sets.values():
        begun = shared([ids[number] for number in of_set], min(first[number] for number in of_set) - 1)
        sized.append((begun, begun + sum(len(ids[number]) - begun for number in of_set), of_set))
    groups: list[list[int]] = []
    shortest = run = 0
    for begun, tokens, of_set in sorted(sized, key=lambda each: each[0]):
        if not groups or begun - shortest > NEAR or run + tokens > limit:
            groups.append([])
            shortest, run = begun, 0
        groups[-1] += of_set
        run += tokens
    return groups


def _whole(numbers: Sequence[int]) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    width = min(len(one), len(other))
    differs = np.flatnonzero(np.asarray(one[:width]) != np.asarray(other[:width]))
    return int(differs[0]) if len(differs) else width
