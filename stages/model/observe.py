"""Watching attention where it happens, whatever the architecture: two ways, both undone when the context ends.

`observing`: modelling files of transformers compute eager attention in a function of their own; while this context
lasts, those functions call an observer that may look at all they get and give. The model stays on "eager", so that
whatever it does only there (DeepSeek-V3.2's index mask) still happens.
`softmaxes`: architectures that write attention into their modules (BLOOM, GPT-J, DeBERTa ...) show its softmax.

Legend: B batch, H head, G key head, T query token, S key token, K head size.
"""

import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel

SAME = 1e-4  # relative, in float32: what differs less is the same
STEPS = 4  # of a coarser dtype's roundings, that may come between
SOFTMAX = (torch.softmax, torch.Tensor.softmax, nn.functional.softmax)


@contextmanager
def observing(model: PreTrainedModel, observer: Callable) -> Iterator[None]:
    """Let `observer(eager, module, query, key, value, mask, **kwargs) -> (output, weights)` stand for eager attention.

    >>> def observer(eager, module, query, key, value, mask, **kwargs):
    ...     output, weights_BHTS = eager(module, query, key, value, mask, **kwargs)
    ...     return output, weights_BHTS
    """
    kinds = {kind for module in model.modules() for kind in type(module).__mro__}
    files = {kind.__module__: sys.modules[kind.__module__] for kind in kinds if kind.__module__ in sys.modules}
    before = model.config._attn_implementation
    with ExitStack() as stack:
        if before != "eager":
            model.set_attn_implementation("eager")
            stack.callback(model.set_attn_implementation, before)
        for file in files.values():
            for name, eager in list(vars(file).items()):
                if name.endswith("eager_attention_forward") and callable(eager):
                    stack.callback(setattr, file, name, eager)
                    setattr(file, name, _watched(eager, observer))
        yield


def _watched(eager: Callable, observer: Callable) -> Callable:
    def attention(module, query, key, value, attention_mask=None, *args, **kwargs):
        def own(module, query, key, value, attention_mask, **kwargs):
            return eager(module, query, key, value, attention_mask, *args, **kwargs)

        return observer(own, module, query, key, value, attention_mask, **kwargs)

    return attention


def shares(weights_BHTS: torch.Tensor, value_BGSK: torch.Tensor, output_BTHK: torch.Tensor) -> torch.Tensor | None:
    """Return the share of each value in what an attention function gives: its weights, or these times a factor.

    A learned sink may come after the softmax, as a factor from 0 to 1 on a query's sum of values: the same as one more
    term in the softmax's sum (https://arxiv.org/abs/2309.17453, section 3.3). None where the output is no such sum.
    """
    value_BHSK = value_BGSK.float().repeat_interleave(weights_BHTS.shape[1] // value_BGSK.shape[1], dim=1)
    weights_BHTS, given_BHTK = weights_BHTS.float(), output_BTHK.transpose(1, 2).float()
    summed_BHTK = weights_BHTS @ value_BHSK
    same = max(SAME, STEPS * torch.finfo(output_BTHK.dtype).eps)
    if close(summed_BHTK, given_BHTK, same):
        return weights_BHTS
    if summed_BHTK.shape != given_BHTK.shape:
        return None
    tiny = torch.finfo(torch.float32).tiny
    dot_BHT1, square_BHT1 = (x.sum(-1, keepdim=True) for x in (summed_BHTK * given_BHTK, summed_BHTK.square()))
    factor_BHT1 = (dot_BHT1 / square_BHT1.clamp(min=tiny)).clamp(0, 1)
    return weights_BHTS * factor_BHT1 if close(factor_BHT1 * summed_BHTK, given_BHTK, same) else None


def close(x: torch.Tensor, y: torch.Tensor, tolerance: float = SAME) -> bool:
    """Say whether two tensors differ by no more than a part of the largest number."""
    return x.shape == y.shape and bool((x - y).abs().max() <= tolerance * y.abs().max())


class _Softmaxes(TorchFunctionMode):
    """Calls `see(output)` for every softmax and uses what it returns."""

    def __init__(self, see: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.see = see

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        output = function(*args, **(kwargs or {}))
        return self.see(output) if function in SOFTMAX else output


@contextmanager
def softmaxes(modules: Collection[nn.Module], see: Callable[[nn.Module, torch.Tensor], Any]) -> Iterator[None]:
    """Call `see(module, weights)` for each softmax over keys, with the innermost of `modules` that runs.

    Such a softmax gives one number per query and key, as many of both. What `see` returns, unless None, is used in its
    place.
    """
    running: list[nn.Module] = []

    def look(output: torch.Tensor) -> torch.Tensor:
        if running and output.dim() in (3, 4) and output.shape[-1] == output.shape[-2]:
            replaced = see(running[-1], output)
            return output if replaced is None else replaced
        return output

    def enter(module: nn.Module, args: tuple) -> None:
        running.append(module)

    def leave(module: nn.Module, args: tuple, output: Any) -> None:
        running.pop()

    with ExitStack() as stack:
        for module in modules:
            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        with _Softmaxes(look):
            yield
