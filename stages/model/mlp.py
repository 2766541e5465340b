"""Which linear layer writes an MLP's output, found by running the model: no table of architectures.

In every block, of all linear layers outside its attention, the writer is the one
1. that runs once, over every token, and writes as many channels as the residual has;
2. whose output moves the block's output at its own token and at no other;
3. whose output reaches no other linear layer of the block: gates and projections up come before it.
Its input is the key k (F,), its weight W (D, F) the store, W k (plus a bias) the value: right for gated MLPs and plain
ones, Linear and Conv1D, with biases, and where a norm follows. Where more than one layer does that, or part of the
weights lies outside linear layers (experts), no one matrix is the store: then a reason stands in its place.

Legend: B batch row, T token, F channel of the key, D residual width, P picked token, R edit.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from stages.model import placed
from stages.model.forward import forward
from stages.model.load import Loaded
from stages.model.probe import height, probe_inputs

MOVED = 1e-6  # relative: what changes less has not moved


@dataclass(frozen=True)
class Writer:
    """The linear layer that writes one MLP's output: its path, and whether its weight is stored (F, D), as Conv1D's."""

    path: str
    transposed: bool

    def weight_DF(self, loaded: Loaded) -> torch.Tensor:
        """Return its weight as (D, F)."""
        weight = placed.weight(loaded.model.get_submodule(self.path))
        return weight.T if self.transposed else weight


class _Read(Exception):
    """Leaves a forward pass."""


@dataclass(frozen=True)
class _Pass:
    """What the linear layers of blocks read in a pass and how often they ran; what the blocks gave, by number."""

    read: dict[nn.Module, torch.Tensor]
    calls: Counter
    given: dict[int, torch.Tensor]


@torch.no_grad()
def writers(loaded: Loaded) -> dict[int, Writer | str]:
    """Return the writer of every block with measured attention, or why it has no one writer, by its number."""
    inputs = probe_inputs(loaded.model, rows=1)
    linear = {number: _linear(loaded, number) for number in loaded.anatomy.layers}
    intact = _run(loaded, {number: of for number, of in linear.items() if not isinstance(of, str)}, inputs)
    return {number: of if isinstance(of, str) else _writer(loaded, number, of, inputs, intact)
            for number, of in linear.items()}  # fmt: skip


def _linear(loaded: Loaded, number: int) -> dict[nn.Module, str] | str:
    """Return a block's linear layers outside its attention, with their paths in it, or why no one can be the store."""
    layer = loaded.anatomy.layers[number]
    block = loaded.model.get_submodule(layer.block)
    attention, projection = (loaded.model.get_submodule(path) for path in (layer.attention, layer.projection))
    inside = {*attention.modules(), projection}
    experts = any(
        weight.dim() > 2
        for module in block.modules()
        if module not in inside
        for weight in module.parameters(recurse=False)
    )
    if experts:
        return "part of its weights is no matrix (experts that are stacked, a convolution): no one matrix is the store"
    return {
        module: path
        for path, module in block.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module not in inside
    }


def _writer(
    loaded: Loaded, number: int, linear: dict[nn.Module, str], inputs: Mapping[str, torch.Tensor], intact: _Pass
) -> Writer | str:
    if any(intact.calls[module] != 1 for module in linear):
        return "some of its linear layers run for some tokens alone, as experts do: no one matrix is the store"
    before, out, tokens, found = intact.read, intact.given[number], inputs["input_ids"].shape[1], []
    for module in linear:
        if height(module) != out.shape[-1] or before[module].numel() % tokens:
            continue
        at = tokens // 2
        changed = _run(loaded, {number: linear}, inputs, module, at)
        here = torch.zeros(tokens, dtype=torch.bool)
        here[at] = True
        change_T = (changed.given[number] - out)[0].abs().amax(-1).cpu()
        limit = MOVED * float(out.abs().max())
        reaches = any(not torch.equal(changed.read[other], before[other]) for other in linear if other is not module)
        if change_T[at] > limit and (change_T[~here] <= limit).all() and not reaches:
            found.append(module)
    if len(found) != 1:
        return f"{len(found) or 'no'} linear layers write what its MLP gives: one is needed"
    return Writer(f"{loaded.anatomy.layers[number].block}.{linear[found[0]]}", isinstance(found[0], Conv1D))


def _run(
    loaded: Loaded,
    linear: Mapping[int, Mapping[nn.Module, str]],
    inputs: Mapping[str, torch.Tensor],
    changed: nn.Module | None = None,
    at: int = 0,
) -> _Pass:
    """Run the probe; changed: the linear layer whose output is moved at a token: nothing above its block runs then."""
    seen = _Pass({}, Counter(), {})
    with ExitStack() as stack:
        for module in (module for of_block in linear.values() for module in of_block):

            def keep(module, args, output):
                seen.calls[module] += 1
                seen.read[module] = args[0].clone()
                if module is not changed:
                    return None
                flat = output.reshape(-1, output.shape[-1]).clone()
                flat[at] += flat.abs().mean() * torch.cos(torch.arange(flat.shape[1], device=flat.device))
                return flat.reshape(output.shape)

            stack.callback(module.register_forward_hook(keep).remove)
        for number in linear:

            def end(module, args, output, number=number):
                seen.given[number] = output[0] if isinstance(output, tuple | list) else output
                if changed is not None:
                    raise _Read

            block = loaded.model.get_submodule(loaded.anatomy.layers[number].block)
            stack.callback(block.register_forward_hook(end).remove)
        with suppress(_Read):
            loaded.model.base_model(**inputs)
    return seen


@contextmanager
def reading(loaded: Loaded, writers: Mapping[int, Writer]) -> Iterator[dict[int, tuple[torch.Tensor, torch.Tensor]]]:
    """Collect every writer's input (B T, F) and output (B T, D), by layer, of the last run."""
    read: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    kept: dict[tuple[int, str], torch.Tensor] = {}
    with ExitStack() as stack:
        for number, writer in writers.items():

            def keep(module, args, output, number=number):
                for name, x in (("k", args[0]), ("v", output)):
                    loaded.chunks.keep(kept, (number, name), loaded.chunks.by_row(x))
                k, v = kept[number, "k"], kept[number, "v"]
                read[number] = k.reshape(-1, k.shape[-1]), v.reshape(-1, v.shape[-1])

            stack.callback(loaded.model.get_submodule(writer.path).register_forward_hook(keep).remove)
        yield read


@torch.no_grad()
def keys(loaded: Loaded, writer: Writer, ids: Sequence[np.ndarray]) -> torch.Tensor:
    """Return the keys (B, T, F) of right-padded texts; nothing above the writer runs."""
    read: list[torch.Tensor] = []

    def leave(module: nn.Module, args: tuple) -> None:
        read.append(args[0].reshape(len(ids), -1, args[0].shape[-1]))
        raise _Read

    handle = loaded.model.get_submodule(writer.path).register_forward_pre_hook(leave)
    try:
        with suppress(_Read), loaded.chunks.whole():
            forward(loaded, ids, headless=True)
    finally:
        handle.remove()
    return read[0]


@contextmanager
def writing(loaded: Loaded, path: str, at_P: torch.Tensor, values_PD: torch.Tensor, inputs: bool = False) -> Iterator:
    """Write values in the place of a module's output at picked tokens: places in (B T); `inputs`: of its input."""

    def put(x: torch.Tensor) -> torch.Tensor:
        flat, (here_P, own_P) = x.reshape(-1, x.shape[-1]), loaded.chunks.places(at_P)
        return flat.index_copy(0, own_P.to(x.device), values_PD[here_P].to(x)).reshape(x.shape)

    module = loaded.model.get_submodule(path)
    if inputs:
        handle = module.register_forward_pre_hook(lambda module, args: (put(args[0]), *args[1:]))
    else:
        handle = module.register_forward_hook(lambda module, args, output: put(output))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def storing(loaded: Loaded, writer: Writer, keys: torch.Tensor, values: torch.Tensor) -> Iterator[None]:
    """Let a writer's weight be W + sum of values keys^T: at every token, y becomes y + values (keys . k).

    keys, values: (R, F) and (R, D), for all rows of the batch alike; or (B, R, F) and (B, R, D), each row its own.
    """

    def add(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        if keys.dim() == 2:
            return output + (args[0] @ keys.T) @ values
        k_BTF = args[0].reshape(len(keys), -1, args[0].shape[-1])
        return output + ((k_BTF @ keys.transpose(1, 2)) @ values).reshape(output.shape)

    handle = loaded.model.get_submodule(writer.path).register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()


def places(at: Sequence[int], width: int) -> torch.Tensor:
    """Return the places in (B T) of one token per row; width: T of the padded batch."""
    return torch.tensor([row * width + position for row, position in enumerate(at)], dtype=torch.long)
