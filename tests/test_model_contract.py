"""The anatomy contract: what holds for every architecture, with no table of their names."""

import numpy as np
import pytest
import torch
from tiny import DECODERS, ENCODERS, VISION, VOCABULARY, make

from stages.families.family import Relation, Tokens
from stages.model.anatomy import find, probe_inputs
from stages.model.forward import forward
from stages.model.intervene import Edit, ablating, capturing
from stages.model.measure import measure, weighing
from stages.model.score import Batch, LastToken, LastTokens, _beginning_alike
from stages.store.errors import UserError

TEXTUAL = [*DECODERS, *ENCODERS]


def prompt(length: int, seed: int, scored: int = 3) -> Tokens:
    ids = np.random.default_rng(seed).integers(4, VOCABULARY, length)
    ids[0] = 1
    return Tokens(f"p{seed}", "test", ids, np.arange(length) == 0, np.arange(length - scored, length))


def relations(tokens: Tokens) -> dict[str, Relation]:
    """One relation with several targets per query, chosen at random among what a causal model sees."""
    length = len(tokens)
    keys = np.tril(np.random.default_rng(1).random((length, length)) < 0.3)
    return {
        "random": Relation(np.arange(2, length), keys[2:]),
        "first": Relation(np.arange(length), np.arange(length) == np.zeros((length, 1))),
    }


@pytest.mark.parametrize("name", [*TEXTUAL, *VISION])
def test_head_outputs_are_weights_times_values(name):
    """z_h is head h's weights times its values: changing its weights alone changes slice h alone."""
    loaded = make(name, scale=3.0)
    assert list(loaded.anatomy.layers) == [0, 1, 2] and loaded.anatomy.attention_free == []
    assert [layer.heads for layer in loaded.anatomy.layers.values()] == [4, 4, 4]
    loaded.model.requires_grad_(True)
    weights: dict[int, torch.Tensor] = {}
    with capturing(loaded) as outputs, weighing(loaded, lambda layer, w, visible, start: weights.setdefault(layer, w)):
        loaded.model(**probe_inputs(loaded.model))
    for number, layer in loaded.anatomy.layers.items():
        z = outputs[number].unflatten(-1, (layer.heads, layer.head_size))
        for head in range(layer.heads):
            (slope,) = torch.autograd.grad(z[:, :, head].pow(2).sum(), weights[number], retain_graph=True)
            assert [h for h in range(layer.heads) if slope[:, h].abs().max() > 0] == [head]


STATISTICS = ("mass", "hits", "mass_null", "over_half", "over_half_null")


@pytest.mark.parametrize("name", TEXTUAL)
def test_statistics_equal_those_from_eager_weights(name, monkeypatch):
    monkeypatch.setattr("stages.model.measure.BLOCK", 4 * 23 * 5)  # several blocks of queries per layer
    loaded = make(name, scale=5.0)
    tokens = prompt(23, 0)
    sums = measure(loaded, [tokens], [relations(tokens)]).means
    loaded.model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = loaded.model(input_ids=torch.from_numpy(tokens.ids)[None], output_attentions=True).attentions
    for relation_name, relation in relations(tokens).items():
        means = sums[0][relation_name].values
        for layer, weights in enumerate(attentions):
            for head in range(4):
                expected = naive(weights[0, head].numpy(), relation, tokens, loaded, layer)
                got = [means[key][layer, head] for key in STATISTICS]
                np.testing.assert_allclose(got, expected, atol=1e-5)


def test_peaks_are_found_where_they_are_asked_for_and_change_no_share():
    loaded, tokens = make("llama_gqa", scale=5.0), prompt(23, 0)
    whole, shares = (measure(loaded, [tokens], [relations(tokens)], peaks=peaks).means[0] for peaks in (True, False))
    for name, relation in shares.items():
        assert set(relation.values) == {"mass", "mass_null"} and set(whole[name].values) == set(STATISTICS)
        for statistic, values in relation.values.items():
            np.testing.assert_array_equal(values, whole[name].values[statistic])


def naive(weights, relation, tokens, loaded, layer):
    """The statistics by loops, straight from their definitions."""
    mass, hits, null, half, half_null = [], [], [], [], []
    window = loaded.anatomy.layers[layer].window or 10**6
    for query, wanted in zip(relation.queries, relation.dense, strict=True):
        causal = loaded.kind == "decoder"
        seen = [k for k in range(len(tokens)) if (k <= query if causal else True) and abs(query - k) < window]
        mass.append(sum(weights[query, k] for k in range(len(tokens)) if wanted[k]))
        half.append(mass[-1] > 0.5)
        hits.append(bool(wanted[int(np.argmax(weights[query]))]))
        others = [k for k in seen if not wanted[k] and not tokens.special[k]]
        if others:
            targets = sum(wanted[k] for k in seen)
            null.append(np.mean([weights[query, k] for k in others]) * targets)
            half_null.append(np.mean([weights[query, k] > 0.5 for k in others]) * targets)
    return [np.mean(each) for each in (mass, hits, null, half, half_null)]


@pytest.mark.parametrize("name", TEXTUAL)
def test_ablating_a_head_equals_zeroing_its_columns(name):
    loaded = make(name, scale=3.0)
    tokens, layer = prompt(14, 1), loaded.anatomy.layers[1]
    rows = [np.arange(14)]
    with ablating(loaded, {(1, 2): torch.zeros(layer.head_size)}):
        ablated = forward(loaded, [tokens.ids], rows)
    assert (ablated - forward(loaded, [tokens.ids], rows)).abs().max() > 1e-4
    projection = loaded.model.get_submodule(layer.projection)
    columns = slice(2 * layer.head_size, 3 * layer.head_size)
    with torch.no_grad():
        (projection.weight[columns] if name == "gpt2" else projection.weight[:, columns]).zero_()
    torch.testing.assert_close(forward(loaded, [tokens.ids], rows), ablated, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", VISION)
def test_a_vision_model_is_weighed_and_ablated_as_well(name):
    """What takes pixels has no tokens to put relations on, but its weights and heads are reached in the same way."""
    loaded = make(name, scale=5.0)
    inputs, seen = probe_inputs(loaded.model), {}
    with torch.no_grad(), weighing(loaded, lambda layer, weights, visible, start: seen.setdefault(layer, weights)):
        loaded.model(**inputs)
    loaded.model.set_attn_implementation("eager")
    with torch.no_grad():
        attentions = loaded.model(**inputs, output_attentions=True).attentions
    assert len(seen) == len(attentions) == 3
    for layer, weights in enumerate(attentions):
        torch.testing.assert_close(seen[layer], weights, atol=1e-5, rtol=1e-5)
    part = loaded.anatomy.layers[1]
    with torch.no_grad(), ablating(loaded, {(1, 2): torch.zeros(part.head_size)}):
        ablated = loaded.model(**inputs).last_hidden_state
    with torch.no_grad():
        intact = loaded.model(**inputs).last_hidden_state
        projection = loaded.model.get_submodule(part.projection)
        projection.weight[:, 2 * part.head_size : 3 * part.head_size].zero_()
        torch.testing.assert_close(loaded.model(**inputs).last_hidden_state, ablated, atol=1e-5, rtol=1e-5)
    assert (ablated - intact).abs().max() > 1e-4


@pytest.mark.parametrize("name", TEXTUAL)
def test_right_padded_equals_unpadded(name):
    loaded = make(name, scale=3.0)
    short, long = prompt(9, 2), prompt(17, 3)
    together = measure(loaded, [short, long], [relations(short), relations(long)], outputs=True)
    alone = measure(loaded, [short], [relations(short)], outputs=True)
    for key, value in alone.means[0]["random"].values.items():
        np.testing.assert_allclose(together.means[0]["random"].values[key], value, atol=1e-5)
    for layer, z in alone.outputs.items():
        torch.testing.assert_close(together.outputs[layer][:1], z, atol=1e-5, rtol=1e-4)
    rows = forward(loaded, [short.ids, long.ids], [np.arange(9), np.arange(17)])
    torch.testing.assert_close(rows[:9], forward(loaded, [short.ids], [np.arange(9)]), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", DECODERS)
def test_batches_with_shared_prefixes_equal_full_passes(name, monkeypatch):
    monkeypatch.setattr("stages.model.sharing.SHARED", 8)
    loaded = make(name, scale=3.0)
    prompts = [prompt(20, 4), prompt(20, 4), prompt(17, 4)]
    prompts[1].ids[-5:] = prompts[1].ids[-5:][::-1]
    prompts[2] = Tokens(
        "p", "test", np.r_[prompts[0].ids[:12], [9, 8, 7, 6]], prompts[0].special[:16], np.arange(13, 16)
    )
    batch = Batch(loaded, prompts, [tokens.target for tokens in prompts])
    assert batch.cut == 12
    size = loaded.anatomy.layers[0].head_size
    values = {(1, 0): torch.full((size,), 0.3), (2, 3): torch.zeros(size)}
    for everywhere in (True, False):
        for tokens, intact, ablated in zip(prompts, batch.intact, batch.ablated(values, everywhere), strict=True):
            special = torch.from_numpy(tokens.special)[None]
            np.testing.assert_allclose(intact.logprob, plain(loaded, tokens), atol=1e-5)
            with ablating(loaded, values, None if everywhere else special):
                np.testing.assert_allclose(ablated.logprob, plain(loaded, tokens), atol=1e-5)
            assert np.abs(intact.logprob - ablated.logprob).max() > 1e-4


@pytest.mark.parametrize("name", DECODERS)
def test_cached_edits_equal_full_passes(name):
    """Indirect effects by the one-token way equal those of whole passes, for every head and for added vectors."""
    loaded = make(name, scale=3.0)
    tokens = prompt(15, 5, scored=2)
    generator = torch.Generator().manual_seed(0)
    size, width = loaded.anatomy.layers[0].head_size, 32
    edits = [Edit(heads={head: torch.randn(size, generator=generator)}) for head in loaded.anatomy.heads]
    edits += [Edit(added={layer: torch.randn(width, generator=generator)}) for layer in range(3)]
    last = LastToken(loaded, tokens)
    intact, *edited = last.edited([Edit(), *edits])
    np.testing.assert_allclose(intact.logprob, plain(loaded, tokens), atol=1e-5)
    np.testing.assert_allclose(last.edited([Edit()])[0].logprob, intact.logprob, atol=1e-5)
    for edit, scored in zip(edits, edited, strict=True):
        with patched_everywhere(loaded, edit, int(tokens.target[0]) - 1):
            np.testing.assert_allclose(scored.logprob, plain(loaded, tokens), atol=1e-5)
        assert np.abs(scored.logprob - intact.logprob).max() > 1e-6


@pytest.mark.parametrize("name", DECODERS)
def test_edits_of_several_prompts_equal_full_passes(name, monkeypatch):
    """Prompts of two sets of demonstrations, of unequal lengths, and short ones: each as if it ran alone."""
    monkeypatch.setattr("stages.model.sharing.SHARED", 8)
    monkeypatch.setattr("stages.model.score.ROWS", 5)
    loaded = make(name, scale=3.0)

    def demonstrated(first: int, ids: list[int], scored: int) -> Tokens:
        begun = prompt(12, 4).ids[:10].copy()
        begun[5] = first
        length = len(begun) + len(ids)
        return Tokens("p", "test", np.r_[begun, ids], np.zeros(length, bool), np.arange(length - scored, length))

    prompts = [
        demonstrated(20, [9, 8, 7, 6], 1),
        demonstrated(20, [9, 5, 7, 6, 4], 2),
        demonstrated(21, [9, 8, 7, 6], 1),
        demonstrated(20, [9, 8, 6, 7], 1),
        prompt(6, 3, scored=2),
    ]
    generator = torch.Generator().manual_seed(0)
    size = loaded.anatomy.layers[0].head_size
    edits = [
        [Edit(), *(Edit(heads={head: torch.randn(size, generator=generator)}) for head in ((2, 1), (0, number % 4)))]
        + [Edit(added={1: torch.randn(32, generator=generator)})] * (number != 1)
        for number in range(len(prompts))
    ]
    last = LastTokens(loaded, prompts)
    assert [group.numbers for group in last.groups] == [[0, 3, 2], [1], [4]]
    monkeypatch.setattr("stages.model.score.ALIKE", 30)  # tokens: two prompts of 15
    assert _beginning_alike(prompts) == [[0, 1], [3], [4, 2]]
    for tokens, asked, scores in zip(prompts, edits, last.edited(edits), strict=True):
        assert len(asked) == len(scores)
        for edit, scored in zip(asked, scores, strict=True):
            with patched_everywhere(loaded, edit, int(tokens.target[0]) - 1):
                np.testing.assert_allclose(scored.logprob, plain(loaded, tokens), atol=1e-5)


def plain(loaded, tokens) -> np.ndarray:
    """Target log-probabilities by one full pass."""
    logits = forward(loaded, [tokens.ids], [tokens.target - 1]).log_softmax(1)
    return logits[torch.arange(len(tokens.target)), torch.from_numpy(tokens.ids[tokens.target])].numpy()


class patched_everywhere:
    """The edit of one position in a full pass, by hooks written out here."""

    def __init__(self, loaded, edit, position):
        self.loaded, self.edit, self.position, self.handles = loaded, edit, position, []

    def __enter__(self):
        for (layer, head), value in self.edit.heads.items():
            part = self.loaded.anatomy.layers[layer]

            def write(module, args, head=head, value=value, size=part.head_size):
                args[0][:, self.position, head * size : (head + 1) * size] = value

            self.handles.append(self.loaded.model.get_submodule(part.projection).register_forward_pre_hook(write))
        for layer, vector in self.edit.added.items():

            def add(module, args, output, vector=vector):
                (output[0] if isinstance(output, tuple) else output)[:, self.position] += vector

            block = self.loaded.model.get_submodule(self.loaded.anatomy.layers[layer].block)
            self.handles.append(block.register_forward_hook(add))

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()


def test_windows_and_what_joins_the_residual_are_found():
    gemma = list(make("gemma3").anatomy.layers.values())
    assert [layer.kind for layer in gemma] == ["window", "window", "global"]
    assert [layer.window for layer in gemma] == [6, 6, None]
    assert gemma[0].kv_heads == 1 and gemma[0].head_size == 16
    assert all("pre_feedforward" in layer.joins and layer.scale is None for layer in gemma)  # a norm stands between
    llama = make("llama_gqa").anatomy.layers.values()
    assert all("post_attention" in layer.joins and layer.scale == 1 for layer in llama)


def test_shared_layers_are_refused_by_name():
    import transformers as hf

    model = hf.AlbertForMaskedLM(
        hf.AlbertConfig(
            embedding_size=16,
            hidden_size=32,
            num_attention_heads=4,
            num_hidden_layers=2,
            intermediate_size=48,
            vocab_size=50,
        )
    ).eval()
    with pytest.raises(UserError, match="shared by 2 layers"):
        find(model)


def test_a_prompt_of_one_token_has_nothing_before_its_last():
    loaded = make("llama_gqa", scale=3.0)
    tokens = Tokens("one", "test", np.array([7, 9, 12]), np.zeros(3, dtype=bool), np.array([1, 2]))
    (scored,) = LastToken(loaded, tokens).edited([Edit()])
    np.testing.assert_allclose(scored.logprob, plain(loaded, tokens), atol=1e-5)
