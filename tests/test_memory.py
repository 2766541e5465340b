"""The MLP as a store: its writer is found, a planted store is read and edited exactly, a random model holds nothing."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import UNUSUAL, make

from stages.facts import looked_up
from stages.facts.inserted import Insertion
from stages.families.family import Tokens
from stages.model import adapter, lookup, misses, rank_one
from stages.model.forward import forward
from stages.model.mlp import Writer, keys, storing, writers
from stages.model.score import Scored
from stages.page import inputs
from stages.page.section import Context
from stages.page.sections.memory import SECTION
from stages.statistics import memory
from stages.tasks.facts.task import ASKED

SUBJECTS = "cat dog bird house tree river old new red big".split()
ANSWERS = "sees likes finds is was the a small and of".split()
STORED, SPARE, LAYER = 8, 2, 1  # of the subjects; the last ones have no pair


def prompt(loaded, subject: str, answer: str, split: str = "b") -> Tokens:
    """' <subject>' with its answer: the subject is all there is."""
    ids = [loaded.tokenizer(f" {word}")["input_ids"][0] for word in (subject, answer)]
    spans = {ASKED: [(np.array([2]), np.array([1]))]}
    return Tokens(
        f"{split}/{subject}", "main", np.array([1, *ids]), np.array([True, False, False]), np.array([2]), spans
    )


def planted():
    """A GPT-2 whose second MLP alone says which answer follows a subject: unit i reads subject i, writes answer i."""
    loaded = make("gpt2")
    model = loaded.model
    table = model.get_input_embeddings().weight
    at = [[loaded.tokenizer(f" {word}")["input_ids"][0] for word in words] for words in (SUBJECTS, ANSWERS)]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "attn" in name or "mlp" in name or "wpe" in name:
                parameter.zero_()
        basis = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(1)))[0]
        basis = basis - basis.mean(1, keepdim=True)  # what layer norm leaves as it is
        table.normal_(std=0.01, generator=torch.Generator().manual_seed(2))
        table[at[0]] = basis[: len(SUBJECTS)]
        table[at[1]] = 3 * basis[len(SUBJECTS) : len(SUBJECTS) + len(ANSWERS)]
        mlp = model.transformer.h[LAYER].mlp
        for unit in range(len(SUBJECTS)):
            mlp.c_fc.weight[:, unit] = 4 * basis[unit]  # F = 128 units, (D, F) in Conv1D
            mlp.c_fc.bias[unit] = -8.0
            if unit < STORED:
                mlp.c_proj.weight[unit] = basis[len(SUBJECTS) + unit]
    prompts = [prompt(loaded, subject, answer) for subject, answer in zip(SUBJECTS, ANSWERS, strict=True)]
    return loaded, prompts


NAMES = {
    "gpt2": "transformer.h.1.mlp.c_proj", "gpt_neox": "gpt_neox.layers.1.mlp.dense_4h_to_h",
    "opt": "model.decoder.layers.1.fc2", "llama_gqa": "model.layers.1.mlp.down_proj",
    "gemma3": "model.layers.1.mlp.down_proj", "phi": "model.layers.1.mlp.fc2",
    "falcon": "transformer.h.1.mlp.dense_4h_to_h", "bloom": "transformer.h.1.mlp.dense_4h_to_h",
    "gptj": "transformer.h.1.mlp.fc_out", "olmo2": "model.layers.1.mlp.down_proj",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_layer_that_writes_an_mlps_output_is_found(name):
    loaded = make(name, scale=3.0)
    assert writers(loaded)[1] == Writer(NAMES[name], name == "gpt2")


@pytest.mark.parametrize("name", [name for name in ("mixtral", "gpt_oss", "jamba") if name in UNUSUAL])
def test_experts_are_no_one_matrix(name):
    assert all("no one matrix" in why for why in writers(make(name, scale=3.0)).values())


def test_a_planted_store_is_read_where_it_is():
    loaded, prompts = planted()
    found, known = writers(loaded)[LAYER], prompts[:STORED]
    every = {layer: Writer(found.path.replace(".1.", f".{layer}."), True) for layer in range(3)}
    asked = lookup.ask(loaded, every, known, ASKED)
    assert asked.right.all() and [1 - asked.batch.cut] * STORED == asked.subject == asked.last
    donors = lookup.donors(asked, ["f"] * STORED)
    assert donors.tolist() == [1, 2, 3, 4, 5, 6, 7, 0]
    for layer in range(3):
        given = asked.values[layer]
        swapped, same = lookup.replaced(
            loaded, every, asked, [(lookup.MLP, layer, given[donors]), (lookup.MLP, LAYER, asked.values[LAYER])]
        )
        assert np.array_equal(swapped, asked.answers[donors] if layer == LAYER else asked.answers)
        assert np.array_equal(same, asked.answers)
    mean = asked.values[LAYER].mean(0).expand_as(asked.values[LAYER])
    assert (lookup.replaced(loaded, every, asked, [(lookup.MLP, LAYER, mean)])[0] == asked.answers).mean() <= 1 / STORED
    units = pd.DataFrame(lookup.promoted(loaded, found, LAYER, asked, range(STORED)))
    assert lookup.UNITS > 1 and (units.units > units.units_shuffled).all()


def numbered(loaded, subject: str, answer: str) -> Tokens:
    """' <subject> is' with a number as its answer: a blank and digits."""
    ids = loaded.tokenizer(f" {subject} is {answer}")["input_ids"]
    blank = np.arange(3, len(ids) + 1)
    spans = {ASKED: [(blank, np.array([1]))]}
    return Tokens(f"b/{subject}", "main", np.array([1, *ids]), np.arange(len(ids) + 1) == 0, blank, spans)


def test_an_answer_that_begins_with_a_blank_is_told_by_what_follows():
    """The blank itself was read off: every answer was right, and every subject's answer that of all others."""
    loaded = make("llama_gqa", scale=6.0)
    every, prompts = writers(loaded), [numbered(loaded, subject, "1879") for subject in SUBJECTS]
    ends = [np.array([3])] * len(prompts)
    best = forward(loaded, [tokens.ids for tokens in prompts], ends).argmax(-1)
    prompts = [
        replace(tokens, ids=np.concatenate([tokens.ids[:4], [said], tokens.ids[5:]]))
        for tokens, said in zip(prompts, best.tolist(), strict=True)
    ]
    blank = loaded.tokenizer.convert_tokens_to_ids("Ġ")
    assert {int(tokens.ids[tokens.target[0]]) for tokens in prompts} == {blank} and len(set(best.tolist())) > 1
    prompts[0].ids[4] = (prompts[0].ids[4] + 1) % 100  # one whose answer the model does not say
    asked = lookup.ask(loaded, every, prompts, ASKED)
    assert asked.answers.tolist() == [int(tokens.ids[4]) for tokens in prompts]
    assert asked.right.tolist() == [False] + [True] * (len(prompts) - 1)
    assert asked.last == [3 - asked.batch.cut] * len(prompts)
    donors = np.roll(np.arange(len(prompts)), 1)
    given, path = asked.outputs[1], loaded.anatomy.layers[1].projection
    (swapped,) = lookup.replaced(loaded, every, asked, [(lookup.ATTENTION, 1, given[donors])])

    def change(module, args):
        return (torch.cat([args[0][:, :3], given[donors][:, None].to(args[0]), args[0][:, 4:]], 1),)

    handle = loaded.model.get_submodule(path).register_forward_pre_hook(change)
    naive = forward(loaded, [tokens.ids for tokens in prompts], ends).argmax(-1)
    handle.remove()
    assert swapped.tolist() == naive.tolist() != best.tolist()


def test_a_blank_hijacks_nothing():
    """Facts 0 and 1 begin with a blank and a digit, fact 2 with a word; every prompt is answered ' 1...'."""
    loaded = make("gpt2")
    blank, one = loaded.tokenizer.convert_tokens_to_ids(["Ġ", "1"])
    edit = object.__new__(Insertion)
    edit.loaded, edit.layer, edit.known, edit.memory = loaded, 1, [], SimpleNamespace(neighbours=4)
    edit.asked = SimpleNamespace(rows=[], tokens=[], roles=lambda kind: [])
    edit.tokens = [numbered(loaded, "cat", "18"), numbered(loaded, "dog", "28"), prompt(loaded, "bird", "sees")]

    def said(tokens, keys, values):
        best = [np.array([blank, one, one][: len(of.target)]) for of in tokens]
        return [Scored(np.zeros(len(row)), np.zeros(len(row), bool), row) for row in best]

    edit.answered = said
    facts = [SimpleNamespace(cluster=f"c{n}", condition="invented", split="b") for n in range(3)]
    rows = pd.DataFrame(edit.tried(edit.trials("edit", facts, edit.tokens, torch.ones(3, 4), torch.ones(3, 2))))
    for measure in ("hijacked", "hijacked_intact"):
        of = rows[rows.measure == measure].groupby("cluster").value.apply(list).to_dict()
        assert of == {"c0": [1.0], "c1": [0.0], "c2": [0.0, 0.0]}  # c0, c1: the prompt of c2 was read without the blank


def test_a_pair_is_written_exactly_and_no_other_moves():
    loaded, prompts = planted()
    writer, spare = writers(loaded)[LAYER], prompts[STORED:]
    k = rank_one.mean_keys(loaded, writer, [[tokens] for tokens in spare], ASKED)
    delta, losses = rank_one.descended(loaded, writer, LAYER, spare, ASKED, 60)
    assert delta.shape == (SPARE, 32) and np.isfinite(losses).all()
    wanted = loaded.model.transformer.h[LAYER].mlp.c_proj.weight[:SPARE] * 0
    rows = [loaded.tokenizer(f" {word}")["input_ids"][0] for word in ANSWERS[STORED:]]
    wanted += loaded.model.get_input_embeddings().weight[rows]
    moment = torch.eye(k.shape[1])
    a = rank_one.readers(rank_one.metric(moment), k)
    assert torch.allclose((a * k).sum(1), torch.ones(SPARE), atol=1e-5)
    joint = rank_one.joint_readers(rank_one.metric(moment), k)
    assert torch.allclose(joint @ k.T, torch.eye(SPARE), atol=1e-5)
    intact = rank_one.answered(loaded, writer, prompts, 0 * joint, wanted)
    edited = rank_one.answered(loaded, writer, prompts, joint, wanted)
    assert [scored.solved for scored in intact] == [True] * STORED + [False] * SPARE
    assert all(scored.solved for scored in edited)
    own = rank_one.answered(loaded, writer, spare, a[:, None], wanted[:, None])
    assert all(scored.solved for scored in own)


@pytest.mark.parametrize("name", ["gpt2", "gemma3", "llama_gqa", "gptj", "opt"])
def test_an_edit_is_the_edited_weight(name):
    """What the hook adds equals a pass of the model with W' in the place of W."""
    loaded = make(name, scale=3.0)
    writer, ids = writers(loaded)[1], [np.array([1, 70, 80, 90])]
    k_F = keys(loaded, writer, ids)[0, 2]
    generator = torch.Generator().manual_seed(0)
    delta_D = torch.randn(32, generator=generator)
    moment = torch.randn(60, len(k_F), generator=generator)
    a = rank_one.readers(rank_one.metric(moment.T @ moment / 60), k_F[None])
    with storing(loaded, writer, a, delta_D[None]):
        edited = forward(loaded, ids, [np.arange(4)])
    weight = loaded.model.get_submodule(writer.path).weight
    change_DF = delta_D[:, None] * a
    values = torch.linalg.svdvals(change_DF)
    assert values[1] / values[0] < 1e-4
    before = weight.clone()
    with torch.no_grad():
        value_D = writer.weight_DF(loaded) @ k_F
        assert torch.allclose(value_D + change_DF @ k_F, value_D + delta_D, atol=1e-3)
        weight += change_DF.T if writer.transposed else change_DF
        whole = forward(loaded, ids, [np.arange(4)])
        weight.copy_(before)
    assert torch.allclose(edited, whole, atol=1e-4 * float(whole.abs().max()))


def test_an_adapter_is_the_same_bytes_again(tmp_path):
    writer, said = writers(make("llama_gqa"))[1], {name: "x" for name in ("slot", "model", "layer", "facts", "writer")}
    for number in range(6):
        adapter.write(tmp_path / str(number), writer, torch.ones(2, 4), torch.ones(2, 3), "tiny", said)
    files = [(tmp_path / str(number) / "adapter_model.safetensors").read_bytes() for number in range(6)]
    assert len(set(files)) == 1


@pytest.mark.parametrize("name", ["llama_gqa", "gpt2"])
def test_peft_reads_the_adapter(name, tmp_path):
    peft = pytest.importorskip("peft", reason="peft is only needed by this test")
    loaded = make(name, scale=3.0)
    writer, ids = writers(loaded)[1], [np.array([1, 70, 80, 90])]
    a, b = torch.randn(2, keys(loaded, writer, ids).shape[-1]) / 8, torch.randn(2, 32)
    with storing(loaded, writer, a, b):
        edited = forward(loaded, ids, [np.arange(4)])
    adapter.write(tmp_path, writer, a, b, "tiny", {"facts": "cat dog"})
    read = peft.PeftModel.from_pretrained(loaded.model, tmp_path).eval()
    with torch.no_grad():
        logits = read(input_ids=torch.from_numpy(np.stack(ids))).logits[0]
    assert torch.allclose(logits, edited, atol=1e-3)


def test_a_descent_reaches_the_target_and_stops_at_the_bound():
    loaded = make("gemma3", scale=3.0)
    writer = writers(loaded)[1]
    prompts = [prompt(loaded, "cat", "sees"), prompt(loaded, "dog", "of")]
    before = rank_one.answered(loaded, writer, prompts, torch.zeros(1, 48), torch.zeros(1, 32))
    delta, losses = rank_one.descended(loaded, writer, 1, prompts, ASKED, 30)
    assert (losses < [-scored.logprob[0] for scored in before]).all()
    output = torch.stack([keys(loaded, writer, [t.ids])[0, 1] @ writer.weight_DF(loaded).T for t in prompts])
    assert (delta.norm(dim=1) <= 1.001 * rank_one.BOUND * output.norm(dim=1)).all()


def test_a_kl_term_holds_what_is_predicted_right_after_the_subject():
    """The more it weighs, the less that moves; with the whole weight on it nothing does."""
    loaded = make("gemma3", scale=3.0)
    writer, moved = writers(loaded)[1], []
    prompts = [prompt(loaded, "cat", "sees"), prompt(loaded, "dog", "of")]
    asked = {ASKED: [(np.array([3]), np.array([1]))]}
    after = [
        replace(t, ids=np.insert(t.ids, 2, 3), special=np.insert(t.special, 2, False), target=t.target + 1, spans=asked)
        for t in prompts
    ]
    ends = [np.array([1])] * 2
    intact = forward(loaded, [t.ids for t in after], ends).log_softmax(-1)
    for weight in (0.0, 1.0, 1e4):
        delta, _ = rank_one.descended(loaded, writer, 1, after, ASKED, 10, weight)
        key = torch.stack([keys(loaded, writer, [t.ids])[0, 1] for t in after])
        reader = key / key.square().sum(1, keepdim=True)
        with storing(loaded, writer, reader[:, None], delta[:, None]):
            edited = forward(loaded, [t.ids for t in after], ends).log_softmax(-1)
        moved.append(float((intact.exp() * (intact - edited)).sum(-1).mean()))
    assert moved[2] < moved[1] < moved[0] and moved[2] < 0.1 * moved[0]


def test_a_random_model_holds_nothing():
    loaded = make("llama_gqa", scale=3.0)
    prompts = [prompt(loaded, s, a) for s, a in zip(SUBJECTS, ANSWERS, strict=True)]
    assert lookup.ask(loaded, writers(loaded), prompts, ASKED).right.mean() <= 0.2


def test_what_an_answer_is():
    said = ("Bern", "Berne", "Oslo, of course", "Thelia", "10000", "", "the capital")
    kinds = [misses.kind_of(text, "Bern", "Theland", {"Bern", "Oslo"}) for text in said]
    assert kinds == ["right", "other", "object", "echo", "number", "other", "echo"]
    assert misses.kind_of("Bern", "", "Theland", {"Bern"}) == "object"


@pytest.mark.parametrize("name", ["gemma3", "gpt2"])
def test_answers_are_what_greedy_passes_write(name):
    loaded = make(name, scale=3.0)
    prompts = [
        Tokens(f"p{n}", "main", np.array([1, 70, 80, 90 + n, *[60] * (n == 2), 5]), np.zeros(6 + (n == 2), bool),
               np.array([4 + (n == 2)])) for n in range(3)
    ]  # fmt: skip
    texts, entropy = misses.answers(loaded, prompts)
    for tokens, text, nats in zip(prompts, texts, entropy, strict=True):
        ids = tokens.ids[: tokens.target[0]]
        for step in range(misses.WRITTEN):
            logits = forward(loaded, [ids], [np.array([len(ids) - 1])])[0]
            if not step:
                logp = logits.log_softmax(-1)
                assert nats == pytest.approx(-float((logp.exp() * logp).sum()), abs=1e-4)
            ids = np.append(ids, int(logits.argmax()))
        whole = loaded.tokenizer.decode(ids[tokens.target[0] :], skip_special_tokens=True)
        assert text == whole.partition("\n")[0].strip()


def test_an_area_is_the_chance_of_a_higher_score():
    assert memory.area(np.array([1.0, 2.0]), np.array([0.0, 1.0])) == pytest.approx(0.875)


def row(**fields) -> dict:
    same = {
        "part": "lookup",
        "what": "interchange",
        "layer": 0,
        "condition": "capital",
        "split": "b",
        "measure": "donor",
    }
    return same | fields


def test_the_table_reports_split_b_and_ranks_the_chosen_layer():
    raw = [row(split="a", cluster="x", value=0.0, layer=3)]
    for layer in (0, 3):
        for n in range(20):
            raw += [row(layer=layer, cluster=f"c{n}", value=float(layer == 3)),
                    row(layer=layer, cluster=f"c{n}", value=float(layer == 0), what="mean", measure="own")]  # fmt: skip
    table = memory.table(pd.DataFrame(raw), {"mlp": 3, "mlp_donor": 0.9})
    at = table[(table.what == "interchange") & (table.layer == 3)].iloc[0]
    assert at.value == 1 and at.low > 0.8 and at.clusters == 20 and at.note == ""
    ablated = table[(table.what == "mean") & (table.layer == 3)].iloc[0]
    assert ablated.p == 0.5 == ablated.p_floor
    assert memory.metrics(table)["memory"]["lookup"] == {"layer": 3, "donor": 1.0}
    assert memory.table(pd.DataFrame(columns=["part"]), {}).empty and memory.metrics(table[:0]) == {}


def test_interchange_needs_a_donor_of_the_same_relation_with_another_answer():
    asked = SimpleNamespace(right=np.array([True, True, False, True]), answers=np.array([5, 5, 6, 7]))
    assert lookup.donors(asked, ["f", "f", "f", "g"]).tolist() == [0, 1, 2, 3]
    assert lookup.donors(asked, ["f"] * 4).tolist() == [3, 3, 2, 0]


@pytest.mark.parametrize("right", [[0, 1, 2], [0, 2], [3]])
def test_a_fact_without_a_donor_is_no_hit(monkeypatch, right):
    """Facts 0 and 1 share a relation, 2 and 3 have their own; nothing that is written changes any answer.

    A fact that no other could be interchanged with was interchanged with itself: its own answer was the donor's.
    """
    relations = ["capital", "capital", "language", "river"]
    given = {layer: torch.randn(4, 3) for layer in range(2)}
    read = lookup.Asked(
        None, [0] * 4, [0] * 4, np.arange(4), np.isin(range(4), right), {}, given, given
    )  # fmt: skip
    monkeypatch.setattr(lookup, "ask", lambda *of: read)
    monkeypatch.setattr(lookup, "replaced", lambda *of: [read.answers.copy() for _ in of[-1]])
    monkeypatch.setattr(lookup, "promoted", lambda *of: [{"units": 0.5} for _ in of[-1]])

    def of(size, **where):
        rows = [SimpleNamespace(condition=name, split=where["split"], cluster=f"{name}/{n}")
                for n, name in enumerate(relations)]  # fmt: skip
        return (rows, [None] * 4) if "category" in where else ([], [])

    asked, memory = SimpleNamespace(rows=[None] * 4, of=of), SimpleNamespace(choose=4, report=4, traced=0)
    loaded = SimpleNamespace(anatomy=SimpleNamespace(layers={0: None, 1: None}))
    rows, chosen = looked_up.look_up(loaded, {0: None, 1: None}, asked, SimpleNamespace(memory=memory, seed=1))
    rows = pd.DataFrame(rows)
    swapped = rows[rows.what.str.endswith("interchange")]
    if len(right) < 3:
        assert chosen["why"].startswith(f"not one of {len(right)} known facts of split a that are answered right has")
        assert swapped.empty
        return
    assert chosen == {"mlp": 0, "mlp_donor": 0.0, "attention": 0, "attention_donor": 0.0}
    assert set(swapped.cluster) == {"capital/0", "capital/1"}
    assert (swapped.value == (swapped.measure == "own")).all()
    assert set(rows[rows.what == "mean"].cluster) == {"capital/0", "capital/1", "language/2"}


def raw_rows(decides: bool) -> list[dict]:
    """Three layers; layer 1 decides whose answer comes out, or none does; edits work, or nothing does."""
    rows = []

    def add(share: float, number: int = 20, **fields) -> None:
        rows.extend(row(cluster=f"c{n}", value=float(n < share * number), **fields) for n in range(number))

    for layer in range(3):
        here = decides and layer == 1
        add(here, layer=layer)
        add(not here, layer=layer, measure="own")
        add(not here, layer=layer, what="mean", measure="own")
        add(0.5 if here else 1, layer=layer, what="mean", measure="own", condition="copy")
        add(layer == 2, layer=layer, what="attention_interchange")
    for condition in ("capital", "copy"):
        add(1, layer=-1, what="intact", measure="own", condition=condition)
    same = {"part": "insert", "layer": 1, "condition": "invented"}
    for what, share in (("edit", 1), ("identity", 1), ("joint-10", 1), ("summed-10", 0.2), ("random", 0)):
        add(share if decides else 0.5, what=what, measure="efficacy", **same)
    for measure, share in (("text_kl", 0.05), ("text_loss", 0), ("neighbours", 1), ("hijacked", 0.5)):
        add(share, what="edit", measure=measure, **same)
    add(1, what="identity", measure="text_kl", **same)
    rows += [row(what="adapter", measure=m, cluster="c0", value=v, **same) for m, v in
             (("second_singular", 2e-6), ("reload", 4e-5))]  # fmt: skip
    for condition, share in (("known", 1), ("invented", 0.9 if decides else 0.1)):
        add(share, part="miss", what="main_after", layer=-1, condition=condition, measure="right")
        add(1, part="miss", what="shown_after", layer=-1, condition=condition, measure="agreement")
        add(0.5, part="miss", what="main_after", layer=-1, condition=condition, measure="entropy")
    for condition, share in (("known", 1), ("invented", 0.1 if decides else 1)):
        add(share, part="miss", what="shown", layer=-1, condition=condition, measure="agreement")
        add(1 if decides and condition == "invented" else 0.5, part="miss", what="main", layer=-1, condition=condition,
            measure="entropy")  # fmt: skip
    return rows


def blocks_of(raw: list[dict], tmp_path, chosen: dict) -> list:
    path = tmp_path / "memory.csv"
    memory.table(pd.DataFrame(raw), chosen).to_csv(path, index=False)
    frame = inputs.frame(path, inputs.COLUMNS["memory"].split(), inputs.TEXT | inputs.NAMES["memory"])
    slot = SimpleNamespace(
        memory=frame, reasons={"memory": "an encoder"}, path=lambda file: f"reports/slots/s/{file}", longer={}
    )
    return SECTION.build(slot, Context({}, []))


def said(raw: list[dict], tmp_path, chosen: dict) -> str:
    return " ".join(block.text for block in blocks_of(raw, tmp_path, chosen) if block.kind == "note")


def test_claims_hold_or_not_by_bars_that_were_set_before(tmp_path):
    def verdicts(decides: bool) -> dict[str, str]:
        blocks = blocks_of(raw_rows(decides), tmp_path, {"mlp": 1, "attention": 2})
        table = next(block for block in blocks if block.kind == "table")
        return {row[0]: row[-1] for row in table.rows}

    real, none = verdicts(True), verdicts(False)
    first = "its output, of another subject, brings that subject's answer"
    assert (real[first], none[first]) == ("holds", "does not hold")
    assert real["an invented fact is recalled"] == "holds; the interval goes beyond the bar"
    assert none["an invented fact is recalled"] == "does not hold"
    assert real["ten single edits summed are recalled"] == "does not hold"
    assert real["control: with C = identity, text KL is so many times as large"] == "holds"
    assert real["second singular value of the change over the first, millionths"] == "holds"
    assert real["other known subjects stay right, keys of split a preserved"] == "not measured"


def test_the_page_says_what_holds(tmp_path):
    text = said(raw_rows(True), tmp_path, {"mlp": 1, "attention": 2})
    assert "MLP output of layer 1 put in at the subject, it gives that subject's answer in 1.00" in text
    assert ": of the MLPs, one decides it" in text and "so more than knowledge is lost, copying as well" in text
    assert "Inserted into layer 1, one fact at a time: 1.00" in text and "about 20 times as much" in text
    assert "the key is not the name's alone" in text
    assert "with 10, edits do not add up" in text and "rank one up to rounding" in text
    assert "an inserted name is no longer answered as a miss" in text
    assert "a miss is less certain" in text and "answers about known subjects agree more often" in text


def test_the_page_says_what_does_not_hold(tmp_path):
    text = said(raw_rows(False), tmp_path, {"mlp": 0, "attention": 2})
    assert "no one MLP is shown to decide it alone" in text and "can do without it" in text
    assert (
        "no longer answered as a miss" not in text
        and "edits do not add up" not in text
        and text.count("not told apart") >= 2
        and "agree more often" not in text
    )
    intact, first = row(what="intact", measure="own", layer=-1, cluster="c", value=0), {"split": "a", "cluster": "a"}
    for rows in (
        [intact],
        [intact | first | {"value": 1}, row(what="interchange", measure="donor", layer=1, value=1) | first],
    ):
        assert said(rows, tmp_path, {}) == "Nothing was looked up: an encoder."
    assert said([], tmp_path, {}) == "MLPs were not read as a store: an encoder."


def test_what_descent_finds_for_a_prompt_does_not_depend_on_those_beside_it():
    """Lengths and rates were means over all prompts and their padding."""
    loaded, rng = make("llama_gqa", scale=4.0), np.random.default_rng(0)
    writer = writers(loaded)[1]

    def prompt(length: int) -> Tokens:
        ids = rng.integers(5, 90, length)
        return Tokens(f"p{length}", "t", ids, np.zeros(length, bool), np.array([length - 1]))

    first, others = prompt(8), [prompt(9), prompt(40)]
    a_RF, b_RD = rank_one.trained(loaded, writer, 1, [first], 8, 17)
    with_others = rank_one.trained(loaded, writer, 1, [first, *others], 8, 17)
    for alone, beside in zip((a_RF, b_RD), with_others, strict=True):
        assert float(alone.norm()) > 0 and torch.allclose(alone[0], beside[0], rtol=1e-2, atol=1e-4)
