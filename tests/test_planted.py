"""Planted truth: a transformer built by hand, whose previous-token and induction heads are known, is read correctly."""

from types import SimpleNamespace

import numpy as np
import pytest
import tiny
import torch
import transformers as hf

from stages.classify import _arrays
from stages.heads import FAMILIES
from stages.heads.family import Tokens
from stages.heads.verdict import judge
from stages.model.anatomy import find
from stages.model.load import Loaded
from stages.model.measure import measure

TOKENS, POSITIONS, HEADS = 40, 64, 2
WIDTH = TOKENS + POSITIONS + TOKENS  # one-hot token, one-hot position, one-hot previous token
SIZE = WIDTH // HEADS
SETTINGS = SimpleNamespace(resamples=10_000, bootstrap=300, alpha=0.05, margin=0.05)
WATCHED = ["previous", "self", "sink", "duplicate", "induction"]


def planted() -> Loaded:
    """GPT-2 without MLPs: L0H0 reads the previous position and writes its token; L1H0 matches it with the current."""
    config = hf.GPT2Config(
        vocab_size=TOKENS, n_positions=POSITIONS, n_embd=WIDTH, n_head=HEADS, n_layer=2, attn_pdrop=0, resid_pdrop=0
    )
    config._attn_implementation = "eager"
    model = hf.GPT2LMHeadModel(config).eval().requires_grad_(False)
    for parameter in model.transformer.h.parameters():
        parameter.zero_()
    for block in model.transformer.h:
        block.ln_1.weight.fill_(1.0)
    model.transformer.wte.weight.zero_()[:, :TOKENS] = torch.eye(TOKENS)
    model.transformer.wpe.weight.zero_()[:, TOKENS : TOKENS + POSITIONS] = torch.eye(POSITIONS)
    first, second = (block.attn for block in model.transformer.h)
    token, position, previous = 0, TOKENS, TOKENS + POSITIONS
    for at in range(1, POSITIONS):
        first.c_attn.weight[position + at, at - 1] = 8.0  # query of position t asks for t - 1
    first.c_attn.weight[position : position + POSITIONS, WIDTH : WIDTH + POSITIONS] = torch.eye(POSITIONS)
    first.c_attn.weight[token : token + TOKENS, 2 * WIDTH : 2 * WIDTH + TOKENS] = torch.eye(TOKENS)
    first.c_proj.weight[:TOKENS, previous : previous + TOKENS] = torch.eye(TOKENS) * 0.2
    second.c_attn.weight[token : token + TOKENS, :TOKENS] = torch.eye(TOKENS) * 8.0  # asks: who follows my token?
    second.c_attn.weight[previous : previous + TOKENS, WIDTH : WIDTH + TOKENS] = torch.eye(TOKENS)
    return Loaded(model, tiny.tokenizer(), find(model), "decoder")


def prompts(vocabulary: int, count: int = 24) -> dict[str, list[Tokens]]:
    """Random text, long and short, and random repeats of varied period."""
    rng = np.random.default_rng(0)
    special = np.zeros(60, dtype=bool)
    text = [Tokens(f"l{i}", "long", rng.integers(4, vocabulary, 60), special) for i in range(count)]
    text += [Tokens(f"s{i}", "short", rng.integers(4, vocabulary, 60), special) for i in range(count)]
    periods = rng.integers(12, 24, count)
    repeats = [
        Tokens(f"r{i}", "test", np.tile(4 + rng.permutation(vocabulary - 4)[:p], 2), np.zeros(2 * p, dtype=bool))
        for i, p in enumerate(periods)
    ]
    return {"text": text, "repeats": repeats}


def members(loaded: Loaded, vocabulary: int) -> dict[str, set[tuple[int, int]]]:
    """Members per family, by the pipeline's own relation, measurement and verdict."""
    import pandas as pd

    heads = pd.DataFrame(loaded.anatomy.heads, columns=["layer", "head"])
    found = {}
    for name in WATCHED:
        family, rows = FAMILIES[name], []
        for index, tokens in enumerate(prompts(vocabulary)[family.task]):
            relation = family.relation(tokens)
            if relation is None:
                continue
            means = measure(loaded, [tokens], [{name: relation}]).means[0][name].values
            for layer, head in loaded.anatomy.heads:
                row = {"prompt": tokens.prompt, "cluster": tokens.prompt, "split": "ab"[index % 2], "baseline": 0.2}
                row |= {"layer": layer, "head": head, "value": means["mass"][layer, head]}
                rows.append(row | {"null": means["null"][layer, head]})
        columns = judge(family, *_arrays(pd.DataFrame(rows), heads), SETTINGS, np.random.default_rng(0))
        found[name] = {head for head, member in zip(loaded.anatomy.heads, columns["member"], strict=True) if member}
    return found


def test_the_planted_heads_are_found_and_no_other():
    assert members(planted(), TOKENS) == {
        "previous": {(0, 0)},
        "self": set(),
        "sink": set(),
        "duplicate": set(),
        "induction": {(1, 0)},
    }


def test_without_the_previous_token_head_there_is_no_induction_head():
    loaded = planted()
    loaded.model.transformer.h[0].attn.c_proj.weight.zero_()
    found = members(loaded, TOKENS)
    assert found["previous"] == {(0, 0)} and found["induction"] == set()


@pytest.mark.parametrize("name", ["gpt2", "llama_gqa", "gemma3"])
def test_a_random_model_has_no_members(name):
    assert members(tiny.make(name), tiny.VOCABULARY) == {name: set() for name in WATCHED}
