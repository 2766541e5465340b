"""Indirect effects: of the first token that says something, cross-fitted, and refused where no edit arrives."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tiny
from test_steer import write_inputs

from stages import trace
from stages.families.family import Tokens
from stages.store import params, tables
from stages.store.errors import UserError


def prompt(split: str, number: int, function: str = "plural") -> SimpleNamespace:
    return SimpleNamespace(split=split, cluster=f"{function}/{number}", condition=function)


def test_no_prompt_is_scored_with_a_mean_of_its_own_demonstrations():
    for number in range(0, 16, 2):
        row = prompt("a", number)
        assert trace.half(row) in ("a0", "a1") and trace.half(row) != f"a{trace._side(row.cluster)}"
    assert trace.half(prompt("b", 3)) == "a"


def test_means_are_over_solved_clean_prompts_of_their_part_of_split_a():
    rows, clusters = [], {}
    for number in range(8):
        for solved in (True, False):
            name = f"{number}{solved}"
            clusters[name] = f"plural/{number}"
            rows.append({"prompt": name, "split": "ab"[number % 2], "condition": "plural", "solved": solved})
    parts = trace.fitted(pd.DataFrame(rows), pd.Series(clusters))
    whole, sides = ["0True", "2True", "4True", "6True"], (["0True", "4True"], ["2True", "6True"])
    assert parts == {("plural", "a"): whole, ("plural", "a0"): sides[0], ("plural", "a1"): sides[1]}


def test_functions_that_are_left_out_are_said_with_the_reason(tmp_path, monkeypatch):
    accuracy = pd.Series({"plural": 0.9, "past": 0.3, "upper": 0.5, "last": 0.5})
    traced = {("plural", "a"), ("plural", "b"), ("upper", "b"), ("past", "a")}
    why = trace.left_out(accuracy, 0.5, traced)
    assert why["past"] == "accuracy with demonstrations is 0.30, below 0.5" and "plural" not in why
    assert why["upper"].startswith("no shuffled prompt of split a can be traced")
    assert why["last"].startswith("no shuffled prompt of split a or b can be traced")
    monkeypatch.chdir(tmp_path)
    tables.INDIRECT.noting(skipped=why).write([], "a")
    assert tables.INDIRECT.skipped("a") == why and tables.INDIRECT.reason("a") == ""
    tables.INDIRECT.write([], "a")
    assert tables.INDIRECT.skipped("a") == {}


def test_the_base_is_the_probability_of_the_token_after_the_blank():
    import torch

    from stages.model.forward import forward

    loaded = tiny.make("llama_gqa", scale=4.0)
    ids = loaded.tokenizer("Q : the old\nA :  red", add_special_tokens=False).input_ids
    assert loaded.tokenizer.decode(ids[-2:-1]).strip() == ""
    tokens = Tokens("p", "shuffled", np.array(ids), np.zeros(len(ids), bool), np.arange(len(ids) - 2, len(ids)))
    means = {(layer, head): torch.ones(8) for layer, head in loaded.anatomy.heads}
    row = SimpleNamespace(id="p", split="b", cluster="plural/1", condition="plural")
    table = trace.indirect(loaded, [(row, tokens)], [means])
    logits_1V = forward(loaded, [np.array(ids)], [np.array([len(ids) - 2])])
    assert table.base.iloc[0] == pytest.approx(float(logits_1V.softmax(1)[0, ids[-1]]), abs=1e-6)
    assert table.effect.abs().max() > 0


def test_prompts_that_run_together_have_the_effects_that_each_has_alone():
    import torch

    loaded = tiny.make("llama_gqa", scale=4.0)
    rng, pairs = np.random.default_rng(0), []
    for number, length in enumerate((40, 52, 9)):
        ids = rng.integers(5, 90, length)
        tokens = Tokens(f"p{number}", "shuffled", ids, np.zeros(length, bool), np.arange(length - 2, length))
        pairs.append((SimpleNamespace(id=f"p{number}", **vars(prompt("b", number))), tokens))
    means = [{head: torch.full((8,), 1.0 + number) for head in loaded.anatomy.heads} for number in range(3)]
    alone = [trace.indirect(loaded, [pair], [of]) for pair, of in zip(pairs, means, strict=True)]
    table, expected = trace.indirect(loaded, pairs, means), pd.concat(alone, ignore_index=True)
    pd.testing.assert_frame_equal(table, expected, atol=1e-6)
    assert table.groupby("prompt").effect.apply(lambda of: of.abs().max()).min() > 1e-4


def test_a_model_in_which_no_edit_arrives_is_refused(tmp_path, monkeypatch):
    loaded = tiny.make("llama_gqa", scale=3.0)
    asked = params.Trace(prompts=4, solved_above=0.5)
    settings = SimpleNamespace(trace=asked, tasks=SimpleNamespace(icl=object()))
    monkeypatch.setattr(trace.params, "load", lambda: settings)
    monkeypatch.setattr("stages.model.load.load", lambda *args, **kwargs: loaded)
    monkeypatch.chdir(tmp_path)
    write_inputs(loaded, {})
    trace.main("decoder")
    assert tables.INDIRECT.read("decoder").effect.abs().max() > 0
    monkeypatch.setattr("stages.model.score.editing", lambda *args: nullcontext())
    with pytest.raises(UserError, match="does not arrive; this model cannot be traced"):
        trace.main("decoder")
