"""Where a transformer's attention heads are, found by running it once: no table of architectures.

Three probes of one short forward pass:
1. Attention modules: those that call the attention function registered here, or, in architectures that never call it
   (BLOOM, GPT-J, Falcon ...), those that return 4-d weights.
2. Output projection W_O of each: the Linear or Conv1D whose input equals the attention function's reshaped output;
   where that function is not seen, the last one called inside the module whose input has the heads' width.
3. Blocks: the modules of the ModuleList that the attention modules sit in, in call order.

Head h's output z_h is the slice [h K, (h+1) K) of W_O's input, so W_O z = sum_h W_O[:, h] z_h + b: right for grouped
queries, fused QKV, biases and head sizes that are not width / heads. `check` proves the sum at load.

Legend: B batch, T token, H query head, K head size, D residual width.
"""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.masking_utils import eager_mask
from transformers.pytorch_utils import Conv1D

from stages.store.errors import UserError

NAME = "head_atlas"  # the attention implementation registered below
PROBE_TOKENS = 12
_observer: list[Any] = []  # the function that sees attention calls, or nothing: measuring contexts do not nest


@dataclass(frozen=True)
class Layer:
    """One attention layer: names are module paths, sizes are in heads and channels, `window` in tokens."""

    attention: str
    projection: str
    block: str
    heads: int
    kv_heads: int
    head_size: int
    window: int | None
    norm: str | None  # a module that normalises the projection's output before it joins the residual (Gemma 3, OLMo 2)

    @property
    def kind(self) -> str:
        """'window' where keys farther than `window` are masked, else 'global'."""
        return "window" if self.window else "global"


@dataclass(frozen=True)
class Anatomy:
    """All measurable attention layers of a model in call order, and those skipped, with reasons."""

    layers: tuple[Layer, ...]
    observed: bool  # attention functions are seen; else weights come from the modules' own return values
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def heads(self) -> list[tuple[int, int]]:
        """All (layer, head), in order."""
        return [(index, head) for index, layer in enumerate(self.layers) for head in range(layer.heads)]


def _attention(module: nn.Module, query, key, value, attention_mask, **kwargs):
    """Call the modelling file's own eager attention; let the observer, if any, watch it."""
    eager = sys.modules[type(module).__module__].eager_attention_forward
    if _observer:
        return _observer[0](eager, module, query, key, value, attention_mask, **kwargs)
    return eager(module, query, key, value, attention_mask, **kwargs)


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, eager_mask)


@contextmanager
def observing(model: PreTrainedModel, observer: Any) -> Iterator[None]:
    """Let `observer(eager, module, query, key, value, mask, **kwargs) -> (output, weights)` stand for all attention."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    _observer.append(observer)
    try:
        yield
    finally:
        _observer.pop()
        model.set_attn_implementation(before)


def probe_inputs(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return a tiny valid input: distinct token ids, or random pixels for a vision model."""
    generator = torch.Generator().manual_seed(0)
    if model.main_input_name == "pixel_values":
        size, channels = model.config.image_size, model.config.num_channels
        return {"pixel_values": torch.rand(2, channels, size, size, generator=generator)}
    vocabulary = model.get_input_embeddings().num_embeddings
    ids = torch.randint(0, min(vocabulary, 1000), (2, PROBE_TOKENS), generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@torch.no_grad()
def find(model: PreTrainedModel) -> Anatomy:
    """Find attention modules, output projections and blocks by one forward pass.

    Raises `UserError` when the model has no head that can be measured.
    """
    names = {module: name for name, module in model.named_modules()}
    attended: dict[nn.Module, tuple[torch.Tensor, dict[str, Any]]] = {}  # module -> output (B, T, H, K), sizes
    calls: Counter[nn.Module] = Counter()
    inside: dict[nn.Module, list[tuple[nn.Module, torch.Tensor, torch.Tensor]]] = {}  # linears called in a module
    received: list[tuple[nn.Module, torch.Tensor]] = []  # inputs of all leaf modules
    weights: dict[nn.Module, torch.Tensor] = {}

    def observer(eager, module, query, key, value, mask, **kwargs):
        output, probabilities = eager(module, query, key, value, mask, **kwargs)
        square = query.shape[2] == key.shape[2]
        sizes = {"kv_heads": value.shape[1], "window": kwargs.get("sliding_window"), "square": square}
        attended[module] = (output, sizes)
        calls[module] += 1
        return output, probabilities

    open_modules: list[nn.Module] = []

    def enter(module, args):
        open_modules.append(module)

    def leave(module, args, output):
        open_modules.remove(module)
        if isinstance(output, tuple) and len(output) > 1 and _is_weights(output[1]):
            weights.setdefault(module, output[1])
        if args and isinstance(args[0], torch.Tensor) and not list(module.children()):
            received.append((module, args[0]))
            if isinstance(module, nn.Linear | Conv1D):
                for outer in open_modules:
                    inside.setdefault(outer, []).append((module, args[0], output))

    handles = []
    for module in names:
        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        with observing(model, observer):
            observed = _try_forward(model) and bool(attended)
        if not observed:
            for store in (attended, inside, received, weights, open_modules):
                store.clear()
            before = model.config._attn_implementation
            model.set_attn_implementation("eager")
            model(**probe_inputs(model), output_attentions=True)
            model.set_attn_implementation(before)
    finally:
        for handle in handles:
            handle.remove()

    if observed:
        found = {module: _reader(inside.get(module, []), received, output) for module, (output, _) in attended.items()}
    else:  # the innermost modules that return weights
        inner = [m for m in weights if not any(o is not m and names[o].startswith(names[m] + ".") for o in weights)]
        found = {m: _last_with_heads(inside.get(m, []), weights[m].shape[1]) for m in inner}
        attended = {
            m: (None, {"kv_heads": _kv_heads(m, weights[m].shape[1]), "window": None, "square": True}) for m in inner
        }
    return _assemble(model, names, attended, found, weights, received, observed, calls)


def _assemble(model, names, attended, found, weights, received, observed, calls) -> Anatomy:
    layers, skipped, seen = [], {}, set()
    for module, (output, sizes) in attended.items():
        projected = found[module]
        if calls[module] > 1:
            skipped[names[module]] = f"its weights are shared by {calls[module]} layers"
        elif projected is None:
            skipped[names[module]] = "no linear layer reads the attention output as it is"
        elif not sizes["square"]:
            skipped[names[module]] = "cross attention"
        elif projected[0] in seen:
            skipped[names[module]] = "shares its projection with an earlier layer"
        else:
            projection, projected_output = projected
            seen.add(projection)
            heads = output.shape[2] if output is not None else weights[module].shape[1]
            size = _width(projection) // heads
            norm = next(
                (m for m, x in received if m is not projection and _equal(x, projected_output) and _changes(m)), None
            )
            layers.append(
                Layer(
                    attention=names[module],
                    projection=names[projection],
                    block=_block(names[module]),
                    heads=heads,
                    kv_heads=sizes["kv_heads"],
                    head_size=size,
                    window=sizes["window"],
                    norm=names[norm] if norm is not None else None,
                )
            )
    if not layers:
        raise UserError(
            f"{type(model).__name__}: no attention head can be measured ({skipped or 'no attention found'})"
        )
    return Anatomy(tuple(layers), observed, skipped)


def _try_forward(model: PreTrainedModel) -> bool:
    try:
        model(**probe_inputs(model))
    except KeyError:  # Falcon, GPT-J, GPT-Neo look implementations up in a dict of their own
        return False
    return True


def _is_weights(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dim() == 4 and value.shape[-1] == value.shape[-2]


def _equal(x: torch.Tensor, y: torch.Tensor) -> bool:
    return x.shape == y.shape and torch.equal(x, y)


def _reader(inside, received, attended: torch.Tensor):
    """Return the linear that reads an attention output, and what it makes of it; None if none does.

    Those inside the attention module come first, then all others, for models that project in the block (BERT).
    """
    flat = attended.flatten(2)
    outside = [(m, x) for m, x in received if isinstance(m, nn.Linear | Conv1D)]
    return next(((m, m(x)) for m, x in [(m, x) for m, x, _ in inside] + outside if _equal(x, flat)), None)


def _last_with_heads(called, heads: int):
    return next(((m, y) for m, x, y in reversed(called) if _width(m) % heads == 0), None)


def _kv_heads(module: nn.Module, heads: int) -> int:
    return int(getattr(module, "num_kv_heads", heads))


def _width(projection: nn.Module) -> int:
    return projection.weight.shape[0] if isinstance(projection, Conv1D) else projection.in_features


def _changes(module: nn.Module) -> bool:
    return bool(list(module.parameters(recurse=False))) and not isinstance(module, nn.Linear | Conv1D)


def _block(name: str) -> str:
    """Return the path up to and with the first number: `model.layers.3.self_attn` -> `model.layers.3`."""
    parts = name.split(".")
    numbered = [index for index, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbered[0] + 1]) if numbered else name


@torch.no_grad()
def check(model: PreTrainedModel, anatomy: Anatomy) -> None:
    """Check on one forward pass that the heads' contributions sum to each projection's output.

    Raises `UserError` naming the module where W_O z differs from sum_h W_O[:, h] z_h + b by more than 1e-4 relative.
    """
    for index, layer in enumerate(anatomy.layers):
        projection = model.get_submodule(layer.projection)
        if layer.heads * layer.head_size != _width(projection):
            raise UserError(
                f"{layer.projection}: {layer.heads} heads x {layer.head_size} do not fill {_width(projection)}"
            )
        z = torch.randn(3, layer.heads, layer.head_size, generator=torch.Generator().manual_seed(index)).to(
            projection.weight
        )
        summed = sum(contribution(model, layer, head, z[:, head]) for head in range(layer.heads))
        if projection.bias is not None:
            summed = summed + projection.bias
        whole = projection(z.flatten(1))
        if (summed - whole).abs().max() > 1e-4 * whole.abs().max().clamp(min=1e-3):
            raise UserError(f"{layer.projection}: its heads' contributions do not sum to its output")


def contribution(model: PreTrainedModel, layer: Layer, head: int, z: torch.Tensor) -> torch.Tensor:
    """Return W_O[:, h] z_h, what one head writes: (..., K) -> (..., D), without bias."""
    projection = model.get_submodule(layer.projection)
    weight = projection.weight if isinstance(projection, Conv1D) else projection.weight.T  # (H K, D)
    return z @ weight[head * layer.head_size : (head + 1) * layer.head_size]
