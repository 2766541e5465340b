"""Where a model's weights are: all on one device, or sent to where they are used as it runs (accelerate's dispatch).

An offloaded weight is on torch's "meta" device between passes: it has a shape and no numbers. A hook of its module
brings it from memory or disk for the module's own pass. Whoever reads a weight outside of a pass asks here.
"""

import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn


def chosen() -> torch.device:
    """Return where models go: a GPU where there is one, set to give the same bytes again, in full float32."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
    torch.use_deterministic_algorithms(True, warn_only=True)  # sums by index are else in any order
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.allow_tf32 = False  # convolutions; products of matrices have it off
    # SDPA was wrong in 2 of 137 prompts on an H100 in float32, where that kernel is what runs: as pytorch issue 191937
    # says of keys that several heads share as a view. cuDNN's was not compared. Without both none was, on an H200.
    torch.backends.cuda.enable_mem_efficient_sdp(False)
    torch.backends.cuda.enable_cudnn_sdp(False)
    return torch.device("cuda")


def device(model: nn.Module) -> torch.device:
    """Return the device that a model's inputs go to: of its first weight, offloaded or not."""
    first = next(model.parameters())
    if not first.is_meta:
        return first.device
    devices = (getattr(hook, "execution_device", None) for module in model.modules() for hook in _hooks(module))
    return torch.device(next(name for name in devices if name is not None))


def weight(module: nn.Module, name: str = "weight") -> torch.Tensor:
    """Return a module's own weight, brought from where it is offloaded to."""
    value = getattr(module, name)
    if not value.is_meta:
        return value
    from accelerate.utils import align_module_device  # only where accelerate has put it there

    with align_module_device(module):
        return getattr(module, name)


def weights(model: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every weight once, by its name; those that are offloaded one at a time."""
    for path, value in model.named_parameters():
        parent, _, name = path.rpartition(".")
        yield path, weight(model.get_submodule(parent), name) if value.is_meta else value


def _hooks(module: nn.Module) -> list[Any]:
    hook = getattr(module, "_hf_hook", None)
    return list(getattr(hook, "hooks", [hook]))
