"""The page on models trained from scratch: curves that exist, sentences that claim no more than their intervals."""

import json
from pathlib import Path

import pandas as pd
import pytest

from stages.page import recipe_design, recipe_findings, recipes
from stages.store import params, paths

ROOT = Path(__file__).parents[1]
RECIPE = params.load(ROOT / "params.yaml").recipes["induction"]
ARMS = RECIPE.ordered


def results(folder: Path, rise: tuple[float, float, float], after: tuple[float, float, float]) -> Path:
    """Write the summaries of a study of two measures; `rise`: beyond the other arm's, `after`: order of the onsets."""
    curve = [
        (arm, seed, step, measure, head, 1, 0.1 + (step > 50) * (arm == ARMS[0]) * 0.8, 0.1)
        for arm in ARMS
        for seed in range(2)
        for step in (0, 50, 100)
        for measure, head in (("induction", "L1H0"), ("accuracy", ""))
    ]
    curve += [(ARMS[0], 0, 100, "accuracy@without L1H0", "", 1, 0.2, "")]
    pd.DataFrame(curve, columns=recipes.CURVE.split()).to_csv(folder / "curve.csv", index=False)
    findings = [
        (finding, arm, measure, "", "", value, value - 0.05, value + 0.05)
        for finding, value in (("onset", 75.0), ("rise", 0.8), ("final", 0.9))
        for arm in ARMS
        for measure in ("induction", "accuracy")
    ]
    findings += [("rise beyond", ARMS[0], "induction", ARMS[1], "", *rise)]
    findings += [("after", ARMS[0], "accuracy", "induction", "", *after)]
    findings += [("onset", ARMS[0], "induction", "", 0, 70.0, "", "")]
    pd.DataFrame(findings, columns=recipes.FINDINGS.split()).to_csv(folder / "findings.csv", index=False)
    picture = [(1, "L1H0", 1, "3", "7", key, str(key), 0.5) for key in (0, 1)]
    pd.DataFrame(picture, columns=recipes.PICTURE.split()).to_csv(folder / "picture.csv", index=False)
    return folder


def text(folder: Path) -> str:
    section = recipes.sections({"induction": RECIPE}, {"induction": folder})[0]
    said = [block.text if block.kind == "note" else block.says for block in section.blocks]
    return " ".join(said + [chart.note for block in section.blocks if block.kind == "figure" for chart in block.charts])


def test_a_recipe_without_results_says_so(tmp_path):
    assert "No results yet" in text(tmp_path)


@pytest.mark.parametrize(
    ("rise", "said"),
    [
        ((0.7, 0.6, 0.8), "Its change exceeds that of one layer by +0.70 [+0.60, +0.80]"),
        ((0.1, -0.1, 0.3), "Not told apart from the steepest change of one layer"),
        ((-0.3, -0.4, -0.2), "Its change is smaller than that of one layer: −0.30 [−0.40, −0.20]"),
    ],
)
def test_arms_are_told_apart_only_by_their_interval(tmp_path, rise, said):
    assert said in text(results(tmp_path, rise, (0, -1, 1)))


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ((40, 20, 60), "the accuracy jumps after the induction score (+40 steps [+20, +60])"),
        ((-40, -60, -20), "he accuracy jumps before the induction score (−40 steps [−60, −20])"),
        ((5, -20, 30), "the onsets of the accuracy and the induction score are not told apart"),
    ],
)
def test_an_order_is_claimed_only_where_the_interval_allows_it(tmp_path, after, said):
    assert said.lower() in text(results(tmp_path, (0.7, 0.6, 0.8), after)).lower()


def test_every_measure_has_a_chart_and_parts_have_sentences(tmp_path):
    section = recipes.sections({"induction": RECIPE}, {"induction": results(tmp_path, (0, -1, 1), (0, -1, 1))})[0]
    curves, maps = [block for block in section.blocks if block.kind == "figure"]
    assert [chart.label for chart in curves.charts] == ["Induction score", "Accuracy"]
    for chart in [*curves.charts, *maps.charts]:
        assert chart.spec.to_dict()
    assert "without L1H0 0.20" in text(tmp_path)


def test_committed_long_studies_carry_the_hash_of_their_params():
    settings = params.load(ROOT / paths.FULL)
    for name, recipe in settings.recipes.items():
        stamp = json.loads((ROOT / paths.full(name) / "params.json").read_text())
        assert stamp == {"params": "params.full.yaml", "sha256": params.digest(settings.seed, recipe)}, name


def test_a_long_study_made_with_other_params_says_so(tmp_path):
    settings = params.load(ROOT / "params.yaml")
    settings = settings.model_copy(update={"recipes": {"induction": RECIPE}})
    results(tmp_path, (0, -1, 1), (0, -1, 1))
    assert recipes.longer(settings, {"induction": tmp_path}) == []  # no stamp: nothing to trust
    for digest, stale in ((params.digest(settings.seed, RECIPE), False), ("0" * 64, True)):
        (tmp_path / "params.json").write_text(json.dumps({"params": "params.full.yaml", "sha256": digest}))
        [section] = recipes.longer(settings, {"induction": tmp_path})
        assert digest[:12] in section.blocks[0].text
        assert ("HAVE CHANGED" in section.blocks[0].text) == stale


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (("solved later", -300, -400, -200), "the accuracy is solved 300 steps earlier [−400, −200]"),
        (("solved later", 300, 200, 400), "the accuracy is solved 300 steps later [+200, +400]"),
        (("solved later", -50, -150, 20), "when the accuracy is solved is not told apart (−50 [−150, +20])"),
        (("solved later", None, None, None), "the accuracy is solved in not every run of both"),
        (("onset later", -300, -400, -200), "the accuracy jumps 300 steps earlier [−400, −200]"),
    ],
)
def test_what_was_learned_first_is_said_to_help_only_where_the_interval_allows_it(row, expected):
    first = {"arguments": RECIPE.train.arguments | {"length": 12}, "steps": 70}
    recipe = RECIPE.model_copy(update={"arms": RECIPE.arms | {"after": {"first": first}}})
    finding, *numbers = row
    whole = pd.DataFrame([(finding, "after", "accuracy", ARMS[0], None, *numbers)], columns=recipes.FINDINGS.split())
    whole = whole.astype({"value": float, "low": float, "high": float})
    start = [("after", seed, 0, "induction", "L1H0", 1, value, None) for seed, value in enumerate((0.7, 0.9))]
    curve = pd.DataFrame(start, columns=recipes.CURVE.split())
    (says,) = recipe_findings.ahead(recipe, whole, curve)
    assert says.startswith("After learned something else first: 70 steps of length 12. Counted from there")
    assert expected in says and says.endswith("At its step 0: induction score 0.80.")
    assert recipe_findings.ahead(RECIPE, whole, curve) == []


def test_a_run_that_is_never_solved_is_called_so():
    rows = [("solved", ARMS[0], "accuracy", "", seed, value, None, None) for seed, value in enumerate((800, None))]
    findings = pd.DataFrame(rows, columns=recipes.FINDINGS.split()).astype({"value": float})
    assert "two layers 800, never" in recipe_findings.solved(findings, ARMS)


def test_the_picture_says_which_run_it_is_of_and_what_was_written():
    rows = [
        (2, "L0H0", query, word, predicts, key, looked, 0.1)
        for query, word, predicts in ((2, ":", "1"), (3, "1", "0"), (4, "0", "."))
        for key, looked in enumerate("11:10"[: query + 1])
    ]
    says = recipe_findings.pictured(pd.DataFrame(rows, columns=recipes.PICTURE.split()), "two_layers")
    assert "seed 2 of two layers" in says and "After '11:' the model itself wrote '10.'" in says


def test_data_that_change_with_the_step_are_named():
    assert recipe_design.schedule(RECIPE) == ""
    arguments = {"copying": 400, "gap": {"positions": 2, "until": 200}}
    train = RECIPE.train.model_copy(update={"arguments": arguments})
    assert "copying until step 400 and gap until step 200" in recipe_design.schedule(
        RECIPE.model_copy(update={"train": train})
    )


def test_every_run_of_every_arm_is_in_a_table():
    rows = [("after", ARMS[0], "accuracy", "induction", None, 5.0), ("final", ARMS[0], "accuracy", "", None, 0.75)]
    rows += [("final", ARMS[0], "accuracy", "", seed, value) for seed, value in ((1, 0.5), (0, 1.0))]
    findings = pd.DataFrame(rows, columns=["finding", "arm", "measure", "versus", "seed", "value"])
    columns, table = recipe_findings.every_run(findings, ARMS)
    assert columns == ["variant", "induction score", "accuracy"]
    assert table == [["two layers", "–", "1.00 0.50"], ["one layer", "–", "–"]]
