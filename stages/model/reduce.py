"""From blocks of attention weights to means over the queries of relations, all prompts of a batch at once.

For every query of a relation, over the keys it can see:
    mass      = sum of attention on the target keys
    hit       = the most attended key is a target
    mass_null = (attention on visible, non-special, non-target keys / their number) x visible targets
    over_half      = the mass is above 0.5
    over_half_null = (how many of the same other keys have more than 0.5 alone / their number) x visible targets
so the nulls are what the targets would get if they were average keys; a query with no other key to look at has none.
All are means over the prompt's queries. What a learned sink takes (weights that sum to less than 1) counts as one more
target of the relations that say so.

What is the same for all relations (a query's most attended key, its attention to ordinary keys) is found once per
block; the rest is read at the pairs of a relation alone. Sums stay on the device until the batch is done.

Legend: B prompt, H head, T query token, S key token, Q query of a relation, E pair of a query and a target key,
P relation of a prompt, L layer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from stages.families.family import Relation, Tokens
from stages.model.words import Words

HALF = 0.5  # a key (or all targets together) with more of the attention than this has most of it
STATISTICS = ("mass", "hits", "mass_null", "over_half", "over_half_null")
Learned = torch.Tensor | None  # (B, H, T), what a learned sink takes of each query's attention


@dataclass(frozen=True)
class Means:
    """One (prompt, relation): its number of queries and, per statistic, the mean over them, (L, H) float32."""

    count: int
    values: dict[str, np.ndarray]


class Sums:
    """Running sums over the queries of all relations between tokens that the prompts of a batch have."""

    def __init__(
        self, batch: Sequence[Tokens], asked: Sequence[Mapping[str, Relation]], layers: int, heads: int, device
    ) -> None:
        owned = [(row, name, relation) for row, of in enumerate(asked) for name, relation in of.items()]
        self.names = [(row, name) for row, name, _ in owned]
        self.counts = [len(relation.queries) for *_, relation in owned]
        rows_P = np.array([row for row, *_ in owned], dtype=np.int64)
        owner_Q = np.repeat(np.arange(len(owned)), self.counts)
        at_Q = np.concatenate([[], *(relation.queries for *_, relation in owned)]).astype(np.int64)
        order_Q = np.argsort(at_Q, kind="stable")  # queries that stand in a block are neighbours
        place_Q = np.argsort(order_Q, kind="stable")
        firsts_P = np.cumsum([0, *self.counts])[:-1]
        pairs = [relation.pairs for *_, relation in owned]
        query_E = np.concatenate([[], *(first + rows for first, (rows, _) in zip(firsts_P, pairs, strict=True))])
        query_E = place_Q[query_E.astype(np.int64)]
        key_E = np.concatenate([[], *(keys for _, keys in pairs)]).astype(np.int64)
        order_E = np.argsort(query_E, kind="stable")
        self.at_Q, self.query_E = at_Q[order_Q], query_E[order_E]  # here: they say what a block needs

        def there(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(array).to(device)

        sinks_P = np.array([relation.sink for *_, relation in owned], dtype=bool)
        self.owner_Q, self.row_Q = there(owner_Q[order_Q]), there(rows_P[owner_Q][order_Q])
        self.sink_Q, self.place_Q = there(sinks_P[owner_Q][order_Q]), there(self.at_Q)
        self.of_E, self.key_E = there(self.query_E), there(key_E[order_E])
        width = max(map(len, batch))
        ordinary_BS = np.zeros((len(batch), width), dtype=bool)
        for row, tokens in enumerate(batch):
            ordinary_BS[row, : len(tokens)] = ~tokens.special
        self.ordinary_BS = there(ordinary_BS)
        self.sums_5LPH = torch.zeros(5, layers, len(owned), heads, dtype=torch.float64, device=device)
        self.with_null_LP = torch.zeros(layers, len(owned), dtype=torch.float64, device=device)

    def add(
        self, layer: int, weights_BHTS: torch.Tensor, visible_BTS: torch.Tensor, start: int, learned_BHT: Learned
    ) -> None:
        """Add the queries of one block: weights and visibility of query positions start, start + 1, ..."""
        low, high = np.searchsorted(self.at_Q, [start, start + weights_BHTS.shape[2]])
        if low == high:
            return
        first, last = np.searchsorted(self.query_E, [low, high])
        ordinary_BS = self.ordinary_BS[:, : weights_BHTS.shape[3]]
        row_Q, at_Q, of_E = self.row_Q[low:high], self.place_Q[low:high] - start, self.of_E[first:last] - low
        row_E, at_E, key_E = row_Q[of_E], at_Q[of_E], self.key_E[first:last]
        count, heads = high - low, weights_BHTS.shape[1]

        def summed(values: torch.Tensor) -> torch.Tensor:
            """Sum what pairs have, (E, ...), over the pairs of each query, (Q, ...)."""
            nothing = values.new_zeros(count, *values.shape[1:], dtype=torch.float64)
            return nothing.index_add_(0, of_E, values.double())

        weight_EH = weights_BHTS[row_E, :, at_E, key_E]
        ordinary_E, visible_E = ordinary_BS[row_E, key_E], visible_BTS[row_E, at_E, key_E]
        mass_QH, target_QH = summed(weight_EH), summed(weight_EH * ordinary_E[:, None])
        targets_Q = summed(visible_E)
        if learned_BHT is not None:
            mass_QH += learned_BHT[row_Q, :, at_Q] * self.sink_Q[low:high, None]
            targets_Q += self.sink_Q[low:high]
        top_BHT, key_BHT = weights_BHTS.max(3)
        top_QH, key_QH = top_BHT[row_Q, :, at_Q], key_BHT[row_Q, :, at_Q]
        hits_QH = (summed(key_QH[of_E] == key_E[:, None]) > 0) & (top_QH > 0)
        number_Q = (visible_BTS & ordinary_BS[:, None]).sum(2)[row_Q, at_Q] - summed(visible_E & ordinary_E)
        rest_BHT = (weights_BHTS @ ordinary_BS.to(weights_BHTS)[:, None, :, None])[..., 0]
        share_Q1 = torch.where(number_Q > 0, targets_Q / number_Q.clamp(min=1), 0)[:, None]  # no other key: no null
        null_QH = (rest_BHT[row_Q, :, at_Q] - target_QH).clamp(min=0) * share_Q1
        most_QH = (top_QH > HALF) & ordinary_BS[row_Q[:, None], key_QH] & ~hits_QH  # only one key can have that much
        of_5QH = torch.stack([mass_QH, hits_QH, null_QH, mass_QH > HALF, most_QH * share_Q1])
        self.sums_5LPH[:, layer, :, :heads].index_add_(1, self.owner_Q[low:high], of_5QH)
        self.with_null_LP[layer].index_add_(0, self.owner_Q[low:high], (number_Q > 0).double())

    @property
    def running(self) -> list[torch.Tensor]:
        """The sums, on the device."""
        return [self.sums_5LPH, self.with_null_LP]

    def means(self, sums_5LPH: torch.Tensor, with_null_LP: torch.Tensor) -> list[tuple[int, str, Means]]:
        """Return each prompt's row, a relation and its means; given: the sums, brought from the device."""
        result = []
        for owner, ((row, name), count) in enumerate(zip(self.names, self.counts, strict=True)):
            with_null_L1 = with_null_LP[:, owner, None]
            of_LH = dict(zip(STATISTICS, sums_5LPH[:, :, owner], strict=True))
            values = {statistic: (of_LH[statistic] / count).float().numpy() for statistic in ("mass", "hits")}
            values["mass_null"] = _ratio(of_LH["mass_null"], with_null_L1)
            values["over_half"] = (of_LH["over_half"] / count).float().numpy()
            values["over_half_null"] = _ratio(of_LH["over_half_null"], with_null_L1)
            result.append((row, name, Means(count, values)))
        return result


class WordSums:
    """All relations between the words of one prompt at once: the queries of all of them, one after another.

    Beside mass, hits and null: attention to sinks, at words with a relation and at all others. Words that see no other
    word are left out there: they can only look at sinks.
    """

    def __init__(
        self, row: int, relations: Mapping[str, Relation], tokens: Tokens, layers: int, heads: int, device
    ) -> None:
        self.row, self.words, self.names = row, Words(tokens, device), list(relations)
        queries = [relation.queries for relation in relations.values()]
        self.counts = list(map(len, queries))
        owner_QR = np.repeat(np.eye(len(queries)), self.counts, axis=0)
        has_WR = np.zeros((len(tokens.words), len(queries)), dtype=bool)
        has_WR[np.concatenate(queries), owner_QR.argmax(1)] = True
        self.queries = torch.from_numpy(np.concatenate(queries)).to(device)
        self.keys_QW = torch.from_numpy(np.concatenate([r.dense for r in relations.values()])).to(device)
        self.owner_QR, self.has_WR = torch.from_numpy(owner_QR).to(device), torch.from_numpy(has_WR).to(device)
        size = {"dtype": torch.float64, "device": device}
        self.sums = torch.zeros(5, layers, heads, len(queries), **size)  # mass, hits, null, sink, elsewhere
        self.counted = torch.zeros(2, layers, 1, len(queries), **size)  # queries with a null, words elsewhere

    def add(
        self, layer: int, weights_BHTS: torch.Tensor, visible_BTS: torch.Tensor, start: int, learned_BHT: Learned
    ) -> None:
        """Add a block of query tokens; the layer counts once all of them are there."""
        learned_HT = None if learned_BHT is None else learned_BHT[self.row]
        pooled = self.words.add(weights_BHTS[self.row], visible_BTS[self.row], start, learned_HT)
        if pooled is None:
            return
        weights_HQW, visible_QW = pooled.weights_HWW[:, self.queries], pooled.visible_WW[self.queries]
        sums_3HQ, number_Q = _on_target(weights_HQW, self.keys_QW, visible_QW)
        rest_WR = pooled.visible_WW.any(1, keepdim=True) & ~self.has_WR
        sums_4HQ = torch.cat([sums_3HQ, pooled.sink_HW[None, :, self.queries]]).double()
        heads = len(weights_HQW)
        self.sums[:4, layer, :heads] += sums_4HQ @ self.owner_QR
        self.sums[4, layer, :heads] += pooled.sink_HW.double() @ rest_WR.double()
        self.counted[0, layer] += (number_Q > 0).double() @ self.owner_QR
        self.counted[1, layer] += rest_WR.sum(0)

    @property
    def running(self) -> list[torch.Tensor]:
        """The sums, on the device."""
        return [self.sums, self.counted]

    def means(self, sums: torch.Tensor, counted: torch.Tensor) -> list[tuple[int, str, Means]]:
        """Return mass, hits_word, mass_null, sink and sink_elsewhere of every relation, as `Sums.means` does."""
        result = []
        for index, (name, count) in enumerate(zip(self.names, self.counts, strict=True)):
            mass_LH, hits_LH, null_LH, sink_LH, elsewhere_LH = sums[..., index]
            values = {"mass": mass_LH, "hits_word": hits_LH, "sink": sink_LH}
            values = {statistic: (of / count).float().numpy() for statistic, of in values.items()}
            values["mass_null"] = _ratio(null_LH, counted[0, ..., index])
            values["sink_elsewhere"] = _ratio(elsewhere_LH, counted[1, ..., index])
            result.append((self.row, name, Means(count, values)))
        return result


def _on_target(
    weights_HQW: torch.Tensor, keys_QW: torch.Tensor, visible_QW: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mass, hits and null per head and query, (3, H, Q), and how many other words each query sees, (Q,)."""
    others_QW = visible_QW & ~keys_QW
    number_Q, targets_Q = others_QW.sum(1), (visible_QW & keys_QW).sum(1)
    mass_HQ = (weights_HQW * keys_QW).sum(2)
    null_HQ = (weights_HQW * others_QW).sum(2) * (targets_Q / number_Q.clamp(min=1))
    top_HQ, at_HQ = weights_HQW.max(2)
    hits_HQ = keys_QW.expand_as(weights_HQW).gather(2, at_HQ[..., None])[..., 0] & (top_HQ > 0)
    return torch.stack([mass_HQ, hits_HQ, null_HQ]), number_Q  # null is 0 where there is no other word


def _ratio(sums_LH: torch.Tensor, counts_L1: torch.Tensor) -> np.ndarray:
    """Return means as float32, nan where nothing was counted."""
    return torch.where(counts_L1 > 0, sums_LH / counts_L1.clamp(min=1), torch.nan).float().numpy()


def brought(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return tensors in the processor's memory: one transfer, whatever their number."""
    if not tensors:
        return []
    parts = torch.cat([tensor.flatten() for tensor in tensors]).cpu().split([tensor.numel() for tensor in tensors])
    return [part.reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
