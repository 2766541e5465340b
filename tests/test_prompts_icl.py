"""In-context prompts: the lexicon is right, labels are deranged by value, items are disjoint, more keeps the first."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stages.store.errors import UserError
from stages.tasks.icl.pairs import Frame
from stages.tasks.icl.prompts import build, derangement, natural_text, query_rows
from stages.tasks.icl.settings import Settings

ROOT = Path(__file__).parents[1]
LEXICON = ROOT / "stages/sources/words/functions.yaml"
TODD = Path(__file__).parents[2] / "shared/data/todd_icl"
FUNCTIONS = {
    "country-capital": "knowledge",
    "english-spanish": "translation",
    "antonym": "involution",
    "present-past": "linguistic",
    "singular-plural": "linguistic",
    "comparative": "linguistic",
    "capitalize": "form",
    "lowercase": "form",
    "first_letter": "form",
    "successor": "order",
}


def settings(**changed) -> Settings:
    """Return the settings of params.yaml without natural text, some changed, with a full path."""
    content = yaml.safe_load((ROOT / "tests/params.yaml").read_text(encoding="utf-8"))["tasks"]["icl"]
    return Settings(**{**content, "natural": (), "path": str(LEXICON), **changed})


def lexicon() -> dict[str, list[tuple[str, str]]]:
    """Read the pairs of every function as they stand in the file."""
    content = yaml.safe_load(LEXICON.read_text(encoding="utf-8"))
    return {name: [tuple(pair) for pair in function["pairs"]] for name, function in content.items()}


def shown(text: str) -> list[tuple[str, str]]:
    """Parse the demonstrations of a prompt, independently of the module."""
    blocks = [block.split("\n") for block in text.split("\n\n")[:-1]]
    return [(x.removeprefix("Q: "), y.removeprefix("A: ")) for x, y in blocks]


def question(text: str) -> str:
    """Parse the query of a prompt."""
    last = text.split("\n\n")[-1]
    assert last.startswith("Q: ") and last.endswith("\nA:")
    return last.removeprefix("Q: ").removesuffix("\nA:")


def write(folder: Path, **functions) -> str:
    """Write Todd-style files."""
    for name, pairs in functions.items():
        rows = [{"input": x, "output": y} for x, y in pairs]
        (folder / f"{name}.json").write_text(json.dumps(rows), encoding="utf-8")
    return str(folder)


def numbered(count: int, labels: int | None = None) -> list[tuple[str, str]]:
    """Return pairs in0 -> out0, in1 -> out1 ..., with that many different labels."""
    return [(f"in{n}", f"out{n % (labels or count)}") for n in range(count)]


def test_natural_texts_take_turns_and_change_no_other_prompt():
    plain, texts = build(settings(), 17), tuple(f"{number} {{x}} is" for number in range(5))
    more = build(settings(natural=texts), 17)
    natural = [prompt for prompt in more if prompt.role == "natural"]
    assert [prompt for prompt in more if prompt.role != "natural"] == plain
    asked = {prompt.id: prompt for prompt in plain if prompt.role == "zero_shot"}
    for prompt in natural:
        same = asked[prompt.id.replace("#natural", "#zero_shot")]
        assert (prompt.condition, prompt.cluster, prompt.split) == (same.condition, same.cluster, same.split)
        assert prompt.text[2:] == f"{question(same.text)} is" and prompt.targets == same.targets
        assert natural_text(prompt.id, settings(natural=texts)) == f"{prompt.text[0]} {{x}} is"
    counts = Counter(prompt.text[0] for prompt in natural if prompt.split == "b" and prompt.condition == "antonym")
    assert len(counts) == 5 and max(counts.values()) - min(counts.values()) <= 1
    with pytest.raises(ValueError, match="'no slot' must contain"):
        settings(natural=("no slot",))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_lexicon_has_enough_distinct_trimmed_pairs(name):
    pairs = lexicon()[name]
    assert len(pairs) >= 64
    assert len({x for x, _ in pairs}) == len(pairs)
    assert all(text and text == text.strip() for pair in pairs for text in pair)
    assert all(x != y for x, y in pairs)
    if name != "first_letter":
        assert len({y for _, y in pairs}) == len(pairs)


def test_lexicon_has_these_functions_and_kinds():
    content = yaml.safe_load(LEXICON.read_text(encoding="utf-8"))
    assert {name: function["kind"] for name, function in content.items()} == FUNCTIONS


def test_forms_follow_the_string_methods():
    pairs = lexicon()
    assert all(y == x.capitalize() and x.islower() for x, y in pairs["capitalize"])
    assert all(y == x.lower() and x in (y.upper(), y.capitalize()) for x, y in pairs["lowercase"])
    assert all(y == x[0] and x.islower() and x.isalpha() for x, y in pairs["first_letter"])


def test_successor_digits_and_letters_count_up_and_names_come_round():
    pairs = lexicon()["successor"]
    assert all(int(y) == int(x) + 1 for x, y in pairs if x.isdigit())
    assert all(ord(y) == ord(x) + 1 for x, y in pairs if len(x) == 1 and x.isalpha())
    step = dict(pairs)
    for start, period in (("Monday", 7), ("January", 12)):
        seen = [start]
        while step[seen[-1]] != start:
            seen.append(step[seen[-1]])
        assert len(seen) == period and all(word[0].isupper() for word in seen)


def test_no_antonym_gives_another_away_backwards():
    pairs = lexicon()["antonym"]
    assert not {x for x, _ in pairs} & {y for _, y in pairs}


@pytest.mark.parametrize("ending, rest", [("comparative", "er"), ("singular-plural", "s"), ("present-past", "ed")])
def test_regular_forms_are_the_rule_and_irregular_ones_exist(ending, rest):
    irregular = [x for x, y in lexicon()[ending] if not y.endswith(rest)]
    assert irregular and len(irregular) < 64


@given(labels=st.lists(st.sampled_from("abcdefgh"), min_size=2, max_size=14), seed=st.integers(0, 99))
def test_derangement_moves_every_label_to_another_value_or_is_impossible(labels, seed):
    rng = np.random.default_rng(seed)
    if 2 * max(Counter(labels).values()) > len(labels):
        with pytest.raises(ValueError, match="no derangement"):
            derangement(labels, rng)
    else:
        source = derangement(labels, rng)
        assert sorted(source) == list(range(len(labels)))
        assert all(labels[s] != label for s, label in zip(source, labels, strict=True))


@given(pool=st.integers(1, 40), sets=st.integers(1, 8), queries=st.integers(1, 40))
def test_queries_of_all_sets_differ_as_long_as_items_last(pool, sets, queries):
    rows = query_rows(np.arange(pool), sets)
    assert all(sorted(row) == list(range(pool)) for row in rows)
    asked = [item for row in rows for item in row[:queries]]
    if sets * queries <= pool:
        assert len(set(asked)) == len(asked)
    elif queries <= pool:
        assert len(set(asked)) > pool // 2


def test_triples_share_stem_answer_and_query():
    prompts = build(settings(), 17)
    assert len(prompts) == 10 * 6 * 8 * 3
    assert len({prompt.id for prompt in prompts}) == len(prompts)
    pairs = lexicon()
    for clean, shuffled, zero in zip(prompts[::3], prompts[1::3], prompts[2::3], strict=True):
        assert [p.role for p in (clean, shuffled, zero)] == ["clean", "shuffled", "zero_shot"]
        assert len({p.id.split("#")[0] for p in (clean, shuffled, zero)}) == 1
        assert len({(p.targets, p.split, p.condition, question(p.text)) for p in (clean, shuffled, zero)}) == 1
        assert clean.cluster == shuffled.cluster and zero.cluster == question(zero.text)
        assert all(
            p.id.endswith("#" + p.role) and p.category == FUNCTIONS[p.condition] for p in (clean, shuffled, zero)
        )
        table = dict(pairs[clean.condition])
        assert clean.targets == (" " + table[question(clean.text)],)
        true, false = shown(clean.text), shown(shuffled.text)
        assert len({x for x, _ in true}) == 10 and all(table[x] == y for x, y in true)
        assert [x for x, _ in true] == [x for x, _ in false]
        assert sorted(y for _, y in true) == sorted(y for _, y in false)
        assert all(y != other for (_, y), (_, other) in zip(true, false, strict=True))
        assert shown(zero.text) == []


def test_demonstrations_and_questions_are_disjoint_and_sets_share_prefixes():
    prompts = build(settings(), 17)
    for name in FUNCTIONS:
        own = [p for p in prompts if p.condition == name]
        assert not {x for p in own for x, _ in shown(p.text)} & {question(p.text) for p in own}
        for role in ("clean", "shuffled"):
            prefixes = {(p.cluster, p.text.rpartition("Q: ")[0]) for p in own if p.role == role}
            assert len(prefixes) == settings().sets
        asked = {split: {question(p.text) for p in own if p.split == split} for split in "ab"}
        assert asked["a"] and asked["b"] and not asked["a"] & asked["b"]
        assert len({shown(p.text)[0] for p in own if p.role == "clean"}) > 1


def test_more_sets_queries_and_functions_keep_the_first_prompts():
    few = build(settings(functions=("antonym", "first_letter"), sets=2, queries=3), 17)
    more = {prompt.id: prompt for prompt in build(settings(sets=7, queries=12), 17)}
    assert all(more[prompt.id] == prompt for prompt in few)
    assert few == build(settings(functions=("antonym", "first_letter"), sets=2, queries=3), 17)


def test_seed_changes_prompts():
    assert build(settings(functions=("antonym",)), 17) != build(settings(functions=("antonym",)), 18)


def test_template_decides_white_space_and_leaves_braces_alone(tmp_path):
    path = write(tmp_path, f=[(f"{{y}}{n}", f"{{x}}{n}") for n in range(8)])
    made = build(settings(source="path", path=path, shots=2, sets=2, queries=1, template="{{x} ->\t{y}}; "), 1)
    assert made[0].targets[0].startswith("\t{x}")
    assert made[2].text.startswith("{{y}") and made[2].text.endswith(" ->")
    assert made[0].text.count("}; ") == 2


def test_rare_labels_are_chosen_where_one_label_fills_the_data(tmp_path):
    path = write(tmp_path, skewed=[(f"in{n}", "same" if n % 3 else f"out{n}") for n in range(60)])
    for prompt in build(settings(source="path", path=path, shots=8, queries=2), 3):
        if prompt.role == "shuffled":
            assert max(Counter(y for _, y in shown(prompt.text)).values()) <= 4


def test_todd_data_of_the_paper():
    if not TODD.is_dir():
        pytest.skip(f"no real data at {TODD}")
    prompts = build(settings(source="path", path=str(TODD), functions=()), 17)
    names = {file.stem for file in TODD.glob("*.json")}
    assert {p.condition for p in prompts} == names and len(prompts) == len(names) * 6 * 8 * 3
    for name in sorted(names):
        table: dict[str, str] = {}
        for row in json.loads((TODD / f"{name}.json").read_text(encoding="utf-8")):
            table.setdefault(row["input"].strip(), row["output"].strip())
        own = [p for p in prompts if p.condition == name and p.role == "clean"]
        assert all(p.targets == (" " + table[question(p.text)],) for p in own)


def test_repeated_inputs_keep_the_first(tmp_path):
    path = write(tmp_path, f=[*numbered(8), *((x, "second") for x, _ in numbered(8))])
    made = build(settings(source="path", path=path, shots=4, sets=2, queries=2), 1)
    assert "second" not in "".join(p.text + p.targets[0] for p in made)


@pytest.mark.parametrize(
    "content, says",
    [
        ("[{", "f.json: not JSON .* line 1"),
        ('{"input": "a"}', "f.json: .* expected a folder of <function>.json, each a list"),
        ('[{"input": "a", "output": "b"}, {"input": "c"}]', "f.json: f, item 1 = .*'output' must be text"),
        ('[{"input": "a", "output": 3}]', "f.json: f, item 0 = .*must be text"),
        ('[["a", "b"]]', "f.json: f, item 0 = "),
        ("[7]", "f.json: f, item 0 = 7"),
        ("[]", "f: 0 distinct items"),
    ],
)
def test_bad_files_are_user_errors(tmp_path, content, says):
    (tmp_path / "f.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=says):
        build(settings(source="path", path=str(tmp_path)), 1)


@pytest.mark.parametrize(
    "content, says",
    [
        ("a: [", "not YAML"),
        ("- a", "expected <function>"),
        ("f: {kind: form}", "expected <function>"),
        ("f: {kind: form, pairs: [[one, 2]]}", r"f, item 0 = \['one', 2\]"),
        ("f: {kind: form, pairs: [on]}", "f, item 0 = 'on'"),
    ],
)
def test_bad_lexicons_are_user_errors(tmp_path, content, says):
    path = tmp_path / "own.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=says):
        build(settings(path=str(path)), 1)


@pytest.mark.parametrize(
    "template, x, y, fits",
    [
        ("Q: {x}\nA: {y}\n\n", "Q: up", "down", True),
        ("{x} -> {y}\n", "New York", "US", True),
        ("{x} {y}\n", "up", "down", True),
        ("{x} {y}\n", "New York", "US", False),
        ("{x}, {y}; ", "a", "b; c", False),
    ],
)
def test_a_pair_is_read_back_from_its_prompt_or_refused(tmp_path, template, x, y, fits):
    """What `shifts` reads back: every pair shown, and the word that is asked about."""
    rows = [(f"{x}{n}", f"{y}{n}") for n in range(12)]
    asked = settings(source="path", path=write(tmp_path, f=rows), shots=3, sets=2, queries=2, template=template)
    if not fits:
        with pytest.raises(UserError, match=r"f: \(.*nothing tells where input and answer end; expected another"):
            build(asked, 1)
        return
    frame = Frame(template)
    for prompt in build(asked, 1):
        if prompt.role in ("clean", "zero_shot"):
            assert (frame.word(prompt.text), prompt.targets[0].strip()) in rows
            assert frame.instead(prompt.text, "Z").endswith(frame.question("Z"))
            shown = frame.shown(prompt.text)
            assert len(shown) == (3 if prompt.role == "clean" else 0) and set(shown) <= set(rows)


@pytest.mark.parametrize("bad", ["a\nb", "\u200b", " \ufeff "])
def test_what_is_no_line_of_text_is_no_word(tmp_path, bad):
    with pytest.raises(UserError, match=r"f, item 8 = .* must be text on one line that can be seen"):
        build(settings(source="path", path=write(tmp_path, f=[*numbered(8), (bad, "y")])), 1)


def test_missing_places_and_unknown_functions_are_user_errors(tmp_path):
    with pytest.raises(UserError, match=r"no \*\.json here; expected a folder of <function>\.json"):
        build(settings(source="path", path=str(tmp_path)), 1)
    with pytest.raises(UserError, match=r"absent.yaml: no such file"):
        build(settings(path=str(tmp_path / "absent.yaml")), 1)
    with pytest.raises(UserError, match=r"tasks.icl.functions = 'synonim': not in .*allowed: country-capital, "):
        build(settings(functions=("synonim",)), 1)
    with pytest.raises(ValueError, match=r"template\n.*must come before"):
        build(settings(template="{y} {x}"), 1)


def test_too_few_items_are_user_errors(tmp_path):
    path = write(tmp_path, small=numbered(12))
    with pytest.raises(UserError, match=r"small: 12 distinct items, 6 of them demonstrations, 6 fit .*shots = 10"):
        build(settings(source="path", path=path, queries=2), 1)
    with pytest.raises(
        UserError, match=r"small: 12 distinct items, 3 of them questions of a split; tasks.icl.queries = 7"
    ):
        build(settings(source="path", path=path, shots=2, queries=7), 1)
    one = tmp_path / "one"
    one.mkdir()
    with pytest.raises(UserError, match=r"constant: 40 distinct items, 20 of them demonstrations, 2 fit"):
        build(settings(source="path", path=write(one, constant=numbered(40, labels=1)), shots=4, queries=2), 1)
