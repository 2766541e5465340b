"""On a GPU nothing of the processor's may meet what a model gives: seen without one, by a device that is not there."""

from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from elsewhere import DEVICE, Elsewhere, marked, send
from test_model_contract import prompt, relations
from tiny import make

from stages import gates
from stages.model import misses
from stages.model.demonstrated import demonstrated
from stages.model.demonstrations import readings
from stages.model.first_order import _changes
from stages.model.intervene import Edit
from stages.model.measure import measure
from stages.model.norms import token_norms
from stages.model.outcome import Trial
from stages.model.score import Batch, LastTokens
from stages.model.silence import KINDS, Donors, Firsts, Writable, silencing
from stages.model.sinks import look
from stages.model.streaming import Cut
from stages.model.token_states import token_states
from stages.model.vectors import Parts
from stages.tasks.prompt import Prompt, Span


def test_what_a_gpu_refuses_is_refused():
    with Elsewhere():
        there = torch.arange(6.0, device=DEVICE).reshape(2, 3)
        for refused in (
            lambda: there + torch.zeros(2, 3),
            lambda: there.gather(1, torch.zeros(2, 1, dtype=torch.long)),
            lambda: torch.zeros(3)[there.argmax(1)],
            lambda: torch.zeros(2) * there.sum(),
            lambda: torch.cat([there, there.cpu()]),
        ):
            with pytest.raises(RuntimeError, match="not all tensors are on one device"):
                refused()
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        assert marked(there[torch.tensor([1])]) and marked(torch.ones(3).to(there) + there)
        assert not marked(there.cpu()) and (there.cpu() + torch.zeros(3)).numpy().sum() == 15


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", ["gemma3", "gpt2"])
def test_extract_and_ablate_run_on_a_device_of_its_own(name, attention):
    loaded = make(name, scale=3.0)
    loaded.model.set_attn_implementation(attention)
    prompts = [prompt(20, 4), prompt(23, 4)]
    sizes = {number: layer.head_size for number, layer in loaded.anatomy.layers.items()}
    means = {(layer, head): torch.linspace(-1, 1, sizes[layer]) for layer, head in loaded.anatomy.heads}
    row = pd.DataFrame({"id": ["p"]})
    here = numbers(loaded, prompts, means, row)
    send(loaded.model)
    with Elsewhere():
        assert loaded.device == DEVICE
        there = numbers(loaded, prompts, means, row)
    assert len(here) == len(there) > 20
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(other, one)


def numbers(loaded, prompts, means, row) -> list[np.ndarray]:
    """What extract, ablate and steer ask of a model."""
    positions = [tokens.target for tokens in prompts]
    measured = measure(loaded, prompts, [relations(tokens) for tokens in prompts], outputs=True)
    seen = [values for of in measured.means for mean in of.values() for values in mean.values.values()]
    seen += [scored.logprob for scored in measured.scored] + [z.cpu().numpy() for z in measured.outputs.values()]
    batch = Batch(loaded, prompts, positions)
    writable = Writable(means, Donors(loaded, prompts, prompts[::-1]), Firsts(loaded, prompts))
    asked = [silencing([(1, 0), (2, 3)], kind, writable) for kind in KINDS]
    seen += [scored.logprob for scores in batch.ablations(asked) for scored in scores]
    edits = [[Edit(heads={(1, 2): means[1, 2]}), Edit(added={0: torch.ones(32)}), Edit()]] * len(prompts)
    seen += [scored.logprob for scores in LastTokens(loaded, prompts).edited(edits) for scored in scores]
    trials = [Trial(row, (tokens,), (at,)) for tokens, at in zip(prompts, positions, strict=True)]
    constant = [kind for kind in KINDS if KINDS[kind].constant]
    seen += [change[kind] for change in _changes(loaded, trials, "loss", means, constant) for kind in constant]
    return [*seen, Parts(loaded, means).together([(1, 0), (2, 3)]).cpu().numpy()]


def looked_at(loaded, count: int) -> list[np.ndarray]:
    """What sinks asks of a batch of `count` passages."""
    batch = [prompt(20, number) for number in range(count)]
    seen = [values for of in look(loaded, batch) for layers in (of.heads, of.tokens) for values in layers.values()]
    seen = [column for columns in seen for column in columns.values()]
    for passage in token_states(loaded, batch, 5):
        seen += [*passage.states.values(), passage.norms_LT, np.array(list(passage.positions.values()))]
    return seen + [array for norms in token_norms(loaded, batch).values() for array in norms]


def streamed(loaded, count: int) -> list[np.ndarray]:
    """What gates asks of prompts that run together, and of one that is weighed."""
    pairs = [(SimpleNamespace(id=f"p{n}", split="a", cluster="c"), prompt(20, n)) for n in range(count)]
    rows = pd.DataFrame(gates._gates(loaded, pairs, Cut(2, 4), set(loaded.anatomy.heads)))
    masses = gates._masses(loaded, pairs[0][1], Cut(2, 4))
    return [rows[["change", "logprob"]].to_numpy(dtype=float), np.array([*masses.values()])]


def answered(loaded, count: int) -> list[np.ndarray]:
    """What memory asks of subjects that are not known."""
    asked = [replace(prompt(20, 4), target=np.array([12])) for _ in range(count)]
    return [misses.answers(loaded, asked)[1]]


def demonstrating(loaded, count: int) -> list[np.ndarray]:
    """What orders asks of prompts with the same demonstrations: mean head outputs where the answer is right."""
    tokens = replace(prompt(20, 4), target=np.array([9]))
    with torch.no_grad():
        ids = torch.from_numpy(tokens.ids[None, :9]).to(loaded.device)
        tokens.ids[9] = loaded.model(ids).logits[0, -1].argmax().item()
    solved, means = demonstrated(loaded, [tokens] * count, ["x"] * count)
    assert all(solved)
    return [mean_K.numpy() for mean_K in means.values()]


def labelled(loaded, count: int) -> list[np.ndarray]:
    """What neighbours asks of prompts with the same demonstrations."""
    of = {"like": (0, 7), "like_label": (8, 9), "unlike": (10, 13), "unlike_label": (14, 15)}
    spans = tuple(Span(name, 16, 19, *key) for name, key in of.items())
    one = Prompt("p", "c", "c", "the cat A dog B the", targets=(" A", " B"), relations=spans)
    rows = [SimpleNamespace(**asdict(one))] * count
    read = readings(loaded, "neighbours", rows, [(1, 2), (1, 0), (2, 1)])
    return [array for of in read for array in (*of.similarity, of.attention, np.array([*of.measures.values()]))]


@pytest.mark.parametrize("asked", [looked_at, streamed, answered, demonstrating, labelled])
@pytest.mark.parametrize("name", ["gemma3", "gpt2"])
def test_what_a_batch_brings_from_a_device_does_not_grow_with_its_rows(name, asked):
    loaded = make(name, scale=3.0)
    here = asked(loaded, 4)
    send(loaded.model)
    times = []
    for count in (2, 4):
        with Elsewhere() as device:
            there = asked(loaded, count)
        times.append(len(device.brought))
    assert here
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(other, one)
    assert times[0] == times[1] > 0
