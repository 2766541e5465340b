"""Comparison: what two commits' tables say, and no more, from a made-up repository whose differences are known."""

import json
import os
import re
import subprocess
import sys
from html import unescape
from pathlib import Path

import pandas as pd
import pytest
import yaml

from stages import compare as stage
from stages.families import FAMILIES
from stages.page import compare, compare_effects, compare_heads, compare_runs
from stages.page.inputs import COLUMNS
from stages.store.errors import UserError

ROOT = Path(__file__).parents[1]
SCORES = {  # family -> head -> (score, low, high, member)
    "previous": {(0, 0): (0.5, 0.45, 0.55, 1), (0, 1): (0.1, 0.05, 0.15, 0), (1, 0): (0.2, 0.1, 0.3, 0),
                 (1, 1): (0.41, 0.35, 0.47, 1)},
    "induction": {(0, 0): (0.0, 0.0, 0.01, 0), (0, 1): (0.02, 0.0, 0.04, 0), (1, 0): (0.7, 0.6, 0.8, 1),
                  (1, 1): (0.3, 0.2, 0.4, 0)},
}  # fmt: skip
MODEL = {
    "slot": "decoder", "name": "toy", "origin": "made up", "revision": "1", "dtype": "float32", "kind": "decoder",
    "files": {"model.safetensors": "aa", "tokenizer.json": "tt"}, "layers": 2, "stored": "",
    "attention": [{"layer": layer, "heads": 2, "kv_heads": 2, "head_size": 4, "window": None} for layer in range(2)],
}  # fmt: skip
CONTROLS = 19


def table(name: str, rows: list[dict]) -> str:
    return pd.DataFrame(rows, columns=COLUMNS[name].split()).to_csv(index=False, lineterminator="\n")


def heads(scores: dict) -> str:
    return table("heads", [
        {"layer": layer, "head": head, "family": family, "score": score, "low": low, "high": high, "score_null": 0.01,
         "q": 0.001, "member": member, "prompts": 20}
        for family, cells in scores.items() for (layer, head), (score, low, high, member) in cells.items()
    ])  # fmt: skip


def effects(accuracy: tuple = (0.8, 0.7, 0.9), loss: float = 2.0, change: float = -0.5, p: float = 0.05) -> str:
    row = {"condition": "all", "trials": 40, "clusters": 40}
    whole = [
        row | {"purpose": "none", "task": "icl", "measure": "accuracy",
               **dict(zip(("value", "low", "high"), accuracy, strict=True))},
        row | {"purpose": "none", "task": "repeats", "measure": "loss", "value": loss, "low": loss - 1,
               "high": loss + 1},
    ]  # fmt: skip
    family = row | {
        "purpose": "family", "family": "induction", "k": 1, "kind": "mean", "draw": 0, "heads": "L1H0", "members": 1,
        "task": "icl", "measure": "accuracy", "value": 0.8 + change, "intact": 0.8, "change": change,
        "low": change - 0.1, "high": change + 0.1, "controls": CONTROLS, "control_change": 0.0, "p": p,
        "p_floor": 0.05, "q": p, "matching": "",
    }  # fmt: skip
    sets = [family | {"purpose": "control", "draw": draw, "heads": "L0H1", "change": 0.0, "controls": "", "p": "",
                      "q": "", "p_floor": ""} for draw in range(CONTROLS)]  # fmt: skip
    return table("effects", [*whole, family, *sets])


def steering(accuracy: float) -> str:
    row = {"function": "all", "layer": -1, "context": "zero_shot", "trials": 40, "clusters": 40, "heads": 4}
    return table("steering", [
        row | {"vector": "none", "accuracy": 0.0, "low": 0.0, "high": 0.1},
        row | {"vector": "heads", "accuracy": accuracy, "low": accuracy - 0.1, "high": accuracy + 0.1, "p": 0.05},
    ])  # fmt: skip


def files(
    scores: dict = SCORES, slot: str = "decoder", seed: int = 17, prompts: str = "one", **other
) -> dict[str, str]:
    """Return path -> text of everything that a comparison reads of a commit."""
    model = MODEL | {"slot": slot} | other.pop("model", {})
    folder = f"reports/slots/{slot}"
    lock = {"stages": {
        **{f"prepare@{task}": {"params": {"params.yaml": {"seed": seed, f"tasks.{task}": {"prompts": 20}}},
                               "deps": [{"path": "stages/prepare.py", "md5": "c"}],
                               "outs": [{"path": f"data/prompts/{task}.parquet", "md5": f"{prompts}-{task}"}]}
           for task in ("text", "repeats", "icl")},
        f"classify@{slot}": {"params": {"params.yaml": {"seed": seed, "classify": {"alpha": 0.05}}},
                             "deps": [{"path": "stages/statistics", "md5": other.pop("code", "s")}], "outs": []},
    }}  # fmt: skip
    return {
        f"{folder}/heads.csv": heads(scores),
        f"{folder}/effects.csv": effects(**other.pop("effects", {})),
        f"{folder}/steering.csv": steering(other.pop("steering", 0.5)),
        f"{folder}/model.json": json.dumps(model),
        f"{folder}/metrics.json": json.dumps({"icl": {"accuracy": other.pop("metric", 0.8)}}),
        "dvc.lock": yaml.safe_dump(lock),
        "params.yaml": yaml.safe_dump({"seed": seed}),
    }


def git(folder: Path, *arguments: str) -> None:
    env = os.environ | {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a",
                        "GIT_COMMITTER_EMAIL": "a@b", "GIT_CONFIG_GLOBAL": os.devnull}  # fmt: skip
    subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, env=env)


def commit(folder: Path, branch: str, contents: dict[str, str]) -> None:
    """Make a branch whose only commit on top of nothing holds these files."""
    if not (folder / ".git").exists():
        git(folder, "init", "-q", "-b", "start")
    git(folder, "checkout", "-q", "--orphan", branch)
    git(folder, "rm", "-rfq", "--ignore-unmatch", ".")
    for path, text in contents.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", branch)


def read(folder: Path, first: str = "one", second: str = "two") -> tuple:
    (pair,) = compare_runs.pairs(first, second, folder)
    return pair


def said(html: str) -> str:
    """Return the visible text of a page, on one line."""
    body = html[html.index("<body>") : html.index('<script type="application/json"')]
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", re.sub(r"</?code>", "", body))).split())


def moved() -> dict:
    """The same scores, but for one member of `previous` lost and one gained."""
    return SCORES | {"previous": SCORES["previous"] | {
        (1, 1): (0.39, 0.33, 0.45, 0), (0, 1): (0.6, 0.5, 0.7, 1),
    }}  # fmt: skip


def test_members_gained_and_lost_are_those_of_the_tables(tmp_path):
    commit(tmp_path, "one", files())
    commit(tmp_path, "two", files(moved()))
    a, b = read(tmp_path)
    rows = compare_heads.paired(a, b, "previous").set_index(["layer", "head"])
    assert dict(rows["turned"]) == {(0, 0): "", (0, 1): "gained", (1, 0): "", (1, 1): "lost"}
    assert rows["difference"].round(6).to_dict() == {(0, 0): 0, (0, 1): 0.5, (1, 0): 0, (1, 1): -0.02}
    text = said(compare.page([(a, b)], FAMILIES))
    assert "two gains L0H1 (0.100 [0.050, 0.150] to 0.600 [0.500, 0.700])." in text
    assert "two loses L1H1 (0.410 [0.350, 0.470] to 0.390 [0.330, 0.450], intervals overlap)." in text
    assert "Scores differ in 2 of 4 heads, most in L0H1 (+0.500)." in text
    assert "equal in every head, to the last decimal kept: induction." in text


def test_maps_have_one_scale_and_the_difference_its_values(tmp_path):
    commit(tmp_path, "one", files())
    commit(tmp_path, "two", files(moved()))
    a, b = read(tmp_path)
    figure = compare_heads.maps(a, b, compare_heads.paired(a, b, "previous"), FAMILIES["previous"], "previous")
    specs = [chart.spec.to_dict() for chart in figure.charts]
    scales = [spec["layer"][0]["encoding"]["color"]["scale"]["domain"] for spec in specs]
    assert scales == [[0, 1.0], [0, 1.0], [-0.5, 0, 0.5]]
    cells = next(iter(specs[2]["datasets"].values()))
    assert {cell["name"]: round(cell["difference"], 6) for cell in cells} == {"L0H0": 0, "L0H1": 0.5, "L1H0": 0,
                                                                              "L1H1": -0.02}  # fmt: skip


def test_the_same_model_on_the_same_prompts_should_be_equal(tmp_path):
    commit(tmp_path, "one", files())
    commit(tmp_path, "two", files())
    commit(tmp_path, "three", files(moved(), code="other"))
    text = said(compare.page([read(tmp_path)], FAMILIES))
    assert "Both read the same model" in text and "The prompts of all 3 tasks are the same files." in text
    assert "No param differs." in text and "Stages that both ran have the same code." in text
    assert "should be equal, and all 8 are." in text and "All 1 numbers of both files metrics.json are equal." in text
    text = said(compare.page([read(tmp_path, "one", "three")], FAMILIES))
    assert "should be equal: 6 of 8 are; the largest difference is 0.50000." in text
    assert "The code of these stages differs: classify." in text


def test_other_prompts_are_no_same_measurement(tmp_path):
    commit(tmp_path, "one", files())
    commit(tmp_path, "two", files(moved(), seed=18, prompts="two"))
    text = said(compare.page([read(tmp_path)], FAMILIES))
    assert "The files of prompts differ for text, icl and repeats" in text and "is not the same measurement" in text
    assert "The seed is 17 and 18." in text and "1 param has another value: seed." in text
    assert "should be equal" not in text


def test_models_of_other_shapes_are_compared_by_depth(tmp_path):
    wide = {"previous": {(layer, 0): (0.1 * (layer + 1), 0.0, 1.0, int(layer == 4)) for layer in range(5)}}
    attention = [MODEL["attention"][0] | {"layer": layer} for layer in range(5)]
    model = {"name": "other", "files": {"model.safetensors": "bb"}, "layers": 5, "attention": attention}
    commit(tmp_path, "one", files())
    commit(tmp_path, "two", files(wide, model=model))
    a, b = read(tmp_path)
    assert not compare_runs.same_shape(a, b) and not compare_runs.same_tokens(a, b)
    assert compare_heads.depths(b, "previous")["depth"].to_list() == [0, 0.25, 0.5, 0.75, 1]
    (plain,) = compare_heads.depth_tables(a, b, ["previous"])
    assert plain.rows == [["previous", "2 of 4 (0.50)", "1 of 5 (1.00)", "0.50, 0.10 (−0.40)", "–, 0.20 (–)",
                           "–, 0.30 (–)", "0.41, 0.50 (+0.09)"]]  # fmt: skip
    text = said(compare.page([(a, b)], FAMILIES))
    assert "2 layers with 4 heads in one, 5 layers with 5 heads in two" in text and "gains" not in text
    assert "Measured in one alone: induction." in text
    assert "loss, log-probability and margin have no common unit" in text


def test_metrics_effects_and_steering_have_the_values_of_the_tables(tmp_path):
    commit(tmp_path, "one", files())
    commit(tmp_path, "two", files(effects={"accuracy": (0.5, 0.4, 0.6), "loss": 2.5, "change": -0.01, "p": 0.4},
                                  steering=0.9, metric=0.5))  # fmt: skip
    a, b = read(tmp_path)
    (intact,) = compare_effects.intact(a, b)
    assert intact.rows == [
        ["in-context functions: accuracy", "0.80 [0.70, 0.90], n = 40", "0.50 [0.40, 0.60], n = 40", "−0.30", "apart",
         "the same"],
        ["random repeats: loss", "2.000 [1.000, 3.000], n = 40", "2.500 [1.500, 3.500], n = 40", "+0.500", "overlap",
         "the same"],
    ]  # fmt: skip
    assert "should give the same value, and does not: in-context functions: accuracy and random repeats" in intact.says
    text = said(compare.page([(a, b)], FAMILIES))
    assert "Told apart in one, not in two: induction on in-context functions." in text
    assert "+0.50 [+0.40, +0.60] 0 of 19: 0.05 (0.05)" in text and "7 of 19: 0.40 (0.05)" in text
    vectors = compare_effects.steering(a, b)[1].rows
    assert vectors[1][2:6] == ["0.50 [0.40, 0.60], n = 40", "0.90 [0.80, 1.00], n = 40", "+0.40", "apart"]
    assert compare_effects.metrics(a, b)[1].rows == [["icl.accuracy", "0.8", "0.5"]]


def test_missing_tables_are_named(tmp_path):
    older = files()
    older["reports/slots/decoder/effects.csv"] = "intervention,k\nx,1\n"
    del older["reports/slots/decoder/steering.csv"], older["dvc.lock"], older["reports/slots/decoder/metrics.json"]
    commit(tmp_path, "one", files())
    commit(tmp_path, "two", older)
    text = said(compare.page([read(tmp_path)], FAMILIES))
    assert "two: effects.csv has no column purpose, family, kind" in text and "two: no steering.csv there" in text
    assert "Whether the prompts are the same is not recorded" in text and "as in params.yaml" in text
    del older["reports/slots/decoder/heads.csv"], older["reports/slots/decoder/model.json"]
    commit(tmp_path, "three", older)
    text = said(compare.page([read(tmp_path, "one", "three")], FAMILIES))
    assert "Heads are not compared (three: no heads.csv there)." in text
    assert "Whether both read the same weights is not recorded." in text


def test_names_stand_for_revisions_and_slots(tmp_path):
    commit(tmp_path, "two", files(slot="encoder"))
    commit(tmp_path, "one", files() | files(slot="encoder"))

    def meant(*names):
        return [(a.revision, a.slot, b.revision, b.slot) for a, b in compare_runs.pairs(*names, tmp_path)]

    assert meant("one", "two") == [("one", "encoder", "two", "encoder")]
    assert meant("decoder", "encoder") == [("HEAD", "decoder", "HEAD", "encoder")]
    assert meant("one:decoder", "two") == [("one", "decoder", "two", "encoder")]  # the only one there
    assert [pair[1] for pair in meant("one", "one")] == ["decoder", "encoder"]


@pytest.mark.parametrize(("names", "message"), [
    (("one", "nosuch"), "nosuch: no git revision and no slot of HEAD; its slots are decoder"),
    (("one", "nosuch:decoder"), "nosuch: no such git revision"),
    (("one:vision", "one"), "one: no slot 'vision' in reports/slots; there are decoder"),
    (("one", "empty"), "empty: no reports in reports/slots at this revision"),
    (("one", ""), "expected a git revision, a slot or revision:slot"),
    (("one",), "usage: "),
    (("one", "empty..one"), "empty..one: no git revision and no slot of HEAD"),
    (("one", "^one"), "^one: no git revision and no slot of HEAD"),
    (("one", "a\nb"), "expected a git revision, a slot or revision:slot"),
    (("one", "\udce9"), "expected a git revision, a slot or revision:slot"),
    (("one", "one", "--out", "."), "'.': cannot be written; expected the name of a file"),
    (("one", "one", "--out", "README.md/x.html"), "README.md/x.html: cannot be written"),
])  # fmt: skip
def test_mistakes_are_one_line(tmp_path, monkeypatch, names, message):
    commit(tmp_path, "empty", {"README.md": "nothing"})
    commit(tmp_path, "one", files() | {"README.md": "nothing"})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as error:
        stage.main(*names)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("path", ["reports/slots/decoder/model.json", "params.yaml"])
def test_a_file_of_another_form_is_named(tmp_path, path):
    commit(tmp_path, "one", {name: text for name, text in files().items() if name != "dvc.lock"} | {path: "[1]"})
    with pytest.raises(UserError, match=rf"one:{path}: expected"):
        compare_runs.pairs("one", "one", tmp_path)


def test_a_slot_named_like_a_branch_is_asked_for(tmp_path):
    commit(tmp_path, "decoder", files())
    with pytest.raises(UserError, match=r"write HEAD:decoder or decoder:decoder"):
        compare_runs.pairs("decoder", "decoder", tmp_path)


def test_git_or_its_repository_may_be_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UserError, match="no git repository"):
        compare_runs.pairs("one", "two", tmp_path)
    commit(tmp_path, "one", files())
    with monkeypatch.context() as owned, pytest.raises(UserError, match=r"safe\.directory '.*'$"):
        owned.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
        compare_runs.pairs("one", "two", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="git is not installed"):
        compare_runs.pairs("one", "two", tmp_path)


def test_the_command_writes_one_file_without_torch_the_same_twice(tmp_path):
    commit(tmp_path, "one", files())
    commit(tmp_path, "two", files(moved()))
    code = (
        "import sys; from stages.compare import main; main('one', 'two', '--out', sys.argv[1]); "
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code, "a.html"], cwd=tmp_path, env=env, check=True)
    html = (tmp_path / "a.html").read_text()
    assert compare.page([read(tmp_path)], FAMILIES) == html
    assert "one and two, compared" in html and not re.search(r"""(?:src|href)=["']https?://(?!arxiv)""", html)
