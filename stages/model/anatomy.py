"""Where a transformer's attention heads are, found by running it: no table of architectures.

Three short passes of its body (`stages.model.probe`) say, for every attention layer:
1. which module attends, with which weights: visible keys are those with a weight above 0, their reach is the window;
   rows whose weights sum to less than 1 leave the rest to a learned sink (GPT-OSS);
2. which linear layer is the output projection W_O: the first one after the attention whose input changes when heads'
   outputs are changed, and changes head by head in equal slices, in order. What it reads is z: after a gate, if any.
3. where W_O's output joins the residual, and whether as a fixed multiple of itself.

Head h's output z_h is the slice [h K, (h+1) K) of W_O's input: right for grouped queries, fused QKV, MLA, gates, biases
and head sizes that are not width / heads. Layers are numbered by the model's own blocks, from 0; blocks without
attention (Mamba, convolution) have no layer.

Legend: B batch, T token, H query head, K head size, D residual width.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D

from stages.model import placed, probe
from stages.model.probe import Attention, probe_inputs
from stages.store.errors import UserError

__all__ = ["Anatomy", "Layer", "asked_as", "contribution", "find", "probe_inputs", "read"]


@dataclass(frozen=True)
class Layer:
    """One attention layer: names are module paths, sizes are in heads and channels, `window` in tokens.

    window: keys at this distance or farther are never seen; None where all are. Chunks have the size of a chunk.
    sink: a row's weights may sum to less than 1: the rest is the mass of a learned sink.
    joins: the module whose input is the residual right after this attention; the block where that is its output; ''
        where it was not found.
    scale: W_O's output joins the residual as this multiple of itself; None where as something else, such as its norm.
    """

    attention: str
    projection: str
    block: str
    heads: int
    kv_heads: int
    head_size: int
    window: int | None
    sink: bool = False
    joins: str = ""
    scale: float | None = None

    @property
    def kind(self) -> str:
        """'window' where keys farther than `window` are masked, else 'global'."""
        return "window" if self.window else "global"


_RECORDED = ("observed", "causal", "skipped")  # fields of an anatomy that a record holds as they are


@dataclass(frozen=True)
class Anatomy:
    """All measurable attention layers of a model by block number, and attention modules skipped, with reasons.

    observed: attention functions are seen; else the modules' softmax is.
    causal: no position's output depends on later tokens.
    blocks: module paths of all blocks, with attention or without.
    returns: how many things each block returns, 0 for a tensor.
    """

    layers: Mapping[int, Layer]
    observed: bool
    causal: bool
    blocks: tuple[str, ...]
    returns: tuple[int, ...]
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def heads(self) -> list[tuple[int, int]]:
        """All (layer, head), in order."""
        return [(number, head) for number, layer in self.layers.items() for head in range(layer.heads)]

    @property
    def attention_free(self) -> list[int]:
        """Numbers of the blocks without a measured attention layer."""
        return [number for number in range(len(self.blocks)) if number not in self.layers]

    def recorded(self) -> dict[str, Any]:
        """Return what data/models/<slot>.json holds of it."""
        attention = [{"layer": i, **asdict(layer), "kind": layer.kind} for i, layer in self.layers.items()]
        blocks = {"blocks": list(self.blocks), "returns": list(self.returns), "attention_free": self.attention_free}
        return {"attention": attention, **blocks, **{name: getattr(self, name) for name in _RECORDED}}


def read(record: Mapping[str, Any]) -> Anatomy:
    """Return the anatomy that `Anatomy.recorded` wrote down; raises `KeyError` or `TypeError` where it is none."""
    names = [each.name for each in fields(Layer)]
    layers = {part["layer"]: Layer(**{name: part[name] for name in names}) for part in record["attention"]}
    blocks, returns = tuple(record["blocks"]), tuple(record["returns"])
    return Anatomy(layers, blocks=blocks, returns=returns, **{name: record[name] for name in _RECORDED})


def find(model: PreTrainedModel) -> Anatomy:
    """Find attention modules, output projections and blocks.

    Raises `UserError` when the model has no head that can be measured.
    """
    name = type(model).__name__
    modules = list(model.modules())
    seen = probe.look(model)
    if [id(module) for module in model.modules()] != [id(module) for module in modules]:
        raise UserError(f"{name}: it replaces its own modules as it runs: what is measured depends on what ran before")
    paths = {module: path for path, module in model.named_modules()}
    if not seen.attention:
        raise UserError(
            f"{name}: no attention found: no softmax over as many keys as there are queries, in a module of a block"
        )
    blocks = _blocks(model, [paths[attention.module] for attention in seen.attention])
    for block in blocks:
        shape = seen.shapes.get(model.get_submodule(block), ())
        if len(shape) > 3:
            raise UserError(f"{name}: {block} passes on several residual streams, {tuple(shape)}: only one is measured")
    skipped = {paths[attention.module]: why for attention in seen.attention if (why := _unfit(attention))}
    places: dict[int, Attention] = {}
    for attention in seen.attention:
        path = paths[attention.module]
        number = next((n for n, block in enumerate(blocks) if path == block or path.startswith(block + ".")), None)
        if path in skipped:
            continue
        if number is None:
            skipped[path] = "it is in none of the model's blocks"
        elif number in places:
            skipped[path] = f"a second attention in block {number}"
        else:
            places[number] = attention
    layers: dict[int, Layer] = {}
    modules_of = {number: model.get_submodule(block) for number, block in enumerate(blocks)}
    projections = probe.project(model, places, modules_of, seen.observed)
    used = Counter(_storage(x.module) for x in projections.values() if not isinstance(x, str))
    for number, projected in projections.items():
        if isinstance(projected, str):
            skipped[paths[places[number].module]] = projected
        elif (shared := used[_storage(projected.module)]) > 1:  # as Zamba's, tied between modules
            skipped[paths[places[number].module]] = f"its weights are shared by {shared} layers"
        else:
            attention = places[number]
            shape, written = seen.shapes.get(modules_of[number], (0,)), probe.height(projected.module)
            if shape[-1] > written and shape[-1] % written == 0:
                raise UserError(
                    f"{name}: {blocks[number]} passes on {shape[-1]} channels, its attention writes {written}: "
                    "only models of one residual stream are measured"
                )
            layers[number] = Layer(
                attention=paths[attention.module],
                projection=paths[projected.module],
                block=blocks[number],
                heads=attention.heads,
                kv_heads=attention.kv_heads,
                head_size=projected.head_size,
                window=attention.window,
                sink=attention.sink,
            )
    if not layers:
        why = "; ".join(f"{path}: {reason}" for path, reason in list(skipped.items())[:2])
        raise UserError(f"{name}: no attention head can be measured ({why})")
    joined = probe.join(model, modules_of, {n: model.get_submodule(x.projection) for n, x in layers.items()})
    for number, (module, scale) in joined.items():
        layers[number] = Layer(**asdict(layers[number]) | {"joins": paths[module], "scale": scale})
    returns = tuple(seen.returns.get(model.get_submodule(block), 0) for block in blocks)
    return Anatomy(dict(sorted(layers.items())), seen.observed, seen.causal, blocks, returns, skipped)


def asked_as(model: PreTrainedModel, anatomy: Anatomy) -> str:
    """Return what a model can be asked: 'decoder' (continue text), 'masked' (fill gaps), 'vision' (images), 'encoder'.

    Which tokens an output depends on is measured; of class names only those of masked-LM heads count. Raises
    `UserError` for a causal model without a head.
    """
    if model.main_input_name == "pixel_values":
        return "vision"
    if anatomy.causal:
        if model.get_output_embeddings() is None:
            raise UserError(f"{type(model).__name__}: it reads left to right, but no language-model head was found")
        return "decoder"
    return "masked" if type(model).__name__ in MODEL_FOR_MASKED_LM_MAPPING_NAMES.values() else "encoder"


def contribution(model: PreTrainedModel, layer: Layer, head: int, z: torch.Tensor) -> torch.Tensor:
    """Return W_O[:, h] z_h, what one head gives to its projection's output: (..., K) -> (..., D) float32, no bias."""
    projection = model.get_submodule(layer.projection)
    weight = placed.weight(projection)
    weight = weight if isinstance(projection, Conv1D) else weight.T  # (H K, D)
    return z.float() @ weight[head * layer.head_size : (head + 1) * layer.head_size].float()


def _storage(projection: nn.Module) -> int:
    """Return what layers that share their weights have in common; offloaded ones are taken to be their own."""
    return id(projection) if projection.weight.is_meta else projection.weight.data_ptr()


def _unfit(attention: Attention) -> str:
    """Return why an attention module cannot be measured, '' where it can."""
    if attention.calls == 1:
        return attention.fault
    if attention.passes == 1:
        return f"it attends {attention.calls} times in one layer (differential attention): its heads are not separate"
    return f"its weights are shared by {attention.passes} layers"


def _blocks(model: PreTrainedModel, paths: list[str]) -> tuple[str, ...]:
    """Return the paths of all blocks: the members of each list of modules that attention modules sit in.

    A block is the shortest path to an attention module that ends in a number and is no list itself.
    """
    blocks: list[str] = []
    for path in paths:
        parts = path.split(".")
        for end, part in enumerate(parts):
            whole, parent = ".".join(parts[: end + 1]), ".".join(parts[:end])
            if part.isdigit() and not isinstance(model.get_submodule(whole), nn.ModuleList):
                members = [f"{parent}.{name}".lstrip(".") for name, _ in model.get_submodule(parent).named_children()]
                blocks += [member for member in members if member not in blocks]
                break
    return tuple(blocks)
