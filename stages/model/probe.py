"""Three short passes of a model's body that show how it attends: `look`, `project`, `join`.

Each tests all layers at once, and each layer alone: what a block and an attention module receive is reset to what the
first row of the batch has there, so that no layer feels what was changed in another.

Legend: B batch, T query token, S key token, H query head, K head size, C channel of a linear layer's input.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from stages.model import placed
from stages.model.observe import SAME, close, observing, shares, softmaxes

TOKENS = 67  # of a probe: longer than small windows, and a number that no other size of a model is
FAR = 1024  # tokens: windows and chunks up to this size are looked for by a text that leaves them, in its weights
FARTHER = 8192  # tokens: up to this size in its masks alone, where attention functions are given them
FIELD = re.compile(r"window|chunk|local_attention|reach")  # what configs call them
LIMITS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len")


@dataclass
class Attention:
    """What is seen of one attention module.

    calls: how often it attends; passes: how often it runs; fault: why it cannot be measured.
    """

    module: nn.Module
    heads: int
    kv_heads: int
    window: int | None
    sink: bool
    causal: bool
    calls: int = 1
    passes: int = 1
    fault: str = ""


@dataclass
class Seen:
    """What the first pass shows: attention modules in call order; of each module, how many things it returns.

    returns: 0 for a tensor; shapes: of the first thing.
    """

    attention: list[Attention]
    observed: bool
    causal: bool
    returns: dict[nn.Module, int]
    shapes: dict[nn.Module, torch.Size]


@dataclass(frozen=True)
class Projected:
    """An output projection and the number of its input's channels per head."""

    module: nn.Module
    head_size: int


@dataclass
class _Watch:
    layers: dict[nn.Module, Attention] = field(default_factory=dict)
    softmaxed: dict[nn.Module, Attention] = field(default_factory=dict)
    inside: bool = False


def probe_inputs(model: PreTrainedModel, rows: int = 2) -> dict[str, torch.Tensor]:
    """Return a small valid input of equal rows: random ordinary token ids, or pixels for a vision model."""
    generator = torch.Generator().manual_seed(0)
    if model.main_input_name == "pixel_values":
        size, channels = model.config.image_size, model.config.num_channels
        height, breadth = size if isinstance(size, list | tuple) else (size, size)
        pixels = torch.rand(1, channels, height, breadth, generator=generator)
        return {"pixel_values": pixels.expand(rows, -1, -1, -1).to(placed.device(model), model.dtype)}
    ids = probe_ids(model).expand(rows, -1)
    return {"input_ids": ids.clone(), "attention_mask": torch.ones_like(ids)}


def probe_ids(model: PreTrainedModel, tokens: int = TOKENS) -> torch.Tensor:
    """Return random ids (1, T) of ordinary tokens: none that a config gives a meaning to (padding, an image ...).

    They are fewer than `tokens` where the model reads no more.
    """
    configs = [model.config, model.config.get_text_config()]
    given = {v for config in configs for k, v in vars(config).items() if k.endswith("token_id") and isinstance(v, int)}
    vocabulary = min(len(model.get_input_embeddings().weight), 1000)
    ordinary = torch.tensor([i for i in range(4, vocabulary) if i not in given] or [0])
    limits = [getattr(config, name, None) for config in configs for name in LIMITS]
    length = min([tokens, *(limit - 2 for limit in limits if isinstance(limit, int) and limit > 4)])
    chosen = torch.randint(0, len(ordinary), (1, length), generator=torch.Generator().manual_seed(0))
    return ordinary[chosen].to(placed.device(model))


@torch.no_grad()
def look(model: PreTrainedModel) -> Seen:
    """Run two rows that differ in their second half: which modules attend, and does a late token matter early?"""
    inputs = probe_inputs(model)
    half = 0
    if "input_ids" in inputs:
        half = inputs["input_ids"].shape[1] // 2
        inputs["input_ids"][1, half:] = inputs["input_ids"][1, half:].flip(0)
    watch, returns, shapes, passes = _Watch(), {}, {}, Counter()

    def observer(eager, module, query, key, value, mask, **kwargs):
        watch.inside = True
        output, weights_BHTS = eager(module, query, key, value, mask, **kwargs)
        watch.inside = False
        if module in watch.layers:
            watch.layers[module].calls += 1
            return output, weights_BHTS
        window = kwargs["sliding_window"] if "sliding_window" in kwargs else getattr(module, "sliding_window", None)
        shares_BHTS = shares(weights_BHTS, value, output)
        attention = _attention(module, weights_BHTS if shares_BHTS is None else shares_BHTS, value.shape[1], window)
        if not attention.fault and shares_BHTS is None:
            attention.fault = "its weights times its values are not its output"
        watch.layers[module] = attention
        return output, weights_BHTS

    def softmaxed(module: nn.Module, weights: torch.Tensor) -> None:
        if watch.inside:
            return
        if module in watch.softmaxed:
            watch.softmaxed[module].calls += 1
            return
        weights_BHTS = weights if weights.dim() == 4 else weights.unflatten(0, (2, -1))
        names = ("num_kv_heads", "num_key_value_heads")
        kv_heads = next((getattr(module, name) for name in names if hasattr(module, name)), weights_BHTS.shape[1])
        watch.softmaxed[module] = _attention(module, weights_BHTS, int(kv_heads), None)

    def keep(module: nn.Module, args: tuple, output: Any) -> None:
        several = isinstance(output, tuple | list)
        returns[module] = len(output) if several else 0
        passes[module] += 1
        first = output[0] if several and output else output
        shapes[module] = getattr(first, "shape", torch.Size())

    owners = [module for module in model.modules() if list(module.children()) and list(module.parameters())]
    with ExitStack() as stack:
        for module in owners:
            stack.callback(module.register_forward_hook(keep).remove)
        stack.enter_context(observing(model, observer))
        stack.enter_context(softmaxes(owners, softmaxed))
        output_BTD = _body(model, inputs)
    observed = bool(watch.layers)
    attention = list((watch.layers or watch.softmaxed).values())
    for seen in attention:
        seen.passes = passes[seen.module]
    if "input_ids" in inputs:
        _look_far(model, attention, observed)
    early = output_BTD[:, :half]
    causal = half > 0 and all(layer.causal for layer in attention) and close(early[1], early[0])
    return Seen(attention, observed, causal, returns, shapes)


def _look_far(model: PreTrainedModel, attention: list[Attention], observed: bool) -> None:
    """Find windows and chunks longer than a probe of which only the mask knows: a config names a number, no layer does.

    For each such number up to `FARTHER` a longer text is read once, as far as there are layers that seem to see all of
    it; past `FAR` without attending, since the weights of so many tokens do not fit: a mask says what is visible.
    """
    layers = {layer.module: layer for layer in attention if not layer.fault}
    named = {
        value
        for config in (model.config, model.config.get_text_config())
        for name, value in vars(config).items()
        if FIELD.search(name) and type(value) is int and TOKENS < value <= (FARTHER if observed else FAR)
    }

    def note(module: nn.Module, weights: torch.Tensor) -> None:
        if module in layers and layers[module].window is None:
            visible_TS = (weights.reshape(-1, *weights.shape[-2:]) > 0).any(0)
            layers[module].window = _window(visible_TS)

    def observer(eager, module, query, key, value, mask, **kwargs):
        if query.shape[2] <= FAR + TOKENS:
            output, weights_BHTS = eager(module, query, key, value, mask, **kwargs)
            note(module, weights_BHTS)
            return output, weights_BHTS
        if isinstance(mask, torch.Tensor) and mask.dim() == 4 and mask.shape[2] == query.shape[2]:
            note(module, mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2)
        return value.new_zeros(len(query), query.shape[2], query.shape[1], value.shape[3]), None

    for number in sorted(named - {layer.window for layer in attention}):
        ids_1T = probe_ids(model, number + TOKENS)
        if ids_1T.shape[1] > number:
            with observing(model, observer) if observed else softmaxes(layers, note):
                _body(model, {"input_ids": ids_1T, "attention_mask": torch.ones_like(ids_1T)})


def _attention(module: nn.Module, weights_BHTS: torch.Tensor, kv_heads: int, window: int | None) -> Attention:
    """Read an attention module's weights: their reach, their sums, what they show of later positions."""
    heads, length, span = weights_BHTS.shape[1:]
    if length != span:
        fault = "its queries and keys are not the same tokens"
        return Attention(module, heads, kv_heads, None, False, False, fault=fault)
    position = torch.arange(length, device=weights_BHTS.device)
    distance_TS = position[:, None] - position
    visible_TS = (weights_BHTS > 0).any(1).any(0)
    sums_BHT = weights_BHTS.float().sum(-1)
    fault = ""
    if not torch.isfinite(weights_BHTS).all() or (weights_BHTS < 0).any() or (sums_BHT > 1 + 1e-3).any():
        fault = "its weights are no shares of attention: not finite, below 0, or above 1 in all"
    return Attention(
        module,
        heads,
        kv_heads,
        window=_window(visible_TS) or (window if isinstance(window, int) and window > length else None),
        sink=bool((sums_BHT < 1 - 1e-3).any()),
        causal=not bool(visible_TS[distance_TS < 0].any()),
        fault=fault,
    )


def _window(visible_TS: torch.Tensor) -> int | None:
    """Return the size of a window or chunk that is shorter than the text; None where far keys are left out at will."""
    position = torch.arange(len(visible_TS), device=visible_TS.device)
    first_T = visible_TS.int().argmax(1)
    reach = int((position - first_T).max()) + 1
    slides = torch.equal(first_T, (position - reach + 1).clamp(min=0))
    jumps = torch.equal(first_T, position // reach * reach)
    return reach if reach < len(visible_TS) and (slides or jumps) else None


@torch.no_grad()
def project(
    model: PreTrainedModel, places: Mapping[int, Attention], blocks: Mapping[int, nn.Module], observed: bool
) -> dict[int, Projected | str]:
    """Find every layer's output projection, or why there is none, by changing heads' outputs.

    Row 0 is intact; row b + 1 changes the heads h with bit b set in h + 1. So a channel of a linear layer's input
    differs from row 0 in exactly the rows that spell the one head that it carries.
    """
    if not places:
        return {}
    bits = max(attention.heads for attention in places.values()).bit_length()
    numbers = {attention.module: number for number, attention in places.items()}
    generator = torch.Generator().manual_seed(1)
    waiting: list[int] = []  # the layer that has attended last, until a linear layer reads what it gave
    results: dict[int, Projected | str] = {}

    def noise(like: torch.Tensor) -> torch.Tensor:
        return torch.randn(like.shape, generator=generator).to(like)

    def changed(number: int, heads: int) -> Iterator[tuple[int, list[int]]]:
        waiting[:] = [number]
        for bit in range(bits):
            yield bit + 1, [head for head in range(heads) if (head + 1) >> bit & 1]

    def observer(eager, module, query, key, value, mask, **kwargs):
        output_BTHK, weights = eager(module, query, key, value, mask, **kwargs)
        if module in numbers:
            output_BTHK = output_BTHK.clone()
            size = output_BTHK.float().std().clamp(min=1e-3).to(output_BTHK)
            for row, heads in changed(numbers[module], output_BTHK.shape[2]):
                output_BTHK[row, :, heads] += size * noise(output_BTHK[row, :, heads])
        return output_BTHK, weights

    def softmaxed(module: nn.Module, weights: torch.Tensor) -> torch.Tensor:
        weights_BHTS = weights.clone() if weights.dim() == 4 else weights.unflatten(0, (bits + 1, -1)).clone()
        for row, heads in changed(numbers[module], weights_BHTS.shape[1]):
            weights_BHTS[row, heads] *= noise(weights_BHTS[row, heads]).exp()
        return weights_BHTS.reshape(weights.shape)

    def read(module: nn.Module, args: tuple) -> None:
        if not waiting or not args or not isinstance(args[0], torch.Tensor) or args[0].shape[-1] != width(module):
            return
        x = args[0]
        if x.numel() % ((bits + 1) * width(module)):
            return
        x_BTC = x.reshape(bits + 1, -1, width(module))
        change_bC = (x_BTC[1:] - x_BTC[:1]).abs().amax(1)
        if change_bC.max() <= SAME * x_BTC.abs().max():
            return  # it does not read what the heads gave
        number = waiting.pop()
        if x.shape == x_BTC.shape:
            results[number] = _slices(module, change_bC, places[number].heads)
        else:
            results[number] = "no linear layer reads its heads' outputs by batch and token"

    with ExitStack() as stack:
        stack.enter_context(_alone(bits + 1, blocks.values(), numbers))
        for module in model.modules():
            if is_linear(module):
                stack.callback(module.register_forward_pre_hook(read).remove)
        if observed:
            stack.enter_context(observing(model, observer))
        else:
            stack.enter_context(softmaxes(numbers, softmaxed))
        _body(model, probe_inputs(model, bits + 1))
    none = "no linear layer reads its heads' outputs"
    return {number: results.get(number, none) for number in places}


def _slices(module: nn.Module, change_bC: torch.Tensor, heads: int) -> Projected | str:
    """Read which head each channel carries from the rows in which it changed."""
    power_b = 2 ** torch.arange(len(change_bC), device=change_bC.device)
    head_C = ((change_bC > SAME * change_bC.max()) * power_b[:, None]).sum(0) - 1
    size = int((head_C == 0).sum())
    expected_C = torch.arange(len(head_C), device=head_C.device) // max(size, 1)
    expected_C = torch.where(expected_C < heads, expected_C, -1)
    if size == 0 or size * heads > len(head_C) or not torch.equal(head_C, expected_C):
        return (
            "the linear layer that reads its heads' outputs does not read each head in a slice of its own: "
            "something mixes or norms them together"
        )
    return Projected(module, size)


@torch.no_grad()
def join(
    model: PreTrainedModel, blocks: Mapping[int, nn.Module], projections: Mapping[int, nn.Module]
) -> dict[int, tuple[nn.Module, float | None]]:
    """Find where each projection's output joins the residual, and as which multiple of itself (None: as no multiple).

    Row 1 changes the projection's output, row 2 the residual that the block receives, with that output as it was; rows
    3 and 4 are rows 0 and 1 without any residual, where the change must be the same. The
    residual after the attention is the first thing read that changes in row 1 and, in row 2, by just that change (or
    nearly: a mixer beside the attention may add to it). Layers where there is no such thing are left out, as are those
    where a convolution stands between.
    """
    generator = torch.Generator().manual_seed(2)
    owner = {projection: number for number, projection in projections.items()}
    number_of = {block: number for number, block in blocks.items()}
    added: dict[int, torch.Tensor] = {}  # to the block's residual
    written: dict[int, torch.Tensor] = {}  # to the projection's output
    joined: dict[int, tuple[nn.Module, float | None]] = {}
    nearly: dict[int, tuple[nn.Module, float | None]] = {}
    running: list[int] = []

    def noise(like: torch.Tensor) -> torch.Tensor:
        size = like.float().std().clamp(min=1e-3)
        return (size.cpu() * torch.randn(like.shape, generator=generator)).to(like)

    def enter(module: nn.Module, args: tuple, kwargs: dict) -> Any:
        running.append(number_of[module])
        x = (args[0] if args else kwargs["hidden_states"]).clone()
        if x.shape[0] != 5:
            return None
        added[running[-1]] = noise(x[2])
        x[2] += added[running[-1]]
        x[3:] = 0
        return ((x, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": x})

    def leave(module: nn.Module, args: tuple, output: Any) -> None:
        number = running.pop()
        x = output[0] if isinstance(output, tuple | list) else output
        if number in written and number not in joined and isinstance(x, torch.Tensor):
            fits = x.shape[1:] == written[number].shape and close(x[4] - x[3], x[1] - x[0], 1e-2)
            scale = _scale(x[1] - x[0], written[number]) if fits else None
            if scale is not None:  # a block whose MLP reads the residual as it was before (GPT-J, Falcon)
                joined[number] = module, scale

    def write(module: nn.Module, args: tuple, output: Any) -> Any:
        several = isinstance(output, tuple | list)
        given = output[0] if several else output
        number, output_BTD = owner[module], given.reshape(5, -1, given.shape[-1]).clone()
        written[number] = noise(output_BTD[0])
        written[number][-1] = 0  # the last token feels it only where a convolution mixes tokens
        output_BTD[1] = output_BTD[0] + written[number]
        output_BTD[2] = output_BTD[3] = output_BTD[0]
        output_BTD[4] = output_BTD[1]
        return (output_BTD.reshape(given.shape), *output[1:]) if several else output_BTD.reshape(given.shape)

    def read(module: nn.Module, args: tuple) -> None:
        if not running or running[-1] in joined or running[-1] not in written or running[-1] not in added:
            return
        number = running[-1]
        x = args[0] if args and isinstance(args[0], torch.Tensor) else torch.empty(0)
        if x.numel() != 5 * written[number].numel() or added[number].numel() != written[number].numel():
            return
        x = x.reshape(5, *written[number].shape)
        change, moved = x[1] - x[0], x[2] - x[0]
        if change.abs().max() <= 1e-6 * x.abs().max():
            return
        if change[-1].abs().max() > 1e-3 * change.abs().max() or not close(x[4] - x[3], change, 1e-2):
            return
        if close(moved, added[number].reshape(moved.shape), 1e-2):
            joined[number] = module, _scale(change, written[number])
        elif nn.functional.cosine_similarity(moved.flatten(), added[number].flatten(), dim=0) > 0.9:
            nearly.setdefault(number, (module, _scale(change, written[number])))

    with ExitStack() as stack:
        stack.enter_context(_alone(5, blocks.values(), ()))
        for block in blocks.values():
            stack.callback(block.register_forward_pre_hook(enter, with_kwargs=True).remove)
            stack.callback(block.register_forward_hook(leave).remove)
        for projection in owner:
            stack.callback(projection.register_forward_hook(write).remove)
        for module in model.modules():
            if not list(module.children()):
                stack.callback(module.register_forward_pre_hook(read).remove)
        _body(model, probe_inputs(model, 5))
    return nearly | joined


def _scale(change: torch.Tensor, written: torch.Tensor) -> float | None:
    """Return s where change = s x written (1e-2), else None."""
    scale = float((change * written).sum() / (written * written).sum())
    return round(scale, 3) if abs(scale) > 1e-6 and close(change, scale * written, 1e-2) else None


@contextmanager
def _alone(rows: int, blocks, modules) -> Iterator[None]:
    """Give every block and attention module, in all rows, what the first row receives."""

    def reset(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or rows not in value.shape:
            return value
        dim = value.shape.index(rows)
        return value.narrow(dim, 0, 1).expand(value.shape).clone()

    def enter(module: nn.Module, args: tuple, kwargs: dict) -> tuple:
        return tuple(map(reset, args)), {name: reset(value) for name, value in kwargs.items()}

    with ExitStack() as stack:
        for module in {*blocks, *modules}:
            stack.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
        yield


def _body(model: PreTrainedModel, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Run a model without its head where it has one apart; return the last hidden state (or what comes first)."""
    return model.base_model(**inputs)[0]


def is_linear(module: nn.Module) -> bool:
    """Return whether a module is a linear layer: the library's own, or one of a model that is seen to be the same.

    Such a one has a weight (out, in) and gives x W^T, plus a bias; the scale of a quantiser that is off may follow.
    """
    if isinstance(module, nn.Linear | Conv1D):
        return True
    weight, sizes = getattr(module, "weight", None), [getattr(module, f"{end}_features", None) for end in ("out", "in")]
    if not isinstance(weight, nn.Parameter) or list(weight.shape) != sizes:
        return False
    x_2C = torch.eye(2, sizes[1], dtype=weight.dtype, device=weight.device)
    try:
        y_2D, zero_2D = (y[0] if isinstance(y, tuple | list) else y for y in map(module.forward, (x_2C, 0 * x_2C)))
        return close(y_2D - zero_2D, x_2C @ weight.T)
    except Exception:  # it asks for more than its input
        return False


def width(projection: nn.Module) -> int:
    """Return how many channels a linear layer reads."""
    return projection.weight.shape[0] if isinstance(projection, Conv1D) else projection.in_features


def height(projection: nn.Module) -> int:
    """Return how many channels a linear layer writes."""
    return projection.weight.shape[1] if isinstance(projection, Conv1D) else projection.out_features
