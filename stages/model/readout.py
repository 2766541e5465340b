"""What vectors say: read through the model's own last norm and unembedding; and words as vectors.

Legend: N vector, D residual width, V vocabulary, W word.
"""

from collections.abc import Sequence
from typing import Any

import torch

from stages.families.family import Tokens
from stages.model.forward import forward
from stages.model.load import Loaded
from stages.model.probe import probe_ids
from stages.model.score import residuals_after


@torch.no_grad()
def read_out(loaded: Loaded, vectors_ND: torch.Tensor) -> torch.Tensor:
    """Return the logits (N, V) of a model whose last block gave these vectors, whatever follows that block."""

    def give(module: Any, args: tuple, output: Any) -> Any:
        x_NTD = (output[0] if isinstance(output, tuple | list) else output).clone()
        x_NTD[:, -1] = vectors_ND.to(x_NTD)
        return (x_NTD, *output[1:]) if isinstance(output, tuple | list) else x_NTD

    ids = probe_ids(loaded.model)[0, :2].cpu().numpy()
    handle = loaded.model.get_submodule(loaded.anatomy.blocks[-1]).register_forward_hook(give)
    try:
        return forward(loaded, [ids] * len(vectors_ND), [[1]] * len(vectors_ND))
    finally:
        handle.remove()


def likeliest(loaded: Loaded, logits_NV: torch.Tensor, number: int) -> list[list[str]]:
    """Return the texts of the likeliest tokens, the most likely first."""
    return [[loaded.tokenizer.decode([token]) for token in row] for row in logits_NV.topk(number).indices.tolist()]


@torch.no_grad()
def embedded(loaded: Loaded, words: Sequence[str]) -> torch.Tensor:
    """Return the mean input embedding (W, D) of the tokens of ' word'."""
    table = loaded.model.get_input_embeddings()
    ids = [loaded.tokenizer(f" {word}", add_special_tokens=False).input_ids for word in words]
    return torch.stack([table(torch.tensor(row, device=loaded.model.device)).float().mean(0) for row in ids])


def states(loaded: Loaded, prompts: Sequence[Tokens], layer: int) -> torch.Tensor:
    """Return the residual (W, D) after a layer at the last tokens of prompts, the targets left away."""
    return residuals_after(loaded, prompts)[layer].float()
