"""The phone book: names and numbers by rule, nearest names by hand, grades of planted answers, a model that learns."""

import numpy as np
import pandas as pd
import pytest
import torch

from stages.page import recipe_graded
from stages.recipes import phone_book
from stages.recipes.graded import End
from stages.recipes.lesson import IGNORED
from stages.recipes.phone_book import CONSONANTS, DIGITS, LETTERS, NUMBERS, QUESTIONS, VOWELS, Asked, PhoneBook
from stages.recipes.settings import Recipe, Training
from stages.store import params
from stages.tasks.prompt import stream
from stages.training import graded, train
from stages.training.build import build, save
from tests.test_recipe_states import ROOT

LESSON = PhoneBook(stored=100)


def codes(*names: str) -> np.ndarray:
    return np.array([[ord(letter) - ord("a") for letter in name] for name in names])


def test_names_are_unique_numbers_too_and_unseen_names_are_in_no_batch():
    names, digits = LESSON.pairs()
    assert len(np.unique(names, axis=0)) == len(np.unique(digits, axis=0)) == 100
    spelt = ["".join(map(LESSON.symbol, name)) for name in names]
    assert all(letter in (CONSONANTS, VOWELS)[place % 2] for name in spelt for place, letter in enumerate(name))
    held = LESSON.held_out(stream(0, "held"), 200)
    trained = {tuple(row) for step in range(40) for row in LESSON.batch(stream(step, "b"), 64, step).ids_BT.tolist()}
    inputs = LESSON.inputs(held)
    asked, stored = ({tuple(row) for row in part.tolist()} for part in (inputs[:200], inputs[200:]))
    assert trained == stored and not asked & trained
    distance = phone_book.distances(held.names, names).min(1)
    assert distance[held.changed == 0].min() >= 2 and distance[held.changed == 1].tolist() == [1] * 50
    assert distance[held.changed == 2].max() <= 2 and distance[held.changed == 4].max() <= 4


def test_a_batch_asks_the_numbers_of_its_names():
    names, digits = LESSON.pairs()
    batch = LESSON.batch(stream(0, "batch"), 32, 0)
    for ids, labels in zip(batch.ids_BT, batch.labels_BT, strict=True):
        row = np.flatnonzero((names == ids[:LETTERS] - 26 * np.arange(LETTERS)).all(1))
        assert ids[LETTERS:].tolist() == [QUESTIONS + i for i in range(DIGITS)]
        assert labels.tolist() == [IGNORED] * LETTERS + (NUMBERS + digits[row[0]]).tolist()


def test_nearest_names_endings_and_votes_are_those_counted_by_hand():
    stored, asked = codes("badebade", "badegagu", "gugugugu"), codes("badebagu", "gagugugo")
    assert phone_book.distances(asked, stored).tolist() == [[2, 1, 6], [7, 5, 2]]
    assert phone_book.nearest(asked, stored).tolist() == [[False, True, False], [False, False, True]]
    assert phone_book.nearest(codes("badebagu", "badegade"), stored[:2]).sum(1).tolist() == [1, 1]
    assert phone_book.nearest(codes("badefade"), codes("badebade", "badegade")).tolist() == [[True, True]]  # as near
    assert phone_book.endings(asked, stored).tolist() == [[0, 1, 0], [1, 1, 1]]  # ..agu; nothing ends with o
    digits = np.array([[1, 2, 3, 4], [1, 5, 6, 7], [9, 5, 6, 0]])
    assert phone_book.voted(np.array([[1, 1, 1], [5, 1, 2]]), digits).tolist() == [[1, 5, 6, 0], [1, 2, 3, 4]]


def test_closest_keys_are_told_by_their_angle_after_the_mean_is_gone():
    keys = np.array([[11.0, 10.0], [10.0, 11.0], [9.0, 9.0]])  # mean (10, 10)
    asked = np.array([[15.0, 10.5], [10.1, 12.0], [1.0, 2.0]])
    assert phone_book.closest(asked, keys).tolist() == np.eye(3, dtype=bool).tolist()


def test_planted_answers_get_the_grades_that_they_deserve():
    """A model that gives every unseen name the number of its nearest stored one, and knows half of its book."""
    names, digits = LESSON.pairs()
    asked = LESSON.held_out(stream(1, "held"), 40)
    held = Asked(asked.names, asked.changed, asked.numbers)
    near = phone_book.nearest(held.names, names).argmax(1)
    answers = np.concatenate([digits[near], np.where(np.arange(100)[:, None] < 50, digits, (digits + 1) % 10)])
    logprob = np.full((140, LETTERS + DIGITS, LESSON.symbols), -9.0)
    np.put_along_axis(logprob[:, LETTERS:], NUMBERS + answers[..., None], np.log(0.5), 2)
    units = np.zeros((140, LETTERS + DIGITS, 100))
    units[40 + np.arange(100), :, np.arange(100)] = units[np.arange(40), :, near] = 1
    rows = pd.DataFrame(LESSON.graded(held, logprob, units), columns=["measure", "number", "value"])
    means = rows.groupby("measure").value.mean()
    assert means["recalled"] == means["accuracy"] == 0.5 and means["any_number"] == 1
    assert means["closest_digits"] == means["closest_number"] == 1 and means["certainty"] == pytest.approx(0.5)
    single = phone_book.nearest(held.names, names).sum(1) == 1
    numbers = rows[rows.measure == "nearest_number"].set_index("number").value
    assert (numbers[[m for m in numbers.index if single[m]]] == 1).all()
    assert 0.05 < means["random_digits"] < 0.16 and means["unseen_digits"] < 0.3
    assert set(rows.number) == set(range(140))
    assert len(rows[rows.measure == "nearest_digits@1 of 8 letters redrawn"]) == 10


def test_levels_are_those_of_two_look_ups():
    levels = LESSON.levels(LESSON.held_out(stream(2, "held"), 80))
    assert levels["recalled", "suffix"] == 1  # a whole name is its own longest ending
    assert 0 <= levels["recalled", "outer"] < 0.5 and 0.2 < levels["any_number", "suffix"] <= 1
    assert LESSON.chance(8)["any_number"] == 0.01 and 0.1 < LESSON.chance(8)["accuracy"] < 0.2


def trained(kind: str) -> Training:
    shape = {"type": kind, "layers": 1, "heads": 2, "width": 32, "inner": 64, "initializer_range": 0.1}
    optimizer = {"learning_rate": 0.01, "schedule": "constant", "warmup": 10, "decay": 0.0, "betas": (0.9, 0.98)}
    return Training(arguments={}, architecture=shape, optimizer=optimizer | {"clip": 1.0}, steps=250, batch=20, seeds=1,
                    checkpoints={"even": 1})  # fmt: skip


def test_an_mlp_alone_stores_a_small_book_and_is_read_again(tmp_path):
    lesson, training = PhoneBook(stored=20), trained("bag")
    torch.manual_seed(0)
    model = build(training.architecture, lesson.symbols, lesson.positions)
    held = lesson.held_out(stream(3, "held"), 40)
    train.train(model, lesson, training, stream(3, "batches"), lambda step, loss: None)
    save(model, tmp_path / "model")
    read = graded.read(tmp_path / "model", training.architecture)
    rows = pd.DataFrame(graded.measured(read, lesson, held), columns=["measure", "", "sequence", "value", "n", "w"])
    means = rows.groupby("measure").value.mean()
    assert means["recalled"] >= 0.9 and means["unseen_digits"] < 0.3
    own = graded.answered(model.eval(), lesson.inputs(held))
    for mine, again in zip(own, graded.answered(read, lesson.inputs(held)), strict=True):
        np.testing.assert_array_equal(mine, again)


@pytest.mark.parametrize("kind", ["bag", "gpt2"])
def test_what_an_output_matrix_is_multiplied_with_is_what_it_makes_its_output_of(kind):
    lesson, training = PhoneBook(stored=20), trained(kind)
    torch.manual_seed(1)
    model = build(training.architecture, lesson.symbols, lesson.positions).eval()
    ids = lesson.inputs(lesson.held_out(stream(4, "held"), 8))
    mlp = model.mlps[-1] if kind == "bag" else model.transformer.h[-1].mlp
    outputs = []
    handle = mlp.register_forward_hook(lambda module, arguments, output: outputs.append(output))
    _, units = graded.answered(model, ids)
    handle.remove()
    again = mlp.c_proj(torch.from_numpy(units))
    torch.testing.assert_close(again, outputs[0])
    changed = ids.copy()
    changed[:, LETTERS + 2 :] = QUESTIONS  # what comes later is not seen: no answer tells another one
    before, after = (graded.answered(model, some)[0][:, : LETTERS + 2] for some in (ids, changed))
    np.testing.assert_allclose(before, after, atol=1e-5)


ENDS = {"recalled": 1.0, "nearest_digits": 0.3, "random_digits": 0.1, "nearest_number": 0.0, "any_number": 0.02,
        "unseen_digits": 0.1, "certainty": 1.0, "certainty_unseen": 0.9}  # fmt: skip


def verdict(**changed: float) -> str:
    return LESSON.verdict({name: End(value, value - 0.02, value + 0.02) for name, value in (ENDS | changed).items()})


def test_a_verdict_says_no_more_than_its_intervals():
    assert "more digits of the nearest" in verdict() and "mostly no stored number" in verdict()
    assert "not told apart from those of others" in verdict(nearest_digits=0.12)
    assert "fewer digits" in verdict(nearest_digits=0.02)
    assert "mostly no stored" not in verdict(any_number=0.9) and "mixture" not in verdict()
    assert "not told apart from guessing" in verdict() and "guessing gets 0.10" in verdict(unseen_digits=0.2)
    assert verdict(recalled=0.3).endswith("too little to ask what a miss gives.")


def test_the_section_has_a_verdict_of_every_arm_and_its_numbers():
    recipe: Recipe = params.load_studies(ROOT / "full/params.yaml").recipes["phone_book"]
    rows = [("final", arm, name, "", value, value - 0.02, value + 0.02) for arm in recipe.ordered
            for name, value in ENDS.items()]  # fmt: skip
    rows += [("level", "mlp", "recalled", "suffix", 1.0, np.nan, np.nan)]
    rows += [("level", "mlp", "recalled", "chance", 1 / 300, np.nan, np.nan)]
    whole = pd.DataFrame(rows, columns=["finding", "arm", "measure", "versus", "value", "low", "high"])
    part = "nearest_digits@1 of 8 letters redrawn"
    curve = pd.DataFrame([("mlp", seed, 1000, part, 0.7) for seed in range(3)],
                         columns=["arm", "seed", "step", "measure", "value"])  # fmt: skip
    whole["ranged"] = True
    blocks = recipe_graded.blocks(recipe, whole, curve, "findings.csv")
    assert [block.kind for block in blocks] == ["note"] * len(recipe.arms) + ["table", "note"]
    assert blocks[-2].rows[0][1].endswith("(0.98 to 1.02) (guessed 0.0033)") and "range over seeds" in blocks[-2].says
    assert "recalls 1.00 (0.98 to 1.02) of its book" in blocks[0].text
    assert blocks[-2].rows[0][-1] == "1.00"
    assert "1 of 8 letters redrawn: 0.70 (0.70)" in blocks[-1].text
    assert "no attention" in recipe_graded.design(recipe) and "pretrained" not in recipe_graded.design(recipe)
    assert "800 held-out sequences and on all that was to be stored" in recipe_graded.design(recipe)
