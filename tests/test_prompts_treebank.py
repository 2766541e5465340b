"""Parsed sentences: the builtin trees, CoNLL-U files, data sets of the hub; every span is a word of the text."""

import logging
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.prompts import treebank
from stages.prompts.prompt import Prompt, stream
from stages.prompts.treebank_grammar import CONSTRUCTIONS, Speaker, load, read
from stages.store.errors import UserError
from stages.store.params import Treebank

LEXICON = Path("stages/prompts/lexicon/treebank.yaml")
EWT = Path("../shared/data/ud/EWT")
FILE = """# sent_id = one
# text = I don't like cats.
1\tI\tI\tPRON\t_\t_\t4\tnsubj\t_\t_
2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_
2\tdo\tdo\tAUX\t_\t_\t4\taux\t_\t_
3\tn't\tnot\tPART\t_\t_\t4\tadvmod\t_\t_
4\tlike\tlike\tVERB\t_\t_\t0\troot\t_\t_
5\tcats\tcat\tNOUN\t_\t_\t4\tobj\t_\tSpaceAfter=No
6\t.\t.\tPUNCT\t_\t_\t4\tpunct\t_\t_

# sent_id = two
# text = Il va au parc
1\tIl\til\tPRON\t_\t_\t2\tnsubj\t_\t_
2\tva\taller\tVERB\t_\t_\t0\troot\t_\t_
3-4\tau\t_\t_\t_\t_\t_\t_\t_\t_
3\tà\tà\tADP\t_\t_\t5\tcase\t_\t_
4\tle\tle\tDET\t_\t_\t5\tdet\t_\t_
5\tparc\tparc\tNOUN\t_\t_\t2\tobl\t_\t_
5.1\tvide\tvide\tVERB\t_\t_\t_\t_\t_\t_

"""


def builtin(sentences: int = 450, **changes) -> list[Prompt]:
    values = {"path": str(LEXICON), "sentences": sentences, "shortest": 5, "longest": 25} | changes
    return treebank.build(Treebank(**values), seed=17)


def path(where: Path, **changes) -> list[Prompt]:
    values = {"source": "path", "path": str(where), "sentences": 1000, "shortest": 2, "longest": 40} | changes
    return treebank.build(Treebank(**values), seed=17)


def arcs(prompt: Prompt) -> list[tuple[str, int, int]]:
    """Return (label, dependent, head) as places of words."""
    words = [(span.query_start, span.query_end) for span in prompt.relations if span.name == "word"]
    place = {ends: number for number, ends in enumerate(words)}
    return [
        (span.name.removeprefix("grammar:").removesuffix(":dep-to-head"),
         place[span.query_start, span.query_end], place[span.key_start, span.key_end])
        for span in prompt.relations if span.name.endswith(":dep-to-head")
    ]  # fmt: skip


def words(prompt: Prompt) -> list[str]:
    return [prompt.text[span.query_start : span.query_end] for span in prompt.relations if span.name == "word"]


@pytest.fixture(scope="module")
def sentences() -> list[Prompt]:
    return builtin()


def test_every_sentence_is_a_tree_over_its_words(sentences):
    for prompt in sentences:
        heads = {dependent: head for _, dependent, head in arcs(prompt)}
        count = len(words(prompt))
        assert len(heads) == count - 1 == len(arcs(prompt)) and 5 <= count <= 25  # all but the root, once each
        for word in range(count):
            seen = set()
            while word in heads:
                assert word not in seen
                seen.add(word)
                word = heads[word]
        assert "".join(words(prompt)) == prompt.text.replace(" ", "")


def test_both_directions_of_an_arc_are_annotated(sentences):
    for prompt in sentences[:50]:
        there = {(s.name.rsplit(":", 1)[0], s.query_start, s.key_start) for s in prompt.relations if "dep-to" in s.name}
        back = {(s.name.rsplit(":", 1)[0], s.key_start, s.query_start) for s in prompt.relations if "to-dep" in s.name}
        assert there == back and len(there) == len(words(prompt)) - 1


def test_labels_are_frequent_in_both_halves(sentences):
    counts = {half: Counter(a[0] for p in sentences if p.split == half for a in arcs(p)) for half in "ab"}
    wanted = """nsubj obj iobj obl det amod nummod nmod nmod:poss advmod compound case aux aux:pass nsubj:pass cop mark
        cc conj xcomp ccomp acl:relcl advcl""".split()
    assert {label: counts[half][label] for half in "ab" for label in wanted if counts[half][label] < 20} == {}


def test_no_fixed_offset_finds_the_heads(sentences):
    offsets: dict[str, Counter] = {}
    for prompt in sentences:
        for label, dependent, head in arcs(prompt):
            offsets.setdefault(label, Counter())[dependent - head] += 1
    best = {label: count.most_common(1)[0][1] / count.total() for label, count in offsets.items()}
    bounds = {"obj": 0.4, "nsubj": 0.4, "det": 0.5, "case": 0.5, "amod": 0.7, "obl": 0.4, "nmod": 0.5, "conj": 0.5}
    assert {label: best[label] for label, bound in bounds.items() if best[label] > bound} == {}


def test_verbs_agree_with_their_subjects_across_distractors(sentences):
    lexicon = load(LEXICON)
    plurals = {[*n.split("/"), f"{n}s"][1] for kind in lexicon["nouns"].values() for n in kind}
    singulars = {n.split("/")[0] for kind in lexicon["nouns"].values() for n in kind}
    checked = distracted = 0
    for prompt in sentences:
        found, text = arcs(prompt), words(prompt)
        for label, subject, head in found:
            if label not in ("nsubj", "nsubj:pass") or text[subject].lower() in ("who", "that"):
                continue
            both = any(one[0] == "conj" and one[2] == subject for one in found)
            many = both or text[subject] in plurals
            if not many and text[subject] not in singulars and text[subject] not in lexicon["names"]:
                continue
            for _, word, of in found:
                form = text[word]
                if of == head and form in ("is", "was", "has", "are", "were", "have"):
                    assert (form in ("are", "were", "have")) == many, prompt.text
                    between = set(text[subject + 1 : word])
                    checked += 1
                    distracted += bool(between & (singulars if many else plurals))
    assert checked > 100 and distracted > 10


def test_articles_and_capitals(sentences):
    for prompt in sentences:
        assert prompt.text[0].isupper() and prompt.text.endswith(".") and "  " not in prompt.text
        tokens = [word.lower() for word in words(prompt)]
        for one, after in pairwise(tokens):
            assert one not in ("a", "an") or (one == "an") == after.startswith(tuple("aeiou")), prompt.text


def test_more_sentences_keep_the_first_ones_and_texts_differ(sentences):
    few = builtin(40)
    assert few == sentences[:40] and len({prompt.text for prompt in sentences}) == len(sentences)
    assert len({prompt.id for prompt in sentences}) == len(sentences)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(sorted(CONSTRUCTIONS)))
def test_spans_are_the_words_in_order(number, kind):
    tree = Speaker(load(LEXICON), stream(0, str(number))).sentence(kind)
    text, spans = read(tree)
    own = [(span.query_start, span.query_end) for span in spans if span.name == "word"]
    assert all(a[1] <= b[0] for a, b in pairwise(own))
    assert [text[a:b].lower() for a, b in own][1:] == [
        "an" if node.form == "a" and text[a:b] == "an" else node.form.lower()
        for (node, _), (a, b) in list(zip(tree.words(), own, strict=True))[1:]
    ]


def test_an_impossible_length_is_one_line():
    with pytest.raises(UserError, match=r"tasks.treebank.shortest = 80.*5 to 25 words"):
        builtin(3, shortest=80, longest=90)


def test_conllu_with_contractions(tmp_path):
    (tmp_path / "x.conllu").write_text(FILE)
    one, two = path(tmp_path)
    assert (one.id, one.group, one.text) == ("treebank/one", "x", "I don't like cats.")
    assert words(one) == ["I", "do", "n't", "like", "cats", "."]
    assert ("aux", 1, 3) in arcs(one) and ("obj", 4, 3) in arcs(one)
    assert words(two) == ["Il", "va", "au", "parc"]  # à + le do not make up 'au': one word
    assert arcs(two) == [("nsubj", 0, 1), ("case", 2, 3), ("det", 2, 3), ("obl", 3, 1)]
    assert path(tmp_path, longest=5) == [two] and len(path(tmp_path, sentences=1)) == 1


def test_fewer_sentences_than_asked_are_said(tmp_path, caplog):
    (tmp_path / "x.conllu").write_text(FILE)
    with caplog.at_level(logging.WARNING):
        path(tmp_path, sentences=9)
    assert "2 sentences of 2 to 40 words, 9 were asked for" in caplog.text


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "no treebank here"),
        ("I like cats.\n", "sentence 1: not CoNLL-U"),
        (FILE.replace("5\tcats", "5\tdogs"), "one: the word 'dogs' is not the next one in 'cats.'"),
        (FILE.replace("\t0\troot", "\t_\t_"), "word 4 (like): no head or label"),
        (FILE.replace("\t4\tobj", "\t9\tobj"), "word 5 (cats): head 9; no such word"),
        ("", "no sentence of 2 to 40 words"),
    ],
)
def test_mistakes_name_file_and_place(tmp_path, content, says):
    if content is not None:
        (tmp_path / "x.conllu").write_text(content)
    with pytest.raises(UserError) as error:
        path(tmp_path)
    assert says in str(error.value) and str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_a_data_set_of_the_hub_through_the_same_call(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "bank"
    folder.mkdir()
    row = {"sent_id": "s1", "text": "I like cats.", "tokens": ["I", "like", "cats", "."], "head": ["2", "0", "2", "2"],
           "deprel": ["nsubj", "root", "obj", "punct"]}  # fmt: skip
    other = row | {"sent_id": "s2", "text": "I don't.", "tokens": ["I", "don't", "do", "n't", "."],
                   "head": ["2", "None", "0", "2", "2"], "deprel": ["nsubj", "_", "root", "advmod", "punct"]}  # fmt: skip
    lost = other | {"sent_id": "s3", "text": "I dont."}
    pd.DataFrame([row, other, lost]).to_parquet(folder / "validation.parquet")
    values = {"source": "hub", "path": "", "hub": str(folder), "config": "default", "sentences": 5, "shortest": 2}
    prompt, second = treebank.build(Treebank(**values, longest=9, revision="0" * 40), seed=1)
    assert arcs(prompt) == [("nsubj", 0, 1), ("obj", 2, 1), ("punct", 3, 1)] and prompt.id == "treebank/s1"
    assert words(second) == ["I", "do", "n't", "."] and ("advmod", 2, 1) in arcs(second)
    with pytest.raises(UserError, match="pinned by its full commit"):
        treebank.build(Treebank(**values, longest=9), seed=1)


@pytest.mark.skipif(not EWT.is_dir(), reason="UD English EWT is not in ../shared/data")
def test_every_sentence_of_ewt_aligns():
    found = path(EWT, sentences=10_000, longest=400)
    assert len(found) > 3500
    for prompt in found:
        assert len({dependent for _, dependent, _ in arcs(prompt)}) == len(arcs(prompt)) == len(words(prompt)) - 1
