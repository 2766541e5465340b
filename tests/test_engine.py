"""Shards: what is written in heads' places, how prompts are cut, and that a killed run goes on to the same bytes."""

import importlib.metadata
import sys
from collections import namedtuple
from dataclasses import fields

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny import make

from stages import ablate
from stages.engine import kept, shards
from stages.engine.kept import Job, forget, keys, tables_of
from stages.engine.pieces import Pieces
from stages.engine.shards import INTACT, Intervention, Shard, cut
from stages.model import silence
from stages.model.forward import forward
from stages.model.intervene import ablating, capturing
from stages.model.score import Batch
from stages.model.silence import KINDS, Donors, Writable
from stages.model.tokens import encode
from stages.store import parquet, tables
from stages.store.errors import UserError
from stages.tasks.prompt import Prompt

Row = namedtuple("Row", [field.name for field in fields(Prompt)])
TEXTS = ["the cat sees the dog of the old house", "a bird likes it", "the new tree was big and red in a house"]


def row(number: int, cluster: str = "", **more) -> Row:
    """A prompt as a row of the prompts table gives it."""
    made = Prompt(id=f"t/g/{number}", condition="g", cluster=cluster or str(number), **more)
    return Row(*(getattr(made, field.name) for field in fields(made)))


def silencing(name: str, heads: str, kind: str = "mean") -> Intervention:
    return Intervention(name, "family", "f", len(heads.split()), kind, 0, heads)


@pytest.fixture
def loaded():
    return make("llama_gqa", scale=4.0)


@pytest.fixture
def means(loaded):
    generator = torch.Generator().manual_seed(0)
    return {head: torch.randn(8, generator=generator) for head in loaded.anatomy.heads}


def test_heads_are_read_as_they_are_written():
    assert silencing("x", "L5H1 L11H2").silences == ((5, 1), (11, 2)) and INTACT.silences == ()


def test_a_set_in_another_order_is_read_once(loaded):
    ways = [silencing(str(number), heads) for number, heads in enumerate(("L0H0 L1H1", "L1H1 L0H0", "L1H0"))]
    asked, once = (
        ablate._work(loaded, [Shard("icl", (row(0, text="a cat", targets=(" sees",)),), (), tuple(some))])
        for some in (ways, ways[:1])
    )
    assert 0 < 2 * asked.rows == 3 * once.rows


def test_prompts_of_the_same_interventions_make_shards_and_each_is_in_one():
    prompts = [row(number) for number in range(7)]
    first, second = silencing("1", "L0H0"), silencing("2", "L1H0")
    asked = {prompt.id: [first, second] if number % 2 else [first] for number, prompt in enumerate(prompts[:6])}
    made = cut("text", prompts, asked, 2)
    assert [[prompt.id[-1] for prompt in shard.prompts] for shard in made] == [
        ["0", "2"],
        ["4"],
        ["1", "3"],
        ["5"],
        ["6"],
    ]
    assert [shard.interventions for shard in made] == [(first,), (first,), (first, second), (first, second), ()]
    assert [shard.passes for shard in made] == [4, 2, 6, 3, 1]


def test_a_donor_is_of_another_cluster_and_shared_within_one():
    prompts = [row(0, "a"), row(1, "a"), row(2, "b"), row(3, "c")]
    (shard,) = cut("icl", prompts, {}, 10)
    assert [donor.cluster for donor in shard.donors] == ["b", "b", "c", "a"]


def test_a_prompt_is_not_its_own_donor():
    """Of one cluster alone the first prompt was given its own outputs: an effect of exactly 0."""
    prompts = [row(0, "a"), row(1, "a")]
    resampled = {prompts[0].id: [silencing("x", "L0H0", "resample")]}
    with pytest.raises(UserError, match=r"'resample' needs prompts of two clusters, and all of icl .* are of a:"):
        cut("icl", prompts, resampled, 10)
    assert len(cut("icl", prompts, {prompts[0].id: [silencing("x", "L0H0")]}, 10)) == 2
    assert len(cut("icl", [*prompts, row(2, "b")], resampled, 10)) == 2


def silenced(batch, heads, kind, writable):
    return batch.ablations([silence.silencing(heads, kind, writable)])[0]


def naive(loaded, tokens, values, keep) -> np.ndarray:
    """Log-probabilities of all tokens but the first under an ablation, by one plain pass."""
    with ablating(loaded, values, torch.from_numpy(tokens.special[None]) if keep else None):
        logits = forward(loaded, [tokens.ids], [np.arange(len(tokens) - 1)]).log_softmax(1)
    return logits[torch.arange(len(tokens) - 1), torch.from_numpy(tokens.ids[1:])].numpy()


@pytest.mark.parametrize("kind", ["mean", "zero"])
def test_mean_and_zero_equal_plain_passes(loaded, means, kind):
    tokens = [encode(loaded, row(number, text=text)) for number, text in enumerate(TEXTS)]
    batch = Batch(loaded, tokens, [np.arange(1, len(one)) for one in tokens])
    heads = ((1, 0), (2, 3))
    values = {head: means[head] * (kind == "mean") for head in heads}
    for one, scored in zip(tokens, silenced(batch, heads, kind, Writable(means, None)), strict=True):
        np.testing.assert_allclose(scored.logprob, naive(loaded, one, values, kind == "mean"), atol=1e-4)


@pytest.mark.parametrize(
    "start", ["", "the old cat of the red house in a big tree sees the dog and the bird likes it " * 3]
)
@pytest.mark.parametrize("number", [1, 3])
def test_resample_writes_what_the_head_gives_on_the_donor(loaded, means, start, number):
    """With and without a shared prefix: ordinary position j gets the donor's j-th, from the start again at its end."""
    tokens = [encode(loaded, row(number, text=start + text)) for number, text in enumerate(TEXTS)]
    donors = ["a red dog sees a big old river of it", "the bird", "it is in a house"][:number] * (3 // number)
    donors = [encode(loaded, row(9, text=text)) for text in donors]
    batch = Batch(loaded, tokens, [np.arange(len(one) - 3, len(one)) for one in tokens])
    assert (batch.cut > 0) == bool(start)
    heads = ((1, 2), (2, 0))
    resampled = silenced(batch, heads, "resample", Writable(means, Donors(loaded, tokens, donors)))
    for one, donor, scored, intact in zip(tokens, donors, resampled, batch.intact, strict=True):
        with capturing(loaded) as outputs:
            forward(loaded, [donor.ids], headless=True)
        given = [0] + [1 + j % (len(donor) - 1) for j in range(len(one) - 1)]
        values = {(layer, h): outputs[layer][:, given, h * 8 : h * 8 + 8] for layer, h in heads}
        np.testing.assert_allclose(scored.logprob, naive(loaded, one, values, True)[-3:], atol=1e-4)
        assert np.abs(scored.logprob - intact.logprob).max() > 1e-4


def test_a_new_kind_is_one_function(loaded, means):
    try:

        @silence.kind(everywhere=True, constant=True)
        def twice(head, writable):
            return 2 * writable.means[head]

        table = shards.run(
            loaded,
            means,
            Shard("text", (row(0, text=TEXTS[0]),), (row(1, text="a"),), (silencing("x", "L0H0", "twice"),)),
            100,
        )
        assert set(table.kind) == {"", "twice"} and (table.value != table.intact).any()
    finally:
        KINDS.pop("twice")


def test_a_table_pairs_every_value_with_the_intact_one(loaded, means):
    prompts = tuple(row(number, text=text) for number, text in enumerate(TEXTS))
    both = (silencing("one", "L0H1"), silencing("two", "L1H0 L2H2", "resample"))
    table = shards.run(loaded, means, Shard("text", prompts, prompts[1:] + prompts[:1], both), 100)
    assert list(table.columns) == tables.EFFECTS.names and len(table) == 9
    none = table[table.intervention == "none"].set_index("prompt").value
    assert (table.intact == none.loc[table.prompt].to_numpy()).all()
    assert (table[table.intervention != "none"].value != table[table.intervention != "none"].intact).all()


class Killed(Exception):
    """What stands for a kill."""


def test_a_killed_run_goes_on_where_it_was_to_the_same_bytes(loaded, means, tmp_path, caplog):
    prompts = [row(number, text=TEXTS[number % 3] + " in it" * number) for number in range(5)]
    todo = cut("text", prompts, {prompt.id: [silencing("x", "L1H1")] for prompt in prompts}, 2)
    key = keys({"name": "tiny"}, means, 100)
    ran: list[Shard] = []

    def work(shard: Shard, limit: int = 99) -> pd.DataFrame:
        if len(ran) == limit:
            raise Killed
        ran.append(shard)
        return shards.run(loaded, means, shard, 100)

    def written(name: str, limit: int = 99) -> bytes:
        path = tmp_path / f"{name}.parquet"
        with parquet.writer(path, tables.EFFECTS.schema) as add:
            job = Job(lambda: loaded, lambda _, shard: [work(shard, limit)], [tables.EFFECTS.schema])
            for (table,) in tables_of(job, todo, map(key, todo), tmp_path / name.rstrip("2")):
                add(table)
        return path.read_bytes()

    whole = written("whole")
    assert ran == todo
    ran.clear()
    with pytest.raises(Killed):
        written("killed", 1)
    assert ran == todo[:1]
    (file,) = (tmp_path / "killed").glob("*.parquet")
    parquet.write(file, pq.read_table(file), tables.EFFECTS.schema.with_metadata({"seconds": "41.5"}))
    with caplog.at_level("INFO"):
        assert written("killed2") == whole and ran == todo  # the first was not run again
    assert caplog.messages == ["1 of 3 shards are kept from a run that was cut off: 41.5 s saved"]
    forget(tmp_path / "killed")
    assert not (tmp_path / "killed").exists()


def test_a_key_holds_all_that_a_shard_depends_on(means):
    shard = Shard("text", (row(0, text="a"),), (row(1, text="b"),), (silencing("x", "L1H1"),))
    key = keys({"name": "m"}, means, 100)
    other = [
        Shard("repeats", shard.prompts, shard.donors, shard.interventions),
        Shard("text", (row(0, text="c"),), shard.donors, shard.interventions),
        Shard("text", shard.prompts, (row(1, text="c"),), shard.interventions),
        Shard("text", shard.prompts, shard.donors, (silencing("x", "L1H2"),)),
    ]
    assert len({key(shard), *map(key, other)}) == 5 and key(shard) == keys({"name": "m"}, means, 100)(shard)
    changed = means | {(0, 0): means[0, 0] + 1}
    for common in (({"name": "n"}, means, 100), ({"name": "m"}, changed, 100), ({"name": "m"}, means, 101)):
        assert keys(*common)(shard) != key(shard)


@pytest.mark.parametrize("package", ["numpy", "tokenizers", "transformers"])
def test_kept_shards_are_of_the_versions_that_run(package, monkeypatch):
    key, there = keys("m")("shard"), importlib.metadata.version
    assert keys("m")("shard") == key
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9.9" if name == package else there(name))
    assert keys("m")("shard") != key


def test_without_ray_the_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("HEAD_ATLAS_RAY", "auto")
    monkeypatch.setitem(sys.modules, "ray", None)
    job = Job(list, lambda state, shard: [[]], [tables.EFFECTS.schema])
    with pytest.raises(UserError, match=r"^HEAD_ATLAS_RAY is set, but Ray is not installed: pip install ray$"):
        list(tables_of(job, [1], map(keys("none"), [1]), tmp_path))


def test_tables_come_in_the_order_of_shards_whatever_is_finished_first(tmp_path, monkeypatch):
    monkeypatch.setattr(
        kept, "_finished", lambda job, shards, *_: ((at, (0.5, [[{"n": shards[at]}]])) for at in (2, 0, 1))
    )
    job, done = Job(list, None, [pa.schema({"n": pa.int64()})]), []
    todo = [7, 8, 9]
    got = [table.to_pylist() for (table,) in tables_of(job, todo, map(keys("x"), todo), tmp_path, done=done.append)]
    assert got == [[{"n": 7}], [{"n": 8}], [{"n": 9}]] and done == [2, 0, 1]


def test_a_piece_is_cut_when_one_of_its_shards_is_asked_for():
    cut: list[int] = []
    sizes = [2, 0, 3]
    pieces = Pieces(lambda number: cut.append(number) or [f"{number}{at}" for at in range(sizes[number])], sizes)
    assert len(pieces) == 5 and not cut
    assert list(pieces) == ["00", "01", "20", "21", "22"] and cut == [0, 2]
    assert pieces[1] == "01" and pieces[0] == "00" and cut == [0, 2, 0]


@pytest.mark.parametrize("damage", ["flipped", "gone"])
@pytest.mark.parametrize("place", [0, 1])
def test_a_kept_shard_that_is_damaged_is_made_again(tmp_path, place, damage):
    schema, ran = pa.schema([("n", pa.int64())]), []

    def both(state, number):
        ran.append(number)
        return [pd.DataFrame({"n": [number]}), pd.DataFrame({"n": [-number]})]

    job = Job(lambda: None, both, [schema, schema], [])

    def run():
        return [
            [table.to_pylist() for table in made] for made in tables_of(job, [7, 8], map(keys("x"), [7, 8]), tmp_path)
        ]

    first = run()
    file = sorted(tmp_path.glob(f"*.{place}.parquet"))[0]
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.unlink() if damage == "gone" else file.write_bytes(content)
    assert run() == first == [[[{"n": 7}], [{"n": -7}]], [[{"n": 8}], [{"n": -8}]]]
    assert len(ran) == 3


PAIR = ("the cat sees a dog.", "the cat see a dog.")


def test_names_are_counted_as_they_are_scored_also_of_prompts_without_scored_tokens(loaded, means):
    """A tie of equal tokens is said of a pair; nothing of a text too short to be scored, or of what is looked at."""
    asked = {
        "blimp": [row(0, targets=PAIR), row(1, targets=PAIR[:1] * 2)],
        "text": [row(2, text=TEXTS[0]), row(3, text="a")],
        "treebank": [row(4, text=TEXTS[0], targets=(" red",))],
    }
    silent = silencing("1", "L0H0")
    todo = [shard for task, rows in asked.items() for shard in cut(task, rows, {r.id: [silent] for r in rows}, 9)]
    made = pd.concat([shards.run(loaded, means, shard, 100) for shard in todo])
    names = shards.names(loaded, todo)
    assert names == set(made[["intervention", "task", "prompt"]].itertuples(index=False, name=None))
    assert {(task, prompt[-1]) for _, task, prompt in names} == {("blimp", "0"), ("blimp", "1"), ("text", "2")}
