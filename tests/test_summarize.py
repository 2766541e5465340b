"""Summaries of raw outcomes: changes, their controls, and intervals that hold prompts and draws."""

import numpy as np
import pandas as pd
import pytest

from stages.statistics.verdict import over_draws
from stages.store import tables
from stages.summarize import overlap, reliability, summarize_effects, summarize_steering

PROMPTS = 40


def raw(family: np.ndarray, draws: list[np.ndarray]) -> pd.DataFrame:
    """Raw effects of one family on one task: intact values 1, changes per prompt for it and its matched draws."""
    runs = [("none", 0, "", 0, np.zeros(PROMPTS)), ("retrieval", 5, "mean", 0, family)]
    runs += [("matched:retrieval", 5, "mean", number, change) for number, change in enumerate(draws)]
    same = {"heads": "", "task": "needle", "group": "400@0.5", "category": "400", "measure": "recall", "intact": 1.0}
    rows = [
        same
        | {"intervention": name, "k": k, "kind": kind, "draw": draw, "control": "same layers" if k else ""}
        | {"cluster": f"c{prompt // 2}", "prompt": f"p{prompt:02d}", "value": 1 + change[prompt]}
        for name, k, kind, draw, change in runs
        for prompt in range(PROMPTS)
    ]
    return pd.DataFrame(rows)[tables.EFFECTS.names]


def row(table: pd.DataFrame, name: str) -> pd.Series:
    return table[(table.intervention == name) & (table.group == "all")].iloc[0]


def test_a_change_stands_beside_its_control_and_their_difference():
    rng = np.random.default_rng(0)
    family, draws = rng.normal(-0.5, 0.1, PROMPTS), [rng.normal(-0.1, 0.1, PROMPTS) for _ in range(3)]
    table = summarize_effects(raw(family, draws), seed=1)
    mine, control = row(table, "retrieval"), row(table, "matched:retrieval")
    assert mine.change == pytest.approx(family.mean()) and control.change == pytest.approx(np.mean(draws))
    assert mine.versus_control == pytest.approx(family.mean() - np.mean(draws))
    assert mine.low < mine.change < mine.high < -0.4 and mine.versus_high < -0.3
    assert (mine.trials, mine.draws, control.draws) == (PROMPTS, 3, 3)
    by_hand = np.std(family.reshape(-1, 2).mean(axis=1)) / np.sqrt(PROMPTS // 2)  # prompts of a cluster go together
    assert (mine.high - mine.low) / (2 * 1.96) == pytest.approx(by_hand, rel=0.15)
    assert summarize_effects(raw(family, draws), seed=1).equals(table)


def test_draws_that_disagree_widen_the_interval_of_the_difference():
    """Two draws without effect and one as strong as the family: other draws could have shown no difference."""
    change, nothing = np.full(PROMPTS, -0.6), np.zeros(PROMPTS)
    agree = row(summarize_effects(raw(change, [nothing] * 3), seed=1), "retrieval")
    assert [agree.versus_low, agree.versus_high] == pytest.approx([-0.6, -0.6])
    differ = row(summarize_effects(raw(change, [nothing, nothing, change]), seed=1), "retrieval")
    assert differ.versus_control == pytest.approx(-0.4)
    assert [differ.low, differ.high, differ.versus_low, differ.versus_high] == pytest.approx([-0.6, -0.6, -0.6, 0.0])


def test_without_matched_draws_there_is_no_difference():
    table = summarize_effects(raw(np.full(PROMPTS, -0.6), []), seed=1)
    assert np.isnan(row(table, "retrieval").versus_control) and row(table, "retrieval").draws == 0


def test_one_draw_is_resampled_to_itself():
    means = np.arange(5.0)[:, None]
    assert over_draws(means, np.random.default_rng(0)).tolist() == means[:, 0].tolist()


def test_steering_pools_random_draws_and_reports_the_chosen_setting_only():
    one = {"function": "f", "split": "b", "context": "zero_shot", "layer": -1, "strength": 0.0, "heads": 4}
    rows = [
        one | {"prompt": f"p{n}", "cluster": f"c{n}", "vector": vector, "draw": draw, "chosen": chosen,
               "correct": correct, "logprob": -1.0}
        for n in range(6)
        for vector, draw, chosen, correct in (
            ("heads", 0, True, n < 3), ("heads", 0, False, True), ("random", 0, True, False), ("random", 1, True, True)
        )
    ]  # fmt: skip
    table = summarize_steering(pd.DataFrame(rows)[tables.STEERING.names], seed=0).set_index("vector")
    assert table.accuracy.to_dict() == {"heads": 0.5, "random": 0.5}
    assert table.trials.to_dict() == {"heads": 6, "random": 12}


def test_overlap_and_reliability_follow_the_heads_table():
    heads = [(layer, head) for layer in range(5) for head in range(4)]
    rows = [
        {"layer": layer, "head": head, "family": family, "score_a": at, "score_b": sign * at, "prompts": 9,
         "member": at < 4 if family == "induction" else 2 <= at < 6}
        for family, sign in (("induction", 1), ("retrieval", -1))
        for at, (layer, head) in enumerate(heads)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    found = overlap(table).set_index(["family_a", "family_b"])
    chance = 4 * 4 / 20
    expected = chance / (8 - chance)
    assert found.corrected["induction", "retrieval"] == pytest.approx((2 / 6 - expected) / (1 - expected))
    assert found.corrected["induction", "induction"] == pytest.approx(1.0)
    assert reliability(table).set_index("family").spearman.to_dict() == pytest.approx(
        {"induction": 1.0, "retrieval": -1.0}
    )
