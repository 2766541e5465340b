"""Attention, measured inside the attention function and reduced to relations: no T x T matrix outlives its layer.

What a relation's queries give its keys, and what chance would give them, is `stages.model.reduce`'s. The numbers are
the model's own: its masks, windows, soft-caps and biases are in the weights of its own eager attention, and a key is
visible where a weight is above 0.

Long prompts run in chunks (`stages.model.chunks`) where a cache may be continued: masks, hidden states and weights are
those of a chunk. Sums over words want whole rows of attention: then prompts run in one piece.

Legend: B batch, H head, T query token, S key token, K head size.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from stages.families.family import Relation, Tokens
from stages.model.forward import forward
from stages.model.intervene import reading_heads
from stages.model.load import Loaded
from stages.model.observe import observing, shares, softmaxes
from stages.model.reduce import Means, Sums, WordSums, brought
from stages.model.score import Scored, score_rows

BLOCK = 1 << 23  # attention weights held at once, at most (32 MB)
BLOCKS = 16  # times more on a GPU, where every call costs


@dataclass(frozen=True)
class Measured:
    """One batch's findings: per prompt the means by relation name and its scored target; per layer mean z (B, H K).

    outputs: means over ordinary positions, float32; empty unless asked for.
    """

    means: list[dict[str, Means]]
    scored: list[Scored | None]
    outputs: dict[int, torch.Tensor]


def measure(
    loaded: Loaded,
    batch: Sequence[Tokens],
    relations: Sequence[Mapping[str, Relation]],
    outputs: bool = False,
    peaks: bool = True,
) -> Measured:
    """Run one batch; measure relations, score targets (decoders only), average head outputs where asked.

    peaks: whether the statistics of `stages.model.reduce.PEAKS` are measured.
    Arrays of the means are indexed by block number; blocks without attention have zeros there.
    """
    layers, device = loaded.anatomy.layers, loaded.device
    shape = max(layers) + 1, max(layer.heads for layer in layers.values()), device
    between = [{name: relation for name, relation in asked.items() if not relation.words} for asked in relations]
    sums: list[Sums | WordSums] = [Sums(batch, between, *shape, peaks)] if any(between) else []
    of_words = [{name: relation for name, relation in asked.items() if relation.words} for asked in relations]
    sums += [WordSums(batch, of_words, *shape)] if any(of_words) else []

    def reduce(layer: int, weights_BHTS: torch.Tensor, visible_BTS: torch.Tensor, start: int) -> None:
        weights_BHTS, visible_BTS = weights_BHTS.to(device), visible_BTS.to(device)
        learned_BHT = (1 - weights_BHTS.sum(3)).clamp(min=0) if layers[layer].sink else None
        for summing in sums:
            summing.add(layer, weights_BHTS, visible_BTS, start, learned_BHT)

    targets = [tokens.target if loaded.kind == "decoder" else tokens.target[:0] for tokens in batch]
    scoring = sum(map(len, targets)) > 0
    averages = Averages(loaded, batch) if outputs else None
    with ExitStack() as stack:
        if sums:
            stack.enter_context(weighing(loaded, reduce))
        if averages:
            stack.enter_context(averages.reading())
        stack.enter_context(loaded.chunks.whole() if any(of_words) else nullcontext())
        rows = [target - 1 for target in targets] if scoring else None
        logits_NV = forward(loaded, [tokens.read for tokens in batch], rows, headless=rows is None, whole=False)
    scored = score_rows(logits_NV, [t.ids for t in batch], targets) if scoring else [None] * len(batch)
    means: list[dict[str, Means]] = [{} for _ in batch]
    numbers = iter(brought([tensor for summed in sums for tensor in summed.running]))
    for summed in sums:
        for row, name, mean in summed.means(next(numbers), next(numbers)):
            means[row][name] = mean
    ordered = [{name: of[name] for name in asked} for of, asked in zip(means, relations, strict=True)]
    return Measured(ordered, scored, averages.outputs() if averages else {})


class Averages:
    """Mean head outputs z (H K) over the ordinary positions of each prompt, layer by layer, as the model runs."""

    def __init__(self, loaded: Loaded, batch: Sequence[Tokens]) -> None:
        self.loaded = loaded
        ordinary_BT = np.zeros((len(batch), max(map(len, batch))), dtype=np.float32)
        for row, tokens in enumerate(batch):
            ordinary_BT[row, : len(tokens)] = ~tokens.special
        self.ordinary_BT = torch.from_numpy(ordinary_BT).to(loaded.device)
        self.sums: dict[int, torch.Tensor] = {}

    def _add(self, layer: int, z_BTC: torch.Tensor) -> None:
        ordinary_BT = self.loaded.chunks.part(self.ordinary_BT)
        sums_BC = (ordinary_BT[:, None] @ z_BTC.to(ordinary_BT.device))[:, 0]
        self.sums[layer] = self.sums[layer] + sums_BC if layer in self.sums else sums_BC

    def reading(self):
        """Return a context in which the model's runs are added."""
        return reading_heads(self.loaded, self._add)

    def outputs(self) -> dict[int, torch.Tensor]:
        """Return the means, (B, H K)."""
        count_B1 = self.ordinary_BT.sum(1, keepdim=True)
        return {layer: sums_BC / count_B1 for layer, sums_BC in self.sums.items()}


def put(whole: dict[int, torch.Tensor], layer: int, weights_HTS: torch.Tensor, start: int, length: int) -> None:
    """Put a block of queries of one text where it belongs in all its attention, whole[layer] (H, length, length)."""
    if layer not in whole:
        whole[layer] = weights_HTS.new_zeros(len(weights_HTS), length, length)
    queries, keys = weights_HTS.shape[1:]
    whole[layer][:, start : start + queries, :keys] = weights_HTS


@contextmanager
def weighing(loaded: Loaded, reduce: Callable, held: int = 0) -> Iterator[None]:
    """Call `reduce(layer, weights (B, H, T, S), visible (B, T, S), first query)` for every block of queries.

    weights: float32, whatever the model computes in. visible: some head of the layer gives the key a weight above 0,
    whatever masks say. Of a long pass queries come chunk by chunk, with the keys up to the chunk's end. held: attention
    weights in a block, at most (one query at least), where not the usual number.
    """
    held = held or BLOCK * (1 if loaded.device.type == "cpu" else BLOCKS)
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
            reduce(numbers[module], weights_BHTS.float(), (weights_BHTS > 0).any(1), loaded.chunks.start + start)
            outputs.append(output)
        return torch.cat(outputs, dim=1), None

    def softmaxed(module: torch.nn.Module, weights: torch.Tensor) -> None:
        heads = loaded.anatomy.layers[numbers[module]].heads
        weights_BHTS = weights if weights.dim() == 4 else weights.unflatten(0, (-1, heads))
        reduce(numbers[module], weights_BHTS.float(), (weights_BHTS > 0).any(1), 0)

    if loaded.anatomy.observed:
        with observing(loaded.model, observer):
            yield
    else:  # a softmax is told by as many keys as queries
        with softmaxes(numbers, softmaxed), loaded.chunks.whole():
            yield
