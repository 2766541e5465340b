"""The circuit of induction: paths into one head's keys are exact, and the planted feeder is found, and only it."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import test_planted
import tiny
import torch

from stages import circuit as stage
from stages.families.repeats.induction import FAMILY
from stages.model.compose import copying, k_composition, maps, token_map
from stages.model.forward import forward
from stages.model.paths import Paths, Source, Unreadable, mass
from stages.model.tokens import ordinary
from stages.statistics import circuit


def prompts(seed: int = 0, length: int = 17) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.integers(5, 90, length), rng.integers(5, 90, length)


@pytest.mark.parametrize("name", ["gemma3", "qwen3", "llama_gqa", "gpt2", "olmo2", "granite", "qwen3_next"])
def test_recomputed_weights_are_the_models_own_and_contributions_sum_to_the_residual(name):
    """Also with grouped queries, norms of queries and keys, windows (tiny Gemma 3: 6 tokens), gates, multipliers."""
    loaded, (ids, _) = tiny.make(name, scale=4.0), prompts()
    layers = [layer for layer in loaded.anatomy.layers if layer > 0]
    paths = Paths(loaded, ids, layers)
    run = paths.run(ids)
    own = loaded.model(input_ids=torch.from_numpy(ids)[None], output_attentions=True).attentions
    for number, layer in enumerate(loaded.anatomy.layers):
        if layer in layers:
            weights_HTS = paths.attend(run, run.reads[layer][None], layer, None)[0][0]
            own_HTS = [w for w in own if w is not None][number][0]
            assert torch.allclose(weights_HTS, own_HTS, atol=1e-5)
            assert torch.allclose(paths.contributions(run, layer).sum(0), run.residual[layer], atol=1e-4)


def gemma_by_hand(loaded, ids, corrupted, source, target, denoise: bool) -> torch.Tensor:
    """The target's weights by two whole passes and the formulas of Gemma 3, written out: no hook of the pipeline."""
    layers, records = loaded.model.model.layers, []
    for tokens in (ids, corrupted):
        record: dict[str, torch.Tensor] = {}
        block, goal = layers[source[0]], layers[target[0]]

        def keep(name, record=record):
            return lambda module, args, output: record.update({name: args[0][0]})

        def keep_call(module, args, kwargs, record=record):
            record.update(cos_sin=kwargs["position_embeddings"], mask=kwargs["attention_mask"])

        hooks = [block.self_attn.o_proj.register_forward_hook(keep("z")),
                 block.post_attention_layernorm.register_forward_hook(keep("written")),
                 goal.input_layernorm.register_forward_hook(keep("residual")),
                 goal.self_attn.register_forward_pre_hook(keep_call, with_kwargs=True)]  # fmt: skip
        loaded.model(input_ids=torch.from_numpy(tokens)[None])
        for hook in hooks:
            hook.remove()
        size, norm = block.self_attn.head_dim, block.post_attention_layernorm
        part = slice(source[1] * size, (source[1] + 1) * size)
        wrote = record["z"][:, part] @ block.self_attn.o_proj.weight[:, part].T
        scale = (record["written"].pow(2).mean(-1, keepdim=True) + norm.eps).rsqrt()
        records.append(record | {"wrote": wrote * scale * (1 + norm.weight)})
    clean, noise = records
    base, change = (noise, clean["wrote"] - noise["wrote"]) if denoise else (clean, noise["wrote"] - clean["wrote"])
    norm, attention = layers[target[0]].input_layernorm, layers[target[0]].self_attn
    scale = (base["residual"].pow(2).mean(-1, keepdim=True) + norm.eps).rsqrt()
    keys_in = (base["residual"] + change) * scale * (1 + norm.weight)
    queries_in = norm(clean["residual"][None])[0]
    cos, sin = (part[0] for part in clean["cos_sin"])

    def rotate(x):
        half = x.shape[-1] // 2
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin

    size = attention.head_dim
    query = attention.q_norm(attention.q_proj(queries_in)[:, target[1] * size : (target[1] + 1) * size])
    key = attention.k_norm(attention.k_proj(keys_in))  # one key head
    scores = rotate(query) @ rotate(key).T * attention.scaling
    distance = torch.arange(len(ids))[:, None] - torch.arange(len(ids))
    hidden = (distance < 0) | (distance >= (attention.sliding_window or len(ids)))
    return scores.masked_fill(hidden, -torch.inf).softmax(-1)


@pytest.mark.parametrize("target", [(1, 3), (2, 2)])  # a window layer and a global one
@pytest.mark.parametrize("denoise", [False, True])
def test_a_path_equals_two_passes_and_the_formulas_by_hand(target, denoise):
    loaded, (ids, corrupted) = tiny.make("gemma3", scale=4.0), prompts()
    paths = Paths(loaded, ids, [target[0]])
    clean, noise = paths.run(ids), paths.run(corrupted)
    change_NTD = paths.changes(clean, noise, target[0])
    base, sign = (noise, -1) if denoise else (clean, 1)
    weights_NTS, _ = paths.attend(clean, paths.put(base, target[0], sign * change_NTD), target[0], target[1])
    for number, source in enumerate(paths.sources(target[0])):
        if source.kind == "head":
            by_hand = gemma_by_hand(loaded, ids, corrupted, (source.layer, source.head), target, denoise)
            assert torch.allclose(weights_NTS[number], by_hand, atol=1e-5), source.name
    assert (weights_NTS - clean.weights[target[0]][target[1]]).abs().amax((1, 2)).min() > 1e-5


def test_all_contributions_together_are_the_corrupted_residual():
    loaded, (ids, corrupted) = tiny.make("qwen3", scale=4.0), prompts()
    paths = Paths(loaded, ids, [2])
    clean, noise = paths.run(ids), paths.run(corrupted)
    everything = clean.residual[2] + paths.changes(clean, noise, 2).sum(0)
    assert torch.allclose(everything, noise.residual[2], atol=1e-4)
    assert paths.sources(1) == [Source(-1), *(Source(0, head) for head in range(4)), Source(0)]


def test_the_loss_with_the_heads_own_output_is_the_intact_loss():
    loaded, (ids, corrupted) = tiny.make("gemma3", scale=4.0), prompts()
    paths, scored = Paths(loaded, ids, [1]), np.array([9, 12, 16])
    clean, noise = paths.run(ids), paths.run(corrupted)
    _, outputs_NTK = paths.attend(clean, torch.stack([clean.reads[1], noise.reads[1]]), 1, 0, outputs=True)
    intact, changed = paths.losses(clean, 1, 0, outputs_NTK, scored)
    logits = forward(loaded, [ids], [scored - 1]).log_softmax(1)
    assert intact == pytest.approx(-float(logits[range(3), ids[scored]].mean()), abs=1e-5)
    assert abs(changed - intact) > 1e-5


@pytest.mark.parametrize("name", ["bert", "bloom"])
def test_what_cannot_be_patched_exactly_is_refused_in_one_line(name):
    loaded, (ids, _) = tiny.make(name), prompts()
    with pytest.raises(Unreadable, match=r"may rescale it|written into its modules"):
        Paths(loaded, ids, [1])


def planted_repeats() -> tuple:
    """The planted model, whose L1H0 here says what it looks at, and repeats of both splits as the stage has them."""
    loaded, rng = test_planted.planted(), np.random.default_rng(0)
    says, size = loaded.model.transformer.h[1].attn, test_planted.TOKENS
    width = loaded.model.config.n_embd
    says.c_attn.weight[:size, 2 * width : 2 * width + size] = torch.eye(size)
    says.c_proj.weight[:size, :size] = torch.eye(size)
    rows, encoded = [], []
    for number in range(16):
        period = int(rng.integers(10, 14))
        ids = np.tile(4 + rng.permutation(test_planted.TOKENS - 4)[:period], 2)
        name = f"repeats/random/{number:04d}"
        rows.append(SimpleNamespace(id=name, split="ab"[number % 2], cluster=name))
        encoded.append(SimpleNamespace(ids=ids, special=np.zeros(len(ids), bool), target=ids[:0], prompt=name))
        encoded[-1] = test_planted.Tokens(name, "test", ids, np.zeros(len(ids), bool))
    return loaded, rows, encoded


def planted_circuit(monkeypatch, targets: list, draws_on_loss: bool = False) -> tuple[pd.DataFrame, list, pd.DataFrame]:
    """Rows of CIRCUIT and COMPOSITION of the planted model, and the summary."""
    loaded, rows, encoded = planted_repeats()
    monkeypatch.setattr("stages.model.tokens.ordinary", lambda tokenizer: np.arange(4, test_planted.TOKENS))
    monkeypatch.setattr("stages.model.compose.ordinary", lambda tokenizer: np.arange(4, test_planted.TOKENS))
    asked = SimpleNamespace(share=0.1, draws=1, draws_on_loss=draws_on_loss)  # one other head there is
    settings = SimpleNamespace(seed=1, circuit=asked)
    raw, weights = stage.traced("planted", loaded, rows, encoded, targets, settings)
    heads = pd.DataFrame({"layer": [0, 0], "head": [0, 1], "family": "previous", "score": [1.0, 0.1]})
    kinds = {0: "global", 1: "global"}
    summary = circuit.table(raw, pd.DataFrame(weights), heads, lambda name: np.random.default_rng(0), 100, kinds)
    return raw, weights, summary


def test_the_planted_feeder_is_found_and_no_other(monkeypatch):
    raw, weights, summary = planted_circuit(monkeypatch, [(1, 0)])
    assert list(summary[summary.purpose == "feeders"].source.unique()) == ["L0H0"]
    whole = summary[summary.purpose == "target"].iloc[0]
    alone = summary[summary.purpose == "single"].set_index(["source", "direction"])
    assert whole.intact > 0.4 and whole.effect > 0.3
    assert alone.loc[("L0H0", "noising"), "effect"] == pytest.approx(whole.effect, rel=0.1)
    assert alone.loc[("L0H0", "denoising"), "effect"] == pytest.approx(whole.effect, rel=0.1)
    assert alone.loc[[("L0H1", "noising"), ("L0H1", "denoising"), ("L0.rest", "noising")], "effect"].abs().max() < 1e-6
    lost = raw[(raw.purpose == "single") & raw.loss.notna()]
    joint = raw[raw.purpose == "feeders"].set_index(["prompt", "direction"]).loss
    assert set(lost.sources) == {"L0H0"} and set(lost.split) == {"b"} and len(lost) == len(joint)
    for row in lost.itertuples():  # the only feeder: alone it is all of them
        assert row.loss == pytest.approx(joint[row.prompt, row.direction], abs=1e-6)
    assert raw[raw.purpose == "control"].loss.isna().all() and "control" in set(raw.purpose)
    values = circuit.metrics(summary)
    assert values["feeder_effect"] > 0.3 and abs(values["null_effect"]) < 1e-5
    composed = {row["head"]: row["value"] for row in weights if row["measure"] == "k_composition"}
    assert composed[0] > 0.1 and not composed.get(1, 0) > 0


def test_the_loss_of_control_sets_is_measured_where_asked_and_the_planted_feeders_is_larger(monkeypatch):
    raw, _, summary = planted_circuit(monkeypatch, [(1, 0)], draws_on_loss=True)
    joint = summary[summary.purpose == "feeders"]
    controls = summary[summary.purpose == "control"]
    assert set(joint.direction) == set(controls.direction) == {"noising", "denoising"}
    for row in joint.itertuples():
        beside = controls[controls.direction == row.direction].loss_effect
        assert row.loss_control_largest == beside.max() and beside.abs().max() < 1e-5 < 0.1 < row.loss_effect
    assert joint.loss_p.isna().all()  # of 8 prompts
    intact = raw[(raw.purpose == "intact") & (raw.split == "b")].set_index("prompt").loss
    noised = raw[(raw.purpose == "control") & (raw.direction == "noising") & (raw.split == "b")]
    assert noised.loss.to_list() == pytest.approx(intact[noised.prompt].to_list(), abs=1e-5)
    raw, _, _ = planted_circuit(monkeypatch, [(1, 1), (1, 0)], draws_on_loss=True)
    assert raw[(raw.place == 2) & (raw.purpose == "control")].loss.isna().all()  # of the strongest target alone
    assert raw[(raw.place == 2) & (raw.purpose == "feeders")].loss.notna().all()


@pytest.mark.parametrize("name", ["gemma3", "qwen3", "llama_gqa", "gpt2", "granite", "gpt_neox", "phi"])
def test_a_copying_score_is_the_same_whichever_targets_are_beside_it(name):
    """Of the last target's layer the norm after attention was left out: Gemma's L5H1 had .68 alone, .19 beside others.

    Also where attention and MLP join at the end of the block (gpt_neox, phi).
    """
    loaded, (ids, _) = tiny.make(name, scale=4.0), prompts()
    for module in loaded.model.modules():
        if "norm" in type(module).__name__.lower() and getattr(module, "weight", None) is not None:
            module.weight.copy_(torch.rand(module.weight.shape) + 0.5)
    last = max(loaded.anatomy.layers)

    def scores(layers: list[int]) -> dict:
        paths = Paths(loaded, ids, layers)
        rows = stage._weights(paths, paths.run(ids), [(layer, 0) for layer in layers])
        return {(row["layer"], row["head"]): row["value"] for row in rows if row["measure"] == "copying"}

    alone, beside = scores([1]), scores([1, last])
    assert len(alone) == loaded.anatomy.layers[1].heads and {layer for layer, _ in beside} == {1, last}
    for head, value in alone.items():
        assert beside[head] == pytest.approx(value, abs=1e-4)


def test_composition_and_copying_equal_their_definitions_on_whole_matrices():
    loaded, (ids, _) = tiny.make("llama_gqa", scale=4.0), prompts()
    for layer in loaded.model.model.layers:
        layer.input_layernorm.weight.copy_(torch.rand(32) + 0.5)
    paths = Paths(loaded, ids, [2])
    run = paths.run(ids)
    attention = [layer.self_attn for layer in loaded.model.model.layers]
    gains = [layer.input_layernorm.weight for layer in loaded.model.model.layers]

    def part(weight, head):
        return weight[head * 8 : (head + 1) * 8]

    def ov(layer, head):  # two query heads share a value head
        value = part(attention[layer].v_proj.weight, head // 2) * gains[layer]
        return attention[layer].o_proj.weight[:, head * 8 : (head + 1) * 8] @ value

    query, key = part(attention[2].q_proj.weight, 3) * gains[2], part(attention[2].k_proj.weight, 1) * gains[2]
    qk = query.T @ key
    expected = (qk @ ov(0, 1)).norm() / (qk.norm() * ov(0, 1).norm())
    later, earlier = maps(paths, run, 2, 3), maps(paths, run, 0, 1)
    assert k_composition(earlier, later) == pytest.approx(float(expected), rel=1e-4)
    words = ordinary(loaded.tokenizer)
    embedding, unembedding = loaded.model.model.embed_tokens.weight[words], loaded.model.lm_head.weight[words]
    whole_VV = unembedding @ (loaded.model.model.norm.weight[:, None] * ov(2, 3)) @ embedding.T
    eigenvalues = torch.linalg.eigvals(whole_VV.double())
    expected = eigenvalues.real.sum() / eigenvalues.abs().sum()
    assert copying(later, token_map(loaded)) == pytest.approx(float(expected), abs=1e-3)


def test_copying_takes_the_mean_away_as_every_layer_norm_does():
    """What a head writes along the ones direction is taken away before the unembedding, and raises no logit."""
    loaded, (ids, _) = tiny.make("gpt2", scale=4.0), prompts()
    model = loaded.model.transformer
    for norm in (*(block.ln_1 for block in model.h), model.ln_f):
        norm.weight.copy_(torch.rand(32) + 0.5)
    model.h[1].attn.c_proj.weight.add_(torch.randn(32, 1))  # every output channel alike
    paths, centre_DD = Paths(loaded, ids, [1]), torch.eye(32) - 1 / 32
    head, size = 2, loaded.anatomy.layers[1].head_size
    at = slice(head * size, (head + 1) * size)
    value_KD = model.h[1].attn.c_attn.weight[:, 64:][:, at].T @ (model.h[1].ln_1.weight[:, None] * centre_DD)
    out_DK = (model.ln_f.weight[:, None] * centre_DD) @ model.h[1].attn.c_proj.weight[at].T
    embedding_VD = model.wte.weight[ordinary(loaded.tokenizer)]
    eigenvalues = torch.linalg.eigvals((embedding_VD @ out_DK @ value_KD @ embedding_VD.T).double())
    expected = float(eigenvalues.real.sum() / eigenvalues.abs().sum())
    assert copying(maps(paths, paths.run(ids), 1, head), token_map(loaded)) == pytest.approx(expected, abs=1e-3)


def test_maps_are_refused_where_a_norm_mixes_heads():
    loaded, (ids, _) = tiny.make("olmo2", scale=4.0), prompts()
    paths = Paths(loaded, ids, [1])
    assert maps(paths, paths.run(ids), 1, 0) is None


def test_mass_is_the_mean_over_queries_of_attention_on_targets():
    tokens = test_planted.Tokens("p", "test", np.array([5, 6, 5, 6]), np.zeros(4, bool))
    weights_1TS = torch.tensor([[[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.1, 0.7, 0.2, 0], [0.1, 0.2, 0.4, 0.3]]])
    assert mass(weights_1TS, FAMILY.relation(tokens))[0] == pytest.approx((0.7 + 0.4) / 2)


def test_feeders_are_chosen_on_split_a_by_their_share():
    rows = [("a", "intact", "", "", 0.8), ("a", "keys", "", "", 0.0), ("a", "single", "noising", "L0H0", 0.1),
            ("a", "single", "noising", "L0H1", 0.73), ("b", "single", "noising", "L0H1", 0.0),
            ("a", "single", "noising", "L0.rest", 0.0)]  # fmt: skip
    raw = pd.DataFrame(rows, columns="split purpose direction sources score".split()).assign(target="L1H0")
    assert circuit.feeders(raw, (1, 0), 0.1) == [(0, 0)]
    weak = raw.assign(score=raw.score * 0.01)
    assert circuit.feeders(weak, (1, 0), 0.1) == []


def test_targets_are_members_by_split_a_above_the_first_layer():
    judged = pd.DataFrame({"layer": [0, 1, 2, 2], "head": [0, 0, 0, 1], "score_a": [0.9, 0.5, 0.8, 0.7],
                           "member_a": [True, True, True, False]})  # fmt: skip
    assert circuit.targets(judged, 5) == [(2, 0), (1, 0)] and circuit.targets(judged, 1) == [(2, 0)]
    assert circuit.targets(judged.head(0), 5) == []


def summary(
    effect: float, members: int = 1, feeders: str = "L0H0", prompts: int = 24, controls: tuple = (None,)
) -> tuple[pd.DataFrame, list]:
    """A summary of prompts in which L0H0 loses `effect` of a score of 0.8 and L0H1 and L0H2 lose 0.01.

    The loss is 1, with corrupted keys 4: a single feeder changes it by three times its part of the score. controls: the
    loss when each control set is noised; None: not measured.
    """
    lost = {"L0H0": effect, "L0H1": 0.01, "L0H2": 0.01, "L0.rest": 0.0}
    rows = []
    for number in range(prompts):
        same = {"target": "L1H0", "place": 1, "split": "b", "cluster": f"c{number}", "prompt": f"p{number}", "draw": 0}
        noise = number * 1e-3
        rows += [same | {"purpose": "intact", "direction": "", "sources": "", "score": 0.8 + noise, "loss": 1.0},
                 same | {"purpose": "keys", "direction": "", "sources": "", "score": noise, "loss": 4.0}]  # fmt: skip
        for source, loss in lost.items():
            for direction, score in (("noising", 0.8 - loss), ("denoising", loss)):
                row = {"purpose": "single", "direction": direction, "sources": source, "score": score + noise}
                nats = (1 + 3 * loss if direction == "noising" else 4 - 3 * loss) if source in feeders.split() else None
                rows.append(same | row | {"loss": nats})
        sets = [("feeders", feeders, effect, 1 + 3 * effect, 0)] if members else []
        sets += [("others", "L0H1 L0H2", 0.02, 1.1, 0)]
        sets += [("control", "L0H1", 0.01, nats, draw) for draw, nats in enumerate(controls, 1)] if members else []
        for purpose, source, loss, nats, draw in sets:
            row = {"purpose": purpose, "sources": source, "loss": nats, "draw": draw}
            rows.append(same | row | {"direction": "noising", "score": 0.8 - loss + noise})
            back = None if nats is None else 5 - nats
            rows.append(same | row | {"direction": "denoising", "score": loss + noise, "loss": back})
    heads = pd.DataFrame({"layer": 0, "head": [0, 1, 2], "family": "previous", "score": [0.3, 0.6, 0.1],
                          "member": [0, 1, 0]})  # fmt: skip
    weights = pd.DataFrame([("L1H0", 0, 1, "k_composition", 0.5), ("L1H0", 0, 0, "k_composition", 0.25),
                            ("L1H0", 0, 2, "k_composition", 0.1), ("", 1, 0, "copying", 0.9)],
                           columns="target layer head measure value".split())  # fmt: skip
    raw = pd.DataFrame(rows)
    return circuit.table(raw, weights, heads, lambda name: np.random.default_rng(0), 100, {0: "global"}), heads


def said(table: pd.DataFrame, heads: pd.DataFrame) -> str:
    from stages.page.sections.circuit import SECTION

    slot = SimpleNamespace(circuit=table, heads=heads, longer={}, model={"vocabulary": 1000},
                           reasons={"circuit": "no member"}, path=lambda file: f"reports/slots/x/{file}")  # fmt: skip
    blocks = SECTION.build(slot, SimpleNamespace(alpha=0.05))
    return " ".join(block.text for block in blocks if block.kind == "note")


def test_the_summary_holds_effects_of_both_directions_on_split_b():
    table, _ = summary(0.6)
    alone = table[table.purpose == "single"].set_index(["source", "direction"])
    assert alone.loc[("L0H0", "noising"), "effect"] == pytest.approx(0.6)
    assert alone.loc[("L0H0", "noising"), "share"] == pytest.approx(0.75)
    assert alone.loc[("L0H0", "denoising"), "effect"] == pytest.approx(0.6)
    assert alone.loc[("L0H0", "noising"), "feeder"] == 1 and alone.loc[("L0H1", "noising"), "feeder"] == 0
    joint = table[(table.purpose == "feeders") & (table.direction == "noising")].iloc[0]
    assert joint.loss_effect == pytest.approx(1.8) and joint.p == joint.p_floor == 0.5 and joint.controls == 1
    assert circuit.metrics(table) == {"feeder_effect": 0.6, "joint_effect": 0.6, "null_effect": 0.01}


def test_the_section_says_what_the_rows_say():
    text = said(*summary(0.6))
    assert "L1H0: induction score 0.81 over 24 prompts, 0.01 with all its keys from the corrupted run" in text
    assert "Of 3 earlier heads, 1 was chosen as feeder on other prompts: L0H0 loses 0.60 [0.60, 0.60]" in text
    assert "rank p = 0.5, its floor; not told apart" in text.replace("0.50", "0.5")
    assert "none is a member of that family. The earlier head with the highest such score, L0H1 (0.60), is no" in text
    assert "by weights alone" not in text and "the feeders rank, of 3: L0H0 2." in text
    assert "by +1.80 [+1.80, +1.80] nats a token when the feeders' contribution is noised, by +0.10" in text
    assert "from the corrupted run the loss changes by +3.00 [+3.00, +3.00]; the feeders' intact contribution" in text
    assert "contribution alone takes 1.80 [1.80, 1.80] of that away." in text


def test_a_handful_of_prompts_carries_no_rank():
    table, heads = summary(0.6, prompts=19)
    joint = table[table.purpose == "feeders"]
    assert joint.p.isna().all() and joint.controls.eq(1).all() and joint.note.eq("19 prompts: fewer than 20").all()
    text = said(table, heads)
    assert "1 control set was patched, largest effect 0.01: no rank p from 19 prompts, fewer than 20." in text
    assert "rank p =" not in text
    few, heads = summary(0.6, prompts=3)
    note = few[few.purpose == "feeders"].note.iloc[0]
    assert note == "3 prompts: fewer than 20; 3 clusters: fewer than 8, no interval"
    assert "no rank p from 3 prompts" in said(few, heads)


def test_feeders_are_ranked_by_the_loss_where_it_was_measured_of_all_control_sets():
    table, heads = summary(0.6, controls=(1.1, 2.8, 3.5, 1.4))  # the feeders: 2.8, as one set; above is one
    joint = table[table.purpose == "feeders"]
    assert joint.p.eq(0.2).all()  # by the score none of the four reaches them
    assert joint.loss_p.to_list() == pytest.approx([0.6, 0.6]) and joint.loss_p_floor.eq(0.2).all()
    assert joint.loss_control_largest.to_list() == pytest.approx([2.5, 2.5])
    text = said(table, heads)
    rank = "rank p = 0.60; not told apart from them."
    assert f"Of 4 control sets, noised, 2 leave as high a loss (largest change +2.50): {rank}" in text
    assert f"Of 4 control sets, brought back, 2 take as much of it away (most 2.50): {rank}" in text
    for controls in ((None,), (1.1, None)):
        table, heads = summary(0.6, controls=controls)
        assert table[["loss_control_largest", "loss_p", "loss_p_floor"]].isna().all(axis=None)
        assert table[table.purpose == "feeders"].p.notna().all() and "as high a loss" not in said(table, heads)


def test_a_rank_by_the_loss_says_its_floor_and_needs_as_many_prompts():
    text = said(*summary(0.6, controls=(1.1,) * 39))
    assert "Of 39 control sets, noised, none leaves as high a loss (largest change +0.10): rank p = 0.025, its" in text
    assert "brought back, none takes as much of it away (most 0.10): rank p = 0.025, its floor." in text
    one = said(*summary(0.6, controls=(1.1,) * 38 + (2.9,)))
    assert "noised, 1 leaves as high a loss (largest change +1.90): rank p = 0.05. Of 39" in one
    table, heads = summary(0.6, prompts=19, controls=(1.1,) * 39)
    joint = table[table.purpose == "feeders"]
    assert joint.loss_p.isna().all() and joint.loss_control_largest.to_list() == pytest.approx([0.1, 0.1])
    text = said(table, heads)
    assert "Of 39 control sets, noised, no rank p from 19 prompts, fewer than 20 (largest change +0.10)." in text
    assert "rank p =" not in text


def test_of_several_feeders_the_loss_by_each_alone_stands_beside_that_by_all():
    table, heads = summary(0.6, feeders="L0H0 L0H1")
    alone = table[table.purpose == "single"].set_index(["source", "direction"]).loss_effect
    assert alone.dropna().to_dict() == pytest.approx(
        {("L0H0", "noising"): 1.8, ("L0H1", "noising"): 0.03, ("L0H0", "denoising"): 1.8, ("L0H1", "denoising"): 0.03}
    )
    text = said(table, heads)
    assert "is noised (L0H0 alone +1.80 [+1.80, +1.80]; L0H1 alone +0.03 [+0.03, +0.03]), by +0.10" in text
    assert "of that away (L0H0 alone 1.80 [1.80, 1.80]; L0H1 alone 0.03 [0.03, 0.03])." in text
    unmeasured = table.assign(loss_effect=table.loss_effect.where(table.purpose != "single"))  # an older study
    assert "L0H0 alone +" not in said(unmeasured, heads)


def test_the_section_says_where_a_feeder_is_below_a_null_head_or_none_was_found_or_nothing_was_traced():
    assert "0 of 1 feeders are above" in said(*summary(0.005))
    assert "no earlier head loses enough to count as a feeder; the largest effect is that of L0H0" in said(
        *summary(0.05, members=0)
    )
    assert said(pd.DataFrame(columns=circuit.COLUMNS), summary(0.6)[1]) == "No circuit was traced: no member."
