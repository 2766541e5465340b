"""A device that is not there: tensors of a model are marked, and what a GPU would refuse is refused.

CI has no GPU. While `Elsewhere` lasts, "cpu:0" stands for one: tensors made there, moved there, and all that is
computed from them are marked; a tensor of the processor among the arguments, or numpy, raises as on CUDA.
"""

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode, resolve_name

DEVICE = torch.device("cpu", 0)  # the processor is torch.device("cpu")
BRINGING = {"cpu", "item", "tolist", "__float__", "__int__", "__bool__", "__index__"}  # each waits for the device
ANYWHERE = {"copy_", "expand_as", "view_as", "reshape_as", "type_as", "__repr__", "__format__", "is_set_to"}


def marked(value: Any) -> bool:
    """Return whether a tensor is on the device."""
    return value.__dict__.get("elsewhere", False)


def mark(value: Any, there: bool = True) -> Any:
    """Mark all tensors in a value, and return it."""
    if isinstance(value, torch.Tensor):
        value.__dict__["elsewhere"] = there
    elif isinstance(value, list | tuple):
        for part in value:
            mark(part, there)
    return value


def send(model: nn.Module) -> nn.Module:
    """Put a model on the device."""
    mark([*model.parameters(), *model.buffers()])
    return model


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for part in value for tensor in _tensors(part)] if isinstance(value, list | tuple) else []


class Elsewhere(TorchFunctionMode):
    """Refuses what a GPU would refuse; `brought` lists what has waited for the device.

    >>> with Elsewhere():
    ...     send(model)(input_ids=torch.arange(4, device=DEVICE)[None])
    """

    def __init__(self) -> None:
        super().__init__()
        self.brought: list[str] = []

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(function, "__name__", "")
        if name == "__get__" and function == torch.Tensor.device.__get__:
            return DEVICE if marked(args[0]) else torch.device("cpu")
        given = _tensors([args, kwargs])
        there = any(marked(tensor) for tensor in given)
        if there and name in BRINGING:
            self.brought.append(name)
        moved = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.device | str)]
        moved = [torch.device(value) for value in moved if isinstance(value, torch.device) or value.startswith("cpu")]
        if name in ("cpu", "to") or (moved and name not in ("backward",)):
            result = function(*args, **kwargs)
            if name == "cpu":
                there = False
            elif name == "to" and len(args) > 1 and isinstance(args[1], torch.Tensor):
                there = marked(args[1])
            elif moved:
                there = moved[0].index == 0
            same = given and result is given[0] and marked(result) != there
            return mark(result.view_as(result) if same else result, there)
        if name in ("numpy", "__array__") and there:
            raise TypeError("can't convert a tensor that is elsewhere to numpy")
        if there and name not in ANYWHERE:
            self._check(function, name, args, given)
        result = function(*args, **kwargs)
        if name.startswith("new_"):
            there = marked(args[0])
        return mark(result, there) if there or name not in ("__get__", "__set__") else result

    def _check(self, function: Any, name: str, args: tuple, given: list[torch.Tensor]) -> None:
        """Raise where tensors of the processor, but single numbers, are among those of the device."""
        if name == "__getitem__" and marked(args[0]):
            return  # indices may be the processor's
        if name == "__setitem__" and marked(args[0]):
            indices = any(tensor.dim() for tensor in _tensors([args[1]]))
            given = [args[0], *(_tensors([args[2]]) if indices else [])]
        if any(not marked(tensor) and tensor.dim() for tensor in given):
            places = ["device" if marked(tensor) else "processor" for tensor in given]
            raise RuntimeError(f"{resolve_name(function) or name}: not all tensors are on one device: {places}")
