"""Rows of several passes go through the LM head at once; no logit changes, capped, scaled or biased."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers as hf
from test_model_contract import prompt
from tiny import IDS, SMALL, make

from stages.model import proof
from stages.model.anatomy import find
from stages.model.forward import Pass, forward, together
from stages.model.intervene import Edit
from stages.model.load import Loaded
from stages.model.score import Ablation, Batch, LastTokens


def capped() -> Loaded:
    """A Gemma 2, whose logits are capped after the head, so low that most of them are at the cap."""
    torch.manual_seed(0)
    config = hf.Gemma2Config(**SMALL, num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.5, **IDS)
    config._attn_implementation = "eager"
    model = hf.Gemma2ForCausalLM(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.mul_(3 if parameter.dim() > 1 else 1)
    return replace(make("llama_gqa"), model=model, anatomy=find(model))


def biased() -> Loaded:
    """A Phi, whose head has a bias, here a loud one."""
    loaded = make("phi", scale=3.0)
    head = loaded.model.get_output_embeddings()
    head.bias.copy_(torch.randn(head.bias.shape, generator=torch.Generator().manual_seed(0)))
    return loaded


LIKE_ANY = ("llama_gqa", "gpt2", "granite", "bert", "modernbert")
MODELS = {
    "capped": capped,
    "biased": biased,
    **{name: lambda name=name: make(name, scale=3.0) for name in LIKE_ANY},
}


def reads(loaded: Loaded) -> tuple[list[int], list]:
    """The numbers of rows that the LM head reads from now on, and the hook to be removed."""
    rows: list[int] = []

    def count(module, args, output) -> None:
        rows.append(output.shape[-2])

    return rows, [loaded.model.get_output_embeddings().register_forward_hook(count)]


@pytest.mark.parametrize("name", MODELS)
def test_logits_of_passes_that_wait_are_those_of_plain_passes(name, monkeypatch):
    monkeypatch.setattr("stages.model.forward.HEAD", 7)
    loaded = MODELS[name]()
    texts = [prompt(length, 1).ids for length in (20, 11, 16, 20, 9)]
    places = [np.array(at) for at in ([3, 19], [10], [1, 2, 3], [0, 5, 7, 8, 9, 12, 15, 16], [8])]
    passes = [
        Pass(
            lambda waiting, text=text, at=at: forward(loaded, [text], [at], waiting=waiting),
            len(at),
            lambda logits_NV: logits_NV.clone(),
        )
        for text, at in zip(texts, places, strict=True)
    ]
    rows, hooks = reads(loaded)
    logits = list(together(loaded, passes))
    assert rows == [6, 8, 1]  # a pass of more rows than go together runs alone
    apart = list(together(replace(loaded, gathers=False), passes))
    assert rows[3:] == [2, 1, 3, 8, 1]
    hooks.pop().remove()
    for text, at, one, other in zip(texts, places, logits, apart, strict=True):
        whole = loaded.model(input_ids=torch.from_numpy(text)[None]).logits[0, at]
        torch.testing.assert_close(one, whole, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(other, whole, atol=1e-5, rtol=1e-5)
    assert not loaded.model.get_output_embeddings()._forward_pre_hooks


def scores(loaded: Loaded) -> list[np.ndarray]:
    """Log-probabilities of ablated batches and edited last tokens, by one call each."""
    generator = torch.Generator().manual_seed(0)
    size = loaded.anatomy.layers[0].head_size
    values = [{(layer, head): torch.randn(size, generator=generator)} for layer in range(3) for head in range(4)]
    prompts = [prompt(23, 4, scored=2), prompt(17, 4)]
    batch = Batch(loaded, prompts, [tokens.target for tokens in prompts])
    ablated = batch.ablations([Ablation(value, True) for value in values], max_tokens=50)
    edited = LastTokens(loaded, prompts).edited([[Edit(), *(Edit(heads=value) for value in values)]] * 2)
    return [scored.logprob for of in (*ablated, *edited) for scored in of]


@pytest.mark.parametrize("name", ["llama_gqa", "capped", "gpt2", "biased"])
def test_ablations_and_edits_need_one_call_of_the_head_and_score_the_same(name):
    loaded = MODELS[name]()
    rows, (hook,) = reads(loaded)
    at_once, calls = scores(loaded), len(rows)
    apart = scores(replace(loaded, gathers=False))
    hook.remove()
    assert calls == 3  # the intact batch, all ablations, all edits
    assert len(rows) - calls > 2 * calls
    for one, other in zip(at_once, apart, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert np.ptp([row[0] for row in at_once if len(row) == 2]) > 1e-3


def test_a_model_that_mixes_rows_after_its_head_is_found_and_runs_without(monkeypatch):
    loaded = make("llama_gqa", scale=3.0)
    assert proof.prove(loaded)[1]["gathers"] == "ok"
    own = loaded.model.lm_head.forward
    monkeypatch.setattr(loaded.model.lm_head, "forward", lambda x: own(x) * (1 + (x.shape[1] == 6)))
    proven, result = proof.prove(loaded)
    assert not proven.gathers and "whole passes" in result["gathers"]
