"""Linear layers by oneDNN: what torch's own give, and torch's own wherever that is not known to be so."""

import gc
import platform
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tiny import make, save
from torch import nn

from stages import fetch
from stages.model import linear as by_onednn
from stages.model import load as loading
from stages.model import machine
from stages.model.forward import forward
from stages.model.linear import Linears, applies, lay_out, linear

ROOT = Path(__file__).parents[1]
X86 = platform.machine() in by_onednn.PROCESSORS and torch.backends.mkldnn.is_available()
NOT_MEASURED = "oneDNN was measured on x86-64 alone"
ROWS = 64


@pytest.fixture
def made(monkeypatch) -> list[tuple[int, ...]]:
    """The shapes that oneDNN is given from now on."""
    shapes: list[tuple[int, ...]] = []
    own = by_onednn._by_onednn
    monkeypatch.setattr(by_onednn, "_by_onednn", lambda x, *others: shapes.append(tuple(x.shape)) or own(x, *others))
    return shapes


def numbers(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(sum(shape)).normal(size=shape)).float()


@pytest.mark.skipif(not X86, reason=NOT_MEASURED)
@pytest.mark.parametrize("shape", [(48,), (1, 48), (64, 48), (3, 40, 48), (1, 700, 48)])
@pytest.mark.parametrize("biased", [False, True])
@torch.no_grad()
def test_what_is_made_is_what_torch_makes(shape, biased, made):
    x, weight, bias = numbers(*shape), numbers(96, 48), numbers(96) if biased else None
    expected = nn.functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    found = linear(x, weight, bias)
    assert made == [shape] and found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, atol=3e-6, rtol=1e-5)
    torch.testing.assert_close(linear(x[..., ::2], weight[:, ::2].contiguous()), x[..., ::2] @ weight[:, ::2].T)


class Other(torch.Tensor):
    """As quantised weights are."""


@pytest.mark.parametrize(
    "x, weight, bias",
    [
        (numbers(0, 8), numbers(5, 8), None),
        (numbers(ROWS, 8).double(), numbers(5, 8).double(), None),
        (numbers(ROWS, 8).bfloat16(), numbers(5, 8).bfloat16(), None),
        (numbers(ROWS, 8), numbers(8, 5).T, None),
        (numbers(ROWS, 8), numbers(5, 8), numbers(10)[::2]),
        (numbers(ROWS, 8), numbers(5, 8), numbers(5, 3)[:, 0]),
        (numbers(ROWS, 8), numbers(5, 8), numbers(1).expand(5)),
        (numbers(ROWS, 8), numbers(5, 8), numbers(1)),
        (numbers(ROWS, 8), numbers(5, 8), numbers(1, 5)),
        (numbers(ROWS, 8), numbers(5, 8), numbers(ROWS, 5)),
        (numbers(ROWS, 8), numbers(5, 8), numbers(1)[0]),
        (numbers(ROWS, 8), numbers(8), None),
        (numbers(ROWS, 8), numbers(5, 8).as_subclass(Other), None),
        (numbers(ROWS, 8).to("meta"), numbers(5, 8).to("meta"), None),
    ],
)
def test_all_else_is_left_to_torch(x, weight, bias, made):
    with torch.no_grad():
        found, expected = linear(x, weight, bias), nn.functional.linear(x, weight, bias)
    assert not made and type(found) is type(expected) and found.shape == expected.shape
    assert found.is_meta or torch.equal(found, expected)


def test_gradients_and_other_processors_are_left_to_torch(made, monkeypatch):
    x, weight = numbers(ROWS, 8), numbers(5, 8).requires_grad_(True)
    linear(x, weight).sum().backward()
    assert weight.grad is not None and not made
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    for of, name, said in ((platform, "machine", "arm64"), (torch.backends.mkldnn, "is_available", False)):
        with torch.no_grad(), monkeypatch.context() as patched:
            patched.setattr(of, name, lambda said=said: said)
            assert torch.equal(linear(x, weight), nn.functional.linear(x, weight))
    assert not made


def test_only_where_a_model_may_have_such_layers():
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert applies(cpu, torch.float32) == X86
    assert not any(applies(*pair) for pair in ((gpu, torch.float32), (cpu, torch.bfloat16), (cpu, torch.float64)))


@pytest.mark.skipif(not X86, reason=NOT_MEASURED)
@pytest.mark.parametrize("name", ["llama_gqa", "gemma3", "gpt2", "bert"])
def test_passes_are_those_of_plain_calls_and_nothing_stays_behind(name, made, monkeypatch):
    loaded = make(name, scale=3.0)
    texts = [np.random.default_rng(seed).integers(5, 90, 40) for seed in range(3)]
    whole = torch.from_numpy(np.stack(texts))
    with torch.no_grad():
        plain = loaded.model(input_ids=whole).logits[:, -1]
    assert not made
    found = forward(loaded, texts, [np.array([39])] * 3)
    assert len(made) == 1 if name == "gpt2" else len(made) > 1  # its layers are no linear ones, but its head is
    torch.testing.assert_close(found, plain, atol=2e-5, rtol=1e-5)
    made.clear()
    with torch.no_grad():
        loaded.model(input_ids=whole)
    assert not made
    with Linears(), torch.no_grad():
        assert nn.Linear(8, 5)(numbers(ROWS, 8)).shape == (ROWS, 5) and made == [(ROWS, 8)]


@torch.no_grad()
def test_parts_may_be_named():
    """As I-BERT does."""
    x, weight, bias = numbers(ROWS, 8), numbers(5, 8), numbers(5)
    expected = nn.functional.linear(x, weight, bias)
    with Linears():
        assert torch.equal(nn.functional.linear(x, weight=weight, bias=bias), expected)
        assert torch.equal(nn.functional.linear(input=x, weight=weight, bias=bias), expected)


@pytest.fixture
def given(monkeypatch) -> list[torch.Tensor]:
    """The weights that torch's operator is given from now on: those laid out are of another layout."""
    weights: list[torch.Tensor] = []
    own = torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(
        torch.ops.mkldnn,
        "_linear_pointwise",
        lambda x, weight, *others: weights.append(weight) or own(x, weight, *others),
    )
    return weights


def laid_out(bias: bool = True) -> nn.Linear:
    layer = nn.Linear(48, 96, bias=bias).requires_grad_(False)
    lay_out(nn.Sequential(layer), None, room=1e9)
    return layer


def blocked(weights: list[torch.Tensor]) -> list[bool]:
    found = [weight.is_mkldnn for weight in weights]
    weights.clear()
    return found


@pytest.mark.skipif(not X86, reason=NOT_MEASURED)
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("shape", [(48,), (1, 1, 48), (2, 48), (64, 48), (3, 40, 48), (1, 700, 48)])
@torch.no_grad()
def test_weights_laid_out_give_the_same_bits(shape, biased, given):
    layer, x = laid_out(biased), numbers(*shape)
    found = linear(x, layer.weight, layer.bias)
    assert blocked(given) == [x.numel() > 48]  # one row alone is summed in another order
    assert torch.equal(found, linear(x, layer.weight.clone(), layer.bias))
    assert blocked(given) == [False]


@pytest.mark.skipif(not X86, reason=NOT_MEASURED)
@torch.no_grad()
def test_a_weight_that_is_changed_is_what_it_is_now(given):
    x, others = numbers(ROWS, 48), numbers(96, 48)

    def written(layer):
        layer.weight[3] += 1

    def copied(layer):
        layer.weight.copy_(others)

    def moved(layer):
        layer.weight.data = others

    def replaced(layer):
        layer.weight = nn.Parameter(others, requires_grad=False)

    def shortened(layer):
        layer.weight.data, layer.bias = layer.weight.data[:10], None

    for change in (written, copied, moved, replaced, shortened):
        layer = laid_out()
        linear(x, layer.weight, layer.bias)
        change(layer)
        found = linear(x, layer.weight, layer.bias)
        assert blocked(given) == [True, False] and layer.weight not in by_onednn._laid_out
        torch.testing.assert_close(found, nn.functional.linear(x, layer.weight, layer.bias), atol=3e-6, rtol=1e-5)


@pytest.mark.skipif(not X86, reason=NOT_MEASURED)
@torch.no_grad()
def test_what_is_laid_out_goes_with_its_weight_and_has_room(given):
    before = len(by_onednn._laid_out)
    layer = laid_out()
    assert len(by_onednn._laid_out) == before + 1
    del layer
    gc.collect()
    assert len(by_onednn._laid_out) == before
    model = nn.Sequential(nn.Linear(48, 96), nn.Linear(96, 700), nn.Linear(48, 96).double())
    lay_out(model, model[1], room=4 * 48 * 96 - 1)
    assert len(by_onednn._laid_out) == before
    lay_out(model, model[1], room=4 * 48 * 96)
    assert len(by_onednn._laid_out) == before + 1 and model[0].weight in by_onednn._laid_out


@pytest.mark.skipif(not X86, reason=NOT_MEASURED)
def test_a_slot_s_weights_are_laid_out_where_that_is_asked_for_and_there_is_room(tmp_path, monkeypatch):
    content = yaml.safe_load((ROOT / "tests/params.yaml").read_text())
    folder = save("llama_gqa", tmp_path / "model")
    content["models"] = {"a": {"source": "path", "name": str(folder)}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEAD_ATLAS_CACHE", str(tmp_path / "cache"))
    fetch.main("a")
    monkeypatch.setattr(loading.os, "cpu_count", lambda: 8)
    for asked, memory, expected in ((True, 64e9, True), (False, 64e9, False), (True, 1e5, False)):
        monkeypatch.setattr(machine, "memory", lambda memory=memory: memory)
        model = loading.load("a", lays_out=asked).model
        assert expected == any(weight in by_onednn._laid_out for weight in model.parameters())
        assert model.get_output_embeddings().weight not in by_onednn._laid_out
