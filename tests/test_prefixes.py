"""States of convolutions and recurrences follow the rows that continue them, as keys do: real tiny hybrids."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_chunks import assert_close, logprobs, prompts
from test_model_contract import plain
from tiny import make
from transformers import DynamicCache

from stages.families.family import Tokens
from stages.model import chunks
from stages.model.continuation import next_tokens
from stages.model.forward import forward, prefill
from stages.model.intervene import Edit
from stages.model.load import Loaded
from stages.model.misses import answers
from stages.model.prefixes import continuing, empty, ends_alone, frozen, side_by_side
from stages.model.proof import prove
from stages.model.rows import Rows
from stages.model.score import Ablation, Batch, LastTokens, residuals_after
from stages.model.streaming import Cut, Streams

NAMES = ["qwen3_next", "lfm2", "nemotron_h", "falcon_h1"]  # delta rule; convolution; Mamba 2 and no cache; both in one


@pytest.fixture(params=NAMES)
def loaded(request) -> Loaded:
    return make(request.param, scale=3.0)


def states(cache) -> list[torch.Tensor]:
    """All that is kept of the tokens so far, layer by layer."""
    kept: list[torch.Tensor] = []
    for entry in cache.layers:
        kept += [entry.keys, entry.values] if getattr(entry, "keys", None) is not None else []
        for name in ("conv_states", "recurrent_states"):
            of = getattr(entry, name, {})
            kept += [of[number] for number in of if of[number] is not None]
    return [x.clone() for x in kept]


def whole_logits(loaded, ids, places) -> torch.Tensor:
    with torch.no_grad():
        return loaded.model(input_ids=torch.from_numpy(ids)[None], use_cache=False).logits[0, places]


def both_ways(monkeypatch, loaded, run) -> None:
    """What is continued from caches, in one piece and in chunks, is what whole texts give."""
    whole = run(replace(loaded, caches=False))
    assert_close(whole, run(loaded))
    monkeypatch.setattr(chunks, "CHUNK", 7)
    assert_close(whole, run(loaded))


@pytest.mark.parametrize("name", NAMES)
def test_hybrids_are_proven_to_continue_their_caches(name):
    assert prove(make(name, scale=3.0))[1]["caches"] == "ok"


def test_a_text_in_any_two_parts_is_the_whole_text(loaded):
    ids = prompts((30,))[0].ids
    for cut in (1, 2, 3, 15, 28, 29):
        cache = prefill(loaded, [ids[:cut]])
        places = np.arange(cut, 30)
        found = forward(loaded, [ids[cut:]], [places - cut], cache)
        assert_close(whole_logits(loaded, ids, places), found)


def test_rows_continue_the_prefixes_that_they_name_and_none_of_them_changes(loaded):
    beginnings = [tokens.ids for tokens in prompts((9, 9, 9))]
    tails = [tokens.ids for tokens in prompts((6, 1, 4, 6), seed=1)]
    which, cache = [2, 0, 2, 1], prefill(loaded, beginnings)
    before, places = states(cache), [np.array([len(tail) - 1]) for tail in tails]
    wholes = [np.concatenate([beginnings[of], tail]) for of, tail in zip(which, tails, strict=True)]
    expected = torch.cat([whole_logits(loaded, ids, [len(ids) - 1]) for ids in wholes])
    picked = side_by_side([(cache, 0), (cache, 1), (cache, 2)], 9)
    for _ in range(2):  # single tokens are written into what models read
        for prefixes in (cache, frozen(cache), picked):
            found = forward(loaded, tails, places, continuing(prefixes, torch.tensor(which)))
            assert_close(expected, found)
            for row, tail in enumerate(tails):
                alone = continuing(prefixes, torch.tensor(which[row : row + 1]))
                assert_close(expected[row : row + 1], forward(loaded, [tail], [places[row]], alone))
    assert all(map(torch.equal, before, states(cache)))


def test_a_frozen_cache_is_continued_by_as_many_rows_or_from_one_by_any(loaded):
    beginnings = [tokens.ids for tokens in prompts((9, 9))]
    tails, at = [tokens.ids for tokens in prompts((3, 3), seed=1)], [np.array([2])] * 2
    for begin in (beginnings, beginnings[:1]):
        kept = frozen(prefill(loaded, begin))
        wholes = [np.concatenate([begin[row % len(begin)], tail]) for row, tail in enumerate(tails)]
        assert_close(torch.cat([whole_logits(loaded, ids, [11]) for ids in wholes]), forward(loaded, tails, at, kept))


@pytest.mark.parametrize("begin", [0, 36])
def test_ablations_and_edits_on_caches_are_those_of_whole_texts(loaded, begin, monkeypatch):
    batch, layers = prompts((70, 62, 59), begin), loaded.anatomy.layers
    values = [{(layer, 1): torch.full((of.head_size,), 0.7)} for layer, of in layers.items()]
    edits = [Edit(), *(Edit(heads=value) for value in values)]

    def run(loaded):
        measured = Batch(loaded, batch, [tokens.target for tokens in batch])
        assert bool(measured.cut) == bool(begin and loaded.caches)
        ablated = measured.ablations([Ablation(value, True) for value in values])
        edited = LastTokens(loaded, batch).edited([edits] * 3)
        rows = Rows(loaded, batch, [tokens.target for tokens in batch], shared=begin)
        after = residuals_after(loaded, batch)
        return [*map(logprobs, [measured.intact, rows.intact, *ablated, *edited]), *after.values()]

    intact = [plain(loaded, tokens) for tokens in batch]
    assert_close(intact, run(loaded)[0])
    both_ways(monkeypatch, loaded, run)


@pytest.mark.parametrize("length", [40, 1])  # all that comes before the prompt's last token is shared, or nothing does
def test_answers_of_one_prompt_and_prompts_of_one_token_are_those_of_whole_texts(loaded, length):
    (beginning,), answers = prompts((length,)), np.random.default_rng(2).integers(5, 90, (3, 2))
    wholes = [np.r_[beginning.ids, answer] for answer in answers]
    places = np.array([length, length + 1])
    rivals = [Tokens("p", "test", ids, np.zeros(len(ids), dtype=bool), places) for ids in wholes]
    layer = max(loaded.anatomy.layers)
    edits = [Edit(), Edit(heads={(layer, 1): torch.full((loaded.anatomy.layers[layer].head_size,), 2.0)})]
    found = LastTokens(loaded, rivals).edited([edits] * 3)
    assert_close([plain(loaded, tokens) for tokens in rivals], logprobs([intact for intact, _ in found]))
    expected = LastTokens(replace(loaded, caches=False), rivals).edited([edits] * 3)
    assert_close(*([logprobs(of_prompt) for of_prompt in each] for each in (expected, found)))


def test_what_is_said_next_and_under_streaming_is_that_of_whole_texts(loaded, monkeypatch):
    batch, layer = prompts((40, 40, 33), 12), max(loaded.anatomy.layers)
    size, cut = loaded.anatomy.layers[layer].head_size, Cut(2, 12)
    edits = [Edit(), Edit(heads={(layer, 1): torch.full((size,), 2.0)})]

    def run(loaded):
        texts, nats = answers(loaded, batch)
        streams = Streams(loaded, batch, [tokens.target for tokens in batch], cut)
        under = streams.under([2, 0, 1], [{(layer, 0)}, {(layer, 1)}, set()])
        scored = [of.scored.logprob for of in under]
        tokens = next_tokens(loaded, [tokens.ids[:30] for tokens in batch], edits)
        return [np.array([hash(text) % 997 for text in texts]), nats, tokens, np.concatenate(scored)]

    both_ways(monkeypatch, loaded, run)


def test_what_cannot_be_continued_is_refused_in_one_plain_line():
    """Jamba's scan of several tokens begins anew; a decoder without states fills the cache that it always has."""
    loaded, result = prove(make("jamba", scale=3.0))
    assert not loaded.caches
    assert result["caches"] == "not used: a text that continues a cache is not read as the whole text"
    assert type(empty(make("gemma3"))) is DynamicCache and not ends_alone(empty(make("gemma3")))
    assert ends_alone(empty(make("lfm2")))


@pytest.mark.parametrize(("name", "mixer"), [("lfm2", "Lfm2ShortConv"), ("falcon_h1", "FalconH1Mixer")])
def test_a_model_that_reads_single_tokens_otherwise_does_not_continue_its_caches(name, mixer):
    """Every hybrid has code of its own for one token after a cache, which several tokens never run."""
    loaded = make(name, scale=3.0)

    def stronger(module, args, output):
        return output * 1.1 if output.shape[1] == 1 else output

    mixers = [module for module in loaded.model.modules() if type(module).__name__ == mixer]
    hooks = [module.register_forward_hook(stronger) for module in mixers]
    proven, result = prove(loaded)
    assert hooks and not proven.caches
    assert result["caches"] == "not used: a single token that continues a cache is not read as in the whole text"


def test_steps_that_are_clamped_in_long_passes_alone_are_found():
    """Nemotron-H clamps what its states forget by in a pass of several tokens, not in one of a single token."""
    loaded = make("nemotron_h", scale=3.0)
    for module in loaded.model.modules():
        if hasattr(module, "time_step_limit"):
            module.time_step_limit = (1.0, 2.0)
    proven, result = prove(loaded)
    assert not proven.caches
    assert result["caches"] == "not used: a single token that continues a cache is not read as in the whole text"
