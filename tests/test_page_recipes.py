"""The page on models trained from scratch: curves that exist, sentences that claim no more than their intervals."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stages.page import recipe_design, recipe_findings, recipe_lengths, recipes
from stages.recipes import settings
from stages.recipes.lesson import create
from stages.statistics.findings import bounded, supported
from stages.statistics.intervals import FEWEST
from stages.statistics.onset import earliest, rises
from stages.store import params, paths
from stages.store.errors import UserError

ROOT = Path(__file__).parents[1]
RECIPE = params.load(ROOT / "tests/params.yaml").recipes["induction"]
ARMS = RECIPE.ordered


def results(root: Path, rise=(0.7, 0.6, 0.8), after=(140, 120, 160), final=0.9) -> Path:
    """Write the summaries of a study of two measures; `rise`: beyond the other arm's, `after`: order of the onsets."""
    folder = root / paths.study("induction")
    folder.mkdir(parents=True)
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
        for finding, value in (("onset", 375.0), ("rise", 0.8), ("final", final))
        for arm in ARMS
        for measure in ("induction", "accuracy")
    ]
    findings += [("rise beyond", ARMS[0], "induction", ARMS[1], "", *rise)]
    findings += [("after", ARMS[0], "accuracy", "induction", "", *after)]
    findings += [(*row[:4], seed, row[5], "", "") for row in findings[:12] for seed in range(FEWEST)]
    pd.DataFrame(findings, columns=recipes.FINDINGS.split()).to_csv(folder / "findings.csv", index=False)
    picture = [(1, "L1H0", 1, "3", "7", key, str(key), 0.5) for key in (0, 1)]
    pd.DataFrame(picture, columns=recipes.PICTURE.split()).to_csv(folder / "picture.csv", index=False)
    return root


def runs(seeds: int) -> params.Studies:
    train = RECIPE.train.model_copy(update={"seeds": seeds})
    return params.Studies(seed=17, recipes={"induction": RECIPE.model_copy(update={"train": train})})


def text(root: Path, studies: dict[Path, params.Studies] | None = None) -> str:
    (section,) = recipes.sections(studies or {Path(): runs(4)}, root)
    said = [block.text if block.kind == "note" else block.says for block in section.blocks]
    return " ".join(said + [chart.note for block in section.blocks if block.kind == "figure" for chart in block.charts])


def test_a_curve_that_lacks_a_run_is_cut(tmp_path):
    learning = results(tmp_path) / paths.study("induction") / "learning.csv"
    pd.DataFrame([["main", 9, 200, 1.0]], columns=recipes.LEARNING.split()).to_csv(learning, index=False)
    with pytest.raises(UserError, match=r"curve\.csv: not the runs and last steps of learning\.csv: cut"):
        text(tmp_path)


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
    assert said in text(results(tmp_path, rise=rise))


@pytest.mark.parametrize(
    ("after", "said"),
    [
        ((140, 120, 160), "the accuracy jumps after the induction score, by 140 steps [70, 210]"),
        ((-140, -160, -120), "the accuracy jumps before the induction score, by 140 steps [70, 210]"),
        (
            (40, 20, 60),
            "the onsets of the accuracy and the induction score are not told apart: difference +40 steps [−30, +110], "
            "positive where that of the accuracy comes later",
        ),  # checkpoints: every 50
        ((50.2, 50.2, 60), "are not told apart: difference +50 steps [0, +110]"),  # printed as 0: no order
    ],
)
def test_an_order_is_claimed_only_where_the_interval_and_the_checkpoints_allow_it(tmp_path, after, said):
    page = text(results(tmp_path, after=after), {Path(): runs(6)}).lower()
    assert said.lower() in page
    assert "no onset is known better than the 50 steps between two checkpoints" in page


def test_few_runs_have_a_range_in_the_place_of_an_interval():
    values = {("a", "accuracy"): (0.9, 0.5, 0.7), ("b", "accuracy"): (0.4, 0.3), ("c", "accuracy"): (0.1,)}
    values |= {(arm, "loss"): tuple(-value for value in values[arm, "accuracy"]) for arm in "abc"}
    rows = [("final", *key, "", seed, value, np.nan, np.nan)
            for key, each in values.items() for seed, value in enumerate(each)]  # fmt: skip
    rows += [("final", *key, "", np.nan, np.mean(each), -9.0, 9.0) for key, each in values.items()]
    rows += [("final beyond", "a", measure, other, np.nan, 0.35, -9.0, 9.0)
             for measure in ("accuracy", "loss") for other in "bc"]  # fmt: skip
    steps = (("accuracy", (300.0, 200.0)), ("loss", (100.0, 150.0)))
    rows += [("onset", "b", measure, "", seed, step, np.nan, np.nan)
             for measure, each in steps for seed, step in enumerate(each)]  # fmt: skip
    rows += [("after", "b", "accuracy", "loss", np.nan, 125.0, -9.0, 9.0)]
    whole = bounded(pd.DataFrame(rows, columns=recipes.FINDINGS.split()), {"loss"})
    said = {(r.finding, r.arm, r.measure, r.versus): (r.ranged, r.low, r.high) for r in whole.itertuples()}
    assert said["final", "a", "accuracy", ""] == (True, 0.5, 0.9)
    assert said["final", "c", "accuracy", ""] == said["final beyond", "a", "accuracy", "c"] == (False, -9.0, 9.0)
    for measure in ("accuracy", "loss"):  # the worst of a over the best of b, and the other way round
        assert said["final beyond", "a", measure, "b"] == (True, pytest.approx(0.1), pytest.approx(0.6))
    assert said["after", "b", "accuracy", "loss"] == (True, 50.0, 200.0)
    row = next(row for row in whole.itertuples() if row.arm == "a")
    assert recipe_findings.around(row) == "(0.50 to 0.90)"
    assert recipe_design.uncertain(3).startswith("3 seeds are too few") and "95 %" in recipe_design.uncertain(FEWEST)
    assert "held-out sequences only" in recipe_design.uncertain(1)


@pytest.mark.parametrize(("seeds", "said"), [(1, "from one run"), (3, "from 3 runs"), (5, "from 5 runs")])
def test_no_order_is_claimed_from_so_few_seeds_that_chance_puts_all_on_one_side(tmp_path, seeds, said):
    page = text(results(tmp_path), {Path(): runs(seeds)})
    assert f"is not claimed {said}" in page and "jumps after" not in page


def test_a_run_that_does_not_jump_takes_the_mean_onset_away(tmp_path):
    folder = results(tmp_path) / paths.study("induction")
    table = pd.read_csv(folder / "findings.csv")
    for value, there in ((0.5, True), (0.05, False)):
        rows = pd.DataFrame([("rise", ARMS[0], "induction", "", 1, value, None, None)], columns=table.columns)
        pd.concat([table, rows]).to_csv(folder / "findings.csv", index=False)
        page = text(tmp_path, {Path(): runs(6)})
        assert (page.count("around step 375") == 2) == there
        assert ("jumps after" in page) == there


def test_a_rise_must_be_clear_of_nothing_and_a_share_of_the_range():
    assert rises(0.5, 0.4, 0.6, False, 1.0) and rises(-0.5, -0.6, -0.4, True, 2.5)
    assert not rises(0.5, -0.1, 0.6, False, 1.0)
    assert not rises(0.05, 0.04, 0.06, False, 1.0) and not rises(-0.2, -0.3, -0.1, True, 2.5)
    assert not rises(-0.5, -0.6, -0.4, False, 1.0)


def test_what_ends_at_chance_has_no_onset_no_order_and_no_place_in_a_comparison():
    rows = [(finding, arm, "accuracy", "", None, *values) for arm, end in (("main", 0.9), ("never", 0.5))
            for finding, values in (("onset", (300, 250, 350)), ("rise", (0.5, 0.4, 0.6)),
                                    ("final", (end, end - 0.05, end + 0.05)))]  # fmt: skip
    rows += [("level", arm, "accuracy", "chance", None, 0.5, None, None) for arm in ("main", "never")]
    rows += [("onset later", "never", "accuracy", "main", None, -200, -250, -150)]
    whole = pd.DataFrame(rows, columns=recipes.FINDINGS.split()).astype({"low": float, "high": float})
    said = supported(whole, frozenset(), {(arm, "accuracy"): 1.0 for arm in ("main", "never")}, seeds=5)
    assert set(said[said.finding == "onset"].arm) == {"main"} and "onset later" not in set(said.finding)
    assert set(said[said.finding == "final"].arm) == {"main", "never"}


def test_arms_that_are_scored_on_other_things_are_not_subtracted():
    rows = [("final beyond", "tape", "accuracy", "none", None, 0.5, 0.4, 0.6)]
    rows += [
        ("level", arm, "accuracy", "chance", None, value, None, None) for arm, value in (("tape", 0.1), ("none", 0.5))
    ]
    whole = pd.DataFrame(rows, columns=recipes.FINDINGS.split()).astype({"low": float, "high": float})
    assert set(supported(whole, frozenset(), {}, seeds=5).finding) == {"level"}


def test_an_onset_at_the_start_and_one_that_is_none_are_said_to_be_so():
    assert earliest(0, 200) == (100, 110)
    low, high = earliest(0, 0, 4.0)
    assert low == pytest.approx(1.0) and high > low
    rows = [("onset", "a", "loss", "", None, 105, 100, 110), ("rise", "a", "loss", "", None, -1, -1.1, -0.9),
            ("final", "a", "loss", "", None, 1, 0.9, 1.1)]  # fmt: skip
    whole = pd.DataFrame(rows, columns=recipes.FINDINGS.split()).assign(ranged=False)
    assert "the earliest that can be" in recipe_findings.jumps(whole, "loss", ["a"], (100, 110))
    assert "the earliest" not in recipe_findings.jumps(whole, "loss", ["a"], (50, 60))
    assert "to speak of an onset" in recipe_findings.jumps(whole[1:], "loss", ["a"], (50, 60))


def test_chance_stands_beside_whole_tapes():
    recipe = params.load(ROOT / "tests/params.yaml").recipes["parity"]
    lesson = create("parity", recipe, recipe.train.arguments)
    levels = lesson.chance(90)
    assert levels["accuracy@06"] == pytest.approx(2**-6) and levels["accuracy"] < 0.01
    assert lesson.model_copy(update={"tape": False}).chance(90)["accuracy"] == 0.5
    assert "positions that are never" in lesson.remarks


def test_every_measure_has_a_chart_and_parts_have_sentences(tmp_path):
    (section,) = recipes.sections({Path(): runs(4)}, results(tmp_path))
    curves, others, maps = [block for block in section.blocks if block.kind == "figure"]
    assert [chart.label for chart in curves.charts] == ["Induction score"]  # an onset that is compared: seen at once
    assert [chart.label for chart in others.charts] == ["Accuracy"]
    assert section.blocks[section.seen - 1] is curves
    for chart in [*curves.charts, *others.charts, *maps.charts]:
        assert chart.spec.to_dict()
    assert "without L1H0 0.20" in text(tmp_path)


def test_lengths_seen_in_training_are_shaded_and_guessing_drawn():
    recipe = params.load(ROOT / "tests/params.yaml").recipes["parity"]
    lesson = create(recipe.task, recipe, recipe.arm(recipe.main).arguments)
    lengths = range(lesson.shortest, lesson.beyond + 1)
    right = {length: (1.0, 0.8) if length <= lesson.longest else (0.0, 0.2) for length in lengths}
    ends = {"accuracy": (1.0, 0.8), "accuracy_beyond": (0.0, 0.2)}
    ends |= {f"accuracy@{length:02d}": values for length, values in right.items()}
    curve = pd.DataFrame(
        [
            (recipe.main, seed, step, measure, "", 1, value * (step == 9), None)
            for measure, values in ends.items()
            for seed, value in enumerate(values)
            for step in (0, 9)
        ],
        columns=recipes.CURVE.split(),
    )
    chance = [("level", recipe.main, f"accuracy@{length:02d}", "chance", 0.5**length) for length in lengths]
    whole = pd.DataFrame(chance, columns=["finding", "arm", "measure", "versus", "value"])
    (chart,) = recipe_lengths.reach(recipe, curve, whole, recipes.COLOURS, recipes.DASHES)
    assert f"the lengths seen in training, {lesson.shortest} to {lesson.longest};" in chart.note
    assert f"{lesson.longest + 1} to {lesson.beyond}, never seen: two layers 0.90 (0.80 to 1.00) and 0.10" in chart.note
    spec = chart.spec.to_dict()
    shade, guess, line = (spec["datasets"][layer["data"]["name"]] for layer in spec["layer"][:3])
    assert shade == [{"start": lesson.shortest - 0.5, "end": lesson.longest + 0.5}]
    assert [row["value"] for row in guess] == [0.5**length for length in lengths]
    assert [row["value"] for row in line] == pytest.approx([np.mean(right[length]) for length in lengths])
    assert recipe_lengths.reach(RECIPE, curve, whole, recipes.COLOURS, recipes.DASHES) == []


def test_committed_long_studies_carry_the_hash_of_their_params():
    studies = params.load_studies(ROOT / paths.FULL / paths.PARAMS)
    for name, recipe in studies.recipes.items():
        stamp = json.loads((ROOT / paths.FULL / paths.study(name) / "params.json").read_text())
        assert stamp["sha256"] == settings.digest(studies.seed, recipe), name


def test_a_recipe_in_both_is_shown_by_the_study_with_more_runs(tmp_path):
    results(tmp_path), results(tmp_path / paths.FULL)
    for short, long, beside in ((1, 4, "1 seed instead of 4"), (4, 3, "3 seeds instead of 4")):
        said = text(tmp_path, {Path(): runs(short), paths.FULL: runs(long)})
        assert beside in said and said.count("Trained from scratch") == 1
        assert f"{max(short, long)} seeds each" in said


def test_a_recipe_that_is_only_in_the_longer_studies_has_a_section(tmp_path):
    results(tmp_path / paths.FULL)
    other = params.Studies(seed=17, recipes={"other": RECIPE})
    titles = [section.title for section in recipes.sections({Path(): other, paths.FULL: runs(4)}, tmp_path)]
    assert titles == ["Heads that emerge: other", "Heads that emerge: induction"]


def test_a_long_study_made_with_other_params_says_so(tmp_path):
    folder = results(tmp_path / paths.FULL) / paths.study("induction")
    studies = {Path(): runs(1), paths.FULL: runs(4)}
    for digest, stale in ((settings.digest(17, runs(4).recipes["induction"]), False), ("0" * 64, True)):
        (folder / "params.json").write_text(json.dumps({"sha256": digest}))
        said = text(tmp_path, studies)
        assert digest[:12] in said and ("HAVE CHANGED" in said) == stale and "older than" not in said
    (folder / "params.json").write_text(json.dumps({"params": "params.full.yaml", "sha256": digest}))
    assert "older than that pipeline" in text(tmp_path, studies)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (("solved later", -300, -400, -200), "the accuracy is solved earlier, by 300 steps [200, 400]"),
        (("solved later", 300, 200, 400), "the accuracy is solved later, by 300 steps [200, 400]"),
        (
            ("solved later", -50, -150, 20),
            "when the accuracy is solved is not told apart: difference −50 steps [−150, +20], negative where earlier",
        ),
        (
            ("solved later", None, None, None),
            "the accuracy is solved in 1 of 2 runs of after and 2 of 2 runs of two layers, so that no times are",
        ),
        (("onset later", -300, -400, -200), "the accuracy jumps earlier, by 300 steps [200, 400]"),
    ],
)
def test_what_was_learned_first_is_said_to_help_only_where_the_interval_allows_it(row, expected):
    first = {"arguments": RECIPE.train.arguments | {"length": 12}, "steps": 70}
    recipe = RECIPE.model_copy(update={"arms": RECIPE.arms | {"after": {"first": first}}})
    finding, *numbers = row
    whole = pd.DataFrame([(finding, "after", "accuracy", ARMS[0], None, *numbers)], columns=recipes.FINDINGS.split())
    whole = whole.astype({"value": float, "low": float, "high": float}).assign(ranged=False)
    start = [("after", seed, 0, "induction", "L1H0", 1, value, None) for seed, value in enumerate((0.7, 0.9))]
    curve = pd.DataFrame(start, columns=recipes.CURVE.split())
    solved = [
        ("solved", arm, "accuracy", "", seed, step, None, None)
        for arm, steps in (("after", (700, None)), (ARMS[0], (700, 800)))
        for seed, step in enumerate(steps)
    ]
    findings = pd.DataFrame(solved, columns=recipes.FINDINGS.split())
    (says,) = recipe_findings.ahead(recipe, findings, whole, curve)
    assert says.startswith("After learned something else first: 70 steps of length 12. Counted from there")
    assert expected in says and says.endswith("At its step 0: induction score 0.80.")
    assert recipe_findings.ahead(RECIPE, findings, whole, curve) == []
    (says,) = recipe_findings.ahead(recipe, findings, whole[:0], curve)
    assert "70 steps of length 12. Whether it is ahead of two layers is not claimed. " in says


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
    columns, table = recipe_findings.every_run(findings, ARMS, ["induction", "accuracy"])
    assert columns == ["variant", "induction score", "accuracy"]
    assert table == [["two layers", "–", "1.00 0.50"], ["one layer", "–", "–"]]


def test_steepest_changes_are_compared_only_with_variants_that_start_from_the_same(tmp_path):
    folder = results(tmp_path) / paths.study("induction")
    for name in ("findings.csv", "curve.csv"):
        pd.read_csv(folder / name).replace(ARMS[1], "after").to_csv(folder / name, index=False)
    first = {"arguments": RECIPE.train.arguments | {"length": 12}, "steps": 70}
    for arm, compared in (({}, True), ({"first": first}, False)):
        recipe = RECIPE.model_copy(update={"arms": RECIPE.arms | {"after": arm}})
        page = text(tmp_path, {Path(): params.Studies(seed=17, recipes={"induction": recipe})})
        assert ("Its change exceeds that of after" in page) == compared
