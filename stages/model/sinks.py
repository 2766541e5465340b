"""Sinks, as a model's heads and residuals show them: who looks at the first token, and what is fetched from there.

Of a head h, with attention A over T tokens, values V and output matrix W_h (the head's rows of W_O):

    alpha_k = mean over queries t = k .. T-1 of A[t, k]     (Gu+ ICLR 2025, eq. 2; all queries where attention is not
                                                             causal). alpha of the first token is the one of a sink.
    value   = |V[0]| / median over the other tokens of |V[t]|
    said    = S / (S + R): S = mean over t of |A[t, 0] V[0] W_h|, what the head writes from the first token, and
              R = mean over t of |(z[t] - A[t, 0] V[0]) W_h|, what it writes from all others. A head whose attention is
              on the first token while it writes little from there looks at it and says nothing (Guo+ 2024, arXiv
              2410.13835: dormant heads).
    output  = mean over ordinary tokens of |z[t] W_h|, over its mean over the heads of the layer. Heads far below 1 are
              inactive, whatever they look at (Sandoval-Segura+ 2025, arXiv 2504.03889).

Of a token and a layer: the norm of its residual after the block over the median of the prompt's tokens (massive
activations, Sun+ COLM 2024), the largest of its channels over the median size of all channels of the prompt, and the
attention that it receives, alpha averaged over the layer's heads.

Legend: B batch, T query token, S key token, H head, G key head, K head size, D residual width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from transformers.pytorch_utils import Conv1D

from stages.families.family import Tokens
from stages.model import placed
from stages.model.anatomy import Layer
from stages.model.forward import forward, remembering
from stages.model.intervene import capturing
from stages.model.load import Loaded
from stages.model.measure import weighing
from stages.model.observe import close, observing
from stages.model.reduce import brought
from stages.model.sink_inputs import punctuation

LATE = 8  # queries that a later sink has, at least
PLAIN = ("punctuation", "ordinary")  # marks of tokens that are neither first nor special
SAID, TALL = ("output", "value", "said"), ("norm", "channel")  # columns of heads, and of tokens


@dataclass(frozen=True)
class PromptSinks:
    """What one prompt shows: per layer, a column (H,) by name of each head's number, a column (T,) of each token's.

    marks: what each token is, (T,): 'first', 'special', 'punctuation' or 'ordinary'.
    """

    heads: dict[int, dict[str, np.ndarray]]
    tokens: dict[int, dict[str, np.ndarray]]
    marks: np.ndarray


class _Attended:
    """Sums over the queries of a batch in one layer, on its device, and attention to the first position."""

    def __init__(self, names: Sequence[np.ndarray], heads: int, device: torch.device) -> None:
        width = max(map(len, names))
        kinds_BS = np.stack([np.r_[of, ["padding"] * (width - len(of))] for of in names])
        self.real_BT = torch.from_numpy(kinds_BS != "padding").to(device)
        self.mark_BS = torch.from_numpy(kinds_BS == "punctuation").to(device)
        self.plain_BS = torch.from_numpy(np.isin(kinds_BS, PLAIN)).to(device)
        zeros = partial(torch.zeros, len(names), heads, dtype=torch.float64, device=device)
        self.received_BHS, self.first_BHT, self.even_BH, self.learned_BH = zeros(width), zeros(width), zeros(), zeros()

    def add(self, weights_BHTS: torch.Tensor, visible_BTS: torch.Tensor, start: int, layer: Layer) -> None:
        """Add the queries start, start + 1, ...; padded ones count for nothing."""
        end, keys = start + weights_BHTS.shape[2], weights_BHTS.shape[3]
        real_BT, plain_BS = self.real_BT[:, start:end], self.plain_BS[:, :keys]
        weights_BHTS = weights_BHTS.double().masked_fill(~real_BT[:, None, :, None], 0)
        self.received_BHS[..., :keys] += weights_BHTS.sum(2)
        self.first_BHT[..., start:end] = weights_BHTS[..., 0]
        if layer.sink:
            self.learned_BH += (real_BT[:, None] * (1 - weights_BHTS.sum(3)).clamp(min=0)).sum(2)
        seen_BTS = visible_BTS & plain_BS[:, None]
        share_BT = (seen_BTS & self.mark_BS[:, None, :keys]).sum(2) / seen_BTS.sum(2).clamp(min=1)
        self.even_BH += ((weights_BHTS * plain_BS[:, None, None]).sum(3) * share_BT[:, None]).sum(2)


def marks(loaded: Loaded, tokens: Tokens) -> np.ndarray:
    """Return what each token is, (T,): 'first' (position 0), 'special', 'punctuation' or 'ordinary'.

    Of an image: the class token is first, registers are special, patches are ordinary.
    """
    if tokens.pixels is not None:
        return np.r_[["first"], np.where(tokens.special, "special", "ordinary")[1:]]
    named = np.where(tokens.special, "special", np.where(punctuation(loaded, tokens), "punctuation", "ordinary"))
    return np.r_[["first"], named[1:]]


def look(loaded: Loaded, batch: Sequence[Tokens]) -> list[PromptSinks]:
    """Run a batch and read its sinks; values, what is said and outputs are nan where values are out of reach.

    That is where attention is written into a module, or what W_O reads is not weights times values (gates).
    """
    names = [marks(loaded, tokens) for tokens in batch]
    attended: dict[int, _Attended] = {}

    def reduce(layer: int, weights_BHTS: torch.Tensor, visible_BTS: torch.Tensor, start: int) -> None:
        if layer not in attended:
            attended[layer] = _Attended(names, weights_BHTS.shape[1], weights_BHTS.device)
        attended[layer].add(weights_BHTS, visible_BTS, start, loaded.anatomy.layers[layer])

    with (
        weighing(loaded, reduce),
        _valuing(loaded) as values,
        capturing(loaded) as outputs,
        remembering(loaded, after=True) as residuals,
    ):
        forward(loaded, [tokens.read for tokens in batch], headless=True)
    read: dict[tuple[int, int, str], torch.Tensor] = {}  # on the device: all is brought at once
    for layer, sums in attended.items():
        for row, tokens in enumerate(batch):
            columns = {"received": sums.received_BHS[row], "even": sums.even_BH[row], "learned": sums.learned_BH[row]}
            columns |= _said(loaded, layer, sums.first_BHT[row], outputs[layer][row], values.get(layer), row, tokens)
            columns |= _token_columns(residuals[layer][row, : len(tokens)])
            read |= {(row, layer, name): column.double().to(loaded.device) for name, column in columns.items()}
    seen: list[dict[int, dict[str, torch.Tensor]]] = [{layer: {} for layer in attended} for _ in batch]
    for (row, layer, name), column in zip(read, brought(list(read.values())), strict=True):
        seen[row][layer][name] = column
    return [_prompt_sinks(layers, of, loaded.anatomy.causal) for layers, of in zip(seen, names, strict=True)]


def _prompt_sinks(seen: Mapping[int, Mapping[str, torch.Tensor]], names: np.ndarray, causal: bool) -> PromptSinks:
    """Return what a prompt shows, of what was read of it on the device, by layer and name."""
    heads, tokens = {}, {}
    for layer, columns in seen.items():
        alpha_HS = _alpha(columns["received"][:, : len(names)], causal)
        of_heads = _head_columns(alpha_HS, columns, names, causal) | {name: columns[name] for name in SAID}
        of_tokens = {name: columns[name] for name in TALL} | {"received": alpha_HS.mean(0)}
        heads[layer], tokens[layer] = (
            {name: column.numpy() for name, column in of.items()} for of in (of_heads, of_tokens)
        )
    return PromptSinks(heads, tokens, names)


def _alpha(received_HS: torch.Tensor, causal: bool) -> torch.Tensor:
    """Return alpha_k (H, S): what a key receives over the queries from it on (all queries where not causal)."""
    length = received_HS.shape[1]
    queries_S = torch.arange(length, 0, -1) if causal else torch.full((length,), length)
    return received_HS / queries_S


def _head_columns(
    alpha_HS: torch.Tensor, sums: Mapping[str, torch.Tensor], names: np.ndarray, causal: bool
) -> dict[str, torch.Tensor]:
    """Return where the heads of a layer look, (H,) each: shares of attention, means over the prompt's queries."""
    length, received_HS = len(names), sums["received"][:, : len(names)]
    late = np.arange(length) + LATE <= length if causal else np.full(length, True)
    plain, nan_H = late & np.isin(names, PLAIN), torch.full_like(alpha_HS[:, 0], torch.nan)
    return {
        "first": alpha_HS[:, 0],
        "second": alpha_HS[:, 1] if length > 1 else nan_H,
        "later": alpha_HS[:, plain].amax(1) if plain.any() else nan_H,
        "special": received_HS[:, names == "special"].sum(1) / length,
        "punctuation": received_HS[:, names == "punctuation"].sum(1) / length,
        "punctuation_even": sums["even"] / length,
        "learned": sums["learned"] / length,
    }


def _said(
    loaded: Loaded,
    number: int,
    first_HT: torch.Tensor,
    z_TC: torch.Tensor,
    seen: tuple[torch.Tensor, bool] | None,
    row: int,
    tokens: Tokens,
) -> dict[str, torch.Tensor]:
    """Return the norms of the first token's value, of what is written from it, and of all that a head writes (H,)."""
    layer, length = loaded.anatomy.layers[number], len(tokens)
    matrix_HKD = _written_by(loaded, layer)
    z_HTK = z_TC[:length].unflatten(-1, (layer.heads, layer.head_size)).transpose(0, 1)
    wrote_HTD = (z_HTK @ matrix_HKD).float()
    ordinary_T = torch.from_numpy(~tokens.special & (np.arange(length) > 0)).to(z_HTK.device)
    norm_H = wrote_HTD[:, ordinary_T].norm(dim=2).mean(1)
    nan_H = torch.full_like(norm_H, torch.nan)
    columns = {"output": norm_H / norm_H.mean(), "value": nan_H, "said": nan_H}
    if seen is not None:
        value_HSK = seen[0][row, :, :length].repeat_interleave(layer.heads // seen[0].shape[1], dim=0)
        norms_HS = value_HSK.float().norm(dim=2)
        if length > 1:  # a first token alone has none to be compared with
            ordered_HS = norms_HS[:, 1:].sort(1).values  # a median along an axis is not deterministic on a GPU
            columns["value"] = norms_HS[:, 0] / ordered_HS[:, (length - 2) // 2]
        if seen[1]:
            from_first_HD = (value_HSK[:, :1] @ matrix_HKD)[:, 0].float()
            first_HT = first_HT[:, :length].to(wrote_HTD.device).float()
            sink_H = first_HT.mean(1) * from_first_HD.norm(dim=1)
            rest_H = (wrote_HTD - first_HT[..., None] * from_first_HD[:, None]).norm(dim=2).mean(1)
            columns["said"] = sink_H / (sink_H + rest_H)
    return columns


def _written_by(loaded: Loaded, layer: Layer) -> torch.Tensor:
    """Return W_O by head, (H, K, D)."""
    projection = loaded.model.get_submodule(layer.projection)
    weight_CD = placed.weight(projection).float()
    weight_CD = weight_CD if isinstance(projection, Conv1D) else weight_CD.T
    return weight_CD[: layer.heads * layer.head_size].unflatten(0, (layer.heads, layer.head_size))


def _token_columns(residual_TD: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return each token's norm over the median norm, and its largest channel over the median size of all, (T,)."""
    size_TD = residual_TD.double().abs()
    norm_T = size_TD.norm(dim=1)
    return {"norm": norm_T / norm_T.median(), "channel": size_TD.amax(1) / size_TD.median().clamp(min=1e-12)}


@contextmanager
def _valuing(loaded: Loaded) -> Iterator[dict[int, tuple[torch.Tensor, bool]]]:
    """Collect every layer's values (B, G, S, K), and whether weights times values are what W_O reads."""
    kept: dict[int, tuple[torch.Tensor, bool]] = {}
    if not loaded.anatomy.observed:
        yield kept
        return
    numbers = {loaded.model.get_submodule(x.attention): number for number, x in loaded.anatomy.layers.items()}
    given: dict[int, torch.Tensor] = {}

    def observer(eager: Callable, module, query, key, value, mask, **kwargs):
        output, weights = eager(module, query, key, value, mask, **kwargs)
        layer = loaded.anatomy.layers.get(numbers.get(module, -1))
        if layer is not None and value.shape[-1] == layer.head_size:
            kept[numbers[module]], given[numbers[module]] = (value.float(), False), output
        return output, weights

    with ExitStack() as stack:
        for number, layer in loaded.anatomy.layers.items():

            def compare(module, args, number=number):
                if number in kept:
                    z_BTC, output = args[0], given.pop(number)
                    same = output.numel() == z_BTC.numel() and close(output.reshape(z_BTC.shape), z_BTC)
                    kept[number] = kept[number][0], same

            stack.callback(loaded.model.get_submodule(layer.projection).register_forward_pre_hook(compare).remove)
        stack.enter_context(observing(loaded.model, observer))
        yield kept
