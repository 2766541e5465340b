"""What stages announce: tokens and rows counted as they run, shared ones once, at the speed of a product measured."""

import ast
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import save_file
from tiny import make
from torch.utils._python_dispatch import TorchDispatchMode

from stages.model import cost
from stages.model.cost import Work, announce, branched, seconds, shared, weights
from stages.model.linear import Linears
from stages.store import cost as of_tables
from stages.training import cost as of_training

ROOT = Path(__file__).parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
NAMES = {"announce", "told", "checking", "measuring", "training"}  # each returns the line, or the time in it


def test_what_texts_begin_with_runs_once():
    texts = [[1, 2, 3, 4], [1, 2, 9], [1, 2, 3, 5, 6], [7], [1, 2]]
    beginnings = {tuple(ids[:end]) for ids in texts for end in range(1, len(ids) + 1)}
    assert shared([np.array(ids) for ids in texts]) == len(beginnings) == 8
    assert shared([np.array([4, 4])] * 3) == 2 and shared([]) == 0


def test_weights_are_those_that_tokens_and_rows_meet():
    loaded = make("llama_gqa")
    width, vocabulary = 32, loaded.model.config.vocab_size
    blocks = sum(weight.numel() for weight in loaded.model.model.layers.parameters()) + width  # and the last norm
    assert weights(loaded) == (blocks, width * vocabulary)
    assert weights(make("bert"))[1] >= 0 and weights(make("vit"))[1] == 0


def test_work_is_announced_in_minutes(monkeypatch):
    loaded = make("llama_gqa")
    blocks, head = weights(loaded)
    monkeypatch.setattr(cost, "seconds", lambda loaded: 1e-6)
    work = (Work(1000, 3) + Work(500)) * 2
    minutes = (3000 * blocks + 6 * head) * 1e-6 / 60
    line = announce("trace a", 12, work, loaded)
    assert line == f"trace a: 12 prompts, 3,000 tokens, 6 rows of the LM head, about {minutes:.1f} min"
    assert announce("x", 1, Work(2), loaded).startswith("x: 1 prompts, 2 tokens, about")


@pytest.mark.parametrize(("tokens", "looks"), [(10, 1), (1_000_000, 4)])
def test_of_a_long_stage_the_best_of_several_looks_counts(tokens, looks, monkeypatch):
    loaded, took = make("llama_gqa"), iter([2e-9, 2e-9, 1e-9, 3e-9, 2e-9])
    monkeypatch.setattr(cost, "AGAIN", 3)
    monkeypatch.setattr(cost, "seconds", lambda loaded: next(took))
    count = tokens * weights(loaded)[0]
    line = announce("a", 1, Work(tokens), loaded)
    assert (
        line.endswith(f"about {count * (2e-9 if looks == 1 else 1e-9) / 60:.1f} min") and len(list(took)) == 5 - looks
    )
    assert count * 2e-9 > cost.LONG or looks == 1


def test_silenced_heads_leave_out_the_blocks_below():
    loaded = make("llama_gqa")
    alone = [branched(loaded, [("mean", [(layer, 1)])]) for layer in range(3)]
    assert alone == pytest.approx([1, 2 / 3, 1 / 3])
    assert branched(loaded.allowed({"resumes": "no"}), [("mean", [(2, 1)])]) == 1


def test_a_multiplication_takes_its_time():
    assert 1e-14 < seconds(make("llama_gqa")) < 1e-7


def test_training_is_announced_by_its_tokens_and_steps(monkeypatch):
    architecture = SimpleNamespace(width=8, layers=2, inner=16)
    lesson, training = SimpleNamespace(positions=10, symbols=5), SimpleNamespace(batch=4, architecture=architecture)
    monkeypatch.setattr(of_training, "product", lambda **how: 1e-6)
    monkeypatch.setattr(of_training, "calculation", lambda: 1e-3)
    step = 3 * (4 * 10) * (2 * (4 * 64 + 2 * 8 * 16) + 8 * 5) * 1e-6 + of_training.STEP / 2
    told = of_training.training([(lesson, training, 1000)] * 2, 2)
    assert told == f"about {(of_training.OPENED / 1000 + 2000 * step) / 60:.1f} min"
    calculations = of_training.OPENED + 1200 * of_training.CHECKPOINT / 2
    assert of_training.measuring(1200, 2) == f"about {calculations / 60_000:.1f} min"


def test_what_fetch_reads_is_counted_in_the_headers_of_its_files(tmp_path, monkeypatch):
    save_file({"a": np.zeros((3, 4), np.float32), "b": np.zeros(5, np.float16)}, tmp_path / "x.safetensors")
    save_file({"c": np.zeros((1000, 1000), np.float32)}, tmp_path / "y.safetensors")
    monkeypatch.setattr(cost, "product", lambda: 1e-7)
    line = cost.checking("fetch a", sorted(tmp_path.iterdir()))
    assert (
        line == f"fetch a: 4 MB and 1,000,017 weights to read and prove, about {cost.PROVEN * 0.1000017 / 60:.1f} min"
    )


def test_a_stage_without_a_model_is_announced_in_small_calculations(monkeypatch):
    assert 1e-5 < of_tables.calculation() < 1
    monkeypatch.setattr(of_tables, "calculation", lambda: 0.5)
    assert of_tables.announce("x", {"rows": 12_000, "heads": 3}, 120) == "x: 12,000 rows, 3 heads, about 1.0 min"


SILENT = {  # stages that end within some 5 s of their start, and why
    "prepare": "builds texts; a picture or a sentence takes microseconds",
    "tidy": "deletes files",
    "prompts": "reads a prompt of each task",
    "plan": "draws sets of heads from one small table",
}


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_that_takes_long_says_what_it_will_do(stage):
    """By its own call or one of the stages that it runs (`apply`): a line that begins with its name."""
    text = (ROOT / "stages" / f"{stage}.py").read_text()
    room = ROOT / "stages/applied" if stage == "apply" else None
    texts = [text, *(path.read_text() for path in (room.glob("*.py") if room else ()))]
    calls = [any(name in NAMES for name in called(text)) for text in texts]
    assert any(calls) != (stage in SILENT)


def called(text):
    """Names of functions that a module calls, whatever they are called on."""
    nodes = (node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
    return {node.id if isinstance(node, ast.Name) else getattr(node, "attr", "") for node in nodes}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_measured_is_a_linear_layers_product(dtype):
    """Its matrix lies as a layer's: the other way round products in half precision took ten times as long (x86)."""
    with torch.no_grad(), Products() as layers, Linears():
        torch.nn.Linear(cost.SIDE, cost.SIDE, bias=False, dtype=dtype)(torch.ones(64, cost.SIDE, dtype=dtype))
    with Products() as measured:
        cost.product(dtype)
    assert set(measured.matrices) == set(layers.matrices)
    assert {strides for _, strides in measured.matrices} == {(1, cost.SIDE)}


def test_training_asks_for_products_with_gradients():
    """oneDNN's have none: what torch makes there is what training waits for."""
    with Products() as measured:
        of_training.training([], 1)
    assert {str(function) for function, _ in measured.matrices} == {"aten.mm.default"}


class Products(TorchDispatchMode):
    """By what products are made, and how their right-hand matrices lie in memory: their strides."""

    def __init__(self):
        super().__init__()
        self.matrices = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.matrices.append((function, args[-1].stride()))
        elif str(function) == "mkldnn._linear_pointwise.default":
            self.matrices.append((function, args[1].t().stride()))
        return function(*args, **(kwargs or {}))
