"""Iteration prompts: every tape is right, every span says what it should, no offset fits, and chance is exact."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.families.iteration.iteration import FUNCTIONS, name
from stages.tasks.iteration.prompts import LETTERS, build
from stages.tasks.iteration.settings import Settings
from stages.tasks.iteration.tape import SYMBOLS, chance, step, tape

PATH = "stages/tasks/iteration/prompts.py"


def settings(**changed) -> Settings:
    return Settings(**({"path": PATH, "prompts": 4, "examples": 3, "shortest": 4, "longest": 7} | changed))


def naive(function: str, x: list[int]) -> list[int]:
    found, s = [], 0
    for symbol in x:
        s = {"copy": symbol, "parity": s ^ (symbol & 1), "polynomial": (s * symbol + 1) % 5}[function]
        found.append(s)
    return found


def numbers(letters: str) -> list[int]:
    assert all(letter == " " for letter in letters[::2])
    return [LETTERS.index(letter) for letter in letters[1::2]]


@given(shortest=st.integers(2, 9), more=st.integers(1, 6), examples=st.integers(1, 5), seed=st.integers(0, 2**32 - 1))
def test_tapes_are_right_and_spans_lead_where_they_should(shortest, more, examples, seed):
    longest = shortest + more
    for prompt in build(settings(examples=examples, shortest=shortest, longest=longest, prompts=3), seed):
        whole = prompt.text + prompt.targets[0]
        lines = [line.split(" :") for line in whole.split("\n")]
        assert len(lines) == examples + 1
        for x, s in lines:
            assert naive(prompt.condition, numbers(x)) == numbers(s)
        lengths = [len(numbers(x)) for x, _ in lines]
        assert all(shortest <= length <= longest for length in lengths) and lengths[-1] not in lengths[:-1]
        string, target = lines[-1]
        start = whole.rindex("\n") + 1
        steps = [span for span in prompt.relations if span.name == name(prompt.condition)]
        assert [whole[span.query_start : span.query_end] for span in steps] == list(target[1::2])
        assert [span.key_start for span in steps] == [start + 1 + 2 * t for t in range(lengths[-1])]
        assert [whole[span.key_start : span.key_end] for span in steps] == list(string[1::2])
        colons = [span for span in prompt.relations if span.name == "separator"]
        assert {span.key_start for span in colons} == {len(prompt.text) - 1} and whole[len(prompt.text) - 1] == ":"
        assert [span.query_start for span in colons] == [span.query_start for span in steps][1:]
        assert len(steps) + len(colons) == len(prompt.relations)


def test_both_splits_have_all_lengths_and_more_prompts_keep_the_first():
    few, more = (build(settings(prompts=count), 17) for count in (8, 16))
    assert {prompt.id: prompt for prompt in more}.items() >= {prompt.id: prompt for prompt in few}.items()
    assert {prompt.condition for prompt in few} == set(SYMBOLS) == set(FUNCTIONS)
    for split in "ab":
        lengths = [len(p.targets[0]) // 2 for p in few if p.split == split and p.condition == "parity"]
        assert sorted(lengths) == [4, 5, 6, 7]
    assert len({prompt.cluster for prompt in more}) == len(more) == 48
    assert build(settings(), 18) != build(settings(), 17)


def test_tapes_by_hand():
    assert tape("parity", np.array([1, 0, 1, 1])).tolist() == [1, 1, 0, 1]
    assert tape("copy", np.array([7, 0, 7])).tolist() == [7, 0, 7]
    assert tape("polynomial", np.array([4, 3, 2])).tolist() == [1, 4, 4]


@pytest.mark.parametrize("function", SYMBOLS)
def test_chance_is_what_the_best_guess_gets_over_all_strings(function):
    """By trying all: every string of three symbols, every table from (place, symbol before) to a guess."""
    size, length = min(SYMBOLS[function], 5), 3
    if function == "copy":
        assert chance(function, length) == pytest.approx((0.1, 0.001))
        return
    tapes = [naive(function, list(x)) for x in itertools.product(range(size), repeat=length)]
    seen = [[(0, *s[:-1])[t] for t in range(length)] for s in tapes]
    best = sum(
        max(sum(b[t] == before and s[t] == guess for b, s in zip(seen, tapes, strict=True)) for guess in range(size))
        for t in range(length)
        for before in range(size)
    )
    whole = max(
        sum(np.prod([s[t] == guess for t, guess in enumerate(one)]) for s in tapes)
        for one in itertools.product(range(size), repeat=length)
    )
    assert chance(function, length) == pytest.approx((best / length / len(tapes), whole / len(tapes)))


def test_step_takes_arrays():
    assert step("polynomial", np.array([2, 3]), np.array([2, 0])).tolist() == [0, 1]


def test_lengths_must_vary():
    with pytest.raises(ValueError, match="lengths must vary"):
        settings(shortest=5, longest=5)
