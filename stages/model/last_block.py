"""The last block works on the tokens that are read alone.

After the last attention no token sees another. So W_O and the MLP of the last block run on the tokens whose rows the LM
head is given; all others keep their queries, keys and values, and nothing of what is made of them is looked at. Where
a pass only fills a cache, or is watched below, that is all of them. Of Gemma 3 270M these are 4.6 of the 100 million
weights that a token meets. Used where the proof at fetch allows (`Loaded.narrows`), and where no hook looks at what
the block makes of other tokens.

Legend: B batch, T token, N token that is read.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from stages.model.load import Loaded


@contextmanager
def narrowed(loaded: Loaded, rows: Sequence[np.ndarray] | None) -> Iterator[None]:
    """Let what follows the last attention run on the asked positions of each prompt alone; None: on none of them."""
    read_N = [(row, int(at)) for row, asked in enumerate(rows or ()) for at in asked]
    with ExitStack() as stack:
        for module in () if _watched(loaded) else alone(loaded):
            stack.enter_context(replaced(module, partial(_of_few, loaded, module.forward, read_N)))
        yield


def alone(loaded: Loaded) -> list[nn.Module]:
    """Return what is heavy in the last block and works on every token alone: W_O, and all without its attention."""
    layer = loaded.anatomy.layers.get(len(loaded.anatomy.blocks) - 1)
    if layer is None:
        return []
    attention, block = (loaded.model.get_submodule(path) for path in (layer.attention, layer.block))
    apart = [child for child in block.children() if attention not in child.modules()]
    heavy = [child for child in apart if any(weight.dim() > 1 for weight in child.parameters())]
    return [loaded.model.get_submodule(layer.projection), *heavy]


class Unlike(Exception):
    """A part of the last block makes something that is not a row for each token."""


def _of_few(loaded: Loaded, own: Any, read_N: Sequence[tuple[int, int]], *given: Any, **named: Any) -> Any:
    """Return what a module makes of the tokens that are read, and zeros for all others, (B, T, D).

    What is given anything by name (masks, a cache) may look at others: it runs whole, and so does what is given tokens
    in one, (B T, D). Of a tuple each part has rows (B, T, E) or (B T, E); `Unlike` where one has not.
    """
    start, x = loaded.chunks.start, given[0] if given else None
    if named or x is None or x.dim() != 3:
        return own(*given, **named)
    rows, length = x.shape[:2]
    if any(torch.is_tensor(part) and part.shape[:2] != (rows, length) for part in given):
        return own(*given)
    here_N = [(row, at - start) for row, at in read_N if start <= at < start + length] or [(0, 0)]
    if len(here_N) >= rows * length:
        return own(*given)
    row_N, at_N = torch.tensor(here_N, device=x.device).T

    def spread(made: Any) -> Any:
        if made is None:
            return None
        if not torch.is_tensor(made) or made.shape[:-1] not in ((1, len(here_N)), (len(here_N),)):
            raise Unlike(f"a part of its last block makes {_shape(made)} of {len(here_N)} tokens: not a row for each")
        whole = made.new_zeros(rows, length, made.shape[-1])
        whole[row_N, at_N] = made.reshape(len(here_N), -1)
        return whole if made.dim() == 3 else whole.flatten(0, 1)

    made = own(*(x[row_N, at_N][None] if torch.is_tensor(x) else x for x in given))
    return tuple(map(spread, made)) if isinstance(made, tuple) else spread(made)


def _shape(made: Any) -> str:
    return f"a tensor {tuple(made.shape)}" if torch.is_tensor(made) else f"a {type(made).__name__}"


def _watched(loaded: Loaded) -> bool:
    """Say whether a hook may look at what the last block makes of tokens that are not read.

    What comes before W_O is whole: hooks before the block, in its attention and before W_O see what they always do.
    """
    layer = loaded.anatomy.layers.get(len(loaded.anatomy.blocks) - 1)
    if layer is None:
        return True
    names = (layer.block, layer.attention, layer.projection)
    block, attention, projection = map(loaded.model.get_submodule, names)
    inside = set(attention.modules()) - {attention, projection}
    for module in block.modules():
        before = module._forward_pre_hooks if module not in (block, attention, projection) else ()
        if module not in inside and (module._forward_hooks or before):
            return True
    return False


@contextmanager
def replaced(module: nn.Module, forward: Any) -> Iterator[None]:
    """Put `forward` in the place of a module's own, which may itself be another's (accelerate's dispatch)."""
    own = module.__dict__.get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own
