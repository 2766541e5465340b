"""Steering on tiny models: what is edited, which heads are controls, choices, and what an edit without effect is."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from defaults import of_the_default_run
from gguf import GGUFReader
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from synthetic import record
from tiny import make

from stages import steer
from stages.model import control_vector
from stages.model.demonstrated import at_last
from stages.model.forward import forward
from stages.model.intervene import Edit, editing
from stages.model.score import residuals_after
from stages.model.tokens import encode
from stages.model.vectors import Parts
from stages.statistics.control import Pool
from stages.statistics.vector_heads import Ranking, Setting, ranked
from stages.statistics.vector_heads import ranking as ranking_of
from stages.steer import Answering, Vectors, choose
from stages.store import params, paths, records, tables
from stages.store.errors import UserError

ROOT = Path(__file__).parents[1]
HEADS = [(layer, head) for layer in range(3) for head in range(4)]


def prompt_rows(*texts: str, role: str = "zero_shot", split: str = "a") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": f"icl/f/{number:02}-00#{role}", "split": split, "role": role, "condition": "f",
            "cluster": f"f/{number}", "text": text, "targets": [" the cat"], "relations": [], "ordinals": [],
            "tokens": 0, "bos": True,
        }
        for number, text in enumerate(texts)
    )  # fmt: skip


def ranking(draws: int = 5, kept: int = 3) -> Ranking:
    order = [(1, 2), (2, 0), (0, 1), (1, 1), *(head for head in HEADS if head not in {(1, 2), (2, 0), (0, 1), (1, 1)})]
    return Ranking(order, Pool(tuple(HEADS), dict.fromkeys(range(3), "global"), {"function": set(order[:kept])}),
                   draws, 17, "steer/decoder")  # fmt: skip


def vectors(loaded, draws: int = 5) -> Vectors:
    generator = torch.Generator().manual_seed(0)
    size = loaded.anatomy.layers[0].head_size
    means = {head: torch.randn(size, generator=generator) for head in loaded.anatomy.heads}
    averages = {layer: torch.randn(32, generator=generator) for layer in range(3)}
    return Vectors(loaded, ranking(draws), Parts(loaded, means), averages, [(0, 0), (2, 0), (0, 1)])


def test_control_sets_hold_no_head_of_the_vector_nor_any_that_could_have_been_in_it():
    made = ranking()
    for number in (1, 2, 3):
        sets = made.control_sets(number)
        assert len(set(sets)) == 5 and all(len(heads) == number for heads in sets)
        assert not {head for heads in sets for head in heads} & set(made.heads[:3])
        assert sets == ranking().control_sets(number)  # the same heads for every function
    setting = Setting("control", heads=2, draw=4)
    assert made.of(setting) == made.control_sets(2)[3] and made.of(Setting("heads", heads=2)) == made.heads[:2]
    assert made.matching(setting).endswith("2 of 2 of the same attention kind")
    assert made.matching(Setting("heads", heads=2)) == ""


def test_where_few_heads_are_left_control_sets_hold_some_that_were_tried_and_say_so():
    made = ranking(draws=3, kept=11)
    said = [made.matching(Setting("control", heads=2, draw=draw)) for draw in (1, 2, 3)]
    assert not {head for heads in made.control_sets(2) for head in heads} & set(made.heads[:2])
    assert any("of the heads tried for the vector" in text for text in said)


def test_a_model_with_too_few_other_heads_has_no_control_sets():
    assert ranking(draws=19).control_sets(11) == []


def test_answers_are_those_of_the_model_with_the_heads_written_in_place():
    loaded = make("llama_gqa", scale=3.0)
    rows = prompt_rows("Q: the dog\nA:", "Q: a red house of the river\nA:")
    tested = vectors(loaded)
    settings = [Setting("none"), Setting("control", heads=2, draw=1), Setting("held_out", heads=2)]
    settings.append(Setting("layer_average", layer=1, strength=2.0))
    outcomes = Answering(tested, rows).under(settings)
    assert [outcome.setting for outcome in outcomes] == settings * 2
    for outcome in outcomes:
        tokens = encode(loaded, outcome.prompt)
        with by_hand(loaded, tested, outcome.setting, int(tokens.target[0]) - 1):
            logits = forward(loaded, [tokens.ids], [tokens.target - 1]).log_softmax(1)
        expected = logits[torch.arange(len(tokens.target)), torch.from_numpy(tokens.ids[tokens.target])]
        np.testing.assert_allclose(outcome.scored.logprob, expected, atol=1e-5)


class by_hand:
    """A setting at one position of a full pass, by hooks written out here."""

    def __init__(self, loaded, tested, setting, position):
        self.loaded, self.tested, self.setting, self.position, self.handles = loaded, tested, setting, position, []

    def __enter__(self):
        setting, layers = self.setting, self.loaded.anatomy.layers
        for layer, head in self.tested.heads(setting) if setting.vector in ("control", "held_out") else []:

            def write(module, args, layer=layer, head=head, size=layers[0].head_size):
                args[0][:, self.position, head * size : (head + 1) * size] = self.tested.parts.means[layer, head]

            module = self.loaded.model.get_submodule(layers[layer].projection)
            self.handles.append(module.register_forward_pre_hook(write))
        if setting.vector == "layer_average":

            def add(module, args, output):
                residual = output[0] if isinstance(output, tuple) else output
                residual[:, self.position] += setting.strength * self.tested.averages[setting.layer]

            module = self.loaded.model.get_submodule(layers[setting.layer].block)
            self.handles.append(module.register_forward_hook(add))

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()


def test_an_edit_that_changes_no_logit_is_an_error():
    loaded = make("gpt2", scale=3.0)
    answering = Answering(vectors(loaded), prompt_rows("Q: the dog\nA:", "Q: a cat\nA:"))
    with pytest.raises(UserError, match="changed no logit"):
        answering.under([Setting("function", layer=1, strength=0.0, heads=2)])


def test_the_number_of_heads_and_the_layer_are_chosen_by_accuracy_then_by_likelihood(monkeypatch):
    loaded = SimpleNamespace(anatomy=SimpleNamespace(layers=dict.fromkeys(range(3))))
    answering = SimpleNamespace(vectors=SimpleNamespace(ranking=ranking(), loaded=loaded, elsewhere=HEADS))

    def under(settings):
        """Two heads answer, three only likelier; of added vectors none answers, layer 2 at strength 1 is likeliest."""
        for setting in settings:
            likely = -1.0 if (setting.heads, setting.layer, setting.strength) in ((3, -1, 0.0), (2, 2, 1.0)) else -5.0
            likely = -1.0 if setting == Setting("layer_average", 0, 2.0) else likely
            scored = SimpleNamespace(solved=setting == Setting("heads", heads=2), logprob=np.array([likely]))
            yield steer.Outcome((), setting, scored)

    answering.under = lambda settings: list(under(settings))
    asked = SimpleNamespace(heads=(1, 2, 3), layer_step=2, strengths=(1.0, 2.0), random=2)
    tried, chosen = choose(answering, asked)
    assert len(tried) == 3 + 2 * 2 * 2 + 2
    assert chosen[:5] == [Setting("none"), Setting("heads", heads=2), Setting("function", 2, 1.0, 2),
                          Setting("layer_average", 0, 2.0), Setting("layerwise", -1, 1.0, 2)]  # fmt: skip
    random = [Setting("random", 2, 1.0, 2, draw) for draw in range(1, 3)]
    assert chosen[5] == Setting("held_out", heads=2)
    assert chosen[6:] == random + [Setting("control", heads=2, draw=draw) for draw in range(1, 6)]


def test_random_vectors_have_the_length_of_the_sum_and_layerwise_sums_make_it_up():
    tested = vectors(make("llama_gqa"))
    sum_D = tested.added(Setting("function", 1, 1.0, 3))[1]
    drawn = [tested.added(Setting("random", 1, 1.0, 3, draw))[1] for draw in (1, 2, 1)]
    assert all(abs(float(vector.norm() / sum_D.norm()) - 1) < 1e-5 for vector in drawn)
    assert torch.equal(drawn[0], drawn[2]) and not torch.allclose(drawn[0], drawn[1])
    layerwise = tested.edit(Setting("layerwise", strength=2.0, heads=3)).added
    assert sorted(layerwise) == sorted({layer for layer, _ in tested.ranking.heads[:3]})
    torch.testing.assert_close(sum(layerwise.values()), 2 * sum_D)


def test_heads_are_ranked_on_split_a_each_function_counting_the_same():
    rows = [("f", "a", 0, 1.0)] * 1 + [("f", "a", 1, 0.0)] + [("g", "a", 0, 0.0)] * 3 + [("g", "a", 1, 0.8)] * 3
    rows += [("f", "b", 1, 9.0)]
    traced = pd.DataFrame(rows, columns=["function", "split", "head", "effect"]).assign(layer=0)
    assert ranked(traced) == [(0, 0), (0, 1)]


def test_as_many_heads_as_are_ever_tried_are_no_controls():
    traced = pd.DataFrame({"layer": head[0], "head": head[1], "effect": -n} for n, head in enumerate(HEADS[::-1]))
    asked = SimpleNamespace(heads=(1, 3, 2), draws=4)
    made = ranking_of(traced.assign(function="f", split="a"), dict.fromkeys(range(3), "global"), asked, 17, "steer/d")
    assert made.heads == HEADS[::-1] and made.pool.heads == tuple(HEADS)
    assert not {head for heads in made.control_sets(1) for head in heads} & set(HEADS[-3:])


def test_the_intact_models_answers_with_demonstrations_are_those_to_the_same_queries():
    zero_shot = prompt_rows("Q: a\nA:", "Q: of\nA:", split="b")
    clean = prompt_rows("Q: a\nA: a\n\nQ: a\nA:", "x", "y", role="clean", split="b")
    outputs = pd.DataFrame({"prompt": clean.id, "solved": [True, False, True]})
    rows = steer._demonstrated("f", zero_shot, clean, outputs)
    assert [(row["prompt"], row["correct"]) for row in rows] == [(clean.id[0], True), (clean.id[1], False)]
    assert all(row["context"] == "clean" and row["chosen"] and row["vector"] == "none" for row in rows)


@pytest.mark.parametrize("name", ["gemma3", "gpt2"])
def test_mean_residuals_are_those_after_each_block_at_the_last_prompt_token(name, monkeypatch):
    monkeypatch.setattr("stages.model.sharing.SHARED", 4)
    loaded = make(name, scale=3.0)
    rows = prompt_rows("Q: the cat\nA: a\n\nQ: dog\nA:", "Q: the cat\nA: a\n\nQ: a red house\nA:", "Q: on\nA:")
    tokens = [encode(loaded, row) for row in rows.itertuples()]
    made, seen = residuals_after(loaded, tokens), at_last(loaded, tokens).residuals
    for number, prompt in enumerate(tokens):
        at = int(prompt.target[0]) - 1
        with torch.no_grad():
            states = loaded.model.base_model(
                input_ids=torch.from_numpy(prompt.ids[: at + 1])[None], output_hidden_states=True
            ).hidden_states
        for layer in (0, 1):  # what comes after the last block is normalised there
            for of_blocks in (made, seen):
                torch.testing.assert_close(of_blocks[layer][number], states[layer + 1][0, -1], atol=1e-5, rtol=1e-4)


def write_inputs(loaded, skipped: dict[str, str]) -> None:
    """Prompts, head outputs and indirect effects of one function f, on both splits, under data/."""
    shown = "Q: the\nA: a\n\nQ: dog\nA:"
    prompts = pd.concat(
        prompt_rows(text, text.replace("dog", "cat"), role=role, split=split).assign(
            id=lambda table, split=split: table.id.str.replace("f/", f"f/{split}")
        )
        for split in "ab"
        for role, text in (("clean", shown), ("shuffled", shown.replace("a\n", "of\n")), ("zero_shot", "Q: dog\nA:"))
    )
    prompts = prompts.assign(category="")[tables.PROMPTS.names]
    tables.ASKED.write(prompts, "icl")
    generator = np.random.default_rng(0)
    clean = prompts[prompts.role == "clean"].rename(columns={"id": "prompt"})
    tables.SOLVED.write(clean.assign(solved=clean.prompt.str.startswith("icl/f/a")), "decoder", "icl")
    group = {"split": "a", "role": "clean", "condition": "f", "half": "0", "prompts": 2}
    sizes = {number: layer.head_size for number, layer in loaded.anatomy.layers.items()}
    outputs = [group | {"layer": at, "head": head, "output": generator.normal(size=sizes[at])} for at, head in HEADS]
    residuals = [group | {"layer": layer, "residual": generator.normal(size=32)} for layer in sizes]
    tables.OUTPUTS.write(outputs, "decoder", "icl")
    tables.RESIDUALS.write(residuals, "decoder", "icl")
    traced = [
        {"function": "f", "prompt": "p", "split": "a", "cluster": "c", "layer": layer, "head": head, "base": 0.0,
         "effect": 0.1 * layer + head} for layer, head in HEADS
    ]  # fmt: skip
    tables.INDIRECT.noting(skipped=skipped).write(traced, "decoder")
    paths.model("decoder").parent.mkdir(parents=True)
    paths.model("decoder").write_text(record("decoder", **loaded.anatomy.recorded()))


def test_the_stage_writes_outcomes_vectors_and_what_is_left_out(tmp_path, monkeypatch):
    loaded = make("llama_gqa", scale=3.0)
    asked = params.Steer(
        heads=(1, 2), strengths=(1.0,), layer_step=2, choose=2, zero_shot=2, shuffled=1, natural=0, random=5, draws=3
    )
    trace = params.Trace(prompts=2, solved_above=0.5)
    settings = SimpleNamespace(steer=asked, trace=trace, seed=17, tasks=[], left_out=lambda stage: "")
    monkeypatch.setattr(steer.params, "load", lambda: settings)
    monkeypatch.setattr("stages.model.load.load", lambda *args, **kwargs: loaded)
    monkeypatch.chdir(tmp_path)
    write_inputs(loaded, {"successor": "accuracy 0.46", "f": "no shuffled prompt of split b can be traced"})
    steer.main("decoder")
    table = tables.STEERING.read("decoder")
    assert tables.STEERING.skipped("decoder") == {"successor": "accuracy 0.46"}  # f was steered all the same
    chosen = table[table.chosen]
    assert set(chosen.split) == {"b"} and set(table[~table.chosen].split) == {"a"}
    counts = chosen.groupby(["context", "vector"]).size()
    assert counts["zero_shot"].to_dict() == {"control": 6, "function": 2, "heads": 2, "layer_average": 2, "none": 2,
                                              "layerwise": 2, "random": 2 * 5}  # fmt: skip
    assert counts["shuffled", "control"] == 3 and not chosen[chosen.context == "clean"].correct.any()
    vector = chosen[chosen.vector == "heads"].iloc[0]
    assert vector.names == " ".join(["L2H3", "L1H3"][: vector["heads"]])
    assert not chosen[chosen.vector == "control"].names.str.contains("L2H3|L1H3").any()
    written = load_file(paths.vectors("decoder"))
    assert set(written) == {"f.function", "f.layerwise", "f.layer_average"}
    with safe_open(paths.vectors("decoder"), "pt") as file:
        provenance = json.loads(file.metadata()["provenance"])
    assert provenance["model"]["files"] == records.read("decoder")["files"]
    made = provenance["vectors"]
    assert all(x.shape == (len(made[name]["layers"]), 32) for name, x in written.items())
    assert made["f.layerwise"]["layers"] == sorted({int(name[1]) for name in vector.names.split()})
    assert written["f.layerwise"].sum(0).allclose(written["f.function"][0], atol=1e-6)
    exported = json.loads((paths.control_vectors("decoder") / "provenance.json").read_text())
    assert {Path(file).stem for file in exported} == {name for name, of in made.items() if min(of["layers"])}
    for file in exported:
        name = Path(file).stem
        kept = control_vector.read(paths.control_vectors("decoder") / file)
        assert list(kept) == made[name]["layers"] == exported[file]["layers"]
        np.testing.assert_array_equal(np.stack(list(kept.values())), written[name] * made[name]["strength"])
    first = tables.STEERING.path("decoder").read_bytes()
    steer.main("decoder")
    assert tables.STEERING.path("decoder").read_bytes() == first


def test_a_control_vector_is_read_back_with_its_block_and_says_what_it_is(tmp_path):
    vector = np.arange(8, dtype=np.float32)
    vectors = {5: -vector, 3: vector}
    control_vector.write(tmp_path / "v.gguf", vectors, "gemma3", 18, {"function": "capitalize"})
    reader = GGUFReader(tmp_path / "v.gguf")
    assert [(tensor.name, tensor.tensor_type.name, list(tensor.shape)) for tensor in reader.tensors] == [
        ("direction.3", "F32", [8]),
        ("direction.5", "F32", [8]),
    ]
    fields = {name: reader.fields[name].contents() for name in reader.fields}
    assert fields["general.architecture"] == "controlvector" and fields["controlvector.layer_count"] == 18
    assert fields["controlvector.model_hint"] == "gemma3" and fields["controlvector.function"] == "capitalize"
    read = control_vector.read(tmp_path / "v.gguf")
    np.testing.assert_array_equal(np.stack([read[3], read[5]]), [vector, -vector])
    with pytest.raises(ValueError, match="block 0"):
        control_vector.write(tmp_path / "w.gguf", vectors | {0: vector}, "gemma3", 18, {})


def recipe() -> dict:
    """Run what README gives for a vector; return its names: `loaded`, whose passes it now steers, and the others."""
    (code,) = re.findall(r"```python\n(import json\n.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    return names


def next_token(loaded, ids: list[int]) -> int:
    """Return what the model says next, by transformers alone."""
    with torch.no_grad():
        return int(loaded.model(torch.tensor([ids], device=loaded.device)).logits[0, -1].argmax())


def test_the_recipe_of_the_readme_adds_the_vector_at_the_last_token(tmp_path, monkeypatch, capsys):
    """Its two lines are the next token without and with the vector: a large one, so that it decides."""
    loaded = make("llama_gqa", scale=3.0)
    vector = 50 * torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    note = {"vectors": {"capitalize.layerwise": {"layers": [0, 1], "strength": 2.0, "heads": 2}}}
    monkeypatch.chdir(tmp_path)
    paths.vectors("decoder").parent.mkdir(parents=True)
    save_file({"capitalize.layerwise": vector}, paths.vectors("decoder"), {"provenance": json.dumps(note)})
    monkeypatch.setattr("stages.model.load.load", lambda slot: loaded)
    ids = loaded.tokenizer("Q: garden\nA:", return_tensors="pt").input_ids
    expected = [loaded.model(ids).logits[0, -1].argmax()]
    with editing(loaded, [Edit(added={0: 2 * vector[0], 1: 2 * vector[1]})], ids.shape[1] - 1):
        expected.append(loaded.model(ids).logits[0, -1].argmax())
    recipe()
    assert capsys.readouterr().out.splitlines() == [loaded.tokenizer.decode(token) for token in expected]
    assert expected[0] != expected[1]


def test_the_recipe_of_the_readme_says_what_the_stage_says(tmp_path, monkeypatch):
    """Next tokens under the exported vector, prompt by prompt: those that the stage scores."""
    loaded = make("llama_gqa", scale=3.0)
    made, prompts = vectors(loaded), prompt_rows("the cat", "a dog sat", "on the mat", "cat", "dog the dog")
    setting = Setting("layer_average", layer=1, strength=0.5)
    told = Answering(made, prompts).under([Setting("none"), setting])
    monkeypatch.chdir(tmp_path)
    note = {"vectors": {"capitalize.layerwise": {"layers": [1], "strength": 0.5, "heads": 0}}}
    paths.vectors("decoder").parent.mkdir(parents=True)
    added = {"capitalize.layerwise": made.added(setting)[1][None]}
    save_file(added, paths.vectors("decoder"), {"provenance": json.dumps(note)})
    monkeypatch.setattr("stages.model.load.load", lambda slot: loaded)
    read = [encode(loaded, row).ids for row in prompts.itertuples()]
    asked = [ids[: len(ids) - 2].tolist() for ids in read]  # the answer is two tokens: the cat
    plain = [next_token(loaded, ids) for ids in asked]
    recipe()
    steered = [next_token(loaded, ids) for ids in asked]
    best = [int(outcome.scored.best[0]) for outcome in told]
    assert (plain, steered) == (best[::2], best[1::2]) and plain != steered and len(set(steered)) > 1


@of_the_default_run
@pytest.mark.skipif(not (ROOT / paths.vectors("decoder")).is_file(), reason="no run of the pipeline lies in data/")
def test_on_the_decoder_the_recipe_changes_the_next_token_as_the_table_says(monkeypatch, capsys):
    """On the prompts of split b whose answer is one token: right with the vector where the table says so, no other."""
    monkeypatch.chdir(ROOT)
    if tables.STEERING.reason("decoder"):
        pytest.skip(f"nothing was steered: {tables.STEERING.reason('decoder')}")
    told = tables.STEERING.read("decoder")
    told = told[told.chosen & (told.context == "zero_shot") & (told.function == "capitalize")]
    if told.empty:
        pytest.skip("capitalize, of which README speaks, was not steered")
    asked = tables.ASKED.read("icl").set_index("id")
    said = {vector: told[told.vector == vector].set_index("prompt").correct for vector in ("none", "layerwise")}
    loaded = recipe()["loaded"]
    answers = {
        name: loaded.tokenizer(asked.targets[name][0], add_special_tokens=False)["input_ids"]
        for name in said["none"].index
    }
    short = [name for name, answer in answers.items() if len(answer) == 1]
    assert len(short) >= 5
    right = {
        name: next_token(loaded, loaded.tokenizer(asked.text[name])["input_ids"]) == answers[name][0] for name in short
    }
    assert right == said["layerwise"][short].to_dict()
    assert sum(right.values()) > said["none"][short].sum()
    first, second = capsys.readouterr().out.splitlines()  # README's own word
    assert first != second == " Garden"


def test_without_a_traced_function_the_stage_says_why(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tables.INDIRECT.write_empty("decoder", why="no function")
    paths.model("decoder").parent.mkdir(parents=True)
    paths.model("decoder").write_text(record("decoder"))
    monkeypatch.setattr(steer.params, "load", lambda: SimpleNamespace(left_out=lambda stage: ""))
    steer.main("decoder")
    assert tables.STEERING.reason("decoder") == "no function" and paths.vectors("decoder").exists()
