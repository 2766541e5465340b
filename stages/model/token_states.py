"""The states of single tokens, layer by layer, and which tokens of a passage are looked at.

    first     position 0: the sink, where a model has one there
    attended  the token of words or punctuation that draws the most attention, over all layers and heads
    largest   the one whose residual is longest beside the others of its passage, in the layer where it is so by most
    ordinary  one that is neither, where the `attended` token of another passage stands: positions are alike

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

KINDS = ("first", "attended", "largest", "ordinary")
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
    received_LBT = torch.zeros(len(layers), len(batch), length, dtype=torch.float64)

    def reduce(layer: int, weights_BHTS: torch.Tensor, visible_BTS: torch.Tensor, start: int) -> None:
        received_LBT[layers.index(layer)] += weights_BHTS.double().sum(2).mean(1).cpu()

    with (
        weighing(loaded, reduce),
        remembering(loaded, after=True) as residuals,
        remembering(loaded) as inputs,
    ):
        forward(loaded, [tokens.ids for tokens in batch], headless=True)
    queries_T = np.arange(length, 0, -1) if loaded.anatomy.causal else np.full(length, length)
    found = []
    for row, tokens in enumerate(batch):
        norms_LT = np.stack([residuals[layer][row].double().norm(dim=1).cpu().numpy() for layer in layers])
        norms_LT /= np.median(norms_LT, axis=1, keepdims=True)
        received_T = received_LBT[:, row].mean(0).numpy() / queries_T
        positions = choose(tokens, received_T, norms_LT, before)
        before = positions["attended"]
        at = list(positions.values())
        states = {layer: residuals[layer][row, at].float().cpu().numpy() for layer in layers}
        if layers[0] in inputs:
            states[EMBEDDING] = inputs[layers[0]][row, at].float().cpu().numpy()
        found.append(PassageStates(tokens, positions, states, norms_LT))
    return found


def choose(tokens: Tokens, received_T: np.ndarray, norms_LT: np.ndarray, near: int) -> dict[str, int]:
    """Return the position of each of `KINDS`; `ordinary` is the free one nearest to `near`.

    The last quarter of a causal passage draws attention from few queries: tokens there are not chosen.
    """
    length = len(tokens)
    plain_T = ~tokens.special & (np.arange(length) > 0) & (np.arange(length) < max(4, length - length // 4))
    attended = int(np.where(plain_T, received_T, -np.inf).argmax())
    largest = int(np.where(plain_T, norms_LT.max(0), -np.inf).argmax())
    free = [at for at in np.flatnonzero(plain_T) if at not in (attended, largest)] or [attended]
    ordinary = int(min(free, key=lambda at: (abs(at - near), at)))
    return {"first": 0, "attended": attended, "largest": largest, "ordinary": ordinary}
