"""Measures equal naive ones from full softmaxes; function vectors equal what a layer really writes."""

from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import make

from stages import tasks
from stages.families.family import Tokens
from stages.model.forward import batches, forward
from stages.model.intervene import ablating
from stages.model.outcome import Trial, _level, _together, outcome, outcomes, trial
from stages.model.score import Ablation, Scored
from stages.model.tokens import encode
from stages.model.vectors import Parts
from stages.tasks.prompt import Prompt
from stages.tasks.repeats.task import SCORED
from stages.tasks.text.task import STRIDE


def row(name: str, **fields) -> SimpleNamespace:
    return SimpleNamespace(**asdict(Prompt(**({"id": f"t/g/{name}", "condition": "g", "cluster": name} | fields))))


PAIRS = [
    row("0", targets=(" the cat sees a dog.", " the cat see a dog.")),
    row("1", targets=(" the old house was big.", " old the house was big.")),
    row("2", targets=(" a bird likes it.", " a bird likes it.")),
]


def sentence(loaded, tokens) -> float:
    """Log-probability of a whole sentence by one plain pass."""
    logits = forward(loaded, [tokens.ids], [np.arange(len(tokens) - 1)]).double().log_softmax(1)
    return float(logits[torch.arange(len(tokens) - 1), torch.from_numpy(tokens.ids[1:])].sum())


@pytest.mark.parametrize("name", ["gpt2", "gemma3", "bloom"])
def test_minimal_pairs_equal_whole_sentence_scores(name):
    loaded = make(name, scale=4.0)
    size = loaded.anatomy.layers[1].head_size
    values = {(1, 0): torch.full((size,), 0.5), (2, 1): torch.zeros(size)}
    found = list(outcomes(loaded, "blimp", PAIRS, 200, [lambda batch: Ablation(values, everywhere=True)]))
    assert len(found) == 3
    for pair, (intact, ablated) in found:
        good, bad = (encode(loaded, pair, target) for target in (0, 1))
        margin = sentence(loaded, good) - sentence(loaded, bad)
        assert intact["margin"] == pytest.approx(margin, abs=1e-3)
        assert intact["accuracy"] == (0.5 if pair.id.endswith("2") else float(margin > 0))
        with ablating(loaded, values):
            assert ablated["margin"] == pytest.approx(sentence(loaded, good) - sentence(loaded, bad), abs=1e-3)


def test_continuations_and_losses():
    loaded = make("llama_gqa", scale=4.0)
    prompt = row("0", text="the cat sees the dog of the house", targets=(" was red",))
    ((_, (icl,)),) = outcomes(loaded, "icl", [prompt], 100, [])
    tokens = encode(loaded, prompt)
    logits = forward(loaded, [tokens.ids], [tokens.target - 1]).log_softmax(1)
    right = logits[torch.arange(2), torch.from_numpy(tokens.ids[tokens.target])]
    assert icl["logprob"] == pytest.approx(float(right.mean()), abs=1e-5)
    assert icl["accuracy"] == float((logits.argmax(1).numpy() == tokens.ids[tokens.target]).all())
    ((_, (text,)),) = outcomes(
        loaded, "text", [row("1", text="the cat sees the dog of the old house in a tree")], 100, []
    )
    whole = encode(loaded, row("1", text="the cat sees the dog of the old house in a tree"))
    at = np.arange(STRIDE, len(whole), STRIDE)
    losses = -forward(loaded, [whole.ids], [at - 1]).log_softmax(1)[
        torch.arange(len(at)), torch.from_numpy(whole.ids[at])
    ]
    assert text["loss"] == pytest.approx(float(losses.mean()), abs=1e-5)


def test_repeats_are_scored_on_the_last_copy():
    loaded = make("gpt2")
    prompt = row("0", ordinals=(3, 9, 4, 7) * 3)
    tokens = encode(loaded, prompt)
    ((_, (found,)),) = outcomes(loaded, "repeats", [prompt], 100, [])
    at = np.arange(len(tokens) - 4, len(tokens))
    losses = -forward(loaded, [tokens.ids], [at - 1]).log_softmax(1)[torch.arange(4), torch.from_numpy(tokens.ids[at])]
    assert found["loss"] == pytest.approx(float(losses.mean()), abs=1e-5)


def test_of_a_long_copy_a_few_even_tokens_are_scored():
    loaded = make("gpt2")
    made = trial(loaded, "repeats", row("0", ordinals=tuple(range(3, 23)) * 3))  # 20 tokens, three times
    (positions,), (tokens,) = made.positions, made.tokens
    assert positions.tolist() == list(range(len(tokens) - 20, len(tokens), -(-20 // SCORED)))
    assert SCORED / 2 < len(positions) <= SCORED


def test_recall_counts_tokens_and_accuracy_needs_all():
    scored = Scored(np.array([-0.1, -0.2, -3.0], dtype=np.float32), np.array([True, True, False]))
    recall = [outcome(task, [], [scored])["recall"] for task in ("needle", "iteration")]
    assert recall == pytest.approx([2 / 3, 2 / 3])
    assert outcome("icl", [], [scored])["accuracy"] == 0.0
    assert outcome("icl", [], [Scored(scored.logprob, np.ones(3, dtype=bool))])["accuracy"] == 1.0


def test_pairs_say_whether_they_tie_are_the_same_tokens_or_differ_in_length():
    loaded = make("gpt2")
    pairs = [*PAIRS, row("3", targets=(" the cat sees a dog.", " the cat sees a dog of a house."))]
    found = {pair.id[-1]: measures for pair, (measures,) in outcomes(loaded, "blimp", pairs, 200, [])}
    beside = {name: tuple(found[name][key] for key in ("ties", "equal_ids", "unequal_length")) for name in found}
    lengths = {pair.id[-1]: [len(encode(loaded, pair, target)) for target in (0, 1)] for pair in pairs}
    assert beside["2"] == (1.0, 1.0, 0.0) and beside["0"][:2] == (0.0, 0.0)
    assert beside["3"] == (0.0, 0.0, 1.0)
    assert all(values[2] == float(len(set(lengths[name])) > 1) for name, values in beside.items())


def test_a_head_of_zeros_ties_every_pair():
    """All tokens are then equally likely: pairs of one length tie, though their tokens differ."""
    loaded = make("gpt2")
    loaded.model.get_output_embeddings().weight.data.zero_()
    same_length = row("4", targets=(" the cat sees a dog.", " the dog sees a cat."))
    ((_, (measures,)),) = outcomes(loaded, "blimp", [same_length], 200, [])
    assert measures == {"accuracy": 0.5, "margin": 0.0, "ties": 1.0, "equal_ids": 0.0, "unequal_length": 0.0}


def test_every_task_scores_as_many_sequences_as_it_has_targets():
    loaded = make("gpt2")
    for name in tasks.names():
        asked = tasks.of(name)
        prompt = row("0", text="the cat sees" * (asked.targets == 1), targets=(" the dog", " a dog")[: asked.targets])
        made = trial(loaded, name, prompt) if name != "repeats" else trial(loaded, name, row("0", ordinals=(1, 2) * 3))
        assert len(made.tokens) == len(made.positions) == asked.targets
        scored = [Scored(np.full(len(at), -1.0), np.ones(len(at), dtype=bool)) for at in made.positions]
        measures = outcome(name, made.tokens, scored)
        assert not measures or {asked.main, asked.smooth, *asked.falls, *asked.beside, *asked.chance} <= set(measures)
        assert bool(measures) == bool(asked.main)


def test_batches_cover_all_prompts_in_a_fixed_order_within_the_budget():
    loaded = make("gpt2")
    prompts = [encode(loaded, row(str(n), text="the cat " * (1 + n * 7 % 5))) for n in range(20)]
    made = list(batches(prompts, 30, [1] * 20))
    assert sorted(index for batch in made for index in batch) == list(range(20))
    assert all(len(batch) * max(len(prompts[i]) for i in batch) <= 30 for batch in made)
    assert made == list(batches(prompts, 30, [1] * 20))
    assert all(len(batch) <= 3 for batch in batches(prompts, 4095, [170] * 20))
    assert max(map(len, batches(prompts, 4096, [170] * 20))) == 6  # larger batches read as many times more rows


@pytest.mark.parametrize("name", ["llama_gqa", "gemma3", "gpt2"])
def test_all_heads_of_a_layer_add_up_to_what_the_layer_writes(name):
    """With every head in it, the vector of a layer is the attention block's own output at those head outputs."""
    loaded = make(name, scale=3.0)
    part = loaded.anatomy.layers[1]
    generator = torch.Generator().manual_seed(0)
    z = {head: torch.randn(part.head_size, generator=generator) for head in loaded.anatomy.heads}
    projection = loaded.model.get_submodule(part.projection)
    with torch.no_grad():
        if projection.bias is not None:
            projection.bias.zero_()
        written = projection(torch.cat([z[1, head] for head in range(part.heads)]))
        if name == "gemma3":
            written = loaded.model.model.layers[1].post_attention_layernorm(written)
    vector = Parts(loaded, z).together([(1, head) for head in range(part.heads)])
    torch.testing.assert_close(vector, written, atol=1e-5, rtol=1e-4)
    halves = [Parts(loaded, z).together([(1, h) for h in pair]) for pair in ((0, 1), (2, 3))]
    torch.testing.assert_close(halves[0] + halves[1], vector, atol=1e-5, rtol=1e-4)


def test_a_cluster_of_any_size_runs_within_the_budget_in_the_order_given():
    trials = [
        Trial(SimpleNamespace(cluster="c" if number < 9 else str(number)), (tokens,), (tokens.target,))
        for number, tokens in enumerate(Tokens(str(n), "", np.arange(20), np.zeros(20, bool)) for n in range(12))
    ]
    chosen = list(_together(trials, 100, alike=True))
    assert chosen[:2] == [[0, 1, 2, 3, 4], [5, 6, 7, 8]] and sorted(
        index for batch in chosen for index in batch
    ) == list(range(12))
    assert list(_together(trials[:9], 7, alike=True)) == [[number] for number in range(9)]


@pytest.mark.parametrize(
    ("lengths", "parts"),
    [
        ([60, 60, 62, 62, 63], [[0, 1, 2, 3, 4]]),  # of one length, about
        ([64, 64, 90, 92, 94, 140], [[0, 1], [2, 3, 4], [5]]),  # 52 tokens of padding beside 128, 144 beside 276
        ([64, 70, 77, 77], [[0], [1], [2, 3]]),  # 6 beside 64, 7 beside 70
        ([60, 70, 70], [[0, 1], [2]]),  # fewer than 64 are no part; then 10 beside 130
        ([4, 5, 9, 20], [[0, 1, 2, 3]]),  # few tokens: padding costs less than another pass
    ],
)
def test_a_batch_that_many_ablations_repeat_is_cut_where_padding_would_be_much_of_it(lengths, parts):
    assert list(_level(range(len(lengths)), lengths)) == parts
