"""Fused attention is the same function as eager attention through every shortcut; where it is not, it is not used."""

import numpy as np
import pytest
import torch
from tiny import DECODERS, ENCODERS, make

from stages.model.forward import forward, prefill
from stages.model.load import fuse
from stages.model.prefixes import frozen
from stages.model.score import Batch
from stages.model.tokens import Tokens


def prompts(lengths=(8, 13, 18)) -> list[Tokens]:
    """Random prompts of these lengths, the first token special."""
    rng = np.random.default_rng(0)
    made = [np.r_[1, rng.integers(4, 100, length - 1)] for length in lengths]
    return [Tokens(str(n), "test", ids, np.arange(len(ids)) == 0) for n, ids in enumerate(made)]


def close(one: np.ndarray | torch.Tensor, other: np.ndarray | torch.Tensor) -> None:
    scale = max(1.0, float(abs(other).max()))
    assert float(abs(one - other).max()) < 1e-4 * scale


@pytest.mark.parametrize("name", DECODERS)
def test_logits_and_ablated_scores_are_those_of_eager_attention(name):
    loaded = make(name, scale=4.0)
    batch = prompts()
    rows = [np.arange(len(tokens)) for tokens in batch]
    at = [np.arange(2, len(tokens)) for tokens in batch]
    values = {(1, 0): torch.full((loaded.anatomy.layers[1].head_size,), 0.5)}
    ids, prefix = [tokens.ids for tokens in batch], batch[2].ids[:11]

    def everything() -> list:
        cached = forward(loaded, ids, rows, frozen(prefill(loaded, [prefix])))
        ablated = Batch(loaded, batch, at).ablated(values, everywhere=False)
        return [forward(loaded, ids, rows), cached, *[scored.logprob for scored in ablated]]

    eager = everything()
    assert fuse(loaded.model) == (name not in ("falcon", "bloom", "gptj"))  # these look attention up by themselves
    for fused, plain in zip(everything(), eager, strict=True):
        close(fused, plain)


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_as_well(name):
    loaded = make(name, scale=4.0)
    ids = [tokens.ids for tokens in prompts()]
    rows = [np.arange(len(one)) for one in ids]
    eager = forward(loaded, ids, rows)
    fuse(loaded.model)
    close(forward(loaded, ids, rows), eager)


def test_a_model_whose_fused_attention_is_another_function_stays_eager(monkeypatch):
    loaded = make("llama_gqa", scale=4.0)
    plain = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention", lambda *args, **kwargs: 1.01 * plain(*args, **kwargs)
    )
    assert not fuse(loaded.model) and loaded.model.config._attn_implementation == "eager"


def test_a_cap_on_attention_scores_stays_eager():
    loaded = make("llama_gqa")
    loaded.model.config.attn_logit_softcapping = 50.0
    assert not fuse(loaded.model) and loaded.model.config._attn_implementation == "eager"
