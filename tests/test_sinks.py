"""Sinks equal a naive reference, a planted one is found, a random model has none; probes can fail."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from test_planted import POSITIONS, TOKENS, planted

from stages.families.family import Tokens
from stages.model.anatomy import contribution, find
from stages.model.load import Loaded
from stages.model.observe import observing
from stages.model.score import Batch
from stages.model.silence import Firsts, Writable, silencing
from stages.model.sink_inputs import inputs, punctuation
from stages.model.sinks import look
from stages.model.token_states import KINDS, choose, token_states
from stages.sinks import _far
from stages.statistics import sinks
from stages.statistics.outliers import _uniform, beyond, dip, one_mode
from stages.statistics.probes import probe
from stages.store import tables
from stages.store.errors import UserError

LENGTH = 24


def test_outliers_of_any_layer_are_found_but_for_the_first_token_of_a_passage():
    rng = np.random.default_rng(0)
    norms_NLT = rng.uniform(0.9, 1.1, (4, 3, LENGTH))
    norms_NLT[2, 1, 7] = norms_NLT[1, 0, 0] = 50.0
    far_NT = _far([SimpleNamespace(norms_LT=norms_LT) for norms_LT in norms_NLT])
    assert far_NT.shape == (4, LENGTH) and np.argwhere(far_NT).tolist() == [[2, 7]]


def texts(loaded: Loaded, count: int, vocabulary: int, length: int = LENGTH) -> list[Tokens]:
    rng, special = np.random.default_rng(1), np.arange(length) == 0
    return [
        Tokens(f"p{number}", "short", np.r_[1, rng.integers(4, vocabulary, length - 1)], special)
        for number in range(count)
    ]


@torch.no_grad()
def reference(loaded: Loaded, tokens: Tokens) -> dict[str, np.ndarray]:
    """Layer x head, by loops over one prompt: attentions and hidden states as transformers returns them."""
    ids = torch.from_numpy(tokens.ids)[None]
    output = loaded.model(input_ids=ids, output_attentions=True, output_hidden_states=True, use_cache=False)
    z = {}
    hooks = [
        loaded.model.get_submodule(layer.projection).register_forward_pre_hook(
            lambda module, args, number=number: z.update({number: args[0][0]})
        )
        for number, layer in loaded.anatomy.layers.items()
    ]
    cached = []  # of each layer, key heads x tokens x their size

    def keep(eager, module, query, key, value, mask, **kwargs):
        cached.append(value[0])
        return eager(module, query, key, value, mask, **kwargs)

    with observing(loaded.model, keep):
        loaded.model(input_ids=ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    length, causal = len(tokens), loaded.anatomy.causal
    found: dict[str, list] = {name: [] for name in ("first", "second", "special", "value", "said", "output", "norm")}
    for number, layer in loaded.anatomy.layers.items():
        weights = output.attentions[number][0].double()
        rows: dict[str, list] = {name: [] for name in found if name != "norm"}
        for head in range(layer.heads):
            of_key_head = cached[number][head * len(cached[number]) // layer.heads]
            norms = [float(of_key_head[place].norm()) for place in range(length)]
            rows["value"].append(norms[0] / float(torch.tensor(norms[1:]).median()))
            later = [float(weights[head, query, 1]) for query in range(1 if causal else 0, length)]
            rows["second"].append(sum(later) / len(later))  # by the queries that see it
            looked = [sum(float(weights[head, query, key]) for key in np.flatnonzero(tokens.special) if key)
                      for query in range(length)]  # fmt: skip
            rows["special"].append(sum(looked) / length)
            column = [float(weights[head, query, 0]) for query in range(length)]
            rows["first"].append(sum(column) / length)
            mine = z[number][:, head * layer.head_size : (head + 1) * layer.head_size]
            written = contribution(loaded.model, layer, head, mine)
            rows["output"].append(
                float(np.mean([float(written[t].norm()) for t in range(length) if not tokens.special[t]]))
            )
            if causal:  # the first query sees itself alone: its output is the first value
                value = contribution(loaded.model, layer, head, mine[0])
                sink = np.mean([column[t] * float(value.norm()) for t in range(length)])
                rest = np.mean([float((written[t] - column[t] * value).norm()) for t in range(length)])
                rows["said"].append(sink / (sink + rest))
        rows["output"] = list(np.array(rows["output"]) / np.mean(rows["output"]))
        for name, values in rows.items():
            found[name].append(values)
        if number + 1 < len(output.hidden_states) - 1:  # the last one is normed
            norms = [float(x.double().norm()) for x in output.hidden_states[number + 1][0]]
            found["norm"].append(np.array(norms) / float(torch.tensor(norms).median()))
    return {name: np.array(values) for name, values in found.items()}


@pytest.mark.parametrize("name", ["llama_gqa", "gpt2", "gemma3", "bert"])
def test_sinks_equal_a_naive_reference_on_twenty_prompts(name):
    loaded = tiny.make(name)
    prompts = texts(loaded, 20, tiny.VOCABULARY)
    prompts[0].special[7] = True  # of all: they have one array
    for tokens, seen in zip(prompts, look(loaded, prompts), strict=True):
        expected = reference(loaded, tokens)
        for column, tolerance in (("first", 1e-6), ("second", 1e-6), ("special", 1e-6), ("value", 1e-5), ("said", 1e-5),
                                  ("output", 1e-5)):  # fmt: skip
            if column == "said" and not loaded.anatomy.causal:
                continue  # what an encoder's first token holds is not its value alone
            mine = np.array([of_layer[column] for of_layer in seen.heads.values()])
            np.testing.assert_allclose(mine, expected[column], atol=tolerance, rtol=0)
        for norms, layer in zip(expected["norm"], seen.tokens.values(), strict=False):
            np.testing.assert_allclose(layer["norm"], norms, atol=1e-5)


@pytest.mark.parametrize("name", ["llama_gqa", "gpt2", "bert"])
def test_passages_of_one_and_of_two_tokens_are_measured_as_long_ones_are(name):
    """A first token alone is looked at by itself; it has no second one, nor others to be compared with."""
    loaded = tiny.make(name)
    (whole,) = texts(loaded, 1, tiny.VOCABULARY)
    short = [Tokens(f"p{size}", "short", whole.ids[:size], whole.special[:size]) for size in (1, 2)]
    one, two, long = look(loaded, [*short, whole])
    for number, layer in one.heads.items():
        np.testing.assert_allclose(layer["first"], 1, atol=1e-6)
        if loaded.anatomy.causal:
            np.testing.assert_allclose(layer["said"], 1, atol=1e-6)
        assert all(np.isnan(layer[column]).all() for column in ("second", "later", "output", "value"))
        np.testing.assert_allclose(one.tokens[number]["norm"], [1])
        of_two, alone = two.heads[number], look(loaded, [short[1]])[0].heads[number]
        for column in ("first", "second", "said", "output", "value"):
            np.testing.assert_allclose(of_two[column], alone[column], atol=1e-5)
            assert np.isfinite(of_two[column]).all() and np.isfinite(long.heads[number][column]).all()


def test_the_curve_of_the_table_equals_counting(tmp_path):
    loaded = tiny.make("llama_gqa")
    prompts = texts(loaded, 20, tiny.VOCABULARY)
    expected = np.array([reference(loaded, tokens)["first"] for tokens in prompts])
    rows = table(loaded, {"natural": prompts})
    rates = rows[(rows.part == "rate") & (rows.measure == "first")].set_index("threshold").value
    for threshold, value in rates.items():
        assert value == pytest.approx(np.mean(expected > threshold), abs=1e-6)
    assert 0 < rates[0.1] <= 1 and rates[0.95] == 0
    means = rows[(rows.part == "head") & (rows.measure == "first")].value.to_numpy()
    np.testing.assert_allclose(means, expected.mean(0).ravel(), atol=1e-6)


def table(loaded: Loaded, made: dict[str, list[Tokens]]) -> pd.DataFrame:
    """Rows of sinks.csv of prompts, through the stage's own rows."""
    from stages.sinks import _rows

    heads, residuals = [], []
    for name, prompts in made.items():
        for number, seen in enumerate(look(loaded, prompts)):
            same = {"prompt": f"p{number}", "split": "ab"[number % 2], "input": name}
            heads.append(_rows(same, seen.heads, "head"))
            residuals.append(_rows(same, seen.tokens, "position").assign(mark=np.tile(seen.marks, len(seen.tokens))))
    heads, residuals = pd.concat(heads), pd.concat(residuals)
    assert set(tables.SINK_HEADS.names) == set(heads) and set(tables.SINK_TOKENS.names) == set(residuals)
    return sinks.table(heads, residuals)


def sinking(value: float) -> Loaded:
    """The planted transformer, in which L1H1 looks at position 0, whose value there is `value` times its first one."""
    loaded = planted()
    width, attention = TOKENS + POSITIONS + TOKENS, loaded.model.transformer.h[1].attn
    head = width // 2  # first channel of the second head
    attention.c_attn.bias[head] = 8.0
    attention.c_attn.weight[TOKENS, width + head] = 0.6  # only position 0 has this key
    own = slice(2 * width + head, 2 * width + head + 8)
    for token in range(TOKENS):
        attention.c_attn.weight[token, own] = torch.eye(8)[token % 8]
    attention.c_proj.weight[head : head + 8, :8] = torch.eye(8)
    seen: list[torch.Tensor] = []
    hook = attention.c_attn.register_forward_hook(lambda module, args, output: seen.append(output[0, 0, own]))
    loaded.model(input_ids=torch.tensor([[1, 5]]))
    hook.remove()
    attention.c_attn.bias[own] -= (1 - value) * seen[0]
    return loaded


def test_a_planted_sink_is_found_and_whether_it_says_something():
    quiet, loud = (table(loaded, {"natural": texts(loaded, 20, TOKENS)}) for loaded in (sinking(0.0), sinking(5.0)))
    for rows in (quiet, loud):
        first = rows[(rows.part == "head") & (rows.measure == "first")].set_index(["layer", "head"]).value
        assert first.idxmax() == (1, 1) and first[1, 1] > 0.6 and (first.drop((1, 1)) < 0.3).all()
        assert rows[(rows.part == "all") & (rows.measure == "sinks")].value.iloc[0] == 1
    assert quiet[(quiet.part == "all") & (quiet.measure == "silent")].value.iloc[0] == 1
    assert loud[(loud.part == "all") & (loud.measure == "silent")].value.iloc[0] == 0


def test_an_inactive_head_is_found_by_its_output_where_attention_to_the_first_token_misses_it():
    loaded = tiny.make("llama_gqa")
    loaded.model.model.layers[1].self_attn.o_proj.weight[:, 8:16] *= 0.01  # L1H1 writes next to nothing
    rows = table(loaded, {"natural": texts(loaded, 8, tiny.VOCABULARY)})
    overall = rows[rows.part == "all"].set_index("measure").value
    assert overall["inactive"] == pytest.approx(1 / 12) and overall["inactive_sinks"] == 0 and overall["sinks"] == 0
    assert sinks.metrics(rows).keys() == {"rate", "massive_ratio", "inactive"}


@pytest.mark.parametrize("name", ["gpt2", "llama_gqa", "gemma3", "bert"])
def test_a_random_model_has_no_sinks(name):
    loaded = tiny.make(name)
    rows = table(loaded, {"natural": texts(loaded, 20, tiny.VOCABULARY, 48)})
    overall = rows[rows.part == "all"].set_index("measure").value
    assert overall["rate"] == 0 and overall["sinks"] == 0 and overall["massive_ratio"] < 2


def test_a_learned_sink_is_told_from_the_first_token():
    loaded = tiny.make("gpt_oss")
    loaded.model.model.layers[0].self_attn.sinks[1] = 9.0
    loaded = Loaded(loaded.model, loaded.tokenizer, find(loaded.model), "decoder")
    seen = look(loaded, texts(loaded, 4, tiny.VOCABULARY))[0].heads[0]
    assert seen["learned"][1] > 0.9 and seen["first"][1] < 0.1


def test_inputs_keep_length_and_move_the_first_token():
    loaded = tiny.make("llama_gqa")
    passages = texts(loaded, 3, tiny.VOCABULARY)
    made = inputs(loaded, passages, np.random.default_rng(0))
    assert list(made) == ["natural", "random", "repeated", "moved", "without"]
    for number, tokens in enumerate(passages):
        moved, without = made["moved"][number], made["without"][number]
        assert moved.ids[1] == 1 and moved.special.tolist() == [False, True] + [False] * 22 and len(moved) == LENGTH
        assert (moved.ids[2:] == tokens.ids[1:-1]).all() and (without.ids == tokens.ids[1:]).all()
        assert len(set(made["repeated"][number].ids[1:])) == 1 and made["random"][number].ids[0] == 1
    bare = [Tokens("p", "short", passages[0].ids[1:], np.zeros(LENGTH - 1, dtype=bool))]
    assert "without" not in inputs(loaded, bare, np.random.default_rng(0))


def test_punctuation_is_marks_alone():
    loaded = tiny.make("llama_gqa")
    ids = np.array([1, *loaded.tokenizer.convert_tokens_to_ids([",", "a", ".", "Ġthe"])])
    tokens = Tokens("p", "short", ids, np.arange(5) == 0)
    assert punctuation(loaded, tokens).tolist() == [False, True, False, True, False]


def test_outliers_and_modes():
    rng = np.random.default_rng(0)
    plain, tail = rng.normal(size=1000), rng.exponential(size=1000)
    apart = np.r_[plain, rng.normal(9, 0.5, 40)]
    assert beyond(apart).sum() == 40 and beyond(plain).sum() == 0
    apart = np.r_[plain, rng.normal(9, 0.5, 80)]
    assert one_mode(apart) <= 0.01 < 0.05 < min(one_mode(plain), one_mode(tail))
    stray = np.r_[plain, 9.0]
    assert beyond(stray).sum() == 1 and one_mode(stray) > 0.5  # one stray number is no mode
    assert one_mode(np.ones(9)) == one_mode(np.ones(0)) == 1


# per cent of silica in chondrite meteorites (Good & Gaskins 1980); dip by the package diptest 0.12, a copy of AS 217
SILICA = [20.77, 22.56, 22.71, 22.99, 26.39, 27.08, 27.32, 27.33, 27.57, 27.81, 28.69, 29.36, 30.25, 31.89, 32.88,
          33.23, 33.28, 33.40, 33.52, 33.83, 33.95, 34.82]  # fmt: skip


def test_the_dip_is_the_published_one():
    assert dip(np.array(SILICA)) == pytest.approx(0.08789184952978056, abs=1e-8)
    assert one_mode(np.array(SILICA)) == pytest.approx(0.162, abs=0.03)  # by interpolation in the table of R's diptest
    assert dip(np.r_[np.zeros(5), np.ones(5)]) == pytest.approx(0.25, abs=1e-6)  # two atoms: as far as can be
    assert dip(np.arange(10.0)) == pytest.approx(0.05, abs=1e-6)  # even: 1 / 2N, as near as can be
    for count, quantiles in {100: (0.0355, 0.0511), 1000: (0.0117, 0.0169)}.items():  # R's table qDiptab, 50 and 95 %
        np.testing.assert_allclose(np.quantile(_uniform(count), (0.5, 0.95)), quantiles, rtol=0.05)


def made_states(rng: np.random.Generator, count: int = 160) -> tuple[dict, np.ndarray]:
    """Targets and blocks of four passages each."""
    topic = rng.integers(4, size=count)
    targets = {"token": rng.normal(size=(count, 3)), "topic": topic, "rest": rng.normal(size=(count, 3))}
    return targets, np.arange(count) // 4


def test_probes_tell_local_from_global_states_and_a_constant_state_is_chance_exactly():
    rng = np.random.default_rng(0)
    targets, blocks = made_states(rng)
    count = len(blocks)
    noise = rng.normal(size=(count, 20)) * 0.3
    whole = noise + np.eye(20)[targets["topic"]] * 3 + np.pad(targets["rest"], ((0, 0), (10, 7)))
    both = whole + np.pad(targets["token"], ((0, 0), (15, 2)))
    read = probe(whole, targets, blocks, np.random.default_rng(1), 20)
    assert read["topic"].low > 0.8 and read["rest"].low > 0.3 and abs(read["token"].value) < 0.1
    assert abs(read["topic"].shuffled - 0.25) < 0.1 and abs(read["rest"].shuffled) < 0.1
    assert probe(both, targets, blocks, np.random.default_rng(1), 20)["token"].low > 0.2  # "global only" fails
    constant = probe(np.ones((count, 20)) + 1e-8 * noise, targets, blocks, np.random.default_rng(1), 20)
    assert constant["topic"].value == constant["topic"].majority == constant["topic"].shuffled
    assert constant["token"].value == pytest.approx(0, abs=1e-12)
    alike = probe(whole, {"token": np.ones((count, 3)), "topic": np.zeros(count, int)}, blocks, rng, 20)
    assert all(np.isnan(row.value) and row.note for row in alike.values())


def test_classes_of_one_block_each_are_not_asked():
    blocks = np.repeat(np.arange(8), 10)
    states = np.random.default_rng(0).normal(size=(80, 6))
    row = probe(states, {"topic": blocks}, blocks, np.random.default_rng(1), 20)["topic"]
    assert np.isnan(row.value) and "one block" in row.note


def test_the_majority_is_counted_by_hand():
    rng = np.random.default_rng(3)
    topic, blocks = np.r_[np.zeros(30, int), np.ones(20, int)], np.arange(50)
    row = probe(np.ones((50, 4)), {"topic": topic}, blocks, rng, 20)["topic"]
    assert row.value == row.majority == 0.6  # class 0 is the commonest in every four fifths


def test_states_are_those_of_the_model_and_the_first_token_of_a_decoder_is_one_state():
    loaded = tiny.make("llama_gqa")
    prompts = texts(loaded, 6, tiny.VOCABULARY)
    passages = token_states(loaded, prompts[:4], 5) + token_states(loaded, prompts[4:], 5)
    hidden = loaded.model(input_ids=torch.from_numpy(prompts[2].ids)[None], output_hidden_states=True).hidden_states
    for kind, at in passages[2].positions.items():
        for layer in (-1, 0, 1):
            expected = hidden[layer + 1][0, at].numpy()
            np.testing.assert_allclose(passages[2].states[layer][KINDS.index(kind)], expected, atol=1e-5)
    first = np.stack([passage.states[1][0] for passage in passages])
    assert np.abs(first - first[0]).max() < 1e-6


def test_chosen_tokens_are_plain_and_matched():
    tokens = Tokens("p", "short", np.arange(16), np.arange(16) == 0)
    received, norms = np.zeros(16), np.ones((2, 16))
    received[[0, 6, 15]], norms[1, 3], norms[0, 0] = (0.9, 0.2, 0.5), 7.0, 50.0
    norms[0, 2] = 2.0  # as near to the longest as 4 is, and itself longer than that
    chosen = {"first": 0, "attended": 6, "largest": 3, "ordinary": 5, "beside": 4}
    assert choose(tokens, received, norms, near=6) == chosen
    received[4] = 0.3  # the most attended is no ordinary token
    assert choose(tokens, received, norms, near=6) == chosen | {"attended": 4, "ordinary": 6, "beside": 2}


def redirected(loaded: Loaded, tokens: Tokens, heads: list[tuple[int, int]], at: np.ndarray) -> np.ndarray:
    """Log-probabilities when, in a plain pass, these heads' attention is 1 on the first token and 0 elsewhere."""
    numbers = {loaded.model.get_submodule(layer.attention): number for number, layer in loaded.anatomy.layers.items()}

    def observer(eager, module, query, key, value, mask, **kwargs):
        output_BTHK, weights = eager(module, query, key, value, mask, **kwargs)
        value_BHSK = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
        output_BTHK = output_BTHK.clone()
        for number, head in heads:
            if number == numbers[module]:
                output_BTHK[:, :, head] = value_BHSK[:, head, :1]
        return output_BTHK, weights

    with observing(loaded.model, observer):
        logits_TV = loaded.model(input_ids=torch.from_numpy(tokens.ids)[None], use_cache=False).logits[0]
    return logits_TV.log_softmax(1)[at - 1, torch.from_numpy(tokens.ids[at])].numpy()


@pytest.mark.parametrize("name", ["llama_gqa", "gpt2", "gemma3"])
def test_redirecting_to_the_sink_equals_a_naive_edited_pass(name):
    """Alone, and together in two layers; with a shared prefix and padding; beyond a layer's window."""
    loaded = tiny.make(name)
    shared = np.random.default_rng(0).integers(4, tiny.VOCABULARY, 40)
    prompts = []
    for tokens in texts(loaded, 4, tiny.VOCABULARY):
        ids = np.r_[1, shared, tokens.ids[1 : 8 + len(prompts)]]
        prompts.append(Tokens(tokens.prompt, "test", ids, np.arange(len(ids)) == 0))
    at = [np.arange(len(tokens) - 4, len(tokens)) for tokens in prompts]
    batch = Batch(loaded, prompts, at)
    assert batch.cut > 0
    for heads in ([(1, 2)], [(0, 1), (1, 0), (2, 3)]):
        writable = Writable({}, firsts=Firsts(loaded, prompts))
        for tokens, positions, scored, intact in zip(
            prompts, at, batch.ablations([silencing(heads, "sink", writable)])[0], batch.intact, strict=True
        ):
            expected = redirected(loaded, tokens, heads, positions)
            np.testing.assert_allclose(scored.logprob, expected, atol=1e-4)
            assert np.abs(scored.logprob - intact.logprob).max() > 1e-3


def test_redirecting_to_the_sink_is_refused_where_the_first_token_knows_what_follows():
    loaded = tiny.make("bert")
    with pytest.raises(UserError, match="needs a causal model"):
        Firsts(loaded, texts(loaded, 1, tiny.VOCABULARY))((0, 0))
