"""How long the states of an image's tokens are, layer by layer, and how much attention each token gets.

Legend: B image, H head, T query token, S key token, D residual width.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from stages.families.family import Tokens
from stages.model.forward import forward, remembering
from stages.model.load import Loaded
from stages.model.measure import weighing
from stages.model.reduce import brought


@torch.no_grad()
def token_norms(loaded: Loaded, batch: Sequence[Tokens]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Return, by layer, the norms (B, T) of the states after its block and the attention (B, H, T) that they get.

    Attention is what the next layer's heads give to a token, mean over the patches that look; nan after the last layer.
    All images have the same tokens.
    """
    patches_T = torch.from_numpy(~batch[0].special)
    sums: dict[int, torch.Tensor] = {}

    def add(layer: int, weights_BHTS: torch.Tensor, visible: torch.Tensor, start: int) -> None:
        looking_T = patches_T[start : start + weights_BHTS.shape[2]].to(weights_BHTS.device)
        got_BHS = weights_BHTS[:, :, looking_T].sum(2).double().to(loaded.device)
        sums[layer] = sums.get(layer, 0) + got_BHS

    with weighing(loaded, add), remembering(loaded, after=True) as residuals:
        forward(loaded, [tokens.read for tokens in batch], headless=True)
    number = int(patches_T.sum())
    following = dict(pairwise(loaded.anatomy.layers))
    norms_BT = [residual_BTD.float().norm(dim=2).to(loaded.device) for residual_BTD in residuals.values()]
    norms_BT = [norm_BT.numpy() for norm_BT in brought(norms_BT)]
    got_BHS = {layer: got / number for layer, got in zip(sums, brought(list(sums.values())), strict=True)}
    norms = {}
    for layer, norm_BT in zip(residuals, norms_BT, strict=True):
        unseen = np.full((len(norm_BT), 1, norm_BT.shape[1]), np.nan)
        norms[layer] = norm_BT, got_BHS[following[layer]].numpy() if layer in following else unseen
    return norms
