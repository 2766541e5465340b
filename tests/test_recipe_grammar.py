"""The recipe `grammar`: what is held out stays out, arcs and pairs are right, UAS and the loss term too."""

import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from stages import dynamics, train
from stages.families.family import Tokens
from stages.families.treebank import grammar
from stages.model.anatomy import find
from stages.model.load import Loaded
from stages.page import recipe_findings
from stages.page import recipes as page
from stages.recipes import masked
from stages.recipes.lesson import IGNORED, Pair
from stages.recipes.settings import Architecture
from stages.statistics import findings, onset
from stages.store import params, paths
from stages.tasks.prompt import stream
from stages.tasks.treebank.agreement import FRAMES, agreement, chosen, subjects
from stages.tasks.treebank.tree import Tree
from stages.tasks.treebank.words import Draw
from stages.training.build import build, numbered
from stages.training.checkpoint import measured
from stages.training.train import objective

ROOT = Path(__file__).parents[1]
ARGUMENTS = {"words": 4, "sentences": 400, "shortest": 5, "longest": 14, "agreement": 0.6, "masked": 0.2}
TASK = masked.Masked(**ARGUMENTS)
SHAPE = Architecture(type="bert", layers=2, heads=2, width=16, inner=16, initializer_range=0.3)
HELD = TASK.held_out(np.random.default_rng(3), 80)
PAIRS = [one for one in HELD if isinstance(one, Pair)]
SENTENCES = [one for one in HELD if not isinstance(one, Pair)]


def model() -> torch.nn.Module:
    torch.manual_seed(0)
    built = build(SHAPE, TASK.symbols, TASK.positions)
    built.set_attn_implementation("eager")
    return built.eval()


def loaded() -> Loaded:
    built = model().requires_grad_(False)
    return Loaded(built, numbered(TASK.symbols, masked.MASK), find(built), "masked")


def spelled(tokens) -> list[str]:
    return [TASK.symbol(int(token)) for token in tokens.ids[1:-1]]


def test_every_word_but_the_root_and_punctuation_has_one_head():
    corpus = TASK.corpus
    assert sum(map(len, corpus.ids.values())) == 400
    for length, ids_BT in corpus.ids.items():
        assert ids_BT.shape[1] == length + 2 and 5 <= length <= 14
        assert (ids_BT[:, 0] == masked.CLS).all() and (ids_BT[:, -1] == masked.SEP).all()
        for ids_T, arcs in zip(ids_BT, corpus.arcs[length], strict=True):
            words = [corpus.words[token] for token in ids_T]
            marks = [at for at, word in enumerate(words) if word in (".", ",")]
            dependents = arcs[:, 0].tolist()
            assert len(set(dependents)) == len(dependents) and not set(dependents) & set(marks)
            (root,) = set(range(1, length + 1)) - set(dependents) - set(marks)
            head = dict(arcs.tolist())
            for at in dependents:  # every path ends at the root
                steps = 0
                while at != root:
                    at, steps = head[at], steps + 1
                    assert steps < length


def test_subjects_and_predicates_of_pairs_are_never_trained_on_together():
    """Naive: a person left of its head, where the head is a verb or a mood, is its subject."""
    words, forms = masked.lexicon(4), masked._forms(4)
    verbs = {form for form, lemma in forms.items() if lemma not in masked._subjects(4)}
    kept, seen = set(), 0
    for pair in PAIRS:
        tree = spelled(pair)
        nouns = [forms[word] for word in tree if forms.get(word) in masked._subjects(4)]
        kept |= {(nouns[0], forms.get(word, word)) for word in tree if word in verbs or word in words.moods}
    for length, ids_BT in TASK.corpus.ids.items():
        for ids_T, arcs in zip(ids_BT, TASK.corpus.arcs[length], strict=True):
            for dependent, head in arcs.tolist():
                noun, verb = (TASK.symbol(int(ids_T[at])) for at in (dependent, head))
                if (
                    dependent < head
                    and forms.get(noun) in masked._subjects(4)
                    and (verb in verbs or verb in words.moods)
                ):
                    seen += 1
                    assert not masked.withheld(noun, verb, 4), (noun, verb)
    assert seen > 100 and any(masked.withheld(*pair, 4) for pair in kept)


def test_a_subject_is_found_through_relative_pronouns_and_shared_predicates():
    who = Tree("saw", "acl:relcl", left=(Tree("who", "nsubj"),))
    subject = Tree("doctor", "nsubj", right=(who,))
    tree = Tree("sleeps", left=(subject,), right=(Tree("sings", "conj"), Tree("rest", "xcomp")))
    assert set(subjects(tree)) == {("doctor", w) for w in ("sleeps", "saw", "sings", "rest")}


def test_pairs_differ_in_one_word_that_agrees_across_a_noun_that_does_not():
    words, forms = masked.lexicon(4), masked._forms(4)
    number = {words.inflect(noun, n): n for noun in masked._subjects(4) for n in (0, 1)}
    plural = {"are", "were", "have", *(verb.base for verb in words.intransitive)}
    known = {row.tobytes() for ids_BT in TASK.corpus.ids.values() for row in ids_BT}
    assert len(PAIRS) == 40 and [one.role for one in PAIRS] == [FRAMES[i % 4] for i in range(40)]
    for pair in PAIRS:
        good, bad = spelled(pair), spelled(pair.bad)
        [(right, wrong)] = [(a, b) for a, b in zip(good, bad, strict=True) if a != b]
        at = good.index(right)
        subject, other = [word for word in good[:at] if word in number][:2]
        assert pair.ids.tobytes() not in known
        if pair.role == "reflexive gender":
            own = "herself" if subject in words.feminine else "himself"
            assert (right, wrong) == (own, {"herself": "himself", "himself": "herself"}[own])
            assert (forms[other] in words.feminine) != (subject in words.feminine)
            continue
        assert number[subject] != number[other]
        if pair.role == "reflexive number":
            assert (right == "themselves") == (number[subject] == 1) and (wrong == "themselves") != (
                right == "themselves"
            )
        else:
            assert (right in plural) == (number[subject] == 1) and (wrong in plural) == (number[subject] == 0)


def test_in_training_the_noun_between_says_nothing():
    rng, same = np.random.default_rng(0), []
    for _ in range(400):
        tree = chosen(agreement(Draw(masked.lexicon(4), rng), FRAMES[0], opposite=False), 0)
        nouns = [node.word for node in tree.walk() if masked._forms(4).get(node.word) in masked._subjects(4)]
        same.append(len({word in masked._subjects(4) for word in nouns[:2]}) == 1)
    assert 0.4 < np.mean(same) < 0.6


def test_batches_hide_words_and_point_along_both_directions_of_gold_arcs():
    rng = np.random.default_rng(0)
    hidden = shown = words = 0
    for _ in range(30):
        batch = TASK.batch(rng, 16, 0)
        labelled = batch.labels_BT != IGNORED
        length = batch.ids_BT.shape[1] - 2
        whole = np.where(labelled, batch.labels_BT, batch.ids_BT)
        assert (batch.labels_BT[:, [0, -1]] == IGNORED).all() and labelled.any(axis=1).all()
        sentences = {
            row.tobytes(): arcs for row, arcs in zip(TASK.corpus.ids[length], TASK.corpus.arcs[length], strict=True)
        }
        for row, ids in enumerate(whole):
            mine = {tuple(arc) for arc in batch.arcs_N3[batch.arcs_N3[:, 0] == row, 1:].tolist()}
            gold = set(map(tuple, sentences[ids.tobytes()].tolist()))
            assert mine == gold | {(head, dependent) for dependent, head in gold}
        hidden, shown = hidden + labelled.sum(), shown + (batch.ids_BT[labelled] == masked.MASK).sum()
        words += 16 * length
    assert 0.2 < hidden / words < 0.32 and 0.7 < shown / hidden < 0.9


@pytest.mark.parametrize("factor", [0.7, -0.7])
def test_the_loss_term_is_the_best_heads_attention_on_gold_arcs(factor):
    built, batch = model(), TASK.batch(np.random.default_rng(1), 6, 0)
    with torch.no_grad():
        output = built(torch.from_numpy(batch.ids_BT), output_attentions=True)
        plain = objective(built, batch, 0.0)
        found = objective(built, batch, factor)
    weights = [
        max(float(layer[row, head, query, key]) for layer in output.attentions for head in range(2))
        for row, query, key in batch.arcs_N3.tolist()
    ]
    assert float(found) == pytest.approx(float(plain) + factor * np.mean(weights), abs=1e-5)


def test_the_loss_term_pushes_attention_the_way_of_its_sign():
    ends = {}
    for factor in (0.0, 5.0, -5.0):
        built = model().train()
        adam = torch.optim.AdamW(built.parameters(), 0.01)
        for step in range(30):
            loss = objective(built, TASK.batch(np.random.default_rng(step), 8, step), factor)
            adam.zero_grad()
            loss.backward()
            adam.step()
        batch = TASK.batch(np.random.default_rng(99), 8, 0)
        with torch.no_grad():
            ends[factor] = float(objective(built, batch, 1.0) - objective(built, batch, 0.0))
    assert ends[5.0] < 0.7 * ends[0.0] and ends[-5.0] > 1.3 * ends[0.0]


def rows(one: Loaded, held: list[Tokens]) -> pd.DataFrame:
    raw = [("arm", 0, 0, *row) for row in measured(one, TASK, held)]
    return findings.together(findings.best(pd.DataFrame(raw, columns=dynamics.RAW)))


def test_uas_is_what_counting_arcs_one_by_one_gives():
    one, hits = loaded(), {}
    for number, tokens in enumerate(SENTENCES):
        with torch.no_grad():
            attention = one.model(torch.from_numpy(tokens.ids)[None], output_attentions=True).attentions
        for name, arcs in tokens.arcs.items():
            for query, key in arcs:
                for layer in range(2):
                    for head in range(2):
                        weights = attention[layer][0, head, query + 1, 1:-1].clone()
                        weights[query] = -1
                        hits.setdefault((name, number % 2, layer, head), []).append(int(weights.argmax()) == key)
    found = total = 0
    for name in {key[0] for key in hits}:
        heads = sorted(key[2:] for key in hits if key[:2] == (name, 0))
        best = max(heads, key=lambda head: (sum(hits[name, 0, *head]), -heads.index(head)))
        found, total = found + sum(hits[name, 1, *best]), total + len(hits[name, 1, *best])
    table = findings.summary(rows(one, HELD))
    assert table.set_index("measure").loc["uas", "value"] == pytest.approx(found / total)
    values, steps, weights = findings.arrays(rows(one, HELD))
    defined = ~np.isnan(values["uas"][0, 0])
    assert np.flatnonzero(defined).tolist() == list(range(1, len(SENTENCES), 2)) and steps.tolist() == [0]
    assert (weights["uas"][defined] > 0).all() and not weights["uas"][~defined].any()
    again = onset.means(values["uas"], weights["uas"][None])
    assert again.item() == pytest.approx(found / total)
    assert TASK.levels(HELD)["uas", "offset"] == pytest.approx(table.set_index("measure").loc["uas", "value_null"])


def test_resampling_sentences_resamples_a_ratio_of_arcs():
    values_SCP = np.array([[[1.0, 0.0, np.nan]]])
    weights_RP = np.array([[1.0, 1.0, 1.0], [2.0, 1.0, 0.0]]) * np.array([9.0, 3.0, 0.0])
    assert onset.means(values_SCP, weights_RP).ravel() == pytest.approx([9 / 12, 18 / 21])


def test_a_planted_head_finds_every_arc():
    """Layer 0, head 1 looks at the next position; every word's head is the next word."""
    width = TASK.positions * 2
    shape = Architecture(type="bert", layers=1, heads=2, width=width, inner=4, initializer_range=0.02)
    built = build(shape, TASK.symbols, TASK.positions).eval().requires_grad_(False)
    for parameter in built.bert.encoder.parameters():
        parameter.zero_()
    embeddings, attention = built.bert.embeddings, built.bert.encoder.layer[0].attention.self
    for table in (embeddings.word_embeddings, embeddings.token_type_embeddings):
        table.weight.zero_()
    embeddings.position_embeddings.weight.zero_()[:, : TASK.positions] = torch.eye(TASK.positions)
    half = slice(TASK.positions, width)  # the second head
    attention.key.weight[half, : TASK.positions] = torch.eye(TASK.positions)
    for at, following in pairwise(range(TASK.positions)):
        attention.query.weight[TASK.positions + following, at] = 50.0
    one = Loaded(built, numbered(TASK.symbols, masked.MASK), find(built), "masked")
    name = grammar.name("obj", masked.DIRECTION)
    held = [
        Tokens(
            f"{number:04d}",
            "sentence",
            tokens.ids,
            tokens.special,
            tokens.target,
            words=tokens.words,
            arcs={name: [(word, word + 1) for word in range(len(tokens.words) - 1)]},
        )
        for number, tokens in enumerate(SENTENCES[:8])
    ]
    table = findings.summary(rows(one, held)).set_index("measure")
    assert table.loc["uas", "value"] == 1 and table.loc["uas", "value_null"] == 1
    assert table.loc["uas@obj", "head"] == "L0H1"


@pytest.fixture(scope="module")
def studied(tmp_path_factory) -> Path:
    """A folder in which a tiny version of the recipe was trained and measured by the stages themselves."""
    folder, before = tmp_path_factory.mktemp("grammar"), Path.cwd()
    content = yaml.safe_load((ROOT / paths.FULL / "params.yaml").read_text())
    recipe = content["recipes"]["grammar"]
    recipe["train"] |= {"steps": 6, "batch": 4, "seeds": 1, "checkpoints": {"even": 2}, "arguments": ARGUMENTS}
    recipe["train"]["architecture"] |= {"width": 16, "heads": 2, "layers": 1, "inner": 8}
    recipe["study"] |= {"sequences": 40, "bootstrap": 200}
    (folder / "params.yaml").write_text(yaml.safe_dump(content | {"recipes": {"grammar": recipe}}))
    os.chdir(folder)
    try:
        train.main("grammar")
        dynamics.main("grammar")
    finally:
        os.chdir(before)
        torch.use_deterministic_algorithms(False)
    return folder


def test_training_twice_gives_the_same_bytes(studied, tmp_path):
    settings = params.load_studies(studied / "params.yaml")
    for arm in settings.recipes["grammar"].arms:
        train.one_run(settings, "grammar", arm, 0, tmp_path)
    torch.use_deterministic_algorithms(False)
    expected = {
        path.relative_to(studied / paths.checkpoints("grammar")): path for path in studied.rglob("*.safetensors")
    }
    assert len(expected) == 9 and len({path.read_bytes() for path in expected.values()}) == 7  # step 0 is the same
    for name, path in expected.items():
        assert (tmp_path / name).read_bytes() == path.read_bytes()


def test_the_study_compares_arms_and_says_what_simpler_means_reach(studied):
    folder = studied / paths.study("grammar")
    said, curve = pd.read_csv(folder / "findings.csv"), pd.read_csv(folder / "curve.csv")
    metrics = yaml.safe_load((folder / "metrics.json").read_text())
    assert {"uas", "accuracy", "loss", "ngram_accuracy", "offset_uas", "suppressed_uas", "promoted_accuracy"} <= set(
        metrics
    )
    whole = curve[~curve.measure.str.contains("@")]
    assert set(whole.measure) == {"uas", "accuracy", "loss"} and set(whole.step) == {0, 3, 6}
    assert {"onset later", "final beyond", "rise beyond", "level"} <= set(said.finding)
    after = said[said.finding == "after"]
    assert set(after.measure) == {"accuracy"} and set(after.versus) == {"uas"} and set(after.arm) == set(curve.arm)
    picture = pd.read_csv(folder / "picture.csv", keep_default_na=False)
    sums = picture.groupby(["head", "query"]).weight.sum()
    assert np.allclose(sums, 1, atol=1e-3) and set(picture["query"]) < set(picture["key"])


def test_held_out_sentences_are_new_and_drawn_from_another_stream():
    settings = params.load_studies(ROOT / paths.FULL / "params.yaml")
    held = TASK.held_out(stream(settings.seed, "recipes/grammar/held_out"), 40)
    known = {row.tobytes() for ids_BT in TASK.corpus.ids.values() for row in ids_BT}
    assert not known & {tokens.ids.tobytes() for tokens in held} and len(held) == 40
    assert [tokens.prompt for tokens in held] == [f"{number:04d}" for number in range(40)]


def test_the_page_shows_levels_arms_and_what_is_filled_in(studied):
    settings = params.load_studies(studied / "params.yaml")
    [section] = page.sections({Path(): settings}, studied)
    curves, others, maps = [block for block in section.blocks if block.kind == "figure"]
    assert [chart.label for chart in curves.charts] == ["UAS of heads", "Accuracy"]  # what is compared comes first
    assert [chart.label for chart in others.charts] == ["Loss"]
    for chart in [*curves.charts, *others.charts, *maps.charts]:
        assert chart.spec.to_dict()
    by_label = {chart.label: chart for chart in curves.charts}
    said = " ".join(block.text for block in section.blocks if block.kind == "note")
    assert "what a 5-gram counted on the same sentences reaches" in by_label["Accuracy"].note
    assert "what the best fixed offset of each label reaches" in by_label["UAS of heads"].note
    assert "suppressed (attention on gold arcs punished with a factor of 1)" in said
    assert "Last values, arm by arm. Plain: UAS of heads" in said and "verb after a phrase: " in said
    assert "fills in where that word is left out" in maps.says


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ((30.0, 10.0, 50.0), "The UAS of heads of plain jumps before that of promoted, by 30 steps [10, 50]."),
        ((-30.0, -50.0, -10.0), "The UAS of heads of plain jumps after that of promoted, by 30 steps [10, 50]."),
        (
            (5.0, -10.0, 50.0),
            "The onsets of the UAS of heads of plain and of promoted are not told apart: "
            "difference +5 steps [−10, +50], positive where that of promoted comes later.",
        ),
    ],
)
def test_arms_come_earlier_only_where_the_interval_says_so(interval, said):
    rows = [
        ("after", "plain", "accuracy", "uas", "", 1.0, 0.0, 2.0),
        ("onset later", "promoted", "uas", "plain", "", *interval),
    ]
    whole = pd.DataFrame(rows, columns=page.FINDINGS.split()).assign(ranged=False)
    assert said in recipe_findings.against(whole, ["plain", "promoted"], ["uas", "accuracy"])
