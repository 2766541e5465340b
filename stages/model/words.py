"""Attention between words: from blocks of attention between tokens to a word x word matrix per head (Clark+ 2019).

Attention TO a word sums over its tokens, FROM a word averages over them. What a word cannot be told apart from (itself,
words that share a token with it) and what its model does not show it (later words, words beyond a window) gets nothing.

Legend: H head, T query token, S key token, W word.
"""

from dataclasses import dataclass

import numpy as np
import torch

from stages.families.family import Tokens


@dataclass(frozen=True)
class Pooled:
    """One layer of one prompt: attention among words, which are visible to which, and attention to sinks."""

    weights_HWW: torch.Tensor
    visible_WW: torch.Tensor
    sink_HW: torch.Tensor  # to special tokens, the first token and a learned sink


class Words:
    """Pools the attention of one prompt, layer by layer, whatever the size of the blocks it comes in."""

    def __init__(self, tokens: Tokens, device: torch.device) -> None:
        member_WT = np.zeros((len(tokens.words), len(tokens)), dtype=np.float32)
        for word, places in enumerate(tokens.words):
            member_WT[word, places] = 1
        self.member_WT = torch.from_numpy(member_WT).to(device)
        self.average_WT = self.member_WT / self.member_WT.sum(1, keepdim=True)
        self.apart_WW = self.member_WT @ self.member_WT.T == 0
        sinks = np.flatnonzero(tokens.special | (np.arange(len(tokens)) == 0))
        self.sinks = torch.from_numpy(sinks).to(device)
        self.rows_HWT = self.seen_WT = self.learned_HW = torch.empty(0)

    def add(
        self,
        weights_HTS: torch.Tensor,
        visible_TS: torch.Tensor,
        start: int,
        learned_HT: torch.Tensor | None = None,
    ) -> Pooled | None:
        """Add the queries start, start + 1, ... of a layer; return the pooled layer once all queries are there.

        learned_HT: what a learned sink takes of each query's attention.
        """
        size = self.member_WT.shape[1]
        end = min(size, start + weights_HTS.shape[1])
        if start >= size:
            return None
        weights_HTS = weights_HTS[:, : end - start, :size]
        visible_TS = visible_TS[: end - start, :size].float()
        rows_HWT = self.average_WT[:, start:end] @ weights_HTS
        if learned_HT is not None:
            learned_HW = learned_HT[:, : end - start] @ self.average_WT[:, start:end].T
            self.learned_HW = learned_HW if start == 0 else self.learned_HW + learned_HW
        seen_WT = self.member_WT[:, start:end] @ visible_TS
        self.rows_HWT, self.seen_WT = (
            (rows_HWT, seen_WT) if start == 0 else (self.rows_HWT + rows_HWT, self.seen_WT + seen_WT)
        )
        if end < size:
            return None
        visible_WW = (self.seen_WT @ self.member_WT.T > 0) & self.apart_WW
        weights_HWW = (self.rows_HWT @ self.member_WT.T) * visible_WW
        sink_HW = self.rows_HWT[..., self.sinks].sum(-1)
        return Pooled(weights_HWW, visible_WW, sink_HW if learned_HT is None else sink_HW + self.learned_HW)
