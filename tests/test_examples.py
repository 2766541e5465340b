"""What cards show of a prompt: the model's own attention, the right tokens kept, nothing chosen by how it looks."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import make

from stages import examples
from stages.families import FAMILIES
from stages.model.attended import Attention
from stages.model.tokens import encode
from stages.statistics.examples import first_counted, near, strip, strongest
from stages.store import paths, tables
from stages.tasks.prompt import Prompt

TEXT = " the cat sees the dog and the cat likes the dog"
PROMPT = Prompt(id="text/long/0000", condition="long", cluster="c", text=TEXT, role="long")


def example(name: str, family: str, most: int = 48):
    attention = Attention(make(name, scale=4.0))
    prompt = replace(PROMPT, role="short") if family == "sink" else PROMPT
    return attention, examples.example(attention, FAMILIES[family], prompt, attention.loaded.anatomy.heads, most)


def weights_of(shown: dict, head: str) -> np.ndarray:
    return np.array(shown["heads"][head]["weights"].split(), dtype=float)


@pytest.mark.parametrize("name", ["gpt2", "llama_gqa", "gemma3", "bert", "modernbert"])
def test_weights_are_the_models_own_of_the_last_query(name):
    attention, shown = example(name, "previous")
    loaded = attention.loaded
    ids = torch.tensor(encode(loaded, PROMPT).ids)[None]
    with torch.no_grad():
        attentions = loaded.model(input_ids=ids, output_attentions=True).attentions
    query = shown["query"][0]
    assert shown["targets"] == [query - 1] and query == ids.shape[1] - (1 if loaded.anatomy.causal else 2)
    for layer, head in loaded.anatomy.heads:
        row = attentions[layer][0, head, query].numpy()
        np.testing.assert_allclose(weights_of(shown, f"L{layer}H{head}"), row[: len(shown["cells"])], atol=6e-4)
        assert shown["heads"][f"L{layer}H{head}"]["on_target"] == pytest.approx(row[query - 1], abs=6e-4)


def test_the_target_of_induction_follows_the_same_word_and_what_is_left_out_is_summed():
    _, whole = example("gpt2", "induction")
    assert [whole["cells"][at] for at in whole["query"]] == ["·dog"] and whole["targets"] == [6]  # ' and', after 'dog'
    _, short = example("gpt2", "induction", most=5)
    assert sum(isinstance(cell, str) for cell in short["cells"]) == 5
    assert short["cells"][0] == "<bos>" and short["cells"][short["targets"][0]] == "·and"
    for head in whole["heads"]:
        assert weights_of(short, head).sum() == pytest.approx(1, abs=0.01)
        assert short["heads"][head]["on_target"] == whole["heads"][head]["on_target"]


def test_a_learned_sink_is_a_cell_and_a_target_where_the_family_says_so():
    _, sink = example("gpt_oss", "sink")
    _, previous = example("gpt_oss", "previous")
    for shown in (sink, previous):
        assert shown["cells"][-1] == examples.SINK
        assert all(weights_of(shown, head).sum() == pytest.approx(1, abs=0.01) for head in shown["heads"])
    last = len(sink["cells"]) - 1
    assert sink["targets"] == [0, last] and last not in previous["targets"]
    assert any(weights_of(sink, head)[-1] > 0.01 for head in sink["heads"])


def test_words_of_several_tokens_are_averaged_and_effects_have_no_target():
    tokens = SimpleNamespace(target=np.array([7, 8]))
    query, targets, learned = examples.asked(FAMILIES["function"], tokens)
    assert query.tolist() == [6] and not len(targets) and not learned
    words = (np.array([1]), np.array([2, 3]), np.array([5]))
    tokens = SimpleNamespace(words=words, arcs={"grammar:obj:dep-to-head": [(1, 0), (1, 2)]})
    query, targets, _ = examples.asked(FAMILIES["grammar:obj:dep-to-head"], tokens)
    assert query.tolist() == [2, 3] and targets.tolist() == [1, 5]


def test_the_prompt_is_the_first_that_counts_whatever_it_shows():
    measured = pd.DataFrame({"prompt": ["p3", "p1", "p2", "p0"], "split": list("bbba"), "recalled": [1, 0.5, 1, 1]})
    assert first_counted(measured, solved_only=False) == "p1"
    assert first_counted(measured, solved_only=True) == "p2"
    assert first_counted(measured.iloc[:0], solved_only=False) == ""


def test_the_strongest_of_every_family_come_first_and_the_budget_is_of_heads():
    rows = [(0, 0, "a", 0.9, True), (0, 1, "a", 0.8, True), (1, 0, "b", 0.2, True), (1, 1, "b", 0.9, False)]
    rows += [(0, 0, "b", 0.1, True)]
    heads = pd.DataFrame(rows, columns=["layer", "head", "family", "score", "member"])
    kept = strongest(heads, 2)
    assert set(zip(kept.layer, kept["head"], kept.family, strict=True)) == {(0, 0, "a"), (1, 0, "b"), (0, 0, "b")}
    assert len(strongest(heads, 3)) == 4 and strongest(heads.assign(member=False), 3).empty


@pytest.mark.parametrize("number", [8, 20, 100])
def test_kept_tokens_hold_query_targets_and_the_first(number):
    kept = near(60, np.array([50]), np.array([20, 21]), number)
    assert len(kept) == min(number, 60) and {0, 20, 21, 50} <= set(kept.tolist()) and (np.diff(kept) > 0).all()
    cells, places = strip([str(at) for at in range(60)], kept)
    assert np.concatenate(places).tolist() == list(range(60))
    assert all(len(at) == (1 if isinstance(cell, str) else cell) for cell, at in zip(cells, places, strict=True))


@pytest.mark.parametrize(("kind", "why"), [("decoder", "no head is a member"), ("vision", "patches")])
def test_a_model_without_examples_says_why(kind, why, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(examples.params, "load", lambda: SimpleNamespace(examples=SimpleNamespace(heads=4, tokens=8)))
    monkeypatch.setattr(examples.records, "read", lambda slot: {"kind": kind})
    tables.HEADS.write(pd.DataFrame(columns=tables.HEADS.names), "a")
    examples.main("a")
    written = json.loads(paths.examples("a").read_text())
    assert written["families"] == {} and why in written["reason"]
