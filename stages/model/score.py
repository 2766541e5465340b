"""Log-probabilities of target tokens under any number of interventions, sharing all work that they leave unchanged.

A `Batch` runs intact once; then `ablated` repeats only what an ablation changes: layers from the first ablated one up.
Prompts that begin alike (in-context prompts with the same demonstrations) share one run of their prefix.
`LastTokens` do the same for edits at prompts' last tokens: everything before them is run once and for all.

Legend: B batch row, T token, N scored row, V vocabulary, D residual width.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from transformers import Cache, DynamicCache

from stages.families.family import Tokens
from stages.model.forward import continuing, forward, frozen, prefill, remembering, resuming, side_by_side
from stages.model.intervene import Edit, Head, ablating, editing
from stages.model.load import Loaded

SHARED = 32  # tokens that prompts must share for their prefix to be run apart
ROWS = 96  # edited rows in one call, at most: they run from the first layer that any of them changes
CACHED = (
    4  # rows of logits reduced at once: a row of a large vocabulary is 1 MB, and the processor's cache is not large
)


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


class Batch:
    """Prompts that run together, with the token positions to score in each (predicted by the position before).

    Memory: the residuals of one batch at every block, layers x B x T x D floats.
    """

    def __init__(
        self, loaded: Loaded, prompts: Sequence[Tokens], positions: Sequence[np.ndarray], share: bool = True
    ) -> None:
        self.loaded, self.prompts, self.positions = loaded, prompts, positions
        self.ids = [tokens.ids for tokens in prompts]
        shared = _shared(self.ids, limit=min((int(p.min()) for p in positions if len(p)), default=1) - 1)
        decoder = loaded.kind == "decoder" and loaded.caches
        self.cut = shared if share and decoder and len(prompts) > 1 and shared >= SHARED else 0
        self.tails = [ids[self.cut :] for ids in self.ids]
        self.rows = [p - 1 - self.cut for p in positions]
        width = max(map(len, self.tails))
        special_BT = np.zeros((len(prompts), width), dtype=bool)
        for row, tokens in enumerate(prompts):
            special_BT[row, : len(self.tails[row])] = tokens.special[self.cut :]
        self.special_BT = torch.from_numpy(special_BT).to(loaded.model.device)
        self.special_1P = torch.from_numpy(prompts[0].special[None, : self.cut]).to(loaded.model.device)
        self.prefix_residuals: dict[int, torch.Tensor] = {}
        self.prefix = None
        if self.cut:
            with remembering(loaded) as self.prefix_residuals:
                self.prefix = frozen(prefill(loaded, self.ids[0][: self.cut]))
        with remembering(loaded) as self.residuals:
            self.intact = self._scored(forward(loaded, self.tails, self.rows, self.prefix))

    def ablated(self, values: Mapping[Head, torch.Tensor], everywhere: bool) -> list[Scored]:
        """Score under an ablation; `everywhere` includes special positions (zero ablation).

        values: what is written in each head's place, (K,) or (B, T, K). Where it differs between prompts in the prefix
        that they share, each runs its own.
        """
        if any(value.dim() > 1 and (value[:, : self.cut] != value[:1, : self.cut]).any() for value in values.values()):
            return self._apart.ablated(values, everywhere)
        layer = min(at for at, _ in values)
        before = {head: value if value.dim() == 1 else value[:1, : self.cut] for head, value in values.items()}
        values = {head: value if value.dim() == 1 else value[:, self.cut :] for head, value in values.items()}
        prefix = None
        if self.cut:
            with ExitStack() as stack:
                stack.enter_context(resuming(self.loaded, layer, self.prefix_residuals.get(layer)))
                stack.enter_context(ablating(self.loaded, before, None if everywhere else self.special_1P))
                prefix = frozen(prefill(self.loaded, self.ids[0][: self.cut]), self.prefix, layer)
        with (
            resuming(self.loaded, layer, self.residuals.get(layer)),
            ablating(self.loaded, values, None if everywhere else self.special_BT),
        ):
            return self._scored(forward(self.loaded, self.tails, self.rows, prefix))

    def again(self, layer: int) -> list[Scored]:
        """Score once more from a layer up, below which nothing differs: under whatever hooks the caller has set."""
        with resuming(self.loaded, layer, self.residuals.get(layer)):
            return self._scored(forward(self.loaded, self.tails, self.rows, self.prefix))

    @cached_property
    def _apart(self) -> "Batch":
        return Batch(self.loaded, self.prompts, self.positions, share=False)

    def _scored(self, logits_NV: torch.Tensor) -> list[Scored]:
        return score_rows(logits_NV, self.ids, self.positions)


@dataclass(frozen=True)
class _RunUp:
    """One prompt that ran up to its answer: a row of a batch."""

    number: int  # which of all prompts
    tokens: Tokens
    cache: Cache | None  # of what comes before the last prompt token; None where edited rows run whole
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
        self.prefixes = side_by_side([(run.cache, run.row) for run in runs], before) if loaded.caches else None
        self.residuals = {layer: torch.stack([run.residuals[layer] for run in runs]) for layer in runs[0].residuals}
        self.tails = [run.tokens.ids[start:-1] for run in runs]
        self.targets = torch.from_numpy(np.stack([run.tokens.ids[run.tokens.target] for run in runs]))

    def scored(self, edits: Sequence[Edit], which: Sequence[int], layer: int) -> list[Scored]:
        """Score edits, each of the prompt which[b], a place in `numbers`; layer: the first that runs."""
        which_B = torch.tensor(which)
        device_B = which_B.to(self.loaded.model.device)
        rows = [self.at + np.arange(self.targets.shape[1])] * len(edits)
        residual_BTD = self.residuals[layer][device_B] if layer in self.residuals else None
        cache = None if self.prefixes is None else continuing(self.prefixes, device_B)
        with resuming(self.loaded, layer, residual_BTD), editing(self.loaded, edits, self.at):
            logits_NV = forward(self.loaded, [self.tails[prompt] for prompt in which], rows, cache)
        reduced = _reduce(logits_NV, self.targets[which_B].flatten())
        return [Scored(*row) for row in zip(*(part.reshape(len(edits), -1) for part in reduced), strict=True)]


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
        for numbers in _beginning_alike(prompts):
            for run in _run_up(loaded, {number: prompts[number] for number in numbers}):
                same.setdefault(run.lengths, []).append(run)
        self.groups = [_SameLength(loaded, runs) for runs in same.values()]

    def edited(self, edits: Sequence[Sequence[Edit]]) -> list[list[Scored]]:
        """Score each prompt's answer under each of its edits, in order; edits of like first layers run together."""
        top = max(self.loaded.anatomy.layers)
        results: list[dict[int, Scored]] = [{} for _ in edits]
        for group in self.groups:
            jobs = sorted(
                (edit.first(top), place, index)
                for place, number in enumerate(group.numbers)
                for index, edit in enumerate(edits[number])
            )
            for start in range(0, len(jobs), ROWS):
                chunk = jobs[start : start + ROWS]
                asked = [edits[group.numbers[place]][index] for _, place, index in chunk]
                scores = group.scored(asked, [place for _, place, _ in chunk], chunk[0][0])
                for (_, place, index), scored in zip(chunk, scores, strict=True):
                    results[group.numbers[place]][index] = scored
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
            residuals[run.number] = {layer: x_TD[0] for layer, x_TD in run.residuals.items()}
    return {layer: torch.stack([of_prompt[layer] for of_prompt in residuals]) for layer in residuals[0]}


def _beginning_alike(prompts: Sequence[Tokens]) -> list[list[int]]:
    """Return which prompts run together: those that begin with the same `SHARED` tokens, and all short ones."""
    alike: dict[bytes, list[int]] = {}
    for number, tokens in enumerate(prompts):
        long = int(tokens.target[0]) > SHARED
        alike.setdefault(tokens.ids[:SHARED].tobytes() if long else b"", []).append(number)
    return list(alike.values())


def _run_up(loaded: Loaded, prompts: Mapping[int, Tokens], after: bool = False) -> list[_RunUp]:
    """Run prompts, by their numbers, up to the end of their answers: what all share once, the rest in one batch.

    after: remember residuals at the output of blocks, not at their input.
    """
    ids = [tokens.ids for tokens in prompts.values()]
    before = [int(tokens.target[0]) - 1 for tokens in prompts.values()]
    shared = _shared(ids, limit=min(before)) if len(ids) > 1 and loaded.caches else 0
    cut = shared if shared >= SHARED else 0
    cache = DynamicCache() if loaded.caches else None
    if cut:
        cache = prefill(loaded, ids[0][:cut])
        cache.batch_repeat_interleave(len(ids))
    with remembering(loaded, after) as residuals_BTD:
        forward(loaded, [row[cut:-1] for row in ids], cache=cache, headless=True)
    runs = []
    for row, (number, tokens) in enumerate(prompts.items()):
        start = before[row] - cut if loaded.caches or after else 0
        own = slice(start, len(tokens) - 1 - cut)
        runs.append(_RunUp(number, tokens, cache, row, {at: x[row, own] for at, x in residuals_BTD.items()}))
    return runs


def score_rows(logits_NV: torch.Tensor, ids: Sequence[np.ndarray], positions: Sequence[np.ndarray]) -> list[Scored]:
    """Split the logits of all prompts' rows into one `Scored` per prompt (no tokens: empty)."""
    targets_N = np.concatenate([row[at] for row, at in zip(ids, positions, strict=True)])
    reduced = _reduce(logits_NV, torch.from_numpy(targets_N))
    ends = np.cumsum([len(at) for at in positions])[:-1]
    return [Scored(*row) for row in zip(*(np.split(part, ends) for part in reduced), strict=True)]


def _reduce(logits_NV: torch.Tensor, targets_N: torch.Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the targets' log-probabilities and argmax hits, and the argmax, without a softmax over the whole table."""
    targets_N = targets_N.to(logits_NV.device)
    logprob, top, best = [], [], []
    for logits, targets in zip(logits_NV.split(CACHED), targets_N.split(CACHED), strict=True):
        chosen = logits.gather(1, targets[:, None])[:, 0]
        logprob.append((chosen - logits.logsumexp(1)).cpu())
        best.append(logits.argmax(1).cpu())
        top.append(best[-1] == targets.cpu())
    return tuple(torch.cat(part).numpy() for part in (logprob, top, best))


def _shared(ids: Sequence[np.ndarray], limit: int) -> int:
    """Return how many tokens all prompts share at their start, `limit` at most."""
    width = min([limit, *map(len, ids)])
    if width <= 0:
        return 0
    heads = np.stack([row[:width] for row in ids])
    differs = np.flatnonzero((heads != heads[0]).any(axis=0))
    return int(differs[0]) if len(differs) else width
