"""Heads that see a few first tokens and a window, and nothing between: what a model loses with such caches, exactly.

A streaming head (Xiao+ 2023, arXiv 2309.17453; DuoAttention, Xiao+ ICLR 2025, arXiv 2410.10819) at query t sees key j
only where j < sinks or t - j < window (the window counts t itself). The cut is made in the scores of the model's own
eager attention, before its softmax, so that norms of queries and keys, rotary positions, soft-caps, biases, learned
sinks and windows of the layer's own are what they are; where attention is written into modules, the weights after
the softmax are divided anew among the keys that are left, which is the same.

Nothing changes before position sinks + window, nor below the first layer with a cut: `Streams` keeps keys and values
of the first and the residuals of the second, and runs only what is left, for many rows at once; sets of heads that
agree in their first layers run these layers once, and one that `every` has run is not run again. The LM head reads
the rows of several passes at once, where it may wait.

    positions as in the text    a sink is as far away as it is
    re-counted in the cache     a sink is as far away as in a cache of sinks + window entries (StreamingLLM): for the
                                sinks, the query is rotated to its place in the cache; distances inside the window are
                                the same either way. A layer with a window of its own as long as the cache sees them
                                there; as in the text it does not, once they are farther away than its window

Legend: B prompt, N row, T query token, S key token, H query head, D width, R scored row, V vocabulary.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from stages.families.family import Tokens
from stages.model.forward import HEAD, forward, prefill, remembering, resuming
from stages.model.intervene import Head
from stages.model.load import Loaded
from stages.model.observe import SOFTMAX, observing, softmaxes
from stages.model.paths import Enough, Unreadable, pieces
from stages.model.prefixes import continuing
from stages.model.score import Scored, score_rows
from stages.model.unread import Unread

TOKENS = 2048  # of the rows that run together, at most


@dataclass(frozen=True)
class Cut:
    """What a streaming head sees: the first `sinks` tokens and the last `window`, itself included.

    recount: sinks are as far away as in the cache, not as in the text.
    """

    sinks: int
    window: int
    recount: bool = False

    @property
    def size(self) -> int:
        """Entries of a full cache: nothing is lost before this position."""
        return self.sinks + self.window

    def seen(self, start: int, queries: int, keys: int, device: torch.device) -> torch.Tensor:
        """Return which keys are left (T, S) for queries at start, start + 1, ..."""
        at_T1, at_S = start + torch.arange(queries, device=device)[:, None], torch.arange(keys, device=device)
        return (at_S < self.sinks) | (at_T1 - at_S < self.window)


@dataclass(frozen=True)
class Outcome:
    """One row: its scored tokens, and the last hidden state at the positions that predict them, (R, D)."""

    scored: Scored
    hidden_RD: torch.Tensor


@dataclass(frozen=True)
class _Ran:
    """A pass of some prompts: the hidden rows (R, D) of each that are scored; scored: None where these wait."""

    numbers: list[int]
    hidden: list[torch.Tensor]
    scored: list[Scored] | None

    @property
    def rows(self) -> int:
        return sum(map(len, self.hidden))


class Streams:
    """Prompts that run together, intact once, then with any heads streaming.

    >>> streams = Streams(loaded, prompts, positions, Cut(4, 32))
    >>> alone = list(streams.under([0, 0], [{(5, 1)}, {(5, 2)}]))  # the first prompt twice, one head streaming in each
    """

    def __init__(self, loaded: Loaded, prompts: Sequence[Tokens], positions: Sequence[np.ndarray], cut: Cut) -> None:
        """Run them intact. positions: of the tokens that are scored, one at least in each prompt; cut: the smallest."""
        self.loaded, self.cut, self.positions = loaded, cut, positions
        ids = [tokens.ids[: int(at.max())] for tokens, at in zip(prompts, positions, strict=True)]
        self.whole = [tokens.ids for tokens in prompts]
        keeps = loaded.kind == "decoder" and loaded.caches and loaded.anatomy.observed
        first = min(int(at.min()) for at in positions) - 1
        self.start = max(0, min(cut.size - 1, first)) if keeps else 0
        self.tails = [row[self.start :] for row in ids]
        self.rows = [at - 1 - self.start for at in positions]
        self.prefix = None
        if self.start:
            self.prefix = prefill(loaded, [row[: self.start] for row in ids])
        everything = list(range(len(prompts)))
        with torch.no_grad(), remembering(loaded) as self.residuals:
            (self.intact,) = self._read([self._pass(everything)])
        self.known: dict[tuple[frozenset[Head], Cut], list[Scored]] = {}  # of `every`: what all prompts gave

    @torch.no_grad()
    def under(
        self, which: Sequence[int], heads: Sequence[Collection[Head]], cut: Cut | None = None
    ) -> Iterator[Outcome]:
        """Yield what each row gives: prompt which[n] with heads[n] streaming; cut: of this size, if not the first.

        Rows that follow each other and begin to differ in the same layer run together, from that layer. Rows run as
        they are asked for: no more hidden rows are kept than the LM head reads at once.
        """
        for of_pass in self._read(self._rows_under(which, heads, cut or self.cut)):
            yield from of_pass

    def _rows_under(self, which: Sequence[int], heads: Sequence[Collection[Head]], cut: Cut) -> Iterator[_Ran]:
        for numbers, cuts in self._alike(which, heads):
            if not any(cuts):
                intact = [self.intact[number] for number in numbers]
                yield _Ran(numbers, [of.hidden_RD for of in intact], [of.scored for of in intact])
                continue
            layer = min(at for at, _ in cuts[0])
            residual_NTD = self.residuals.get(layer)
            residual_NTD = None if residual_NTD is None else residual_NTD[numbers]
            with streaming(self.loaded, cuts, cut, self.start), resuming(self.loaded, layer, residual_NTD):
                ran = self._pass(numbers)
            yield ran

    @torch.no_grad()
    def every(self, sets: Sequence[Collection[Head]], cut: Cut | None = None) -> list[list[Scored]]:
        """Return every prompt's scores with each set of heads streaming; cut: of this size, if not the first.

        Sets run in an order in which neighbours agree in as many first layers as can be: those are not run again.
        No more hidden rows are kept than the LM head reads at once.
        """
        layers, cut = sorted(self.loaded.anatomy.layers), cut or self.cut
        asked = [frozenset(heads) for heads in sets]
        order = sorted(
            (heads for heads in set(asked) - {frozenset()} if (heads, cut) not in self.known),
            key=lambda heads: [sorted(h for of, h in heads if of == n) for n in layers],
        )
        scored: dict[frozenset[Head], list[Scored]] = {heads: [] for heads in order}
        for piece in pieces(len(self.tails), max(map(len, self.tails)), TOKENS):
            passes = self._passes(order, list(range(len(self.tails))[piece]), cut)
            for heads, of_pass in zip(order, self._read(passes), strict=True):
                scored[heads] += [outcome.scored for outcome in of_pass]
        self.known |= {(heads, cut): of_heads for heads, of_heads in scored.items()}
        intact = [outcome.scored for outcome in self.intact]
        return [self.known[heads, cut] if heads else intact for heads in asked]

    def _passes(self, order: Sequence[frozenset[Head]], numbers: list[int], cut: Cut) -> Iterator[_Ran]:
        """Yield a pass of some prompts per set of heads, from the first layer in which it is not the one before."""
        residuals = {layer: residual_NTD[numbers] for layer, residual_NTD in self.residuals.items()}
        before: frozenset[Head] = frozenset()
        for heads in order:
            layer = min(of for of, _ in heads ^ before)
            with (
                streaming(self.loaded, [heads] * len(numbers), cut, self.start),
                resuming(self.loaded, layer, residuals.get(layer)),
                remembering(self.loaded) as fresh,
            ):
                ran = self._pass(numbers)
            residuals |= {above: fresh[above] for above in fresh if above > layer}
            before = heads
            yield ran

    def _alike(
        self, which: Sequence[int], heads: Sequence[Collection[Head]]
    ) -> Iterator[tuple[list[int], list[Collection[Head]]]]:
        """Yield the prompts and heads of rows that run together: of one first layer, `TOKENS` at most."""
        for _, rows in groupby(range(len(which)), lambda row: min((at for at, _ in heads[row]), default=None)):
            of_layer = list(rows)
            for piece in pieces(len(of_layer), max(map(len, self.tails)), TOKENS):
                yield [which[row] for row in of_layer[piece]], [heads[row] for row in of_layer[piece]]

    def _pass(self, numbers: list[int]) -> _Ran:
        cache, hidden, given = None, [], {}
        width = max(map(len, self.tails))  # residuals of all prompts are this wide
        tails = [np.pad(self.tails[number], (0, width - len(self.tails[number]))) for number in numbers]
        rows = [self.rows[number] for number in numbers]
        if self.prefix is not None:
            cache = continuing(self.prefix, torch.tensor(numbers, device=self.loaded.device))

        def keep(module: torch.nn.Module, args: tuple) -> None:
            self.loaded.chunks.keep(given, "hidden", args[0])
            if self.loaded.chunks.last:
                hidden.extend(given["hidden"][row, at] for row, at in enumerate(rows))

        handle = self.loaded.model.get_output_embeddings().register_forward_pre_hook(keep)
        try:
            logits_RV = forward(self.loaded, tails, rows, cache, whole=False)
        finally:
            handle.remove()
        waits = isinstance(logits_RV, Unread)
        return _Ran(numbers, hidden, None if waits else self._scored(logits_RV, numbers))  # logits are large: not kept

    def _scored(self, logits_RV: torch.Tensor | Unread, numbers: list[int]) -> list[Scored]:
        whole, positions = ([of[number] for number in numbers] for of in (self.whole, self.positions))
        return score_rows(logits_RV, whole, positions)

    def _read(self, passes: Iterable[_Ran]) -> Iterator[list[Outcome]]:
        """Yield what each pass gives; the LM head reads waiting rows of several at once, `HEAD` or those of one."""
        group: list[_Ran] = []
        for ran in passes:
            if group and sum(other.rows for other in group if other.scored is None) + ran.rows > HEAD:
                yield from self._at_once(group)
                group = []
            group.append(ran)
            if all(other.scored is not None for other in group):  # nothing waits
                yield from self._at_once(group)
                group = []
        yield from self._at_once(group)

    def _at_once(self, group: Sequence[_Ran]) -> Iterator[list[Outcome]]:
        waiting = [ran for ran in group if ran.scored is None]
        scored: Iterator[Scored] = iter(())
        if waiting:
            rows_RD = torch.cat([hidden_RD for ran in waiting for hidden_RD in ran.hidden])
            logits_RV = Unread(rows_RD, self.loaded.model.get_output_embeddings())
            scored = iter(self._scored(logits_RV, [number for ran in waiting for number in ran.numbers]))
        for ran in group:
            of_pass = [next(scored) for _ in ran.numbers] if ran.scored is None else ran.scored
            yield [Outcome(*pair) for pair in zip(of_pass, ran.hidden, strict=True)]


@contextmanager
def streaming(loaded: Loaded, heads: Sequence[Collection[Head]], cut: Cut, start: int = 0) -> Iterator[None]:
    """Let heads[n] of row n stream while this context lasts; the first query of what runs is at position `start`.

    Raises `Unreadable` where attention has no one softmax over keys, or positions cannot be re-counted.
    """
    layers = loaded.anatomy.layers
    of_layer = {layer: _table(heads, layer, layers[layer].heads) for layer in {at for row in heads for at, _ in row}}
    numbers = {loaded.model.get_submodule(layers[layer].attention): layer for layer in of_layer}
    if cut.recount and not loaded.anatomy.observed:
        raise Unreadable("its attention is written into its modules: positions cannot be re-counted")

    def hidden(layer: int, queries: int, keys: int, rows: int, device: torch.device) -> torch.Tensor:
        """Which (query, key) pairs each row and head loses, (N, H, T, S)."""
        lost_TS = ~cut.seen(start + loaded.chunks.start, queries, keys, device)
        return of_layer[layer].to(device).expand(rows, -1)[:, :, None, None] & lost_TS

    def near(module: torch.nn.Module, own: torch.Tensor) -> torch.Tensor:
        """Return which keys (T, S) a layer's own window shows by distances in the cache; sinks alone are asked for."""
        at_T1 = (start + torch.arange(own.shape[2], device=own.device)).clamp(max=cut.size - 1)[:, None]
        return at_T1 - torch.arange(own.shape[3], device=own.device) < layers[numbers[module]].window

    calls: dict[torch.nn.Module, tuple[tuple, dict]] = {}
    rotated: list[torch.Tensor] = []  # filled by an attention module that runs again for its queries alone
    asking: list[torch.nn.Module] = []

    def observer(eager, module, query, key, value, mask, **kwargs):
        if asking:
            rotated.append(query)
            raise Enough
        if module not in numbers:
            return eager(module, query, key, value, mask, **kwargs)
        lost_NHTS = hidden(numbers[module], query.shape[2], key.shape[2], len(query), query.device)
        near_NHTS = None
        if cut.recount:
            again = _recounted(module, *calls[module], cut, start, asking, rotated)
            windowed = layers[numbers[module]].window is not None
            near_NHTS = _scores(eager, module, again, key, value, None if windowed else mask, kwargs)

        def edit(scores_NHTS: torch.Tensor) -> torch.Tensor:
            span = lost_NHTS.shape[3]  # a learned sink may be one more column
            own, rest = scores_NHTS[..., :span], scores_NHTS[..., span:]
            if near_NHTS is not None:
                moved_NH11 = of_layer[numbers[module]].to(own.device).expand(len(own), -1)[:, :, None, None]
                first_S = torch.arange(span, device=own.device) < cut.sinks
                visible = near(module, own) if windowed else own > torch.finfo(own.dtype).min / 2
                own = torch.where(moved_NH11 & first_S & visible, near_NHTS[..., :span], own)
            own = own.masked_fill(lost_NHTS, torch.finfo(own.dtype).min)
            return torch.cat([own, rest], dim=-1) if rest.shape[3] else own

        with _Rescored(edit) as once:
            output = eager(module, query, key, value, mask, **kwargs)
        if once.times != 1:
            raise Unreadable("its attention has no one softmax over keys")
        return output

    def softmaxed(module: torch.nn.Module, weights: torch.Tensor) -> torch.Tensor:
        count = layers[numbers[module]].heads
        weights_NHTS = weights if weights.dim() == 4 else weights.unflatten(0, (-1, count))
        lost_NHTS = hidden(numbers[module], *weights_NHTS.shape[2:], len(weights_NHTS), weights.device)
        left_NHTS = weights_NHTS.masked_fill(lost_NHTS, 0)
        left_NHTS = left_NHTS * (weights_NHTS.sum(-1, keepdim=True) / left_NHTS.sum(-1, keepdim=True))
        return torch.where(lost_NHTS.any(-1, keepdim=True), left_NHTS, weights_NHTS).reshape(weights.shape)

    with ExitStack() as stack:
        for module in numbers if cut.recount else ():

            def keep(module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
                if not asking:
                    calls[module] = args, kwargs

            stack.callback(module.register_forward_pre_hook(keep, with_kwargs=True).remove)
        if loaded.anatomy.observed:
            stack.enter_context(observing(loaded.model, observer))
        else:
            stack.enter_context(softmaxes(numbers, softmaxed))
        if cut.recount or not loaded.anatomy.observed:  # angles of places in another chunk; as many keys as queries
            stack.enter_context(loaded.chunks.whole())
        yield


def whole_model(loaded: Loaded) -> set[Head]:
    """Return all heads: with these streaming, a model's cache is `Cut.size` entries in every layer."""
    return set(loaded.anatomy.heads)


def of_key_head(loaded: Loaded, layer: int, key_head: int) -> list[Head]:
    """Return the query heads that read one head's keys and values: they are consecutive."""
    group = loaded.anatomy.layers[layer].heads // loaded.anatomy.layers[layer].kv_heads
    return [(layer, head) for head in range(key_head * group, (key_head + 1) * group)]


def _table(heads: Sequence[Collection[Head]], layer: int, count: int) -> torch.Tensor:
    """Return which heads of a layer stream in each row, (N, H)."""
    return torch.tensor([[(layer, head) in of_row for head in range(count)] for of_row in heads])


def _recounted(
    module: torch.nn.Module, args: tuple, kwargs: Mapping[str, Any], cut: Cut, start: int, asking: list, rotated: list
) -> torch.Tensor:
    """Return a module's queries, rotated to where they stand in a cache of `cut.size` entries; (N, H, T, K)."""
    angles = kwargs.get("position_embeddings")
    if not (isinstance(angles, tuple) and len(angles) == 2 and start <= cut.size - 1):
        raise Unreadable("its attention is given no rotary positions: they cannot be re-counted")
    length = angles[0].shape[-2]
    at_T = torch.arange(length).clamp(max=cut.size - 1 - start).to(angles[0].device)
    asking.append(module)
    try:
        module(*args, **dict(kwargs) | {"position_embeddings": tuple(part[..., at_T, :] for part in angles)})
    except Enough:
        return rotated.pop()
    finally:
        asking.clear()
    raise Unreadable("its attention, run again alone, does not attend")


def _scores(eager: Callable, module: torch.nn.Module, query, key, value, mask, kwargs: dict) -> torch.Tensor:
    """Return what a module's softmax would be given, (N, H, T, S or more)."""
    seen: list[torch.Tensor] = []

    def look(scores: torch.Tensor) -> torch.Tensor:
        seen.append(scores)
        raise Enough

    try:
        with _Rescored(look):
            eager(module, query, key, value, mask, **kwargs)
    except Enough:
        return seen[0]
    raise Unreadable("its attention has no one softmax over keys")


class _Rescored(TorchFunctionMode):
    """Gives `edit(scores)` to every softmax in the place of its scores, and counts them."""

    def __init__(self, edit: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.edit, self.times = edit, 0

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function in SOFTMAX:
            self.times += 1
            return function(self.edit(args[0]), *args[1:], **(kwargs or {}))
        return function(*args, **(kwargs or {}))
