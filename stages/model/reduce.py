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

What is the same for all relations (a query's attention to ordinary keys and, where asked, its most attended key) is
found once per block; the rest is read at the pairs of a relation alone. Sums stay on the device until the batch is
done.

Legend: B prompt, H head, T query token, S key token, Q query of a relation, E pair of a query and a target key,
P relation of a prompt, L layer, W word, N statistic.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from stages.families.family import Relation, Tokens
from stages.model.words import Words

HALF = 0.5  # a key (or all targets together) with more of the attention than this has most of it
SHARES = ("mass", "mass_null")
PEAKS = ("hits", "over_half", "over_half_null")  # which ask for each query's most attended key: found where they are
Learned = torch.Tensor | None  # (B, H, T), what a learned sink takes of each query's attention


@dataclass(frozen=True)
class Means:
    """One (prompt, relation): its number of queries and, per statistic, the mean over them, (L, H) float32."""

    count: int
    values: dict[str, np.ndarray]


class Sums:
    """Running sums over the queries of all relations between tokens that the prompts of a batch have.

    peaks: of the statistics of `PEAKS` as well.
    """

    def __init__(
        self,
        batch: Sequence[Tokens],
        asked: Sequence[Mapping[str, Relation]],
        layers: int,
        heads: int,
        device,
        peaks: bool = True,
    ) -> None:
        self.statistics = (*SHARES, *(PEAKS if peaks else ()))
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
        size = len(self.statistics), layers, len(owned), heads
        self.sums_NLPH = torch.zeros(*size, dtype=torch.float64, device=device)
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
        number_Q = (visible_BTS & ordinary_BS[:, None]).sum(2)[row_Q, at_Q] - summed(visible_E & ordinary_E)
        rest_BHT = (weights_BHTS @ ordinary_BS.to(weights_BHTS)[:, None, :, None])[..., 0]
        share_Q1 = torch.where(number_Q > 0, targets_Q / number_Q.clamp(min=1), 0)[:, None]  # no other key: no null
        null_QH = (rest_BHT[row_Q, :, at_Q] - target_QH).clamp(min=0) * share_Q1
        of_NQH = [mass_QH, null_QH]
        if len(self.statistics) > len(SHARES):
            top_BHT, key_BHT = weights_BHTS.max(3)
            top_QH, key_QH = top_BHT[row_Q, :, at_Q], key_BHT[row_Q, :, at_Q]
            hits_QH = (summed(key_QH[of_E] == key_E[:, None]) > 0) & (top_QH > 0)
            # one key alone can have that much
            most_QH = (top_QH > HALF) & ordinary_BS[row_Q[:, None], key_QH] & ~hits_QH
            of_NQH += [hits_QH, mass_QH > HALF, most_QH * share_Q1]
        self.sums_NLPH[:, layer, :, :heads].index_add_(1, self.owner_Q[low:high], torch.stack(of_NQH))
        self.with_null_LP[layer].index_add_(0, self.owner_Q[low:high], (number_Q > 0).double())

    @property
    def running(self) -> list[torch.Tensor]:
        """The sums, on the device."""
        return [self.sums_NLPH, self.with_null_LP]

    def means(self, sums_NLPH: torch.Tensor, with_null_LP: torch.Tensor) -> list[tuple[int, str, Means]]:
        """Return each prompt's row, a relation and its means; given: the sums, brought from the device."""
        nulls_LP1, counts_P1 = with_null_LP[..., None], torch.tensor(self.counts)[:, None]
        means = {
            statistic: _ratio(sums_LPH, nulls_LP1) if statistic.endswith("_null") else sums_LPH / counts_P1
            for statistic, sums_LPH in zip(self.statistics, sums_NLPH, strict=True)
        }
        return _means(self.names, self.counts, means)


class WordSums:
    """All relations between words that the prompts of a batch have: the queries of all of them, one after another.

    Beside mass, hits and null: attention to sinks, at words with a relation and at all others. Words that see no other
    word are left out there: they can only look at sinks.
    """

    def __init__(
        self, batch: Sequence[Tokens], asked: Sequence[Mapping[str, Relation]], layers: int, heads: int, device
    ) -> None:
        self.words = Words(batch, device)
        owned = [(row, name, relation) for row, of in enumerate(asked) for name, relation in of.items()]
        self.names = [(row, name) for row, name, _ in owned]
        self.counts = [len(relation.queries) for *_, relation in owned]
        rows_P, owner_Q = np.array([row for row, *_ in owned]), np.repeat(np.arange(len(owned)), self.counts)
        words, place_Q = self.words.member_BWT.shape[1], np.concatenate([relation.queries for *_, relation in owned])
        has_PW = np.zeros((len(owned), words), dtype=bool)
        has_PW[owner_Q, place_Q] = True
        keys_QW = np.zeros((len(owner_Q), words), dtype=bool)
        first = 0
        for *_, relation in owned:
            dense = relation.dense
            keys_QW[first : first + len(dense), : dense.shape[1]] = dense
            first += len(dense)
        arrays = (rows_P, rows_P[owner_Q], owner_Q, place_Q, has_PW, keys_QW)
        there = (torch.from_numpy(array).to(device) for array in arrays)
        self.rows_P, self.row_Q, self.owner_Q, self.place_Q, self.has_PW, self.keys_QW = there
        size = {"dtype": torch.float64, "device": device}
        self.sums_5LPH = torch.zeros(5, layers, len(owned), heads, **size)  # mass, hits, null, sink, elsewhere
        self.counted_2LP = torch.zeros(2, layers, len(owned), **size)  # queries with a null, words elsewhere

    def add(
        self, layer: int, weights_BHTS: torch.Tensor, visible_BTS: torch.Tensor, start: int, learned_BHT: Learned
    ) -> None:
        """Add a block of query tokens; the layer counts once all of them are there."""
        pooled = self.words.add(weights_BHTS, visible_BTS, start, learned_BHT)
        if pooled is None:
            return
        row_Q, place_Q, heads = self.row_Q, self.place_Q, weights_BHTS.shape[1]
        weights_QHW, visible_QW = pooled.weights_BHWW[row_Q, :, place_Q], pooled.visible_BWW[row_Q, place_Q]
        sums_3QH, number_Q = _on_target(weights_QHW, self.keys_QW, visible_QW)
        sums_4QH = torch.cat([sums_3QH, pooled.sink_BHW[row_Q, :, place_Q][None]]).double()
        rest_PW = pooled.visible_BWW.any(2)[self.rows_P] & ~self.has_PW
        self.sums_5LPH[:4, layer, :, :heads].index_add_(1, self.owner_Q, sums_4QH)
        sink_PHW = pooled.sink_BHW[self.rows_P].double()
        self.sums_5LPH[4, layer, :, :heads] += (sink_PHW @ rest_PW.double()[..., None])[..., 0]
        self.counted_2LP[0, layer].index_add_(0, self.owner_Q, (number_Q > 0).double())
        self.counted_2LP[1, layer] += rest_PW.sum(1)

    @property
    def running(self) -> list[torch.Tensor]:
        """The sums, on the device."""
        return [self.sums_5LPH, self.counted_2LP]

    def means(self, sums_5LPH: torch.Tensor, counted_2LP: torch.Tensor) -> list[tuple[int, str, Means]]:
        """Return mass, hits_word, mass_null, sink and sink_elsewhere of every relation, as `Sums.means` does."""
        mass_LPH, hits_LPH, null_LPH, sink_LPH, elsewhere_LPH = sums_5LPH
        nulls_LP1, elsewhere_LP1 = counted_2LP[..., None]
        whole = {"mass": mass_LPH, "hits_word": hits_LPH, "sink": sink_LPH}
        whole = {statistic: of_LPH / torch.tensor(self.counts)[:, None] for statistic, of_LPH in whole.items()}
        some = {"mass_null": _ratio(null_LPH, nulls_LP1), "sink_elsewhere": _ratio(elsewhere_LPH, elsewhere_LP1)}
        return _means(self.names, self.counts, whole | some)


def _on_target(
    weights_QHW: torch.Tensor, keys_QW: torch.Tensor, visible_QW: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mass, hits and null per query and head, (3, Q, H), and how many other words each query sees, (Q,)."""
    others_QW = visible_QW & ~keys_QW
    number_Q, targets_Q = others_QW.sum(1), (visible_QW & keys_QW).sum(1)
    mass_QH = (weights_QHW * keys_QW[:, None]).sum(2)
    null_QH = (weights_QHW * others_QW[:, None]).sum(2) * (targets_Q / number_Q.clamp(min=1))[:, None]
    top_QH, at_QH = weights_QHW.max(2)
    hits_QH = keys_QW.gather(1, at_QH) & (top_QH > 0)
    return torch.stack([mass_QH, hits_QH, null_QH]), number_Q  # null is 0 where there is no other word


def _means(
    names: Sequence[tuple[int, str]], counts: Sequence[int], values_LPH: Mapping[str, torch.Tensor]
) -> list[tuple[int, str, Means]]:
    """Return each prompt's row, a relation and its means, of all relations' values by statistic."""
    arrays = {statistic: of_LPH.float().numpy() for statistic, of_LPH in values_LPH.items()}
    return [
        (row, name, Means(count, {statistic: of_LPH[:, owner] for statistic, of_LPH in arrays.items()}))
        for owner, ((row, name), count) in enumerate(zip(names, counts, strict=True))
    ]


def _ratio(sums_LPH: torch.Tensor, counts_LP1: torch.Tensor) -> torch.Tensor:
    """Return means, nan where nothing was counted."""
    return torch.where(counts_LP1 > 0, sums_LPH / counts_LP1.clamp(min=1), torch.nan)


def brought(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return tensors in the processor's memory: one transfer, whatever their number."""
    if not tensors:
        return []
    parts = torch.cat([tensor.flatten() for tensor in tensors]).cpu().split([tensor.numel() for tensor in tensors])
    return [part.reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
