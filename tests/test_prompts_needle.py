"""Needle prompts: spans mark the same words, the needle lies where it should, facts and haystacks are fit for use."""

import re
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stages.store.errors import UserError
from stages.tasks.needle.prompts import END, FACTS, WORDS, _ask, build, haystack
from stages.tasks.needle.settings import Settings
from stages.tasks.prompt import read_text

ROOT = Path(__file__).parents[1]
PROSE = ROOT / "stages/sources/english"
BOOKS = Path(__file__).parents[2] / "shared/data/books"
SMALL = {"lengths": (150, 300), "depths": (0.0, 0.5, 1.0), "trials": 2}


def settings(path: Path, **changed) -> Settings:
    """Return the settings of params.yaml, some changed."""
    content = yaml.safe_load((ROOT / "tests/params.yaml").read_text(encoding="utf-8"))["tasks"]["needle"]
    return Settings(**{**content, "path": str(path), **changed})


@cache
def facts() -> dict[str, dict[str, str]]:
    """Read the facts as they stand in the file."""
    return yaml.safe_load(FACTS.read_text(encoding="utf-8"))


@pytest.fixture
def hay(tmp_path) -> Path:
    """A text of 300 sentences of 8 words, each with its number, 5 to a paragraph."""
    sentences = [f"Sentence {n} tells us something about old maps." for n in range(300)]
    paragraphs = [" ".join(sentences[at : at + 5]) for at in range(0, 300, 5)]
    (tmp_path / "hay.txt").write_text("\n\n".join(paragraphs), encoding="utf-8")
    return tmp_path


def test_facts_have_distinct_ordinary_words_and_unique_subjects():
    assert len(facts()) >= 30
    for fact in facts().values():
        words = fact["answer"].split()
        assert 5 <= len(words) <= 7 and len(set(words)) == len(words)
        assert all(re.fullmatch(r"[A-Za-z]+", word) for word in words)
        assert fact["question"].endswith("?") and fact["statement"].startswith("The ")
        assert not {word for word in words if len(word) > 4} & set(fact["statement"].lower().split())
    for part in ("statement", "question", "answer"):
        assert len({fact[part] for fact in facts().values()}) == len(facts())


def check_prompt(prompt) -> None:
    """Check a prompt's spans and shape against the fact alone."""
    fact = facts()[prompt.cluster]
    whole = prompt.text + prompt.targets[0]
    (span,) = prompt.relations
    assert span.name == "retrieval"
    assert whole[span.query_start : span.query_end] == whole[span.key_start : span.key_end] == fact["answer"]
    assert span.query_start == len(prompt.text) + 1 and span.query_end == len(whole)
    assert prompt.targets == (" " + fact["answer"],)
    assert prompt.text.count(fact["answer"]) == 1
    assert f"{fact['statement']} {fact['answer']}." in prompt.text
    assert prompt.text.endswith(f"\n\nQuestion: {fact['question']}\nAnswer: {fact['statement']}")


def test_spans_ids_and_groups(hay):
    prompts = build(settings(hay, **SMALL), 17)
    assert len(prompts) == len({p.id for p in prompts}) == 12
    by_id = {prompt.id: prompt for prompt in prompts}
    prompt = by_id["needle/300/050-01"]
    assert (prompt.condition, prompt.category, prompt.role) == ("300@0.5", "300", "test")
    for prompt in prompts:
        check_prompt(prompt)


def test_needle_lies_between_sentences_at_its_depth(hay):
    for prompt in build(settings(hay, **SMALL), 17):
        fact = facts()[prompt.cluster]
        before, after = prompt.text.split("\n\n")[0].split(f"{fact['statement']} {fact['answer']}.")
        sentence = r"Sentence \d+ tells us something about old maps\."
        assert re.fullmatch(rf"({sentence} )*", before) and re.fullmatch(rf"( {sentence})*", after)
        count, total = before.count("Sentence"), (before + after).count("Sentence")
        assert abs(count - float(prompt.condition.split("@")[1]) * total) <= 0.5


def test_haystacks_are_consecutive_wrap_once_and_have_the_length(hay):
    starts = set()
    for prompt in build(settings(hay, lengths=(500, 1700, 2600), depths=(0.5,), trials=4), 17):
        numbers = [int(number) for number in re.findall(r"Sentence (\d+)", prompt.text)]
        assert numbers == [(numbers[0] + step) % 300 for step in range(len(numbers))]
        assert len(set(numbers)) == len(numbers)
        assert len((prompt.text + prompt.targets[0]).split()) == pytest.approx(WORDS * int(prompt.category), abs=5)
        starts.add(numbers[0])
    assert len(starts) > 8


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=60),
    depth=st.floats(0, 1),
    key=st.sampled_from(sorted(facts())),
)
def test_spans_hold_for_any_haystack(sizes, depth, key):
    fact = facts()[key]
    text, span = _ask([" ".join(["Word"] * size) + "." for size in sizes], depth, **fact)
    whole = f"{text} {fact['answer']}"
    assert whole[span.query_start : span.query_end] == whole[span.key_start : span.key_end] == fact["answer"]
    words = len(whole[: span.key_start].split()) - len(fact["statement"].split())
    assert abs(words - depth * sum(sizes)) <= max(sizes) / 2 + 1e-6


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=40), start=st.integers(0, 39), words=st.integers(-9, 900)
)
def test_haystack_is_as_near_to_the_length_as_whole_sentences_allow(sizes, start, words):
    start %= len(sizes)
    chosen = haystack(np.array(sizes), start, words)
    assert chosen[0] == start and len(set(chosen)) == len(chosen)
    lengths = [sum((sizes[start:] + sizes[:start])[:count]) for count in range(1, len(sizes) + 1)]
    assert abs(lengths[len(chosen) - 1] - words) == min(abs(length - words) for length in lengths)


def test_facts_differ_until_they_run_out_then_cycle(hay):
    prompts = build(settings(hay, **{**SMALL, "trials": 20}), 17)
    count = len(facts()) // 2
    halves = {split: [p.cluster for p in prompts if p.split == split] for split in "ab"}
    assert not set(halves["a"]) & set(halves["b"])  # no fact that choices rest on is reported on
    for clusters in halves.values():
        assert len(clusters) == 60 and len(set(clusters[:count])) == count
        assert set(Counter(clusters).values()) <= {60 // count, 60 // count + 1}


def test_more_trials_keep_the_first_prompts_and_the_seed_matters(hay):
    few, more = build(settings(hay, **SMALL), 17), build(settings(hay, **{**SMALL, "trials": 5}), 17)
    assert more[: len(few)] == few
    assert build(settings(hay, **SMALL), 18) != few


def test_sentences_end_where_they_end():
    text = 'Mr. Smith met Dr. J. Hall at St. Mary. "Why?" he said. "Run!" Nobody ran. It cost 3.5 pounds... or four.'
    pieces = ["Mr. Smith met Dr. J. Hall at St. Mary.", '"Why?" he said.', '"Run!"', "Nobody ran."]
    assert END.split(text) == [*pieces, "It cost 3.5 pounds... or four."]


def test_bad_settings_are_user_errors(hay, tmp_path):
    with pytest.raises(UserError, match=r"2,400 words in sentences; tasks.needle.lengths = 4000 tokens needs 3,480"):
        build(settings(hay, lengths=(200, 4000)), 17)
    with pytest.raises(UserError, match=r"depths = \[0.5, 0.501\]: two are equal"):
        build(settings(hay, depths=(0.5, 0.501)), 17)
    (tmp_path / "verse.txt").write_text("no full stop " * 2000, encoding="utf-8")
    with pytest.raises(UserError, match=r"0 words in sentences"):
        build(settings(tmp_path / "verse.txt"), 17)


FACT = {"statement": "The password of the gate is", "question": "What is it?", "answer": "red fox"}


@pytest.mark.parametrize(
    "added, says",
    [
        (
            {"a": FACT | {"answer": " red fox"}},
            r"facts.yaml: a.answer = ' red fox': expected text on one line, no white",
        ),
        ({"a": FACT | {"question": "What?\n\nAnswer: x"}}, r"a.question = .*: expected text on one line"),
        (
            {"a": FACT | {"question": "Is it a red fox?"}},
            r"a = .*: the answer 'red fox' stands in the statement or the",
        ),
        (
            {"a": FACT | {"answer": "old maps"}},
            r"a: the haystack holds the answer 'old maps' as well; expected a needle",
        ),
        (
            {"a": FACT | {"statement": "It " * 90 + "is"}},
            r"a: \d+ words with its question .*lengths = 150 tokens has room",
        ),
        ({"a": FACT, "b": FACT | {"answer": "x"}}, r"b.statement = .*: a says it as well; expected another"),
    ],
)
def test_a_needle_that_is_none_is_named(hay, added, says):
    (hay / "facts.yaml").write_text(yaml.safe_dump(added), encoding="utf-8")
    with pytest.raises(UserError, match=says):
        build(settings(hay, **SMALL), 17)


def test_added_needles_behind_a_link_to_nothing_are_missed(hay):
    (hay / "facts.yaml").symlink_to(hay / "gone")
    with pytest.raises(UserError, match=r"facts\.yaml: no such file"):
        build(settings(hay, **SMALL), 17)


def test_a_text_without_spaces_is_refused(tmp_path):
    """Counted in words, Japanese made prompts of 8,300 tokens where 400 were asked for."""
    japanese = (
        "親譲りの無鉄砲で小供の時から損ばかりしている。" + "小学校に居る時分学校の二階から飛び降りて腰を抜かした。"
    )
    (tmp_path / "botchan.txt").write_text("\n\n".join([japanese] * 3000), encoding="utf-8")
    with pytest.raises(UserError, match=r"botchan\.txt: 100% .* without a space; .* expected a text .* with spaces"):
        build(settings(tmp_path / "botchan.txt"), 17)


def test_real_book():
    if not BOOKS.is_dir():
        pytest.skip(f"no real data at {BOOKS}")
    for prompt in build(settings(BOOKS / "lewis-carroll__alice-s-adventures-in-wonderland.txt"), 17):
        check_prompt(prompt)


def test_prose_of_this_repository_serves_params_and_holds_no_fact():
    prompts = build(settings(PROSE), 17)
    assert len(prompts) == 80 and len({p.cluster for p in prompts}) == len(facts())
    for prompt in prompts:
        check_prompt(prompt)
        assert len((prompt.text + prompt.targets[0]).split()) == pytest.approx(WORDS * int(prompt.category), abs=25)
    prose = " ".join(read_text(PROSE))
    assert not [key for key in facts() if key.capitalize() in prose]
