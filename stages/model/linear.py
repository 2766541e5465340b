"""Linear layers on a processor, by oneDNN where torch asks MKL: the same sums in another order, sooner.

torch hands linear layers of float32 to MKL, whose kernels are made for one maker's processors. What each gives on an
AMD Zen 4, by sizes of layers and rows, is in bench/linear.csv: a few rows of narrow layers are no sooner.

The operator is torch's own, what its compiler makes of linear layers; it has no gradient. Where it is missing, or on
processors other than x86-64 (not measured), nothing changes.
"""

import platform
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

PROCESSORS = ("x86_64", "AMD64")


def linear(x: torch.Tensor, weight_EC: torch.Tensor, bias_E: torch.Tensor | None = None) -> torch.Tensor:
    """Return what `torch.nn.functional.linear` does, (..., E) of (..., C), up to rounding."""
    if not _suits(x, weight_EC, bias_E):
        return functional.linear(x, weight_EC, bias_E)
    return _by_onednn(x, weight_EC, bias_E)


def _by_onednn(x: torch.Tensor, weight_EC: torch.Tensor, bias_E: torch.Tensor | None) -> torch.Tensor:
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
