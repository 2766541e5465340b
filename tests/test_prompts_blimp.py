"""Minimal pairs: the grammar keeps its promises (looked up in the raw lexicon), and readers name mistakes."""

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest
import yaml

from stages.store.errors import UserError
from stages.tasks.blimp import grammar as blimp_grammar
from stages.tasks.blimp import prompts as blimp
from stages.tasks.blimp import words as blimp_words
from stages.tasks.blimp.settings import Settings

ROOT = Path(__file__).parents[1]
LEXICON = ROOT / "stages/sources/blimp/lexicon.yaml"
REAL = Path(__file__).parents[2] / "shared/data/blimp"
PHENOMENA = {
    "anaphor_agreement",
    "argument_structure",
    "binding",
    "control_raising",
    "determiner_noun_agreement",
    "ellipsis",
    "filler_gap_dependency",
    "irregular_forms",
    "island_effects",
    "npi_licensing",
    "quantifiers",
    "subject_verb_agreement",
}
# the two sentences have the same words in another order
REORDERED = {
    "adjunct_island",
    "complex_NP_island",
    "coordinate_structure_constraint_complex_left_branch",
    "coordinate_structure_constraint_object_extraction",
    "ellipsis_n_bar_1",
    "existential_there_quantifiers_2",
    "left_branch_island_echo_question",
    "left_branch_island_simple_question",
    "matrix_question_npi_licensor_present",
    "only_npi_scope",
    "principle_A_domain_3",
    "principle_A_reconstruction",
    "sentential_negation_npi_scope",
    "sentential_subject_island",
}
# a relative clause becomes an embedded question, a noun phrase with an adjective loses its noun
REBUILT = {
    "wh_questions_object_gap",
    "wh_questions_subject_gap",
    "wh_questions_subject_gap_long_distance",
    "ellipsis_n_bar_2",
}
# one phrase of up to two words for another: more than / at least, seemed / were eager
PHRASE_CHANGES = {
    "superlative_quantifiers_1",
    "causative",
    "inchoative",
    "drop_argument",
    "intransitive",
    "transitive",
}

PAIRS = 60
real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"the real BLiMP files are not at {REAL}")


def settings(**changes):
    values = {"source": "builtin", "path": str(LEXICON), "pairs": PAIRS, "leading_space": True, "bos": True}
    return Settings(**values | changes)


@pytest.fixture(scope="module")
def prompts():
    return blimp.build(settings(), seed=3)


@pytest.fixture(scope="module")
def pairs(prompts):
    by_paradigm = {}
    for prompt in prompts:
        by_paradigm.setdefault(prompt.condition, []).append(tuple(sentence.strip() for sentence in prompt.targets))
    return by_paradigm


@pytest.fixture(scope="module")
def words():
    return yaml.safe_load(LEXICON.read_text(encoding="utf-8"))


def tokens(sentence):
    return sentence.lower().rstrip(".?").split()


def differences(good, bad):
    good, bad = tokens(good), tokens(bad)
    assert len(good) == len(bad), (good, bad)
    return [(one, other) for one, other in zip(good, bad, strict=True) if one != other]


# The builtin source


def test_every_paradigm_of_all_twelve_phenomena_has_the_pairs_asked_for(prompts):
    counts = Counter(prompt.condition for prompt in prompts)
    assert len(counts) == 67
    assert set(counts.values()) == {PAIRS}
    assert {prompt.category for prompt in prompts} == PHENOMENA


def test_prompts_carry_id_cluster_split_and_targets(prompts):
    first = prompts[0]
    assert first.id == f"blimp/{first.condition}/0000"
    assert first.cluster == first.id and first.text == "" and first.role == "test" and first.bos
    assert len({prompt.id for prompt in prompts}) == len(prompts)
    assert all(len(prompt.targets) == 2 and prompt.split in "ab" for prompt in prompts)


@pytest.mark.parametrize("leading_space", [True, False])
def test_the_leading_space_is_a_choice(leading_space):
    built = blimp.build(settings(pairs=1, leading_space=leading_space, bos=False), seed=3)
    assert all(target.startswith(" ") == leading_space for prompt in built for target in prompt.targets)
    assert not any(prompt.bos for prompt in built)


def test_pairs_are_distinct_and_differ(pairs):
    for uid, drawn in pairs.items():
        assert len({good for good, _ in drawn}) == len(drawn), uid
        assert all(good != bad for good, bad in drawn), uid


def test_sentences_are_spelled_like_sentences(pairs):
    for drawn in pairs.values():
        for sentence in (text for pair in drawn for text in pair):
            assert re.fullmatch(r"[A-Z][A-Za-z' ]*[a-z][.?]", sentence), sentence
            assert "  " not in sentence and not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]", sentence), sentence


def test_the_article_follows_the_sound_where_spelling_misleads():
    words = blimp_words.load(LEXICON)
    sentence = "anna wore a old uniform for a hour, a uniform of a honest man"
    assert blimp_grammar.finish(sentence, words) == "Anna wore an old uniform for an hour, a uniform of an honest man."


def test_the_same_seed_gives_the_same_prompts_and_another_seed_others(prompts):
    assert blimp.build(settings(), seed=3) == prompts
    assert blimp.build(settings(), seed=4) != prompts


def test_more_pairs_begin_with_the_same_ones(pairs):
    for prompt in blimp.build(settings(pairs=7), seed=3):
        assert tuple(text.strip() for text in prompt.targets) == pairs[prompt.condition][int(prompt.id[-4:])]


def test_a_paradigm_does_not_depend_on_the_others(pairs, monkeypatch):
    names = list(blimp_grammar.PARADIGMS)
    random.Random(0).shuffle(names)
    some = {uid: blimp_grammar.PARADIGMS[uid] for uid in names[:11]}
    monkeypatch.setattr(blimp_grammar, "PARADIGMS", some)
    built = blimp.build(settings(), seed=3)
    assert [prompt.condition for prompt in built[::PAIRS]] == sorted(some)
    for uid in some:
        assert [tuple(t.strip() for t in p.targets) for p in built if p.condition == uid] == pairs[uid]


def test_every_paradigm_can_give_two_hundred_pairs():
    words = blimp_words.load(LEXICON)
    assert all(len(blimp_grammar.pairs(uid, words, 0, 200)) == 200 for uid in blimp_grammar.PARADIGMS)


def test_no_word_dominates(prompts, words):
    counts = Counter(word for prompt in prompts for word in tokens(prompt.targets[0]))
    content = [name.lower() for names in words["names"].values() for name in names]
    content += [noun for nouns in (words["people"] | words["things"]).values() for noun in nouns]
    assert all(counts[word] < 0.01 * sum(counts.values()) for word in content)
    assert sum(counts[word] > 0 for word in content) > 0.95 * len(content)


# Minimality


def test_reordering_paradigms_keep_the_words(pairs):
    for uid in REORDERED:
        for good, bad in pairs[uid]:
            assert sorted(tokens(good)) == sorted(tokens(bad)), (uid, good, bad)


def test_the_other_paradigms_change_one_word_or_phrase(pairs):
    for uid in set(pairs) - REORDERED - REBUILT:
        at_most = 2 if uid in PHRASE_CHANGES else 1
        for good, bad in pairs[uid]:
            shared = sum((Counter(tokens(good)) & Counter(tokens(bad))).values())
            assert max(len(tokens(good)), len(tokens(bad))) - shared <= at_most, (uid, good, bad)


def test_rebuilt_paradigms_change_at_most_two_words(pairs):
    for uid in REBUILT:
        for good, bad in pairs[uid]:
            changed = Counter(tokens(good)) - Counter(tokens(bad))
            assert changed.total() <= 2, (uid, good, bad)


# Features, by look-up in the raw lexicon


def plural(noun, words):
    """A naive plural for the words of the lexicon."""
    if noun in words["irregular_plurals"]:
        return words["irregular_plurals"][noun]
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")


def noun_numbers(words):
    """Every noun form -> 0 singular, 1 plural."""
    nouns = [noun for group in ("people", "things") for nouns in words[group].values() for noun in nouns]
    nouns += words["relational"]
    return {form: number for noun in nouns for number, form in enumerate((noun, plural(noun, words)))}


def verb_numbers(words):
    """Every finite present form -> 0 singular, 1 plural; was and were too."""
    numbers = {
        "is": 0,
        "was": 0,
        "has": 0,
        "looks": 0,
        "seems": 0,
        "are": 1,
        "were": 1,
        "have": 1,
        "look": 1,
        "seem": 1,
    }
    numbers |= {f"{verb}n't": number for verb, number in numbers.items()}
    for group in ("strict", "plain", "droppable", "intransitive"):
        for verb in words[group]:
            base, third = verb["forms"].split()[:2]
            numbers |= {base: 1, third: 0}
    return numbers


@pytest.mark.parametrize("paradigm", ["relational_noun", "relative_clause"])
def test_the_verb_agrees_with_the_head_and_not_with_the_distractor(pairs, words, paradigm):
    nouns, verbs = noun_numbers(words), verb_numbers(words)
    heads = Counter()
    for good, bad in pairs[f"distractor_agreement_{paradigm}"]:
        ((right, wrong),) = differences(good, bad)
        position = tokens(good).index(right)
        before = [nouns[word] for word in tokens(good)[:position] if word in nouns]
        head, distractor = before[0], before[-1]
        assert head != distractor, good
        assert verbs[right] == head and verbs[wrong] == distractor, (good, bad)
        heads[head] += 1
    assert min(heads[0], heads[1]) > PAIRS / 4


@pytest.mark.parametrize("kind", ["regular", "irregular"])
def test_subject_and_verb_agree_in_the_good_sentence_only(pairs, words, kind):
    nouns, verbs = noun_numbers(words), verb_numbers(words)
    irregular = set(words["irregular_plurals"]) | set(words["irregular_plurals"].values())
    for uid, changed in ((f"{kind}_plural_subject_verb_agreement_{n}", n) for n in (1, 2)):
        for pair in pairs[uid]:
            (good_noun, good_verb), (bad_noun, bad_verb) = (tokens(sentence)[1:3] for sentence in pair)
            assert nouns[good_noun] == verbs[good_verb], pair
            assert nouns[bad_noun] != verbs[bad_verb], pair
            assert (good_noun == bad_noun) == (changed == 1) and (good_verb == bad_verb) == (changed == 2), pair
            assert (good_noun in irregular) == (kind == "irregular"), pair


def test_no_agreement_pair_turns_on_a_verb_whose_past_is_its_base(words):
    """'The man hurt Anna' is good whatever the number of the subject."""
    lists = (verb for group in ("strict", "plain", "droppable", "intransitive") for verb in words[group])
    unchanging = {forms[0] for verb in lists if (forms := verb["forms"].split())[0] == forms[2]}
    assert "hurt" in unchanging
    for uid in (uid for uid in blimp_grammar.PARADIGMS if re.search("subject_verb|distractor", uid)):
        for pair in blimp_grammar.pairs(uid, blimp_words.load(LEXICON), 0, 400):
            ((right, wrong),) = differences(*pair)
            assert not {right, wrong} & unchanging, pair
            if uid.endswith("agreement_2"):
                assert tokens(pair[0])[2] not in unchanging, pair


def test_determiner_and_noun_agree_in_the_good_sentence_only(pairs, words):
    nouns = noun_numbers(words)
    determiners = {form: number for forms in words["determiners"] for number, form in enumerate(forms)}
    uids = [uid for uid in pairs if uid.startswith("determiner_noun_agreement")]
    assert len(uids) == 8
    for uid in uids:
        for good, bad in pairs[uid]:
            ((right, wrong),) = differences(good, bad)
            assert {right, wrong} <= (nouns.keys() if uid.endswith("_1") else determiners.keys()), (uid, good)
            at = -3 if "_adj" in uid else -2
            assert determiners[tokens(good)[at]] == nouns[tokens(good)[-1]], (uid, good)
            assert determiners[tokens(bad)[at]] != nouns[tokens(bad)[-1]], (uid, bad)


def test_anaphors_agree_in_gender_in_the_good_sentence_only(pairs, words):
    feminine = {word.lower() for group in ("names", "people") for word in words[group]["feminine"]}
    masculine = {word.lower() for group in ("names", "people") for word in words[group]["masculine"]}
    for good, bad in pairs["anaphor_gender_agreement"]:
        ((right, wrong),) = differences(good, bad)
        subject = tokens(good)[1] if good.startswith("The ") else tokens(good)[0]
        assert subject in (feminine if right == "herself" else masculine), good
        assert {right, wrong} == {"herself", "himself"}, good


def test_no_bad_verb_can_be_read_as_good(words):
    """Strict verbs have no object-free twin in the lists that are used without an object."""
    base = {
        group: {verb["forms"].split()[0] for verb in words[group]} for group in words if "forms" in str(words[group])
    }
    for free in ("droppable", "intransitive", "unaccusative", "alternating"):
        assert not base["strict"] & base[free]
    assert not base["alternating"] & base["unaccusative"]
    assert not base["object_raising"] & base["object_control"] and not base["subject_raising"] & base["subject_control"]


AUXILIARY = "(did|had|might|will|could|should|would)"
SHAPES = {  # of the good and of the bad sentence
    "only_npi_licensor_present": (r"Only .* ever .*", r"Even .* ever .*"),
    "wh_vs_that_with_gap": (r".* wh(o|at) the .*", r".* that the .*"),
    "existential_there_quantifiers_1": (
        r"There \w+ (a|one|no|many|some|few|several|two) .*",
        r"There \w+ (each|every|most|all) .*",
    ),
    "superlative_quantifiers_2": (
        r"(Every|Each|The|This|That) .* at (least|most) .*",
        r"No .* at (least|most) .*",
    ),
    "matrix_question_npi_licensor_present": (r"\w+ .* ever .*\?", r".* ever .*\."),
    "left_branch_island_simple_question": (
        rf"(Which|Whose) \w+ {AUXILIARY} .*\?",
        rf"(Which|Whose) {AUXILIARY} .* \w+\?",
    ),
}


@pytest.mark.parametrize("uid", SHAPES)
def test_constructions_have_their_shape(pairs, uid):
    good, bad = SHAPES[uid]
    for pair in pairs[uid]:
        assert re.fullmatch(good, pair[0]) and re.fullmatch(bad, pair[1]), pair


# A lexicon with mistakes


def broken(tmp_path, words, **changes):
    path = tmp_path / "lexicon.yaml"
    path.write_text(yaml.safe_dump(words | changes), encoding="utf-8")
    return settings(path=str(path), pairs=5)


def test_a_lexicon_too_small_for_the_pairs_names_the_paradigm(tmp_path, words, monkeypatch):
    monkeypatch.setattr(blimp_grammar, "PARADIGMS", {"inchoative": blimp_grammar.PARADIGMS["inchoative"]})
    tiny = broken(tmp_path, words, alternating=words["alternating"][:2])
    assert len(blimp.build(tiny, seed=0)) == 5
    with pytest.raises(UserError, match=r"tasks\.blimp\.pairs: 9000; the lexicon gives inchoative only \d+ distinct"):
        blimp.build(tiny.model_copy(update={"pairs": 9000}), seed=0)


def test_mistakes_in_a_lexicon_are_named(tmp_path, words):
    cases = {
        r"nouns = .*: Extra inputs": {"nouns": ["cat"]},
        r"strict\.0 = .*expected forms: base, third person": {"strict": [{"forms": "see saw seen"}, *words["strict"]]},
        r"names: no \['feminine'\]": {"names": {"masculine": words["names"]["masculine"]}},
        r"greet: objects \['peple'\]; expected some of": {
            "strict": [{"forms": "greet greets greeted greeted greeting", "objects": ["peple"]}, *words["strict"]]
        },
    }
    for message, changes in cases.items():
        with pytest.raises(UserError, match=message) as error:
            blimp.build(broken(tmp_path, words, **changes), seed=0)
        assert "lexicon.yaml" in str(error.value)


def test_a_missing_lexicon_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml: no such file"):
        blimp.build(settings(path=str(tmp_path / "none.yaml")), seed=0)


# The path source


def record(**changes):
    values = {"sentence_good": "Anna sleeps.", "sentence_bad": "Anna sleep.", "linguistics_term": "binding"}
    return values | {"UID": "some_paradigm", "pairID": "0"} | changes


def write(path, *lines):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))


def folder(tmp_path, pairs=10, **changes):
    return settings(source="path", path=str(tmp_path), pairs=pairs, **changes)


def test_a_folder_gives_the_first_pairs_of_every_file(tmp_path):
    write(
        tmp_path / "b.jsonl",
        *(record(UID="b", pairID=str(n), linguistics_term="s-selection", sentence_good=f"Bo {n}.") for n in range(5)),
    )
    write(tmp_path / "a.jsonl", *(record(UID="a", pairID=n, sentence_good=f"Anna sleeps {n}.") for n in range(5)))
    built = blimp.build(folder(tmp_path, pairs=2), seed=0)
    assert [prompt.id for prompt in built] == ["blimp/a/0000", "blimp/a/0001", "blimp/b/0000", "blimp/b/0001"]
    assert built[1].targets == (" Anna sleeps 1.", " Anna sleep.")
    assert [prompt.category for prompt in built] == ["binding"] * 2 + ["argument_structure"] * 2


def test_two_equal_sentences_are_no_pair(tmp_path):
    same = record(pairID="0", sentence_bad="Anna sleeps.")
    spaced = record(pairID="1", sentence_bad="Anna  sleeps.")
    write(tmp_path / "a.jsonl", same, spaced, *(record(pairID=str(n), sentence_bad=f"{n}.") for n in (2, 3, 4)))
    assert [prompt.id[-4:] for prompt in blimp.build(folder(tmp_path, pairs=2), seed=0)] == ["0002", "0003"]


def test_a_pair_that_stands_twice_is_asked_once_as_it_lies_in_one_split(tmp_path):
    write(tmp_path / "a.jsonl", *(record(pairID=str(n)) for n in range(4)), record(pairID="9", sentence_bad="x"))
    assert [prompt.id[-4:] for prompt in blimp.build(folder(tmp_path, pairs=5), seed=0)] == ["0000", "0009"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", r"a\.jsonl:2: not JSON"),
        ("[1, 2]", r"a\.jsonl:2: a list, not an object; expected the keys sentence_good"),
        (
            json.dumps({"sentence_good": "x", "UID": "u", "pairID": "1"}),
            r"a\.jsonl:2: no sentence_bad, linguistics_term;",
        ),
        (json.dumps(record(sentence_bad=3)), r"a\.jsonl:2: sentence_bad: 3; expected text"),
        (json.dumps(record(sentence_bad=" x")), r"a\.jsonl:2: sentence_bad: ' x'; expected text on one line, no white"),
        (json.dumps(record(sentence_good="a\nb")), r"sentence_good: 'a\\nb'; expected text on one line"),
        (json.dumps(record(sentence_good="\u200b")), r"sentence_good: '\\u200b'; expected text on one line"),
        (json.dumps(record(pairID="one")), r"a\.jsonl:2: pairID: 'one'; expected a whole number"),
        (json.dumps(record(linguistics_term="All")), r"a\.jsonl:2: linguistics_term: 'All'; expected another name"),
        (json.dumps(record(linguistics_term="!!")), r"a\.jsonl:2: linguistics_term: '!!'; expected another name"),
        (json.dumps(record(UID="a/b")), r"a\.jsonl:2: UID: 'a/b'; expected a name"),
        (json.dumps(record(pairID="0", sentence_bad="x")), r"UID some_paradigm with pairID 0 occurs twice"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    write(tmp_path / "a.jsonl", record(), line)
    with pytest.raises(UserError, match=message):
        blimp.build(folder(tmp_path), seed=0)


def test_a_line_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(json.dumps(record()).encode() + b"\n\n\xff\xfe\n")
    with pytest.raises(UserError, match=r"a\.jsonl:3: not UTF-8 text"):
        blimp.build(folder(tmp_path), seed=0)


def test_an_empty_or_missing_folder_is_named(tmp_path):
    for path, lacks in ((tmp_path, r"no \*\.jsonl here"), (tmp_path / "nowhere", "no such file or folder")):
        with pytest.raises(UserError, match=rf"{path}: {lacks}; expected a folder of BLiMP's"):
            blimp.build(folder(path), seed=0)


# The hub source


def test_the_hub_needs_a_pinned_revision():
    for revision in ("", "main", "0123abc"):
        with pytest.raises(UserError, match=rf"tasks\.blimp\.revision: '{revision}'; .* 40 hex digits"):
            blimp.build(settings(source="hub", revision=revision), seed=0)


def test_the_hub_gives_the_same_prompts_as_the_files(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    revision = "0123456789" * 4
    rows = [record(UID="a", pairID=str(n), sentence_good=f"Anna sleeps {n}.") for n in range(4)]
    write(tmp_path / "a.jsonl", *rows)
    hub_rows = [{key: value for key, value in row.items() if key != "pairID"} | {"pair_id": n, "field": "syntax"}
                for n, row in enumerate(rows)]  # fmt: skip

    def load(name, config, *, revision, split):
        assert (name, config, split) == ("nyu-mll/blimp", "a", "train") and len(revision) == 40
        return datasets.Dataset.from_list(hub_rows)

    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name, *, revision: ["a"])
    monkeypatch.setattr(datasets, "load_dataset", load)
    built = blimp.build(settings(source="hub", revision=revision, pairs=3), seed=0)
    assert built == blimp.build(folder(tmp_path, pairs=3), seed=0) and len(built) == 3


def test_an_unreachable_hub_is_a_users_error(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def unreachable(name, *, revision):
        raise ConnectionError("Couldn't reach\nthe Hub")

    monkeypatch.setattr(datasets, "get_dataset_config_names", unreachable)
    with pytest.raises(UserError, match=r"tasks\.blimp\.hub: nyu-mll/blimp at f{40} .*Couldn't reach the Hub"):
        blimp.build(settings(source="hub", revision="f" * 40), seed=0)


# The real files


@real_data
def test_the_real_files_have_67_paradigms_of_the_same_names_and_phenomena(prompts):
    real = blimp.build(settings(source="path", path=str(REAL), pairs=3), seed=0)
    assert len(real) == 67 * 3
    assert {prompt.category for prompt in real} == PHENOMENA
    assert {(prompt.condition, prompt.category) for prompt in real} == {
        (prompt.condition, prompt.category) for prompt in prompts
    }


@real_data
def test_builtin_sentences_are_not_blimps(prompts):
    real = blimp.build(settings(source="path", path=str(REAL), pairs=500), seed=0)
    shared = {prompt.targets for prompt in real} & {prompt.targets for prompt in prompts}
    assert len(shared) <= 0.001 * len(prompts), shared
