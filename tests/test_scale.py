"""What keeps memory flat: long prompts in parts, sparse relations, one transfer a batch, tables read piece by piece."""

from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from test_model_contract import prompt, relations
from tiny import make

from stages import extract
from stages.engine.pieces import Pieces
from stages.families import FAMILIES
from stages.families.family import Relation, Tokens
from stages.families.offset import best_offset, offset_accuracy
from stages.model import chunks
from stages.model import measure as measuring
from stages.model.measure import measure
from stages.statistics import verdict
from stages.store import parquet, tables
from stages.tasks.treebank import prompts as treebank
from stages.tasks.treebank.settings import Settings as Treebank


@pytest.mark.parametrize("name", ["llama_gqa", "gemma3", "gpt2", "gpt_oss", "jamba"])
def test_a_long_prompt_in_parts_is_the_same_prompt(name, monkeypatch):
    loaded, tokens = make(name, scale=3.0), prompt(41, 5, scored=30)
    whole = measure(loaded, [tokens], [relations(tokens)], outputs=True)
    monkeypatch.setattr(chunks, "CHUNK", 16)
    ran: list[int] = []
    loaded.model.get_input_embeddings().register_forward_pre_hook(lambda module, args: ran.append(args[0].shape[1]))
    monkeypatch.setattr(measuring, "BLOCK", 4 * 41 * 5)  # and several blocks of queries in a part
    parts = measure(
        loaded if name != "jamba" else loaded.allowed({"caches": "no"}), [tokens], [relations(tokens)], True
    )
    assert ran == ([41] if name == "jamba" else [16, 16, 9])
    for relation, mean in whole.means[0].items():
        assert parts.means[0][relation].count == mean.count
        for statistic, values in mean.values.items():
            np.testing.assert_allclose(parts.means[0][relation].values[statistic], values, atol=1e-5)
    np.testing.assert_allclose(parts.scored[0].logprob, whole.scored[0].logprob, atol=1e-4)
    for layer, z in whole.outputs.items():
        torch.testing.assert_close(parts.outputs[layer], z, atol=1e-5, rtol=1e-4)


def test_long_prompts_together_are_the_same_prompts(monkeypatch):
    """Rows end in different chunks; sums over words want whole rows of attention, and get them."""
    loaded = make("gemma3", scale=3.0)
    batch = [prompt(41, 5, scored=30), prompt(38, 6, scored=20), prompt(12, 7, scored=3)]
    asked = [relations(tokens) for tokens in batch]
    whole = measure(loaded, batch, asked, outputs=True)
    monkeypatch.setattr(chunks, "CHUNK", 16)
    ran: list[int] = []
    loaded.model.get_input_embeddings().register_forward_pre_hook(lambda module, args: ran.append(args[0].shape[1]))
    cut = measure(loaded, batch, asked, outputs=True)
    assert ran == [16, 16, 9]
    for row in range(3):
        for relation, mean in whole.means[row].items():
            for statistic, values in mean.values.items():
                np.testing.assert_allclose(cut.means[row][relation].values[statistic], values, atol=1e-5)
        np.testing.assert_allclose(cut.scored[row].logprob, whole.scored[row].logprob, atol=1e-4)
    for layer, z in whole.outputs.items():
        torch.testing.assert_close(cut.outputs[layer], z, atol=1e-5, rtol=1e-4)
    spelled = Tokens("w", "t", batch[0].ids, batch[0].special, words=tuple(np.arange(1, 41).reshape(-1, 2)))
    measure(loaded, [spelled], [{"between": Relation(np.array([1, 3]), np.eye(20, dtype=bool)[:2], words=True)}])
    assert ran[3:] == [41]


def test_prompts_together_bring_their_sums_once(monkeypatch):
    loaded = make("llama_gqa", scale=3.0)
    batch = [prompt(9 + number, number) for number in range(6)]
    words = tuple(np.arange(1, 9).reshape(-1, 2))
    batch += [Tokens("w", "t", batch[0].ids, batch[0].special, words=words)]
    asked = [relations(tokens) for tokens in batch]
    asked[-1] = {"between": Relation(np.array([1, 3]), np.eye(4, dtype=bool)[:2], words=True)}
    brought, own = [], torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: brought.append(tensor.numel()) or own(tensor))
    together = measure(loaded, batch, asked)
    scores = 2  # the argmax and the log-probabilities of all targets
    assert len(brought) == 1 + scores
    monkeypatch.undo()
    for tokens, of, means in zip(batch, asked, together.means, strict=True):
        (alone,) = measure(loaded, [tokens], [of]).means
        assert list(means) == list(of) == list(alone)
        for name, mean in alone.items():
            for statistic, values in mean.values.items():
                np.testing.assert_allclose(means[name].values[statistic], values, atol=1e-5)


def test_relations_of_long_text_are_as_dense_ones_and_linear_in_its_length():
    ids = np.random.default_rng(0).integers(4, 300, 400)
    tokens = Tokens("p", "long", ids, np.arange(400) == 0)
    back = np.arange(400)[:, None] - np.arange(400)
    inside = {
        "previous": back == 1,
        "self": back == 0,
        "local": (back >= 0) & (back < 8) & ~tokens.special,
        "streaming": ((back >= 0) & (back < 64)) | (np.arange(400) < 4),
    }
    for name, whole in inside.items():
        relation = FAMILIES[name].relation(tokens)
        np.testing.assert_array_equal(relation.dense, whole[relation.queries])
        dense = Relation(relation.queries, relation.dense)
        for sparse_part, dense_part in zip(relation.pairs, dense.pairs, strict=True):
            np.testing.assert_array_equal(sparse_part, dense_part)
        offset = best_offset([dense])
        assert best_offset([relation]) == offset and offset_accuracy(relation, offset) == offset_accuracy(dense, offset)
        assert relation.keys.nnz <= 68 * 400


def test_signs_held_at_once_change_no_p_value(monkeypatch):
    values, names = np.random.default_rng(0).normal(0.1, 1, (60, 5)), np.arange(60).astype(str)
    whole = verdict.sign_flip(values, names, 10_000, np.random.default_rng(1))
    monkeypatch.setattr(verdict, "HELD", 7 * 60)
    np.testing.assert_array_equal(whole, verdict.sign_flip(values, names, 10_000, np.random.default_rng(1)))


def test_no_row_is_in_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = dict.fromkeys(tables.PROMPTS.names) | {"id": "p", "split": "a"}
    tables.PROMPTS.write([row], "text")
    for names, number in (["p"], 1), ([], 0):
        rows = tables.PROMPTS.read("text", columns=["id", "split"], only=[("id", "in", names), ("split", "==", "a")])
        assert len(rows) == number and list(rows) == ["id", "split"]


def test_pieces_of_a_table_are_the_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [
        {"id": f"p{n:05}", "split": "a", "role": "test", "condition": "g", "category": "", "cluster": "c", "text": "x",
         "targets": [" y"], "relations": [], "ordinals": [n], "tokens": 0, "bos": True} for n in range(9000)
    ]  # fmt: skip
    monkeypatch.setattr(parquet, "ROW_GROUP", 2 * parquet.PIECE)
    tables.PROMPTS.write(rows, "text")
    pieces = [tables.PROMPTS.piece("text", number=n) for n in range(tables.PROMPTS.number_of_pieces("text"))]
    assert list(map(len, pieces)) == [parquet.PIECE] * 4 + [9000 - 4 * parquet.PIECE]
    assert pd.concat(pieces).id.tolist() == tables.PROMPTS.read("text").id.tolist()


def test_sums_of_a_thousand_shards_hold_no_more_than_those_of_ten():
    rng, seen = np.random.default_rng(0), {}
    for shards in (10, 1000):
        sums, values = extract._Sums(), rng.normal(size=(shards, 8))
        for value in values:
            group = extract.Group("a", "clean", "f", "0")
            row = group._asdict() | {"what": "output", "layer": 3, "prompts": 2, "total": 2 * value}
            sums.add(pa.Table.from_pylist([row], extract.SUMS))
        count, mean = sums.means(group, "output")[3]
        assert count == 2 * shards
        np.testing.assert_allclose(mean, values.mean(0))
        seen[shards] = sum(total.nbytes for layers in sums.sums.values() for _, total in layers.values())
    assert seen[10] == seen[1000] == 64


def test_prompts_read_in_pieces_are_cut_and_scored_as_those_of_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path(__file__).parents[1] / "stages/sources/treebank/lexicon.yaml"
    rows = treebank.build(Treebank(source="builtin", path=str(path), sentences=40, shortest=5, longest=30), 0)
    loaded, seen = make("llama_gqa"), {}
    for name, size in (("one", 2048), ("many", 16)):
        monkeypatch.setattr(parquet, "PIECE", size)
        monkeypatch.setattr(parquet, "ROW_GROUP", 2 * size)
        tables.PROMPTS.write([asdict(row) for row in rows], "treebank")
        piece = partial(extract._encoded, loaded, "treebank")
        learned = extract._learned(piece, "treebank", 256)
        shards = Pieces(lambda number: extract._shards(*piece(number), "treebank", 256), learned.sizes)  # noqa: B023
        assert len(shards) == len(learned.costs) and learned.work.tokens == sum(learned.costs)
        seen[name] = learned.offsets, learned.work, sorted(row.id for _, of in shards for row, _ in of)
        assert (len(learned.sizes) > 1) == (name == "many")
    assert seen["one"] == seen["many"] and len(seen["one"][2]) == len(rows)
