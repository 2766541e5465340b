"""The plan: members first, controls as alike as a model allows, every row says what it holds."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from stages import plan
from stages.families import FAMILIES
from stages.statistics.control import Pool, controls, matching, overlap
from stages.store.errors import UserError

HEADS = tuple((layer, head) for layer in range(12) for head in range(4))
KINDS = {layer: "global" if layer % 6 == 5 else "window" for layer in range(12)}


def settings(**changes):
    chosen = {"leave_out": (), "top": 3, "least": 1, "draws": 19, "kinds": ("mean", "zero"), "also": {}}
    chosen |= {"controlled": ("mean",), "specificity": ("blimp",), "named": 1, "sample": 5, "sweep": None}
    return SimpleNamespace(seed=3, plan=SimpleNamespace(**chosen | changes))


def record() -> dict:
    return {"attention": [{"layer": layer, "heads": 4, "kind": KINDS[layer]} for layer in range(12)]}


def judged(members: dict[str, list[tuple[int, int]]]) -> pd.DataFrame:
    """Scores at random, those of members above all others."""
    rng, rows = np.random.default_rng(0), []
    for family, inside in members.items():
        for layer, head in HEADS:
            member = (layer, head) in inside
            score = 0.9 - 0.01 * inside.index((layer, head)) if member else rng.uniform(0, 0.3)
            rows.append({"layer": layer, "head": head, "family": family, "score_a": score, "baseline": 0.1,
                         "score_null": 0.0, "lead_a": score - 0.1, "member": member, "member_a": member})  # fmt: skip
    return pd.DataFrame(rows)


MEMBERS = {
    "induction": [(5, 1), (6, 2)],
    "retrieval": [(5, 1), (7, 0), (8, 3), (9, 2)],
    "previous": [],
    "iteration:copy": [(5, 3)],
    "grammar:obj:dep-to-head": [(2, 0)],
    "grammar:nsubj:dep-to-head": [(3, 1), (2, 0)],
}


@pytest.fixture(scope="module")
def planned() -> pd.DataFrame:
    rows, skipped = plan.plan("d", judged(MEMBERS), record(), ["repeats", "icl", "needle", "blimp", "iteration"],
                              settings())  # fmt: skip
    assert skipped["sink"] == "tasks.text not in params" and skipped["function"] == "was not measured"
    return pd.DataFrame(rows)


def heads(text: str) -> list[tuple[int, int]]:
    return [tuple(map(int, name[1:].split("H"))) for name in text.split()]


def test_members_come_first_and_fillers_are_marked(planned):
    sets = planned[(planned.purpose == "family") & (planned.kind == "mean")].set_index("family")
    assert sets.loc["induction", "heads"] == "L5H1 L6H2" and sets.loc["induction", "members"] == 2
    assert sets.loc["retrieval", "heads"] == "L5H1 L7H0 L8H3"  # `top` at most
    assert sets.loc["previous", "members"] == 0 and sets.loc["previous", "k"] == 1  # `least` at least
    assert set(sets.loc["grammar:arguments", "heads"].split()) == {"L2H0", "L3H1"}


def test_every_family_has_its_tasks_and_controls_only_its_home(planned):
    sets = planned[planned.family == "induction"]
    ways = sets[sets.purpose == "family"].set_index("kind").tasks.map(tuple)
    assert ways.to_dict() == {"mean": ("repeats", "icl", "blimp"), "zero": ("repeats", "icl")}  # specificity: the first
    assert sets[sets.purpose == "control"].tasks.map(tuple).unique().tolist() == [("repeats", "icl")]
    assert set(planned[planned.family == "iteration:copy"].condition) == {"copy"}
    assert planned.groupby("family").draw.max().drop("").eq(19).all() and planned.id.is_unique


def test_some_families_are_silenced_in_other_ways_as_well_on_their_own_tasks():
    asked = settings(also={"sink": ("induction",)})
    rows = pd.DataFrame(plan.plan("d", judged(MEMBERS), record(), ["repeats", "icl", "blimp"], asked)[0])
    also = rows[rows.kind == "sink"]
    assert also.id.tolist() == ["family/induction/2/sink"] and also.tasks.map(tuple).tolist() == [("repeats", "icl")]
    without = rows[rows.kind != "sink"].reset_index(drop=True)
    before = plan.plan("d", judged(MEMBERS), record(), ["repeats", "icl", "blimp"], settings())[0]
    pd.testing.assert_frame_equal(without, pd.DataFrame(before))  # nothing else is drawn anew


def test_no_control_holds_a_member_of_a_causal_family_where_there_are_heads_enough(planned):
    members = {head for family in MEMBERS.values() for head in family}
    controls_ = planned[planned.purpose == "control"]
    assert len(controls_) == 19 * 5
    for row in controls_.itertuples():
        assert not members & set(heads(row.heads)), row.id
        assert "no member of a causal family" in row.matching


def test_controls_are_different_sets_that_share_little(planned):
    for _, sets in planned[planned.purpose == "control"].groupby("family"):
        assert sets.heads.is_unique and overlap(sets.heads.map(heads).tolist()) <= 1 / 3
        assert sets.heads.map(lambda text: len(set(text.split()))).eq(sets.k).all()


def test_a_model_too_small_says_which_members_its_controls_hold():
    pool = Pool(HEADS[:24], KINDS, {"narrow": {(1, 0)}, "broad": set(HEADS[4:22]), "own": {(0, 0)}})
    sets = controls([(0, 0)], "own", pool, 19, np.random.default_rng(0))
    assert len(set(sets)) == 19 and ((1, 0),) not in sets and ((0, 0),) not in sets
    said = [matching([(0, 0)], control, pool) for control in sets]
    inside = [said[place] for place, control in enumerate(sets) if control[0] in pool.members["broad"]]
    assert inside and all("holds members: 1 of broad (18 of 24 heads are)" in text for text in inside)


def test_where_no_other_heads_are_there_is_no_control():
    pool = Pool(HEADS[:3], KINDS, {"own": set(HEADS[:2])})
    assert controls(list(HEADS[:2]), "own", pool, 19, np.random.default_rng(0)) == []


def test_stand_ins_come_from_the_same_kind_of_attention_and_near_layers():
    pool = Pool(HEADS, KINDS, {"own": {(4, 0)}})
    sets = controls([(4, 0)], "own", pool, 4, np.random.default_rng(0))
    assert all(KINDS[layer] == "window" and 3 <= layer <= 4 for [(layer, _)] in sets)


def test_single_heads_are_the_best_of_each_family_and_a_sample(planned):
    alone = planned[planned.purpose == "single"]
    assert {"L5H1", "L5H3", "L2H0"} <= set(alone.heads) and 5 <= len(alone) <= 10
    assert alone.tasks.map(tuple).unique().tolist() == [("repeats", "icl", "needle", "blimp", "iteration")]


def test_a_set_that_does_not_exist_is_named():
    with pytest.raises(UserError, match=r"plan\.leave_out: 'inductoin': not a set of heads; allowed: .*induction"):
        plan.plan("d", judged(MEMBERS), record(), ["blimp"], settings(leave_out=("inductoin",)))


def test_no_set_is_larger_than_what_there_is():
    tasks = ["repeats", "icl", "needle", "blimp", "iteration"]
    for least, size in ((1, lambda members: max(members, 1)), (10**6, lambda members: len(HEADS))):
        chosen = settings(top=10**6, least=least)
        rows = pd.DataFrame(plan.plan("d", judged(MEMBERS), record(), tasks, chosen)[0])
        sets = rows[(rows.purpose == "family") & rows.family.isin(["induction", "retrieval", "previous"])]
        assert {row.family: row.k for row in sets.itertuples()} == {
            family: size(len(MEMBERS[family])) for family in ("induction", "retrieval", "previous")
        }


def test_the_plan_is_the_same_every_time(planned):
    again, _ = plan.plan("d", judged(MEMBERS), record(), ["repeats", "icl", "needle", "blimp", "iteration"],
                         settings())  # fmt: skip
    assert pd.DataFrame(again).equals(planned)


def test_every_family_with_home_tasks_is_judged_on_a_split():
    assert {family.name for family in FAMILIES.values() if family.home} >= {"sink", "induction", "function"}


def test_control_sets_are_the_same_heads_in_every_way_that_is_controlled():
    members = {"sink": [(0, 1)], "retrieval": [(3, 2)]}
    asked = settings(also={"sink": ("sink",)}, controlled=("mean", "sink"))
    rows, _ = plan.plan("decoder", judged(members), record(), ["text", "needle"], asked)
    sets = pd.DataFrame(rows)
    controls = sets[sets.purpose == "control"]
    assert {name: sorted(of.kind.unique()) for name, of in controls.groupby("family")} == {
        "sink": ["mean", "sink"], "retrieval": ["mean"],
    }  # fmt: skip
    of_sink = controls[controls.family == "sink"]
    mean, sink = (of_sink[of_sink.kind == kind].set_index("draw") for kind in ("mean", "sink"))
    assert len(mean) == 19 and (mean.heads == sink.heads).all() and sets.id.is_unique
