"""Spans become tokens in one place: whatever the tokenizer, the tokens of a span spell the span."""

from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import LETTERS, WORDS, make

from stages.model.tokens import encode, ordinary
from stages.tasks.prompt import Prompt, Span

DECODER, ENCODER = make("gpt2"), make("bert")


def row(**fields) -> SimpleNamespace:
    return SimpleNamespace(**asdict(Prompt(**({"id": "t/g/0", "group": "g", "cluster": "c"} | fields))))


def spell(loaded, tokens, at) -> str:
    return loaded.tokenizer.decode(tokens.ids[at], clean_up_tokenization_spaces=False)


words = st.lists(st.sampled_from([*WORDS, *LETTERS, "éa", "xyz"]), min_size=2, max_size=12)


@given(words, words, st.sampled_from([DECODER, ENCODER]))
def test_targets_and_spans_spell_themselves(first, second, loaded):
    text, target = " ".join(first), " " + " ".join(second)
    whole = text + target
    span = Span("r", len(text) + 1, len(whole), 0, len(first[0]))
    tokens = encode(loaded, row(text=text, targets=(target,), relations=(span,)))
    assert spell(loaded, tokens, tokens.target) == target
    ((query, key),) = tokens.spans["r"]
    assert spell(loaded, tokens, query).strip() == target.strip()
    assert spell(loaded, tokens, key) == first[0]
    assert tokens.special[0] and (tokens.ids[0] == 1)


def test_bos_can_be_left_out_and_cuts_keep_the_separator():
    assert not encode(DECODER, row(text="the cat", bos=False)).special.any()
    cut = encode(ENCODER, row(text="the cat sees the dog of the house", tokens=5))
    assert len(cut) == 5 and cut.special.tolist() == [True, False, False, False, True]
    assert len(encode(DECODER, row(text="the cat sees the dog", tokens=4))) == 4


def test_without_a_bos_the_first_token_is_not_scored():
    tokens = encode(DECODER, row(targets=(" the cat sees",), bos=False))
    assert tokens.target.tolist() == [1, 2]
    assert encode(DECODER, row(targets=(" the cat sees",))).target.tolist() == [1, 2, 3]


@pytest.mark.parametrize("loaded", [DECODER, ENCODER])
def test_random_prompts_are_ordinary_words(loaded):
    tokens = encode(loaded, row(ordinals=(5, 2**31 - 1, 5)))
    body = tokens.ids[~tokens.special]
    assert len(body) == 3 and body[0] == body[2] != body[1]
    assert set(body) <= set(ordinary(loaded.tokenizer))
    spelled = [loaded.tokenizer.decode([index]).strip() for index in ordinary(loaded.tokenizer)]
    assert all(word.isalpha() and len(word) > 1 for word in spelled) and "house" in spelled
    assert np.diff(ordinary(loaded.tokenizer)).min() > 0
