"""Function vectors (Todd+ ICLR 2024): what a few heads add at the last token when demonstrations show a function.

mean_outputs: z-bar_h, a head's mean last-token output over clean prompts that the model solves.
function_vector: sum over heads of W_O[:, h] z-bar_h, the bias not added per head. Where the architecture normalises the
projection's output before it joins the residual (Gemma 3, OLMo 2), the vector is scaled by that norm's gain at the mean
activation, norm(p-bar) / p-bar, so that it has the size that the residual would have received.

Legend: H head, K head size, D residual width.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from stages.model.anatomy import contribution
from stages.model.intervene import Edit, Head
from stages.model.load import Loaded


def mean_outputs(outputs: pd.DataFrame, loaded: Loaded) -> dict[Head, torch.Tensor]:
    """Return the mean output (K,) of every head over the rows of a head-output table."""
    means: dict[Head, torch.Tensor] = {}
    for (layer, head), rows in outputs.groupby(["layer", "head"]):
        size = loaded.anatomy.layers[layer].head_size
        means[layer, head] = torch.from_numpy(
            np.stack(rows.output.to_numpy())[:, :size].mean(axis=0, dtype=np.float64)
        ).float()
    return means


def in_place(means: Mapping[Head, torch.Tensor], heads: Sequence[Head]) -> Edit:
    """Write the heads' mean outputs each into its own slot: exact in any architecture."""
    return Edit(heads={head: means[head] for head in heads})


def function_vector(loaded: Loaded, means: Mapping[Head, torch.Tensor], heads: Sequence[Head]) -> torch.Tensor:
    """Return the vector (D,) of a set of heads, as it would join the residual."""
    with torch.no_grad():
        return sum(
            _written(loaded, means, layer, [h for at, h in heads if at == layer])
            for layer in sorted({at for at, _ in heads})
        )


def _written(loaded: Loaded, means: Mapping[Head, torch.Tensor], layer: int, heads: Sequence[int]) -> torch.Tensor:
    part = loaded.anatomy.layers[layer]
    device = loaded.model.device
    vector = sum(contribution(loaded.model, part, head, means[layer, head].to(device)) for head in heads)
    if part.norm is None:
        return vector
    everything = torch.cat([means[layer, head] for head in range(part.heads)]).to(device)
    projected = loaded.model.get_submodule(part.projection)(everything)
    gain = (
        loaded.model.get_submodule(part.norm)(projected) / projected
    )  # exact for RMS norms, whose gain is elementwise
    return vector * torch.where(projected.abs() > 1e-12, gain, torch.zeros_like(gain))
