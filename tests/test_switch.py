"""Two families against each other: sets that share no head, and numbers that are what was planted."""

from math import log
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import test_plan

from stages import ablate, plan, summarize
from stages.page.inputs import COLUMNS, NAMES, TEXT
from stages.page.longer import Study
from stages.page.section import Context
from stages.page.sections.switch import WHAT
from stages.page.sections.switch import switch as section
from stages.statistics import switch
from stages.store import params, tables

FAMILIES = ("induction", "function")
SWEEP = SimpleNamespace(families=FAMILIES, numbers=(1, 4, 9), controlled=(4,), prompts=6)
MEMBERS = {"induction": [(5, 1), (6, 2), (7, 3)], "function": [(5, 1), (9, 3)]}
TASKS = ["repeats", "icl"]


def planned(sweep=SWEEP, members=None) -> pd.DataFrame:
    rows, _ = plan.plan("d", test_plan.judged(members or MEMBERS), test_plan.record(), TASKS,
                        test_plan.settings(sweep=sweep))  # fmt: skip
    return pd.DataFrame(rows)


def test_sets_hold_the_best_heads_that_are_not_the_other_familys():
    rows = planned()
    sets = rows[rows.purpose == "sweep"].set_index(["family", "k"])
    assert sets.loc[("induction", 1), "heads"] == "L6H2" and sets.loc[("function", 1), "heads"] == "L9H3"
    assert sets.loc[("induction", 1), "matching"].startswith("without L5H1; ")
    assert sets.loc[("induction", 4), "members"] == 2 and sets.loc[("function", 4), "members"] == 1
    for k in (1, 4, 9):
        own, other = (set(sets.loc[(name, k), "heads"].split()) for name in FAMILIES)
        assert len(own) == len(other) == k and not own & other
    assert sets.tasks.map(tuple).unique().tolist() == [("icl",)]


def test_control_sets_stand_beside_the_numbers_asked_for_and_nothing_else_changes():
    rows, without = planned(), planned(sweep=None)
    controls = rows[rows.purpose == "sweep_control"]
    assert controls.groupby(["family", "k"]).size().to_dict() == {("function", 4): 19, ("induction", 4): 19}
    others = rows[~rows.purpose.isin(ablate.SWEEP)].reset_index(drop=True)
    pd.testing.assert_frame_equal(others, without)


def test_no_sweep_without_one_of_the_families():
    assert not planned(members={"induction": MEMBERS["induction"]}).purpose.isin(ablate.SWEEP).any()


def test_a_sweep_runs_in_shards_of_its_own_and_leaves_the_others_as_they_are(monkeypatch):
    prompts = pd.DataFrame(
        {"id": f"p{n:02}", "condition": f"g{n % 2}", "category": "c", "cluster": f"g{n % 2}/{n // 2 % 3}"}
        for n in range(36)
    )
    rows, settings = planned(), params.Ablate(prompts={"icl": 5}, single={"icl": 2}, shard=4)
    mine = rows.purpose.isin(ablate.SWEEP)
    made, before = (ablate.planned("icl", prompts, part, settings, 6) for part in (rows, rows[~mine]))
    shape = [([row.id for row in s.prompts], s.interventions) for s in made]
    assert shape[:-1] == [([row.id for row in s.prompts], s.interventions) for s in before]
    assert {i.purpose for i in made[-1].interventions} == set(ablate.SWEEP)
    assert [row.cluster for row in made[-1].prompts] == ["g0/0", "g1/0"] * 3 or len(made[-1].prompts) == 6
    assert len({row.cluster for row in made[-1].prompts}) == 2  # three prompts of each
    monkeypatch.setattr(ablate, "ONCE", 4)  # a longer study's: several shards, the same prompts under the same sets
    many = ablate.planned("icl", prompts, rows, settings, 6)[len(before) :]
    assert [len(shard.prompts) for shard in many] == [4, 2]
    assert [row.id for shard in many for row in shard.prompts] == [row.id for row in made[-1].prompts]
    assert {shard.interventions for shard in many} == {made[-1].interventions}


def raw(change: dict[tuple[str, int, int], float]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return effects and plan: accuracy 1 intact; under (family, k, draw) so much less. 24 prompts, 12 clusters."""
    rows, plans = [], []
    for (family, k, draw), loss in change.items():
        purpose = "sweep_control" if draw else "sweep"
        name, place = f"{purpose}/{family}/{k}/mean/{draw}", FAMILIES.index(family)  # no head is of both families
        held = "1 of 4 in the same layers, 4 of 4 of the same attention kind; no member of a causal family"
        other = "3 of 4 in the same layers, 2 of 4 of the same attention kind; holds members: 2 of sink (9 of 72 are)"
        plans.append({"id": name, "purpose": purpose, "family": family, "k": k, "kind": "mean", "draw": draw,
                      "heads": " ".join(f"L{at}H{place}" for at in range(k)), "members": 1, "tasks": ["icl"],
                      "condition": "",
                      "matching": ("without L7H7", other, held)[min(draw, 2)]})  # fmt: skip
        for n in range(24):
            wrong = n < round(24 * loss)
            rows.append({"intervention": name, "purpose": purpose, "family": family, "k": k, "kind": "mean",
                         "draw": draw, "heads": plans[-1]["heads"], "task": "icl", "condition": f"g{n % 2}",
                         "category": "c", "cluster": f"g{n % 2}/{n // 4}", "prompt": f"p{n}", "measure": "accuracy",
                         "value": float(not wrong), "intact": 1.0})  # fmt: skip
    return pd.DataFrame(rows, columns=tables.EFFECTS.names), pd.DataFrame(plans, columns=tables.PLANS.names)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Function heads are worse than all but two control sets; induction heads do nothing, which sets do as well."""
    worse = {("function", 4, draw): 0.75 if draw <= 2 else 0.125 for draw in range(1, 20)}
    none = {("induction", 4, draw): 0.25 for draw in range(1, 20)}
    own = {("induction", 4, 0): 0.0, ("function", 1, 0): 0.25, ("function", 4, 0): 0.5}
    return switch.table(*raw(own | worse | none), log(1000))


def test_planted_changes_ranks_and_metrics(table):
    whole = table[table.condition == "all"].set_index(["family", "k"])
    assert whole.loc[("function", 4), "change"] == -0.5 and whole.loc[("function", 1), "change"] == -0.25
    assert whole.loc[("function", 4), "p"] == 3 / 20 and whole.loc[("induction", 4), "p"] == 1.0
    assert pd.isna(whole.loc[("function", 1), "p"]) and whole.loc[("function", 4), "passed_over"] == "L7H7"
    assert whole.loc[("function", 4), "control_change"] == pytest.approx(-(2 * 0.75 + 17 * 0.125) / 19)
    conditions = table[(table.condition == "g0") & (table.k == 4)].set_index("family")
    assert conditions.loc["function", "change"] == -0.5 and conditions.p.isna().all()
    said = switch.metrics(table)
    assert said["function"] == {"1": {"change": -0.25}, "4": {"change": -0.5, "p": 0.15}}


@pytest.mark.parametrize("lost", [1, 2, 3, 4, 8, 11, 13])
def test_sets_that_lose_as_much_tie_in_float32_as_well(lost):
    rows, plans = raw({("function", 4, draw): lost / 24 for draw in range(20)})
    made = switch.table(rows.astype({"value": np.float32, "intact": np.float32}), plans, log(1000))
    assert (made[made.condition == "all"].p == 1).all()


def test_a_rank_above_its_floor_is_not_said_to_be_at_it():
    worse = {("function", 4, draw): 1.0 if draw == 1 else 0.0 for draw in range(1, 40)}
    said = {}
    for beaten in (worse, dict.fromkeys(worse, 0.0)):
        made = switch.table(*raw({("function", 4, 0): 2 / 24} | beaten), log(1000)).assign(low=-0.2, high=0.1)
        (text,) = [b.text for b in page(made) if b.kind == "note" and b.text.startswith("Function")]
        said[made.p.dropna().iloc[0]] = text
    assert sorted(said) == [0.025, 0.05]
    assert "holds 0, a rank at its floor says" in said[0.025]
    assert "holds 0, a rank p of 0.05 or below says" in said[0.05] and "floor" not in said[0.05]


def test_matching_is_that_of_the_control_sets_and_why_there_are_none_where_there_are_none(table):
    said = table[table.condition == "all"].set_index(["family", "k"]).matching
    assert said["function", 4] == (
        "1 to 3 of 4 in the same layers, 2 to 4 of 4 of the same attention kind; 1 of 19 sets hold members of sink"
    )
    assert said["function", 1] == ""
    assert switch.passed_over("without L5H1 L9H3; no control sets asked for") == (
        "L5H1 L9H3",
        "no control sets asked for",
    )
    assert switch.passed_over("no control sets asked for") == ("", "no control sets asked for")
    assert switch.passed_over("") == ("", "")


def test_a_set_that_leaves_nothing_to_lose_says_so():
    worse = {("function", 4, draw): 1.0 if draw <= 2 else 0.5 for draw in range(1, 20)}
    made = switch.table(*raw({("function", 4, 0): 1.0} | worse), log(1000))
    (text,) = [b.text for b in page(made) if b.kind == "note" and b.text.startswith("Function")]
    assert "rank p = 0.15; not told apart from other heads, and nothing was left to lose." in text


def test_an_unable_model_has_no_rank():
    rows, plans = raw({("function", 4, draw): 0.0 for draw in range(20)})
    made = switch.table(rows.assign(intact=0.0, value=0.0), plans, log(1000))
    assert made.p.isna().all() and made.note.str.startswith("not measurable").all()


def page(table: pd.DataFrame, reasons: dict | None = None, longer: dict | None = None) -> list:
    return section(slot_of(table, reasons, longer), Context({}, ["icl"]))


def slot_of(table: pd.DataFrame, reasons: dict | None = None, longer: dict | None = None) -> SimpleNamespace:
    text = TEXT | NAMES["switch"]
    frame = table[COLUMNS["switch"].split()].copy()
    for name in frame:
        frame[name] = frame[name].fillna("") if name in text else pd.to_numeric(frame[name])
    return SimpleNamespace(switch=frame, path=lambda file: f"x/{file}", reasons=reasons or {}, longer=longer or {})


def test_the_page_says_what_the_table_says(table):
    texts = [block.text for block in page(table) if block.kind == "note"]
    assert texts[1] == (
        "Accuracy on in-context functions: 1.00 intact; without 4 induction heads (members: 1) 1.00 (rank p 1.00); "
        "without 1 and 4 function heads (members: 1 and 1) 0.75 and 0.50 (rank p – and 0.15). "
        "These ranks are not corrected for there being 2 of them."
    )
    by_family = {text.split(" heads")[0]: text for text in texts[2:]}
    assert "0.75 without 1 (1 member; harm +0.25 [−0.08, +0.54]) and 0.50 without 4" in by_family["Function"]
    alike = "1 to 3 of 4 in the same layers, the others from the nearest; 2 to 4 of 4 of the same attention kind"
    assert f"(as many heads, {alike})" in by_family["Function"]
    (matched,) = [block.rows for block in page(table) if block.kind == "table" and "its control sets" in block.columns]
    assert ["function 4", f"{alike}; hold members of sink (1)"] in matched
    assert "2 do as much" in by_family["Function"] and "not told apart from other heads" in by_family["Function"]
    assert "19 do as much" in by_family["Induction"] and "passed over as the other family's: L7H7" in texts[2]


def test_a_longer_study_is_folded_below_where_it_silenced_families_without_each_other(table):
    plan = Study(slot_of(table[table.family == "function"]), "Made by a test.")
    *usual, fold = page(table, longer={"plan": plan})
    assert [block.kind for block in usual] == [block.kind for block in page(table)]
    assert fold.title == "A longer study: more prompts of each function"
    assert fold.blocks[0].text == "Made by a test." and not any(
        block.text == WHAT for block in fold.blocks[1:] if block.kind == "note"
    )
    (short,) = [b.text for b in fold.blocks if b.kind == "note" and b.text.startswith("Accuracy")]
    assert "induction" not in short
    without = page(table, longer={"plan": Study(slot_of(table[:0]), "Without a sweep.")})
    assert not any(block.kind == "fold" for block in without)


def test_without_rows_the_page_says_so():
    empty = pd.DataFrame(columns=COLUMNS["switch"].split())
    (note,) = page(empty, {"switch": "plan.sweep is not in params"})
    assert note.text == "No two families were silenced without each other: plan.sweep is not in params."


def test_a_model_without_a_sweep_says_why(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = SimpleNamespace(plan=SimpleNamespace(sweep=SWEEP))
    tables.PLANS.noting(skipped={"function": "was not measured", "sink": "left out in params"}).write([], "a")
    assert summarize._unswept("a", settings) == "function heads are not silenced: was not measured"
    tables.PLANS.noting(skipped={}).write([], "a")
    assert summarize._unswept("a", settings).startswith("fewer than 1 heads of a family are not the other's")
    tables.PLANS.write_empty("a", why="an encoder is scored intact only")
    assert summarize._unswept("a", settings) == "an encoder is scored intact only"
    assert summarize._unswept("a", SimpleNamespace(plan=SimpleNamespace(sweep=None))) == "plan.sweep is not in params"
    tables.PLANS.write(planned(), "a")
    tables.EFFECTS.write_empty("a", why="ablate is not in params")
    assert summarize._unswept("a", settings) == "ablate is not in params"
