"""Attention, measured inside the attention function and reduced to relations: no T x T matrix outlives its layer.

For every query of a relation, over the keys it can see:
    mass     = sum of attention on the target keys
    hit      = the most attended key is a target
    null     = (attention on visible, non-special, non-target keys / their number) x visible targets
so `null` is what the targets would get if they were average keys; a query with no other key to look at has none.
`mass`, `hits` and `null` are means over the prompt's queries. The numbers are the model's own: its masks, windows,
soft-caps and biases are in the weights that its own eager attention returns.

Legend: B batch, H head, T query token, S key token, Q query of a relation, K head size.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from stages.heads.family import Relation, Tokens
from stages.model.anatomy import observing
from stages.model.forward import forward
from stages.model.intervene import capturing
from stages.model.load import Loaded
from stages.model.score import Scored, score_rows
from stages.model.words import Pooled, Words

BLOCK = 1 << 26  # attention weights held at once, at most (256 MB)


class Sums:
    """Running sums over queries of one (prompt, relation): per layer and head, (L, H) each."""

    def __init__(self, relation: Relation, special: np.ndarray, layers: int, heads: int, device: torch.device) -> None:
        self.queries = torch.from_numpy(relation.queries).to(device)
        self.keys_QS = torch.from_numpy(relation.keys).to(device)
        self.ordinary_S = torch.from_numpy(~special).to(device)
        self.count = len(relation.queries)
        self.mass, self.hits, self.null, self.with_null = (
            torch.zeros(layers, heads, dtype=torch.float64) for _ in range(4)
        )

    def add(self, layer: int, weights_HTS: torch.Tensor, visible_TS: torch.Tensor | None, start: int) -> None:
        """Add the queries of one block: weights and visibility of query positions start, start + 1, ..."""
        low, high = torch.searchsorted(
            self.queries, torch.tensor([start, start + weights_HTS.shape[1]], device=self.queries.device)
        )
        if low == high:
            return
        at, keys_QS = self.queries[low:high] - start, self.keys_QS[low:high]
        size = keys_QS.shape[1]
        weights_HQS = weights_HTS[:, at, :size]
        visible_QS = torch.ones_like(keys_QS) if visible_TS is None else visible_TS[at][:, :size]
        others_QS = visible_QS & self.ordinary_S & ~keys_QS
        number = others_QS.sum(1)
        mass_HQ = (weights_HQS * keys_QS).sum(2)
        null_HQ = (weights_HQS * others_QS).sum(2) * ((visible_QS & keys_QS).sum(1) / number.clamp(min=1))
        top_HQ, at_HQ = weights_HQS.max(2)
        hits_HQ = keys_QS.expand_as(weights_HQS).gather(2, at_HQ[..., None])[..., 0] & (top_HQ > 0)
        heads = len(weights_HQS)
        self.mass[layer, :heads] += mass_HQ.double().sum(1).cpu()
        self.hits[layer, :heads] += hits_HQ.double().sum(1).cpu()
        self.null[layer, :heads] += null_HQ.double().sum(1).cpu()  # 0 where there is no other key
        self.with_null[layer, :heads] += float((number > 0).sum())

    def means(self) -> dict[str, np.ndarray]:
        """Return mass, hits and null, (L, H) float32 each."""
        null = torch.where(self.with_null > 0, self.null / self.with_null.clamp(min=1), torch.nan)
        values = {"mass": self.mass / self.count, "hits": self.hits / self.count, "null": null}
        return {name: value.float().numpy() for name, value in values.items()}


class WordSums(Sums):
    """The same over words, and how much of the attention goes to sinks, at words with the relation and at others."""

    def __init__(self, relation: Relation, layers: int, heads: int, device: torch.device) -> None:
        super().__init__(relation, np.zeros(relation.keys.shape[1], dtype=bool), layers, heads, device)
        self.sink, self.elsewhere = (torch.zeros(layers, heads, dtype=torch.float64) for _ in range(2))
        self.others = 0

    def add_layer(self, layer: int, pooled: Pooled) -> None:
        """Add a layer. Words that see no other word are left out: they can only look at sinks."""
        self.add(layer, pooled.weights_HWW, pooled.visible_WW, 0)
        others_W = pooled.visible_WW.any(1)
        others_W[self.queries] = False
        heads, self.others = len(pooled.sink_HW), int(others_W.sum())
        self.sink[layer, :heads] += pooled.sink_HW[:, self.queries].double().sum(1).cpu()
        self.elsewhere[layer, :heads] += pooled.sink_HW[:, others_W].double().sum(1).cpu()

    def means(self) -> dict[str, np.ndarray]:
        """Return mass, hits_word, null, sink and sink_elsewhere, (L, H) float32 each."""
        values = super().means()
        values["hits_word"] = values.pop("hits")
        values["sink"] = (self.sink / self.count).float().numpy()
        elsewhere = self.elsewhere / self.others if self.others else torch.full_like(self.elsewhere, torch.nan)
        return values | {"sink_elsewhere": elsewhere.float().numpy()}


@dataclass(frozen=True)
class Measured:
    """One batch's findings: per prompt the sums by relation name and its scored target; per layer z (B, T, H K)."""

    sums: list[dict[str, Sums]]
    scored: list[Scored | None]
    outputs: dict[int, torch.Tensor]


def measure(loaded: Loaded, batch: Sequence[Tokens], relations: Sequence[Mapping[str, Relation]]) -> Measured:
    """Run one batch; measure relations, score targets (decoders only), capture head outputs."""
    anatomy, device = loaded.anatomy, loaded.model.device
    heads = max(layer.heads for layer in anatomy.layers)
    shape = len(anatomy.layers), heads, device
    sums = [
        {
            name: WordSums(relation, *shape) if relation.words else Sums(relation, tokens.special, *shape)
            for name, relation in mine.items()
        }
        for tokens, mine in zip(batch, relations, strict=True)
    ]
    words = [Words(tokens, device) if tokens.words else None for tokens in batch]

    def reduce(layer: int, weights_BHTS: torch.Tensor, visible_BTS: torch.Tensor | None, start: int) -> None:
        for row, mine in enumerate(sums):
            visible_TS = None if visible_BTS is None else visible_BTS[row]
            pooled = words[row] and words[row].add(weights_BHTS[row], visible_TS, start)
            for relation in mine.values():
                if not isinstance(relation, WordSums):
                    relation.add(layer, weights_BHTS[row], visible_TS, start)
                elif pooled is not None:
                    relation.add_layer(layer, pooled)

    targets = [tokens.target if loaded.kind == "decoder" else tokens.target[:0] for tokens in batch]
    rows = [target - 1 for target in targets] if sum(map(len, targets)) else None
    with weighing(loaded, reduce), capturing(loaded) as outputs:
        logits_NV = forward(loaded, [tokens.ids for tokens in batch], rows, headless=rows is None)
    scored = [None] * len(batch) if rows is None else score_rows(logits_NV, [t.ids for t in batch], targets)
    return Measured(sums, scored, outputs)


@contextmanager
def weighing(loaded: Loaded, reduce) -> Iterator[None]:
    """Call `reduce(layer, weights (B, H, T, S), visible (B, T, S) or None, first query)` for every block of queries."""
    index = {layer.attention: number for number, layer in enumerate(loaded.anatomy.layers)}
    numbers = {loaded.model.get_submodule(name): number for name, number in index.items()}
    if not loaded.anatomy.observed:
        with _returned(loaded, numbers, reduce):
            yield
        return

    def observer(eager, module, query, key, value, mask, **kwargs):
        if module not in numbers:
            return eager(module, query, key, value, mask, **kwargs)
        (batch, heads, length), span = query.shape[:3], key.shape[2]
        step = length if kwargs.get("position_bias") is not None else max(1, BLOCK // (batch * heads * span))
        outputs = []
        for start in range(0, length, step):
            piece = mask if mask is None or mask.shape[2] == 1 else mask[:, :, start : start + step]
            output, weights_BHTS = eager(module, query[:, :, start : start + step], key, value, piece, **kwargs)
            reduce(numbers[module], weights_BHTS, _visible(piece, batch), start)
            outputs.append(output)
        return torch.cat(outputs, dim=1), None

    with observing(loaded.model, observer):
        yield


@contextmanager
def _returned(loaded: Loaded, numbers: Mapping, reduce) -> Iterator[None]:
    """Reduce the weights that attention modules return, and drop them, for architectures that show nothing else."""

    def hook(module, args, kwargs, output):
        weights_BHTS = output[1]
        mask = kwargs.get("attention_mask")
        batch, _, length, span = weights_BHTS.shape
        if isinstance(mask, torch.Tensor) and mask.dim() == 4:
            visible_BTS = _visible(mask, batch)
        else:
            visible_BTS = torch.ones(batch, length, span, dtype=torch.bool, device=weights_BHTS.device).tril()
        reduce(numbers[module], weights_BHTS, visible_BTS, 0)
        return (output[0], None, *output[2:])

    config = loaded.model.config
    with ExitStack() as stack:
        stack.callback(setattr, config, "output_attentions", config.output_attentions)
        config.output_attentions = True
        for module in numbers:
            stack.callback(module.register_forward_hook(hook, with_kwargs=True).remove)
        yield


def _visible(mask: torch.Tensor | None, batch: int) -> torch.Tensor | None:
    """Return which keys each query may see, (B, T, S), from an additive or boolean mask (B or 1, 1, T, S)."""
    if mask is None:
        return None
    visible = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    return visible[:, 0].expand(batch, -1, -1)
