"""Task facts: subjects asked in several ways, invented names that are no words, two splits, facts of the user's own."""

import json
from pathlib import Path

import pytest
import yaml

from stages import tasks
from stages.store.errors import UserError
from stages.tasks.facts.settings import Settings

ROOT = Path(__file__).parents[1]
SECTION = yaml.safe_load((ROOT / "tests/params.yaml").read_text(encoding="utf-8"))["tasks"]["facts"]


def build(**changes) -> list:
    section = SECTION | {"path": str(ROOT / SECTION["path"])} | changes
    return tasks.of("facts").build(Settings(**section), seed=17)


def word(prompt) -> str:
    (span,) = prompt.relations
    whole = prompt.text + prompt.targets[0]
    assert whole[span.query_start : span.query_end] == prompt.targets[0].strip()
    return whole[span.key_start : span.key_end]


def test_every_subject_is_asked_in_every_way_and_in_one_split():
    prompts = build()
    of_subject: dict[str, list] = {}
    for prompt in prompts:
        assert prompt.cluster == f"{prompt.condition}/{word(prompt)}"
        of_subject.setdefault(prompt.cluster, []).append(prompt)
    assert len({p.id for p in prompts}) == len(prompts)
    for asked in of_subject.values():
        assert len({p.split for p in asked}) == len({p.targets for p in asked}) == 1
        roles = {p.role for p in asked}
        whole = {"main", *(f"{kind}-{n}" for kind in ("prefixed", "paraphrase", "shown") for n in (0, 1))}
        assert roles == (whole if asked[0].condition == "capital" else {"main"})
    for split in "ab":
        inside = [p for p in prompts if p.split == split and p.role == "main"]
        assert sum(p.category == "known" for p in inside) >= 20 <= sum(p.category == "invented" for p in inside)


def test_demonstrations_show_nothing_that_is_asked():
    prompts = build()
    subjects = {word(p) for p in prompts if p.condition == "capital"}
    shown = [p for p in prompts if p.role.startswith("shown")]
    for p in shown:
        assert p.text.count("Country:") == SECTION["shots"] + 1
        context = {line.removeprefix("Country: ") for line in p.text.split("\n") if line.startswith("Country:")}
        assert context & subjects == {word(p)}
    first, second = (next(p.text for p in shown if p.role == f"shown-{n}").split("\n")[0] for n in (0, 1))
    assert first != second


def test_invented_names_are_no_words_and_get_the_object_of_another():
    prompts = [p for p in build() if p.role == "main"]
    known = {word(p): p.targets[0] for p in prompts if p.category in ("known", "rare")}
    text = (ROOT / "stages/sources/words").glob("*")
    real = {part for file in text for part in file.read_text(encoding="utf-8").lower().replace(",", " ").split()}
    invented = [p for p in prompts if p.category == "invented"]
    assert not {word(p).lower() for p in invented} & real and not {word(p) for p in invented} & set(known)
    assert len({p.targets for p in invented}) > 20


def test_more_subjects_leave_the_first_ones_as_they_are():
    few, many = build(known=4, invented=4, rare=4, words=4), build()
    assert {p.id: p for p in few}.items() <= {p.id: p for p in many}.items()


def test_facts_of_the_users_own(tmp_path):
    path = tmp_path / "facts.jsonl"
    facts = [
        {"subject": f"S{n}", "object": f"O{n}", "templates": ["{x} was made by", "Who made {x}?"]} for n in range(9)
    ]
    path.write_text("\n".join(map(json.dumps, facts)), encoding="utf-8")
    prompts = build(source="path", path=str(path), shots=2)
    known = [p for p in prompts if p.category == "known"]
    assert {p.category for p in prompts} == {"known", "invented"} and len({p.cluster for p in known}) == 5
    assert {p.role for p in known} == {"main", "prefixed-0", "prefixed-1", "paraphrase-0", "shown-0", "shown-1"}
    with pytest.raises(UserError, match="fewer than 4 are left to ask"):
        build(source="path", path=str(path), shots=4)
    path.write_text('{"subject": "S"}\n', encoding="utf-8")
    with pytest.raises(UserError, match=r"facts.jsonl:1: .* expected facts"):
        build(source="path", path=str(path))
    with pytest.raises(UserError, match="no such file"):
        build(source="path", path=str(tmp_path / "none"))
