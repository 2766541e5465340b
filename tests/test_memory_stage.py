"""Stage memory as a whole: a model in which nothing is known says so; a planted one is looked up, edited and missed."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from synthetic import record
from tiny import make

from stages import memory as stage
from stages import tasks
from stages.model.forward import forward
from stages.model.mlp import writers
from stages.statistics import memory
from stages.store import params, paths, tables
from stages.store.errors import UserError
from stages.tasks.facts.settings import Settings

ROOT = Path(__file__).parents[1]


@pytest.fixture()
def asked(tmp_path, monkeypatch):
    content = yaml.safe_load((ROOT / "params.quick.yaml").read_text(encoding="utf-8"))
    section = yaml.safe_load((ROOT / "tests/params.yaml").read_text(encoding="utf-8"))["tasks"]["facts"]
    section |= {"path": str(ROOT / section["path"]), "known": 4, "rare": 2, "invented": 2, "words": 2, "shots": 2}
    prompts = tasks.of("facts").build(Settings(**section), seed=17)
    text = tasks.of("text").build(tasks.of("text").settings(**content["tasks"]["text"] | {"tokens": 40}), seed=17)
    settings = params.load(ROOT / "params.quick.yaml")
    monkeypatch.chdir(tmp_path)
    for name, of_task in (("facts", prompts), ("text", text)):
        tables.ASKED.write([asdict(prompt) for prompt in of_task], name)
    deep = settings.memory.model_copy(
        update={"true_facts": 2, "together": (2,), "descended": 2, "traced": 2, "layers": (0,), "kl": (0.5,)}
    )
    return settings.model_copy(update={"memory": deep})


@pytest.fixture()
def swapped(monkeypatch):
    """The next fact's output is put in, though a random model says the same of all of them: all parts run."""
    monkeypatch.setattr("stages.model.lookup.donors", lambda asked, groups: np.roll(np.arange(len(groups)), -1))


@pytest.mark.parametrize(("layers", "why"), [((0, 99), "99: no such layer; slot a has 0, 1, 2"), ((1,), "1: no MLP")])
def test_layers_that_cannot_be_written_to_are_refused(asked, layers, why, monkeypatch):
    """They were left out in silence: a study of layers that nobody looked at."""
    loaded = make("llama_gqa", scale=3.0)
    found = writers(loaded) | {1: "no MLP"}
    asked = asked.model_copy(update={"memory": asked.memory.model_copy(update={"layers": layers})})
    asked = asked.model_copy(update={"tasks": asked.tasks.model_copy(update={"facts": "asked"})})
    monkeypatch.setattr(stage.params, "load", lambda: asked)
    monkeypatch.setattr("stages.model.load.load", lambda slot, **how: loaded)
    monkeypatch.setattr("stages.model.mlp.writers", lambda loaded: found)
    monkeypatch.setattr(stage.records, "read", lambda slot: {"kind": "decoder"})
    with pytest.raises(UserError, match=f"params.yaml: memory.layers: {why}"):
        stage.main("a")


def test_where_nothing_is_known_nothing_is_looked_up(asked):
    loaded = make("llama_gqa", scale=3.0)
    prompts = stage.Prompts(loaded, tables.ASKED.read("facts"))
    rows, chosen = stage.look_up(loaded, writers(loaded), prompts, asked)
    assert set(chosen) == {"why"} and {row["what"] for row in rows} == {"intact"}
    table = memory.table(pd.DataFrame(rows), chosen)
    assert (table.value == 0).all() and memory.metrics(table) == {}
    stage._write("a", rows, chosen, "")
    assert tables.MEMORY.reason("a") == "not one of 2 known facts of split a is answered right"


def test_where_no_known_fact_can_be_read_nothing_is_looked_up(asked, swapped):
    loaded, table = make("llama_gqa", scale=3.0), tables.ASKED.read("facts")
    for split, there in (("a", 0), ("b", 2)):
        lacking = table[(table.category != "known") | (table.split != split)]
        prompts = stage.Prompts(loaded, lacking)
        for number, (row, tokens) in enumerate(zip(prompts.rows, prompts.tokens, strict=True)):
            if row.category == "known":  # what the model says counts as right
                at = tokens.target[0]
                said = forward(loaded, [tokens.ids], [np.array([at - 1])]).argmax()
                prompts.tokens[number] = replace(
                    tokens, ids=np.concatenate([tokens.ids[:at], [int(said)]]), target=tokens.target[:1]
                )
        rows, chosen = stage.look_up(loaded, writers(loaded), prompts, asked)
        assert chosen == {"why": f"no known fact of split {split} is asked that the model can read"}
        assert len({row["cluster"] for row in rows if row["what"] == "intact"}) == there
        stage._write("a", rows, chosen, "")
        assert tables.MEMORY.reason("a") == chosen["why"]


@pytest.mark.parametrize("name", ["gemma3", "gpt2"])  # gated, a norm after it; plain, Conv1D, biases
def test_every_part_is_written_from_one_layer(asked, swapped, name):
    """What a random model says counts as known here: all parts run, and the adapters hold what was inserted."""
    loaded = make(name, scale=3.0)
    found = writers(loaded)
    table = tables.ASKED.read("facts")
    prompts = stage.Prompts(loaded, table)
    known = [n for n, row in enumerate(prompts.rows) if row.category == "known" and row.role == "main"]
    for n in known:
        tokens = prompts.tokens[n]
        ids = tokens.ids[: tokens.target[0]]
        best = int(forward(loaded, [ids], [np.array([len(ids) - 1])]).argmax())
        special = tokens.special[: len(ids) + 1]
        prompts.tokens[n] = replace(tokens, ids=np.append(ids, best), special=special, target=tokens.target[:1])
    rows, chosen = stage.look_up(loaded, found, prompts, asked)
    assert {"mlp", "attention", "mlp_donor", "attention_donor"} <= set(chosen)
    inserted, of_insert = stage.insert("decoder", loaded, found, prompts, asked, chosen, {"name": "tiny"})
    rows += of_insert + stage.miss(loaded, found, prompts, asked, chosen, inserted)
    stage._write("decoder", rows, chosen, "")
    written = tables.MEMORY.read("decoder")
    assert {"interchange", "mean", "restored", "noise", "promoted"} <= set(written[written.part == "lookup"].what)
    edits = written[written.part == "insert"]
    assert {"edit", "identity", "random", "joint-2", "summed-2", "descent", "true", "adapter", "kl-0.5"} <= set(
        edits.what
    )
    assert set(edits[edits.layer != chosen["mlp"]].what) <= {"edit"}
    assert set(edits[edits.measure == "subject_kl"].what) == {"edit", "kl-0.5"}
    assert set(written[written.part == "miss"].what) == {
        "main", "shown", "main_after", "shown_after", "score"
    }  # fmt: skip
    for name in ("one", "together"):
        config = json.loads((paths.adapters("decoder") / name / "adapter_config.json").read_text())
        assert config["r"] == config["lora_alpha"] and config["target_modules"] == [found[chosen["mlp"]].path]
    exact = edits[edits.what == "adapter"].set_index("measure").value
    assert exact["second_singular"] < 1e-4 and exact["reload"] < 1e-3
    read = memory.table(written, chosen)
    assert set(memory.metrics(read)["memory"]) == {"lookup", "insert", "miss"}


def test_experts_say_why_not(asked, monkeypatch):
    from stages.model import load

    paths.model("decoder").parent.mkdir(parents=True)
    paths.model("decoder").write_text(record("decoder"))
    facts = Settings(known=4, rare=2, invented=2, words=2, shots=2, path="words")
    with_facts = asked.model_copy(update={"tasks": asked.tasks.model_copy(update={"facts": facts})})
    monkeypatch.setattr(params, "load", lambda: with_facts)
    monkeypatch.setattr(load, "load", lambda slot, **how: make("mixtral", scale=3.0))
    stage.main("decoder")
    assert tables.MEMORY.read("decoder").empty
    assert "no one matrix is the store" in tables.MEMORY.reason("decoder")
