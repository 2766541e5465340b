"""Rows that the LM head has yet to read: what is asked of their logits is made a piece of the vocabulary at a time.

Whole logits of a large vocabulary, a megabyte a row, leave the processor's cache and come back to be reduced. Pieces
stay in it, and are reduced as soon as they are made (Gemma 3 270M, 384 rows: 7.0 ms a row in place of 10.8, 6.5 of
them the product; one thread of a busy machine). Right only where nothing follows the head, which is proven at fetch
(`Loaded.ends`).

Legend: N scored row, D residual width, V vocabulary, P words of a piece, M target or row picked, 1 a column.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from stages.model.linear import linear

PIECE = 2048  # words at once: of some hundred rows a few megabytes
BLOCK = 64  # the largest of a row is looked for among the largest of so many: an index is slow to carry along


def plain(head: nn.Module) -> bool:
    """Say whether a head is one matrix that lies in memory and is applied as it is: no other class, hook or wrapper."""
    if type(head) is not nn.Linear or head._forward_hooks or "forward" in vars(head):
        return False
    return head.weight.device.type == "cpu"


@dataclass(frozen=True)
class Unread:
    """Hidden rows (N, D) as an LM head is given them; rows are picked and split as those of a tensor.

    read: what `reduced` gives, where the head has read them already, as part of more rows.
    """

    hidden_ND: torch.Tensor
    head: nn.Linear
    read: tuple[torch.Tensor, torch.Tensor] | None = None

    def __len__(self) -> int:
        return len(self.hidden_ND)

    def __getitem__(self, rows: Sequence[int] | torch.Tensor) -> "Unread":
        return Unread(self.hidden_ND[rows], self.head)

    def split(self, sizes: Sequence[int]) -> list["Unread"]:
        """Return consecutive parts of so many rows; the head reads those of all parts at once, now."""
        parts = (rows.split(list(sizes)) for rows in (self.hidden_ND, *self.reduced()))
        return [Unread(part_ND, self.head, (total_N, best_N)) for part_ND, total_N, best_N in zip(*parts, strict=True)]

    @torch.no_grad()
    def logits(self, rows_M: torch.Tensor, words_M: torch.Tensor) -> torch.Tensor:
        """Return the logit (M,) of one word in each of some rows, rounded as the head's own, as float32."""
        logit_M = (self.hidden_ND[rows_M].float() * self.head.weight[words_M].float()).sum(1)
        logit_M = logit_M if self.head.bias is None else logit_M + self.head.bias[words_M].float()
        return logit_M.to(self.head.weight.dtype).float()

    @torch.no_grad()
    def reduced(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logarithm of the sum of exp of all logits, and the word of the largest, (N,) each."""
        if self.read is not None:
            return self.read
        largest, words, sums = [], [], []
        for start in range(0, self.head.out_features, PIECE):
            logits_NP = self._piece(start)
            width, every_N = logits_NP.shape[1], torch.arange(len(self))
            block = BLOCK if width % BLOCK == 0 else width
            blocks = logits_NP.view(len(self), width // block, block)
            largest_N, block_N = blocks.amax(2).max(1)
            words.append(start + block_N * block + blocks[every_N, block_N].argmax(1))
            largest.append(largest_N)
            sums.append(logits_NP.sub_(largest_N[:, None]).exp_().sum(1))  # as shares of the piece's largest
        largest_XN = torch.stack(largest)
        top_N, piece_N = largest_XN.max(0)
        total_N = (torch.stack(sums) * (largest_XN - top_N).exp()).sum(0)
        return total_N.log() + top_N, torch.stack(words).gather(0, piece_N[None])[0]

    @torch.no_grad()
    def gradient(self, targets_N: torch.Tensor, weights_N: torch.Tensor) -> torch.Tensor:
        """Return the gradient of sum over n of weight_n log p(target_n) with respect to the hidden rows, (N, D).

        Of one row: (1 - p(target)) W[target] - sum over other words of p(word) W[word]. Sums are relative to the
        largest logit so far and rescaled where it grows (online softmax: Milakov & Gimelshein 2018, arXiv 1805.02867).
        The target is left out of them: where it is likely, a difference of two averages would be all rounding.
        """
        weight_VD = self.head.weight
        largest_N1 = self.hidden_ND.new_full((len(self), 1), -torch.inf, dtype=torch.float)
        own_N1, others_N1 = torch.zeros_like(largest_N1), torch.zeros_like(largest_N1)
        sums_ND = torch.zeros_like(self.hidden_ND, dtype=torch.float)
        for start in range(0, self.head.out_features, PIECE):
            logits_NP = self._piece(start)
            previous_N1, largest_N1 = largest_N1, torch.maximum(largest_N1, logits_NP.amax(1, keepdim=True))
            shares_NP, rescale_N1 = logits_NP.sub_(largest_N1).exp_(), (previous_N1 - largest_N1).exp()
            (row_M,) = torch.where((start <= targets_N) & (targets_N < start + shares_NP.shape[1]))
            own_N1 = own_N1 * rescale_N1
            own_N1[row_M, 0] = shares_NP[row_M, targets_N[row_M] - start]
            shares_NP[row_M, targets_N[row_M] - start] = 0
            others_N1 = others_N1 * rescale_N1 + shares_NP.sum(1, keepdim=True)
            sums_ND = sums_ND * rescale_N1 + shares_NP @ weight_VD[start : start + PIECE].float()
        gradient_ND = weights_N[:, None] * (others_N1 * weight_VD[targets_N].float() - sums_ND) / (own_N1 + others_N1)
        return gradient_ND.to(self.hidden_ND.dtype)

    def _piece(self, start: int) -> torch.Tensor:
        bias = self.head.bias if self.head.bias is None else self.head.bias[start : start + PIECE]
        return linear(self.hidden_ND, self.head.weight[start : start + PIECE], bias).float()


def likeliest(logits_NV: torch.Tensor | Unread) -> np.ndarray:
    """Return the word of the largest logit of each row, (N,)."""
    best_N = logits_NV.reduced()[1] if isinstance(logits_NV, Unread) else logits_NV.argmax(-1)
    return best_N.cpu().numpy()
