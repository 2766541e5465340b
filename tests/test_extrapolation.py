"""Task `extrapolation`: words and answers are right, made-up words exist nowhere, and matching undoes token counts."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from stages import tasks
from stages.page import carried
from stages.statistics import extrapolation
from stages.store.errors import UserError
from stages.store.metrics import extrapolated
from stages.store.params import load
from stages.tasks.extrapolation import invented
from stages.tasks.extrapolation.functions import FUNCTIONS
from stages.tasks.extrapolation.prompts import Lexicon
from stages.tasks.extrapolation.settings import Settings
from stages.tasks.extrapolation.task import ASKED, CLASSES
from stages.tasks.icl.prompts import from_lexicon, parted
from stages.tasks.lexicon import read
from stages.tasks.prompt import stream


def settings(**other) -> Settings:
    values = {"path": "stages/sources/words", "functions": (), "shots": 10, "sets": 2, "words": 8}
    return Settings(**values | {"template": "Q: {x}\nA: {y}\n\n"} | other)


@pytest.fixture(scope="module")
def prompts():
    return tasks.of("extrapolation").build(settings(), 17)


def asked(prompt) -> tuple[str, str]:
    """The word and the answer that the annotated relation marks."""
    (span,) = prompt.relations
    whole = prompt.text + prompt.targets[0]
    return whole[span.key_start : span.key_end], whole[span.query_start : span.query_end]


def test_answers_are_right_and_end(prompts):
    pairs = {(p.condition, p.category): [] for p in prompts}
    for prompt in prompts:
        pairs[prompt.condition, prompt.category].append(asked(prompt))
        assert prompt.text.endswith(f"Q: {asked(prompt)[0]}\nA:")
        assert prompt.targets[0] == f" {asked(prompt)[1]}" + ("\n\n" if prompt.role == "clean" else "\n")
    rules = {"copy": lambda x: x, "capitalize": str.capitalize, "lowercase": str.lower, "first_letter": lambda x: x[0],
             "singular-plural": lambda x: x + "s", "present-past": lambda x: x + "ed",
             "comparative": lambda x: x + "er", "successor": lambda x: str(int(x) + 1)}  # fmt: skip
    for name, rule in rules.items():
        for kind in ("rare", "made_up"):
            assert pairs[name, kind] and all(y == rule(x) for x, y in pairs[name, kind])
    assert ("Bhutan", "Thimphu") in tasks_of("country-capital", "rare", 60)
    assert all(x == y for name in ("antonym", "english-spanish", "country-capital") for x, y in pairs[name, "copied"])
    assert all(not y.endswith("ed") or y == "led" for x, y in pairs["present-past", "irregular"])


def tasks_of(function: str, kind: str, words: int) -> list[tuple[str, str]]:
    built = tasks.of("extrapolation").build(settings(functions=(function,), words=words), 17)
    return [asked(prompt) for prompt in built if prompt.category == kind]


def test_demonstrations_hold_no_word_that_is_asked_and_usual_words_are_questions(prompts):
    known = from_lexicon(tasks_path())
    for prompt in prompts:
        shown = prompt.text.rpartition("Q:")[0]
        assert f"Q: {asked(prompt)[0]}\n" not in shown
        assert shown.count("Q:") == (10 if prompt.role == "clean" else 0)
        if prompt.category == "usual":  # of the first words; more of them are tested below
            pairs = known[FUNCTIONS[prompt.condition].like][1]
            _, questions = parted(FUNCTIONS[prompt.condition].like, len(pairs), 17)
            half = [pairs[item][0] for item in questions["ab".index(prompt.split) :: 2]]
            assert asked(prompt)[0] in half  # icl asks it in the same split: no vector is reported on what chose it


def tasks_path():
    from pathlib import Path

    return Path("stages/sources/words/functions.yaml")


def test_more_words_leave_the_first_ones_as_they_are(prompts):
    more = {prompt.id: prompt for prompt in tasks.of("extrapolation").build(settings(words=12), 17)}
    assert all(more[prompt.id] == prompt for prompt in prompts if prompt.id in more)
    assert {prompt.id for prompt in prompts} <= set(more)


def test_every_class_has_words_enough_for_a_claim_that_no_vector_was_chosen_on():
    """At the sizes of the default run: 20 words of split b, with and without demonstrations from either split."""
    built = tasks.of("extrapolation").build(load().tasks.extrapolation, 17)
    words: dict[tuple, set[str]] = {}
    for prompt in built:
        if prompt.role == "clean" or prompt.split == "b":
            words.setdefault((prompt.role, prompt.condition, prompt.category), set()).add(asked(prompt)[0])
    assert len(words) == 2 * 35 and min(map(len, words.values())) >= 20


def test_more_common_words_are_no_words_of_icl_and_take_their_ending_or_do_not():
    of_icl = {word.lower() for _, pairs in from_lexicon(tasks_path()).values() for pair in pairs for word in pair}
    lexicon = read(tasks_path().parent / "rare.yaml", Lexicon, "this test")
    lists = dict(lexicon)
    for part in lists.values():
        words = part.split() if isinstance(part, str) else [word for word, _ in part]
        answers = [] if isinstance(part, str) else [answer for _, answer in part]
        assert len(words) == len(set(words)) and not of_icl & {word.lower() for word in (*words, *answers)}
    for function in (FUNCTIONS["singular-plural"], FUNCTIONS["present-past"]):
        for name, takes in zip(function.common, (True, False), strict=True):
            assert len(lists[name]) >= 30 and all(function.regular(*pair) == takes for pair in lists[name])


def test_a_made_up_word_that_is_one_token_is_no_unseen_word():
    def tokens(size: int) -> SimpleNamespace:
        return SimpleNamespace(spans={ASKED: [(np.arange(1), np.arange(size))]})

    steered = tasks.of("extrapolation").steered
    told = {(kind, size): steered(SimpleNamespace(category=kind), tokens(size)) for kind in CLASSES for size in (1, 2)}
    assert [of for of, yes in told.items() if not yes] == [("made_up", 1), ("copied", 1)]


def test_made_up_words_exist_nowhere_and_take_the_regular_ending():
    for kind in invented.ENDS:
        source = invented.words(kind, stream(3, kind), {"brind"})
        words = [next(source) for _ in range(300)]
        assert len(set(words)) == 300 and "brind" not in words
        assert all(invented.makes(kind).fullmatch(word) for word in words)
        assert not any(
            word.endswith(("s", "x", "z", "ch", "sh", "y", "f", "o", "man")) for word in words if kind == "noun"
        )
    real = set(tasks_path().parent.joinpath("real.txt").read_text().split())
    assert {"bank", "blunt", "spend"} <= real
    assert not real & {
        word
        for kind in invented.ENDS
        for _, word in zip(range(300), invented.words(kind, stream(5, kind), real), strict=False)
    }


def test_a_users_mistake_is_one_line():
    with pytest.raises(UserError, match="rhyme"):
        tasks.of("extrapolation").build(settings(functions=("rhyme",)), 17)
    with pytest.raises(ValueError, match="end"):
        settings(template="Q: {x} {y}")


def answers(rows) -> pd.DataFrame:
    """Rows (function, category, word tokens, answer tokens, right, how many)."""
    table = [
        {"prompt": f"{f}/{c}-{w}-{n}", "function": f, "category": c, "split": "b", "cluster": f"{f}/{c}{w}{a}{n}{ok}",
         "word_tokens": w, "answer_tokens": a, "correct": ok, "ended": ok, "forced": ok}
        for f, c, w, a, ok, count in rows
        for n in range(count)
    ]  # fmt: skip
    return pd.DataFrame(table)


EMPTY = (
    pd.DataFrame(columns=["function", "context", "correct", "vector", "prompt", "cluster"]),
    pd.DataFrame(columns=["task", "condition", "measure", "value", "baseline", "category", "cluster"]),
)


def test_matching_undoes_what_tokens_alone_do():
    """Accuracy depends on tokens only (1.0 for two, .25 for three), made-up words have more: no difference is left."""
    rows = [("copy", "usual", 2, 1, True, 20)]
    rows += [("copy", "rare", 2, 1, True, 30), ("copy", "rare", 3, 2, True, 5), ("copy", "rare", 3, 2, False, 15)]
    rows += [
        ("copy", "made_up", 2, 1, True, 10),
        ("copy", "made_up", 3, 2, True, 10),
        ("copy", "made_up", 3, 2, False, 30),
    ]
    table = extrapolation.table(answers(rows), *EMPTY, 0.5).set_index(["function", "class", "tokens"])
    assert table.accuracy["copy", "rare", "all"] == pytest.approx(0.7)
    assert table.accuracy["copy", "made_up", "all"] == pytest.approx(0.4)
    weights = np.array([30 * 10 / 40, 20 * 40 / 60])
    assert table.accuracy["copy", "made_up", "matched"] == pytest.approx(np.average([1, 0.25], weights=weights))
    assert table.accuracy["copy", "made_up-rare", "matched"] == pytest.approx(0)
    low, high = table.loc[("copy", "made_up-rare", "matched"), ["low", "high"]]
    assert -0.4 < low < -0.1 and 0.1 < high < 0.4
    assert extrapolated(table.reset_index()) == {"extrapolation": {"copy": {"usual": 1.0, "rare": 0.7, "made_up": 0.4}}}


def test_a_made_up_word_that_the_model_has_as_one_token_is_left_out_everywhere():
    rows = [("copy", "usual", 1, 1, True, 20), ("copy", "rare", 1, 1, False, 20)]
    rows += [("copy", "made_up", 1, 1, True, 3), ("copy", "made_up", 2, 1, False, 20)]
    asked = answers(rows)
    known = asked[(asked.category == "made_up") & (asked.word_tokens == 1)]
    same = {"function": "copy", "correct": True, "cluster": list(asked[asked.category == "made_up"].cluster)}
    steering = pd.DataFrame(same | {"context": "made_up", "vector": "heads", "prompt": same["cluster"]})
    steering["prompt"] += steering.groupby("cluster").cumcount().astype(str)
    drawn = [steering.assign(vector="control", draw=draw, correct=draw == 1) for draw in (1, 2, 3)]
    steering = pd.concat([steering, *drawn], ignore_index=True)
    counted = pd.DataFrame({"task": "extrapolation", "condition": "copy", "measure": "accuracy", "value": 1.0,
        "baseline": "ngram", "category": "made_up", "cluster": same["cluster"]})  # fmt: skip
    table = extrapolation.table(asked, steering, counted, 0.5).set_index(["class", "tokens", "context"]).sort_index()
    whole = table.loc[("made_up", "all")]
    assert whole.accuracy["demonstrations"] == 0 and len(known) == 3
    assert list(whole.trials) == [20, 20, 20, 20]
    assert whole.accuracy["heads"] == 1 and whole.accuracy["control"] == pytest.approx(1 / 3)  # a mean over the sets
    assert whole.note["demonstrations"] == "3 that are one token of the model's left out"
    assert table.trials["rare", "all", "demonstrations"] == 20  # real words may be of one token
    assert ("made_up", "1", "demonstrations") not in table.index


def test_a_real_difference_is_found_and_said():
    counts = [("usual", True, 24), ("rare", True, 22), ("rare", False, 2), ("made_up", True, 2), ("made_up", False, 22)]
    rows = [("copy", kind, 2, 2, ok, n) for kind, ok, n in counts]
    table = extrapolation.table(answers(rows), *EMPTY, 0.5)
    difference = table[(table["class"] == "made_up-rare") & (table.function == "copy")].iloc[0]
    assert difference.high < -0.5
    said = carried.at_equal_tokens(table[table.tokens == "matched"], [])
    assert "lower in copy −0.83" in said and "not told apart" not in said
    shown = table[(table.tokens == "all") & (table.function == "copy")]
    assert "yet wrong on most made-up ones: copy 0.08 [0.02, 0.28]." in carried.carried(shown, [])
    assert "copy 0.08 [0.02, 0.28] (of more tokens than any rare word)." in carried.carried(shown, ["copy"])
    half = shown.assign(low=shown.low.where(shown["class"] != "usual", 0.4))
    half.loc[half["class"] == "rare", ["accuracy", "low", "high"]] = 0.1, 0.0, 0.3
    doubts = "perhaps not most of them; rare real words are mostly wrong as well, 0.10)"
    assert doubts in carried.carried(half, [])
    assert "in 1 of 1 solved" in carried.ordered(shown)


def test_unsolved_functions_and_no_shared_tokens_say_so():
    rows = [("antonym", "usual", 1, 1, False, 20), ("antonym", "copied", 2, 2, False, 20)]
    rows += [("copy", "usual", 1, 1, True, 20), ("copy", "rare", 1, 1, True, 20), ("copy", "made_up", 4, 4, True, 20)]
    table = extrapolation.table(answers(rows), *EMPTY, 0.5)
    assert not (table.tokens == "matched").any()
    assert "antonym" in carried.unsolved(table) and "copy" not in carried.unsolved(table)
    assert table[table["class"] == "copied"].note.str.contains("no right answer").all()


def test_the_text_is_judged_not_its_tokens(monkeypatch):
    """A model that writes 'cats' as 'c', 'ats' where the split is 'cat', 's' is right; 'catx' and a stop are not."""
    from stages.model import written

    class Plain:
        words = ("", "cat", "s", "c", "ats", "x", "\n", "q:")

        def decode(self, ids, **kwargs):
            return "".join(self.words[i] for i in ids)

    def prompt(target):
        return SimpleNamespace(ids=np.array([7, *target]), target=np.arange(1, 1 + len(target)))

    replies = {"cats": [3, 4, 6], "catx": [1, 5, 6], "cat.": [1, 6, 6]}
    order = list(replies)
    tops = [np.array([False, False, False]), np.array([True, False, True]), np.array([True, False, False])]
    batch = SimpleNamespace(prompts=[prompt([1, 2, 6]) for _ in order], cut=0, following=lambda prompts: None,
                            intact=[SimpleNamespace(top=top) for top in tops])  # fmt: skip
    going = iter(range(9))

    def forward(loaded, tails, rows, prefix, whole):
        next(going)
        said = []
        for tail in tails:
            name = next(
                n for n in order if list(tail[1:]) == replies[n][: len(tail) - 1] and (len(tail) > 1 or n == "cats")
            )
            said.append(replies[name][len(tail) - 1])
        return torch.eye(len(Plain.words))[said]

    monkeypatch.setattr(written, "forward", forward)
    # 'catx' and 'cat.' begin alike: after 'cat' the first of them answers for both
    assert written.writes(SimpleNamespace(tokenizer=Plain()), batch, ["cats\n"] * 3)[0] == "cats\n"
    going = iter(range(9))
    assert written.writes(SimpleNamespace(tokenizer=Plain()), batch, ["cats\n"] * 3)[1] == "cat"
