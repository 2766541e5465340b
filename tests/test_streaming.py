"""Streaming heads: exact against naive whole passes; the planted head that needs the far past is found, and only it."""

import json
import sys
import weakref
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from test_planted import TOKENS, planted

from stages import gates as stage
from stages.families.family import Tokens
from stages.model import streaming as module
from stages.model.forward import forward
from stages.model.paths import Unreadable
from stages.model.streaming import Cut, Streams, of_key_head, streaming, whole_model
from stages.statistics import caching

CUT = Cut(2, 5)


def prompts(lengths=(23, 19), seed: int = 0) -> list[Tokens]:
    rng = np.random.default_rng(seed)
    return [
        Tokens(f"p{n}", "test", rng.integers(5, 90, n), np.zeros(n, dtype=bool), np.arange(n - 5, n)) for n in lengths
    ]


@contextmanager
def naive(model, heads, cut: Cut, windows: dict):
    """Attention written out, for the whole sequence, in the place of a modelling file's: heads see what they may."""
    file, calls = sys.modules[type(model).__module__], []
    own = file.eager_attention_forward

    def attention(module, query, key, value, mask, scaling=None, **kwargs):
        layer = module.layer_idx
        times = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
        scores = query @ key.transpose(2, 3) * scaling
        for head in range(query.shape[1]):
            for t in range(query.shape[2]):
                for s in range(query.shape[2]):
                    far = windows.get(layer) is not None and t - s >= windows[layer]
                    gone = (layer, head) in heads and s >= cut.sinks and t - s >= cut.window
                    if s > t or far or gone:
                        scores[:, head, t, s] = -torch.inf
        calls.append(layer)
        weights = scores.softmax(-1)
        return (weights @ value).transpose(1, 2), weights

    file.eager_attention_forward = attention
    try:
        yield calls
    finally:
        file.eager_attention_forward = own


def by_hand(loaded, tokens: Tokens, heads) -> tuple[np.ndarray, torch.Tensor]:
    """Log-probabilities of the target, and last hidden states before it, of one whole pass without any shortcut."""
    windows = {layer: of.window for layer, of in loaded.anatomy.layers.items()}
    with naive(loaded.model, heads, CUT, windows) as calls, torch.no_grad():
        output = loaded.model(torch.from_numpy(tokens.ids)[None], output_hidden_states=True, use_cache=False)
    assert len(calls) == len(loaded.anatomy.layers)
    logprob = output.logits[0].log_softmax(-1)
    at = torch.from_numpy(tokens.target)
    return logprob[at - 1, torch.from_numpy(tokens.ids)[at]].numpy(), output.hidden_states[-1][0, at - 1]


@pytest.mark.parametrize("name", ["llama_gqa", "gemma3", "qwen3"])
def test_every_head_alone_equals_a_naive_masked_pass(name):
    loaded, both = tiny.make(name, scale=4.0), prompts()
    streams = Streams(loaded, both, [tokens.target for tokens in both], CUT)
    heads = loaded.anatomy.heads
    rows = [(number, head) for number in range(2) for head in heads]
    outcomes = streams.under([number for number, _ in rows], [{head} for _, head in rows])
    moved = 0
    for (number, head), outcome in zip(rows, outcomes, strict=True):
        logprob, hidden = by_hand(loaded, both[number], {head})
        assert np.abs(outcome.scored.logprob - logprob).max() < 1e-5 * max(1, np.abs(logprob).max())
        assert torch.allclose(outcome.hidden_RD, hidden, atol=1e-5 * float(hidden.abs().max()))
        moved += not np.allclose(logprob, streams.intact[number].scored.logprob, atol=1e-3)
    assert moved > len(rows) / 3  # and it is not nothing that is compared


@pytest.mark.parametrize("name", ["llama_gqa", "gemma3", "qwen3"])
def test_the_loss_of_a_model_that_streams_everywhere_equals_a_naive_masked_pass(name):
    loaded, both = tiny.make(name, scale=4.0), prompts()
    streams = Streams(loaded, both, [tokens.target for tokens in both], CUT)
    for number, outcome in enumerate(streams.under([0, 1], [whole_model(loaded)] * 2)):
        logprob, _ = by_hand(loaded, both[number], whole_model(loaded))
        assert np.allclose(outcome.scored.logprob, logprob, atol=1e-4)
    assert not np.allclose(streams.intact[1].scored.logprob, outcome.scored.logprob, atol=1e-2)


@pytest.mark.parametrize("name", ["gpt2", "gpt_oss", "bloom", "gptj", "olmo2", "gpt_neo"])
def test_shortcuts_change_nothing(name):
    """Also with learned sinks, and where attention is written into the modules: no shared prefix, no block skipped."""
    loaded, both = tiny.make(name, scale=4.0), prompts()
    streams = Streams(loaded, both, [tokens.target for tokens in both], CUT)
    for head in [(1, 0), (2, 3)]:
        for number, outcome in enumerate(streams.under([0, 1], [{head}] * 2)):
            tokens = both[number]
            with streaming(loaded, [{head}], CUT), torch.no_grad():
                logits = loaded.model(torch.from_numpy(tokens.ids)[None], use_cache=False).logits[0]
            want = logits.log_softmax(-1)[tokens.target - 1, tokens.ids[tokens.target]].numpy()
            assert np.allclose(outcome.scored.logprob, want, atol=1e-5)


def test_what_is_cut_has_no_weight_and_a_learned_sink_keeps_its_own():
    loaded, (tokens, _) = tiny.make("gpt_oss", scale=4.0), prompts()
    seen = {}
    module = loaded.model.get_submodule(loaded.anatomy.layers[1].attention)
    handle = module.register_forward_hook(lambda module, args, output: seen.update(weights=output[1]))
    with streaming(loaded, [{(1, 2)}], CUT), torch.no_grad():
        forward(loaded, [tokens.ids], headless=True)
    handle.remove()
    weights_HTS = seen["weights"][0]
    lost_TS = ~CUT.seen(0, 23, 23, weights_HTS.device)
    assert (weights_HTS[2][lost_TS] == 0).all() and (weights_HTS[1][lost_TS.tril()] > 0).all()
    assert (weights_HTS[2].sum(-1) < 0.999).any()  # the rest is the sink's


@pytest.mark.parametrize("name", ["llama_gqa", "qwen3", "gemma3"])
def test_positions_in_the_cache_are_those_of_a_text_that_is_the_cache(name):
    """In a model of one layer a key depends on its own token alone: the cache is a text of sinks and window."""
    loaded, (tokens, _) = tiny.make(name, scale=4.0), prompts((23, 19))
    loaded.model.model.layers = loaded.model.model.layers[:1]
    loaded = type(loaded)(loaded.model, loaded.tokenizer, tiny.find(loaded.model), "decoder")
    streams = Streams(loaded, [tokens], [tokens.target], CUT)
    values = {}
    for recount in (False, True):
        (outcome,) = streams.under([0], [whole_model(loaded)], Cut(2, 5, recount))
        values[recount] = outcome.scored.logprob
    naive_logprob = []
    for at in tokens.target:
        cached = np.concatenate([tokens.ids[:2], tokens.ids[at - 5 : at]])
        with torch.no_grad():
            logits = loaded.model(torch.from_numpy(cached)[None]).logits[0, -1]
        naive_logprob.append(float(logits.log_softmax(-1)[tokens.ids[at]]))
    assert np.allclose(values[True], naive_logprob, atol=1e-5)
    assert not np.allclose(values[False], naive_logprob, atol=1e-3)


def test_positions_that_are_no_rotation_are_not_counted_anew():
    loaded, (tokens, _) = tiny.make("gpt2"), prompts()
    streams = Streams(loaded, [tokens], [tokens.target], CUT)
    with pytest.raises(Unreadable, match="re-counted"):
        next(streams.under([0], [whole_model(loaded)], Cut(2, 5, True)))


def test_the_planted_head_that_reads_the_far_past_is_gated_full_and_only_it():
    """The planted induction head fetches from a period ago; the previous-token head needs one token.

    As planted it writes nothing: then its attention to the far past is as large, and nothing is lost without it.
    """
    loaded = planted()
    second, width = loaded.model.transformer.h[1].attn, loaded.model.config.n_embd
    ids = np.tile(4 + np.random.default_rng(0).permutation(36)[:20], 2)
    tokens = Tokens("r", "test", ids, np.zeros(40, dtype=bool), np.arange(36, 40))
    row = pd.Series({"id": "r", "split": "a", "cluster": "r"})
    silent = pd.DataFrame(stage._gates(loaded, [(row, tokens)], CUT, set(loaded.anatomy.heads), weighed=True))
    assert silent.mass_answer.max() > 0.9 and silent.change.max() < 1e-6
    second.c_attn.weight[:TOKENS, 2 * width : 2 * width + TOKENS] = torch.eye(TOKENS)
    second.c_proj.weight[:TOKENS, :TOKENS] = torch.eye(TOKENS)
    rows = pd.DataFrame(stage._gates(loaded, [(row, tokens)], CUT, set(loaded.anatomy.heads), weighed=True))
    change = rows[rows["head"] == caching.ALONE].set_index(["layer", "key_head"]).change
    assert change.idxmax() == (1, 0) and change[1, 0] > 0.1
    assert change.drop((1, 0)).max() < 1e-3
    assert caching.ranked(change.to_dict())[0] == (1, 0)
    alone = rows[rows["head"] >= 0].set_index(["layer", "head"])
    assert alone.mass_answer[1, 0] > 0.9 and alone.mass_answer[0, 0] < 0.05
    assert alone.change.equals(change.rename_axis(["layer", "head"]).astype(alone.change.dtype))


def test_key_heads_hold_the_query_heads_that_read_them():
    loaded = tiny.make("llama_gqa")
    assert of_key_head(loaded, 1, 1) == [(1, 2), (1, 3)]
    streams = Streams(loaded, prompts()[:1], [prompts()[0].target], CUT)
    together, apart = streams.under([0, 0], [set(of_key_head(loaded, 1, 1)), {(1, 2)}])
    assert not torch.allclose(together.hidden_RD, apart.hidden_RD)


@pytest.mark.parametrize("name", ["llama_gqa", "gemma3", "gpt_neo"])
def test_sets_of_heads_that_share_layers_give_what_each_gives_alone(name):
    """Whatever their order; gpt_neo resumes nowhere else than the others. The empty set is the intact model."""
    loaded, both = tiny.make(name, scale=4.0), prompts()
    heads, rng = loaded.anatomy.heads, np.random.default_rng(1)
    sets = [{heads[at] for at in rng.permutation(len(heads))[:3]} for _ in range(6)]
    sets += [set(), sets[0], whole_model(loaded), {heads[-1]}]
    streams = Streams(loaded, both, [tokens.target for tokens in both], CUT)
    for of_set, scored in zip(sets, streams.every(sets), strict=True):
        for own, alone in zip(scored, streams.under([0, 1], [of_set] * 2), strict=True):
            assert np.allclose(own.logprob, alone.scored.logprob, atol=1e-5)


def test_the_head_reads_the_rows_of_several_passes_at_once_and_a_known_set_runs_no_pass(monkeypatch):
    loaded, both = replace(tiny.make("llama_gqa", scale=4.0), ends=True), prompts()
    heads, read = loaded.anatomy.heads, []
    own = module.score_rows
    monkeypatch.setattr(module, "score_rows", lambda rows, *where: read.append(len(rows)) or own(rows, *where))

    def scored(limit: int) -> list[np.ndarray]:
        monkeypatch.setattr(module, "HEAD", limit)
        monkeypatch.setattr(module, "TOKENS", max(map(len, both)))  # a prompt a pass
        streams = Streams(loaded, both, [tokens.target for tokens in both], CUT)
        read.clear()
        outcomes = streams.under([1, 0, 1, 0], [{heads[0]}, set(), {heads[-1]}, {heads[1]}])
        scored = [outcome.scored for outcome in outcomes]
        scored += [own for of_set in streams.every([{heads[0]}, {heads[2]}]) for own in of_set]
        before = len(read)
        scored += streams.every([{heads[2]}, set()])[0]
        assert len(read) == before
        return [own.logprob for own in scored]

    apart = scored(1)
    assert read == [5] * 7  # three rows of heads that stream, then two sets on two prompts
    at_once = scored(1000)
    assert read == [15, 10, 10]
    np.testing.assert_allclose(np.stack(at_once), np.stack(apart), atol=1e-5)


def test_rows_run_from_their_own_first_layer_and_the_head_reads_those_of_several_layers(monkeypatch):
    loaded, both = replace(tiny.make("llama_gqa", scale=4.0), ends=True), prompts()
    streams = Streams(loaded, both, [tokens.target for tokens in both], CUT)
    rows = [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2)]  # prompt, layer
    alone = [next(streams.under([number], [{(layer, 1)}])) for number, layer in rows]
    begun, read, own = [], [], module.score_rows
    whole, resumed = module.resuming, lambda loaded, layer, x: begun.append(layer) or whole(loaded, layer, x)
    monkeypatch.setattr(module, "resuming", resumed)
    monkeypatch.setattr(module, "score_rows", lambda rows, *where: read.append(len(rows)) or own(rows, *where))
    together = list(streams.under([number for number, _ in rows], [{(layer, 1)} for _, layer in rows]))
    assert begun == [0, 1, 2] and read == [5 * len(rows)]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.scored.logprob, other.scored.logprob, atol=1e-5)


def test_hidden_rows_of_sets_that_are_scored_are_not_kept(monkeypatch):
    """Whether the LM head reads each pass's rows at once, or they wait for those of others."""
    both, ran, alive = prompts(), [], []

    def watched(*fields):
        ran.append(weakref.ref(made := own(*fields)))
        alive.append(sum(ref() is not None for ref in ran))
        return made

    own = module._Ran
    monkeypatch.setattr(module, "_Ran", watched)
    monkeypatch.setattr(module, "HEAD", 1)
    for ends in (False, True):
        loaded = replace(tiny.make("llama_gqa"), ends=ends)
        streams = Streams(loaded, both, [tokens.target for tokens in both], CUT)
        ran.clear()
        alive.clear()
        every = streams.every([{head} for head in loaded.anatomy.heads])
        assert len(every) == len(ran) == len(alive) == len(loaded.anatomy.heads) > 6
        assert max(alive) <= 3


def test_rows_run_as_they_are_asked_for_and_their_hidden_states_are_not_kept(monkeypatch):
    """Also where each pass reads its own logits, and however many rows the LM head may read at once then."""
    both, ran, own = prompts(), [], module._Ran
    monkeypatch.setattr(module, "_Ran", lambda *fields: ran.append(weakref.ref(made := own(*fields))) or made)
    for ends, head in ((False, module.HEAD), (True, 1)):
        monkeypatch.setattr(module, "HEAD", head)
        loaded = replace(tiny.make("llama_gqa"), ends=ends)
        streams = Streams(loaded, both, [tokens.target for tokens in both], CUT)
        heads = [{(layer, 1)} for layer in range(3)] * 3  # each begins to differ in another layer: a pass of its own
        ran.clear()
        alive = [sum(ref() is not None for ref in ran) for _ in streams.under([0] * len(heads), heads)]
        assert len(alive) == len(ran) == len(heads) and max(alive) <= 3


def test_prompts_of_about_one_length_run_together_and_query_heads_near_the_bound_are_measured_on():
    pairs = [(pd.Series({"id": f"p{n}"}), np.zeros(length)) for n, length in enumerate((300, 50, 250, 250, 1000))]
    groups = [[len(tokens) for _, tokens in group] for group in stage._alike(pairs)]
    assert groups == [[50, 250], [250], [300], [1000]]
    rows = [
        {"layer": 0, "head": head, "change": change} for head, change in ((-1, 0.9), (0, 0.04), (0, 0.12), (1, 0.07))
    ]
    assert caching.screened(rows, 0.1) == {(0, 0)} and caching.screened([], 0.1) == set()


def test_query_heads_that_are_asked_for_are_measured_alone_and_others_are_not():
    loaded, both = tiny.make("llama_gqa"), prompts()
    rows = [(pd.Series({"id": tokens.prompt, "split": "a", "cluster": "c"}), tokens) for tokens in both]
    measured = pd.DataFrame(stage._gates(loaded, rows, CUT, {(1, 2)}))
    keys = measured[measured["head"] == caching.ALONE]
    assert len(keys) == 2 * sum(of.kv_heads for of in loaded.anatomy.layers.values())
    alone = measured[measured["head"] != caching.ALONE]
    assert set(zip(alone.layer, alone["head"], alone.key_head, strict=True)) == {(1, 2, 1)} and len(alone) == 2
    streams = Streams(loaded, both[:1], [both[0].target], CUT)
    (outcome,) = streams.under([0], [{(1, 2)}])
    moved = (outcome.hidden_RD - streams.intact[0].hidden_RD).norm(dim=1) / streams.intact[0].hidden_RD.norm(dim=1)
    assert alone[alone.prompt == both[0].prompt].change.item() == pytest.approx(float(moved.mean()), rel=1e-3)


def test_the_interval_of_a_change_of_recall_cannot_leave_0_to_1():
    rng = np.random.default_rng(0)
    for full in (1.0, 0.95, 0.3, 0.0):
        full_P = np.clip(np.full(20, full) + 0.05 * rng.integers(-1, 2, 20) * (0 < full < 1), 0, 1)
        for value_P in (full_P, np.zeros(20), np.ones(20), rng.random(20)):
            low, high = caching.change_interval(full_P, value_P, np.arange(20) % 12)
            change = (value_P - full_P).mean()
            assert -full_P.mean() - 1e-9 <= low <= change + 1e-9 and change - 1e-9 <= high <= 1 - full_P.mean() + 1e-9
    low, high = caching.change_interval(np.ones(20), np.ones(20), np.arange(20) % 12)
    assert high == 0 and -0.4 < low < -0.2  # nothing lost on 12 clusters: some could be
    noisy = caching.change_interval(np.ones(20), np.ones(20) - 1e-9 * rng.random(20), np.arange(20) % 12)
    assert noisy == pytest.approx((low, high))
    assert np.isnan(caching.change_interval(np.ones(20), np.ones(20), np.arange(20) % 7)).all()


def test_the_interval_of_a_change_of_recall_covers_it():
    """Prompts of one intact recall, some of which lose part of it and few gain: 93 % at least of 400 samples."""
    rng, full_P, hits = np.random.default_rng(2), np.repeat([0.6, 0.8, 1.0, 0.8], 5), 0
    for _ in range(400):
        lost_P, gained_P = rng.random(20) < 0.3, rng.random(20) < 0.2
        value_P = np.where(lost_P, full_P - 0.4, np.where(gained_P, 1.0, full_P))
        truth = 0.3 * -0.4 + 0.7 * 0.2 * (1 - full_P).mean()
        low, high = caching.change_interval(full_P, value_P, np.arange(20))
        hits += low <= truth <= high
    assert hits >= 0.93 * 400


def served(policy: dict, layer: int, kv_head: int, query: int) -> set[int]:
    """Keys that a serving engine keeps for a query by the policy's file: sinks and a window, or all."""
    (of,) = [row for row in policy["heads"] if (row["layer"], row["kv_head"]) == (layer, kv_head)]
    past = range(query + 1)
    if of["model_window"]:
        past = past[-of["model_window"] :]
    if of["kind"] == "full":
        return set(past)
    return {key for key in past if key < policy["sinks"]} | set(past[-policy["window"] :])


def test_a_serving_engine_reads_the_policy_and_gets_the_model_that_was_measured(tmp_path):
    """cache.json alone says what every key head keeps; a model that is masked by it gives what the stage reports."""
    loaded, both = tiny.make("gemma3", scale=4.0), prompts()
    record = {"name": "tiny", "revision": "1"}
    pairs = [(pd.Series({"id": tokens.prompt, "split": "a", "cluster": "c"}), tokens) for tokens in both]
    gates = stage._gates(loaded, pairs, CUT, set())
    ranking = caching.ranked(pd.DataFrame(gates).groupby(["layer", "key_head"]).change.mean().to_dict())
    tried = caching.policies({"gate": ranking}, (), 1, np.random.default_rng(0))
    settings = SimpleNamespace(gates=SimpleNamespace(sinks=CUT.sinks, window=CUT.window), seed=1)
    file = tmp_path / "cache.json"
    file.write_text(json.dumps(stage._policy("decoder", loaded, record, gates, tried, settings)))
    policy = json.loads(file.read_text())
    assert {row["kind"] for row in policy["heads"]} == {"full", "streaming"}
    assert len(policy["heads"]) == sum(of.kv_heads for of in loaded.anatomy.layers.values())

    tokens, calls = both[0], []
    modelling = sys.modules[type(loaded.model).__module__]
    own = modelling.eager_attention_forward

    def attention(module, query, key, value, mask, scaling=None, **kwargs):
        calls.append(module.layer_idx)
        outputs, times = [], query.shape[1] // key.shape[1]
        for head in range(query.shape[1]):
            scores_TS = query[0, head] @ key[0, head // times].T * scaling
            kept_TS = torch.zeros_like(scores_TS, dtype=torch.bool)
            for t in range(len(scores_TS)):
                kept_TS[t, sorted(served(policy, module.layer_idx, head // times, t))] = True
            outputs.append(scores_TS.masked_fill(~kept_TS, -torch.inf).softmax(-1) @ value[0, head // times])
        return torch.stack(outputs, 1)[None], None

    modelling.eager_attention_forward = attention
    try:
        with torch.no_grad():
            logits = loaded.model(torch.from_numpy(tokens.ids)[None], use_cache=False).logits[0]
    finally:
        modelling.eager_attention_forward = own
    assert len(calls) == len(loaded.anatomy.layers)
    want = logits.log_softmax(-1)[tokens.target - 1, tokens.ids[tokens.target]].numpy()
    half = next(full for method, share, _, full in tried if (method, share) == ("gate", caching.HALF))
    streams = Streams(loaded, [tokens], [tokens.target], CUT)
    ((own,),) = streams.every([stage._streaming_heads(loaded, half)])
    assert np.allclose(own.logprob, want, atol=1e-4)
    assert not np.allclose(streams.intact[0].scored.logprob, want, atol=1e-3)


def test_policies_take_the_best_and_draw_as_many():
    order = [(2, 0), (0, 0), (1, 0), (3, 0)]
    tried = caching.policies({"gate": order, "first": sorted(order)}, (0.25,), 3, np.random.default_rng(0))
    at = {(method, share, draw): heads for method, share, draw, heads in tried}
    assert at["gate", 0.25, 0] == [(2, 0)] and at["gate", 0.5, 0] == [(2, 0), (0, 0)]
    assert at["first", 0.5, 0] == [(0, 0), (1, 0)] and at["none", 0.0, 0] == []
    assert all(len(heads) == 2 for (method, _, _), heads in at.items() if method == "random")
    assert len([1 for method, _, _ in at if method == "random"]) == 3
    assert ("first", 0.25, 0) not in at and ("gate", 0.75, 0) not in at
    more = caching.policies(
        {"gate": order, "first": sorted(order)}, (0.25,), 3, np.random.default_rng(0), compared=(0.25, 0.75)
    )
    at = {(method, share): heads for method, share, _, heads in more}
    assert at["first", 0.25] == [(0, 0)] and at["first", 0.75] == [(0, 0), (1, 0), (2, 0)]
    assert at["gate", 0.75] == [(2, 0), (0, 0), (1, 0)] and len(at["first", 0.5]) == 2
    assert [row for row in more if row[0] == "random"] == [row for row in tried if row[0] == "random"]


def test_a_cache_is_counted_by_entries_and_a_layers_own_window_needs_no_more():
    windows = {(0, 0): None, (1, 0): 10}
    assert caching.entries([(0, 0), (1, 0)], windows, 100, 6) == 1.0
    assert caching.entries([(0, 0)], windows, 100, 6) == pytest.approx((100 + 6) / 110)
    assert caching.entries([], windows, 100, 20) == pytest.approx((20 + 10) / 110)


def test_the_curve_ranks_the_gate_among_random_sets():
    rows = []
    for prompt in range(10):
        for method, share, draw, value in [
            ("full", 1.0, 0, 0.9), ("gate", 0.5, 0, 0.8), ("random", 0.5, 1, 0.2), ("random", 0.5, 2, 0.8),
            ("random", 0.5, 3, 0.1), ("none", 0.0, 0, 0.0),
        ]:  # fmt: skip
            rows.append({"task": "needle", "measure": "recall", "method": method, "share": share, "kept": 2,
                         "draw": draw, "kept_heads": "L0K0 L1K0", "entries": 0.6, "prompt": f"p{prompt}",
                         "cluster": f"p{prompt}", "value": value + 0.001 * (prompt % 2)})  # fmt: skip
    table = caching.table(pd.DataFrame(rows)).set_index("method")
    assert table.p["gate"] == pytest.approx(2 / 4) and table.p_floor["gate"] == pytest.approx(1 / 4)
    assert table.change["gate"] == pytest.approx(-0.1) and table.draws_best["random"] == pytest.approx(0.8005)
    measured = pd.DataFrame({"change": [0.01, 0.5]})
    found = caching.metrics(measured, caching.table(pd.DataFrame(rows)), 0.1)
    assert found["gates"] == {"streaming_share": 0.5} and found["cache"]["half"]["recall"] == pytest.approx(0.8005)


@pytest.mark.parametrize("name", ["llama_gqa", "bloom"])  # the second has no positions to count anew
@pytest.mark.parametrize("tried", [True, False])
def test_texts_are_read_alike_by_any_processes_and_as_one_group(name, tried, monkeypatch):
    loaded, sets = tiny.make(name), [("none", 0.0, 0, []), ("gate", 0.5, 0, [(0, 0)]), ("random", 0.5, 1, [(1, 0)])]
    pairs = [
        (SimpleNamespace(id=f"p{n}", cluster=f"c{n}"), tokens) for n, tokens in enumerate(prompts(lengths=(40,) * 9))
    ]
    asked = SimpleNamespace(window=6, sinks=2, sinks_tried=[0, 1, 2], lengths=[20, 40], draws_on_text=False)
    monkeypatch.setattr(stage, "STRIDE", 3)

    def measured(workers: int, together: int) -> list[pd.DataFrame]:
        monkeypatch.setenv("HEAD_ATLAS_WORKERS", str(workers))
        monkeypatch.setattr(stage, "TOGETHER", together)
        made = stage._texts(loaded, pairs, Cut(2, 6), sets if tried else [], asked)
        return [pd.DataFrame(rows) for rows in made]

    two = measured(2, 2)
    for one, other in zip(two, measured(1, 2), strict=True):
        pd.testing.assert_frame_equal(one, other, rtol=1e-6)
    lost, streamed = (of.sort_values(list(of.columns[:-1]), ignore_index=True) for of in measured(1, 9))
    for of, whole in zip(two, (lost, streamed), strict=True):
        pd.testing.assert_frame_equal(of.sort_values(list(of.columns[:-1]), ignore_index=True), whole, rtol=1e-5)
    assert len(lost) == (2 + 1) * 9 * tried  # the full cache, and two of three policies: random ones are not asked for
    counted = 1 + 3 + (2 if name == "llama_gqa" else 0)
    assert len(streamed) == counted * 9 * 2 and streamed.groupby(["sinks", "positions"]).ngroups == counted
