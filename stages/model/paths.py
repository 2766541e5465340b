"""Path patching into the keys of one head: what earlier heads write, and what that head then looks at.

A head (the target) reads keys from x = norm(r): the residual r at its block's input, a sum of everything written below,

    r = embedding + sum over earlier blocks of (what each head writes + the rest: MLP, biases),

where a head writes W_O[:, h] z_h, through the norm or the multiplier that stands between W_O and the residual, with the
scale that it has in that run. `Paths.changes` gives what each of these differs by between an intact and a corrupted
run. One of them is put into x through the scale of the target's input norm, frozen as it is, and only the keys are
computed from the result, by the model's own attention module (its key projection, key norm, rotary embedding, mask);
queries and values stay those of the intact run. So one path is changed, source -> residual -> this head's keys, and no
other (Wang+ 2023, arXiv 2211.00593; Goldowsky-Dill+ 2023, arXiv 2304.05969). Under grouped queries the other heads of
the group keep their keys: only this head's view changes.

    noising    the intact run's keys, one contribution replaced by the corrupted run's
    denoising  the corrupted run's keys, one contribution put back as in the intact run

Nothing is assumed of an architecture: norms are told from what they do, and `Paths` raises `Unreadable` where blocks
do not add to one residual, where a norm is none, or where the module does not give its own weights when it runs again.

Legend: N variant, T token, S key token, D residual width, H query head, K head size.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from stages.families.family import Relation
from stages.model.anatomy import contribution
from stages.model.forward import forward, resuming
from stages.model.load import Loaded
from stages.model.observe import observing, shares

SAME = 1e-4  # relative to the largest value: what differs less is the same
EXACT = 1e-5  # attention weights of the module when it runs again, against its own
LOUD = 1e5  # a residual so many times larger passes through blocks that only add to it


class Unreadable(Exception):
    """Why paths into a model's keys cannot be patched exactly, in one line."""


@dataclass(frozen=True, order=True)
class Source:
    """Something that writes to the residual: a head, the rest of a block (head -1), or the embedding (layer -1)."""

    layer: int
    head: int = -1

    @property
    def kind(self) -> str:
        """'head', 'rest' (what a block writes besides its heads' outputs: MLP, biases) or 'embedding'."""
        return "head" if self.head >= 0 else "rest" if self.layer >= 0 else "embedding"

    @property
    def name(self) -> str:
        """L2H3, L2.rest or embedding."""
        return {"head": f"L{self.layer}H{self.head}", "rest": f"L{self.layer}.rest"}.get(self.kind, "embedding")


@dataclass(frozen=True)
class Norm:
    """y = s_T gain_D (x - mean x) + bias_D with one scale s per token: LayerNorm, RMSNorm (not centred), a factor."""

    gain_D: torch.Tensor
    bias_D: torch.Tensor
    centred: bool

    def scale(self, x_TD: torch.Tensor, y_TD: torch.Tensor) -> torch.Tensor | None:
        """Return the scale (T, 1) that it had, None where no scale makes y of x."""
        x_TD, y_TD = self.through(x_TD), y_TD - self.bias_D
        scale_T1 = (x_TD * y_TD).sum(-1, keepdim=True) / (x_TD * x_TD).sum(-1, keepdim=True).clamp(min=1e-30)
        fits = (scale_T1 * x_TD - y_TD).abs().max() <= SAME * y_TD.abs().max()
        return scale_T1 if bool(fits) else None

    def through(self, x_TD: torch.Tensor) -> torch.Tensor:
        """Return gain (x - mean x), to be multiplied by the scale."""
        return self.gain_D * (x_TD - x_TD.mean(-1, keepdim=True) if self.centred else x_TD)


@dataclass
class Run:
    """What one prompt leaves in one pass: of every block its input, of attention layers more; tensors of one row.

    residual: block -> (T, D); middle: layer -> residual right after its attention (T, D); z: layer -> (T, H K);
    written: layer -> output of W_O (T, D); reads: layer -> what its attention reads (T, D); call: layer -> arguments.
    attended: layer -> (query, value, mask, keywords) of the attention function; weights: layer -> (H, T, S).
    """

    residual: dict[int, torch.Tensor] = field(default_factory=dict)
    middle: dict[int, torch.Tensor] = field(default_factory=dict)
    z: dict[int, torch.Tensor] = field(default_factory=dict)
    written: dict[int, torch.Tensor] = field(default_factory=dict)
    reads: dict[int, torch.Tensor] = field(default_factory=dict)
    call: dict[int, tuple[tuple, dict]] = field(default_factory=dict)
    attended: dict[int, tuple] = field(default_factory=dict)
    weights: dict[int, torch.Tensor] = field(default_factory=dict)
    ids: np.ndarray | None = None


class Enough(Exception):
    """The weights are there: what the attention module does after them is not needed."""


class Paths:
    """A model's residual as a sum of sources, and what one head looks at when the keys it reads change.

    >>> paths = Paths(loaded, ids, layers=[5])
    >>> clean, corrupted = paths.run(ids), paths.run(other_ids)
    >>> changes_NTD = paths.changes(clean, corrupted, 5)  # one per source in paths.sources(5)
    >>> weights_NTS, _ = paths.attend(clean, paths.put(clean, 5, changes_NTD), 5, head=1)
    """

    def __init__(self, loaded: Loaded, ids: np.ndarray, layers: Sequence[int]) -> None:
        """Find how heads' outputs join the residual and what the layers read of it; ids: (T,), any ordinary prompt.

        Raises `Unreadable` where it is not what `Paths` is exact for.
        """
        if not loaded.anatomy.observed:
            raise Unreadable("its attention is written into its modules: keys cannot be changed without its values")
        self.loaded, self.layers = loaded, sorted(layers)
        self.blocks = [loaded.model.get_submodule(path) for path in loaded.anatomy.blocks]
        self.below = [layer for layer in loaded.anatomy.layers if layer < self.layers[-1]]
        self.numbers = {self._module(x.attention): number for number, x in loaded.anatomy.layers.items()}
        self.after: dict[int, Norm] = {}  # layer -> between its W_O and the residual
        self.before: dict[int, Norm] = {}  # layer -> between the residual and its attention; `layers` are all there
        self._only_added_to(ids)
        self._find(ids)

    def _module(self, path: str) -> nn.Module:
        return self.loaded.model.get_submodule(path)

    @torch.no_grad()
    def _only_added_to(self, ids: np.ndarray) -> None:
        """Check that what blocks are given comes out again: a very large residual must pass them nearly unchanged."""
        first: list[torch.Tensor] = []

        def louder(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            first.append(LOUD * _hidden(args, kwargs))
            return _with_hidden(args, kwargs, first[0])

        def compare(module: nn.Module, args: tuple, kwargs: dict) -> None:
            if not _close(_hidden(args, kwargs), first[0], 1e-2):
                raise Unreadable("a much larger residual does not pass its blocks as it is: they may rescale it")

        with ExitStack() as stack:
            hook = {"with_kwargs": True}
            stack.callback(self.blocks[0].register_forward_pre_hook(louder, **hook).remove)
            for block in self.blocks[1 : self.layers[-1] + 1]:
                stack.callback(block.register_forward_pre_hook(compare, **hook).remove)
            stack.enter_context(self.loaded.chunks.whole())
            forward(self.loaded, [ids], headless=True)

    def _find(self, ids: np.ndarray) -> None:
        """Find the norms after and before attention, and check that the module gives its own weights again."""
        leaves: dict[nn.Module, torch.Tensor] = {}  # module -> the one thing that it reads

        def keep(module: nn.Module, args: tuple) -> None:
            if len(args) == 1 and isinstance(args[0], torch.Tensor):
                leaves.setdefault(module, args[0])

        with ExitStack() as stack:
            for block in self.blocks[: self.layers[-1] + 1]:
                for module in block.modules():
                    if not list(module.children()) and not isinstance(module, nn.Linear):
                        stack.callback(module.register_forward_pre_hook(keep).remove)
            run = self.run(ids, whole=True)
        for number in self.below:
            self.after[number] = self._joining(leaves, run, number)
        with suppress(Unreadable):  # no path leads through the last one's: only a copying score asks for it
            self.after[self.layers[-1]] = self._joining(leaves, run, self.layers[-1])
        for number in {*self.below, *self.layers}:
            try:
                self.before[number] = self._between(leaves, number, run.residual[number], run.reads[number], "it reads")
            except Unreadable:
                if number in self.layers:
                    raise
        for number in self.layers:
            weights_1TS, _ = self.attend(run, run.reads[number][None], number, head=None)
            if not _near(weights_1TS[0], run.weights[number]):
                raise Unreadable(f"the attention of layer {number}, run again, does not give its own weights")

    def _joining(self, leaves: dict, run: Run, number: int) -> Norm:
        """Return what stands between a layer's W_O and the residual."""
        layer = self.loaded.anatomy.layers[number]
        if number in run.middle:
            wrote_TD = run.middle[number] - run.residual[number]
        elif layer.scale is not None:  # a block whose MLP reads the residual as it was before: they join at its end
            wrote_TD = layer.scale * run.written[number]
        else:
            raise Unreadable(f"where the output of layer {number}'s heads joins the residual was not found")
        return self._between(leaves, number, run.written[number], wrote_TD, "its heads' outputs pass")

    def _between(self, leaves: dict, number: int, x_TD: torch.Tensor, y_TD: torch.Tensor, what: str) -> Norm:
        """Return what makes y of x: a plain factor, or a module of the block that reads x."""
        ones_D = torch.ones_like(x_TD[0])
        possible = [Norm(ones_D, 0 * ones_D, False)]
        inside = set(self.blocks[number].modules())
        for module, read in leaves.items():
            if module in inside and read.shape[-2:] == x_TD.shape and torch.equal(read.reshape(x_TD.shape), x_TD):
                possible += norms(module, x_TD)
        for norm in possible:
            if norm.scale(x_TD, y_TD) is not None:
                return norm
        raise Unreadable(f"layer {number}: what {what} is no norm with one scale per token")

    @torch.no_grad()
    def run(self, ids: np.ndarray, whole: bool = False) -> Run:
        """Run one prompt (T,) up to the last target's attention, or whole, and keep what is needed of it.

        What the last target's layer writes is known of a whole run alone.
        """
        run = Run(ids=ids)
        anatomy = self.loaded.anatomy

        def enter(module: nn.Module, args: tuple, kwargs: dict, number: int) -> None:
            run.residual[number] = _hidden(args, kwargs)[0]

        def read(module: nn.Module, args: tuple, kwargs: dict, number: int) -> None:
            run.reads[number], run.call[number] = _hidden(args, kwargs)[0], (args, kwargs)

        def join(module: nn.Module, args: tuple, number: int) -> None:
            if number in run.written and number not in run.middle:
                run.middle[number] = args[0].reshape(run.written[number].shape)

        def project(module: nn.Module, args: tuple, output: torch.Tensor, number: int) -> None:
            run.z[number] = args[0].reshape(-1, args[0].shape[-1])
            run.written[number] = output.reshape(-1, output.shape[-1])

        def observer(eager, module, query, key, value, mask, **kwargs):
            output, weights_BHTS = eager(module, query, key, value, mask, **kwargs)
            number = self.numbers.get(module)
            if number in self.layers:
                run.attended[number] = query, value, mask, kwargs
                if anatomy.layers[number].sink:
                    weights_BHTS = shares(weights_BHTS, value, output)
                run.weights[number] = weights_BHTS[0]
                if number == self.layers[-1] and not whole:
                    raise Enough
            return output, weights_BHTS

        with ExitStack() as stack:
            for number, block in enumerate(self.blocks[: self.layers[-1] + 1]):
                stack.callback(_hook(block, enter, number, kwargs=True))
            for number in {*self.below, *self.layers}:
                stack.callback(_hook(self._module(anatomy.layers[number].attention), read, number, kwargs=True))
            for number in {*self.below, *self.layers}:
                layer = anatomy.layers[number]
                handle = self._module(layer.projection).register_forward_hook(
                    lambda module, args, output, number=number: project(module, args, output, number)
                )
                stack.callback(handle.remove)
                if layer.joins and layer.joins != layer.block:
                    stack.callback(_hook(self._module(layer.joins), join, number))
            stack.enter_context(observing(self.loaded.model, observer))
            stack.enter_context(suppress(Enough))
            stack.enter_context(self.loaded.chunks.whole())
            forward(self.loaded, [ids], headless=True)
        return run

    def sources(self, layer: int) -> list[Source]:
        """Return everything that writes to the residual below a layer: embedding, heads, rests."""
        heads = [Source(number, head) for number, head in self.loaded.anatomy.heads if number < layer]
        return [Source(-1), *heads, *(Source(number) for number in range(layer))]

    def contributions(self, run: Run, layer: int) -> torch.Tensor:
        """Return what each of `sources(layer)` has written, (N, T, D): they sum to the residual that it reads."""
        anatomy, written = self.loaded.anatomy, {Source(-1): run.residual[0]}
        for number in range(layer):
            rest_TD = run.residual[number + 1] - run.residual[number]
            if number in self.after:
                of, norm = anatomy.layers[number], self.after[number]
                in_all_TD = (
                    run.middle[number] - run.residual[number]
                    if number in run.middle
                    else of.scale * run.written[number]
                )
                scale_T1 = norm.scale(run.written[number], in_all_TD)
                if scale_T1 is None:
                    raise Unreadable(f"layer {number}: its heads' outputs do not reach the residual as on the probe")
                for head in range(of.heads):
                    z_TK = run.z[number][:, head * of.head_size : (head + 1) * of.head_size]
                    wrote_TD = scale_T1 * norm.through(contribution(self.loaded.model, of, head, z_TK))
                    written[Source(number, head)] = wrote_TD
                    rest_TD = rest_TD - wrote_TD
            written[Source(number)] = rest_TD
        return torch.stack([written[source] for source in self.sources(layer)])

    def changes(self, clean: Run, corrupted: Run, layer: int) -> torch.Tensor:
        """Return what each of `sources(layer)` writes in the corrupted run less what it writes in the clean one."""
        return self.contributions(corrupted, layer) - self.contributions(clean, layer)

    def put(self, run: Run, layer: int, change_NTD: torch.Tensor) -> torch.Tensor:
        """Return what a layer's attention would read of a run whose residual is changed, its norm's scale frozen."""
        scale_T1 = self.before[layer].scale(run.residual[layer], run.reads[layer])
        if scale_T1 is None:
            raise Unreadable(f"layer {layer}: what it reads is not its norm of the residual, as on the probe")
        return run.reads[layer] + scale_T1 * self.before[layer].through(change_NTD)

    @torch.no_grad()
    def attend(
        self, clean: Run, reads_NTD: torch.Tensor, layer: int, head: int | None, outputs: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the weights (N, T, S) of a head whose keys come from `reads_NTD`, queries and values from `clean`.

        head: None for all heads, (N, H, T, S). outputs: also return the head's output before W_O and gates, (N, T, K).
        """
        module = self._module(self.loaded.anatomy.layers[layer].attention)
        query, value, mask, keywords = clean.attended[layer]
        args, kwargs = _with_hidden(*clean.call[layer], reads_NTD)
        seen: list[tuple[torch.Tensor, torch.Tensor]] = []

        def observer(eager, module, _query, key, _value, _mask, **_kwargs):
            count = len(key)
            query_NHTK, value_NGSK = query.expand(count, -1, -1, -1), value.expand(count, -1, -1, -1)
            output_NTHK, weights_NHTS = eager(module, query_NHTK, key, value_NGSK, mask, **keywords)
            if self.loaded.anatomy.layers[layer].sink:
                weights_NHTS = shares(weights_NHTS, value_NGSK, output_NTHK)
            seen.append((weights_NHTS, output_NTHK))
            raise Enough

        with observing(self.loaded.model, observer):
            try:
                module(*args, **kwargs)
            except Enough:
                pass
            except (RuntimeError, TypeError, ValueError, IndexError) as error:
                why = str(error).splitlines()[0]
                raise Unreadable(f"the attention of layer {layer} cannot be run again alone: {why}") from None
        if not seen:
            raise Unreadable(f"the attention of layer {layer}, run again alone, does not attend")
        weights_NHTS, output_NTHK = seen[0]
        return (
            weights_NHTS if head is None else weights_NHTS[:, head],
            output_NTHK[:, :, head] if outputs and head is not None else None,
        )

    @torch.no_grad()
    def losses(self, clean: Run, layer: int, head: int, output_NTK: torch.Tensor, scored: np.ndarray) -> np.ndarray:
        """Return the mean loss (N,), nats per token, at the scored positions when one head's output is `output_NTK`.

        All else below and in the layer is intact; what comes after it runs on.
        """
        count, module = len(output_NTK), self._module(self.loaded.anatomy.layers[layer].attention)

        def observer(eager, attending, query, key, value, mask, **kwargs):
            output_NTHK, weights = eager(attending, query, key, value, mask, **kwargs)
            if attending is module:
                output_NTHK = output_NTHK.clone()
                output_NTHK[:, :, head] = self.loaded.chunks.part(output_NTK)
            return output_NTHK, weights

        residual_NTD = clean.residual[layer].expand(count, -1, -1)
        with observing(self.loaded.model, observer), resuming(self.loaded, layer, residual_NTD):
            logits_RV = forward(self.loaded, [clean.ids] * count, [scored - 1] * count)
        targets_R = torch.from_numpy(np.tile(clean.ids[scored], count)).to(logits_RV.device)
        loss_R = logits_RV.logsumexp(1) - logits_RV.gather(1, targets_R[:, None])[:, 0]
        return loss_R.reshape(count, -1).mean(1).cpu().numpy()


def mass(weights_NTS: torch.Tensor, relation: Relation) -> np.ndarray:
    """Return the share of attention (N,) that the relation's queries give its keys, mean over queries."""
    queries = torch.from_numpy(relation.queries).to(weights_NTS.device)
    keys_QS = torch.from_numpy(relation.dense).to(weights_NTS.device)
    return (weights_NTS[:, queries] * keys_QS).sum(2).double().mean(1).cpu().numpy()


def pieces(number: int, tokens: int, max_tokens: int) -> Iterator[slice]:
    """Yield slices of so many variants of a prompt as run together: at most `max_tokens`, one variant at least."""
    step = max(1, max_tokens // tokens)
    for start in range(0, number, step):
        yield slice(start, min(start + step, number))


def norms(module: nn.Module, x_TD: torch.Tensor) -> list[Norm]:
    """Read a module as a norm by what it makes of zeros and of numbers of mean 0: centred and not."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.where(torch.arange(x_TD.shape[1]) % 2 == 0, 1.0, -1.0)
    probe_D = signs * (1 + torch.rand(x_TD.shape[1], generator=generator))
    probe_D = (probe_D - probe_D.mean()).to(x_TD)
    with torch.no_grad():
        bias_D, answer_D = module(torch.zeros_like(probe_D)[None, None])[0, 0], module(probe_D[None, None])[0, 0]
    if bias_D.shape != probe_D.shape:
        return []
    gain_D = (answer_D - bias_D) / probe_D
    return [Norm(gain_D, bias_D, centred) for centred in (False, True)]


def _hook(module: nn.Module, see: Any, number: int, kwargs: bool = False) -> Any:
    """Register a forward pre-hook that is told the block's number; return what removes it."""

    def plain(module: nn.Module, args: tuple) -> None:
        see(module, args, number)

    def full(module: nn.Module, args: tuple, keywords: dict) -> None:
        see(module, args, keywords, number)

    return module.register_forward_pre_hook(full if kwargs else plain, with_kwargs=kwargs).remove


def _hidden(args: tuple, kwargs: dict) -> torch.Tensor:
    return args[0] if args else kwargs["hidden_states"]


def _with_hidden(args: tuple, kwargs: dict, hidden: torch.Tensor) -> tuple[tuple, dict]:
    return ((hidden, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": hidden})


def _close(x: torch.Tensor, y: torch.Tensor, tolerance: float) -> bool:
    return bool((x - y).abs().max() <= tolerance * y.abs().max())


def _near(x: torch.Tensor, y: torch.Tensor) -> bool:
    return x.shape == y.shape and bool((x - y).abs().max() <= EXACT)
