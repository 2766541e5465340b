"""First-order effects are the slope of the exact ablation, in every architecture, for every head, task and kind."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch

from stages.model.first_order import first_order
from stages.model.forward import forward
from stages.model.outcome import outcomes, trial
from stages.model.silence import Writable, silencing
from stages.model.unread import Unread
from stages.tasks import of

SMALL = 3e-4  # part of the way to the replacement: the error of the slope falls with its square, to olmo2's 1e-2
ARCHITECTURES = ["gpt2", "llama_gqa", "gemma3", "olmo2", "bloom", "falcon"]


def prompt(number: int, task: str) -> SimpleNamespace:
    words = [" the cat sees the dog", " a bird likes the old house and the river"][number]
    targets = {"blimp": [words, words.replace("the", "a")], "icl": [" red house"], "text": []}[task]
    text = {"blimp": "", "icl": "Q : the old\nA :", "text": words * 3}[task]
    return SimpleNamespace(id=f"{task}/{number}", role="test", cluster=str(number), text=text, targets=targets,
                           relations=[], ordinals=[], tokens=0, bos=True)  # fmt: skip


def measure(loaded, task: str, row, head: tuple[int, int], kind: str, mean: torch.Tensor) -> list[float]:
    """The task's smooth measure at 0 and at `SMALL` of the way from z to the replacement, by plain full passes."""
    layer = loaded.anatomy.layers[head[0]]
    here = slice(head[1] * layer.head_size, (head[1] + 1) * layer.head_size)
    values = []
    for step in (-SMALL, SMALL):
        scored = []
        one = trial(loaded, task, row)
        for tokens, places in zip(one.tokens, one.positions, strict=True):
            special_T = torch.from_numpy(tokens.special)

            def move(module, args, special_T=special_T, step=step):
                x = args[0].clone()
                goal = mean if kind == "mean" else torch.zeros_like(mean)
                moved = x[..., here] + step * (goal - x[..., here])
                x[..., here] = torch.where(special_T[:, None], x[..., here], moved) if kind == "mean" else moved
                return (x, *args[1:])

            handle = loaded.model.get_submodule(layer.projection).register_forward_pre_hook(move)
            logits_NV = forward(loaded, [tokens.ids], [places - 1]).double()
            handle.remove()
            logprob = logits_NV.log_softmax(1).gather(1, torch.from_numpy(tokens.ids[places])[:, None])[:, 0].numpy()
            scored.append(SimpleNamespace(logprob=logprob, top=logprob > 0))
        values.append(of(task).measures(one.tokens, scored)[of(task).smooth])
    return values


@pytest.mark.parametrize("task", ["blimp", "icl", "text"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_estimates_are_the_slope_of_the_exact_ablation(name, task):
    loaded = tiny.make(name, scale=4.0)
    loaded.model.double()  # differences of float32 passes would drown the slope
    rng = np.random.default_rng(0)
    means = {
        (layer, head): torch.from_numpy(rng.normal(size=loaded.anatomy.layers[layer].head_size))
        for layer, head in loaded.anatomy.heads
    }
    rows = [prompt(number, task) for number in (0, 1)]
    estimates = first_order(loaded, task, rows, means, ("mean", "zero"), 1).set_index(
        ["prompt", "kind", "layer", "head"]
    )
    scale = float(estimates.change.abs().max())
    assert scale > 1e-6 and len(estimates) == 2 * 2 * len(loaded.anatomy.heads)
    for head in loaded.anatomy.heads:
        for row in rows:
            for kind in ("mean", "zero"):
                low, high = measure(loaded, task, row, head, kind, means[head])
                slope = (high - low) / (2 * SMALL)
                assert estimates.loc[(row.id, kind, *head), "change"] == pytest.approx(
                    slope, rel=1e-2, abs=1e-3 * scale
                )


@pytest.mark.parametrize("name", ["gpt2", "llama_gqa", "bloom", "falcon"])  # the others' norms undo what is little
def test_heads_that_write_little_change_what_the_pipeline_measures(name):
    """Where heads write little, silencing them by the pipeline's own code is first order itself."""
    loaded = tiny.make(name, scale=4.0)
    for layer in loaded.anatomy.layers.values():
        loaded.model.get_submodule(layer.projection).weight.mul_(1e-3)
    loaded.model.double()
    rng, heads = np.random.default_rng(1), loaded.anatomy.heads
    means = {head: torch.from_numpy(rng.normal(size=loaded.anatomy.layers[head[0]].head_size)) for head in heads}
    for kind in ("mean", "zero"):
        passes = [lambda _, head=head, kind=kind: silencing([head], kind, Writable(means)) for head in heads]
        ((_, (intact, *changed)),) = outcomes(loaded, "blimp", [prompt(0, "blimp")], 512, passes)
        exact_H = np.array([measures["margin"] - intact["margin"] for measures in changed])
        estimates = first_order(loaded, "blimp", [prompt(0, "blimp")], means, (kind,), 512)
        assert estimates.change.to_numpy() == pytest.approx(exact_H, abs=3e-2 * np.abs(exact_H).max())


def test_batches_do_not_change_the_estimates():
    loaded = tiny.make("gemma3", scale=4.0)
    means = {(layer, head): torch.zeros(16) for layer, head in loaded.anatomy.heads}
    rows = [prompt(number, "text") for number in (0, 1)]
    together, alone = (first_order(loaded, "text", rows, means, ("zero",), size) for size in (512, 1))
    assert np.allclose(together.change, alone.change, atol=1e-5)


@pytest.mark.parametrize("task", ["blimp", "icl", "text"])
@pytest.mark.parametrize("name", ["gpt2", "llama_gqa", "gemma3"])
def test_a_head_that_reads_a_piece_at_a_time_gives_the_same_estimates(name, task, monkeypatch):
    loaded, asked = tiny.make(name, scale=4.0), []
    means = {head: torch.zeros(loaded.anatomy.layers[head[0]].head_size) for head in loaded.anatomy.heads}
    rows = [prompt(number, task) for number in (0, 1)]
    whole = first_order(loaded, task, rows, means, ("mean", "zero"), 512)
    gradient = Unread.gradient
    monkeypatch.setattr(Unread, "gradient", lambda *given: asked.append(1) or gradient(*given))
    pieces = first_order(replace(loaded, ends=True), task, rows, means, ("mean", "zero"), 512)
    assert asked and np.abs(pieces.change).max() > 0
    assert np.allclose(pieces.change, whole.change, rtol=1e-4, atol=1e-5 * np.abs(whole.change).max())


def test_no_hook_and_no_gradient_stays_behind():
    loaded = tiny.make("gpt2")
    means = {head: torch.zeros(8) for head in loaded.anatomy.heads}
    first_order(loaded, "text", [prompt(0, "text")], means, ("mean",), 512)
    assert not forward(loaded, [np.arange(4)], [np.arange(4)]).requires_grad
    assert all(parameter.grad is None for parameter in loaded.model.parameters())
    projection = loaded.model.get_submodule(loaded.anatomy.layers[0].projection)
    assert not projection._forward_pre_hooks


def test_a_prompt_too_short_to_be_scored_has_no_rows():
    loaded = tiny.make("llama_gqa")
    means = {head: torch.zeros(loaded.anatomy.layers[head[0]].head_size) for head in loaded.anatomy.heads}
    short, long = prompt(0, "text"), prompt(1, "text")
    short.text = " the cat"
    estimates = first_order(loaded, "text", [short, long], means, ("mean",), 2048)
    assert estimates.prompt.unique().tolist() == [long.id] and np.isfinite(estimates.change).all()
    assert [results for _, results in outcomes(loaded, "text", [short], 2048, [])] == [[{}]]
