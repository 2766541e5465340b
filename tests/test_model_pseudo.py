"""Pseudo-log-likelihoods equal a loop that masks one token and runs everything; an encoder's slot shows them."""

import json
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
import transformers as hf
import yaml

from stages import (
    ablate,
    answer,
    apply,
    circuit,
    classify,
    extract,
    fetch,
    gates,
    memory,
    neighbours,
    plan,
    prepare,
    sinks,
    steer,
    summarize,
    tasks,
    trace,
)
from stages.model.cost import Work
from stages.model.forward import forward
from stages.model.load import Loaded
from stages.model.pseudo import outcomes, score, work
from stages.model.tokens import encode
from stages.store import paths, tables
from stages.tasks.prompt import Prompt

ROOT = Path(__file__).parents[1]
SIZES = dict(tiny.SMALL, **tiny.IDS)
OTHERS = {
    "albert": lambda: hf.AlbertForMaskedLM(hf.AlbertConfig(**SIZES, embedding_size=16)),
    "deberta": lambda: hf.DebertaV2ForMaskedLM(hf.DebertaV2Config(**SIZES)),
    "distilbert": lambda: hf.DistilBertForMaskedLM(
        hf.DistilBertConfig(dim=32, n_heads=4, n_layers=3, hidden_dim=48, **tiny.IDS)
    ),
    "electra": lambda: hf.ElectraForMaskedLM(hf.ElectraConfig(**SIZES, embedding_size=16)),
    "roberta": lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**SIZES)),
    "xlm": lambda: hf.XLMWithLMHeadModel(hf.XLMConfig(emb_dim=32, n_heads=4, n_layers=3, **tiny.IDS)),
}


def pair(name: str, good: str, bad: str) -> SimpleNamespace:
    prompt = Prompt(id=f"blimp/g/{name}", condition="g", category="c", cluster=name, targets=(good, bad))
    return SimpleNamespace(**asdict(prompt))


PAIRS = [
    pair("0", " the cat sees a dog.", " the cat likes a dog."),
    pair("1", " the old house was big.", " old the house was red of the tree in a river."),
    pair("2", " a bird likes it.", " a bird likes it."),
    pair("3", " dog", " old dog"),
]


def naive(loaded: Loaded, tokens, words: list | None = None) -> np.ndarray:
    """Mask one token, run one sentence through everything, look up the token; [CLS] and [SEP] are no tokens of it.

    words: the word of each token; then the tokens that follow in the same word are masked as well.
    """
    found = []
    for place in range(1, len(tokens) - 1):
        ids = torch.from_numpy(tokens.ids)[None].clone()
        for other in range(place, len(tokens)):
            if other == place or (words and words[other] == words[place]):
                ids[0, other] = loaded.tokenizer.mask_token_id
        logits = loaded.model(input_ids=ids).logits
        assert logits.shape == (1, len(tokens), tiny.VOCABULARY)
        found.append(float(logits[0, place].double().log_softmax(0)[tokens.ids[place]]))
    return np.array(found)


@pytest.mark.parametrize("name", tiny.ENCODERS)
def test_scores_equal_a_loop_over_masked_tokens(name):
    loaded = tiny.make(name, scale=4.0)
    rows = {row.id: (row, measures) for row, measures in outcomes(loaded, PAIRS, 100)}
    assert len(rows) == len(PAIRS)
    for row, measures in rows.values():
        sentences = [encode(loaded, row, target) for target in (0, 1)]
        expected = [naive(loaded, tokens) for tokens in sentences]
        for one, values in zip(score(loaded, sentences, 100), expected, strict=True):
            np.testing.assert_allclose(one.logprob, values, atol=1e-5)
        margin = expected[0].sum() - expected[1].sum()
        assert measures["margin"] == pytest.approx(margin, abs=1e-4)
        assert measures["accuracy"] == (0.5 if row.id.endswith("2") else float(margin > 0))


@pytest.mark.parametrize("name", tiny.ENCODERS)
def test_within_a_word_what_follows_is_masked_too(name):
    """`jumps` is five letters to the tokenizer: each is predicted from those before it in the word, never after."""
    loaded = tiny.make(name, scale=4.0)
    split, whole = pair("4", " the cat jumps on a dog.", " the cat sees a dog."), pair("5", " the cat sees", " a dog")
    rows = {row.id: one for row, one in outcomes(loaded, [split, whole], 100, within_word=True)}
    original = {row.id: one for row, one in outcomes(loaded, [split, whole], 100)}
    sentences = [encode(loaded, split, target) for target in (0, 1)]
    words = [loaded.tokenizer(split.targets[target]).word_ids() for target in (0, 1)]
    assert len(set(words[0])) < len(words[0]) - 1
    expected = [naive(loaded, tokens, own).sum() for tokens, own in zip(sentences, words, strict=True)]
    assert rows[split.id]["margin"] == pytest.approx(expected[0] - expected[1], abs=1e-4)
    assert abs(rows[split.id]["margin"] - original[split.id]["margin"]) > 1e-3
    assert rows[whole.id]["margin"] == pytest.approx(original[whole.id]["margin"], abs=1e-4)  # no word in pieces


@pytest.mark.parametrize("name", tiny.ENCODERS)
def test_batches_of_any_size_give_the_same(name):
    loaded = tiny.make(name, scale=4.0)
    found = {size: dict((row.id, one) for row, one in outcomes(loaded, PAIRS, size)) for size in (1, 40, 10_000)}
    for row in PAIRS:
        for size in (1, 40):
            assert found[size][row.id] == pytest.approx(found[10_000][row.id], abs=1e-4)
    assert found[1]["blimp/g/2"] == found[10_000]["blimp/g/2"] == {
        "accuracy": 0.5, "margin": 0.0, "ties": 1.0, "equal_ids": 1.0, "unequal_length": 0.0
    }  # exactly # fmt: skip


def test_the_head_reads_one_row_per_copy_and_equal_copies_run_once():
    loaded, sizes, rows = tiny.make("bert"), [], {"transform": [], "decoder": []}
    loaded.model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    for name, module in (
        ("transform", loaded.model.cls.predictions.transform),
        ("decoder", loaded.model.cls.predictions.decoder),
    ):
        module.register_forward_pre_hook(lambda module, args, name=name: rows[name].append(args[0].shape[:2]))
    sentences = [encode(loaded, PAIRS[0], target) for target in (0, 1)]
    ordinary = [len(tokens) - 2 for tokens in sentences]
    assert ordinary == [6, 6] and work(loaded, PAIRS[:1]) == Work(2 * 6 * 8, 2 * 6)
    score(loaded, sentences, 30)
    assert rows["transform"] == rows["decoder"] == [(1, 3)] * 3 + [(1, 2)]  # 11 copies: the verb's is shared
    assert max(sizes) <= 30 and sum(sizes) == 11 * 8


@pytest.mark.parametrize("name", OTHERS)
def test_any_architecture_s_head_reads_the_asked_rows_only(name):
    torch.manual_seed(0)
    model = OTHERS[name]().eval().requires_grad_(False)
    loaded = Loaded(model, tiny.tokenizer("masked"), None, "masked")
    ids = [np.arange(4, 16), np.arange(20, 27)]
    logits = forward(loaded, ids, [np.array([3, 7]), np.array([5])])
    assert logits.shape == (3, tiny.VOCABULARY)
    for row, (prompt, place) in enumerate([(0, 3), (0, 7), (1, 5)]):
        whole = model(input_ids=torch.from_numpy(ids[prompt])[None]).logits
        torch.testing.assert_close(logits[row], whole[0, place], atol=1e-5, rtol=1e-5)


def test_a_model_without_a_head_or_mask_token_is_refused():
    loaded = tiny.make("bert")
    with pytest.raises(ValueError, match="GPT2LMHeadModel: no masked-language-model head"):
        score(tiny.make("gpt2"), [encode(loaded, PAIRS[0])], 100)
    loaded.tokenizer.mask_token = None
    with pytest.raises(ValueError, match="or no mask token"):
        score(loaded, [encode(loaded, PAIRS[0])], 100)


@pytest.fixture
def slot(tmp_path, monkeypatch):
    """A function that runs a slot of a saved tiny encoder through all stages but the page, in a folder of its own."""

    def stages(folder: Path, tasks: tuple[str, ...] = ("repeats", "blimp")) -> Path:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HEAD_ATLAS_CACHE", str(tmp_path / "cache"))
        content = yaml.safe_load((ROOT / "params.quick.yaml").read_text())
        content["models"] = {"encoder": {"source": "path", "name": str(folder)}}
        content["tasks"] = {task: content["tasks"][task] for task in tasks}
        for task in content["tasks"].values():
            task["path"] = str(ROOT / task["path"])
        paths.PARAMS.write_text(yaml.safe_dump(content))
        fetch.main("encoder")
        for task in tasks:
            prepare.main(task)
            extract.main("encoder", task)
        tables.NGRAM.write_empty(why="not counted")
        for stage in (
            trace,
            classify,
            plan,
            ablate,
            steer,
            apply,
            answer,
            circuit,
            neighbours,
            gates,
            sinks,
            memory,
            summarize,
        ):
            stage.main("encoder")
        return paths.report("encoder")

    return stages


def test_a_masked_slot_is_scored_intact_and_says_what_is_not_measured(slot, tmp_path):
    report = slot(tiny.save("bert", tmp_path / "model"))
    raw = tables.EFFECTS.read("encoder")
    pairs = tables.ASKED.read("blimp")
    assert len(raw) == 5 * len(pairs) == 5 * 67 and set(raw.measure) == {
        *tasks.of("blimp").beside,
        "accuracy",
        "margin",
    }
    assert set(raw.intervention) == {"none"} and (raw.value == raw.intact).all()
    effects = pd.read_csv(report / "effects.csv")
    whole = effects[(effects.condition == "all") & (effects.measure == "accuracy")]
    accuracy = raw[raw.measure == "accuracy"].value.mean()
    assert whole.value.tolist() == pytest.approx([accuracy], abs=1e-4) and whole.trials.tolist() == [67]
    assert set(effects.condition) == {"all", *pairs.category}
    assert json.loads((report / "metrics.json").read_text())["blimp"] == {
        "accuracy": pytest.approx(accuracy, abs=1e-5),
        "trials": 67,
    }
    missing = json.loads((report / "model.json").read_text())["not_measured"]
    assert missing["ablation"].startswith("an encoder is scored intact only") and "steering" in missing


@pytest.mark.parametrize(("broken", "why"), [("head", "no language-model head"), ("mask", "no mask token")])
def test_an_encoder_that_cannot_be_scored_says_why(slot, tmp_path, broken, why):
    loaded, folder = tiny.make("bert"), tmp_path / "model"
    (loaded.model.bert if broken == "head" else loaded.model).save_pretrained(folder)
    if broken == "mask":
        loaded.tokenizer.mask_token = None
    loaded.tokenizer.save_pretrained(folder)
    report = slot(folder)
    assert why in json.loads((report / "model.json").read_text())["not_measured"]["ablation"]
    assert tables.EFFECTS.read("encoder").empty
    assert "blimp" not in json.loads((report / "metrics.json").read_text())
