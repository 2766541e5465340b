"""Logits reduced piece by piece, never whole: the same numbers, and only where nothing follows the head."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_model_contract import prompt
from test_together import MODELS, scores
from tiny import make
from torch import nn

from stages.model import proof
from stages.model.forward import forward
from stages.model.load import Loaded
from stages.model.score import Batch, score_rows
from stages.model.unread import PIECE, Unread, likeliest, plain


def divided() -> Loaded:
    """A Granite, whose logits are divided after the head."""
    loaded = make("granite", scale=3.0)
    loaded.model.config.logits_scaling = 8.0
    return loaded


def head(words: int, bias: bool, scale: float = 1.0) -> nn.Linear:
    torch.manual_seed(words)
    made = nn.Linear(16, words, bias=bias).requires_grad_(False)
    made.weight.mul_(scale)
    return made


@pytest.mark.parametrize("scale", [1.0, 3000.0])  # logits of some thousands: exp of them is infinite
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("words", [5, 61, PIECE, PIECE + 1, 2 * PIECE + 64, 3 * PIECE - 7])
def test_pieces_give_what_whole_logits_give(words, bias, scale):
    made, hidden_ND = head(words, bias, scale), torch.randn(9, 16)
    logits_NV = made(hidden_ND)
    total, best = Unread(hidden_ND, made).reduced()
    torch.testing.assert_close(total, logits_NV.double().logsumexp(1).float(), atol=1e-5, rtol=2e-6)
    assert torch.equal(best, logits_NV.argmax(1))
    assert (likeliest(Unread(hidden_ND, made)) == likeliest(logits_NV)).all()
    rows, targets = torch.tensor([3, 3, 8, 0]), torch.tensor([words - 1, 0, words // 2, 1])
    at = Unread(hidden_ND, made).logits(rows, targets)
    torch.testing.assert_close(at, logits_NV[rows, targets], atol=1e-5, rtol=1e-5)


def test_in_bfloat16_logits_are_rounded_as_the_head_rounds_them():
    made, hidden_ND = head(3 * PIECE, True).to(torch.bfloat16), torch.randn(9, 16).to(torch.bfloat16)
    logits_NV = made(hidden_ND).float()
    total, best = Unread(hidden_ND, made).reduced()
    torch.testing.assert_close(total, logits_NV.logsumexp(1), atol=1e-4, rtol=1e-4)
    assert torch.equal(logits_NV.gather(1, best[:, None])[:, 0], logits_NV.amax(1))
    rows = torch.arange(9)
    torch.testing.assert_close(Unread(hidden_ND, made).logits(rows, best), logits_NV[rows, best], atol=0, rtol=0.01)


@pytest.mark.parametrize("scale", [1.0, 300.0])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("words", [5, PIECE + 1, 2 * PIECE + 64])
def test_the_gradient_of_log_probabilities_is_that_of_whole_logits(words, bias, scale):
    made, weights_N = head(words, bias, scale), torch.tensor([0.5, -1.0, 2.0, 0.0])
    hidden_ND, words_N = torch.randn(4, 16, requires_grad=True), torch.tensor([words - 1, 0, words // 2, 1])
    logits_NV = made.double()(hidden_ND.double())
    (logits_NV.log_softmax(1)[torch.arange(4), words_N] * weights_N).sum().backward()
    pulled_ND = Unread(hidden_ND.detach(), made.float()).gradient(words_N, weights_N)
    torch.testing.assert_close(pulled_ND, hidden_ND.grad, atol=2e-6 * scale, rtol=1e-3)


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-4), (torch.float16, 0.002), (torch.bfloat16, 0.01)])
def test_the_gradient_of_a_likely_word_is_no_difference_of_rounded_numbers(dtype, close):
    """All words' weights have a part in common, and p(target) is near 1: what is left is of the other words."""
    torch.manual_seed(0)
    made, targets_N = nn.Linear(128, 20_000, bias=False).requires_grad_(False), torch.arange(4) * 5001
    made.weight.copy_(torch.randn(20_000, 128) + 5 * torch.randn(128))
    hidden_ND = 0.13 * (made.weight[targets_N] - made.weight.mean(0))
    made, hidden_ND = made.to(dtype), hidden_ND.to(dtype)
    share_NV = made(hidden_ND).double().softmax(1)  # of logits as the head rounds them
    assert (share_NV[torch.arange(4), targets_N] > 0.9).all()
    exact_ND = (nn.functional.one_hot(targets_N, 20_000) - share_NV) @ made.weight.double()
    off_ND = Unread(hidden_ND, made).gradient(targets_N, torch.ones(4)).double() - exact_ND
    assert (off_ND.norm(dim=1) / exact_ND.norm(dim=1)).max() < close


def test_rows_are_picked_and_split_as_those_of_a_tensor(monkeypatch):
    unread = Unread(torch.arange(24.0).reshape(6, 4), nn.Linear(4, 7))
    alone = [Unread(part_ND, unread.head).reduced() for part_ND in unread.hidden_ND.split([2, 4])]
    first, second = unread.split([2, 4])
    monkeypatch.setattr(Unread, "_piece", lambda *_: pytest.fail("read twice"))  # the head has read all parts at once
    for part, expected in zip((first, second), alone, strict=True):
        for numbers, same in zip(part.reduced(), expected, strict=True):
            torch.testing.assert_close(numbers, same)
    assert (len(unread), len(first), len(second), len(unread[[5, 5, 1]])) == (6, 2, 4, 3)
    assert torch.equal(second[[0, 3]].hidden_ND, unread.hidden_ND[[2, 5]])


def test_only_a_matrix_in_memory_that_is_applied_as_it_is_is_plain():
    class Louder(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    assert plain(nn.Linear(4, 7))
    wrapped = nn.Linear(4, 7)
    wrapped.forward = lambda x: 2 * x  # as accelerate's dispatch does
    hooked = nn.Linear(4, 7)
    hooked.register_forward_hook(lambda *_: None)
    assert not any(map(plain, (wrapped, hooked, Louder(4, 7), nn.Linear(4, 7, device="meta"), nn.Identity())))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("llama_gqa", "ok"),
        ("gpt2", "ok"),
        ("biased", "ok"),
        ("capped", "not used: its logits are not what its LM head says"),
        ("divided", "not used: its logits are not what its LM head says"),
        ("bert", "not used: only a decoder may end with one matrix"),
    ],
)
def test_what_follows_the_head_is_found(name, says):
    loaded, result = proof.prove(divided() if name == "divided" else MODELS[name]())
    assert result["ends"] == says and loaded.ends == (says == "ok")


def test_a_cap_that_hardly_changes_small_logits_is_found():
    loaded = make("llama_gqa", scale=0.01)
    own = loaded.model.forward

    def capped(*args, **kwargs):
        output = own(*args, **kwargs)
        output.logits = 30 * torch.tanh(output.logits / 30)
        return output

    loaded.model.forward = capped
    assert proof.prove(loaded)[1]["ends"] == "not used: its logits are not what its LM head says"


@pytest.mark.parametrize("name", ["llama_gqa", "gpt2", "biased"])
def test_batches_edits_and_copies_score_the_same(name):
    whole = MODELS[name]()
    for one, other in zip(scores(whole), scores(replace(whole, ends=True)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_head_reads_the_rows_of_several_passes_at_once(monkeypatch):
    loaded, read, piece = replace(make("llama_gqa", scale=3.0), ends=True), [], Unread._piece
    monkeypatch.setattr(Unread, "_piece", lambda unread, start: read.append(len(unread)) or piece(unread, start))
    scores(loaded)
    assert read == [5, 5 * 12, 5 * 13]  # a batch, twelve ablations of it, as many edits of the same and none


def test_whole_logits_are_made_only_where_they_are_asked_for(monkeypatch):
    loaded = replace(make("llama_gqa", scale=3.0), ends=True)
    tokens = prompt(20, 4)
    asked = [np.array([3, 19])]
    assert isinstance(forward(loaded, [tokens.ids], asked), torch.Tensor)
    assert isinstance(forward(loaded, [tokens.ids], asked, whole=False), Unread)
    assert isinstance(forward(replace(loaded, ends=False), [tokens.ids], asked, whole=False), torch.Tensor)
    monkeypatch.setattr(loaded.model.lm_head, "forward", lambda x: pytest.fail("the head has read"))
    monkeypatch.setattr("stages.model.forward.plain", lambda head: True)
    assert forward(loaded, [tokens.ids], None, headless=True, whole=False) is None  # no rows, no head
    Batch(loaded, [tokens], [tokens.target])
    (scored,) = score_rows(forward(loaded, [tokens.ids], asked, whole=False), [tokens.ids], [np.array([4, 19])])
    assert scored.logprob.shape == (2,)
