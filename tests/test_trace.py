"""Indirect effects: of the first token that says something, cross-fitted, and refused where no edit arrives."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tiny
from synthetic import record
from test_steer import write_inputs

from stages import trace
from stages.engine.means import solved_means, solved_residuals
from stages.families.family import Tokens
from stages.store import params, paths, tables
from stages.store.errors import UserError
from stages.tasks.icl import task as icl


def prompt(split: str, number: int, function: str = "plural") -> SimpleNamespace:
    return SimpleNamespace(split=split, cluster=f"{function}/{number}", condition=function)


def test_no_prompt_is_scored_with_a_mean_of_its_own_demonstrations():
    for number in range(0, 16, 2):
        row = prompt("a", number)
        assert {trace.half(row), icl.half(row.cluster)} == {"0", "1"}
    assert trace.half(prompt("b", 3)) == ""


def test_means_are_over_the_prompts_of_both_halves_of_split_a_or_of_one(tmp_path, monkeypatch):
    loaded = tiny.make("llama_gqa")
    monkeypatch.chdir(tmp_path)
    paths.model("a").parent.mkdir(parents=True)
    paths.model("a").write_text(record("a", **loaded.anatomy.recorded()))
    groups = {("a", "f", "0"): (1, 4.0), ("a", "f", "1"): (3, 0.0), ("a", "g", "0"): (2, 1.0), ("a", "g", "1"): (0, 0),
              ("b", "f", "0"): (9, 9.0), ("a", "h", "0"): (0, 0), ("a", "h", "1"): (0, 0)}  # fmt: skip
    outputs, residuals = [], []
    for (split, condition, half), (prompts, value) in groups.items():
        row = {"split": split, "role": "clean", "condition": condition, "half": half, "prompts": prompts}
        for layer, head in loaded.anatomy.heads:
            outputs.append(
                row | {"layer": layer, "head": head, "output": [value + layer + head] * 8 if prompts else None}
            )
        for layer in loaded.anatomy.layers:
            residuals.append(row | {"layer": layer, "residual": [value + layer] * 32 if prompts else None})
    tables.OUTPUTS.write(outputs, "a", "icl", asked=len(groups))
    tables.RESIDUALS.write(residuals, "a", "icl", asked=len(residuals))
    means, of_blocks = solved_means("a", "icl"), solved_residuals("a", "icl")
    parts = {("f", ""): 1.0, ("f", "0"): 4.0, ("f", "1"): 0.0, ("g", ""): 1.0, ("g", "0"): 1.0}
    assert set(means) == set(parts) and set(of_blocks) == {"f", "g"}
    for part, value in parts.items():
        assert {head: set(z_K.tolist()) for head, z_K in means[part].items()} == {
            (layer, head): {value + layer + head} for layer, head in loaded.anatomy.heads
        }
    assert all(z_K.untyped_storage().nbytes() == z_K.nbytes for z_K in means["f", ""].values())  # as they travel to Ray
    assert {layer: set(x_D.tolist()) for layer, x_D in of_blocks["f"].items()} == {
        layer: {1.0 + layer} for layer in loaded.anatomy.layers
    }


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
