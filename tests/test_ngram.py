"""The n-gram baselines: a hand-worked example, a naive reference, sums of 1, and what copying by counting gives."""

import math
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stages import ngram, tasks
from stages.baseline.base import Uniform, Widened
from stages.baseline.kneser_ney import START, KneserNey, discounts
from stages.baseline.outcome import TOKENS, Baselines
from stages.baseline.words import Vocabulary, sentences, words
from stages.store import paths, tables
from stages.tasks.prompt import Prompt

ROOT = Path(__file__).parents[1]
A, B, C, D, E = range(5)
TEXT = [["the", "cat", "sleeps", "."], ["the", "cats", "sleep", "."], ["the", "dog", "sleeps", "."]] * 2


def naive(sequences: list[list[int]], order: int, size: int, word: int, context: list[int]) -> float:
    """The definition, by loops over tuples: adjusted counts of all n-grams, discounts, recursion from uniform up."""
    grams: dict[int, Counter] = {k: Counter() for k in range(1, order + 1)}
    for sequence in sequences:
        padded = (START, *sequence)
        for k in grams:
            grams[k].update(padded[i : i + k] for i in range(len(padded) - k + 1))
    p, recent = 1 / size, (START, *context)
    for k in range(1, order + 1):
        counts = dict(grams[k])
        if k < order:  # below the top: how many distinct words stand before, unless nothing can
            before = defaultdict(set)
            for gram in grams[k + 1]:
                before[gram[1:]].add(gram[0])
            counts = {gram: c if gram[0] == START else len(before[gram]) for gram, c in counts.items()}
        counts = {gram: c for gram, c in counts.items() if gram[-1] != START}
        of = Counter(counts.values())
        y = of[1] / (of[1] + 2 * of[2]) if of[1] and of[2] else 0.5
        off = [y, y, y]
        if all(of[c] for c in (1, 2, 3, 4)):
            full = [c - (c + 1) * y * of[c + 1] / of[c] for c in (1, 2, 3)]
            off = full if all(0 < d < c for c, d in enumerate(full, 1)) else off
        history = recent[len(recent) - k + 1 :]
        seen = {gram[-1]: c for gram, c in counts.items() if gram[:-1] == history}
        if not seen or k - 1 > len(recent):
            break
        mass = sum(off[min(c, 3) - 1] for c in seen.values())
        own = seen[word] - off[min(seen[word], 3) - 1] if word in seen else 0
        p = (own + mass * p) / sum(seen.values())
    return p


def test_an_example_worked_by_hand():
    """Sequences `a b c` and `a b d` over the vocabulary a b c d e, order 3; S is the start.

    Order 3, occurrences: S a b 2, a b c 1, a b d 1. n1 = 2, n2 = 1, n3 = 0: one discount 2 / (2 + 2) = 0.5.
      after S a: b (2 - 0.5) / 2 = 0.75, left 0.25.   after a b: c and d (1 - 0.5) / 2 = 0.25, left 2 * 0.5 / 2 = 0.5.
    Order 2: S a begins, so it keeps its 2; before a b stands only S: 1; before b c only a: 1; before b d only a: 1.
      n1 = 3, n2 = 1: 3 / (3 + 2) = 0.6.
      after S: a (2 - 0.6) / 2 = 0.7, left 0.3.   after a: b 0.4, left 0.6.   after b: c and d 0.2, left 0.6.
    Order 1: one distinct word before each of a (S), b (a), c (b), d (b). n2 = 0: 0.5.
      a b c d (1 - 0.5) / 4 = 0.125, left 0.5; uniform 0.2: p1(a b c d) = 0.125 + 0.5 * 0.2 = 0.225, p1(e) = 0.1.
    """
    model = KneserNey([[A, B, C], [A, B, D]], Uniform(5), order=3)
    p2_c, p2_a, p2_e = 0.2 + 0.6 * 0.225, 0.6 * 0.225, 0.6 * 0.1  # after b
    by_hand = {A: 0.5 * p2_a, B: 0.5 * p2_a, C: 0.25 + 0.5 * p2_c, D: 0.25 + 0.5 * p2_c, E: 0.5 * p2_e}
    assert sum(by_hand.values()) == pytest.approx(1)
    assert [model.probability(word, [A, B]) for word in range(5)] == pytest.approx(list(by_hand.values()))
    assert model.distribution([A, B]) == pytest.approx(list(by_hand.values()))
    assert model.probability(A, []) == pytest.approx(0.7 + 0.3 * 0.225)  # the sequence begins: order 2
    assert model.probability(B, [A]) == pytest.approx(0.75 + 0.25 * (0.4 + 0.6 * 0.225))  # after S a: order 3
    assert model.probability(C, [E, B]) == pytest.approx(p2_c)  # e b was never seen: order 2
    assert model.probability(E, [A, E]) == pytest.approx(0.1)  # nor anything after e: order 1
    assert model.probability(C, [E, D, A, B]) == pytest.approx(by_hand[C])  # only the last two words count


def test_three_discounts_by_hand_and_the_fallbacks():
    """n = 4, 3, 2, 1: Y = 4 / 10; D1 = 1 - 2 Y 3/4, D2 = 2 - 3 Y 2/3, D3 = 3 - 4 Y 1/2."""
    assert discounts(np.array([1] * 4 + [2] * 3 + [3] * 2 + [4])) == pytest.approx([0, 0.4, 1.2, 2.2])
    assert discounts(np.array([1] * 4 + [2] * 3 + [3] * 2)) == pytest.approx([0, 0.4, 0.4, 0.4])  # no n4
    assert discounts(np.array([1] + [2] + [3] * 9 + [4])) == pytest.approx([0, 1 / 3, 1 / 3, 1 / 3])  # D2 < 0
    assert discounts(np.array([1, 1, 3])) == pytest.approx([0, 0.5, 0.5, 0.5])  # no n2
    assert discounts(np.array([], dtype=int)) == pytest.approx([0, 0.5, 0.5, 0.5])


SEQUENCES = st.lists(st.lists(st.integers(0, 3), max_size=8), min_size=1, max_size=6)


@given(SEQUENCES, st.integers(1, 5), st.lists(st.integers(0, 4), max_size=6))
def test_equals_a_naive_reference_and_sums_to_1(sequences, order, context):
    model = KneserNey(sequences, Uniform(5), order)
    expected = [naive(sequences, order, 5, word, context) for word in range(5)]
    assert model.distribution(context) == pytest.approx(expected, abs=1e-12)
    assert [model.probability(word, context) for word in range(5)] == pytest.approx(expected, abs=1e-12)
    assert sum(expected) == pytest.approx(1)
    assert min(expected) > 0


def test_three_discounts_at_work_equal_the_reference():
    """A text long enough that every order has n1 .. n4."""
    rng = np.random.default_rng(3)
    sequences = [rng.choice(40, size=12, p=(q := 1 / np.arange(1, 41)) / q.sum()).tolist() for _ in range(150)]
    model = KneserNey(sequences, Uniform(41), 3)
    counts = Counter(tuple(s[i : i + 3]) for s in ([START, *s] for s in sequences) for i in range(len(s) - 2))
    assert len(set(discounts(np.array(list(counts.values()))))) == 4
    for context in ([], [0], sequences[0][:5], sequences[7][2:4], [40, 1]):
        expected = [naive(sequences, 3, 41, word, context) for word in range(41)]
        assert model.distribution(context) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.integers(0, 6), max_size=12), st.lists(st.integers(0, 6), max_size=6))
def test_a_model_of_the_prompt_backs_off_to_the_text_and_sums_to_1(earlier, context):
    text = Widened(KneserNey([[2, 3, 4, 1], [2, 4, 1]], Uniform(5), 5), extra=2)
    assert text.distribution(context).sum() == pytest.approx(1)
    assert [text.probability(word, context) for word in range(7)] == pytest.approx(text.distribution(context).tolist())
    prompt = KneserNey([earlier], text, 5)
    assert prompt.distribution(context).sum() == pytest.approx(1)
    if not earlier:
        assert prompt.distribution(context) == pytest.approx(text.distribution(context))


def test_new_words_share_the_probability_of_the_unknown():
    model = KneserNey([[2, 3, 1]], Uniform(4), 5)
    p, unknown = Widened(model, extra=3).distribution([2]), model.probability(0, [2])
    assert p[[0, 4, 5, 6]] == pytest.approx([unknown / 4] * 4) and p[1:4] == pytest.approx(model.distribution([2])[1:])


def test_words_and_sentences():
    assert words('The nurse WASN’T "well-fed".') == ["the", "nurse", "wasn't", '"', "well-fed", '"', "."]
    found = sentences(["It rained. “Why?” she said! Then", "Next paragraph"])
    assert [" ".join(sentence) for sentence in found] == [
        "it rained .",
        '" why ? "',
        "she said !",
        "then",
        "next paragraph",
    ]
    known = Vocabulary(["b", "a", "b"])
    assert known.encode(["a", "b", "new", "other"], known.widened(["new", "b", "new"])) == [3, 2, 4, 0]


@pytest.fixture(scope="module")
def baselines() -> Baselines:
    return Baselines(TEXT, 5)


def test_minimal_pairs_follow_collocations_and_ties_count_half(baselines):
    right = baselines.pair("The cat sleeps.", "The cat sleep.")
    assert right["ngram"] == {"accuracy": 1.0, "ties": 0.0}
    assert baselines.pair("The cat sleep.", "The cat sleeps.")["ngram"]["accuracy"] == 0.0
    unknown = baselines.pair("The cat yawns.", "The cat yawn.")  # two words that the text does not have
    assert unknown["ngram"] == unknown["ngram_prompt"] == {"accuracy": 0.5, "ties": 1.0}


def test_whole_sentences_are_scored_with_their_end(baselines):
    """The log-probabilities by the naive reference: all words and the end, after the start."""
    known = baselines.vocabulary
    train = [[*known.encode(sentence, {}), 1] for sentence in TEXT]
    for good, bad in (("the dog sleeps.", "the dog sleep."), ("the cats sleep.", "the cats."), ("dog.", "the.")):
        totals = [
            sum(math.log(naive(train, 5, known.size, word, s[:i])) for i, word in enumerate(s))
            for s in ([*known.encode(words(text), {}), 1] for text in (good, bad))
        ]
        assert baselines.pair(good, bad)["ngram"]["accuracy"] == float(totals[0] > totals[1])


def answered(baselines: Baselines, task: str, text: str, target: str) -> dict:
    """What the task makes of the baselines' answers to a prompt."""
    return tasks.of(task).counted(baselines, SimpleNamespace(text=text, targets=(target,)))


def test_copying_by_counting_answers_only_what_the_prompt_said(baselines):
    prompt = "Q: oko\nA: oka\n\nQ: uru\nA: ura\n\nQ: oko\nA:"
    assert answered(baselines, "icl", prompt, " Oka") == {"ngram": {"accuracy": 0.0}, "ngram_prompt": {"accuracy": 1.0}}
    assert answered(baselines, "icl", prompt, " ura")["ngram_prompt"]["accuracy"] == 0.0
    new = prompt.removesuffix("oko\nA:") + "iri\nA:"  # not asked before: two answers, equally likely
    assert answered(baselines, "icl", new, " ura")["ngram_prompt"]["accuracy"] == 0.5
    assert answered(baselines, "icl", new, " never-shown")["ngram_prompt"]["accuracy"] == 0.0
    two = "Q: x\nA: new york\n\nQ: y\nA: los angeles\n\nQ: x\nA:"
    assert answered(baselines, "icl", two, " New York")["ngram_prompt"]["accuracy"] == 1.0
    assert answered(baselines, "icl", two, " New Angeles")["ngram_prompt"]["accuracy"] == 0.0


def test_repeats_are_copied_by_the_prompt_and_uniform_to_the_text(baselines):
    sequence = np.random.default_rng(0).choice(2**31, 30, replace=False).tolist()
    found = baselines.repeated(sequence * 3)
    assert found["ngram"]["loss"] == pytest.approx(math.log(TOKENS)) and found["ngram"]["accuracy"] < 1e-5
    assert found["ngram_prompt"]["accuracy"] == 1.0 and found["ngram_prompt"]["loss"] < 0.1
    tokens = list(range(30)) * 2  # the reference on the same, word by word
    losses = [-math.log(naive([(tokens * 2)[:i]], 5, TOKENS, (tokens * 2)[i], (tokens * 2)[:i])) for i in range(60, 90)]
    assert found["ngram_prompt"]["loss"] == pytest.approx(np.mean(losses))


def test_a_tape_is_counted_symbol_by_symbol(baselines):
    """After `q b :` came q twice: counting says q again, then what followed that q most often."""
    text = " q b : q b\n q b : q b\n q b :"
    right = {"symbols": 1.0, "tapes": 1.0}
    assert answered(baselines, "iteration", text, " q b")["ngram_prompt"] == right
    assert answered(baselines, "iteration", text, " q q")["ngram_prompt"] == {"symbols": 0.5, "tapes": 0.0}
    assert answered(baselines, "iteration", text, " z")["ngram_prompt"]["symbols"] == 0.0  # a symbol never shown
    assert answered(baselines, "iteration", text, " q b")["ngram"]["symbols"] == 0.0  # the text knows no such words


@pytest.fixture
def clone(tmp_path, monkeypatch) -> Path:
    """A folder with params, a small text and prompts of four tasks."""
    monkeypatch.chdir(tmp_path)
    content = yaml.safe_load((ROOT / "tests/params.yaml").read_text())
    content["ngram"]["path"] = "text.txt"
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "text.txt").write_text("The cat sleeps. The cats sleep.\n\nThe dog sleeps.")
    same = {"condition": "agreement", "category": "subject_verb_agreement"}
    pairs = [
        Prompt(id=f"blimp/x/{n}", cluster=f"{n}", targets=(" The cat sleeps.", " The cat sleep."), **same)
        for n in range(4)
    ]
    asked = [
        Prompt(id=f"icl/f/{n}#{role}", role=role, condition="f", cluster=f"f/{n // 2}", text=text, targets=(" b",))
        for n in range(4)
        for role, text in (("clean", "Q: a\nA: b\n\nQ: a\nA:"), ("shuffled", "Q: a\nA: c\n\nQ: a\nA:"))
    ]
    repeated = [
        Prompt(id=f"repeats/{n}", condition="random", cluster=f"{n}", ordinals=(5, 7, 2, 9) * 3) for n in range(3)
    ]
    taped = [
        Prompt(id=f"iteration/copy/{n}", condition="copy", cluster=f"{n}", text=" q b : q b\n q b :", targets=(" q b",))
        for n in range(2)
    ]
    worded = [replace(prompt, id=prompt.id.replace("icl/", "extrapolation/")) for prompt in asked]
    facts = [replace(prompt, id=prompt.id.replace("icl/", "facts/")) for prompt in asked]
    every = {"blimp": pairs, "icl": asked, "repeats": repeated, "iteration": taped, "extrapolation": worded}
    every["facts"] = facts
    for task, prompts in every.items():
        tables.ASKED.write([vars(prompt) for prompt in prompts], task)
    return tmp_path


def test_the_stage_writes_values_and_summary_the_same_twice(clone):
    ngram.main()
    raw, summary = tables.NGRAM.read(), pd.read_csv(paths.COUNTING)
    assert not raw.prompt.str.contains("#shuffled").any() and raw.groupby("baseline").size().nunique() == 1
    value = summary.set_index(["task", "baseline", "condition", "measure"]).value
    assert (
        value["blimp", "ngram", "all", "accuracy"] == value["blimp", "ngram", "subject_verb_agreement", "accuracy"] == 1
    )
    assert value["icl", "ngram", "f", "accuracy"] == 0 and value["icl", "ngram_prompt", "f", "accuracy"] == 1
    assert (
        value["iteration", "ngram_prompt", "copy", "symbols"] == 1 == value["iteration", "ngram_prompt", "all", "tapes"]
    )
    assert value["repeats", "ngram", "all", "loss"] == pytest.approx(math.log(TOKENS), abs=1e-4)
    assert summary.trials[summary.task == "icl"].eq(4).all() and "random" not in set(summary.condition)
    first = [path.read_bytes() for path in (tables.NGRAM.path(), paths.COUNTING)]
    ngram.main()
    assert [path.read_bytes() for path in (tables.NGRAM.path(), paths.COUNTING)] == first


def test_tasks_that_are_not_in_params_are_left_out(clone):
    content = yaml.safe_load((clone / "params.yaml").read_text())
    content["tasks"] = {"text": content["tasks"]["text"]}
    (clone / "params.yaml").write_text(yaml.safe_dump(content))
    ngram.main()
    assert tables.NGRAM.read().empty
    assert paths.COUNTING.read_text() == "baseline,task,condition,measure,value,low,high,trials\n"


def test_intervals_bound_the_mean_over_clusters():
    """8 of 16 right, in clusters of 2 that agree: as wide as 8 independent coins, 2 * 1.96 * sqrt(0.25 / 8) = 0.7."""
    rows = [
        {"baseline": "ngram", "task": "blimp", "condition": "u", "category": "p", "cluster": f"{n // 2}",
         "prompt": f"{n}", "measure": "accuracy", "value": float(n // 2 % 2)}
        for n in range(16)
    ]  # fmt: skip
    table = ngram.summarize(pd.DataFrame(rows))
    assert table.condition.tolist() == ["all", "p"] and table.value.tolist() == [0.5, 0.5]
    assert (table.high - table.low).tolist() == pytest.approx([0.7, 0.7], abs=0.1)
