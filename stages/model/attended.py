"""What every head looks at from a few positions of one prompt. Legend: B batch, H head, T query token, S key token."""

import numpy as np
import torch

from stages.families.family import Tokens
from stages.model.forward import forward
from stages.model.load import Loaded
from stages.model.measure import weighing


class Attention:
    """What the heads of a model look at: `Attention(loaded)(tokens, queries)`; the same is never run twice."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self._known: dict[tuple, dict[int, np.ndarray]] = {}  # (prompt, queries) -> attention

    def __call__(self, tokens: Tokens, queries: np.ndarray) -> dict[int, np.ndarray]:
        """Return attention by block, (H, S + 1): the mean over the queries, and last what a learned sink takes."""
        key = (tokens.prompt, *queries.tolist())
        if key not in self._known:
            self._known[key] = self._run(tokens, queries)
        return self._known[key]

    def _run(self, tokens: Tokens, queries: np.ndarray) -> dict[int, np.ndarray]:
        sums: dict[int, torch.Tensor] = {}

        def add(layer: int, weights_BHTS: torch.Tensor, visible_BTS: torch.Tensor, start: int) -> None:
            inside = queries[(queries >= start) & (queries < start + weights_BHTS.shape[2])] - start
            sum_HS = weights_BHTS[0, :, torch.from_numpy(inside).to(weights_BHTS.device)].double().sum(1).cpu()
            if layer not in sums:
                sums[layer] = sum_HS.new_zeros(len(sum_HS), len(tokens))
            sums[layer][:, : sum_HS.shape[1]] += sum_HS

        with weighing(self.loaded, add):
            forward(self.loaded, [tokens.ids], None, headless=True)
        attention = {}
        for layer, sum_HS in sums.items():
            mean_HS = sum_HS.numpy() / len(queries)
            rest_H = (1 - mean_HS.sum(1)).clip(min=0) * self.loaded.anatomy.layers[layer].sink
            attention[layer] = np.c_[mean_HS, rest_H]
        return attention
