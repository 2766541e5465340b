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

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
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


@torch.no_grad()
def writers(loaded: Loaded) -> dict[int, Writer | str]:
    """Return the writer of every block with measured attention, or why it has no one writer, by its number."""
    inputs = probe_inputs(loaded.model, rows=1)
    tokens = inputs["input_ids"].shape[1]
    return {number: _writer(loaded, number, inputs, tokens) for number in loaded.anatomy.layers}


def _writer(loaded: Loaded, number: int, inputs: Mapping[str, torch.Tensor], tokens: int) -> Writer | str:
    layer = loaded.anatomy.layers[number]
    block = loaded.model.get_submodule(layer.block)
    attention, projection = (loaded.model.get_submodule(path) for path in (layer.attention, layer.projection))
    inside = {*attention.modules(), projection}
    linear = {
        module: path
        for path, module in block.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module not in inside
    }
    experts = [
        name
        for path, module in block.named_modules()
        for name, weight in module.named_parameters(recurse=False)
        if module not in inside and weight.dim() > 2
    ]
    if experts:
        return "part of its weights is no matrix (experts that are stacked, a convolution): no one matrix is the store"
    calls = {module: 0 for module in linear}
    before, out = _run(loaded, block, linear, inputs, calls)
    if any(count != 1 for count in calls.values()):
        return "some of its linear layers run for some tokens alone, as experts do: no one matrix is the store"
    found = []
    for module in linear:
        if height(module) != out.shape[-1] or before[module].numel() % tokens:
            continue
        at = tokens // 2
        read, moved = _run(loaded, block, linear, inputs, {m: 0 for m in linear}, module, at)
        here = torch.zeros(tokens, dtype=torch.bool)
        here[at] = True
        change_T = (moved - out)[0].abs().amax(-1).cpu()
        limit = MOVED * float(out.abs().max())
        reaches = any(not torch.equal(read[other], before[other]) for other in linear if other is not module)
        if change_T[at] > limit and (change_T[~here] <= limit).all() and not reaches:
            found.append(module)
    if len(found) != 1:
        return f"{len(found) or 'no'} linear layers write what its MLP gives: one is needed"
    return Writer(f"{layer.block}.{linear[found[0]]}", isinstance(found[0], Conv1D))


def _run(loaded, block, linear, inputs, calls, changed=None, at: int = 0) -> tuple[dict, torch.Tensor]:
    """Run the probe; return what every linear layer of the block reads, and what the block gives."""
    read: dict[nn.Module, torch.Tensor] = {}
    given: list[torch.Tensor] = []
    with ExitStack() as stack:
        for module in linear:

            def keep(module, args, output):
                calls[module] += 1
                read[module] = args[0].clone()
                if module is not changed:
                    return None
                flat = output.reshape(-1, output.shape[-1]).clone()
                flat[at] += flat.abs().mean() * torch.cos(torch.arange(flat.shape[1], device=flat.device))
                return flat.reshape(output.shape)

            stack.callback(module.register_forward_hook(keep).remove)

        def end(module, args, output):
            given.append(output[0] if isinstance(output, tuple | list) else output)

        stack.callback(block.register_forward_hook(end).remove)
        loaded.model(**inputs)
    return read, given[-1]


@contextmanager
def reading(loaded: Loaded, writers: Mapping[int, Writer]) -> Iterator[dict[int, tuple[torch.Tensor, torch.Tensor]]]:
    """Collect every writer's input (B T, F) and output (B T, D), by layer, of the last run."""
    read: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    with ExitStack() as stack:
        for number, writer in writers.items():

            def keep(module, args, output, number=number):
                read[number] = args[0].reshape(-1, args[0].shape[-1]), output.reshape(-1, output.shape[-1])

            stack.callback(loaded.model.get_submodule(writer.path).register_forward_hook(keep).remove)
        yield read


class _Read(Exception):
    """Leaves a forward pass."""


@torch.no_grad()
def keys(loaded: Loaded, writer: Writer, ids: Sequence[np.ndarray]) -> torch.Tensor:
    """Return the keys (B, T, F) of right-padded texts; nothing above the writer runs."""
    read: list[torch.Tensor] = []

    def leave(module: nn.Module, args: tuple) -> None:
        read.append(args[0].reshape(len(ids), -1, args[0].shape[-1]))
        raise _Read

    handle = loaded.model.get_submodule(writer.path).register_forward_pre_hook(leave)
    try:
        forward(loaded, ids, headless=True)
    except _Read:
        pass
    finally:
        handle.remove()
    return read[0]


@contextmanager
def writing(loaded: Loaded, path: str, at_P: torch.Tensor, values_PD: torch.Tensor, inputs: bool = False) -> Iterator:
    """Write values in the place of a module's output at picked tokens: places in (B T); `inputs`: of its input."""

    def put(x: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        return flat.index_copy(0, at_P.to(x.device), values_PD.to(x)).reshape(x.shape)

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
