"""What weights alone say of two heads: how strongly one could be read by the other's keys, and whether a head copies.

K-composition of an earlier head e with a later head h (Elhage+ 2021, transformer-circuits.pub/2021/framework):

    || W_QK W_OV ||_F / (|| W_QK ||_F || W_OV ||_F),    W_QK = W_Q^T W_K of h,  W_OV = W_O W_V of e,

0 where h's keys cannot see what e writes. It knows no token, no position and no attention: a screen, never a proof.
Copying of a head: its full OV circuit takes a token to what it adds to every token's logit, U W_O W_V E, V x V; its
non-zero eigenvalues are those of W_V (E U) W_O, K x K. Positive ones raise the token's own logit: the score is the sum
of real parts over the sum of absolute values, -1 (always lowers) to 1 (copies). Over the tokens that repeats are drawn
from.

Under grouped queries head h has the key and value head h // group. The gains of norms (input, after attention, final)
are folded in, their scales are not (they differ per token); gains of query and key norms and rotary embeddings are left
out. W_Q, W_K, W_V are told by which channels of a linear layer reach a head: fused projections need no names; where a
head's query, key or value is no linear map of its own (MLA, a norm over all heads), `maps` returns None.

Legend: K head size, D residual width, V vocabulary.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from stages.model import placed
from stages.model.forward import forward
from stages.model.load import Loaded
from stages.model.observe import observing
from stages.model.paths import Enough, Norm, Paths, Run, norms
from stages.model.tokens import ordinary


@dataclass(frozen=True)
class Maps:
    """Linear maps of one head, gains of norms folded in: query, key, value (K, D), out (D, K)."""

    query_KD: torch.Tensor
    key_KD: torch.Tensor
    value_KD: torch.Tensor
    out_DK: torch.Tensor


def maps(paths: Paths, run: Run, layer: int, head: int) -> Maps | None:
    """Return a head's maps; None where they are not linear maps of its own or a norm was not found."""
    of = paths.loaded.anatomy.layers[layer]
    if layer not in paths.before or (layer not in paths.after and layer in paths.below):
        return None
    module = paths.loaded.model.get_submodule(of.attention)
    outputs: dict[nn.Module, torch.Tensor] = {}
    seen: list[torch.Tensor] = []

    def read(linear: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor | None:
        if args[0].shape[-2:] != run.reads[layer].shape or not torch.equal(args[0][0], run.reads[layer]):
            return None
        outputs[linear] = output.detach().requires_grad_(True)
        return outputs[linear]

    def observer(eager, attending, query, key, value, mask, **kwargs):
        group = query.shape[1] // key.shape[1], query.shape[1] // value.shape[1]
        seen.extend([query[0, head], key[0, head // group[0]], value[0, head // group[1]]])
        raise Enough

    linears = [m for m in module.modules() if isinstance(m, nn.Linear | Conv1D)]
    handles = [linear.register_forward_hook(read) for linear in linears]
    args, kwargs = run.call[layer]
    try:
        with torch.enable_grad(), observing(paths.loaded.model, observer):
            module(*args, **kwargs)
    except Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()
    if len(seen) != 3 or not outputs:
        return None
    before, after = paths.before[layer], paths.after.get(layer)
    rows = [_rows(part, outputs) for part in seen]
    if any(part is None for part in rows) or rows[0].shape != rows[1].shape or len(rows[2]) != of.head_size:
        return None
    query_KD, key_KD, value_KD = (_folded(part, before) for part in rows)
    projection = paths.loaded.model.get_submodule(of.projection)
    weight_DC = placed.weight(projection).float()
    weight_DC = weight_DC.T if isinstance(projection, Conv1D) else weight_DC
    out_DK = weight_DC[:, head * of.head_size : (head + 1) * of.head_size]
    return Maps(query_KD, key_KD, value_KD, out_DK if after is None else _through(after, out_DK))


def _rows(part_TK: torch.Tensor, outputs: dict[nn.Module, torch.Tensor]) -> torch.Tensor | None:
    """Return the rows (K, D) of the one linear layer whose channels reach a head's query, key or value."""
    weights = torch.linspace(1.0, 2.0, part_TK.numel()).reshape(part_TK.shape).to(part_TK).cos()
    gradients = torch.autograd.grad(
        (part_TK * weights).sum(), list(outputs.values()), allow_unused=True, retain_graph=True
    )
    reaching = {
        linear: gradient[0].abs().amax(0) > 0
        for linear, gradient in zip(outputs, gradients, strict=True)
        if gradient is not None and bool(gradient.any())
    }
    if len(reaching) != 1:
        return None
    ((linear, channels),) = reaching.items()
    if int(channels.sum()) != part_TK.shape[1]:
        return None  # a norm over all heads, or a gate
    weight = placed.weight(linear).float()
    return (weight.T if isinstance(linear, Conv1D) else weight)[channels]


def _folded(rows_KD: torch.Tensor, norm: Norm) -> torch.Tensor:
    """Return the map that reads the residual, up to the norm's scale: rows times gain, less their mean if centred."""
    rows_KD = rows_KD * norm.gain_D
    return rows_KD - rows_KD.mean(1, keepdim=True) if norm.centred else rows_KD


def _through(norm: Norm, out_DK: torch.Tensor) -> torch.Tensor:
    """Return the map that writes to the residual, up to the norm's scale."""
    return norm.through(out_DK.T).T


def k_composition(earlier: Maps, later: Maps) -> float:
    """Return || W_QK W_OV || / (|| W_QK || || W_OV ||), from K x K matrices alone, 0..1."""
    query, key, value = (_triangle(part.T) for part in (later.query_KD, later.key_KD, earlier.value_KD))
    out = _triangle(earlier.out_DK)
    both = query @ (later.key_KD @ earlier.out_DK) @ value.T
    return float(both.norm() / ((query @ key.T).norm() * (out @ value.T).norm()))


def _triangle(tall_DK: torch.Tensor) -> torch.Tensor:
    """Return R of tall = Q R: norms of products are those of the products of R."""
    return torch.linalg.qr(tall_DK.float(), mode="r").R


def token_map(loaded: Loaded) -> torch.Tensor | None:
    """Return E U (D, D), the sum over ordinary tokens of embedding times unembedding; None without such a pair.

    The norm before the unembedding is folded in, up to its scale.
    """
    head = loaded.model.get_output_embeddings()
    embedding_VD = placed.weight(loaded.model.get_input_embeddings())
    if head is None or getattr(head, "weight", None) is None or head.weight.shape != embedding_VD.shape:
        return None
    unembedding_VD = placed.weight(head)
    gain = _final_gain(loaded)
    if gain is None:
        return None
    total_DD = torch.zeros(embedding_VD.shape[1], embedding_VD.shape[1], device=embedding_VD.device)
    ids = torch.from_numpy(ordinary(loaded.tokenizer)).to(embedding_VD.device)
    for part in ids.split(16384):
        total_DD += embedding_VD[part].float().T @ unembedding_VD[part].float()
    return _folded(total_DD, gain)


def _final_gain(loaded: Loaded) -> Norm | None:
    """Return the norm between the last block and the unembedding; None where there is nothing like one."""
    seen: dict[str, torch.Tensor] = {}
    modules: list[nn.Module] = []
    last = loaded.model.get_submodule(loaded.anatomy.blocks[-1])

    def after(module: nn.Module, args: tuple, output) -> None:
        seen["residual"] = output[0] if isinstance(output, tuple | list) else output

    def read(module: nn.Module, args: tuple) -> None:
        only = args[0] if len(args) == 1 and isinstance(args[0], torch.Tensor) else None
        if only is not None and "residual" in seen and torch.equal(only, seen["residual"]):
            modules.append(module)

    def ahead(module: nn.Module, args: tuple) -> None:
        seen["read"] = args[0]

    head = loaded.model.get_output_embeddings()
    leaves = [m for m in loaded.model.modules() if not list(m.children()) and not isinstance(m, nn.Linear)]
    handles = [last.register_forward_hook(after), head.register_forward_pre_hook(ahead)]
    handles += [leaf.register_forward_pre_hook(read) for leaf in leaves]
    ids = ordinary(loaded.tokenizer)[:4]
    try:
        with torch.no_grad():
            forward(loaded, [ids], [np.arange(len(ids))])
    finally:
        for handle in handles:
            handle.remove()
    if "residual" not in seen or "read" not in seen:
        return None
    residual_TD, read_TD = seen["residual"][0], seen["read"].reshape(seen["residual"][0].shape)
    ones_D = torch.ones_like(residual_TD[0])
    for norm in [Norm(ones_D, 0 * ones_D, False), *(norm for m in modules for norm in norms(m, residual_TD))]:
        if norm.scale(residual_TD, read_TD) is not None:
            return norm
    return None


def copying(head: Maps, token_map_DD: torch.Tensor) -> float:
    """Return the sum of real parts over the sum of absolute values of the OV circuit's eigenvalues, -1..1."""
    circuit_KK = head.value_KD.float() @ token_map_DD @ head.out_DK.float()
    eigenvalues = torch.linalg.eigvals(circuit_KK)
    return float(eigenvalues.real.sum() / eigenvalues.abs().sum())
