"""Changing heads: at W_O's input, where head h is a slice, by a forward pre-hook that always removes itself.

What is written in a silenced head's place is `stages.model.silence`'s.

Legend: B batch, T token, H head, K head size, D residual width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch

from stages.model.load import Loaded

Head = tuple[int, int]  # (layer, head)


@dataclass(frozen=True)
class Edit:
    """What is done at the last prompt token of one row: outputs written in place of heads', vectors added to blocks."""

    heads: Mapping[Head, torch.Tensor] = field(default_factory=dict)
    added: Mapping[int, torch.Tensor] = field(default_factory=dict)  # layer whose block output it joins -> (D,)

    def first(self, top: int) -> int:
        """Return the first layer that runs differently; the top layer where none does."""
        return min([layer for layer, _ in self.heads] + list(self.added), default=top)


@contextmanager
def ablating(
    loaded: Loaded, values: Mapping[Head, torch.Tensor], keep_BT: torch.Tensor | None = None
) -> Iterator[None]:
    """Replace heads' outputs by `values`, (K,) or (B, T, K), at all positions but those of `keep_BT`."""
    with ablating_copies(loaded, [(values, keep_BT)]):
        yield


@contextmanager
def ablating_copies(
    loaded: Loaded, edits: Sequence[tuple[Mapping[Head, torch.Tensor], torch.Tensor | None]]
) -> Iterator[None]:
    """Ablate copies of B rows that run as one batch: copy c as edits[c] says, its `values` and `keep_BT`."""
    with ExitStack() as stack:
        for layer in sorted({layer for values, _ in edits for layer, _ in values}):
            size = loaded.anatomy.layers[layer].head_size
            slices = [
                (copy, head * size, values[at, head], keep_BT)
                for copy, (values, keep_BT) in enumerate(edits)
                for at, head in values
                if at == layer
            ]

            def replace(module, args, slices=slices, size=size):
                x = args[0].clone()
                copies = x.chunk(len(edits))
                for copy, start, value, keep_BT in slices:
                    old = copies[copy][..., start : start + size]
                    new = (value if value.dim() == 1 else loaded.chunks.part(value)).to(x).expand_as(old)
                    if keep_BT is not None:
                        new = torch.where(loaded.chunks.part(keep_BT).to(x.device)[..., None], old, new)
                    old.copy_(new)
                return (x, *args[1:])

            stack.callback(_projection(loaded, layer).register_forward_pre_hook(replace).remove)
        yield


@contextmanager
def editing(loaded: Loaded, edits: Sequence[Edit], position: int = 0) -> Iterator[None]:
    """Apply edit b to row b, at one position of what runs: where the last prompt token stands."""
    with ExitStack() as stack:
        for layer in sorted({layer for edit in edits for layer, _ in edit.heads}):
            size = loaded.anatomy.layers[layer].head_size
            slices = [
                (row, h * size, z) for row, e in enumerate(edits) for (at, h), z in e.heads.items() if at == layer
            ]

            def write(module, args, slices=slices, size=size):
                at = loaded.chunks.at(position)
                if at is None:
                    return None
                x = args[0].clone()
                for row, start, value in slices:
                    x[row, at, start : start + size] = value.to(x)
                return (x, *args[1:])

            stack.callback(_projection(loaded, layer).register_forward_pre_hook(write).remove)
        for layer in sorted({layer for edit in edits for layer in edit.added}):
            vectors = [(row, e.added[layer]) for row, e in enumerate(edits) if layer in e.added]

            def add(module, args, output, vectors=vectors):
                at = loaded.chunks.at(position)
                if at is None:
                    return None
                x = (output[0] if isinstance(output, tuple | list) else output).clone()
                for row, vector in vectors:
                    x[row, at] += vector.to(x)
                return (x, *output[1:]) if isinstance(output, tuple | list) else x

            block = loaded.model.get_submodule(loaded.anatomy.layers[layer].block)
            stack.callback(block.register_forward_hook(add).remove)
        yield


@contextmanager
def reading_heads(loaded: Loaded, read: Callable[[int, torch.Tensor], None]) -> Iterator[None]:
    """Call `read(layer, z)` with every layer's head outputs z, (B, T, H K) float32, as the model runs: by chunk."""
    with ExitStack() as stack:
        for layer in loaded.anatomy.layers:

            def look(module, args, layer=layer):
                read(layer, args[0].float())

            stack.callback(_projection(loaded, layer).register_forward_pre_hook(look).remove)
        yield


@contextmanager
def capturing(loaded: Loaded) -> Iterator[dict[int, torch.Tensor]]:
    """Collect every layer's head outputs z, (B, T, H K) float32, as the model runs."""
    outputs: dict[int, torch.Tensor] = {}
    with reading_heads(loaded, lambda layer, z_BTC: loaded.chunks.keep(outputs, layer, z_BTC)):
        yield outputs


@contextmanager
def tracking(loaded: Loaded) -> Iterator[dict[int, torch.Tensor]]:
    """Collect every layer's head outputs z, (B, T, H K), each keeping its gradient.

    The graph begins at the first layer's z: no weight needs a gradient, and nothing below it is kept.

    >>> with tracking(loaded) as outputs:
    ...     forward(loaded, ids, rows, gradients=True).sum().backward()
    >>> outputs[0].grad.shape == outputs[0].shape
    """
    outputs: dict[int, torch.Tensor] = {}
    with ExitStack() as stack:
        for number in loaded.anatomy.layers:

            def keep(module, args, number=number):
                z = args[0] if args[0].requires_grad else args[0].detach().requires_grad_(True)
                z.retain_grad()
                outputs[number] = z
                return (z, *args[1:])

            stack.callback(_projection(loaded, number).register_forward_pre_hook(keep).remove)
        yield outputs


def _projection(loaded: Loaded, layer: int) -> torch.nn.Module:
    return loaded.model.get_submodule(loaded.anatomy.layers[layer].projection)
