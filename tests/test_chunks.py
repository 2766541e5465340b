"""A long pass in chunks is the whole pass, whoever reads or edits its tokens: tiny models, chunks of a few tokens."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers as hf

from stages import look
from stages.families.family import Tokens
from stages.model import chunks, measure, mlp
from stages.model.attended import Attention
from stages.model.continuation import next_tokens
from stages.model.forward import Waiting, forward, prefill, remembering
from stages.model.intervene import Edit, capturing, editing
from stages.model.load import Loaded
from stages.model.measure import weighing
from stages.model.misses import answers
from stages.model.prefixes import frozen
from stages.model.proof import prove
from stages.model.rows import Rows
from stages.model.score import Ablation, Batch, LastTokens, residuals_after
from stages.model.streaming import Cut, Streams
from stages.model.token_states import token_states
from stages.training import checkpoint
from tests.tiny import IDS, SMALL, UNUSUAL, make

NAMES = ["gemma3", "qwen3", "gpt2"]  # windows of 6 in two of three layers; grouped keys with norms; learned positions
SIZE = 10  # tokens of a chunk: a window goes on in the next
LONG = 47


@pytest.fixture(params=NAMES)
def loaded(request) -> Loaded:
    return make(request.param, scale=3.0)


def prompts(lengths=(LONG, LONG - 13, 23), begin: int = 0, seed: int = 0) -> list[Tokens]:
    """Texts with special tokens here and there; begin: how many tokens all begin with."""
    rng = np.random.default_rng(seed)
    begun, made = rng.integers(5, 90, begin), []
    for length in lengths:
        ids = np.r_[1, begun, rng.integers(5, 90, length - begin - 1)]
        special = np.arange(length) % 7 == 0
        made.append(Tokens("p", "test", ids, special, np.arange(length - 3, length)))
    return made


def both(monkeypatch, loaded: Loaded, run, first: list[int] | None = None):
    """Return what `run` gives in one piece and in chunks, which must really have been run: none wider, or `first`."""
    whole = run(loaded)
    monkeypatch.setattr(chunks, "CHUNK", SIZE)
    widths: list[int] = []
    hook = loaded.model.get_input_embeddings().register_forward_pre_hook(
        lambda module, args: widths.append(args[0].shape[1])
    )
    try:
        chunked = run(loaded)
    finally:
        hook.remove()
    assert max(widths) == SIZE if first is None else widths[: len(first)] == first
    assert loaded.chunks == chunks.Chunks()  # nothing stays
    return whole, chunked


def assert_close(one, other) -> None:
    """Compare nested tensors and arrays to 1e-5 of their largest number."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        one, other = list(one.values()), list(other.values())
    if isinstance(one, list | tuple):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_close(*pair)
        return
    one, other = torch.as_tensor(one), torch.as_tensor(other)
    assert one.shape == other.shape and torch.isfinite(one.double()).all() and len(one.flatten())
    assert (one.double() - other.double()).abs().max() <= 1e-5 * max(1.0, float(one.double().abs().max()))


def logprobs(scored) -> list[np.ndarray]:
    return [each.logprob for each in scored]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_hidden_states_logits_and_heads_of_padded_rows(loaded, attention, monkeypatch):
    loaded.model.set_attn_implementation(attention)
    batch = prompts()
    rows = [np.array([2, 9, 10, 40]), np.array([0, 33]), np.array([22])]

    def run(loaded):
        with remembering(loaded) as before, remembering(loaded, after=True) as after, capturing(loaded) as z:
            logits = forward(loaded, [tokens.ids for tokens in batch], rows)
        every = [x for of in (before, after, z) for x in of.values()]
        real = [[x[row, : len(tokens)] for row, tokens in enumerate(batch)] for x in every]
        return logits, real

    assert_close(*both(monkeypatch, loaded, run))


def test_rows_that_wait_for_the_head(loaded, monkeypatch):
    batch = prompts()

    def run(loaded):
        waiting = Waiting()
        assert forward(loaded, [batch[0].ids], [np.array([3, 30])], waiting=waiting) is None
        waiting.last = True
        return forward(loaded, [batch[1].ids, batch[2].ids], [np.array([1, 20]), np.array([5])], waiting=waiting)

    assert_close(*both(monkeypatch, loaded, run))


def test_a_prefix_and_what_follows_it_frozen(loaded, monkeypatch):
    (text,) = prompts([LONG])

    def run(loaded):
        cache = prefill(loaded, [text.ids[:24]])
        kept = [(entry.keys, entry.values) for entry in cache.layers]
        prefix = frozen(cache)
        rows = [np.array([0, 12, 22])] * 2
        logits = [forward(loaded, [text.ids[24:]] * 2, rows, prefix) for _ in range(2)]  # a frozen one never grows
        assert prefix.get_seq_length() == 24
        return kept, logits

    whole, chunked = both(monkeypatch, loaded, run)
    assert_close(whole, chunked)
    plain = loaded.model(input_ids=torch.from_numpy(text.ids)[None]).logits[0, [24, 36, 46]]
    assert_close(chunked[1][1], torch.cat([plain, plain]))


@pytest.mark.parametrize("begin", [0, 36])
def test_ablations_of_all_layers_constant_and_by_token(loaded, begin, monkeypatch):
    """begin: tokens in common, which run once, as long as some chunks, as what follows them is."""
    loaded = replace(loaded, ends=True)  # logits are read in pieces
    batch = prompts((70, 62, 59), begin)
    batch[2] = replace(batch[2], target=np.array([58]))
    generator = torch.Generator().manual_seed(0)
    size = {layer: of.head_size for layer, of in loaded.anatomy.layers.items()}
    values = [{(layer, 1): torch.randn(size[layer], generator=generator)} for layer in size]
    by_token = torch.randn(3, 70, size[1], generator=generator)
    by_token[:, : begin + 1] = by_token[:1, : begin + 1]  # what prompts share, they share
    values += [{(1, 0): by_token, (2, 1): values[2][2, 1]}]
    asked = [Ablation(value, everywhere) for value in values for everywhere in (False, True)]

    def run(loaded):
        measured = Batch(loaded, batch, [tokens.target for tokens in batch])
        assert bool(measured.cut) == bool(begin)
        results = measured.ablations(asked, max_tokens=1000) + measured.ablations(asked, max_tokens=1)  # alone
        real = [x[row, : len(tail)] for x in measured.residuals.values() for row, tail in enumerate(measured.tails)]
        return [real, *measured.prefix_residuals.values()], [logprobs(scored) for scored in [measured.intact, *results]]

    _, whole = run(loaded)
    assert all(np.abs(whole[0][0] - of[0]).max() > 1e-3 for of in whole[1:])  # every ablation shows
    (residuals, expected), (chunked, found) = both(monkeypatch, loaded, run)
    assert_close(expected, found)
    assert_close(residuals, chunked)


@pytest.mark.parametrize("begin", [0, 36])
@pytest.mark.parametrize("continues", [True, False])
def test_edits_at_last_tokens(loaded, begin, continues, monkeypatch):
    """Where caches are not continued nothing is cut."""
    loaded = replace(loaded, caches=continues)
    batch = prompts((70, 62, 59), begin)
    width, size = loaded.model.config.hidden_size, loaded.anatomy.layers[1].head_size
    edits = [Edit(), Edit({(1, 2): torch.ones(size)}), Edit({}, {0: torch.ones(width), 2: torch.ones(width)})]

    def run(loaded):
        scored = [logprobs(of) for of in LastTokens(loaded, batch).edited([edits] * 3)]
        return scored, residuals_after(loaded, batch), next_tokens(loaded, [tokens.ids[:59] for tokens in batch], edits)

    assert_close(*both(monkeypatch, loaded, run, None if continues else [69]))


def test_an_edit_lands_in_its_chunk_whichever_that_is(loaded, monkeypatch):
    (text,) = prompts([LONG])
    z, vector = torch.ones(loaded.anatomy.layers[0].head_size), torch.ones(loaded.model.config.hidden_size)

    def run(loaded):
        results = []
        for position in (3, 19, 20, 46):
            with editing(loaded, [Edit({(0, 1): z}, {1: vector})], position):
                results.append(forward(loaded, [text.ids], [np.array([2, 19, 20, 46])]))
        return results

    assert_close(*both(monkeypatch, loaded, run))


@pytest.mark.parametrize("everything", [False, True])
def test_streaming_heads(loaded, everything, monkeypatch):
    """A prefix of two chunks, then rows of more; a window that ends in another chunk."""
    batch = prompts((70, 62))
    heads = set(loaded.anatomy.heads) if everything else {(2, 0)}  # gemma3: not windowed itself

    def run(loaded):
        streams = Streams(loaded, batch, [np.array([40, 69]), np.array([33, 50, 61])], Cut(2, 23))
        outcomes = [*streams.intact, *streams.under([0, 1], [heads, heads])]
        assert not np.allclose(outcomes[0].scored.logprob, outcomes[2].scored.logprob, atol=1e-3)
        every = [scored.logprob for scored in streams.every([heads])[0]]
        return [(outcome.scored.logprob, outcome.hidden_RD) for outcome in outcomes], every

    assert_close(*both(monkeypatch, loaded, run))


def test_rows_and_what_mlps_read_and_write(loaded, monkeypatch):
    writers = {layer: of for layer, of in mlp.writers(loaded).items() if isinstance(of, mlp.Writer)}
    batch = prompts((70, 62, 50), 25)
    generator = torch.Generator().manual_seed(0)
    width = loaded.model.config.hidden_size
    values, stored = torch.randn(3, width, generator=generator), torch.randn(3, 2, width, generator=generator)
    keys = {}

    def run(loaded):
        with mlp.reading(loaded, writers) as read:
            rows = Rows(loaded, batch, [np.array([40, len(tokens) - 1]) for tokens in batch], shared=25)
        kept = [x.reshape(3, rows.width, -1)[:, : 49 - rows.cut] for pair in read.values() for x in pair]
        layer = min(writers)
        at = mlp.places([3, 9, 21], rows.width)
        with mlp.writing(loaded, writers[layer].path, at, values):
            written = rows.again(layer)
        keys.setdefault(0, read[layer][0][:6].clone().reshape(3, 2, -1))
        with mlp.storing(loaded, writers[layer], keys[0], stored):
            added = rows.again(layer)
        assert not np.allclose(written[0].logprob, rows.intact[0].logprob, atol=1e-3)
        return kept, [logprobs(scored) for scored in (rows.intact, written, added)]

    assert writers
    assert_close(*both(monkeypatch, loaded, run))


def test_what_greedy_decoding_writes_and_which_tokens_are_looked_at(loaded, monkeypatch):
    batch = prompts((LONG, LONG, 38), 25)
    passages = [Tokens("p", "test", tokens.ids[:38], tokens.special[:38]) for tokens in batch]

    def run(loaded):
        texts, entropy = answers(loaded, batch)
        states = token_states(loaded, passages, 5)
        return [[ord(letter) for letter in text] or [0] for text in texts], entropy, [
            (list(of.positions.values()), of.states, of.norms_LT) for of in states
        ]  # fmt: skip

    assert_close(*both(monkeypatch, loaded, run))


def test_attention_is_seen_at_its_places(loaded, monkeypatch):
    (text,) = prompts([LONG])

    def run(loaded):
        seen = {layer: torch.zeros(of.heads, LONG, LONG) for layer, of in loaded.anatomy.layers.items()}

        def keep(layer, weights_BHTS, visible_BTS, start):
            queries, keys = weights_BHTS.shape[2:]
            seen[layer][:, start : start + queries, :keys] += weights_BHTS[0]

        with weighing(loaded, keep, held=300):
            forward(loaded, [text.ids], headless=True)
        return seen, Attention(loaded)(text, np.array([4, 19, 20, 41]))

    assert_close(*both(monkeypatch, loaded, run))


def test_no_module_sees_more_than_a_chunk(loaded, monkeypatch):
    """The widest tensor of tokens in an MLP, and the queries of attention: what memory is."""
    monkeypatch.setattr(chunks, "CHUNK", SIZE)
    seen: list[int] = []
    writers = mlp.writers(loaded)
    hooks = [
        loaded.model.get_submodule(writer.path).register_forward_pre_hook(
            lambda module, args: seen.append(args[0].numel() // args[0].shape[-1])
        )
        for writer in writers.values()
    ]
    with weighing(loaded, lambda layer, weights_BHTS, *_: seen.append(weights_BHTS.shape[2])):
        prefill(loaded, [prompts([LONG])[0].ids])
        forward(loaded, [prompts([LONG])[0].ids], [np.array([5, LONG - 1])])
    for hook in hooks:
        hook.remove()
    assert max(seen) == SIZE and len(seen) == 2 * 2 * 5 * len(loaded.anatomy.layers)


def test_a_pass_is_whole_where_it_must_be(monkeypatch):
    """Gradients, `whole`, models whose caches are not continued, and angles that are made anew by length."""
    (text,) = prompts([LONG])
    scaled = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
    torch.manual_seed(0)
    config = hf.LlamaConfig(**SMALL, **IDS, max_position_embeddings=16, rope_parameters=scaled)
    model = hf.LlamaForCausalLM(config).eval().requires_grad_(False)
    model.config._attn_implementation = "eager"
    steady = make("llama_gqa", scale=3.0)
    dynamic = replace(steady, model=model)
    assert chunks.steady(steady.model, 10**6) and chunks.steady(model, 16) and not chunks.steady(model, 17)
    monkeypatch.setattr(chunks, "CHUNK", SIZE)
    widths: list[int] = []

    for of in (steady.model, model):
        of.get_input_embeddings().register_forward_pre_hook(lambda module, args: widths.append(args[0].shape[1]))
    forward(steady, [text.ids], headless=True)
    assert widths == [10, 10, 10, 10, 7]
    widths.clear()
    forward(steady, [text.ids], [np.array([3])], gradients=True)
    with steady.chunks.whole():
        forward(steady, [text.ids], headless=True)
    forward(replace(steady, caches=False), [text.ids], headless=True)
    forward(dynamic, [text.ids], headless=True)
    assert widths == [LONG] * 4


def test_a_pass_that_is_left_leaves_nothing(loaded, monkeypatch):
    monkeypatch.setattr(chunks, "CHUNK", SIZE)
    (text,) = prompts([LONG])
    block = loaded.model.get_submodule(loaded.anatomy.blocks[1])
    calls: list[int] = []

    def leave(module, args):
        calls.append(loaded.chunks.start)
        if len(calls) == 2:
            raise ValueError("enough")

    hook = block.register_forward_pre_hook(leave)
    with pytest.raises(ValueError, match="enough") as kept:  # the traceback keeps the pass's frames
        forward(loaded, [text.ids], headless=True)
    hook.remove()
    assert calls == [0, SIZE] and loaded.chunks == chunks.Chunks() and kept


@pytest.mark.parametrize("name", [*sorted(set(UNUSUAL) - {"mpnet", "deberta_v2"}), "bloom", "gptj", "opt"])
def test_unusual_models_say_the_same_or_stay_whole(name, monkeypatch):
    """States and convolutions cannot be continued here: such a model is not cut."""
    loaded, proof = prove(make(name, scale=3.0))
    texts = [tokens.ids for tokens in prompts()]

    def run(loaded):
        seen: list[torch.Tensor] = []
        with remembering(loaded, after=True) as residuals:
            seen.append(forward(loaded, texts, [np.array([8, 40]), np.array([30]), np.array([22])]))
        seen += [torch.zeros(4, LONG) for _ in loaded.anatomy.layers]

        def add(layer, weights_BHTS, visible_BTS, start):
            seen[1 + list(loaded.anatomy.layers).index(layer)][:, : weights_BHTS.shape[3]] += weights_BHTS[0].sum(1)

        with weighing(loaded, add):  # whole where attention is written into modules
            forward(loaded, texts[:1], headless=True)
        return seen, [x[0] for x in residuals.values()]

    assert_close(*both(monkeypatch, loaded, run, [LONG] if proof["caches"] != "ok" else [10, 10, 10, 10, 7]))


def test_attention_that_is_shown_whole_comes_in_blocks_and_chunks(loaded, monkeypatch):
    text = replace(prompts([LONG])[0], target=np.array([LONG - 2, LONG - 1]))
    lesson = SimpleNamespace(decoded=False, mask=None, symbol=str)
    seen, drawn = look._run(loaded, text)[0], list(checkpoint.pictured(loaded, lesson, text))
    for block, size in ((4 * LONG * 5, chunks.CHUNK), (measure.BLOCK, SIZE), (4 * LONG * 5, SIZE)):
        monkeypatch.setattr(measure, "BLOCK", block)
        monkeypatch.setattr(chunks, "CHUNK", size)
        for layer, weights_HTS in look._run(loaded, text)[0].items():
            assert weights_HTS == pytest.approx(seen[layer], abs=1e-5)
        again = list(checkpoint.pictured(loaded, lesson, text))
        assert [row[:-1] for row in again] == [row[:-1] for row in drawn]
        assert [row[-1] for row in again] == pytest.approx([row[-1] for row in drawn], abs=1e-5)
