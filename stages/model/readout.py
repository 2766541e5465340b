"""What vectors say: read through the model's own last norm and unembedding; and words as vectors.

Legend: N vector, D residual width, V vocabulary, W word, P prompt.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from stages.families.family import Tokens
from stages.model.forward import forward, resuming
from stages.model.load import Loaded
from stages.model.probe import probe_ids
from stages.model.tokens import first_answering


@torch.no_grad()
def read_out(loaded: Loaded, vectors_ND: torch.Tensor) -> torch.Tensor:
    """Return the logits (N, V) of a model whose last block gave these vectors: the last norm, then the unembedding.

    What follows the last block runs as it is, whatever it is, in a pass of two tokens per vector (logit lens,
    nostalgebraist 2020).
    """

    def give(module: Any, args: tuple, output: Any) -> Any:
        x_NTD = (output[0] if isinstance(output, tuple | list) else output).clone()
        x_NTD[:, -1] = vectors_ND.to(x_NTD)
        return (x_NTD, *output[1:]) if isinstance(output, tuple | list) else x_NTD

    ids = probe_ids(loaded.model)[0, :2].cpu().numpy()
    nothing_NTD = vectors_ND.new_zeros(len(vectors_ND), len(ids), vectors_ND.shape[1]).to(loaded.device)
    handle = loaded.model.get_submodule(loaded.anatomy.blocks[-1]).register_forward_hook(give)
    try:
        with resuming(loaded, max(loaded.anatomy.layers), nothing_NTD):  # what earlier blocks do is overwritten
            return forward(loaded, [ids] * len(vectors_ND), [np.array([1])] * len(vectors_ND))
    finally:
        handle.remove()


def likeliest(loaded: Loaded, logits_NV: torch.Tensor, number: int) -> list[list[str]]:
    """Return the texts of the likeliest tokens, the most likely first."""
    return [[loaded.tokenizer.decode([token]) for token in row] for row in logits_NV.topk(number).indices.tolist()]


def standing(logits_NV: torch.Tensor, tokens_W: Sequence[int]) -> np.ndarray:
    """Return the mean share (N,) of the vocabulary that is less likely than each of some tokens: 0.5 by chance."""
    asked_NW = logits_NV[:, torch.as_tensor(tokens_W, device=logits_NV.device)]
    rows = zip(logits_NV, asked_NW, strict=True)
    shares = [(row_V < asked_W[:, None]).float().mean() for row_V, asked_W in rows]
    return torch.stack(shares).double().cpu().numpy()


@torch.no_grad()
def embedded(loaded: Loaded, prompts: Sequence[Tokens]) -> torch.Tensor:
    """Return the mean input embedding (P, D) of each target's tokens, without the blanks that it begins with.

    As they stand after the prompt: a word alone may begin with a token that it has nowhere else (Llama 2, Mistral).
    """
    table = loaded.model.get_input_embeddings()
    ids = [tokens.ids[tokens.target[first_answering(loaded, tokens) :]] for tokens in prompts]
    return torch.stack([table(torch.as_tensor(row, device=loaded.device)).float().mean(0) for row in ids])
