"""Attention between words: from blocks of attention between tokens to a word x word matrix per head (Clark+ 2019).

Attention TO a word sums over its tokens, FROM a word averages over them. What a word cannot be told apart from (itself,
words that share a token with it) and what its model does not show it (later words, words beyond a window) gets nothing.
All prompts of a batch are pooled at once, with as many words as the longest: those that a prompt lacks have no tokens.

Legend: B prompt, H head, T query token, S key token, W word.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from stages.families.family import Tokens


@dataclass(frozen=True)
class Pooled:
    """One layer of a batch: attention among words, which are visible to which, and attention to sinks."""

    weights_BHWW: torch.Tensor
    visible_BWW: torch.Tensor
    sink_BHW: torch.Tensor  # to special tokens, the first token and a learned sink


class Words:
    """Pools the attention of a batch, layer by layer, whatever the size of the blocks it comes in."""

    def __init__(self, batch: Sequence[Tokens], device: torch.device) -> None:
        width = max(map(len, batch))
        member_BWT = np.zeros((len(batch), max(len(tokens.words) for tokens in batch), width), dtype=np.float32)
        sink_BT = np.zeros((len(batch), width), dtype=np.float32)
        for row, tokens in enumerate(batch):
            for word, places in enumerate(tokens.words):
                member_BWT[row, word, places] = 1
            sink_BT[row, : len(tokens)] = tokens.special | (np.arange(len(tokens)) == 0)
        self.member_BWT = torch.from_numpy(member_BWT).to(device)
        self.sink_B1T1 = torch.from_numpy(sink_BT).to(device)[:, None, :, None]
        self.average_BWT = self.member_BWT / self.member_BWT.sum(2, keepdim=True).clamp(min=1)
        self.apart_BWW = self.member_BWT @ self.member_BWT.mT == 0
        self.rows_BHWT = self.seen_BWT = self.learned_BHW = torch.empty(0)

    def add(
        self,
        weights_BHTS: torch.Tensor,
        visible_BTS: torch.Tensor,
        start: int,
        learned_BHT: torch.Tensor | None = None,
    ) -> Pooled | None:
        """Add the queries start, start + 1, ... of a layer; return the pooled layer once all queries are there.

        learned_BHT: what a learned sink takes of each query's attention.
        """
        end = start + weights_BHTS.shape[2]
        average_BWT = self.average_BWT[..., start:end]
        rows_BHWT = average_BWT[:, None] @ weights_BHTS
        if learned_BHT is not None:
            learned_BHW = learned_BHT @ average_BWT.mT
            self.learned_BHW = learned_BHW if start == 0 else self.learned_BHW + learned_BHW
        seen_BWT = self.member_BWT[..., start:end] @ visible_BTS.float()
        self.rows_BHWT, self.seen_BWT = (
            (rows_BHWT, seen_BWT) if start == 0 else (self.rows_BHWT + rows_BHWT, self.seen_BWT + seen_BWT)
        )
        if end < self.member_BWT.shape[2]:
            return None
        visible_BWW = (self.seen_BWT @ self.member_BWT.mT > 0) & self.apart_BWW
        weights_BHWW = (self.rows_BHWT @ self.member_BWT.mT[:, None]) * visible_BWW[:, None]
        sink_BHW = (self.rows_BHWT @ self.sink_B1T1)[..., 0]
        return Pooled(weights_BHWW, visible_BWW, sink_BHW if learned_BHT is None else sink_BHW + self.learned_BHW)
