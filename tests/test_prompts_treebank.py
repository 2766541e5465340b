"""Treebank prompts: the grammar's trees are Universal Dependencies, no fixed offset wins, files align or are named."""

import logging
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from stages.store.errors import UserError
from stages.tasks.treebank import grammar as treebank_grammar
from stages.tasks.treebank import prompts as treebank
from stages.tasks.treebank.settings import Settings
from stages.tasks.treebank.tree import Sentence, Tree, Word, place, spell

ROOT = Path(__file__).parents[1]
LEXICON = ROOT / "stages/sources/treebank/lexicon.yaml"
REAL = Path(__file__).parents[2] / "shared/data/ud/EWT"
real_data = pytest.mark.skipif(not REAL.is_dir(), reason=f"the real treebank files are not at {REAL}")
LABELS = (
    "nsubj obj det amod case obl nmod nmod:poss advmod aux aux:pass nsubj:pass cop mark conj cc xcomp ccomp acl:relcl "
    "advcl compound iobj nummod"
).split()
SEED = yaml.safe_load((ROOT / "tests/params.yaml").read_text())["seed"]


def settings(**changed) -> Settings:
    """Return the settings of params.yaml, some changed."""
    content = yaml.safe_load((ROOT / "tests/params.yaml").read_text(encoding="utf-8"))["tasks"]["treebank"]
    sizes = {"sentences": 300, "shortest": 5, "longest": 25}
    return Settings(**{**content, "path": str(LEXICON), **sizes, **changed})


def read(prompt):
    """Return the words of a prompt and its arcs as (dependent, label, head), both by index."""
    spans = [(span.query_start, span.query_end) for span in prompt.relations if span.name == "word"]
    index = {span: number for number, span in enumerate(spans)}
    arcs = []
    for span in prompt.relations:
        if found := re.fullmatch("grammar:(.*):dep-to-head", span.name):
            query, key = (span.query_start, span.query_end), (span.key_start, span.key_end)
            arcs.append((index[query], found[1], index[key]))
    return [prompt.text[start:end] for start, end in spans], arcs


@pytest.fixture(scope="module")
def prompts():
    return treebank.build(settings(), SEED)


# The built-in grammar


def test_prompts_are_distinct_sentences_of_the_asked_length(prompts):
    assert len(prompts) == len({prompt.id for prompt in prompts}) == len({prompt.text for prompt in prompts}) == 300
    for prompt in prompts:
        words, _ = read(prompt)
        assert 5 <= len(words) <= 25
        assert re.fullmatch(r"treebank/[0-9]{4}", prompt.id) and prompt.cluster == prompt.id
        assert re.fullmatch(r"[A-Z][A-Za-z ,']*[a-z]\.", prompt.text) and "  " not in prompt.text, prompt.text
    assert {prompt.condition for prompt in prompts} == set(treebank_grammar.CONSTRUCTIONS)


def test_more_sentences_begin_with_the_same_ones(prompts):
    assert treebank.build(settings(sentences=40), SEED) == prompts[:40]
    assert treebank.build(settings(sentences=40), SEED + 1) != prompts[:40]


def test_words_cover_the_text_and_arcs_make_a_tree(prompts):
    for prompt in prompts:
        words, arcs = read(prompt)
        assert "".join(words) == prompt.text.replace(" ", "")
        heads = {dependent: head for dependent, _, head in arcs}
        assert len(arcs) == len(heads) == len(words) - 1
        for word in range(len(words)):
            for _ in words:  # climb
                word = heads.get(word, word)
            assert word not in heads
        back = {
            (span.key_start, span.query_start, span.name.replace("head-to-dep", "dep-to-head"))
            for span in prompt.relations
            if span.name.endswith(":head-to-dep")
        }
        assert back == {
            (span.query_start, span.key_start, span.name)
            for span in prompt.relations
            if span.name.endswith(":dep-to-head")
        }


def test_trees_are_projective(prompts):
    for prompt in prompts:
        _, arcs = read(prompt)
        ends = [sorted((dependent, head)) for dependent, _, head in arcs]
        assert not any(a < c < b < d for a, b in ends for c, d in ends), prompt.text


def test_every_label_is_measurable_on_both_splits(prompts):
    counts = Counter((label, prompt.split) for prompt in prompts for _, label, _ in read(prompt)[1])
    few = {(label, split): counts[label, split] for label in LABELS for split in "ab" if counts[label, split] < 20}
    assert not few


def test_labels_keep_to_universal_dependencies(prompts):
    for prompt in prompts:
        words, arcs = read(prompt)
        labels = {dependent: label for dependent, label, _ in arcs}
        heads = {dependent: head for dependent, _, head in arcs}
        for dependent, label, head in arcs:
            if label in ("det", "case", "cop", "aux", "aux:pass", "mark", "cc", "punct"):
                assert dependent not in heads.values(), (prompt.text, label)  # function words are leaves
            if label in ("det", "amod", "nummod", "aux", "aux:pass", "cop", "mark", "cc", "compound", "nmod:poss"):
                assert dependent < head, (prompt.text, label)
            if label in ("conj", "acl:relcl", "nmod", "iobj", "ccomp", "xcomp", "obl:agent", "compound:prt"):
                assert head < dependent, (prompt.text, label)
        children = defaultdict(list)
        for dependent, label, head in arcs:
            children[head].append((label, words[dependent].lower()))
        for head, below in children.items():
            names = Counter(label for label, _ in below)
            once = ("nsubj", "nsubj:pass", "obj", "iobj", "cop", "det", "ccomp", "xcomp", "mark", "nmod:poss", "expl")
            assert all(names[label] <= 1 for label in once), (prompt.text, words[head])
            assert not (names["nsubj"] and names["nsubj:pass"]) and not (names["det"] and names["nmod:poss"])
            assert bool(names["aux:pass"]) == bool(names["nsubj:pass"]), prompt.text
            assert not names["iobj"] or names["obj"]
        for dependent, label in labels.items():
            case = any(name == "case" for name, _ in children[dependent])
            if label in ("obl", "obl:agent", "nmod"):
                assert case, (prompt.text, words[dependent])
            if label in ("nsubj", "nsubj:pass", "obj", "iobj", "compound"):
                assert not case
            if label == "advcl":
                assert any(name == "mark" for name, _ in children[dependent])
            if label == "conj":
                assert any(name == "cc" for name, _ in children[dependent])


def test_verbs_agree_with_their_subjects(prompts):
    """Across distractors too: a singular subject takes is, was, has, does, a plural one are, were, have, do."""
    forms = {"is": 0, "was": 0, "has": 0, "does": 0, "are": 1, "were": 1, "do": 1}
    checked = 0
    for prompt in prompts:
        words, arcs = read(prompt)
        heads = {dependent: (label, head) for dependent, label, head in arcs}
        below = defaultdict(dict)
        for dependent, label, head in arcs:
            below[head].setdefault(label, dependent)
        for number, word in enumerate(words):
            label, head = heads.get(number, ("", None))
            if word in forms and label in ("aux", "aux:pass", "cop"):
                subject = below[head].get("nsubj", below[head].get("nsubj:pass"))
            elif word in forms and "expl" in below[number]:
                subject = below[number]["nsubj"]
            else:
                continue
            noun = words[subject].lower()
            if noun in ("who", "that", "which"):
                subject = heads[heads[subject][1]][1]  # the noun that the relative clause belongs to
                noun = words[subject].lower()
            plural = "conj" in below[subject] or noun in ("we", "they", "women", "men", "mice", "geese", "shelves")
            plural = plural or (noun not in ("bus", "scarf") and noun.endswith("s") and words[subject][0].islower())
            if noun != "sheep" and words[subject] not in ("Thomas",):
                assert forms[word] == plural, (prompt.text, word, noun)
                checked += 1
    assert checked > 100


def test_a_and_an_follow_the_next_sound(prompts):
    for prompt in prompts:
        for article, following in re.findall(r"\b([Aa]n?) (\w+)", prompt.text):
            vowel = following[0].lower() in "aeiou" and following not in ("university", "useful")
            assert (article.lower() == "an") == vowel, prompt.text


def best_offset(prompts, family, causal=False):
    """Return how often the best fixed distance in words finds the other end of a family's arcs."""
    label, direction = re.fullmatch(r"(.*):(dep-to-head|head-to-dep)", family).groups()
    queries = defaultdict(set)
    for number, prompt in enumerate(prompts):
        for dependent, found, head in read(prompt)[1]:
            query, key = (dependent, head) if direction == "dep-to-head" else (head, dependent)
            if found == label and (key < query or not causal):
                queries[number, query].add(key - query)
    return Counter(offset for offsets in queries.values() for offset in offsets).most_common(1)[0][1] / len(queries)


@pytest.mark.parametrize(
    ("family", "most"),
    {
        "nsubj:dep-to-head": 0.35,
        "nsubj:head-to-dep": 0.35,
        "nsubj:pass:head-to-dep": 0.4,
        "obj:dep-to-head": 0.4,
        "obj:head-to-dep": 0.4,
        "det:dep-to-head": 0.55,
        "det:head-to-dep": 0.55,
        "amod:dep-to-head": 0.65,
        "case:dep-to-head": 0.5,
        "case:head-to-dep": 0.5,
        "obl:dep-to-head": 0.3,
        "nmod:dep-to-head": 0.5,
        "nmod:poss:dep-to-head": 0.5,
        "mark:dep-to-head": 0.5,
        "cop:dep-to-head": 0.6,
        "acl:relcl:dep-to-head": 0.4,
        "advcl:dep-to-head": 0.3,
        "ccomp:dep-to-head": 0.4,
        "xcomp:dep-to-head": 0.5,
    }.items(),
)
def test_no_fixed_offset_finds_the_other_end(prompts, family, most):
    assert best_offset(prompts, family) <= most


@pytest.mark.parametrize(
    ("family", "most"), [("obj:dep-to-head", 0.4), ("nsubj:head-to-dep", 0.4), ("det:head-to-dep", 0.55)]
)
def test_nor_where_only_earlier_words_are_visible(prompts, family, most):
    assert best_offset(prompts, family, causal=True) <= most


def test_a_length_that_the_grammar_cannot_reach_is_named():
    with pytest.raises(UserError, match=r"tasks\.treebank: .*longest = 2; the grammar found only 0 sentences"):
        treebank.build(settings(shortest=2, longest=2, sentences=3), seed=0)
    short = treebank.build(settings(shortest=5, longest=8, sentences=15), seed=0)
    assert len(short) == 15 and {len(read(prompt)[0]) for prompt in short} <= {5, 6, 7, 8}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["Anna", " "]}, r"names\.1: a word is empty"),
        ({"colors": ["red"]}, r"colors = .*: Extra inputs"),
        ({"going": [{"forms": "go went"}]}, r"going\.0 = .*expected forms: base, third person"),
        ({"transitive": [{"forms": "a b c d e", "objects": ["moon"]}]}, r"a: objects \['moon'\]; expected some of"),
        ({"nouns": {"person": ["man"]}}, r"nouns: no list for \['business'"),
        ({"attributes": {"person": {"of": ["moon"]}}}, r"attributes of person: \['moon'\]; expected some of"),
    ],
)
def test_mistakes_in_a_lexicon_are_named(tmp_path, change, message):
    path = tmp_path / "lexicon.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(LEXICON.read_text()) | change), encoding="utf-8")
    with pytest.raises(UserError, match=rf"lexicon\.yaml: .*{message}"):
        treebank.build(settings(path=str(path)), seed=0)


def test_a_missing_lexicon_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml: no such file"):
        treebank.build(settings(path=str(tmp_path / "none.yaml")), seed=0)


# Spans


def test_a_tree_is_spelled_with_its_arcs():
    cat = Tree("owl", "obj", left=(Tree("a", "det"),))
    sentence = spell(Tree("saw", left=(Tree("Anna", "nsubj"),), right=(cat, Tree(".", "punct", tight=True))))
    assert sentence.text == "Anna saw an owl."
    assert sentence.words == (
        Word(0, 4, 1, "nsubj"),
        Word(5, 8, None, "root"),
        Word(9, 11, 3, "det"),
        Word(12, 15, 1, "obj"),
        Word(15, 16, 1, "punct"),
    )
    with pytest.raises(ValueError, match="occurs twice"):
        spell(Tree("saw", left=(cat,), right=(cat,)))


FORMS = st.lists(st.text("ab'.,\u00e9\u4e2d", min_size=1, max_size=4), min_size=1, max_size=8)


@given(FORMS, st.data())
def test_forms_are_found_in_any_spacing_of_their_text(forms, data):
    text = "".join(form + data.draw(st.sampled_from(["", " ", "  ", "\u00a0"])) for form in forms)
    assert [text[start:end] for start, end in place(text, forms)] == forms
    assert place(text + "x", forms) is None and place(text, [*forms, "x"]) is None


@st.composite
def sentences(draw):
    size = draw(st.integers(1, 6))
    forms = draw(st.lists(st.text("abc", min_size=1, max_size=3), min_size=size, max_size=size))
    root = draw(st.integers(0, size - 1))
    heads = [
        None if word == root else draw(st.sampled_from([one for one in range(size) if one != word]))
        for word in range(size)
    ]
    text = " ".join(forms)
    spans = place(text, forms)
    return Sentence(text, tuple(Word(*span, head, "dep") for span, head in zip(spans, heads, strict=True)))


@given(sentences())
def test_relations_are_all_words_and_all_arcs_both_ways(sentence):
    spans = sentence.relations()
    words = [span for span in spans if span.name == "word"]
    assert [(word.query_start, word.query_end) for word in words] == [(w.start, w.end) for w in sentence.words]
    assert all((word.key_start, word.key_end) == (word.query_start, word.query_end) for word in words)
    arcs = {(w.start, sentence.words[w.head].start) for w in sentence.words if w.head is not None}
    assert {(s.query_start, s.key_start) for s in spans if s.name == "grammar:dep:dep-to-head"} == arcs
    assert {(s.key_start, s.query_start) for s in spans if s.name == "grammar:dep:head-to-dep"} == arcs
    assert len(spans) == len(words) + 2 * len(arcs)


# CoNLL-U files


def block(*rows, **metadata):
    """Write a sentence: rows are 'id form head deprel [misc]'."""
    lines = [f"# {key} = {value}" for key, value in metadata.items()]
    for row in rows:
        number, form, head, label, misc = (*row.split(), "_")[:5]
        lines.append("\t".join([number, form, "_", "_", "_", "_", head, label, "_", misc]))
    return "\n".join(lines) + "\n\n"


ANNA = ("1 Anna 2 nsubj", "2 sleeps 0 root SpaceAfter=No", "3 . 2 punct")


def folder(path, **changed):
    return settings(source="path", path=str(path), shortest=2, **changed)


def build(tmp_path, *blocks, **changed):
    (tmp_path / "a.conllu").write_text("".join(blocks), encoding="utf-8")
    return treebank.build(folder(tmp_path / "a.conllu", **changed), seed=0)


def test_a_file_gives_words_and_raw_labels(tmp_path):
    rows = ("1 They 3 nsubj:pass", "2 were 3 aux:pass", "3 seen 0 root SpaceAfter=No", "4 ! 3 punct")
    (prompt,) = build(tmp_path, block(*rows, sent_id="doc/1: x", text="They  were seen!"), sentences=1)
    assert prompt.id == prompt.cluster == "treebank/doc_1_x" and prompt.condition == "a"
    assert prompt.text == "They were seen!"
    assert read(prompt) == (
        ["They", "were", "seen", "!"],
        [(0, "nsubj:pass", 2), (1, "aux:pass", 2), (3, "punct", 2)],
    )


def test_text_is_built_from_the_tokens_where_it_is_missing(tmp_path):
    rows = ("1-2 don't _ _", "1 do 3 aux", "2 n't 3 advmod", "3 go 0 root SpaceAfter=No", "3.1 x _ _", "4 . 3 punct")
    (prompt,) = build(tmp_path, block(*rows), sentences=1)
    assert prompt.text == "don't go." and prompt.id == "treebank/a-00001"
    assert read(prompt) == (["do", "n't", "go", "."], [(0, "aux", 2), (1, "advmod", 2), (3, "punct", 2)])


def test_parts_that_do_not_spell_their_token_share_its_place(tmp_path):
    rows = ("1 geht 0 root", "2-3 zum _ _", "2 zu 4 case", "3 dem 4 det", "4 See 1 obl")
    (prompt,) = build(tmp_path, block(*rows, text="geht zum See"), sentences=1)
    assert read(prompt) == (["geht", "zum", "See"], [(1, "case", 2), (1, "det", 2), (2, "obl", 0)])
    rows = ("1-2 gonna _ _", "1 going 0 root", "2 to 1 mark", "3 it 1 obj")
    (prompt,) = build(tmp_path, block(*rows, text="gonna it"), sentences=1)
    assert read(prompt) == (["gonna", "it"], [(1, "obj", 0)])  # the arc within the token is gone


def test_files_are_taken_in_order_by_length_and_each_text_once(tmp_path, caplog):
    long = tuple(
        f"{number} w{number} {0 if number == 1 else 1} {'root' if number == 1 else 'dep'}" for number in range(1, 9)
    )
    (tmp_path / "b.conllu").write_text(block(*ANNA, sent_id="b1") + block(*ANNA[:2], sent_id="b2"))
    (tmp_path / "a.conllu").write_text(block(*ANNA, sent_id="a1") + block(*long, sent_id="a2"))
    with caplog.at_level(logging.WARNING):
        built = treebank.build(folder(tmp_path, sentences=5, longest=5), seed=0)
    assert [(prompt.id, prompt.condition) for prompt in built] == [("treebank/a1", "a"), ("treebank/b2", "b")]
    assert "2 sentences, 5 were asked for" in caplog.text
    caplog.clear()
    assert len(treebank.build(folder(tmp_path, sentences=1, longest=5), seed=0)) == 1 and not caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Once upon a time there was no treebank.\n", r"a\.conllu: sentence 1 is not CoNLL-U"),
        (block(*ANNA) + "1\tAnna\n\n", r"a\.conllu: sentence 2 is not CoNLL-U \(row 1 has 2 columns; expected 10\)"),
        (block(*ANNA).replace("\t_\n", "\n"), r"sentence 1 is not CoNLL-U \(row 1 has 9 columns; expected 10\)"),
        (block(*ANNA).replace("\t_\n", "\t_\t\n"), r"sentence 1 is not CoNLL-U \(row 1 has 11 columns"),
        (block(*ANNA) + "Anna sleeps.\n\n", r"a\.conllu: sentence 2 is not CoNLL-U"),
        (block(*ANNA) + "1" * 5000 + "\tAnna\n\n", r"a\.conllu: sentence 2 is not CoNLL-U"),
        (block(*ANNA, sent_id="s1", text="Anna snores."), r"sentence 1 \(s1\): the words 'Anna sleeps \.' do"),
        (block("1 Anna 7 nsubj", "2 sleeps 0 root", sent_id="s1"), r"\(s1\): word 1 \(Anna\): head 7; expected"),
        (block("1 Anna _ nsubj", "2 sleeps 0 root"), r"word 1 \(Anna\): head None; expected another"),
        (block("1 Anna 2 NSUBJ", "2 sleeps 0 root"), r"word 1 \(Anna\): deprel 'NSUBJ'; expected a label such as"),
        (block(*ANNA, sent_id="s") + block(*ANNA[:2], sent_id="s"), r"2 \(s\): this sent_id is taken by .*1 \(s\)"),
        (block("1 _ 2 nsubj", "2 _ 0 root", sent_id="s1"), r"\(s1\): 2 of 2 forms are '_': a treebank without"),
        (block("1 Anna 3 nsubj", "3 sleeps 0 root"), r"sentence 1 \(a-00001\): ids \[1, 3\]; expected 1, 2, 3"),
        (block("1 Anna 0 root", "2 sleeps 0 root"), r"2 roots; expected one word with head 0"),
        (block("1 Anna 2 nsubj", "2 sleeps 1 conj"), r"0 roots; expected one word with head 0"),
        (block("1 A 2 dep", "2 b 1 dep", "3 c 0 root"), r"word 1 \(A\): its heads lead in a circle; expected a tree"),
        (block("1 Anna 2 root", "2 sleeps 0 root"), r"word 1 \(Anna\): head 2 and deprel root; expected 0 with root"),
        (block("1 Anna 2 nsubj", "2 sleeps 0 dep"), r"word 2 \(sleeps\): head 0 and deprel dep; expected 0 with root"),
        (block("1-9 Annas _ _", *ANNA), r"multiword tokens \[1, 9\]; expected ranges of words, in their order"),
        (block("1 Go 0 root"), r"a\.conllu: no sentence of 2 to 25 words"),
        ("", r"a\.conllu: no sentences; expected a treebank"),
    ],
)  # fmt: skip
def test_a_bad_file_is_named(tmp_path, content, message):
    with pytest.raises(UserError, match=message) as error:
        build(tmp_path, content)
    assert "\n" not in str(error.value)


def test_a_broken_sentence_among_many_is_named_and_skipped(tmp_path, caplog):
    many = "".join(block(f"1 w{number} 2 nsubj", "2 sleeps 0 root") for number in range(30))
    built = build(tmp_path, many + block("1 Anna 2 nsubj", "2 sleeps 1 conj"), sentences=31)
    assert len(built) == 30 and "a.conllu: sentence 31 (a-00031): 0 roots" in caplog.text


def test_a_file_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "a.conllu").write_bytes(b"# text = \xff\xfe\n")
    with pytest.raises(UserError, match=r"a\.conllu:1: not UTF-8 text"):
        treebank.build(folder(tmp_path), seed=0)


def test_an_empty_or_missing_folder_is_named(tmp_path):
    for path, lacks in ((tmp_path, r"no \*\.conllu here"), (tmp_path / "nowhere.conllu", "no such file or folder")):
        with pytest.raises(UserError, match=rf"{path}: {lacks}; expected a treebank: a CoNLL-U file or a folder"):
            treebank.build(folder(path), seed=0)


# The hub


def hub(tmp_path, monkeypatch, rows, split="validation", **changed):
    """Build from a data set folder of Parquet files, through the same call as from the hub."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    home = tmp_path / "treebank"
    home.mkdir()
    datasets.Dataset.from_list(rows).to_parquet(home / f"{split}-00000-of-00001.parquet", batch_size=10)
    options = {"source": "hub", "hub": str(home), "config": "default", "revision": "0123456789" * 4, "shortest": 2}
    return treebank.build(settings(**options, **changed), seed=0)


ROW = {"sent_id": "s1", "text": "I don't.", "tokens": ["I", "do", "n't", "."], "head": ["2", "0", "2", "2"],
       "deprel": ["nsubj", "root", "advmod", "punct"], "mwt": [{"id": "2-3", "form": "don't"}]}  # fmt: skip
ARCS = (["I", "do", "n't", "."], [(0, "nsubj", 1), (2, "advmod", 1), (3, "punct", 1)])


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_hub_gives_the_same_prompts_as_files(tmp_path, monkeypatch, split):
    (prompt,) = hub(tmp_path, monkeypatch, [ROW], split, sentences=1)
    assert prompt.id == "treebank/s1" and prompt.condition == "default" and read(prompt) == ARCS


def test_tokens_of_the_hub_without_a_head_are_no_words(tmp_path, monkeypatch):
    row = {
        "text": "I don't.",
        "tokens": ["I", "don't", "do", "n't", "."],
        "head": ["2", "None", "0", "2", "2"],
        "deprel": ["nsubj", "_", "root", "advmod", "punct"],
    }
    (prompt,) = hub(tmp_path, monkeypatch, [row], sentences=1)
    assert prompt.id == "treebank/default-00000" and read(prompt) == ARCS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": ["2", "0"]}, r"validation:0: tokens, head, deprel are no lists of one length"),
        ({"head": ["2", "0", "2", "x"]}, r"validation:0: word 4 \(\.\): head 'x'; expected another word"),
        ({"mwt": [{"id": "2", "form": "don't"}]}, r"validation:0: mwt: .*expected an id such as 3-4"),
        ({"text": "I do."}, r"validation:0: the words .* do not spell the text 'I do\.'"),
        ({"deprel": None}, r"validation:0: tokens, head, deprel are no lists"),
    ],
)
def test_a_bad_row_of_the_hub_is_named(tmp_path, monkeypatch, change, message):
    with pytest.raises(UserError, match=message):
        hub(tmp_path, monkeypatch, [ROW | change])


def test_a_hub_table_without_trees_is_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"tasks\.treebank\.hub: .* has no column head, deprel; expected tokens, head"):
        hub(tmp_path, monkeypatch, [{"tokens": ["a"]}])


def test_the_hub_needs_a_pinned_revision():
    for revision in ("", "main", "0123abc"):
        with pytest.raises(UserError, match=rf"tasks\.treebank\.revision: '{revision}'; .* 40 hex digits"):
            treebank.build(settings(source="hub", revision=revision), seed=0)


def test_an_unreachable_hub_is_a_users_error(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def unreachable(name, config, *, revision):
        raise ConnectionError("Couldn't reach\nthe Hub")

    monkeypatch.setattr(datasets, "get_dataset_split_names", unreachable)
    with pytest.raises(
        UserError, match=r"tasks\.treebank\.hub: commul/.* \(en_ewt\) at f{40} .*Couldn't reach the Hub"
    ):
        treebank.build(settings(source="hub", revision="f" * 40), seed=0)


# The real files


@real_data
def test_every_sentence_of_the_real_treebank_aligns():
    files = sorted(REAL.glob("*.conllu"))
    count = 0
    for file in files:
        for entry in treebank._read(file):
            sentence = treebank.aligned(entry)
            written = {number: surface for first, last, surface in entry.ranges for number in range(first, last + 1)}
            for number, (word, (form, _, _)) in enumerate(zip(sentence.words, entry.words, strict=True), start=1):
                assert sentence.text[word.start : word.end] in (form, written.get(number)), (entry.where, form)
            count += 1
    assert count == sum(file.read_text(encoding="utf-8").count("# sent_id = ") for file in files) > 1000


@real_data
def test_the_real_treebank_gives_prompts():
    built = treebank.build(settings(source="path", path=str(REAL), sentences=500), seed=0)
    assert len(built) == len({prompt.text for prompt in built}) == 500
    assert {prompt.condition for prompt in built} == {"en_ewt-ud-dev"}
    assert all(re.fullmatch(r"treebank/[\w.-]+", prompt.id) for prompt in built)
    counts = Counter(label for prompt in built for _, label, _ in read(prompt)[1])
    assert all(counts[label] >= 20 for label in LABELS if label != "iobj") and counts["nmod:desc"]
