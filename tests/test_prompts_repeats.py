"""Repeats prompts: distinct ordinals, repeated exactly, of drawn lengths, each prompt on its own stream."""

from hypothesis import given
from hypothesis import strategies as st

from stages.store import tables
from stages.tasks.repeats.prompts import build
from stages.tasks.repeats.settings import Settings

PATH = "stages/tasks/repeats/prompts.py"


@given(shortest=st.integers(4, 40), more=st.integers(0, 40), copies=st.integers(2, 4), seed=st.integers(0, 2**32 - 1))
def test_sequences_are_distinct_ordinals_repeated(shortest, more, copies, seed):
    settings = Settings(path=PATH, prompts=3, shortest=shortest, longest=shortest + more, copies=copies)
    for number, prompt in enumerate(build(settings, seed)):
        length, rest = divmod(len(prompt.ordinals), copies)
        assert rest == 0 and shortest <= length <= shortest + more
        sequence = prompt.ordinals[:length]
        assert prompt.ordinals == sequence * copies and len(set(sequence)) == length
        assert all(type(ordinal) is int and 0 <= ordinal < 2**31 for ordinal in sequence)
        assert prompt.id == prompt.cluster == f"repeats/random/{number:04d}"
        assert (prompt.condition, prompt.text, prompt.targets) == ("random", "", ())


def test_lengths_cover_the_range_and_ordinals_the_vocabulary():
    prompts = build(Settings(path=PATH, prompts=200, shortest=4, longest=8, copies=2), 17)
    assert {len(prompt.ordinals) // 2 for prompt in prompts} == {4, 5, 6, 7, 8}
    ordinals = [ordinal for prompt in prompts for ordinal in prompt.ordinals]
    assert min(ordinals) < 2**31 * 0.01 and max(ordinals) > 2**31 * 0.99


def test_more_prompts_keep_the_first_and_every_prompt_is_its_own():
    few, more = (build(Settings(path=PATH, prompts=n, shortest=9, longest=9, copies=2), 17) for n in (3, 12))
    assert more[:3] == few
    assert len({prompt.ordinals for prompt in more}) == 12
    assert build(Settings(path=PATH, prompts=3, shortest=9, longest=9, copies=2), 18) != few


def test_ordinals_fit_the_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (prompt,) = build(Settings(path=PATH, prompts=1, shortest=60, longest=60, copies=3), 17)
    row = {field: getattr(prompt, field) for field in tables.PROMPTS.names}
    row["relations"] = []
    tables.PROMPTS.write([row], "repeats")
    assert tuple(tables.PROMPTS.read("repeats").ordinals[0]) == prompt.ordinals
