"""Offsets of pairs: a planted translation is one, a planted involution and random pairs are none."""

import numpy as np
import pytest

from stages.statistics import offsets

PAIRS, WIDTH = 20, 60


def measured(x, y) -> dict[str, dict]:
    return {row["measure"]: row for row in offsets.rows(x, y, np.random.default_rng(3))}


def words(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((PAIRS, WIDTH))


def test_a_planted_translation_is_one_offset():
    center, shift = 12 * np.eye(WIDTH)[1], 30 * np.eye(WIDTH)[0]
    rows = measured(words() + center, words() + center + shift + 0.1 * words(1))
    assert rows["cosine"]["value"] > 0.99 and rows["cosine"]["p"] == 0.01
    assert rows["dimensions"]["value"] == pytest.approx(1, abs=0.02) and rows["dimensions"]["p"] == 0.01
    assert rows["parallelogram"]["value"] == 1 and rows["minus"]["value"] == 1  # and back, by minus it
    assert rows["nearest"]["value"] < 0.2 and rows["again"]["value"] < 0.2  # not without it, nor by it once more
    assert rows["parallelogram"]["value_null"] < 0.2 and rows["parallelogram"]["pairs"] == PAIRS
    assert rows["again"]["p"] > 0.5 and rows["parallelogram"]["low"] < 1 and rows["cosine"]["low"] is None


def test_a_planted_involution_along_one_line_has_an_axis_and_no_offset():
    """Pairs mirrored in one plane: half of the x on one side of it, half on the other."""
    side = np.where(np.arange(PAIRS) % 2, 1.0, -1.0)[:, None] * 12 * np.eye(WIDTH)[0]
    middle = words()
    middle[:, 0] = 0
    rows = measured(middle + side, middle - side)
    assert rows["cosine"]["value"] == pytest.approx(-1 / (PAIRS - 1))  # no common direction: offsets add up to nothing
    assert rows["axis"]["value"] == pytest.approx(1) and rows["dimensions"]["value"] == pytest.approx(1)
    assert rows["parallelogram"]["value"] <= rows["nearest"]["value"] + 0.1


def test_an_involution_in_a_direction_of_its_own_per_pair_has_neither():
    middle, side = 3 * words(), words(1)
    rows = measured(middle + side, middle - side)
    assert abs(rows["cosine"]["value"]) < 0.05 and rows["axis"]["value"] < 0.2
    assert rows["dimensions"]["value"] > 0.6 * PAIRS
    assert rows["nearest"]["value"] == 1 and rows["parallelogram"]["value"] == 1  # pairs are near: it shows nothing
    assert rows["again"]["value"] > 0.9 and rows["again"]["p"] == 1  # x is found again: the most unlike one offset


def test_words_of_two_kinds_that_are_no_pairs_do_not_pass_for_pairs():
    """All y lie apart from all x: offsets have much in common, and as much where they are dealt anew."""
    rows = measured(words(), words(1) + 12 * np.eye(WIDTH)[0])
    assert rows["cosine"]["value"] > 0.4
    assert (
        rows["cosine"]["value"] == pytest.approx(rows["cosine"]["value_null"], abs=0.05) and rows["cosine"]["p"] > 0.01
    )


def test_measures_are_those_of_a_naive_loop():
    x, y = words()[:9], words(1)[:9]
    offset = y - x
    unit = offset / np.linalg.norm(offset, axis=1, keepdims=True)
    pairs = [(i, j) for i in range(9) for j in range(9) if i != j]
    assert offsets.cosine(x, y) == pytest.approx(np.mean([unit[i] @ unit[j] for i, j in pairs]))
    assert offsets.axis(x, y) == pytest.approx(np.mean([abs(unit[i] @ unit[j]) for i, j in pairs]))
    square = np.linalg.svd(unit, compute_uv=False) ** 2
    assert offsets.dimensions(x, y) == pytest.approx(square.sum() ** 2 / (square**2).sum())
    for place in range(9):
        others = np.delete(offset, place, axis=0).mean(0)
        for factor, start, own, rest in ((1, x, y, x), (0, x, y, x), (-1, y, x, y), (1, y, x, y)):
            guess = start[place] + factor * others
            candidates = [*own, *np.delete(rest, place, axis=0)]
            near = int(np.argmax([guess @ c / np.linalg.norm(c) for c in candidates]))
            told = offsets.hits(x, y, factor) if start is x else offsets.returns(x, y, factor)
            assert told[place] == (near == place)


def test_coordinates_of_the_space_that_vectors_span_keep_inner_products():
    x = words()[:5]
    small = offsets._small(x)
    assert small.shape == (5, 5)
    np.testing.assert_allclose(small @ small.T, x @ x.T)


def test_few_pairs_are_not_measured():
    assert offsets.rows(words()[: offsets.FEW - 1], words(1)[: offsets.FEW - 1], np.random.default_rng(0)) == []


def test_pairs_that_share_a_word_are_no_rivals_whatever_the_rounding():
    """First letters: twelve words, three letters; a word is its letter, a step of its own, and one that all share."""
    rng = np.random.default_rng(3)
    letters = rng.normal(size=(3, 20))[np.arange(12) % 3]
    words = letters + 0.3 * rng.normal(size=(12, 20)) - rng.normal(size=20)
    assert offsets.hits(words, letters).all()
    for _ in range(20):
        noisy = [some * (1 + 1e-14 * rng.normal(size=some.shape)) for some in (words, letters)]
        assert offsets.hits(*noisy).all()
        assert offsets.returns(*noisy, 1.0).tolist() == offsets.returns(words, letters, 1.0).tolist()
    words[1] = words[0]  # one word in two pairs: it is no candidate of either
    assert offsets.hits(words, letters).sum() >= 11
