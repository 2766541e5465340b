"""Log-probabilities of target tokens under any number of interventions, sharing all work that they leave unchanged.

A `Batch` runs intact once; then `ablated` repeats only what an ablation changes: layers from the first ablated one up.
Prompts that begin alike (in-context prompts with the same demonstrations) share one run of their prefix.
A `LastToken` does the same for edits at one prompt's last token: everything before it is run once and for all.

Legend: B batch, T token, N scored row, V vocabulary, D residual width.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from stages.families.family import Tokens
from stages.model.forward import forward, frozen, prefill, remembering, resuming
from stages.model.intervene import Edit, Head, ablating, editing
from stages.model.load import Loaded

SHARED = 32  # tokens that prompts must share for their prefix to be run apart
ROWS = 128  # edited rows in one call, at most
CACHED = (
    4  # rows of logits reduced at once: a row of a large vocabulary is 1 MB, and the processor's cache is not large
)


@dataclass(frozen=True)
class Scored:
    """One prompt's scored tokens: natural-log probabilities (N,) and whether each is the argmax (N,)."""

    logprob: np.ndarray
    top: np.ndarray

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

    @cached_property
    def _apart(self) -> "Batch":
        return Batch(self.loaded, self.prompts, self.positions, share=False)

    def _scored(self, logits_NV: torch.Tensor) -> list[Scored]:
        return score_rows(logits_NV, self.ids, self.positions)


class LastToken:
    """One prompt with its target, run up to its last prompt token; edits there cost a token or few each.

    Where continuing a cache is not proven for the model (`Loaded.caches`), they cost the whole prompt.

    The intact prompt is the edit that changes nothing, `Edit()`: scored with the others, it costs no pass of its own.
    """

    def __init__(self, loaded: Loaded, tokens: Tokens) -> None:
        self.loaded = loaded
        last = int(tokens.target[0]) - 1
        self.cache = frozen(prefill(loaded, tokens.ids[:last])) if loaded.caches and last else None
        self.at = last if self.cache is None else 0  # where the last prompt token stands in `tail`
        self.tail = tokens.ids[last - self.at : -1]
        self.targets = torch.from_numpy(tokens.ids[tokens.target])
        with remembering(loaded) as self.residuals:
            forward(loaded, [self.tail], cache=self.cache, headless=True)

    def edited(self, edits: Sequence[Edit]) -> list[Scored]:
        """Score the target under each edit, in order; edits are run together, from their first layer up."""
        top = max(self.loaded.anatomy.layers)
        order = sorted(range(len(edits)), key=lambda index: edits[index].first(top))
        results: list[Scored | None] = [None] * len(edits)
        for start in range(0, len(order), ROWS):
            chunk = order[start : start + ROWS]
            layer = edits[chunk[0]].first(top)
            residual = self.residuals.get(layer)
            if residual is not None:
                residual = residual.expand(len(chunk), -1, -1).contiguous()
            edited = editing(self.loaded, [edits[index] for index in chunk], self.at)
            with resuming(self.loaded, layer, residual), edited:
                for index, scored in zip(chunk, self._run(len(chunk)), strict=True):
                    results[index] = scored
        return results

    def _run(self, number: int) -> list[Scored]:
        rows = [self.at + np.arange(len(self.targets))] * number
        logits_NV = forward(self.loaded, [self.tail] * number, rows, self.cache)
        logprob, top = _reduce(logits_NV, self.targets.repeat(number))
        shape = (number, len(self.targets))
        return [Scored(*pair) for pair in zip(logprob.reshape(shape), top.reshape(shape), strict=True)]


def score_rows(logits_NV: torch.Tensor, ids: Sequence[np.ndarray], positions: Sequence[np.ndarray]) -> list[Scored]:
    """Split the logits of all prompts' rows into one `Scored` per prompt (no tokens: empty)."""
    targets_N = np.concatenate([row[at] for row, at in zip(ids, positions, strict=True)])
    logprob, top = _reduce(logits_NV, torch.from_numpy(targets_N))
    ends = np.cumsum([len(at) for at in positions])[:-1]
    return [Scored(*pair) for pair in zip(np.split(logprob, ends), np.split(top, ends), strict=True)]


def _reduce(logits_NV: torch.Tensor, targets_N: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Return log-probabilities and argmax hits of the targets without a softmax over the whole table."""
    targets_N = targets_N.to(logits_NV.device)
    logprob, top = [], []
    for logits, targets in zip(logits_NV.split(CACHED), targets_N.split(CACHED), strict=True):
        chosen = logits.gather(1, targets[:, None])[:, 0]
        logprob.append((chosen - logits.logsumexp(1)).cpu())
        top.append((logits.argmax(1) == targets).cpu())
    return torch.cat(logprob).numpy(), torch.cat(top).numpy()


def _shared(ids: Sequence[np.ndarray], limit: int) -> int:
    """Return how many tokens all prompts share at their start, `limit` at most."""
    width = min([limit, *map(len, ids)])
    if width <= 0:
        return 0
    heads = np.stack([row[:width] for row in ids])
    differs = np.flatnonzero((heads != heads[0]).any(axis=0))
    return int(differs[0]) if len(differs) else width
