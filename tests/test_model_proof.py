"""The proof catches what is planted; hybrids, gates, sinks and multipliers are measured right."""

import os
import sys
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers as hf
from test_model_contract import plain, prompt, relations
from tiny import IDS, SMALL, UNUSUAL, WINDOWED, make, tokenizer
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from stages.families import FAMILIES
from stages.families.family import Relation, Tokens
from stages.model import proof
from stages.model.anatomy import contribution, find
from stages.model.forward import forward
from stages.model.intervene import Edit, ablating
from stages.model.load import Loaded
from stages.model.measure import measure, weighing
from stages.model.observe import shares
from stages.model.proof import prove
from stages.model.score import Batch, LastToken
from stages.model.vectors import Parts
from stages.model.words import Words
from stages.store.errors import UserError

HYBRID = {"jamba": [1, 3], "lfm2": [1, 2], "qwen3_next": [1, 3], "nemotron_h": [1, 3]}


def weights_of(loaded, tokens) -> dict[int, torch.Tensor]:
    """Attention weights (H, T, T) by block, as watched."""
    seen: dict[int, torch.Tensor] = {}
    with weighing(loaded, lambda layer, weights, visible, start: seen.__setitem__(layer, weights[0])):
        forward(loaded, [tokens.ids], [np.arange(len(tokens))])
    return seen


def deep(layers: int) -> Loaded:
    """A random Llama of many small layers."""
    loaded = make("llama_gqa", scale=3.0)
    torch.manual_seed(0)
    config = hf.LlamaConfig(**loaded.model.config.to_dict() | {"num_hidden_layers": layers})
    config._attn_implementation = "eager"
    model = hf.LlamaForCausalLM(config).eval()
    return replace(loaded, model=model, anatomy=find(model))


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_models_are_proven_and_their_weights_are_those_that_modules_return(name):
    loaded, result = prove(make(name, scale=3.0))
    assert list(loaded.anatomy.layers) == HYBRID.get(name, list(range(3)))
    assert result["resumes"] == "ok" and result["vectors"] == "ok"
    assert loaded.caches == (name != "jamba" and loaded.kind == "decoder")
    tokens, own, handles = prompt(23, 0), {}, []
    for number, layer in loaded.anatomy.layers.items():

        def keep(module, args, output, number=number):
            own[number] = next(part for part in output if isinstance(part, torch.Tensor) and part.dim() == 4)

        handles.append(loaded.model.get_submodule(layer.attention).register_forward_hook(keep))
    with torch.no_grad():
        loaded.model(input_ids=torch.from_numpy(tokens.ids)[None], output_attentions=True)
    for handle in handles:
        handle.remove()
    for number, weights in weights_of(loaded, tokens).items():
        torch.testing.assert_close(weights, own[number][0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", [*HYBRID, "gpt_oss", "granite", "gpt_neo", "mixtral"])
def test_ablations_and_edits_of_unusual_models_equal_plain_full_passes(name, monkeypatch):
    monkeypatch.setattr("stages.model.sharing.SHARED", 8)
    loaded, _ = prove(make(name, scale=3.0))
    prompts = [prompt(20, 4), prompt(20, 4)]
    prompts[1].ids[-5:] = prompts[1].ids[-5:][::-1]
    batch = Batch(loaded, prompts, [tokens.target for tokens in prompts])
    last = LastToken(loaded, prompts[0])
    intact = plain(loaded, prompts[0])
    for number, layer in loaded.anatomy.layers.items():
        value = torch.full((layer.head_size,), 0.7)
        ablated = batch.ablated({(number, 2): value}, everywhere=True)
        (edited,) = last.edited([Edit(heads={(number, 2): value})])
        here, at = slice(2 * layer.head_size, 3 * layer.head_size), int(prompts[0].target[0]) - 1

        def write(module, args, here=here, rows=slice(None)):
            x = args[0].clone()
            x[:, rows, here] = 0.7
            return (x, *args[1:])

        projection = loaded.model.get_submodule(layer.projection)
        handle = projection.register_forward_pre_hook(write)
        for tokens, scored in zip(prompts, ablated, strict=True):
            np.testing.assert_allclose(scored.logprob, plain(loaded, tokens), atol=1e-4)
        assert np.abs(plain(loaded, prompts[0]) - intact).max() > 1e-4
        handle.remove()
        handle = projection.register_forward_pre_hook(lambda m, args, write=write, at=at: write(m, args, rows=at))
        np.testing.assert_allclose(edited.logprob, plain(loaded, prompts[0]), atol=1e-4)
        handle.remove()


def test_a_residual_multiplier_is_in_the_function_vector():
    loaded = make("granite", scale=3.0)
    layer = loaded.anatomy.layers[1]
    z = {(1, head): torch.randn(layer.head_size) for head in range(4)}
    expected = 0.22 * sum(contribution(loaded.model, layer, head, z[1, head]) for head in (0, 2))
    torch.testing.assert_close(Parts(loaded, z).together([(1, 0), (1, 2)]), expected, atol=1e-6, rtol=1e-5)


def test_windows_and_masks_come_from_the_weights():
    assert [layer.window for layer in make("gpt_neo").anatomy.layers.values()] == [4, None, 4]
    sizes = {"num_hidden_layers": 4, "num_key_value_heads": 2, "head_dim": 8, "intermediate_size_mlp": 16}
    config = hf.Llama4TextConfig(**SMALL | IDS | sizes, num_local_experts=2, attention_chunk_size=2000)
    config._attn_implementation = "eager"  # no layer names the chunk, and it is longer than what is read with weights
    layers = find(hf.Llama4ForCausalLM(config).eval()).layers
    assert [layer.window for layer in layers.values()] == [2000, 2000, 2000, None]
    loaded, tokens = make("mpnet", scale=5.0), prompt(23, 0)
    ahead = Relation(np.arange(22), np.eye(23, dtype=bool)[1:])  # the next token: nothing for a causal triangle
    means = measure(loaded, [tokens], [{"next": ahead}]).means[0]["next"].values
    assert means["mass"].max() > 0.01
    np.testing.assert_allclose(means["mass_null"], (1 - means["mass"] - first_and_self(loaded, tokens)) / 21, atol=0.05)


def first_and_self(loaded, tokens) -> np.ndarray:
    """Mean attention to the special first token, (L, H)."""
    return np.stack([weights[:, :22, 0].mean(1).numpy() for weights in weights_of(loaded, tokens).values()])


def test_windows_that_only_the_mask_knows_may_be_longer_than_a_probe():
    sizes = {"hidden_size": 32, "num_heads": 4, "num_layers": 2, "intermediate_size": 48}
    kinds = [[["local", "global"], 1]]
    for window, length in ((90, 300), (90, 512), (400, 300)):  # the last is longer than any text
        config = hf.GPTNeoConfig(
            **sizes, attention_types=kinds, window_size=window, max_position_embeddings=length, **IDS
        )
        model = hf.GPTNeoForCausalLM(config).eval()
        layers = find(model).layers
        assert [layer.window for layer in layers.values()] == [window if window < length else None, None]
    config = hf.Llama4TextConfig(
        **SMALL,
        **IDS,
        head_dim=8,
        num_key_value_heads=2,
        intermediate_size_mlp=48,
        attention_chunk_size=100,
        interleave_moe_layer_step=4,
        no_rope_layers=[1, 0, 1],
    )
    model = hf.Llama4ForCausalLM(config).eval()
    model.config._attn_implementation = "eager"
    assert [layer.window for layer in find(model).layers.values()] == [100, None, 100]


def test_what_a_learned_sink_takes_is_sink():
    loaded, tokens = make("gpt_oss", scale=3.0), prompt(64, 1)
    loaded.model.model.layers[0].self_attn.sinks[1] = 9.0  # far above the scores of keys
    short = Tokens("s", "short", tokens.ids, tokens.special)
    relation = FAMILIES["sink"].relation(short)
    mass = measure(loaded, [short], [{"sink": relation}]).means[0]["sink"].values["mass"]
    weights = weights_of(loaded, short)
    for number, weights_HTS in weights.items():
        expected = (1 - weights_HTS[:, 1:, 1:].sum(-1)).mean(1)
        np.testing.assert_allclose(mass[number], expected, atol=1e-5)
    assert mass[0, 1] > 0.9 and weights[0][1, :, 0].mean() < 0.2
    four = Tokens("w", "t", tokens.ids[:4], tokens.special[:4], words=(np.array([1]), np.array([2, 3])))
    weights_BHTS = torch.full((1, 1, 4, 4), 0.1)
    pooled = Words([four], "cpu").add(weights_BHTS, torch.ones(1, 4, 4, dtype=torch.bool), 0, 1 - weights_BHTS.sum(-1))
    torch.testing.assert_close(pooled.sink_BHW, torch.full((1, 1, 2), 0.7))


def test_a_learned_sink_after_the_softmax_is_a_sink():
    """Weights that sum to 1, times a factor: the keys' shares make up W_O's input, the rest is the sink's."""
    torch.manual_seed(0)
    config = hf.GraniteSWAConfig(**SMALL, **IDS, **WINDOWED, num_key_value_heads=2, max_position_embeddings=128)
    model = hf.GraniteSWAForCausalLM(config).eval().requires_grad_(False)
    model.config._attn_implementation = "eager"
    for layer in model.model.layers:
        layer.self_attn.sinks.copy_(torch.tensor([-1.0, 0.0, 2.0, 9.0]))
    loaded = Loaded(model, tokenizer(), find(model), "decoder")
    assert [layer.sink for layer in loaded.anatomy.layers.values()] == [True] * 3
    loaded, found = prove(loaded)
    assert found["resumes"] == found["caches"] == "ok"
    tokens = prompt(64, 1)
    short = Tokens("s", "short", tokens.ids, tokens.special)
    relation = FAMILIES["sink"].relation(short)
    mass = measure(loaded, [short], [{"sink": relation}]).means[0]["sink"].values["mass"]
    for number, shares_HTS in weights_of(loaded, short).items():
        attention, reach = model.model.layers[number].self_attn, []
        with ExitStack() as stack:  # every value 1: W_O reads how much of the attention goes to keys
            stack.callback(attention.v_proj.register_forward_hook(lambda m, a, out: torch.ones_like(out)).remove)
            stack.callback(attention.o_proj.register_forward_pre_hook(lambda m, a, r=reach: r.append(a[0])).remove)
            forward(loaded, [short.ids], [np.arange(64)])
        keys_HT = reach[0][0].unflatten(-1, (4, -1)).mean(-1).T
        torch.testing.assert_close(shares_HTS.sum(-1), keys_HT)
        expected_H = (1 - shares_HTS[:, 1:, 1:].sum(-1)).mean(1)
        np.testing.assert_allclose(mass[number], expected_H, atol=1e-5)
        assert keys_HT[0].mean() > 0.9 > 0.1 > keys_HT[3].mean()


class OwnLinear(torch.nn.Module):
    """A linear layer as a model may write it for itself, in front of the library's; bend: and not linear."""

    def __init__(self, linear: torch.nn.Linear, bend: float = 0.0) -> None:
        super().__init__()
        self.in_features, self.out_features, self.bend = linear.in_features, linear.out_features, bend
        self.weight, self.bias = linear.weight, torch.nn.Parameter(torch.ones(linear.out_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x, self.weight, self.bias) + self.bend * x.abs().sum(-1, keepdim=True)


def test_a_linear_layer_of_the_models_own_is_one():
    loaded = make("llama_gqa", scale=3.0)
    for layer in loaded.model.model.layers:
        layer.self_attn.o_proj = OwnLinear(layer.self_attn.o_proj)
    assert find(loaded.model).layers == loaded.anatomy.layers
    prove(loaded)
    loaded.model.model.layers[1].self_attn.o_proj.bend = 1.0
    found = find(loaded.model)
    assert list(found.layers) == [0, 2] and list(found.skipped) == ["model.layers.1.self_attn"]


def test_an_output_that_is_no_multiple_of_the_weighted_values_has_no_shares():
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(1, 4, 5, 5, generator=generator).softmax(-1)
    value = torch.randn(1, 2, 5, 8, generator=generator)
    output = (weights @ value.repeat_interleave(2, 1)).transpose(1, 2)
    assert shares(weights, value, output) is weights
    factor = torch.rand(1, 5, 4, 1, generator=generator)
    torch.testing.assert_close(shares(weights, value, output * factor), weights * factor.transpose(1, 2))
    assert shares(weights, value, output * 2) is None and shares(weights, value, -output) is None
    assert shares(weights, value, output + 0.01 * torch.randn(output.shape, generator=generator)) is None


def faulty(name: str, fault) -> None:
    loaded = make(name, scale=3.0)
    fault(loaded)
    prove(loaded)


def test_a_block_that_keeps_state_is_refused():
    def fault(loaded):
        passes = []

        def later(module, args, output):
            passes.append(1)
            return output + 1e-3 * len(passes)

        loaded.model.model.layers[1].mlp.register_forward_hook(later)

    with pytest.raises(UserError, match=r"LlamaForCausalLM: .*proof of reads"):
        faulty("llama_gqa", fault)


def test_padding_that_leaks_is_refused():
    def fault(loaded):
        loaded.model.model.layers[1].mlp.register_forward_hook(lambda m, args, y: y + args[0].mean(0, keepdim=True))

    with pytest.raises(UserError, match=r"proof of reads.*depends on the texts beside it"):
        faulty("llama_gqa", fault)


def test_a_head_that_nothing_reads_is_refused():
    def fault(loaded):
        projection = loaded.model.model.layers[2].self_attn.o_proj
        kept: list[torch.Tensor] = []
        projection.register_forward_pre_hook(lambda module, args: kept.append(args[0].detach().clone()))

        def cut(module, args, output):  # reads head 1 as it was, whatever is written there
            x = args[0].clone()
            x[..., 8:16] = kept[-1][..., 8:16]
            return x @ module.weight.T

        projection.register_forward_hook(cut)

    with pytest.raises(UserError, match=r"proof of heads.*no output depends on L2H1 in model\.layers\.2\.self_attn"):
        faulty("llama_gqa", fault)


def test_watching_that_changes_the_numbers_is_refused(monkeypatch):
    loaded = make("llama_gqa", scale=3.0)
    eager = weighing

    def wrong(loaded, reduce, *held):
        loaded.model.model.norm.weight.mul_(1.001)
        return eager(loaded, reduce, *held)

    monkeypatch.setattr(proof, "weighing", wrong)
    with pytest.raises(UserError, match="watching its attention changes"):
        prove(loaded)


@pytest.mark.parametrize("shuffled", [True, False])
def test_an_output_projection_that_mixes_heads_is_no_output_projection(shuffled):
    loaded = make("llama_gqa", scale=3.0)
    order = torch.randperm(32, generator=torch.Generator().manual_seed(0)) if shuffled else torch.arange(32)
    for layer in loaded.model.model.layers:
        layer.self_attn.o_proj.register_forward_pre_hook(lambda module, args: (args[0][..., order],), prepend=True)
    if not shuffled:
        assert list(find(loaded.model).layers) == [0, 1, 2]
        return
    with pytest.raises(UserError, match="does not read each head in a slice of its own"):
        find(loaded.model)


def test_shortcuts_that_are_wrong_are_not_used():
    """A model whose blocks read the embeddings again cannot be resumed; its numbers are right all the same."""
    loaded = make("llama_gqa", scale=3.0)
    body, seen = loaded.model.model, {}
    body.embed_tokens.register_forward_hook(lambda module, args, output: seen.update(x=output))
    body.layers[0].register_forward_hook(lambda module, args, output: seen.update(y=output))

    def again(module, args):
        return (args[0] + 0.3 * seen["y"], *args[1:])

    body.layers[2].register_forward_pre_hook(again)
    proven, result = prove(loaded)
    assert result["resumes"].startswith("not used: ") and not proven.resumes
    tokens = prompt(20, 4)
    values = {(1, 2): torch.zeros(8)}
    (scored,) = Batch(proven, [tokens], [tokens.target]).ablated(values, everywhere=True)
    with ablating(proven, values):
        np.testing.assert_allclose(scored.logprob, plain(proven, tokens), atol=1e-5)


@pytest.mark.parametrize("source", [0, 3, 6])
def test_one_block_that_reads_far_below_is_enough_to_forbid_resuming(source):
    """Block 7 of 9 reads what a block below gave: a pass that begins between the two has only half of it."""
    loaded = deep(9)
    layers, seen = loaded.model.model.layers, {}
    layers[source].register_forward_hook(lambda module, args, output: seen.update(y=output))
    layers[7].register_forward_pre_hook(lambda module, args: (args[0] + 0.3 * seen["y"], *args[1:]))
    proven, result = prove(loaded)
    assert result["resumes"].startswith("not used: a pass that begins at block") and not proven.resumes


def test_the_proof_grows_as_depth():
    """Blocks run and edits tried, so the time: twice the layers, at most twice the work."""
    ran = {}
    for layers in (16, 32):
        loaded, calls = deep(layers), []
        for block in loaded.model.model.layers:
            block.mlp.register_forward_hook(lambda module, args, output, calls=calls: calls.append(output.numel()))
        _, result = prove(loaded)
        assert set(result.values()) == {"ok"}
        ran[layers] = sum(calls)
    assert ran[32] < 2.2 * ran[16]


def test_a_dispatched_block_keeps_its_own_forward():
    """accelerate's dispatch lives in a block's own `forward`: skipping a block must put it back."""
    loaded = make("llama_gqa", scale=3.0)
    block, calls = loaded.model.model.layers[0], []
    own = type(block).forward

    def dispatched(*args, **kwargs):
        calls.append(1)
        return own(block, *args, **kwargs)

    block.forward = dispatched
    tokens = prompt(20, 4)
    Batch(loaded, [tokens], [tokens.target]).ablated({(2, 0): torch.zeros(8)}, everywhere=True)
    assert block.forward is dispatched and calls


def _tensors(values) -> list[torch.Tensor]:
    flat = [part for value in values for part in (value if isinstance(value, tuple | list) else [value])]
    return [value for value in flat if isinstance(value, torch.Tensor)]


class Unplaced(torch.Tensor):
    """Stands for a tensor on another device than the model: it may be moved, indexed by its like, never met."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        with torch._C.DisableTorchFunctionSubclass():
            met = any(x.dim() and not isinstance(x, cls) for x in _tensors(args))
            if name not in ("to", "cpu", "numpy", "copy_", "__setitem__") and met:
                raise AssertionError(f"{name} meets a tensor that was made without the model's device")
            output = function(*args, **(kwargs or {}))
        placed = torch.Tensor if name == "to" else cls
        if name == "__iter__":
            return iter([part.as_subclass(placed) for part in output])
        if isinstance(output, tuple) and not isinstance(output, torch.Size):
            return tuple(part.as_subclass(placed) for part in output)
        return output.as_subclass(placed) if isinstance(output, torch.Tensor) else output


class Marking(TorchFunctionMode):
    """Marks every tensor that our code brings to the processor, or makes of no other tensor without naming a device."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        output = function(*args, **(kwargs or {}))
        caller = sys._getframe(1)
        while caller.f_code.co_name == "__torch_function__":  # the mode that watches softmaxes passes all calls on
            caller = caller.f_back
        ours = f"stages{os.sep}model" in caller.f_code.co_filename
        given = _tensors((*args, *(kwargs or {}).values()))
        elsewhere = function is torch.Tensor.cpu or (not given and "device" not in (kwargs or {}))
        if ours and isinstance(output, torch.Tensor) and elsewhere:
            return output.as_subclass(Unplaced)
        return output


def measured(loaded) -> None:
    """All of the measuring path."""
    tokens = prompt(40, 4)
    words = Tokens("w", "t", tokens.ids, tokens.special, words=tuple(np.arange(1, 39).reshape(-1, 2)))
    between = Relation(np.arange(1, 19), np.eye(19, dtype=bool)[:18], words=True)
    find(loaded.model)
    loaded, _ = prove(loaded)
    measure(loaded, [words], [relations(tokens) | {"words": between}])
    batch = Batch(loaded, [tokens, tokens], [tokens.target, tokens.target])
    batch.ablated({(1, 0): torch.zeros(8)}, everywhere=False)
    LastToken(loaded, tokens).edited([Edit(), Edit(heads={(1, 0): torch.zeros(8)})])
    Parts(loaded, {(1, head): torch.ones(8) for head in range(4)}).together([(1, 0)])


DEVICES = ["llama_gqa", "bloom", "gpt_oss", "olmo2", "jamba"]


@pytest.mark.parametrize("name", DEVICES)
def test_what_meets_the_model_was_made_on_its_device(name, monkeypatch):
    """There is no second device here: a mode stands for it."""
    loaded, from_numpy = make(name, scale=3.0), torch.from_numpy
    monkeypatch.setattr(torch, "from_numpy", lambda array: from_numpy(array).as_subclass(Unplaced))
    with Marking():
        measured(loaded)
        with pytest.raises(AssertionError, match="without the model's device"):
            exec(compile("x + torch.zeros(3)", f"stages{os.sep}model", "exec"), {"torch": torch, "x": torch.ones(3)})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
@pytest.mark.parametrize("name", DEVICES)
def test_a_model_on_cuda_is_measured_as_on_the_processor(name):
    loaded, tokens = make(name, scale=3.0), prompt(40, 4)
    here = measure(loaded, [tokens], [relations(tokens)]).means[0]["random"].values
    loaded.model.to("cuda")
    measured(loaded)
    there = measure(loaded, [tokens], [relations(tokens)]).means[0]["random"].values
    for key, value in here.items():
        np.testing.assert_allclose(there[key], value, atol=1e-3)


def test_proof_waits_for_no_number_of_each_head():
    """On a GPU each is a wait; a model of 7B has 1,024 heads."""
    assert _waited(heads=16) == _waited(heads=4)


def _waited(heads: int) -> int:
    """Return how many numbers the proof of a Llama with so many heads a layer asks its device for."""
    torch.manual_seed(0)
    shape = SMALL | {"num_attention_heads": heads, "num_key_value_heads": 2, "head_dim": 8}
    config = hf.LlamaConfig(**shape, **IDS, initializer_range=0.2)
    config._attn_implementation = "eager"
    model = hf.LlamaForCausalLM(config).eval().requires_grad_(False)
    loaded = replace(make("llama_gqa"), model=model, anatomy=find(model))
    with Waits() as waits:
        prove(loaded)
    return waits.number


class Waits(TorchDispatchMode):
    """Counts the tensors whose number is asked for."""

    number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.number += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))
