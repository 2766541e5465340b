"""Checkpoints that others trained: planted heads are located at the right step, other weights are refused, no hub."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import transformers as hf
import yaml
from test_planted import planted
from tokenizers import Tokenizer, models, pre_tokenizers

from stages import dynamics, prepare, train
from stages.families import outcomes
from stages.families.family import Tokens
from stages.page import recipes as page
from stages.recipes.families import Families
from stages.statistics import findings, onset
from stages.store import params, paths, tables
from stages.store.errors import UserError

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "stages/sources"
WORDS = [f"{a}{b}{a}" for a in "bdfgklmnpr" for b in "aeiou"]  # bab, beb ...: ordinary words of ASCII letters
STEPS = {0: "step0", 1: "step1", 8: "step8", 64: "step64", 512: "step512"}
PREVIOUS, INDUCTION = 8, 64  # the steps from which the planted heads are there


def vocabulary() -> hf.PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<unk>", "<bos>", *WORDS])}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return hf.PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<bos>")


def checkpoint(folder: Path, step: int) -> None:
    """Save a model: random and nearly silent, then with a previous-token head, then one that copies by induction."""
    tokenizer, positions = vocabulary(), 96
    model = planted(len(tokenizer), positions).model
    first, second = (block.attn for block in model.transformer.h)
    width = model.config.n_embd
    if step < PREVIOUS:
        first.c_attn.weight.zero_()
    if step < INDUCTION:
        second.c_attn.weight.zero_()
    else:  # what it looks at is what it predicts
        second.c_attn.weight[: len(tokenizer), 2 * width : 2 * width + len(tokenizer)] = torch.eye(len(tokenizer))
        second.c_proj.weight[: len(tokenizer), : len(tokenizer)] = torch.eye(len(tokenizer)) * 4
    noise = torch.Generator().manual_seed(step)
    for parameter in model.transformer.h.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=noise) * 1e-3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def recipe(**train) -> dict:
    """A recipe of `path` revisions; `one_off`, the control, never gets its heads."""
    base = {
        "arguments": {"tasks": ["text", "repeats", "treebank"]},
        "source": "path",
        "name": "run",
        "revisions": STEPS,
    }
    return {
        "task": "families",
        "reads": "data/prompts",
        "words": "data/prompts",
        "families": "stages/families",
        "train": base | train,
        "main": "standard",
        "arms": {"standard": {}, "one_off": {"revisions": {64: "step8", 512: "step8"}}},
        "study": {"sequences": 16, "window": "x4", "bootstrap": 200},
    }


def written(folder: Path, **train) -> params.Params:
    content = yaml.safe_load((ROOT / "params.quick.yaml").read_text())
    content["tasks"] = {task: content["tasks"][task] for task in ("text", "repeats", "treebank")}
    sizes = {"passages": 12, "tokens": 90, "short_passages": 12, "short_tokens": 32}
    content["tasks"]["text"] |= {"path": str(folder / "text.txt"), **sizes}
    content["tasks"]["repeats"] |= {"prompts": 16, "shortest": 10, "longest": 20}
    content["tasks"]["treebank"] |= {"path": str(SOURCES / "treebank/lexicon.yaml"), "sentences": 200}
    (folder / "params.yaml").write_text(yaml.safe_dump(content | {"recipes": {"steps": recipe(**train)}}))
    return params.load(folder / "params.yaml")


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEAD_ATLAS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def studied(tmp_path_factory) -> Path:
    """A folder with five revisions, found and measured by the stages themselves."""
    folder, before = tmp_path_factory.mktemp("revisions"), Path.cwd()
    text = [" ".join(np.random.default_rng(n).choice(WORDS, 60)) + "." for n in range(200)]
    (folder / "text.txt").write_text("\n\n".join(text))
    for step, name in STEPS.items():
        checkpoint(folder / "run" / name, step)
    written(folder)
    os.chdir(folder)
    try:
        for task in ("text", "repeats", "treebank"):
            prepare.main(task)
        train.main("steps")
        dynamics.main("steps")
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def here(studied, tmp_path, monkeypatch) -> Path:
    """A copy of the studied folder, as the current one."""
    shutil.copytree(studied, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return Path()


def results(folder: Path) -> dict[str, bytes]:
    found = [*(folder / "data/checkpoints").rglob("*"), *(folder / "reports").rglob("*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(found) if path.is_file()}


def best(folder: Path, measure: str, arm: str = "standard") -> pd.DataFrame:
    curve = pd.read_csv(folder / paths.study("steps") / "curve.csv")
    rows = curve[(curve.measure == measure) & (curve.arm == arm) & (curve.best == 1)]
    return rows.set_index("step")[["head", "value", "value_null"]]


def finding(folder: Path, kind: str, measure: str, arm: str = "standard") -> pd.Series:
    said = pd.read_csv(folder / paths.study("steps") / "findings.csv")
    rows = said[(said.finding == kind) & (said.measure == measure) & (said.arm == arm) & said.seed.isna()]
    return rows.iloc[0]


def test_planted_heads_appear_at_their_step_and_are_the_best(studied):
    for measure, head, at in (("previous", "L0H0", PREVIOUS), ("induction", "L1H0", INDUCTION)):
        rows = best(studied, measure)
        assert list(rows.index) == list(STEPS)
        assert (rows.loc[at:, "head"] == head).all() and rows.loc[at:, "value"].min() > 0.8
        assert rows.loc[: at - 1, "value"].max() < 0.3
    assert best(studied, "duplicate").value.max() < 0.3 and best(studied, "self").value.max() < 0.3


def test_onsets_lie_between_the_right_checkpoints_and_in_order(studied):
    for measure, low, high in (("previous", 1, PREVIOUS), ("induction", PREVIOUS, INDUCTION)):
        found = finding(studied, "onset", measure)
        assert low <= found.low <= found.value <= found.high <= high
        assert finding(studied, "rise", measure).low > 0.4
    assert finding(studied, "after", "induction").low > 0
    assert finding(studied, "rise beyond", "induction").low > 0.4  # the control got no induction head


def test_the_model_learns_in_context_when_the_induction_head_is_there(studied):
    gained = best(studied, "repeats_in_context").value
    assert gained.loc[INDUCTION:].max() < -1 and abs(gained.loc[: INDUCTION - 1]).max() < 0.5
    assert best(studied, "repeats_loss").value.loc[512] < best(studied, "repeats_loss").value.loc[8] - 1
    assert abs(best(studied, "in_context").value).max() < 1  # random words: nothing to learn from


def test_all_attentional_families_of_the_tasks_are_there_and_no_other(studied):
    curve = pd.read_csv(studied / paths.study("steps") / "curve.csv")
    attention = {"previous", "self", "local", "sink", "duplicate", "induction", "grammar"}  # streaming needs 256 tokens
    assert set(curve.measure[~curve.measure.str.contains("@")]) == attention | {
        "loss",
        "in_context",
        "repeats_loss",
        "repeats_in_context",
    }
    heads = curve[(curve.measure == "sink") & (curve.arm == "standard")].groupby("step")["head"].nunique()
    assert (heads == 4).all()
    rows = best(studied, "grammar")
    assert rows.value_null.nunique() == 1  # the offsets do not learn
    assert rows.loc[PREVIOUS:, "value"].min() > rows.loc[1, "value"]  # the previous-token head finds adjacent words
    measured = json.loads((studied / paths.study("steps") / "metrics.json").read_text())
    assert measured["seeds"] == 1 and measured["induction"] > 0.8 > measured["one_off_induction"]
    assert 8 <= measured["induction_onset"] <= 64


def test_train_keeps_hashes_and_no_weights(studied):
    found = results(studied)
    assert not [name for name in found if name.endswith("safetensors")]
    said = json.loads((studied / paths.revision("steps", "standard", 64)).read_text())
    assert said["step"] == 64 and said["revision"] == "step64" and said["kind"] == "decoder"
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(said["files"])
    assert found["reports/recipes/steps/learning.csv"] == b"arm,seed,step,loss\n"
    assert found["reports/recipes/steps/picture.csv"].count(b"\n") == 1


def test_two_runs_give_the_same_bytes(here, studied):
    shutil.rmtree("reports")
    shutil.rmtree("data/checkpoints")
    torch.set_num_threads(2)
    train.main("steps")
    dynamics.main("steps")
    assert results(Path()) == results(studied)


def test_other_weights_behind_the_same_record_are_refused(here):
    before = results(Path())
    checkpoint(Path("run/step64"), 8)
    with pytest.raises(UserError, match=r"train\.revisions\.64 of arm standard = 'step64': model\.safetensors differs"):
        dynamics.main("steps")
    shutil.rmtree("run/step64")
    with pytest.raises(UserError, match="no such subfolder of run; it has step0, step1, step512, step8"):
        dynamics.main("steps")
    assert results(Path()) == before


def test_choices_are_made_on_split_a_and_reported_on_b(here):
    task = train.create("steps", written(here).recipes["steps"], {"tasks": ["text", "repeats"]})
    held = task.held_out(np.random.default_rng(0), 8)
    assert all(asked.row.split == "ab"[int(asked.sequence) % 2] for asked in held)
    assert len({asked.sequence for asked in held}) == len({asked.row.id for asked in held}) == len(held) == 24


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"revisions": {0: "step0", 9: "step9"}}, r"revisions\.9 of arm standard = 'step9': no such subfolder of run"),
        ({"name": "nowhere"}, r"revisions\.0 of arm standard = 'step0': no such subfolder of nowhere; there is none"),
        (
            {"arguments": {"tasks": ["blimp"]}},
            r"arguments\.tasks = .*allowed: any of text, .*treebank, each once",
        ),
        ({"arguments": {"taks": ["text"]}}, r"recipes\.steps\.train\.arguments\.taks = .*; allowed: tasks"),
        ({"source": "hub"}, r"train\.revisions = .*step 0: 'step0' is no full commit; allowed: 40 hex digits"),
        ({"revision": "x"}, r"train\.revision = 'x': unknown key; allowed: arguments, name, revisions, source"),
    ],
)
def test_mistakes_are_one_line_that_names_the_key(here, changes, message):
    with pytest.raises(UserError, match=message) as caught:
        written(here, **changes)
        train.main("steps")
    assert "\n" not in str(caught.value)


def test_pickled_weights_and_unknown_prompts_say_what_to_do(here):
    Path("run/step8/model.safetensors").rename("run/step8/pytorch_model.bin")
    with pytest.raises(UserError, match=r"step8': no \*\.safetensors among its files; pickled weights are not read"):
        train.main("steps")
    tables.PROMPTS.path("text").unlink()
    with pytest.raises(UserError, match=r"text\.parquet: no such file; is tasks\.text in params\.yaml"):
        dynamics.main("steps")


def test_the_families_that_are_measured_are_those_that_params_name(here):
    content = yaml.safe_load(Path("params.yaml").read_text())
    content["recipes"]["steps"]["families"] = "stages/families/text"
    Path("params.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(
        UserError, match=r"recipes\.steps\.families = 'stages/families/text': allowed: stages/families,"
    ):
        dynamics.main("steps")


def test_a_task_that_trains_takes_no_revisions_and_the_other_way_round(here):
    content = yaml.safe_load(Path("params.yaml").read_text())
    content["recipes"]["steps"]["task"] = "induction"
    Path("params.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=r"task = 'induction': this lesson is trained from scratch"):
        train.main("steps")
    quick = yaml.safe_load((ROOT / "params.quick.yaml").read_text())
    quick["recipes"]["induction"]["task"] = "families"
    Path("params.yaml").write_text(yaml.safe_dump(quick))
    with pytest.raises(UserError, match=r"task = 'families': this lesson needs revisions"):
        train.main("induction")


def test_hub_revisions_go_through_snapshot_download(here, monkeypatch, tmp_path):
    commits = {0: "a" * 40, 64: "b" * 40}
    snapshots = tmp_path / "hub" / "models--org--tiny" / "snapshots"
    for step, commit in commits.items():
        shutil.copytree(f"run/{STEPS[step]}", snapshots / commit)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))  # checkpoints are measured in processes of their own
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    content = yaml.safe_load(Path("params.yaml").read_text())
    content["recipes"]["steps"] = recipe(source="hub", name="org/tiny", revisions=commits) | {"arms": {"standard": {}}}
    Path("params.yaml").write_text(yaml.safe_dump(content))
    train.main("steps")
    dynamics.main("steps")
    assert best(Path(), "induction").value.tolist() == pytest.approx([0.0, 1.0], abs=0.3)
    shutil.rmtree(snapshots / ("b" * 40))
    with pytest.raises(UserError, match=r"revisions\.64 of arm standard: org/tiny at b{40}: the hub did not give it"):
        dynamics.main("steps")


def test_on_a_logarithmic_axis_a_jump_is_located_by_its_factor():
    steps_C = np.array([0, *2 ** np.arange(0, 18)])
    for at in (16, 4096):
        curve_C = 1 / (1 + np.exp(-4 * np.log2((1 + steps_C) / at)))
        found = onset.locate(
            {"jump": curve_C[None, :, None]}, set(), steps_C, 0, 200, np.random.default_rng(0), factor=4.0
        )["jump"]
        assert at / 1.5 < found.onset_S[0] < at * 1.5 and found.rise_S[0] > 0.9


def test_a_measure_that_no_drawn_sequence_defines_has_no_onset():
    onset_1, rise_1, _ = onset.jump(np.array([np.nan, np.nan]), np.array([0, 100]), 10)
    assert np.isnan(onset_1) and np.isnan(rise_1)


def test_grammar_is_the_share_of_arcs_that_the_heads_chosen_on_split_a_find():
    hits = {  # sentence (even: split a), label: arcs, share that each head finds, share that the offset finds
        ("0", "det"): (10, (0.9, 0.1), 1.0),
        ("0", "obj"): (5, (0.2, 0.4), 1.0),
        ("1", "det"): (20, (0.5, 1.0), 1.0),
        ("1", "obj"): (10, (1.0, 0.8), 0.0),
        ("3", "only here"): (9, (1.0, 1.0), 1.0),
    }
    rows = [
        ("main", 0, 8, f"grammar@{label}", f"L0H{head}", sentence, share, offset, float(arcs))
        for (sentence, label), (arcs, shares, offset) in hits.items()
        for head, share in enumerate(shares)
    ]
    whole = findings.together(findings.best(pd.DataFrame(rows, columns=dynamics.RAW)))
    [row] = whole[whole.measure == "grammar"].itertuples()
    assert (row.sequence, row.weight) == ("1", 30)
    assert (row.value, row.value_null) == pytest.approx(((0.5 * 20 + 0.8 * 10) / 30, 20 / 30))


def test_outcomes_lie_with_the_families_of_their_task():
    lesson = Families(tasks=("text", "needle", "treebank"))
    assert lesson.outcome_names == ["loss", "in_context", "repeats_loss", "repeats_in_context", "recall"]
    assert lesson.falls == set(lesson.outcome_names) - {"recall"} and outcomes("treebank") is None
    logprob, top = -np.arange(8.0), np.arange(8) % 2 == 0
    assert outcomes("text").measures(logprob, top) == {"loss": 3.5, "in_context": 6.0}
    assert outcomes("repeats").measures(logprob, top) == {"repeats_loss": 6.5, "repeats_in_context": 6.0}
    assert outcomes("needle").measures(logprob, top) == {"recall": 0.5}
    assert outcomes("text").measures(logprob[:3], top[:3]) == {}  # no quarters
    ids, special = np.arange(12), np.arange(12) == 0
    long, short = (Tokens("0", role, ids, special) for role in ("long", "short"))
    assert outcomes("text").scored(long).tolist() == [2, 6, 10] and not len(outcomes("text").scored(short))
    assert outcomes("repeats").scored(long).tolist() == list(range(2, 12))


def test_labels_with_few_arcs_are_left_out():
    def sentence(arcs: int) -> Tokens:
        words = tuple(np.array([index]) for index in range(arcs + 1))
        pairs = {"grammar:det:dep-to-head": [(index + 1, index) for index in range(arcs)]}
        return Tokens("0", "", np.arange(arcs + 1), np.zeros(arcs + 1, dtype=bool), words=words, arcs=pairs)

    task = Families(tasks=("treebank",))
    for last, kept in ((10, True), (9, False)):
        found = task.relations([sentence(10), sentence(last)], ["treebank"] * 2)
        assert [set(one) for one in found] == [{"grammar:det:dep-to-head"} if kept else set()] * 2


def test_the_page_says_whose_checkpoints_they_are_and_draws_steps_logarithmically(studied):
    [section] = page.sections({Path(): params.load(studied / "params.yaml")}, studied)
    design = section.blocks[0].text
    assert "standard (`run`, path, 5 checkpoints, steps 0 to 512)" in design and "from scratch" not in design
    assert "function family" in design and "over prompts only" in design
    figures = [block for block in section.blocks if block.kind == "figure"]
    drawn = {chart.label: chart for figure in figures for chart in figure.charts}
    assert {"Induction score", "Grammar score", "In-context score on repeats"} <= set(drawn)
    assert "symlog" in json.dumps(drawn["Induction score"].spec.to_dict())
    assert "4-fold" in figures[-1].says and "exceeds that of one off" in drawn["Induction score"].note
    assert any("not claimed from one run" in block.text for block in section.blocks if block.kind == "note")
