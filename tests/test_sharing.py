"""What prompts have in common runs once, and no number changes: plans on hand-made ids, and passes of tiny models."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch

from stages.families.family import Tokens
from stages.model import sharing
from stages.model.cost import branched
from stages.model.score import Ablation, Batch
from tests.tiny import make


def tokens(ids) -> Tokens:
    special = np.zeros(len(ids), dtype=bool)
    special[0] = True
    return Tokens("p", "test", np.array(ids), special, np.array([len(ids) - 1]))


def test_rival_answers_of_one_token_are_one_row_and_one_prediction():
    ids = [np.array([1, 2, 3, 8]), np.array([1, 2, 3, 9]), np.array([1, 2, 4, 8])]
    plan = sharing.plan(ids, [np.array([3])] * 3, share=True, cached=True)
    assert (plan.cut, plan.tails, plan.lengths) == (0, [0, 2], [3, 3])
    assert [at.tolist() for at in plan.read] == [[3], [3]] and [at.tolist() for at in plan.places] == [[0], [0], [1]]
    apart = sharing.plan(ids, [np.array([3])] * 3, share=False, cached=True)
    assert (apart.tails, apart.lengths, apart.pairs) == ([0, 1, 2], [4, 4, 4], [])


def test_a_prompt_without_positions_does_not_run():
    plan = sharing.plan([np.array([1, 2]), np.array([1, 3])], [np.array([], int), np.array([1])], True, True)
    assert plan.tails == [1] and [at.tolist() for at in plan.places] == [[], [0]]


@pytest.mark.parametrize(
    ("ids", "limit", "runs", "expected"),
    [
        ([[1] * 40 + [2], [1] * 40 + [3]], 40, 1, 40),
        ([[1] * 40 + [2], [1] * 40 + [3]], 20, 1, 0),  # 20 tokens are not worth a pass
        ([[1] * 40 + [2], [1] * 40 + [3]], 20, 2, 20),  # but they are twice
        ([[1] * 5 + [n] * 40 + [m] * 3 for n in (2, 3) for m in (4, 5, 6)], 45, 1, 45),  # two beginnings of three
        ([[1] * 40 + [n] + [5] for n in range(6)], 41, 1, 40),
        ([[1] + [n] * 100 for n in range(8)], 1, 40, 0),  # each of 15 passes saves 19 tokens of 2,048
        ([[1] * 9 + [n] * 92 for n in range(8)], 9, 40, 9),  # and here 168
    ],
)
def test_beginnings_are_as_long_as_saves_most_tokens(ids, limit, runs, expected):
    assert sharing.beginning([np.array(row) for row in ids], limit, runs) == expected


def test_sets_of_about_one_length_run_together_whole():
    texts = {"a": 9, "b": 20, "c": 10, "d": 10, "e": 11, "f": 14}  # what a set begins with, and its tokens
    begins = [name for name in texts for _ in range(2)]
    ids = [np.array([ord(name)] * texts[name] + [number, 1]) for number, name in enumerate(begins)]
    first = [len(row) - 1 for row in ids]
    groups = sharing.near(begins, ids, first, 1000)
    assert [[begins[number] for number in group] for group in groups] == [list("aaccddee"), list("ff"), list("bb")]
    assert [len(group) for group in sharing.near(begins, ids, first, 28)] == [4, 2, 2, 2, 2]
    assert [len(group) for group in sharing.near(begins, ids, first, 1)] == [2] * 6
    assert sharing.near(["x"], ids[:1], first[:1], 1000) == [[0]]


def naive(loaded, prompt: Tokens, positions, ablation: Ablation | None) -> np.ndarray:
    """One plain pass of one prompt, with hooks written here."""
    handles = []
    for (layer, head), value in ablation.values.items() if ablation else ():
        size = loaded.anatomy.layers[layer].head_size

        def write(module, args, at=slice(head * size, (head + 1) * size), value=value):
            x = args[0].clone()
            x[:, int(not ablation.everywhere) :, at] = value
            return (x, *args[1:])

        projection = loaded.model.get_submodule(loaded.anatomy.layers[layer].projection)
        handles.append(projection.register_forward_pre_hook(write))
    with torch.no_grad():
        logits = loaded.model(input_ids=torch.from_numpy(prompt.ids)[None]).logits[0].float().log_softmax(-1)
    for handle in handles:
        handle.remove()
    return logits[positions - 1, prompt.ids[positions]].numpy()


@pytest.mark.parametrize("name", ["llama_gqa", "gemma3", "gpt2"])
@pytest.mark.parametrize("max_tokens", [1, 90, 10_000])
def test_ablations_that_run_together_equal_plain_passes(name, max_tokens, monkeypatch):
    """Two sets of demonstrations, rivals of one token, a pair with scored tokens in common: each as if it ran alone."""
    monkeypatch.setattr("stages.model.score.ENOUGH", 30)
    monkeypatch.setattr("stages.model.sharing.SHARED", 4)
    loaded = make(name, scale=3.0)
    rng = np.random.default_rng(0)
    begun = [rng.integers(5, 30, 12) for _ in range(2)]
    ids = [np.r_[2, begun[0], 9, 7], np.r_[2, begun[0], 9, 8], np.r_[2, begun[0], 9, 9, 8, 5]]
    ids += [np.r_[2, begun[1], 6, 7, 11], np.r_[2, begun[1], 6, 12]]
    prompts = [tokens(row) for row in ids]
    positions = [np.arange(14, len(row)) for row in ids]
    batch = Batch(loaded, prompts, positions, runs=20)
    assert batch.cut == 13 and len(batch.starts) == 2 and len(batch.tails) == 4
    layers = sorted(loaded.anatomy.layers)
    heads = [*[((layer, 1),) for layer in reversed(layers)], ((layers[0], 0), (layers[-1], 2)), ((layers[1], 3),)]
    asked = [
        Ablation({h: torch.randn(loaded.anatomy.layers[h[0]].head_size) for h in some}, bool(number % 2))
        for number, some in enumerate(heads)
    ]
    for ablation, of_prompts in zip([None, *asked], [batch.intact, *batch.ablations(asked, max_tokens)], strict=True):
        for prompt, at, scored in zip(prompts, positions, of_prompts, strict=True):
            np.testing.assert_allclose(scored.logprob, naive(loaded, prompt, at, ablation), atol=2e-5)
    changed = [batch.intact[3].logprob[0], *(of[3].logprob[0] for of in batch.ablations(asked, max_tokens))]
    assert all(abs(one - other) > 1e-5 for one, other in pairwise(changed))


SETS = [
    [(0, 1)],
    [(0, 1), (2, 2)],
    [(0, 1), (1, 0)],
    [(2, 2), (0, 1)],
    [(1, 0), (1, 3)],
    [(1, 3), (1, 0), (2, 0)],
    [(2, 0)],
]


def values_of(loaded, heads, kind: str) -> dict:
    """What a kind writes: the same for a head in every ablation."""
    return {
        (layer, head): torch.full((loaded.anatomy.layers[layer].head_size,), 0.3 * head + layer + len(kind))
        for layer, head in heads
    }


@pytest.mark.parametrize("name", ["llama_gqa", "gemma3", "gpt2"])
@pytest.mark.parametrize("kept", [1, 16])
@pytest.mark.parametrize("begun", [0, 12])
def test_ablations_that_write_the_same_up_to_a_layer_are_one_copy_up_to_there(name, kept, begun, monkeypatch):
    monkeypatch.setattr("stages.model.score.KEPT", kept)
    loaded = make(name, scale=3.0)
    rng = np.random.default_rng(0)
    shared = rng.integers(5, 30, begun)
    prompts = [tokens(np.r_[2, shared, rng.integers(5, 30, 6)]) for _ in range(3)]
    positions = [np.arange(len(row) - 2, len(row)) for row in prompts]
    batch = Batch(loaded, prompts, positions, runs=20 if begun else 1)
    assert bool(batch.cut) == bool(begun)
    kinds = ["mean"] * len(SETS) + ["zero"]
    asked = [
        Ablation(values_of(loaded, heads, kind), kind == "zero", kind)
        for heads, kind in zip([*SETS, SETS[0]], kinds, strict=True)
    ]
    rows = [0] * len(loaded.anatomy.layers)

    def count(module, args, kwargs, number: int) -> None:
        rows[number] += len(args[0] if args else kwargs["hidden_states"])

    hooks = [
        loaded.model.get_submodule(layer.attention).register_forward_pre_hook(
            partial(count, number=number), with_kwargs=True
        )
        for number, layer in loaded.anatomy.layers.items()
    ]
    found = batch.ablations(asked, 10_000 if kept > 1 else 1)
    for hook in hooks:
        hook.remove()
    for ablation, of_prompts in zip(asked, found, strict=True):
        for prompt, at, scored in zip(prompts, positions, of_prompts, strict=True):
            np.testing.assert_allclose(scored.logprob, naive(loaded, prompt, at, ablation), atol=2e-5)
    if kept > 1:  # all of them are one tree
        copies = [2, 4, *[7] * (len(rows) - 2)]
        assert rows == [count * (3 + bool(begun)) for count in copies]
        sets = list(zip(kinds, [*SETS, SETS[0]], strict=True))
        assert branched(loaded, sets) == pytest.approx(sum(copies) / len(copies))
        assert branched(loaded.allowed({"resumes": "no"}), sets) == 7 and branched(loaded, []) == 0
