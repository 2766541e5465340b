"""The last block runs on the tokens that are read alone: the same scores, caches and attention, and less work."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from test_model_contract import prompt
from test_together import MODELS, scores
from tiny import make

from stages.model import proof
from stages.model.forward import forward, prefill, remembering
from stages.model.intervene import capturing
from stages.model.last_block import alone

DECODERS = ["llama_gqa", "gpt2", "capped", "biased", "granite"]
TUPLES = {"gpt_oss": partial(make, "gpt_oss", scale=3.0)}  # its MLP returns its router's scores as well, of (B T)
MAKE = MODELS | TUPLES | {"falcon_h1": partial(make, "falcon_h1", scale=3.0)}  # its last block holds a state as well


def seen(loaded) -> list[int]:
    """The numbers of tokens that the heaviest part of the last block's MLP works on from now on, pass by pass."""
    tokens: list[int] = []
    part = alone(loaded)[1]
    heavy = max(part.modules(), key=lambda module: sum(w.numel() for w in module.parameters(recurse=False)))
    own = heavy.forward

    def count(x, *more):
        tokens.append(x.shape[:-1].numel())
        return own(x, *more)

    heavy.forward = count  # no hook: where one looks, the block runs whole
    return tokens


@pytest.mark.parametrize("name", [*DECODERS, *TUPLES, "falcon_h1"])
def test_only_tokens_that_are_read_run_and_scores_stay(name):
    whole = MAKE[name]()
    few = replace(whole, narrows=True)
    for one, other in zip(scores(whole), scores(few), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    texts, places = [prompt(20, 1).ids, prompt(11, 1).ids], [np.array([3, 19]), np.array([10])]
    tokens = seen(few)
    expected = forward(whole, texts, places)
    torch.testing.assert_close(forward(few, texts, places), expected, atol=1e-5, rtol=1e-5)
    assert tokens == [40, 3]
    cache, other = prefill(few, texts[:1]), prefill(whole, texts[:1])
    assert tokens[2:] == [1, 20]  # a cache is filled without it
    for one, same in zip(cache.layers, other.layers, strict=True):
        assert torch.equal(one.keys, same.keys) and torch.equal(one.values, same.values)
        for number, state in getattr(one, "recurrent_states", {}).items():
            assert torch.equal(state, same.recurrent_states[number])


@pytest.mark.parametrize("name", ["llama_gqa", "gpt2", "gpt_oss", "falcon_h1"])
def test_chunks_run_their_own_tokens(name, monkeypatch):
    monkeypatch.setattr("stages.model.chunks.CHUNK", 8)
    loaded = MAKE[name]()
    texts, places = [prompt(27, 1).ids, prompt(20, 1).ids], [np.array([0, 7, 8, 26]), np.array([19])]
    few = forward(replace(loaded, narrows=True), texts, places)
    torch.testing.assert_close(few, forward(loaded, texts, places), atol=1e-5, rtol=1e-5)


def test_what_is_looked_at_is_whole():
    loaded = replace(MODELS["llama_gqa"](), narrows=True)
    tokens, texts, places = seen(loaded), [prompt(20, 1).ids], [np.array([5])]
    with remembering(loaded, after=True) as after:
        forward(loaded, texts, places)
    last = max(loaded.anatomy.layers)
    with remembering(replace(loaded, narrows=False), after=True) as whole:
        forward(replace(loaded, narrows=False), texts, places)
    assert torch.equal(after[last], whole[last]) and tokens == [20, 20]
    hook = loaded.model.model.layers[last].mlp.register_forward_pre_hook(lambda *_: None)
    forward(loaded, texts, places)
    hook.remove()
    assert tokens == [20, 20, 20]
    with capturing(loaded) as few:  # what W_O reads is whole in any case
        forward(loaded, texts, places)
    with capturing(loaded) as every:
        forward(replace(loaded, narrows=False), texts, places)
    assert torch.equal(few[last], every[last]) and tokens[3:] == [1, 20]


def earlier(x, distance: int):
    """What stands so many tokens before each, zeros before the first."""
    return torch.nn.functional.pad(x, (0, 0, distance, 0))[:, : x.shape[1]]


MIXES = {
    "all before": lambda x: x.cumsum(1),
    "one before": partial(earlier, distance=1),
    "one far before": partial(earlier, distance=40),
}


@pytest.mark.parametrize("mixes", MIXES.values(), ids=MIXES)
def test_a_last_block_that_mixes_tokens_is_found_and_runs_whole(mixes):
    loaded = make("llama_gqa", scale=3.0)
    assert proof.prove(loaded)[1]["narrows"] == "ok"
    mlp = loaded.model.model.layers[-1].mlp
    own = mlp.forward
    mlp.forward = lambda x: own(x) + mixes(x)
    proven, result = proof.prove(loaded)
    assert not proven.narrows and result["narrows"] == "not used: a token that is not read matters in the last block"


@pytest.mark.parametrize("name", ["gpt_oss", "falcon_h1"])
def test_mlps_that_return_tuples_and_mixers_called_by_keyword_do_not_stand_in_the_way(name):
    assert proof.prove(MAKE[name]())[1]["narrows"] == "ok"


@pytest.mark.parametrize(
    ("beside", "said"),
    [
        (lambda x: x.sum(), "a tensor () of "),
        (lambda x: {"scores": x}, "a dict of "),
        (lambda x: x.T, "a tensor (2, "),
    ],
)
def test_what_makes_no_row_for_each_token_is_refused_in_one_plain_line(beside, said):
    loaded = make("gpt_oss", scale=3.0)
    mlp = loaded.model.model.layers[-1].mlp
    own = mlp.forward

    def forward(x):
        hidden, scores = own(x)
        return hidden, beside(scores)

    mlp.forward = forward
    proven, result = proof.prove(loaded)
    assert not proven.narrows and result["narrows"].startswith("not used: a part of its last block makes " + said)
