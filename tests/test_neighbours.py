"""Labelled demonstrations: what is balanced and shared, votes, the table, and a reading against plain passes."""

import re
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from test_page import render, text_of, write_slot
from tiny import make

from stages import neighbours as stage
from stages import tasks
from stages.page.sections.neighbours import _language
from stages.statistics import neighbours
from stages.store.errors import UserError
from stages.tasks.neighbours.prompts import APART, together
from stages.tasks.neighbours.settings import Settings

ROOT = Path(__file__).parents[1]
SECTION = yaml.safe_load((ROOT / "tests/params.yaml").read_text(encoding="utf-8"))["tasks"]["neighbours"]


@pytest.fixture(scope="module")
def built():
    section = SECTION | {"path": str(ROOT / SECTION["path"])}
    return tasks.of("neighbours").build(Settings(**section), seed=17)


def shown(prompt):
    """Return (item, label, like) of each demonstration, and the query's item, from the spans."""
    items = [
        (prompt.text[a.key_start : a.key_end], prompt.text[b.key_start : b.key_end], a.name == "like", a.key_start)
        for a, b in zip(prompt.relations[::2], prompt.relations[1::2], strict=True)
    ]
    first = prompt.relations[0]
    return sorted(items, key=lambda item: item[3]), prompt.text[first.query_start : first.query_end]


def test_no_rule_but_likeness_beats_a_guess_in_any_set(built):
    sets = {}
    for prompt in built:
        items, _ = shown(prompt)
        right = prompt.targets[0].strip()
        majority = Counter(label for _, label, _, _ in items).most_common(1)[0][0]
        assert all((label == right) == like for _, label, like, _ in items)
        sets.setdefault((prompt.cluster, prompt.id.partition("#")[2]), []).append(
            (right == majority, right == items[-1][1], right == "A")
        )
    assert all(np.mean(rows, axis=0).tolist() == [0.5, 0.5, 0.5] for rows in sets.values())


def test_praise_has_either_label(built):
    lexicon = yaml.safe_load((ROOT / SECTION["path"]).read_text(encoding="utf-8"))
    praise = {
        text.rstrip(".。") for name in ("english", "japanese", "japanese_short") for text in lexicon[name]["praise"]
    }
    called: dict[tuple[str, str], Counter] = {}
    for prompt in built:
        if prompt.condition.startswith("reviews"):
            labels = {label for item, label, *_ in shown(prompt)[0] if item.rstrip(".。") in praise}
            called.setdefault((prompt.condition, prompt.split), Counter())[" ".join(labels)] += 1
    assert len(called) == 6 and all(counts["A"] == counts["B"] for counts in called.values())


def test_what_items_share_is_what_their_kind_says(built):
    for prompt in built:
        items, query = shown(prompt)
        exact = [item == query for item, _, like, _ in items if like]
        assert sum(exact) == (prompt.condition == "repeated")
        if prompt.condition == "reviews_english_disjoint":
            words = {*re.findall(r"\w+|[^\w\s]", query.lower())}
            assert not any(words & {*re.findall(r"\w+|[^\w\s]", item.lower())} for item, *_ in items)
        elif prompt.condition == "reviews_japanese_disjoint":
            assert not any({*query} & {*item} for item, *_ in items)
        elif prompt.condition.endswith("disjoint"):
            size = 1 if "katakana" in prompt.condition else 2
            syllables = {query[at : at + size] for at in range(0, len(query), size)}
            assert not any(piece in item for item, *_ in items for piece in syllables)
        if prompt.condition == "forms_latin":
            assert all((item[4:] == query[4:]) == like for item, _, like, _ in items)


def test_splits_share_no_item_of_the_lexicon_and_have_the_sets_asked_for(built):
    sets = Counter((condition, split) for condition, split, _ in {(p.condition, p.split, p.cluster) for p in built})
    chosen_on = {condition: sets[condition, "a"] for condition, _ in sets}
    assert {name for name, count in chosen_on.items() if not count} == set(APART)
    assert {count for name, count in chosen_on.items() if name not in APART} == {SECTION["choose"]}
    assert {sets[condition, "b"] for condition, _ in sets} == {SECTION["report"]}
    swapped = Counter(p.condition for p in built if p.id.endswith("#swapped"))
    assert len(swapped) == 4 and {*swapped.values()} == {2 * SECTION["swapped"]}
    for condition in ("words", "reviews_english", "reviews_japanese"):
        seen = {
            split: {item for p in built if p.condition == condition and p.split == split
                    for item in (*(item for item, *_ in shown(p)[0]), shown(p)[1])}
            for split in "ab"
        }  # fmt: skip
        assert seen["a"] and not seen["a"] & seen["b"]


def test_reviews_are_enough_and_hold_no_label():
    lexicon = yaml.safe_load((ROOT / SECTION["path"]).read_text(encoding="utf-8"))
    for language in ("english", "japanese", "japanese_short"):
        for kind in ("praise", "complaint"):
            assert len(set(lexicon[language][kind])) >= 24
            assert not any(
                word in text.lower() for text in lexicon[language][kind] for word in ("positive", "negative")
            )


def test_reviews_that_all_share_words_are_refused_in_one_line(tmp_path):
    lexicon = yaml.safe_load((ROOT / SECTION["path"]).read_text(encoding="utf-8"))
    lexicon["english"]["praise"] = [f"the best {number}." for number in range(24)]
    (tmp_path / "lexicon.yaml").write_text(yaml.safe_dump(lexicon, allow_unicode=True), encoding="utf-8")
    section = SECTION | {"path": str(tmp_path / "lexicon.yaml"), "groups": ["words", "reviews_english_disjoint"]}
    with pytest.raises(UserError, match=r"lexicon.yaml: no two reviews share nothing with 5 others of each class"):
        tasks.of("neighbours").build(Settings(**section), seed=17)


def test_the_nearest_vote():
    similarity = np.array([[0.9, 0.1, 0.8, 0.7], [0.1, 0.9, 0.2, 0.3]])
    like = np.array([True, False, False, False])
    assert neighbours.votes(similarity, like, 1).tolist() == [True, False]
    assert neighbours.votes(similarity, like, 3).tolist() == [False, False]
    answers = np.array([1.0, 0.0, 1.0])
    votes_PLK = np.array([[[1, 1], [1, 0]], [[1, 1], [0, 0]], [[1, 1], [1, 1]]], bool)
    assert neighbours.choose(answers, votes_PLK) == (1, 0, 1.0)
    tied = np.array([1.0, 0.0, 0.5])  # half of each label: half as the vote, whichever that is
    assert neighbours.choose(tied, votes_PLK)[2] == pytest.approx(5 / 6)
    assert neighbours.agreeing(tied, votes_PLK)[2].tolist() == [[0.5, 0.5], [0.5, 0.5]]


def rows(answer):
    """Return sets of four prompts each in which the nearest are right; answer: row -> right or not."""
    table = []
    for number in range(10):
        for side in (0, 1):
            for role in ("given", "swapped"):
                row = {"prompt": f"n/{number}/{side}#{role}", "split": "b", "condition": "forms_latin", "role": role}
                row |= {"category": "english", "cluster": f"n/{number}", "majority_right": side == 0}
                row |= {"last_right": side == number % 2, "first_label_right": (side == 0) == (role == "given")}
                row |= {"nearest_right": True, "shared_like": 0.0, "shared_unlike": 0.0}
                row |= {"attention_like": 0.2, "attention_unlike": 0.1}
                right = answer(row)
                table.append(row | {"accuracy": float(right), "margin": 1.0 if right else -1.0})
    return pd.DataFrame(table)


@pytest.mark.parametrize(
    ("name", "agreement", "accuracy", "swaps"),
    [
        ("nearest_right", 1, 1, 1),
        ("majority_right", 0, 0.5, 1),
        ("last_right", 0.5, 0.5, 1),
        ("first_label_right", 0.5, 0.5, 0),
    ],
)
def test_the_table_tells_rules_apart(name, agreement, accuracy, swaps):
    table = neighbours.table(rows(lambda row: row[name]), attention(0.05), pd.DataFrame(), {"layer": 3}).set_index(
        ["condition", "measure"]
    )
    value = table["value"]
    assert value["forms_latin", "nearest_agreement_against_majority"] == agreement
    assert value["forms_latin", "accuracy"] == accuracy and value["forms_latin", "swaps_with_labels"] == swaps
    assert value["forms_latin", "attention_difference"] == pytest.approx(0.1)
    numbers = neighbours.metrics(table.reset_index())["neighbours"]["english"]
    assert numbers == {"accuracy": accuracy, "knn_agreement": agreement, "attention": 0.1, "attention_null": 0.0275}


def test_attention_is_ranked_among_other_sets_of_heads_where_it_is_above_0():
    read, name = rows(lambda row: True), "attention_difference"
    read["attention_like"] += np.arange(len(read)) / 1000  # mean difference .1195
    for largest, p in ((0.05, 0.05), (0.15, 0.3)):  # five sets of 19 are at .12 or above
        table = neighbours.table(read, attention(largest), pd.DataFrame(), {}).set_index(["condition", "measure"])
        row, others = table.loc[("forms_latin", name)], table["value"].loc["forms_latin"]
        assert (row["p"], row["p_floor"]) == pytest.approx((p, 0.05))
        assert others[f"controls_{name}"] == pytest.approx(0.55 * largest)
        assert others[f"controls_{name}_largest"] == pytest.approx(largest)
    read["attention_like"] = 0.1 + np.arange(len(read)) / 10 - np.arange(len(read)).mean() / 10
    row = neighbours.table(read, attention(-0.1), pd.DataFrame(), {}).set_index(["condition", "measure"])
    row = row.loc[("forms_latin", name)]
    assert row["low"] < 0 and pd.isna(row["p"]) and row["note"] == "no rank: not shown to be above 0"


def test_a_stage_averages_attention_over_the_heads_of_each_set():
    like, seen = np.array([True, False, True]), np.array([[0.3, 0.2, 0.5], [0.1, 0.2, 0.1], [0.0, 0.4, 0.2]])
    read = [SimpleNamespace(row=SimpleNamespace(id="p"), like=like, attention=seen)]
    heads = [(0, 1), (2, 0), (3, 3)]
    table = stage.attention_rows(read, heads, {0: ((3, 3), (0, 1)), 1: ((2, 0),)}).set_index("draw")
    assert table.attention_like.to_dict() == pytest.approx({0: 0.25, 1: 0.1})
    assert table.attention_unlike.to_dict() == pytest.approx({0: 0.3, 1: 0.2})
    assert stage.attention_rows(read, [], {}).empty


def test_no_item_is_asked_about_twice_and_sets_that_must_are_one_cluster(built, tmp_path):
    def of_sets(prompts):
        queries = {}
        for prompt in prompts:
            if prompt.split == "b" and prompt.id.endswith("#given"):
                queries.setdefault((prompt.condition, stage.shown(prompt.id), prompt.cluster), []).append(
                    shown(prompt)[1]
                )
        return queries

    for condition in {prompt.condition for prompt in built}:
        queries = {name: of for (kind, name, _), of in of_sets(built).items() if kind == condition}
        items = [item for of in queries.values() for item in of]
        assert len(items) == len(set(items)) == 2 * SECTION["report"]
    lexicon = yaml.safe_load((ROOT / SECTION["path"]).read_text(encoding="utf-8"))
    lexicon["english"] = {kind: of[:12] for kind, of in lexicon["english"].items()}
    (tmp_path / "lexicon.yaml").write_text(yaml.safe_dump(lexicon, allow_unicode=True), encoding="utf-8")
    section = SECTION | {"path": str(tmp_path / "lexicon.yaml"), "groups": ["reviews_english"]}
    queries = of_sets(tasks.of("neighbours").build(Settings(**section), seed=17))
    assert len(queries) == SECTION["report"] and len({cluster for *_, cluster in queries}) <= 6
    for (*_, cluster), of in queries.items():
        assert all(cluster == other for (*_, other), theirs in queries.items() if {*of} & {*theirs})


def test_clusters_are_chains_of_sets_that_share_an_item():
    sets = {"a": "xy", "b": "zw", "c": "uv", "d": "yz", "e": "st", "f": "ws"}
    assert together(sets) == {"a": "a", "b": "a", "c": "c", "d": "a", "e": "a", "f": "a"}


def attention(largest=0.0):
    """Return what 19 control sets attend to, on the prompts of `rows`: their differences go up to the largest."""
    table = [
        {"prompt": f"n/{number}/{side}#{role}", "draw": draw, "attention_like": largest * (draw + 1) / 20}
        for number in range(10) for side in (0, 1) for role in ("given", "swapped") for draw in range(1, 20)
    ]  # fmt: skip
    return pd.DataFrame(table).assign(attention_unlike=0.0)


def silenced(accuracy):
    """Return effects on ten sets of two prompts, right intact; accuracy: (majority is right) -> what is left."""
    table = []
    for purpose, draw in [("none", 0), ("family", 0), *[("control", n) for n in range(1, 20)]]:
        for number in range(10):
            for side in (0, 1):
                value = accuracy(side == 0) if purpose == "family" else 1.0
                row = {"purpose": purpose, "draw": draw, "prompt": f"n/{number}/{side}#given", "cluster": f"n/{number}"}
                row |= {"condition": "forms_latin"}
                table += [row | {"measure": "accuracy", "value": value, "intact": 1.0}]
                table += [row | {"measure": "margin", "value": 2 * value - 1, "intact": 1.0}]
    return pd.DataFrame(table)


def test_a_silenced_model_that_goes_by_the_majority_is_told_from_one_that_goes_against_it():
    read = rows(lambda row: True)
    for rule in (float, lambda majority: float(not majority)):
        table = (
            neighbours.table(read, attention(), silenced(rule), {}).set_index(["condition", "measure"]).loc["silenced"]
        )
        value = table["value"]
        assert (value["change_accuracy"], value["without_accuracy"], value["controls_accuracy"]) == (-0.5, 0.5, 0)
        assert value["without_answers_majority"] == rule(True) and value["intact_answers_majority"] == 0.5
        measure = "nearest_agreement_against_majority"  # where the nearest, always right, are not the majority
        assert (value[f"without_{measure}"], value[f"intact_{measure}"]) == (rule(False), 1)
        assert table["trials"][f"without_{measure}"] == 10 and table["trials"][f"controls_{measure}"] == 19
        assert table["note"]["without_accuracy"] == "forms_latin"
        assert table["p"]["change_accuracy"] == table["p_floor"]["change_accuracy"] == 0.05
        assert table["trials"]["controls_accuracy"] == 19


def test_an_exact_tie_is_half_of_each_label():
    """It counted as the wrong label's: a model of ties alone went against whatever was asked about."""
    read = rows(lambda row: True).assign(accuracy=0.5, margin=0.0)
    read["attention_unlike"] = np.nan
    table = neighbours.table(read, attention(), silenced(lambda majority: 0.5), {}).set_index(["condition", "measure"])
    value = table["value"]
    for name in ("accuracy", "answers_majority", "answers_last", "answers_first_label", "nearest_agreement",
                 neighbours.AGREEMENT, "swaps_with_labels"):  # fmt: skip
        assert value["forms_latin", name] == 0.5, name
    for name in ("accuracy", "answers_majority", neighbours.AGREEMENT):
        assert value["silenced", f"without_{name}"] == 0.5, name


@pytest.mark.parametrize("lost", [1, 2, 3, 4, 6, 8, 11, 16])
def test_sets_that_lose_or_attend_as_much_tie_in_float32_as_well(lost):
    effects = silenced(float)
    wrong = (effects.prompt.rank(method="dense") <= lost) & (effects.purpose != "none")
    effects["value"] = np.where(wrong, 0.0, 1.0)
    narrow = effects.astype({"value": np.float32, "intact": np.float32})
    columns = ["attention_like", "attention_unlike"]
    read = rows(lambda row: True).astype(dict.fromkeys(columns, np.float32))
    like = attention().merge(read[["prompt", *columns]], on="prompt", suffixes=("_x", ""))[["prompt", "draw", *columns]]
    table = neighbours.table(read, like, narrow, {}).set_index(["condition", "measure"])
    assert table["p"]["silenced", "change_accuracy"] == 1 == table["p"]["forms_latin", "attention_difference"]


def test_what_the_intact_model_cannot_do_has_no_rank():
    effects = silenced(float)
    effects["intact"] = effects["value"] = 0.5
    table = (
        neighbours.table(rows(lambda row: True), attention(), effects, {})
        .set_index(["condition", "measure"])
        .loc["silenced"]
    )
    assert pd.isna(table["p"]["change_accuracy"]) and "not measurable" in table["note"]["change_accuracy"]


def test_reviews_are_said_beside_those_that_share_nothing_with_the_query():
    from stages.page.sections.neighbours import _reviews

    shared = rows(lambda row: row["nearest_right"]).assign(condition="reviews_english", shared_like=1.0)
    apart = rows(lambda row: row["last_right"]).assign(condition="reviews_english_disjoint")
    table = neighbours.table(pd.concat([shared, apart]), attention(), pd.DataFrame(), {}).set_index(
        ["condition", "measure"]
    )
    assert _reviews(table) == (
        "English reviews: accuracy 1.00 [0.66, 1.00], above chance (a token in common with the query: 1.00 of the like "
        "demonstrations); English reviews without a shared word: accuracy 0.50 [0.21, 0.79], not told apart from "
        "chance (a token in common with the query: 0.00 of the like demonstrations)."
    )
    few = table.assign(trials=12)
    assert _reviews(few).count("too few for a claim") == 2 and _reviews(table.drop("reviews_english_disjoint")) == ""


def test_how_much_hangs_on_the_choice_of_a_layer_is_said():
    """Layer 0 and 3 agree alike in split a, and say the opposite of katakana in split b; layer 5 does not agree."""
    from stages.page.sections.neighbours import _chosen

    def reading(number, split, condition, nearest):
        like = np.arange(4) < 1 + 2 * (number % 2)  # the majority is of the query's class in every other prompt
        similarity = np.stack([np.where(like == right, 1.0, 0.0) for right in nearest])
        row = SimpleNamespace(id=f"n/{condition}/{number}#given", split=split, condition=condition, category="japanese",
                              cluster=f"n/{number}", targets=(" A", " B"))  # fmt: skip
        same = {"like": like, "shared": np.zeros(4), "attention": np.zeros(4)}
        return SimpleNamespace(
            row=row, similarity=similarity, measures={"accuracy": float(nearest[0]), "margin": 1.0}, **same
        )

    read = [reading(number, "a", "words", (True, number != 3, False)) for number in range(8)]
    read += [reading(number, "b", "forms_katakana", (True, False, True)) for number in range(8)]
    _, chosen = stage.prompt_rows(read, [0, 3, 5], (1,))
    assert chosen == {"layer": 0, "nearest": 1, "agreement": 1.0, "close": 2, "japanese_lowest": 0.0,
                      "japanese_highest": 1.0}  # fmt: skip
    cells = pd.DataFrame([{"condition": "chosen", "measure": name, "value": value} for name, value in chosen.items()])
    said = _chosen(cells.set_index(["condition", "measure"]))
    assert (
        "1 other choice agrees on at most one prompt fewer there: by all of them, the share of answers that are" in said
    )
    assert said.endswith("the nearest's, not the majority's, is 0.00 to 1.00 (made-up words in katakana).")
    alone = pd.DataFrame(
        [{"condition": "chosen", "measure": name, "value": 1.0} for name in ("layer", "nearest", "close")]
    )
    assert _chosen(alone.set_index(["condition", "measure"])).endswith("these are used here.")


def test_an_unknown_kind_is_refused_by_name():
    with pytest.raises(UserError, match=r"tasks.neighbours.groups: 'form': no such kind; allowed: words, "):
        section = SECTION | {"path": str(ROOT / SECTION["path"]), "groups": ["form"]}
        tasks.of("neighbours").build(Settings(**section), seed=17)


def test_kinds_that_nothing_is_chosen_on_are_refused_alone():
    section = SECTION | {"path": str(ROOT / SECTION["path"]), "groups": ["reviews_english_disjoint"]}
    with pytest.raises(UserError, match=r"groups: 'reviews_english_disjoint': asked in split b alone.*: words, "):
        tasks.of("neighbours").build(Settings(**section), seed=17)
    assert tasks.of("neighbours").build(Settings(**section | {"groups": ["words", *APART]}), seed=17)


@pytest.mark.parametrize(
    ("name", "chunk"),
    [("llama_gqa", 2048), ("llama_gqa", 3), ("gptj", 2048), ("bloom", 2048)],
)  # gptj and bloom share no run of what begins alike
def test_a_reading_equals_plain_passes(built, name, chunk, monkeypatch):
    """States, attention and answers of prompts that begin alike, against a pass of each prompt alone."""
    from stages.model import chunks
    from stages.model.demonstrations import readings
    from stages.model.forward import forward
    from stages.model.tokens import encode

    monkeypatch.setattr(chunks, "CHUNK", chunk)  # tokens of a row that run at once
    loaded = make(name, scale=4.0)
    of_set = [p for p in built if p.cluster == "neighbours/forms_latin/004" and p.id.endswith("#given")]
    table = pd.DataFrame([asdict(p) for p in of_set])
    read = readings(loaded, "neighbours", list(table.itertuples()), [(0, 0), (1, 1)])
    for row, reading in zip(table.itertuples(), read, strict=True):
        tokens = encode(loaded, row)
        with torch.no_grad():
            output = loaded.model(torch.from_numpy(tokens.ids)[None], output_attentions=True, output_hidden_states=True)
        last = int(tokens.target[0]) - 1
        logprob = output.logits[0].float().log_softmax(-1)
        other = encode(loaded, row, 1)
        margin = sum(float(logprob[at - 1, tokens.ids[at]]) for at in tokens.target)
        margin -= sum(
            float(forward(loaded, [other.ids], [other.target - 1]).log_softmax(-1)[n, other.ids[at]])
            for n, at in enumerate(other.target)
        )
        assert reading.measures["margin"] == pytest.approx(margin, abs=1e-4)
        spans = [(k, y, True) for (_, k), (_, y) in zip(tokens.spans["like"], tokens.spans["like_label"], strict=True)]
        others = zip(tokens.spans["unlike"], tokens.spans["unlike_label"], strict=True)
        spans += [(k, y, False) for (_, k), (_, y) in others]
        spans.sort(key=lambda span: span[0][0])
        assert reading.like.tolist() == [like for _, _, like in spans]
        attention = [
            [float(output.attentions[layer][0, head, last, label].sum()) for _, label, _ in spans]
            for layer, head in [(0, 0), (1, 1)]
        ]
        assert reading.attention == pytest.approx(np.array(attention), abs=1e-5)
        states = output.hidden_states[1][0].float().numpy()  # after the first block
        middle = np.mean([states[item[-1]] for item, _, _ in spans], axis=0)
        query = states[tokens.spans["like"][0][0][-1]] - middle
        cosine = [
            float(
                query @ (states[item[-1]] - middle) / np.linalg.norm(query) / np.linalg.norm(states[item[-1]] - middle)
            )
            for item, _, _ in spans
        ]
        assert reading.similarity[0] == pytest.approx(cosine, abs=1e-4)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("nearest_right", "it goes with those that it resembles rather than with the majority."),
        ("majority_right", "it goes with the majority rather than with those that it resembles."),
        ("last_right", "neither of the two is told apart as what it goes with."),
    ],
)
def test_the_page_says_what_the_answers_go_with(tmp_path, rule, said):
    table = neighbours.table(
        rows(lambda row: row[rule]), attention(0.05), silenced(float), {"layer": 3, "nearest": 1, "agreement": 1.0}
    )
    shown = text_of(render(write_slot(tmp_path / "decoder", neighbours=table)))
    accuracy = {"nearest_right": "1.00", "majority_right": "0.50", "last_right": "0.50"}[rule]
    assert f"Made-up words in Latin letters: accuracy {accuracy}" in shown and said in shown
    assert "Made-up words in katakana: accuracy" not in shown
    assert "States after layer 3, with 1 nearest to vote" in shown
    assert "on 20 prompts (made-up words that share their ending (Latin letters)): harm to accuracy +0.50" in shown
    assert "rank p = 0.05 (floor 0.05)" in shown
    apart = "made-up words that share their ending (Latin letters) (0.05; +0.050)"
    assert f"Beside 19 control sets of as many other heads it is told apart from theirs for {apart}" in shown
    assert "(in brackets rank p, floor 0.05, each kind a test of its own, and the largest" in shown
    assert "The answer is then the majority's in 1.00" in shown
    assert "it is that of the nearest in 0.00" in shown and "10 prompts, too few for a claim)." in shown


def test_a_leaning_to_the_smaller_class_is_said_where_the_model_guesses_beside_the_majority():
    """Right wherever the majority is wrong, a guess where it is right: the nearest, or only the smaller class."""
    table = neighbours.table(
        rows(lambda row: 0.5 if row["majority_right"] else 1.0),
        attention(0.05),
        silenced(float),
        {"layer": 3, "nearest": 1, "agreement": 1.0},
    )
    said = _language(table, "english", "Made-up words in Latin letters")
    assert ". Where the majority is right, it is right in 0.50" in said and "rather than" not in said
    assert "is not told apart from a leaning to the smaller class" in said


def test_agreement_is_counted_apart_where_no_token_is_shared():
    read = rows(lambda row: row["nearest_right"])
    read["shared_like"] = [1.0, 1.0, 0.0, 0.0] * 10  # nothing is shared on the side where the majority is wrong
    alone = "nearest_agreement_against_majority_no_shared_token"
    for share, trials in ((0.0, 20), (0.5, 0)):
        read["shared_like"] = read["shared_like"].clip(lower=share)
        row = (
            neighbours.table(read, attention(), pd.DataFrame(), {})
            .set_index(["condition", "measure"])
            .loc[("forms_latin", alone)]
        )
        assert row["trials"] == trials


def test_the_page_says_that_nothing_was_read(tmp_path):
    shown = text_of(render(write_slot(tmp_path / "decoder", neighbours=None)))
    assert "No labelled demonstrations were read:" in shown


def test_a_sweep_over_the_family_is_not_silenced_here():
    from stages.neighbours import planned

    purposes = ["family", "control", "sweep", "sweep_control"]
    rows = [(purpose, "induction", "mean") for purpose in purposes]
    rows += [("family", "induction", "zero"), ("control", "function", "mean")]
    plan = pd.DataFrame(rows, columns=["purpose", "family", "kind"]).assign(members=1)
    assert planned(plan, "mean").index.tolist() == [0, 1]


def test_heads_that_are_no_members_are_not_silenced_as_induction_heads(tmp_path):
    """The plan silences the best of a family without members as well: they were called induction heads here."""
    plan = pd.DataFrame({"purpose": ["family", "control"], "family": "induction", "kind": "mean", "members": 0})
    assert stage.planned(plan, "mean").empty
    read = rows(lambda row: row["nearest_right"]).assign(attention_like=np.nan, attention_unlike=np.nan)
    table = neighbours.table(read, attention().head(0), pd.DataFrame(), {})
    shown = text_of(render(write_slot(tmp_path / "decoder", neighbours=table)))
    assert "No induction heads are in the plan: their attention was not looked at, nor were they silenced." in shown
    assert "With the induction heads silenced" not in shown


def test_one_item_that_resembles_the_query_stands_beside_whole_classes_that_do():
    """Where the whole class resembles the query, the answer was said to go with the nearest one."""
    from stages.page.sections.neighbours import _one_alone

    row = {"condition": "repeated", "measure": "accuracy", "value": 0.65, "low": 0.47, "high": 0.8, "trials": 20}
    cells = pd.DataFrame([row]).set_index(["condition", "measure"])
    assert "the answer is its label in 0.65 [0.47, 0.80], not told apart from chance." in _one_alone(cells)
    assert _one_alone(cells.assign(low=0.55)).endswith("0.65 [0.55, 0.80], above chance.")
    assert _one_alone(cells.assign(trials=8)).endswith("too few prompts for a claim.")
    assert _one_alone(cells.rename(index={"repeated": "words"})) == ""
