"""Prompts that run together, a row each, over and over from some layer up: what `stages.memory` edits.

`stages.model.score.Batch` runs alike prompts once; here every prompt keeps a row of its own, since the same prompt may
be read under different edits, and the place of a token in a row stays what it is.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch

from stages.families.family import Tokens
from stages.model.forward import forward, prefill, remembering, resuming
from stages.model.load import Loaded
from stages.model.prefixes import frozen
from stages.model.score import Scored, score_rows


class Rows:
    """Prompts with the token positions to score in each (predicted by the position before).

    shared: what all begin with runs once, up to so many tokens at most: those before anything that is edited.
    kept: remember residuals, for `again`.
    cut: how many tokens are shared; tails: the ids that rows run; rows: where they are read; width: of a padded row.
    """

    def __init__(
        self,
        loaded: Loaded,
        prompts: Sequence[Tokens],
        positions: Sequence[np.ndarray],
        shared: int = 0,
        kept: bool = True,
    ) -> None:
        self.loaded, self.prompts, self.positions = loaded, prompts, positions
        self.ids = [tokens.ids for tokens in prompts]
        shared = min([shared, *(int(at.min()) - 1 for at in positions)])
        self.cut = alike(self.ids, shared) if loaded.caches and shared > 0 else 0
        self.tails = [ids[self.cut : at.max()] for ids, at in zip(self.ids, positions, strict=True)]
        self.rows = [at - 1 - self.cut for at in positions]
        self.width = max(map(len, self.tails))
        self.prefix = frozen(prefill(loaded, [self.ids[0][: self.cut]])) if self.cut else None
        with remembering(loaded) if kept else nullcontext({}) as residuals:
            self.intact = self.scored()
        self.residuals = dict(residuals)

    def logits(self) -> torch.Tensor:
        """Return the logits (N, V) of all scored rows, under whatever hooks the caller has set."""
        return forward(self.loaded, self.tails, self.rows, self.prefix)

    def scored(self) -> list[Scored]:
        """Score all rows, under whatever hooks the caller has set."""
        logits_NV = forward(self.loaded, self.tails, self.rows, self.prefix, whole=False)
        return score_rows(logits_NV, self.ids, self.positions)

    def again(self, layer: int, copies: int = 1) -> list[Scored]:
        """Score so many copies of the batch, one after the other, from a layer up, below which nothing differs."""
        residual_BTD = self.residuals.get(layer)
        residual_BTD = residual_BTD if residual_BTD is None else residual_BTD.repeat(copies, 1, 1)
        with resuming(self.loaded, layer, residual_BTD):
            logits_NV = forward(self.loaded, self.tails * copies, self.rows * copies, self.prefix, whole=False)
        return score_rows(logits_NV, self.ids * copies, list(self.positions) * copies)


def alike(ids: Sequence[np.ndarray], most: int) -> int:
    """Return how many tokens all texts begin with, so many at most."""
    width = min([most, *map(len, ids)])
    heads = np.stack([row[:width] for row in ids])
    return int((heads == heads[0]).all(axis=0).cumprod().sum())
