"""Log-probabilities of target tokens under any number of interventions, sharing all work that they leave unchanged.

A `Batch` runs intact once; then `ablations` repeat only what they change, layers from the first ablated one up, and
those that write the same up to a layer run up to there as one.
Prompts that begin alike (in-context prompts with the same demonstrations) share one run of their prefix.
`LastTokens` do the same for edits at prompts' last tokens: everything before them is run once and for all.

Legend: B batch row, T token, N scored row, V vocabulary, D residual width.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from transformers import Cache

from stages.families.family import Tokens
from stages.model import sharing
from stages.model.forward import (
    HEAD,
    Pass,
    Waiting,
    forward,
    grown,
    prefill,
    remembering,
    resuming,
    stopping,
    together,
)
from stages.model.intervene import Edit, Head, ablating_copies, editing
from stages.model.load import Loaded
from stages.model.prefixes import continuing, empty, ends_alone, frozen, side_by_side
from stages.model.unread import Unread

ROWS = 96  # edited rows in one call, at most: they run from the first layer that any of them changes
ENOUGH = 1024  # tokens beyond which a pass is no faster on a processor: what it makes leaves the caches
ALIKE = 16 * ENOUGH  # tokens of prompts that begin alike and run together, at most
KEPT = 16  # full passes whose residuals are kept while ablations part, twice: before a stretch of layers and after it
CACHED = 4  # rows of logits reduced at once: one of a large vocabulary is 1 MB, and the processor's cache is not large
LAUNCHED = 512  # and on a GPU, where every call costs

Written = tuple[Any, ...]  # what an ablation has written, () for nothing
State = tuple[torch.Tensor | None, torch.Tensor | None]  # residuals of beginnings and of tails, (B, T, D)


@dataclass(frozen=True)
class Scored:
    """One prompt's scored tokens, (N,) each: natural-log probability, whether it is the argmax, and the argmax."""

    logprob: np.ndarray
    top: np.ndarray
    best: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def recalled(self) -> float:
        """Share of scored tokens that are the argmax."""
        return float(self.top.mean())

    @property
    def solved(self) -> bool:
        """Every scored token is the argmax: what greedy decoding would have produced."""
        return bool(self.top.all())


@dataclass(frozen=True)
class Ablation:
    """What is written in heads' places, (K,) or (B, T, K) by head; everywhere: at special positions as well (zero).

    name: those of one name write the same in a head's place, in one batch; without one it is like no other.
    """

    values: Mapping[Head, torch.Tensor]
    everywhere: bool
    name: str = ""

    def written(self, layer: int | None = None) -> Written:
        """Return what is written below a layer (None: in all), the same for ablations that write the same."""
        heads = sorted(head for head in self.values if layer is None or head[0] < layer)
        return (self.name or f"{id(self)}", *heads) if heads else ()

    def between(self, layer: int, stop: int | None) -> "Ablation":
        """Return the part that writes from one layer up to another; None: to the end."""
        heads = [head for head in self.values if layer <= head[0] and (stop is None or head[0] < stop)]
        return Ablation({head: self.values[head] for head in heads}, self.everywhere)


class Batch:
    """Prompts that run together, with the token positions to score in each (predicted by the position before).

    What they have in common runs once (`stages.model.sharing`), unless share is False; a prompt without positions does
    not run. runs: how often the batch will run, intact and ablated.
    Memory: the residuals of beginnings and tails at every block, layers x tokens x D floats; with `ablations` those of
    4 x `KEPT` x max_tokens more tokens at most, at one block (of a batch at least).
    """

    def __init__(
        self,
        loaded: Loaded,
        prompts: Sequence[Tokens],
        positions: Sequence[np.ndarray],
        share: bool = True,
        runs: int = 1,
    ) -> None:
        self.loaded, self.prompts, self.positions = loaded, prompts, positions
        self.ids = [tokens.ids for tokens in prompts]
        self.sharing = self.plan(loaded, prompts, positions, share, runs)
        cut, tails = self.sharing.cut, self.sharing.tails
        self.cut = cut
        self.starts = [self.ids[number][:cut] for number in self.sharing.beginnings]
        self.tails = [self.ids[number][cut:end] for number, end in zip(tails, self.sharing.lengths, strict=True)]
        self.rows = [at - 1 - cut for at in self.sharing.read]
        self.prefix_residuals: dict[int, torch.Tensor] = {}
        self.residuals: dict[int, torch.Tensor] = {}
        self.prefixes = None
        if cut:
            with remembering(loaded) as self.prefix_residuals:
                self.prefixes = frozen(prefill(loaded, self.starts))
        if not tails:
            self.intact = [Scored(np.empty(0, np.float32), np.empty(0, bool)) for _ in prompts]
            return
        with remembering(loaded) as self.residuals:
            (self.intact,) = self._scored(forward(loaded, self.tails, self.rows, self.following(tails), whole=False))

    @staticmethod
    def plan(
        loaded: Loaded, prompts: Sequence[Tokens], positions: Sequence[np.ndarray], share: bool = True, runs: int = 1
    ) -> sharing.Sharing:
        """Return what a batch runs once, for those who look while it runs."""
        ids = [tokens.ids for tokens in prompts]
        return sharing.plan(ids, positions, share and loaded.kind == "decoder", loaded.caches, runs)

    def following(self, prompts: Sequence[int]) -> Cache | None:
        """Return the cache of rows that follow the beginnings of these prompts; None where nothing has run apart."""
        if self.prefixes is None:
            return None
        which_B = torch.tensor([self.sharing.beginning[number] for number in prompts])
        return continuing(self.prefixes, which_B.to(self.loaded.device))

    def ablated(self, values: Mapping[Head, torch.Tensor], everywhere: bool) -> list[Scored]:
        """Score under one ablation: see `Ablation`."""
        return self.ablations([Ablation(values, everywhere)])[0]

    def ablations(self, asked: Sequence[Ablation], max_tokens: int = ENOUGH) -> list[list[Scored]]:
        """Score under each ablation: as copies of the batch, those that have written the same so far as one copy.

        Weights are read once for all rows of a pass: few rows cost about as much as many, above all at the LM head.
        Where values (B, T, K) differ between prompts in what they share, each prompt runs its own.

        max_tokens: that run together, at most (one copy at least).
        """
        results = [self.intact] * len(asked)
        alike = [number for number, ablation in enumerate(asked) if self.tails and self._alike(ablation)]
        in_order = sorted(alike, key=lambda number: (asked[number].written(), number))
        size = max(1, KEPT * max_tokens // self._tokens) if self.tails else 1
        for at in range(0, len(in_order), size):
            chosen = in_order[at : at + size]
            scored = self._branching([asked[number] for number in chosen], max_tokens)
            for number, scores in zip(chosen, scored, strict=True):
                results[number] = scores
        if self.tails and (unlike := sorted(set(range(len(asked))) - set(alike))):
            apart = self._apart.ablations([asked[number] for number in unlike], max_tokens)
            for number, scores in zip(unlike, apart, strict=True):
                results[number] = scores
        return results

    @property
    def _tokens(self) -> int:
        """How many tokens a copy runs in one pass."""
        return max(len(self.starts) * self.cut, len(self.tails) * max(map(len, self.tails)))

    def _branching(self, asked: Sequence[Ablation], max_tokens: int) -> list[list[Scored]]:
        """Score under each ablation, from one layer that is written to to the next: paths part where writing differs.

        What runs is a tree: up to a layer, all that have written the same there are one copy. Where resuming is not
        proven for the model, each ablation runs whole.
        """
        steps = sharing.steps((ablation.values for ablation in asked), self.loaded.resumes)
        states: dict[Written, State] = {}
        for layer, stop in steps[:-1]:
            copies = {ablation.written(stop): ablation for ablation in asked}
            copies.pop((), None)
            after: dict[Written, State] = {}
            for chosen in self._chunks(list(copies.values()), max_tokens):
                ran = self._run(chosen, states, layer, stop)
                for place, ablation in enumerate(chosen):
                    after[ablation.written(stop)] = tuple(
                        None if x_BTD is None else x_BTD.chunk(len(chosen))[place] for x_BTD in ran
                    )
            states = after
        layer, _ = steps[-1]
        copies = {ablation.written(): ablation for ablation in asked}
        chunks = list(self._chunks(list(copies.values()), max_tokens, grown(HEAD, max_tokens)))
        passes = [
            Pass(
                partial(self._run, chosen, states, layer, None),
                len(chosen) * sum(map(len, self.rows)),
                partial(self._scored, copies=len(chosen)),
            )
            for chosen in chunks
        ]
        scored = together(self.loaded, passes, grown(HEAD, max_tokens))
        known = {
            ablation.written(): scores
            for chosen, of_chunk in zip(chunks, scored, strict=True)
            for ablation, scores in zip(chosen, of_chunk, strict=True)
        }
        return [known[ablation.written()] for ablation in asked]

    def _chunks(self, copies: Sequence[Ablation], max_tokens: int, head: int = 0) -> Iterator[Sequence[Ablation]]:
        """Yield those that run together; head: rows that the LM head reads at once, at most, where it reads."""
        size = min(max_tokens, grown(ENOUGH, max_tokens)) // self._tokens
        if head:
            size = min(size, head // max(1, sum(map(len, self.rows))))
        for at in range(0, len(copies), max(1, size)):
            yield copies[at : at + max(1, size)]

    def _run(
        self,
        asked: Sequence[Ablation],
        states: Mapping[Written, State],
        layer: int,
        stop: int | None,
        waiting: Waiting | None = None,
    ) -> Any:
        """Run copies of the batch, one per ablation, from one layer to another.

        states: what copies have come to at `layer`, intact ones apart. Returns what they come to at `stop`: of
        beginnings, None where there are none, and of tails; without a stop the logits (N, V) of all copies.
        """
        loaded, copies = self.loaded, len(asked)
        intact = self.prefix_residuals.get(layer), self.residuals.get(layer)
        begun = [states.get(ablation.written(layer), intact) for ablation in asked]
        starts_BTD, tails_BTD = (_stacked(parts) for parts in zip(*begun, strict=True))
        writes = [ablation.between(layer, stop) for ablation in asked]
        cache, came_to = None, {}
        if self.cut:
            edits = [self._edit(ablation, self.sharing.beginnings, self.starts, 0) for ablation in writes]
            with stopping(loaded, stop) as came_to, resuming(loaded, layer, starts_BTD), ablating_copies(loaded, edits):
                edited = prefill(loaded, self.starts * copies)
            cache = self._cache(edited, copies, layer, stop)
        edits = [self._edit(ablation, self.sharing.tails, self.tails, self.cut) for ablation in writes]
        ids = self.tails * copies
        with stopping(loaded, stop) as reached, resuming(loaded, layer, tails_BTD), ablating_copies(loaded, edits):
            if stop is None:
                return forward(loaded, ids, self.rows * copies, cache, waiting=waiting, whole=False)
            forward(loaded, ids, cache=cache, headless=True)
        return came_to.get(stop), reached[stop]

    def _cache(self, edited: Cache, copies: int, layer: int, stop: int | None) -> Cache:
        """Return what tails of copies continue: their own beginnings in the layers that run, intact ones elsewhere."""
        device = self.loaded.device
        which_B = torch.tensor([self.sharing.beginning[number] for number in self.sharing.tails] * copies)
        copy_B = torch.arange(copies).repeat_interleave(len(self.tails))
        intact = continuing(self.prefixes, which_B.to(device)).layers
        last = len(intact) if stop is None else stop
        ran = Cache(layers=edited.layers[:last])
        own = continuing(ran, (which_B + copy_B * len(self.starts)).to(device), layer).layers
        return Cache(layers=[*intact[:layer], *own, *intact[last:]])

    def _edit(self, ablation: Ablation, prompts: Sequence[int], texts: Sequence[np.ndarray], start: int):
        """Return what `ablating_copies` asks for, of some prompts' tokens from `start` on."""
        width = max(map(len, texts))
        special_BT = torch.zeros(len(texts), width, dtype=torch.bool)
        for row, (number, ids) in enumerate(zip(prompts, texts, strict=True)):
            special_BT[row, : len(ids)] = torch.from_numpy(self.prompts[number].special[start : start + len(ids)])
        values = {
            head: value if value.dim() == 1 else value[list(prompts), start : start + width]
            for head, value in ablation.values.items()
        }
        return values, None if ablation.everywhere else special_BT.to(self.loaded.device)

    def _alike(self, ablation: Ablation) -> bool:
        """Say whether what is written is the same in prompts wherever they share a run."""
        return all(
            torch.equal(value[number, :length], value[other, :length])
            for value in ablation.values.values()
            if value.dim() > 1
            for number, other, length in self.sharing.pairs
        )

    @cached_property
    def _apart(self) -> "Batch":
        return Batch(self.loaded, self.prompts, self.positions, share=False)

    def _scored(self, logits_NV: torch.Tensor | Unread, copies: int = 1) -> list[list[Scored]]:
        """Return the scores of every prompt in every copy, from the rows of all copies."""
        size = len(logits_NV) // copies
        rows_M = np.concatenate([copy * size + places for copy in range(copies) for places in self.sharing.places])
        targets = [ids[at] for ids, at in zip(self.ids, self.positions, strict=True)]
        reduced = _reduce(logits_NV, torch.from_numpy(np.concatenate(targets * copies)), torch.from_numpy(rows_M))
        ends = np.cumsum([len(at) for at in self.positions] * copies)[:-1]
        scored = [Scored(*row) for row in zip(*(np.split(part, ends) for part in reduced), strict=True)]
        return [scored[at : at + len(self.ids)] for at in range(0, len(scored), len(self.ids))]


def _stacked(parts: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    return parts[0] if parts[0] is None or len(parts) == 1 else torch.cat(parts)


@dataclass(frozen=True)
class _RunUp:
    """One prompt that ran up to its answer: a row of a batch."""

    number: int  # which of all prompts
    tokens: Tokens
    cache: Cache | None  # of what comes before the last prompt token, if anything; None where edited rows run whole
    row: int
    residuals: Mapping[int, torch.Tensor]  # layer -> (T, D), of the tokens that edited rows run

    @property
    def lengths(self) -> tuple[int, int]:
        """Tokens before the last one of the prompt, and tokens in all."""
        return int(self.tokens.target[0]) - 1, len(self.tokens)


class _SameLength:
    """Prompts of one length with answers of one length: rows of any of them run in one batch."""

    def __init__(self, loaded: Loaded, runs: Sequence[_RunUp]) -> None:
        self.loaded, self.numbers = loaded, [run.number for run in runs]
        before, _ = runs[0].lengths
        start = before if loaded.caches else 0
        self.at = before - start  # where the last prompt token stands in what runs
        self.prefixes = side_by_side([(run.cache, run.row) for run in runs], before) if start else None
        self.residuals = {layer: torch.stack([run.residuals[layer] for run in runs]) for layer in runs[0].residuals}
        self.tails = [run.tokens.ids[start:-1] for run in runs]
        self.targets = torch.from_numpy(np.stack([run.tokens.ids[run.tokens.target] for run in runs]))

    def edited(self, edits: Sequence[Edit], which: Sequence[int], layer: int) -> Pass[list[Scored]]:
        """Return the pass of edits, each of the prompt which[b], a place in `numbers`; layer: the first that runs."""
        rows = len(edits) * self.targets.shape[1]
        return Pass(partial(self._run, edits, which, layer), rows, partial(self._scored, which))

    def _run(
        self, edits: Sequence[Edit], which: Sequence[int], layer: int, waiting: Waiting
    ) -> torch.Tensor | Unread | None:
        which_B = torch.tensor(which)
        device_B = which_B.to(self.loaded.device)
        rows = [self.at + np.arange(self.targets.shape[1])] * len(edits)
        residual_BTD = self.residuals[layer][device_B] if layer in self.residuals else None
        cache = None if self.prefixes is None else continuing(self.prefixes, device_B)
        with resuming(self.loaded, layer, residual_BTD), editing(self.loaded, edits, self.at):
            tails = [self.tails[prompt] for prompt in which]
            return forward(self.loaded, tails, rows, cache, waiting=waiting, whole=False)

    def _scored(self, which: Sequence[int], logits_NV: torch.Tensor | Unread) -> list[Scored]:
        reduced = _reduce(logits_NV, self.targets[torch.tensor(which)].flatten())
        return [Scored(*row) for row in zip(*(part.reshape(len(which), -1) for part in reduced), strict=True)]


class LastTokens:
    """Prompts with their answers, run up to their last prompt tokens; edits there cost a token or few each.

    What prompts share at their start (demonstrations) runs once, their own ends in one batch. The intact prompt is the
    edit that changes nothing, `Edit()`: scored with the others, it costs no pass of its own. Where continuing a cache
    is not proven for the model (`Loaded.caches`), an edit costs the whole prompt.
    Memory: keys, values and, from the last prompt token on, residuals of all prompts.
    """

    def __init__(self, loaded: Loaded, prompts: Sequence[Tokens]) -> None:
        self.loaded = loaded
        same: dict[tuple[int, int], list[_RunUp]] = {}
        alike = _beginning_alike(prompts)
        if loaded.caches and ends_alone(empty(loaded)):  # a prompt in a longer text's cache would not be found there
            alike = [numbers for group in alike for numbers in _of_one_length(prompts, group)]
        for numbers in alike:
            for run in _run_up(loaded, {number: prompts[number] for number in numbers}):
                same.setdefault(run.lengths, []).append(run)
        self.groups = [_SameLength(loaded, runs) for runs in same.values()]

    def edited(self, edits: Sequence[Sequence[Edit]]) -> list[list[Scored]]:
        """Score each prompt's answer under each of its edits, in order; edits of like first layers run together."""
        top = max(self.loaded.anatomy.layers)
        passes, chunks = [], []
        for group in self.groups:
            jobs = sorted(
                (edit.first(top), place, index)
                for place, number in enumerate(group.numbers)
                for index, edit in enumerate(edits[number])
            )
            for start in range(0, len(jobs), ROWS):
                chunk = jobs[start : start + ROWS]
                asked = [edits[group.numbers[place]][index] for _, place, index in chunk]
                passes.append(group.edited(asked, [place for _, place, _ in chunk], chunk[0][0]))
                chunks.append([(group.numbers[place], index) for _, place, index in chunk])
        results: list[dict[int, Scored]] = [{} for _ in edits]
        for chunk, scores in zip(chunks, together(self.loaded, passes), strict=True):
            for (number, index), scored in zip(chunk, scores, strict=True):
                results[number][index] = scored
        return [[scores[index] for index in range(len(scores))] for scores in results]


class LastToken:
    """One prompt alone: see `LastTokens`."""

    def __init__(self, loaded: Loaded, tokens: Tokens) -> None:
        self.alone = LastTokens(loaded, [tokens])

    def edited(self, edits: Sequence[Edit]) -> list[Scored]:
        """Score the answer under each edit, in order."""
        return self.alone.edited([edits])[0]


def residuals_after(loaded: Loaded, prompts: Sequence[Tokens]) -> dict[int, torch.Tensor]:
    """Return the residual after every block at the last prompt tokens, (prompts, D) by layer."""
    residuals: list[dict[int, torch.Tensor]] = [{} for _ in prompts]
    for numbers in _beginning_alike(prompts):
        for run in _run_up(loaded, {number: prompts[number] for number in numbers}, after=True):
            residuals[run.number] = {layer: x_TD[0].clone() for layer, x_TD in run.residuals.items()}
    return {layer: torch.stack([of_prompt[layer] for of_prompt in residuals]) for layer in residuals[0]}


def _beginning_alike(prompts: Sequence[Tokens]) -> list[list[int]]:
    """Return which prompts run together: those that begin with the same `SHARED` tokens, and short ones.

    `ALIKE` tokens of them at most, padded. Those that begin like no other go by length, as many as make `ENOUGH`.
    """
    alike: dict[bytes, list[int]] = {}
    for number, tokens in enumerate(prompts):
        long = int(tokens.target[0]) > sharing.SHARED
        alike.setdefault(tokens.ids[: sharing.SHARED].tobytes() if long else b"", []).append(number)
    groups = []
    for group in alike.values():
        size = max(1, ALIKE // max(len(prompts[number]) for number in group))
        groups += [group[at : at + size] for at in range(0, len(group), size)] if len(group) > 1 else []
    alone = sorted((group[0] for group in alike.values() if len(group) == 1), key=lambda number: len(prompts[number]))
    together: list[int] = []
    for number in alone:
        if together and (len(together) + 1) * len(prompts[number]) > ENOUGH:
            groups.append(together)
            together = []
        together.append(number)
    return [*groups, together] if together else groups


def _of_one_length(prompts: Sequence[Tokens], numbers: Sequence[int]) -> list[list[int]]:
    """Return those of one group whose answers begin at one place, place by place."""
    starts = sorted({int(prompts[number].target[0]) for number in numbers})
    return [[number for number in numbers if prompts[number].target[0] == start] for start in starts]


def _run_up(loaded: Loaded, prompts: Mapping[int, Tokens], after: bool = False) -> list[_RunUp]:
    """Run prompts, by their numbers, up to the end of their answers: what all share once, the rest in one batch.

    after: remember residuals at the output of blocks, not at their input.
    """
    ids = [tokens.ids for tokens in prompts.values()]
    before = [int(tokens.target[0]) - 1 for tokens in prompts.values()]
    begin = sharing.shared(ids, limit=min(before)) if len(ids) > 1 and loaded.caches else 0
    cut = begin if begin >= sharing.SHARED else 0
    cache = empty(loaded) if loaded.caches else None
    if cut:
        cache = prefill(loaded, [ids[0][:cut]])
        cache.reorder_cache(torch.zeros(len(ids), dtype=torch.long))
    follows = cache
    if ends_alone(cache) and not after and before[0]:  # all of them have as many tokens before the prompt's last
        if cut < before[0]:  # else they are one prompt with several answers
            forward(loaded, [row[cut : before[0]] for row in ids], cache=cache, headless=True)
        cut, follows = before[0], frozen(cache)
    with remembering(loaded, after) as residuals_BTD:
        forward(loaded, [row[cut:-1] for row in ids], cache=follows, headless=True)
    runs = []
    for row, (number, tokens) in enumerate(prompts.items()):
        start = before[row] - cut if loaded.caches or after else 0
        own = slice(start, len(tokens) - 1 - cut)
        runs.append(_RunUp(number, tokens, cache, row, {at: x[row, own] for at, x in residuals_BTD.items()}))
    return runs


def score_rows(
    logits_NV: torch.Tensor | Unread, ids: Sequence[np.ndarray], positions: Sequence[np.ndarray]
) -> list[Scored]:
    """Split the logits of all prompts' rows into one `Scored` per prompt (no tokens: empty)."""
    targets_N = np.concatenate([row[at] for row, at in zip(ids, positions, strict=True)])
    reduced = _reduce(logits_NV, torch.from_numpy(targets_N))
    ends = np.cumsum([len(at) for at in positions])[:-1]
    return [Scored(*row) for row in zip(*(np.split(part, ends) for part in reduced), strict=True)]


def _reduce(
    logits_NV: torch.Tensor | Unread, targets_M: torch.Tensor, rows_M: torch.Tensor | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the targets' log-probabilities and argmax hits, and the argmax, without a softmax over the whole table.

    rows_M: the row that predicts each target; None where every row predicts one.
    """
    rows_M = torch.arange(len(targets_M)) if rows_M is None else rows_M
    if isinstance(logits_NV, Unread):
        total, best = logits_NV.reduced()
        logprob, best = logits_NV.logits(rows_M, targets_M) - total[rows_M], best[rows_M]
        return logprob.numpy(), (best == targets_M).numpy(), best.numpy()
    parts = logits_NV.split(CACHED if logits_NV.device.type == "cpu" else LAUNCHED)
    total = torch.cat([logits.logsumexp(1) for logits in parts])
    best = torch.cat([logits.argmax(1) for logits in parts]).cpu()[rows_M]
    place_M = rows_M.to(logits_NV.device)
    logprob = logits_NV[place_M, targets_M.to(logits_NV.device)] - total[place_M]
    return logprob.cpu().numpy(), (best == targets_M).numpy(), best.numpy()
