"""Attention, measured inside the attention function and reduced to relations: no T x T matrix outlives its layer.

For every query of a relation, over the keys it can see:
    mass     = sum of attention on the target keys
    hit      = the most attended key is a target
    null     = (attention on visible, non-special, non-target keys / their number) x visible targets
    over_half      = the mass is above 0.5
    over_half_null = (how many of the same other keys have more than 0.5 alone / their number) x visible targets
so the nulls are what the targets would get if they were average keys; a query with no other key to look at has none.
All are means over the prompt's queries. The numbers are the model's own: its masks, windows, soft-caps and biases are
in the weights of its own eager attention, and a key is visible where a weight is above 0. What a learned sink takes
(weights that sum to less than 1) counts as one more target of the relations that say so.

Legend: B batch, H head, T query token, S key token, Q query of a relation, K head size.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from stages.families.family import Relation, Tokens
from stages.model.forward import forward
from stages.model.intervene import capturing
from stages.model.load import Loaded
from stages.model.observe import observing, shares, softmaxes
from stages.model.score import Scored, score_rows
from stages.model.words import Words

BLOCK = 1 << 26  # attention weights held at once, at most (256 MB)
HALF = 0.5  # a key (or all targets together) with more of the attention than this has most of it
Learned = torch.Tensor | None  # (H, T), what a learned sink takes of each query's attention


@dataclass(frozen=True)
class Means:
    """One (prompt, relation): its number of queries and, per statistic, the mean over them, (L, H) float32."""

    count: int
    values: dict[str, np.ndarray]


class Sums:
    """Running sums over queries of one (prompt, relation): per layer and head, (L, H) each."""

    def __init__(self, relation: Relation, special: np.ndarray, layers: int, heads: int, device: torch.device) -> None:
        self.queries = torch.from_numpy(relation.queries).to(device)
        self.keys_QS = torch.from_numpy(relation.keys).to(device)
        self.ordinary_S = torch.from_numpy(~special).to(device)
        self.sink = relation.sink
        self.sums = torch.zeros(5, layers, heads, dtype=torch.float64)  # mass, hits, null, over_half, over_half_null
        self.with_null = torch.zeros(layers, 1, dtype=torch.float64)

    def add(
        self, layer: int, weights_HTS: torch.Tensor, visible_TS: torch.Tensor, start: int, learned_HT: Learned
    ) -> None:
        """Add the queries of one block: weights and visibility of query positions start, start + 1, ..."""
        low, high = torch.searchsorted(
            self.queries, torch.tensor([start, start + weights_HTS.shape[1]], device=self.queries.device)
        )
        if low == high:
            return
        at, keys_QS = self.queries[low:high] - start, self.keys_QS[low:high]
        size = keys_QS.shape[1]
        visible_QS, weights_HQS = visible_TS[at][:, :size], weights_HTS[:, at, :size]
        sink_HQ = learned_HT[:, at] if self.sink and learned_HT is not None else None
        sums_3HQ, number_Q = _on_target(weights_HQS, keys_QS, visible_QS, self.ordinary_S, sink_HQ)
        half_3HQ, _ = _on_target((weights_HQS > HALF).float(), keys_QS, visible_QS, self.ordinary_S, sink_HQ)
        sums_5HQ = torch.cat([sums_3HQ, sums_3HQ[:1] > HALF, half_3HQ[2:]])
        self.sums[:, layer, : len(weights_HTS)] += sums_5HQ.double().sum(2).cpu()
        self.with_null[layer] += float((number_Q > 0).sum())

    def means(self) -> Means:
        """Return mass, hits, null, over_half and its null."""
        count = len(self.queries)
        values = _means(self.sums[:3], count, self.with_null)
        values["over_half"] = (self.sums[3] / count).float().numpy()
        return Means(count, values | {"over_half_null": _ratio(self.sums[4], self.with_null)})


class WordSums:
    """All relations between the words of one prompt at once: the queries of all of them, one after another.

    Beside mass, hits and null: attention to sinks, at words with a relation and at all others. Words that see no other
    word are left out there: they can only look at sinks.
    """

    def __init__(
        self, relations: Mapping[str, Relation], tokens: Tokens, layers: int, heads: int, device: torch.device
    ) -> None:
        self.words, self.names = Words(tokens, device), list(relations)
        queries = [relation.queries for relation in relations.values()]
        owner_QR = np.repeat(np.eye(len(queries)), list(map(len, queries)), axis=0)
        has_WR = np.zeros((len(tokens.words), len(queries)), dtype=bool)
        has_WR[np.concatenate(queries), owner_QR.argmax(1)] = True
        self.queries = torch.from_numpy(np.concatenate(queries)).to(device)
        self.keys_QW = torch.from_numpy(np.concatenate([r.keys for r in relations.values()])).to(device)
        self.owner_QR, self.has_WR = torch.from_numpy(owner_QR).to(device), torch.from_numpy(has_WR).to(device)
        self.ordinary_W = torch.ones(len(tokens.words), dtype=torch.bool, device=device)
        self.sums = torch.zeros(
            5, layers, heads, len(queries), dtype=torch.float64
        )  # mass, hits, null, sink, elsewhere
        self.with_null, self.others = (torch.zeros(layers, 1, len(queries), dtype=torch.float64) for _ in range(2))

    def add(
        self, layer: int, weights_HTS: torch.Tensor, visible_TS: torch.Tensor, start: int, learned_HT: Learned
    ) -> None:
        """Add a block of query tokens; the layer counts once all of them are there."""
        pooled = self.words.add(weights_HTS, visible_TS, start, learned_HT)
        if pooled is None:
            return
        weights_HQW, visible_QW = pooled.weights_HWW[:, self.queries], pooled.visible_WW[self.queries]
        sums_3HQ, number_Q = _on_target(weights_HQW, self.keys_QW, visible_QW, self.ordinary_W)
        rest_WR = pooled.visible_WW.any(1, keepdim=True) & ~self.has_WR
        sums_4HQ = torch.cat([sums_3HQ, pooled.sink_HW[None, :, self.queries]]).double()
        heads = len(weights_HQW)
        self.sums[:4, layer, :heads] += (sums_4HQ @ self.owner_QR).cpu()
        self.sums[4, layer, :heads] += (pooled.sink_HW.double() @ rest_WR.double()).cpu()
        self.with_null[layer] += ((number_Q > 0).double() @ self.owner_QR).cpu()
        self.others[layer] += rest_WR.sum(0).cpu()

    def means(self) -> dict[str, Means]:
        """Return mass, hits_word, null, sink and sink_elsewhere of every relation."""
        counts, means = self.owner_QR.sum(0).int().tolist(), {}
        for index, (name, count) in enumerate(zip(self.names, counts, strict=True)):
            values = _means(self.sums[:3, ..., index], count, self.with_null[..., index])
            values["hits_word"] = values.pop("hits")
            values["sink"] = (self.sums[3, ..., index] / count).float().numpy()
            values["sink_elsewhere"] = _ratio(self.sums[4, ..., index], self.others[..., index])
            means[name] = Means(count, values)
        return means


def _on_target(
    weights_HQS: torch.Tensor,
    keys_QS: torch.Tensor,
    visible_QS: torch.Tensor,
    ordinary_S: torch.Tensor,
    sink_HQ: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mass, hits and null per head and query, (3, H, Q), and how many other keys each query sees, (Q,).

    sink_HQ: attention to a learned sink that is a target too; it is no token, so it is hit by none.
    """
    others_QS = visible_QS & ordinary_S & ~keys_QS
    number_Q, targets_Q = others_QS.sum(1), (visible_QS & keys_QS).sum(1)
    mass_HQ = (weights_HQS * keys_QS).sum(2)
    if sink_HQ is not None:
        mass_HQ, targets_Q = mass_HQ + sink_HQ, targets_Q + 1
    null_HQ = (weights_HQS * others_QS).sum(2) * (targets_Q / number_Q.clamp(min=1))
    top_HQ, at_HQ = weights_HQS.max(2)
    hits_HQ = keys_QS.expand_as(weights_HQS).gather(2, at_HQ[..., None])[..., 0] & (top_HQ > 0)
    return torch.stack([mass_HQ, hits_HQ, null_HQ]), number_Q  # null is 0 where there is no other key


def _means(sums_3LH: torch.Tensor, count: int, with_null_L1: torch.Tensor) -> dict[str, np.ndarray]:
    mass_LH, hits_LH, null_LH = sums_3LH
    values = {"mass": (mass_LH / count).float().numpy(), "hits": (hits_LH / count).float().numpy()}
    return values | {"null": _ratio(null_LH, with_null_L1)}


def _ratio(sums_LH: torch.Tensor, counts_L1: torch.Tensor) -> np.ndarray:
    """Return means as float32, nan where nothing was counted."""
    return torch.where(counts_L1 > 0, sums_LH / counts_L1.clamp(min=1), torch.nan).float().numpy()


@dataclass(frozen=True)
class Measured:
    """One batch's findings: per prompt the means by relation name and its scored target; per layer z (B, T, H K)."""

    means: list[dict[str, Means]]
    scored: list[Scored | None]
    outputs: dict[int, torch.Tensor]


def measure(loaded: Loaded, batch: Sequence[Tokens], relations: Sequence[Mapping[str, Relation]]) -> Measured:
    """Run one batch; measure relations, score targets (decoders only), capture head outputs.

    Arrays of the means are indexed by block number; blocks without attention have zeros there.
    """
    layers, device = loaded.anatomy.layers, loaded.device
    shape = max(layers) + 1, max(layer.heads for layer in layers.values()), device
    sums: list[dict[str, Sums]] = []
    words: list[WordSums | None] = []
    for tokens, asked in zip(batch, relations, strict=True):
        sums.append({name: Sums(r, tokens.special, *shape) for name, r in asked.items() if not r.words})
        between = {name: relation for name, relation in asked.items() if relation.words}
        words.append(WordSums(between, tokens, *shape) if between else None)

    def reduce(layer: int, weights_BHTS: torch.Tensor, visible_BTS: torch.Tensor, start: int) -> None:
        weights_BHTS, visible_BTS = weights_BHTS.to(device), visible_BTS.to(device)
        learned_BHT = (1 - weights_BHTS.sum(3)).clamp(min=0) if layers[layer].sink else [None] * len(batch)
        for row in range(len(batch)):
            for summing in [*sums[row].values(), *filter(None, [words[row]])]:
                summing.add(layer, weights_BHTS[row], visible_BTS[row], start, learned_BHT[row])

    targets = [tokens.target if loaded.kind == "decoder" else tokens.target[:0] for tokens in batch]
    rows = [target - 1 for target in targets] if sum(map(len, targets)) else None
    with weighing(loaded, reduce), capturing(loaded) as outputs:
        logits_NV = forward(loaded, [tokens.read for tokens in batch], rows, headless=rows is None)
    scored = [None] * len(batch) if rows is None else score_rows(logits_NV, [t.ids for t in batch], targets)
    means = [
        {name: summed.means() for name, summed in of_prompt.items()} | (between.means() if between else {})
        for of_prompt, between in zip(sums, words, strict=True)
    ]
    return Measured(means, scored, outputs)


@contextmanager
def weighing(loaded: Loaded, reduce: Callable, held: int = BLOCK) -> Iterator[None]:
    """Call `reduce(layer, weights (B, H, T, S), visible (B, T, S), first query)` for every block of queries.

    weights: float32, whatever the model computes in. visible: some head of the layer gives the key a weight above 0,
    whatever masks say. held: attention weights in a block, at most (one query at least).
    """
    numbers = {loaded.model.get_submodule(x.attention): number for number, x in loaded.anatomy.layers.items()}

    def observer(eager, module, query, key, value, mask, **kwargs):
        if module not in numbers:
            return eager(module, query, key, value, mask, **kwargs)
        (batch, heads, length), span = query.shape[:3], key.shape[2]
        whole = not loaded.divides or kwargs.get("position_bias") is not None
        step = length if whole else max(1, held // (batch * heads * span))
        outputs = []
        for start in range(0, length, step):
            piece = mask if mask is None or mask.shape[2] == 1 else mask[:, :, start : start + step]
            output, weights_BHTS = eager(module, query[:, :, start : start + step], key, value, piece, **kwargs)
            if loaded.anatomy.layers[numbers[module]].sink:
                weights_BHTS = shares(weights_BHTS, value, output)
            reduce(numbers[module], weights_BHTS.float(), (weights_BHTS > 0).any(1), start)
            outputs.append(output)
        return torch.cat(outputs, dim=1), None

    def softmaxed(module: torch.nn.Module, weights: torch.Tensor) -> None:
        heads = loaded.anatomy.layers[numbers[module]].heads
        weights_BHTS = weights if weights.dim() == 4 else weights.unflatten(0, (-1, heads))
        reduce(numbers[module], weights_BHTS.float(), (weights_BHTS > 0).any(1), 0)

    watching = observing(loaded.model, observer) if loaded.anatomy.observed else softmaxes(numbers, softmaxed)
    with watching:
        yield
