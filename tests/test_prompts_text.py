"""Text prompts: long enough, not overlapping, spread over the text; and the prose of this repository."""

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stages.store.errors import UserError
from stages.tasks.prompt import read_text
from stages.tasks.text.prompts import build, cut
from stages.tasks.text.settings import Settings

ROOT = Path(__file__).parents[1]
PROSE = ROOT / "stages/sources/english"
BOOKS = Path(__file__).parents[2] / "shared/data/books"


def settings(path: Path, **changed) -> Settings:
    """Return the settings of params.yaml, some changed."""
    content = yaml.safe_load((ROOT / "tests/params.yaml").read_text(encoding="utf-8"))["tasks"]["text"]
    return Settings(**{**content, "path": str(path), **changed})


@pytest.fixture
def story(tmp_path) -> Path:
    """A text of 60 paragraphs in two files; every paragraph is 40 words that only it has."""
    paragraphs = [" ".join(f"p{n}w{word}" for word in range(40)) + "." for n in range(60)]
    (tmp_path / "one.txt").write_text("\n\n".join(paragraphs[:30]), encoding="utf-8")
    (tmp_path / "two.txt").write_text("\n\n".join(paragraphs[30:]), encoding="utf-8")
    return tmp_path


def used(text: str) -> set[str]:
    """Return the paragraphs a passage of `story` is made of."""
    return {word.partition("w")[0] for word in text.split()}


SMALL = {"passages": 5, "tokens": 100, "short_passages": 12, "short_tokens": 16}


def test_roles_ids_and_tokens(story):
    prompts = build(settings(story, **SMALL), 17)
    assert [p.id for p in prompts if p.role == "long"] == [f"text/long/{n:04d}" for n in range(5)]
    assert [p.id for p in prompts if p.role == "short"] == [f"text/short/{n:04d}" for n in range(12)]
    for prompt in prompts:
        assert prompt.condition == prompt.role and prompt.cluster == prompt.id and prompt.targets == ()
        assert prompt.tokens == {"long": 100, "short": 16}[prompt.role]
        assert len(prompt.text) >= 6 * prompt.tokens


def test_passages_of_a_role_share_no_paragraph_and_start_at_one(story):
    prompts = build(settings(story, **SMALL), 17)
    for role in ("long", "short"):
        counts = Counter(paragraph for p in prompts if p.role == role for paragraph in used(p.text))
        assert set(counts.values()) == {1}
    assert all(prompt.text.split()[0].endswith("w0") for prompt in prompts)


def test_passages_come_from_all_over_the_text(story):
    starts = [int(p.text.split("w")[0][1:]) for p in build(settings(story, **SMALL), 17) if p.role == "short"]
    assert starts != sorted(starts) and min(starts) < 30 <= max(starts)


def test_more_passages_keep_the_first_and_roles_are_independent(story):
    few = build(settings(story, **SMALL), 17)
    more = {p.id: p for p in build(settings(story, **{**SMALL, "passages": 9, "short_passages": 40}), 17)}
    assert all(more[prompt.id] == prompt for prompt in few)
    other = build(settings(story, **{**SMALL, "tokens": 150}), 17)
    assert [p for p in other if p.role == "short"] == [p for p in few if p.role == "short"]
    assert build(settings(story, **SMALL), 18) != few


def test_too_little_text_says_what_it_has_and_needs(story):
    with pytest.raises(UserError, match=r"2,400 words give \d+ long passages of 448 tokens; .*16, about \d+,\d+ words"):
        build(settings(story), 17)
    with pytest.raises(UserError, match=r"give 0 long passages of 9000 tokens; tasks.text asks for 5, about 54,000"):
        build(settings(story, **{**SMALL, "tokens": 9000}), 17)
    with pytest.raises(UserError, match=r"give \d+ short passages"):
        build(settings(story, **{**SMALL, "short_passages": 61}), 17)


def test_a_passage_that_stands_twice_is_taken_once(tmp_path):
    """It would lie in both splits: what is chosen on one would be reported on the same text."""
    page = " ".join(["word on. The"] * 200)
    (tmp_path / "a.txt").write_text("\n\n".join([page] * 50))
    with pytest.raises(UserError, match=r"give 1 long passages"):
        build(settings(tmp_path, passages=2), 17)


@given(sizes=st.lists(st.integers(1, 400), max_size=30), characters=st.integers(1, 300))
def test_cut_loses_nothing_but_the_end(sizes, characters):
    paragraphs = [("word " * size)[:size].strip() or "w" for size in sizes]
    passages = cut(paragraphs, characters)
    assert all(len(passage) >= characters for passage in passages)
    everything = " ".join(paragraphs)
    joined = " ".join(passages)
    assert everything.startswith(joined) and len(everything) - len(joined) <= characters


def test_a_book_of_one_paragraph_is_taken_by_the_sentence(tmp_path):
    (tmp_path / "book.txt").write_text(" ".join(f"Sentence {n} has six words." for n in range(900)), encoding="utf-8")
    prompts = build(settings(tmp_path, passages=3), 17)
    assert all(len(p.text) < 6 * p.tokens + 60 and re.match(r"Sentence \d+ has", p.text) for p in prompts)


def test_real_books():
    if not BOOKS.is_dir():
        pytest.skip(f"no real data at {BOOKS}")
    assert len(build(settings(BOOKS / "lewis-carroll__alice-s-adventures-in-wonderland.txt"), 17)) == 64


def test_prose_of_this_repository_is_long_enough_and_never_repeats_itself():
    words = re.findall(r"\w+", " ".join(read_text(PROSE)).lower())
    assert len(words) >= 20_000
    runs = Counter(tuple(words[at : at + 12]) for at in range(len(words) - 11))
    assert not [" ".join(run) for run, count in runs.items() if count > 1]


def test_prose_of_this_repository_serves_params():
    prompts = build(settings(PROSE), 17)
    assert Counter(p.role for p in prompts) == {"long": 16, "short": 48}
