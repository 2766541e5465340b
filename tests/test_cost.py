"""What stages announce: tokens and rows counted as they run, shared ones once, at the speed of a product measured."""

from types import SimpleNamespace

import numpy as np
import pytest
from tiny import make

from stages.model import cost
from stages.model.cost import Work, above, announce, seconds, shared, weights
from stages.training import cost as of_training


def test_what_texts_begin_with_runs_once():
    texts = [[1, 2, 3, 4], [1, 2, 9], [1, 2, 3, 5, 6], [7], [1, 2]]
    beginnings = {tuple(ids[:end]) for ids in texts for end in range(1, len(ids) + 1)}
    assert shared([np.array(ids) for ids in texts]) == len(beginnings) == 8
    assert shared([np.array([4, 4])] * 3) == 2 and shared([]) == 0


def test_weights_are_those_that_tokens_and_rows_meet():
    loaded = make("llama_gqa")
    width, vocabulary = 32, loaded.model.config.vocab_size
    blocks = sum(weight.numel() for weight in loaded.model.model.layers.parameters()) + width  # and the last norm
    assert weights(loaded) == (blocks, width * vocabulary)
    assert weights(make("bert"))[1] >= 0 and weights(make("vit"))[1] == 0


def test_work_is_announced_in_minutes(monkeypatch):
    loaded = make("llama_gqa")
    blocks, head = weights(loaded)
    monkeypatch.setattr(cost, "seconds", lambda loaded: 1e-6)
    work = (Work(1000, 3) + Work(500)) * 2
    minutes = (3000 * blocks + 6 * head) * 1e-6 / 60
    line = announce("trace a", 12, work, loaded)
    assert line == f"trace a: 12 prompts, 3,000 tokens, 6 rows of the LM head, about {minutes:.1f} min"
    assert announce("x", 1, Work(2), loaded).startswith("x: 1 prompts, 2 tokens, about")


def test_silenced_heads_leave_out_the_blocks_below():
    loaded = make("llama_gqa")
    assert [above(loaded, layer) for layer in range(3)] == pytest.approx([1, 2 / 3, 1 / 3])
    assert above(loaded.allowed({"resumes": "no"}), 2) == 1


def test_a_multiplication_takes_its_time():
    assert 1e-14 < seconds(make("llama_gqa")) < 1e-7


def test_training_is_announced_by_its_tokens_and_steps(monkeypatch):
    architecture = SimpleNamespace(width=8, layers=2, inner=16)
    lesson, training = SimpleNamespace(positions=10, symbols=5), SimpleNamespace(batch=4, architecture=architecture)
    monkeypatch.setattr(of_training, "product", lambda: 1e-6)
    step = 3 * (4 * 10) * (2 * (4 * 64 + 2 * 8 * 16) + 8 * 5) * 1e-6 + of_training.STEP / 2
    told = of_training.training([(lesson, training, 1000)] * 2, 2)
    assert told == f"about {(of_training.START + 2000 * step) / 60:.1f} min"
    assert of_training.measuring(1200, 2) == "about 1.1 min"
