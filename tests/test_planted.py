"""Planted truth: a transformer built by hand, whose heads are known, is read correctly; a random one has no members."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import tiny
import torch
import transformers as hf
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from stages import extract
from stages.classify import Measured, _by_head
from stages.families import FAMILIES
from stages.families.family import Tokens
from stages.families.offset import best_offset, offset_accuracy
from stages.model.anatomy import contribution, find
from stages.model.load import Loaded
from stages.model.measure import measure
from stages.model.score import Scored
from stages.model.tokens import encode, encode_all
from stages.statistics.verdict import judge
from stages.tasks.icl import prompts as icl
from stages.tasks.icl.settings import Settings as Icl
from stages.tasks.iteration import prompts as iteration
from stages.tasks.iteration.settings import Settings as Iteration
from stages.tasks.needle import prompts as needle
from stages.tasks.needle.settings import Settings as Needle
from stages.tasks.prompt import Prompt
from stages.trace import indirect

TOKENS, POSITIONS, HEADS = 40, 64, 2
SOURCES = Path(__file__).parents[1] / "stages/sources"
SETTINGS = SimpleNamespace(resamples=10_000, alpha=0.05, margin=0.05, thresholds={})
WATCHED = ["previous", "self", "sink", "duplicate", "induction"]


def planted(tokens: int = TOKENS, positions: int = POSITIONS) -> Loaded:
    """GPT-2 without MLPs: L0H0 reads the previous position and writes its token; L1H0 matches it with the current."""
    width = tokens + positions + tokens  # one-hot token, one-hot position, one-hot previous token
    config = hf.GPT2Config(
        vocab_size=tokens, n_positions=positions, n_embd=width, n_head=HEADS, n_layer=2, attn_pdrop=0, resid_pdrop=0
    )
    config._attn_implementation = "eager"
    model = hf.GPT2LMHeadModel(config).eval().requires_grad_(False)
    for parameter in model.transformer.h.parameters():
        parameter.zero_()
    for block in model.transformer.h:
        block.ln_1.weight.fill_(1.0)
    model.transformer.wte.weight.zero_()[:, :tokens] = torch.eye(tokens)
    model.transformer.wpe.weight.zero_()[:, tokens : tokens + positions] = torch.eye(positions)
    first, second = (block.attn for block in model.transformer.h)
    token, position, previous = 0, tokens, tokens + positions
    for at in range(1, positions):
        first.c_attn.weight[position + at, at - 1] = 8.0  # query of position t asks for t - 1
    first.c_attn.weight[position : position + positions, width : width + positions] = torch.eye(positions)
    first.c_attn.weight[token : token + tokens, 2 * width : 2 * width + tokens] = torch.eye(tokens)
    first.c_proj.weight[:tokens, previous : previous + tokens] = torch.eye(tokens) * 0.2
    second.c_attn.weight[token : token + tokens, :tokens] = torch.eye(tokens) * 8.0  # asks: who follows my token?
    second.c_attn.weight[previous : previous + tokens, width : width + tokens] = torch.eye(tokens)
    return Loaded(model, tiny.tokenizer(), find(model), "decoder")


def prompts(vocabulary: int, count: int = 24) -> dict[str, list[Tokens]]:
    """Random text, long and short, and random repeats of varied period."""
    rng = np.random.default_rng(0)
    special = np.zeros(60, dtype=bool)
    text = [Tokens(f"l{i}", "long", rng.integers(4, vocabulary, 60), special) for i in range(count)]
    text += [Tokens(f"s{i}", "short", rng.integers(4, vocabulary, 60), special) for i in range(count)]
    periods = rng.integers(12, 24, count)
    repeats = [
        Tokens(f"r{i}", "test", np.tile(4 + rng.permutation(vocabulary - 4)[:p], 2), np.zeros(2 * p, dtype=bool))
        for i, p in enumerate(periods)
    ]
    return {"text": text, "repeats": repeats}


def members(loaded: Loaded, vocabulary: int) -> dict[str, set[tuple[int, int]]]:
    """Members per family, by the pipeline's own relation, measurement and verdict."""
    found = {}
    for name in WATCHED:
        family, rows = FAMILIES[name], []
        for index, tokens in enumerate(prompts(vocabulary)[family.task]):
            relation = family.relation(tokens)
            if relation is not None:
                means = measure(loaded, [tokens], [{name: relation}]).means[0][name].values
                same = {"prompt": tokens.prompt, "cluster": tokens.prompt, "split": "ab"[index % 2], "baseline": 0.2}
                rows.append(per_head(loaded, same, means["mass"], means["mass_null"]))
        found[name] = judged(loaded, name, pd.concat(rows))
    return found


def per_head(loaded: Loaded, same: dict, value: np.ndarray, null: np.ndarray) -> pd.DataFrame:
    layer, head = np.array(loaded.anatomy.heads).T
    return pd.DataFrame(
        same | {"layer": layer, "head": head, "value": value[layer, head], "value_null": null[layer, head]}
    )


def judged(loaded: Loaded, name: str, values: pd.DataFrame) -> set[tuple[int, int]]:
    heads = pd.DataFrame(loaded.anatomy.heads, columns=["layer", "head"])
    prompts = values.drop_duplicates("prompt").sort_values("prompt", ignore_index=True)
    measured = Measured(prompts, *_by_head([values], prompts[["prompt"]], heads, ["value", "value_null"]))
    columns = judge(FAMILIES[name], *measured.arrays, SETTINGS, np.random.default_rng(0))
    return {head for head, member in zip(loaded.anatomy.heads, columns["member"], strict=True) if member}


def test_the_planted_heads_are_found_and_no_other():
    assert members(planted(), TOKENS) == {
        "previous": {(0, 0)},
        "self": set(),
        "sink": set(),
        "duplicate": set(),
        "induction": {(1, 0)},
    }


def test_without_the_previous_token_head_there_is_no_induction_head():
    loaded = planted()
    loaded.model.transformer.h[0].attn.c_proj.weight.zero_()
    found = members(loaded, TOKENS)
    assert found["previous"] == {(0, 0)} and found["induction"] == set()


@pytest.mark.parametrize("name", ["gpt2", "llama_gqa", "gemma3"])
def test_a_random_model_has_no_members(name):
    assert members(tiny.make(name), tiny.VOCABULARY) == {name: set() for name in WATCHED}


def rows(made: list[Prompt]) -> list[SimpleNamespace]:
    return [SimpleNamespace(**asdict(prompt)) for prompt in made]


def whole_words(texts: list[str]) -> hf.PreTrainedTokenizerFast:
    """A tokenizer of whole words: an answer's tokens differ from each other, as the relation asks for."""
    core = Tokenizer(models.WordLevel(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=["<unk>", "<bos>"]))
    return hf.PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<bos>")


NEEDLES = rows(
    needle.build(
        Needle(path=str(SOURCES / "english"), lengths=(50,), depths=(0.1, 0.3, 0.5, 0.7, 0.8, 0.9), trials=2), 0
    )
)
WORDS = whole_words([row.text + row.targets[0] for row in NEEDLES])


def retrieving(loaded: Loaded) -> set[tuple[int, int]]:
    """Members of retrieval on real needle prompts, all trials: a model without a trained head answers none in full."""
    encoded = encode_all(loaded, NEEDLES)
    relations = [FAMILIES["retrieval"].relation(tokens) for tokens in encoded]
    offset, values = best_offset(relations), []
    for row, tokens, relation in zip(NEEDLES, encoded, relations, strict=True):
        means = measure(loaded, [tokens], [{"retrieval": relation}]).means[0]["retrieval"].values
        same = {"prompt": row.id, "cluster": row.cluster, "split": row.split}
        same["baseline"] = offset_accuracy(relation, offset)
        values.append(per_head(loaded, same, means["hits"], means["mass_null"]))
    return judged(loaded, "retrieval", pd.concat(values))


def test_a_planted_induction_head_retrieves_needles_and_no_other_head_does():
    """After a word of the answer it looks at what followed that word before: the next one, in the needle."""
    loaded = planted(len(WORDS), 96)
    assert retrieving(Loaded(loaded.model, WORDS, loaded.anatomy, "decoder")) == {(1, 0)}


@pytest.mark.parametrize("name", ["gpt2", "llama_gqa", "gemma3"])
def test_a_random_model_has_no_retrieval_heads(name, monkeypatch):
    monkeypatch.setitem(tiny.IDS, "vocab_size", len(WORDS))
    loaded = tiny.make(name, scale=4.0)
    assert retrieving(Loaded(loaded.model, WORDS, loaded.anatomy, "decoder")) == set()


FUNCTIONS = rows(
    icl.build(
        Icl(
            path=str(SOURCES / "words/functions.yaml"),
            functions=("country-capital", "capitalize"),
            shots=5,
            sets=8,
            queries=1,
            template="Q: {x}\nA: {y}\n\n",
        ),
        0,
    )
)


def clean_sums(loaded: Loaded) -> tuple[int, extract._Sums]:
    """Shards of all clean prompts of split a, and sums at their last tokens; of all: a random model solves none."""
    clean = [row for row in FUNCTIONS if row.role == "clean" and row.split == "a"]
    shards = extract._shards(clean, encode_all(loaded, clean), "icl", 2048)
    sums = extract._Sums()
    with patch.object(Scored, "solved", True):
        for shard in shards:
            sums.add(pa.Table.from_pylist(extract._extracted(loaded, shard, "icl", {})[2], extract.SUMS))
    return len(shards), sums


def clean_means(loaded: Loaded) -> dict[str, dict[tuple[int, int], torch.Tensor]]:
    """Mean last-token outputs per function, over one half of split a."""
    sums = clean_sums(loaded)[1]
    rows = {
        group.condition: extract._output_rows(loaded, group, sums.means(group, "output"))
        for group, what in sums.sums if what == "output" and group.half == "0"
    }  # fmt: skip
    return {
        name: {(row["layer"], row["head"]): torch.from_numpy(row["output"]).float() for row in of_function}
        for name, of_function in rows.items()
    }


@pytest.mark.parametrize("name", ["llama_gqa", "gemma3"])
def test_sets_of_demonstrations_that_run_together_are_those_that_run_apart(name, monkeypatch):
    loaded = tiny.make(name, scale=3.0)
    few, together = clean_sums(loaded)
    monkeypatch.setattr(extract, "RUN", 1)
    many, apart = clean_sums(loaded)
    assert many == len({row.cluster for row in FUNCTIONS if row.role == "clean" and row.split == "a"}) > few
    assert set(apart.sums) == set(together.sums) and {what for _, what in apart.sums} == {"output", "residual"}
    for group, what in apart.sums:
        for layer, (count, mean) in apart.means(group, what).items():
            as_many, same = together.means(group, what)[layer]
            assert count == as_many
            np.testing.assert_allclose(same, mean, atol=1e-5)


def acting(loaded: Loaded, means: Mapping[str, Mapping[tuple[int, int], torch.Tensor]]) -> set[tuple[int, int]]:
    """Members of function by the exact indirect effects on shuffled prompts."""
    shuffled = [row for row in FUNCTIONS if row.role == "shuffled"]
    pairs = [(row, encode(loaded, row)) for row in shuffled]
    effects = indirect(loaded, pairs, [means[row.condition] for row in shuffled])
    return judged(loaded, "function", effects.assign(value=effects.effect, value_null=0.0, baseline=np.nan))


@pytest.mark.parametrize("name", ["gpt2", "llama_gqa", "gemma3"])
def test_a_random_model_has_no_function_heads(name):
    loaded = tiny.make(name, scale=8.0)  # a head changes the probability by a share of itself
    assert acting(loaded, clean_means(loaded)) == set()


@pytest.mark.parametrize("name", ["gpt2", "llama_gqa"])
def test_a_head_that_writes_the_answers_first_token_is_a_function_head(name, monkeypatch):
    # here every answer begins with the same blank
    monkeypatch.setattr("stages.model.tokens.first_answering", lambda *given: 0)
    loaded, planted_head = tiny.make(name, scale=8.0), (2, 1)
    means = clean_means(loaded)
    encoded = encode_all(loaded, FUNCTIONS)
    ((answer, _),) = Counter(int(tokens.ids[tokens.target[0]]) for tokens in encoded).most_common(1)
    part = loaded.anatomy.layers[2]
    columns = torch.eye(part.head_size)
    written_KD = torch.stack([contribution(loaded.model, part, 1, column) for column in columns])
    toward = written_KD @ loaded.model.get_output_embeddings().weight[answer]
    for mine in means.values():
        mine[planted_head] = 1000 * toward / toward.norm()
    assert acting(loaded, means) == {planted_head}


STRINGS = rows(
    iteration.build(
        Iteration(path="stages/tasks/iteration/prompts.py", prompts=20, examples=3, shortest=3, longest=8), 0
    )
)
LONGEST = 128  # positions


def letters() -> hf.PreTrainedTokenizerFast:
    """A tokenizer of letters with their spaces, ' :' and the end of a line."""
    core = Tokenizer(models.WordLevel(unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r" .|\n"), "isolated")
    texts = [row.text + row.targets[0] for row in STRINGS]
    core.train_from_iterator(texts, trainers.WordLevelTrainer(special_tokens=["<unk>", "<bos>"]))
    return hf.PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<bos>")


def stepper() -> Loaded:
    """GPT-2 without MLPs that steps through the last line, whatever its length: the circuit of Cabannes+ 2024.

    L0H0 looks at the last ':', L0H1 at the last end of a line, and each writes where that is. Position q of the tape
    then knows the place k = q - colon + end + 1 of its next input, and L1H0 scores keys by 2 k k' - k'^2, which is
    largest at k' = k and needs k only linearly. L1H1 looks everywhere.
    """
    tokenizer = letters()
    tokens = len(tokenizer)
    width = tokens + 3 * LONGEST  # one-hot token, position, position of ':', position of the end of the line
    config = hf.GPT2Config(
        vocab_size=tokens, n_positions=LONGEST, n_embd=width, n_head=HEADS, n_layer=2, attn_pdrop=0, resid_pdrop=0
    )
    config._attn_implementation = "eager"
    model = hf.GPT2LMHeadModel(config).eval().requires_grad_(False)
    for parameter in model.transformer.h.parameters():
        parameter.zero_()
    own, colon, end = (slice(tokens + i * LONGEST, tokens + (i + 1) * LONGEST) for i in range(3))
    model.transformer.wte.weight.zero_()[:, :tokens] = torch.eye(tokens)
    model.transformer.wpe.weight.zero_()[:, own] = torch.eye(LONGEST)
    gains = []
    for hot, block in zip((2, 4), model.transformer.h, strict=True):  # how much LayerNorm widens so many ones
        block.ln_1.weight.fill_(1.0)
        share = hot / width
        gains.append(1 / np.sqrt(share * (1 - share)))
    place = torch.arange(LONGEST) - (LONGEST - 1) / 2  # its mean is 0, so that LayerNorm's shift does not move it
    first, second = (block.attn for block in model.transformer.h)
    size = width // HEADS
    for head, mark, written in ((0, " :", colon), (1, "\n", end)):
        at = head * size
        first.c_attn.bias[at] = np.sqrt(size)  # every query asks the same: the mark, the later the better
        first.c_attn.weight[tokenizer.convert_tokens_to_ids(mark), width + at] = 400.0
        first.c_attn.weight[own, width + at] = 2.0 * place
        kept = min(size, LONGEST)
        first.c_attn.weight[own, 2 * width + at : 2 * width + at + kept] = torch.eye(LONGEST)[:, :kept]
        first.c_proj.weight[at : at + kept, written] = torch.eye(LONGEST)[:kept] / gains[0]
        first.c_proj.bias[written] = 2 / width
    for part, sign in ((own, 1.0), (colon, -1.0), (end, 1.0)):
        second.c_attn.weight[part, 0] = 2.0 * sign * place
    second.c_attn.bias[0] = 2.0 * gains[1]  # the input begins one after the end of the line
    second.c_attn.bias[1] = -gains[1]
    second.c_attn.weight[own, width] = place
    second.c_attn.weight[own, width + 1] = place**2
    return Loaded(model, tokenizer, find(model), "decoder")


def stepping(loaded: Loaded) -> dict[str, set[tuple[int, int]]]:
    """Members of the families of the iteration task."""
    encoded, found = encode_all(loaded, STRINGS), {}
    families = {name: family for name, family in FAMILIES.items() if family.task == "iteration"}
    relations = [{n: r for n, f in families.items() if (r := f.relation(tokens)) is not None} for tokens in encoded]
    measured = measure(loaded, encoded, relations).means
    for name in families:
        having = [at for at, mine in enumerate(relations) if name in mine]
        offset, values = best_offset(relations[at][name] for at in having), []
        for at in having:
            row, means = STRINGS[at], measured[at][name].values
            same = {"prompt": row.id, "cluster": row.cluster, "split": row.split}
            same["baseline"] = offset_accuracy(relations[at][name], offset)
            values.append(per_head(loaded, same, means["over_half"], means["over_half_null"]))
        found[name] = judged(loaded, name, pd.concat(values))
    return found


def test_a_planted_stepper_is_found_in_every_function_and_so_is_its_separator_head():
    functions = {f"iteration:{function}": {(1, 0)} for function in ("copy", "parity", "polynomial")}
    assert stepping(stepper()) == functions | {"separator": {(0, 0)}}


def test_without_the_separator_head_nothing_steps():
    loaded = stepper()
    loaded.model.transformer.h[0].attn.c_proj.weight[: loaded.model.config.n_embd // HEADS].zero_()
    assert not any(found for name, found in stepping(loaded).items() if name != "separator")


@pytest.mark.parametrize("name", ["gpt2", "llama_gqa", "gemma3"])
def test_a_random_model_does_not_step(name, monkeypatch):
    tokenizer = letters()
    monkeypatch.setitem(tiny.IDS, "vocab_size", len(tokenizer))
    loaded = tiny.make(name, scale=4.0)
    found = stepping(Loaded(loaded.model, tokenizer, loaded.anatomy, "decoder"))
    assert len(found) == 4 and not any(found.values())
