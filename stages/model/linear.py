"""Linear layers on a processor, by oneDNN where torch asks MKL: the same sums in another order, sooner.

torch hands linear layers of float32 to MKL, whose kernels are made for one maker's processors. What each gives on an
AMD Zen 4, by sizes of layers and rows, is in bench/linear.csv: a few rows of narrow layers are no sooner.

Before each product oneDNN lays weights out in blocks of its own. `lay_out` does that once for a model, for as much
memory again as these weights have: the same bits, sooner where a pass has few rows (`laid_out` in that table).

The operator is torch's own, what its compiler makes of linear layers; it has no gradient. Where it is missing, or on
processors other than x86-64 (not measured), nothing changes.
"""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

PROCESSORS = ("x86_64", "AMD64")
LAYING = "_reorder_linear_weight"


@dataclass(frozen=True)
class _LaidOut:
    """A weight in oneDNN's blocks, and what it was made of: `own` keeps that memory from being another tensor's."""

    blocks: torch.Tensor
    own: torch.Tensor
    version: int

    def of(self, weight_EC: torch.Tensor) -> bool:
        """Say whether the weight is what it was: torch counts what is written, but not through `.data` or numpy."""
        moved = self.own.data_ptr() != weight_EC.data_ptr() or self.own.shape != weight_EC.shape
        return not moved and self.version == weight_EC._version


_laid_out = WeakTensorKeyDictionary()  # weight -> _LaidOut, as long as the weight is there


@torch.no_grad()
def lay_out(model: nn.Module, head: nn.Module | None, room: float) -> None:
    """Lay the weights of linear layers out for `linear`; not the head's, which is read a piece of it at a time.

    room: bytes that this may take; where it would take more, nothing is laid out.
    """
    if not hasattr(torch.ops.mkldnn, LAYING):
        return
    layers = (module for module in model.modules() if type(module) is nn.Linear and module is not head)
    weights = {id(layer.weight): layer.weight for layer in layers if _suits(layer.weight, layer.weight, None)}
    if sum(weight.nbytes for weight in weights.values()) > room:
        return
    for weight in weights.values():
        blocks = getattr(torch.ops.mkldnn, LAYING)(weight)
        _laid_out[weight] = _LaidOut(blocks, weight.detach(), weight._version)


def _blocks(weight_EC: torch.Tensor) -> torch.Tensor:
    """Return a weight laid out, or as it is: where it never was, or has changed since."""
    laid_out = _laid_out.get(weight_EC)
    if laid_out is None:
        return weight_EC
    if laid_out.of(weight_EC):
        return laid_out.blocks
    del _laid_out[weight_EC]
    return weight_EC


def linear(x: torch.Tensor, weight_EC: torch.Tensor, bias_E: torch.Tensor | None = None) -> torch.Tensor:
    """Return what `torch.nn.functional.linear` does, (..., E) of (..., C), up to rounding."""
    if not _suits(x, weight_EC, bias_E):
        return functional.linear(x, weight_EC, bias_E)
    return _by_onednn(x, weight_EC, bias_E)


def _by_onednn(x: torch.Tensor, weight_EC: torch.Tensor, bias_E: torch.Tensor | None) -> torch.Tensor:
    if x.numel() > x.shape[-1]:  # of one row alone oneDNN sums plain weights and blocks in another order
        weight_EC = _blocks(weight_EC)
    return torch.ops.mkldnn._linear_pointwise(x, weight_EC, bias_E, "none", [], "")


def _suits(x: torch.Tensor, weight_EC: torch.Tensor, bias_E: torch.Tensor | None) -> bool:
    if torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or not _available():
        return False
    given = [x, weight_EC] if bias_E is None else [x, weight_EC, bias_E]
    if any(type(part) not in (torch.Tensor, torch.nn.Parameter) for part in given):  # quantised, say
        return False
    if any(part.dtype != torch.float32 or part.device.type != "cpu" or part.layout != torch.strided for part in given):
        return False
    if bias_E is not None and not (bias_E.shape == weight_EC.shape[:1] and bias_E.is_contiguous()):
        return False  # the operator reads as many numbers as there are outputs, one after the other
    return weight_EC.dim() == 2 and weight_EC.is_contiguous() and min(x.numel(), weight_EC.numel()) > 0


def applies(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether any linear layer of a model on this device and of this type may be made by oneDNN here."""
    return device.type == "cpu" and dtype == torch.float32 and _available()


def _available() -> bool:
    known = platform.machine() in PROCESSORS and torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled
    return known and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Linears(TorchFunctionMode):
    """While it lasts, linear layers, of whatever module, are made by `linear`."""

    def __torch_function__(self, function: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if function is functional.linear and not kwargs:  # named ones are left to torch
            return linear(*args)
        return function(*args, **(kwargs or {}))
