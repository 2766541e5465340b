"""The states of single tokens, layer by layer, and which tokens of a passage are looked at.

    first     position 0: the sink, where a model has one there
    attended  the token of words or punctuation that draws the most attention, over all layers and heads
    largest   the one whose residual is longest beside the others of its passage, in the layer where it is so by most
    ordinary  one that is neither, where the `attended` token of another passage stands: positions are alike
    beside    one that is neither, nearest to `largest` in its own passage; of two as near, the one of shorter residuals

One of each per passage: equal numbers of tokens.

Legend: B batch, L layer, H head, T token, D residual width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from stages.families.family import Tokens
from stages.model.forward import forward, remembering
from stages.model.load import Loaded
from stages.model.measure import weighing
from stages.model.reduce import brought

KINDS = ("first", "attended", "largest", "ordinary", "beside")
EMBEDDING = -1  # the layer of what the first block reads


@dataclass(frozen=True)
class PassageStates:
    """One passage: per kind of token its position; states by layer (kinds, D); norms of all tokens over the median."""

    tokens: Tokens
    positions: dict[str, int]
    states: dict[int, np.ndarray]
    norms_LT: np.ndarray


def token_states(loaded: Loaded, batch: Sequence[Tokens], before: int) -> list[PassageStates]:
    """Run passages of one length and keep the states of chosen tokens.

    before: the position of the `attended` token of the passage before the first one.
    """
    length, layers = len(batch[0]), list(loaded.anatomy.layers)
    received_LBT = torch.zeros(len(layers), len(batch), length, dtype=torch.float64, device=loaded.device)

    def reduce(layer: int, weights_BHTS: torch.Tensor, visible_BTS: torch.Tensor, start: int) -> None:
        received_BS = weights_BHTS.double().sum(2).mean(1).to(loaded.device)
        received_LBT[layers.index(layer), :, : received_BS.shape[1]] += received_BS

    with (
        weighing(loaded, reduce),
        remembering(loaded, after=True) as residuals,
        remembering(loaded) as inputs,
    ):
        forward(loaded, [tokens.ids for tokens in batch], headless=True)
    queries_T = np.arange(length, 0, -1) if loaded.anatomy.causal else np.full(length, length)
    norms_LBT = torch.stack([residuals[layer].double().norm(dim=2).to(loaded.device) for layer in layers])
    received_BT, norms_LBT = (of.numpy() for of in brought([received_LBT.mean(0), norms_LBT]))
    norms_LBT /= np.median(norms_LBT, axis=2, keepdims=True)
    chosen = []
    for row, tokens in enumerate(batch):
        chosen.append(choose(tokens, received_BT[row] / queries_T, norms_LBT[:, row], before))
        before = chosen[-1]["attended"]
    at_Bn = torch.tensor([list(positions.values()) for positions in chosen], device=loaded.device)
    whole = {layer: residuals[layer] for layer in layers}
    whole |= {EMBEDDING: inputs[layers[0]]} if layers[0] in inputs else {}
    states = brought([_at(x_BTD, at_Bn).to(loaded.device) for x_BTD in whole.values()])
    return [
        PassageStates(
            tokens,
            chosen[row],
            {layer: x[row].numpy() for layer, x in zip(whole, states, strict=True)},
            norms_LBT[:, row],
        )
        for row, tokens in enumerate(batch)
    ]


def _at(states_BTD: torch.Tensor, at_Bn: torch.Tensor) -> torch.Tensor:
    """Return the states (B, n, D) at some positions of each row, float32."""
    at_Bn = at_Bn.to(states_BTD.device)
    return states_BTD[torch.arange(len(at_Bn), device=at_Bn.device)[:, None], at_Bn].float()


def choose(tokens: Tokens, received_T: np.ndarray, norms_LT: np.ndarray, near: int) -> dict[str, int]:
    """Return the position of each of `KINDS`; `ordinary` is the free one nearest to `near`, it may be `beside` as well.

    The last quarter of a causal passage draws attention from few queries: tokens there are not chosen.
    """
    length = len(tokens)
    plain_T = ~tokens.special & (np.arange(length) > 0) & (np.arange(length) < max(4, length - length // 4))
    longest_T = norms_LT.max(0)
    attended = int(np.where(plain_T, received_T, -np.inf).argmax())
    largest = int(np.where(plain_T, longest_T, -np.inf).argmax())
    free = [at for at in np.flatnonzero(plain_T) if at not in (attended, largest)] or [attended]
    ordinary = int(min(free, key=lambda at: (abs(at - near), at)))
    beside = int(min(free, key=lambda at: (abs(at - largest), longest_T[at], at)))
    return {"first": 0, "attended": attended, "largest": largest, "ordinary": ordinary, "beside": beside}
