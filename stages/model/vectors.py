"""Function vectors (Todd+ ICLR 2024): what a few heads add at the last token when demonstrations show a function.

Of z-bar_h, a head's mean last-token output over clean prompts that the model solves (`stages.engine.means`).
Parts: what the heads' z-bar_h put into the residual, measured where W_O's output joins it: with the model's
own multipliers (Granite), the bias not added per head. Where the architecture normalises W_O's output p before it joins
(Gemma 3, OLMo 2), a head's part W_O[:, h] z-bar_h is scaled by the norm's gain at the mean activation, norm(p-bar) /
p-bar, so that it has the size that the residual would have received.

Legend: H head, K head size, D residual width.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch

from stages.model.anatomy import contribution
from stages.model.intervene import Edit, Head
from stages.model.load import Loaded
from stages.model.probe import probe_ids, width
from stages.store.errors import UserError


def in_place(means: Mapping[Head, torch.Tensor], heads: Sequence[Head]) -> Edit:
    """Write the heads' mean outputs each into its own slot: exact in any architecture."""
    return Edit(heads={head: means[head] for head in heads})


def randomly(like: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Return a random vector as long as another."""
    random = like.new_tensor(rng.standard_normal(len(like)))
    return random * (like.norm() / random.norm())


class Parts:
    """What heads put into the residual where each writes its mean output (K,); a layer is measured once.

    Raises `UserError` where a layer's output was not found to join the residual.
    """

    def __init__(self, loaded: Loaded, means: Mapping[Head, torch.Tensor]) -> None:
        self.loaded, self.means = loaded, means
        self.gains: dict[int, torch.Tensor] = {}  # (D,): what joins, as a multiple of what W_O puts out

    @torch.no_grad()
    def together(self, heads: Sequence[Head]) -> torch.Tensor:
        """Return the sum (D,) of the heads' parts."""
        return sum(
            self._of_layer(layer, [h for at, h in heads if at == layer]) for layer in sorted({at for at, _ in heads})
        )

    def _of_layer(self, layer: int, heads: Sequence[int]) -> torch.Tensor:
        part, means = self.loaded.anatomy.layers[layer], self.means
        gain_D = self._gain(layer)
        parts = (contribution(self.loaded.model, part, head, means[layer, head].to(gain_D)) for head in heads)
        return sum(parts) * gain_D

    def _gain(self, layer: int) -> torch.Tensor:
        """Measure it with all heads' means together; exact for multipliers and RMS norms: they act elementwise."""
        if layer not in self.gains:
            part = self.loaded.anatomy.layers[layer]
            projection = self.loaded.model.get_submodule(part.projection)
            every_K = torch.cat([self.means[layer, head] for head in range(part.heads)])
            every_K = every_K.to(self.loaded.device, projection.weight.dtype)
            whole_D = projection(torch.cat([every_K, every_K.new_zeros(width(projection) - len(every_K))])).float()
            gain_D = joining(self.loaded, layer, whole_D) / whole_D
            self.gains[layer] = torch.where(whole_D.abs() > 1e-12, gain_D, torch.zeros_like(gain_D))
        return self.gains[layer]


@torch.no_grad()
def joining(loaded: Loaded, layer: int, projected_D: torch.Tensor) -> torch.Tensor:
    """Return what an output of W_O puts into the residual more than an output of zeros does, (D,).

    It is written in a pass of two tokens; the block's own residual is emptied, so that no digit is lost beside it.
    Raises `UserError` where the place was not found.
    """
    part, model = loaded.anatomy.layers[layer], loaded.model
    if not part.joins:
        raise UserError(f"{type(model).__name__}: what {part.projection} adds to the residual cannot be measured")
    read: list[torch.Tensor] = []

    def empty(module: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        if args:
            return (torch.zeros_like(args[0]), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": torch.zeros_like(kwargs["hidden_states"])}

    def write(module: Any, args: tuple, output: torch.Tensor) -> torch.Tensor:
        rows_2D = torch.stack([torch.zeros_like(projected_D), projected_D]).to(output)
        return rows_2D[:, None].expand(2, 2, -1).reshape(output.shape)

    def keep(module: Any, args: tuple, output: Any = None) -> None:
        x = args[0] if output is None else output[0] if isinstance(output, tuple | list) else output
        read.append(x.reshape(2, 2, -1)[:, -1])

    place, block = model.get_submodule(part.joins), model.get_submodule(part.block)
    with ExitStack() as stack:
        stack.callback(block.register_forward_pre_hook(empty, with_kwargs=True).remove)
        stack.callback(model.get_submodule(part.projection).register_forward_hook(write).remove)
        register = place.register_forward_hook if place is block else place.register_forward_pre_hook
        stack.callback(register(keep).remove)
        ids = probe_ids(model)[:, :2].expand(2, -1)
        model.base_model(input_ids=ids, attention_mask=torch.ones_like(ids))
    without_D, with_D = read[0]
    return with_D.float() - without_D.float()
