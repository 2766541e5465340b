"""Verdicts simulated: intervals cover, exchangeable plans are rarely significant, planted effects are found."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr, t

from stages import tasks
from stages.statistics import effects
from stages.statistics.control import matching_in_all, overlap
from stages.statistics.intervals import interval, wilson
from stages.statistics.ranks import adjusted, rank_p, score_with_effect
from stages.statistics.verdict import bounds, sign_flip
from stages.store import tables
from stages.tasks.iteration import tape


def normal(rng, owner, clusters):
    return rng.normal(size=clusters)[owner] + rng.normal(size=len(owner)), 0.0


def skewed(rng, owner, clusters):
    return 0.5 * rng.exponential(size=clusters)[owner] + rng.exponential(size=len(owner)), 1.5


def binary(share):
    def draw(rng, owner, clusters):
        of_cluster = rng.beta(4 * share, 4 * (1 - share), clusters)
        return (rng.random(len(owner)) < of_cluster[owner]).astype(float), share

    return draw


@pytest.mark.parametrize("clusters", [8, 20, 67])
@pytest.mark.parametrize(
    ("draw", "share"),
    [(normal, False), (skewed, False), (binary(0.5), True), (binary(0.8), True), (binary(0.9), True)],
)
def test_intervals_cover(clusters, draw, share):
    """Clusters of 1-9 prompts that share half of their variance or less; 2,000 samples: 95 % is 94-96 by chance."""
    rng, inside, samples = np.random.default_rng(clusters), 0, 2000
    for _ in range(samples):
        owner = np.repeat(np.arange(clusters), rng.integers(1, 10, clusters))
        values, truth = draw(rng, owner, clusters)
        low, high = interval(values, owner, share=share)
        inside += low <= truth <= high
    assert 0.92 <= inside / samples <= 0.98


def attention(share):
    def draw(rng, owner, clusters):
        of_cluster = np.clip(rng.beta(10 * share, 10 * (1 - share), clusters), 1e-9, 1 - 1e-9)[owner]
        return rng.beta(10 * of_cluster, 10 * (1 - of_cluster)), share

    return draw


def hits(rng, owner, clusters):
    of_cluster = rng.beta(1.5, 3.5, clusters)[owner]
    queries = rng.integers(1, 6, len(owner))
    return rng.binomial(queries, of_cluster) / queries, 0.3


def often_nothing(rng, owner, clusters):
    return (rng.random(clusters) < 0.5)[owner] * rng.beta(2.4, 5.6, len(owner)), 0.15


def indirect(rng, owner, clusters):
    return rng.normal(0, 0.01, len(owner)) + (rng.random(clusters) < 0.5)[owner] * rng.beta(2, 4, len(owner)), 1 / 6


@pytest.mark.parametrize("clusters", [8, 20, 67])
@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize(
    ("draw", "share"),
    [
        *[(attention(0.1), True), (attention(0.4), True), (attention(0.8), True)],
        *[(hits, True), (often_nothing, True), (indirect, False)],
    ],
)
def test_bounds_of_scores_cover(clusters, alone, draw, share):
    """Scores of heads: bounded, skewed, often 0; a prompt per cluster or 1-9; 1,000 heads: 95 % is 93.6-96.4."""
    rng = np.random.default_rng(clusters)
    owner = np.arange(clusters) if alone else np.repeat(np.arange(clusters), rng.integers(1, 10, clusters))
    values_PH, truth = zip(*(draw(rng, owner, clusters) for _ in range(1000)), strict=True)
    low_H, high_H = bounds(np.stack(values_PH, axis=1), owner, np.ones(len(owner)), share)
    inside = np.mean((low_H <= truth[0]) & (truth[0] <= high_H))
    assert 0.92 <= inside <= 0.98


def test_an_interval_of_equal_clusters_without_skew_is_students():
    values = np.array([-3.0, -2, -1, 0, 0, 1, 2, 3])
    reach = t.ppf(0.975, 7) * values.std(ddof=1) / np.sqrt(8)
    assert interval(values, np.arange(8)) == pytest.approx((-reach, reach))
    assert interval(values.repeat(3), np.arange(8).repeat(3)) == pytest.approx((-reach, reach))  # prompts go together
    weights = np.array([1.0, 1, 1, 1, 1, 1, 1, 1, 0])
    assert interval([*values, 99], np.arange(9), weights) == pytest.approx((-reach, reach))


def test_below_eight_clusters_there_is_no_interval():
    assert np.isnan(interval(np.arange(70.0), np.arange(70) % 7)).all()
    assert np.isnan(interval([1.0] * 7 + [np.nan], np.arange(8))).all()  # a prompt without a value is none
    assert np.isnan(interval([], [])).all()


def test_shares_without_spread_are_not_certain():
    none, all_right = interval([0.0] * 10, np.arange(10), share=True), interval([1.0] * 10, np.arange(10), share=True)
    bound = wilson(0, 10, t.ppf(0.975, 9))[1]
    assert none == pytest.approx((0, bound)) and all_right == pytest.approx((1 - bound, 1)) and 0.25 < bound < 0.4
    assert interval([0.0] * 10, np.arange(10), change=True) == pytest.approx((-bound, bound))
    assert interval([-1.0] * 10, np.arange(10), change=True) == pytest.approx((-1, bound - 1))
    many = interval([1.0] * 100, np.arange(10).repeat(10), share=True)
    assert many == pytest.approx(all_right)  # clusters count, not prompts


def test_equal_clusters_are_no_certainty():
    eighths = np.arange(8).repeat(4)
    right = np.tile([1.0, 1, 1, 0], 8)
    assert interval(right, eighths, share=True) == pytest.approx(wilson(0.75, 8, t.ppf(0.975, 7)))
    thirds = interval(np.tile([1.0, 0, 0], 8), np.arange(8).repeat(3), share=True)  # means that rounding sets apart
    assert thirds == pytest.approx(wilson(1 / 3, 8, t.ppf(0.975, 7)))
    lost = interval(-right, eighths, change=True)
    assert lost[0] == pytest.approx(-wilson(0.75, 8, t.ppf(0.975, 7))[1]) and -0.75 < lost[1] < 0
    low, high = interval(np.tile([1.0, -1, 0, 0], 8), eighths, change=True)  # as many gained as lost
    assert low == pytest.approx(-high) and 0.3 < high < 0.5
    low, high = interval(np.tile([1.0, -0.5, 0, 0], 8), eighths, change=True)
    assert -0.4 < low < 0.125 < high < 0.6


def test_wilson_is_the_published_formula():
    """Newcombe (1998, Table I): 81 of 263, 95 %."""
    assert wilson(81 / 263, 263, 1.959964) == pytest.approx((0.2553, 0.3662), abs=1e-4)


def test_nan_is_never_significant():
    values = np.random.default_rng(0).normal(3, 1, (20, 3))
    values[4, 1] = np.nan
    p = sign_flip(values, np.arange(20), 1000, np.random.default_rng(0))
    assert np.isnan(p[1]) and (p[[0, 2]] < 0.01).all()
    assert np.isnan(rank_p(np.nan, [0.0] * 19)).all() and np.isnan(rank_p(1.0, [0.0, np.nan])).all()
    assert np.isnan(rank_p(1.0, [])).all()


def test_rank_p_counts_sets_at_least_as_harmful():
    assert rank_p(2.0, [1.0, 2.0, 3.0]) == (3 / 4, 1 / 4)
    assert rank_p(4.0, np.arange(19) / 10) == (1 / 20, 1 / 20)


def test_what_float32_does_to_a_tie_or_a_recall_leaves_it_a_tie():
    lost = np.float32([0.6, 0.2]) - np.float32([0.8, 0.4])  # a fifth of each, by another rounding
    assert lost[0] != lost[1] and rank_p(*(lost[:1].astype(float)), lost[1:]) == (1.0, 0.5)
    assert rank_p(*(lost[1:].astype(float)), lost[:1]) == (1.0, 0.5) and rank_p(1e-3, [1e-3 - 1e-6]) == (0.5, 0.5)


@pytest.mark.parametrize("lost", range(1, 20))
def test_control_sets_that_lose_as_much_are_counted_in_float32_as_well(lost):
    planned = plan()
    changes = {name: -np.roll(np.arange(PROMPTS) < lost, shift).astype(float) for shift, name in enumerate(planned.id)}
    written = raw(changes, planned).astype({"value": np.float32, "intact": np.float32})  # as Parquet holds them
    assert silenced(table_of(written, planned, 1000)).p == 1


def test_adjusted_leaves_untested_claims_out():
    q = adjusted(np.array([0.01, np.nan, 0.04, 0.03]))
    assert np.isnan(q[1]) and q[[0, 2, 3]] == pytest.approx([0.03, 0.04, 0.04])
    assert np.isnan(adjusted(np.full(3, np.nan))).all()


def test_overlap_is_the_mean_jaccard_of_all_pairs():
    assert overlap([["a", "b"], ["b", "c"], ["d", "e"]]) == pytest.approx(1 / 9)
    assert np.isnan(overlap([["a"]]))


PROMPTS = 24
SETS = 19


def plan(controls: int = SETS, tasks=("needle",)) -> pd.DataFrame:
    """A family's set of two heads, silenced by mean and zero, and its control sets."""
    same = {"family": "retrieval", "k": 2, "tasks": list(tasks), "condition": ""}
    rows = [
        same | {"id": f"family/{kind}", "purpose": "family", "kind": kind, "draw": 0, "heads": "L1H0 L2H0"}
        | {"members": 2, "matching": ""}
        for kind in ("mean", "zero")
    ]  # fmt: skip
    rows += [
        same | {"id": f"control/{draw}", "purpose": "control", "kind": "mean", "draw": draw, "members": 0}
        | {"heads": f"L1H{draw} L2H1", "matching": "same layers"}
        for draw in range(1, controls + 1)
    ]  # fmt: skip
    return pd.DataFrame(rows)[tables.PLANS.names]


def raw(
    changes: dict[str, np.ndarray], plan: pd.DataFrame, task="needle", measure="recall", intact=1.0, prompts=PROMPTS
):
    """Raw effects of the plan's rows on one task; changes: per prompt, by id of the intervention."""
    of_plan = plan.set_index("id")
    rows = []
    for name in ["none", *changes]:
        change = changes.get(name, np.zeros(prompts))
        row = {"purpose": "none", "family": "", "k": 0, "kind": "", "draw": 0, "heads": ""}
        if name != "none":
            row = {column: of_plan.loc[name, column] for column in row}
        for number in range(prompts):
            where = {
                "condition": f"400@{number % 2}",
                "category": "400",
                "cluster": f"c{number // 2}",
                "measure": measure,
            }
            value = {"prompt": f"p{number:02d}", "value": intact + change[number], "intact": intact}
            rows.append({"intervention": name, "task": task} | row | where | value)
    return pd.DataFrame(rows)[tables.EFFECTS.names]


def table_of(raw: pd.DataFrame, plan: pd.DataFrame, vocabulary: int) -> pd.DataFrame:
    return effects.table([raw], plan, vocabulary)


def silenced(table: pd.DataFrame, kind="mean", condition="all") -> pd.Series:
    return table[(table.purpose == "family") & (table.kind == kind) & (table.condition == condition)].iloc[0]


def many(effects_FD: np.ndarray, rng: np.random.Generator) -> pd.Series:
    """Return the rank p of each family through the table of effects.

    effects: of a family's set and its control sets on recall; every prompt adds its own, with the same spread.
    """
    families, sets = effects_FD.shape
    rows = pd.DataFrame({"family": np.repeat([f"f{number}" for number in range(families)], sets)})
    rows["draw"] = np.tile(np.arange(sets), families)
    rows["purpose"] = np.where(rows.draw == 0, "family", "control")
    rows["id"] = rows.purpose + "/" + rows.family + "/" + rows.draw.astype(str)
    rows["heads"] = "L" + rows.draw.astype(str) + "H0"
    same = {
        "k": 1,
        "kind": "mean",
        "members": 1,
        "tasks": [["needle"]] * len(rows),
        "condition": "",
        "matching": "same",
    }
    planned = rows.assign(**same)[tables.PLANS.names]
    change = effects_FD.reshape(-1, 1) + rng.normal(0, 0.1, (len(rows), PROMPTS))
    read = planned.loc[np.repeat(planned.index, PROMPTS)].rename(columns={"id": "intervention"})
    read["value"] = 1 + change.ravel()
    none = {"intervention": "none", "purpose": "none", "family": "", "k": 0, "kind": "", "draw": 0, "heads": ""}
    read = pd.concat([pd.DataFrame([none | {"value": 1.0}] * PROMPTS), read], ignore_index=True)
    number = np.tile(np.arange(PROMPTS), len(rows) + 1)
    prompts, clusters = (np.array([f"{number // size}" for number in range(PROMPTS)]) for size in (1, 2))
    where = {"task": "needle", "condition": "400@0.5", "category": "400", "measure": "recall", "intact": 1.0}
    read = read.assign(prompt=prompts[number], cluster=clusters[number], **where)[tables.EFFECTS.names]
    table = table_of(read, planned, 1000)
    return table[table.purpose == "family"].set_index("family").p


def test_exchangeable_plans_are_rarely_significant_and_planted_effects_are_found():
    """1,000 families, each set one more draw from what its controls come from; sets and prompts spread alike."""
    rng = np.random.default_rng(5)
    effect_FD = rng.normal(-0.3, 0.1, (1000, SETS + 1))
    p = many(effect_FD, rng)
    assert len(p) == 1000 and p.min() == 1 / (SETS + 1)
    assert 0.02 <= np.mean(p <= 0.05) <= 0.08 and 0.45 <= p.mean() <= 0.6
    planted = effect_FD[:40] - 0.5 * (np.arange(SETS + 1) == 0)
    assert np.mean(many(planted, rng) == 1 / (SETS + 1)) >= 0.95
    assert np.mean(many(planted + 1.0 * (np.arange(SETS + 1) == 0), rng) > 0.9) >= 0.95  # what helps is no harm


def test_one_familys_claim_is_found_and_adjusted():
    rng, planned = np.random.default_rng(5), plan()
    changes = {name: rng.normal(0, 0.1, PROMPTS) for name in planned.id}
    changes["family/mean"] = rng.normal(-0.5, 0.1, PROMPTS)
    row = silenced(table_of(raw(changes, planned), planned, 1000))
    assert row.p == row.p_floor == row.q == 1 / 20


def test_tasks_may_be_read_one_after_the_other():
    rng, planned = np.random.default_rng(6), plan(tasks=("needle", "repeats"))
    changes = {name: rng.normal(-0.1, 0.05, PROMPTS) for name in planned.id}
    needle, repeats = raw(changes, planned), raw(changes, planned, "repeats", "loss", 3.0)
    whole = effects.table([pd.concat([repeats, needle])], planned, 1000)
    pd.testing.assert_frame_equal(effects.table([repeats, needle], planned, 1000), whole)
    pd.testing.assert_frame_equal(effects.table([needle, repeats], planned, 1000), whole)
    order = whole[["purpose", "kind", "task"]].drop_duplicates().to_numpy().tolist()
    assert [row[0] for row in order] == ["none", "none", "family", "family", "control", "control", "family", "family"]
    assert [row[2] for row in order] == ["needle", "repeats"] * 4
    assert whole.q.notna().sum() == 2  # the family's two home tasks


def test_a_family_stands_beside_its_control_sets():
    rng, planned = np.random.default_rng(0), plan()
    changes = {name: rng.normal(-0.1, 0.05, PROMPTS) for name in planned.id}
    table = table_of(raw(changes, planned), planned, 1000)
    assert tuple(table.columns) == tuple(effects.COLUMNS)
    row, controls = silenced(table), table[table.purpose == "control"]
    worse = sum(changes[f"control/{draw}"].mean() <= changes["family/mean"].mean() for draw in range(1, SETS + 1))
    assert row.p == pytest.approx((1 + worse) / 20) and row.controls == SETS == len(controls)
    assert row.change == pytest.approx(changes["family/mean"].mean()) and row.low < row.change < row.high
    assert row.control_change == pytest.approx(controls.change.mean())
    assert (row.heads, row.members, row.matching) == ("L1H0 L2H0", 2, "same layers")
    assert row.overlap == pytest.approx(1 / 3)  # any two control sets share one head of three
    assert (row.trials, row.clusters) == (PROMPTS, PROMPTS // 2)
    zero = silenced(table, "zero")
    assert np.isnan(zero.p) and np.isnan(zero.q) and zero.controls == 0 and zero.low < zero.high  # no controls of it
    assert controls.low.isna().all() and controls.p.isna().all() and list(controls.draw) == list(range(1, SETS + 1))
    condition = silenced(table, condition="400@0")
    assert (
        np.isnan(condition.p) and np.isnan(condition.q) and condition.note == "12 prompts: fewer than 20"
    )  # too few for a claim
    assert list(table.purpose.unique()) == ["none", "family", "control"]


def test_few_clusters_have_no_interval_and_say_so():
    planned = plan()
    changes = {name: np.full(10, -0.1) for name in planned.id}
    row = silenced(table_of(raw(changes, planned, prompts=10), planned, 1000))
    assert np.isnan(row.low) and row.note == "10 prompts: fewer than 20; 5 clusters: fewer than 8, no interval"


def test_what_the_intact_model_cannot_do_cannot_be_lost():
    planned = plan()
    changes = {name: np.zeros(PROMPTS) for name in planned.id}
    row = silenced(table_of(raw(changes, planned, intact=0.1), planned, 1000))
    assert row.note.startswith("not measurable: the intact model's recall is 0.10") and np.isnan(row.p)
    pairs = table_of(raw(changes, planned, "blimp", "accuracy", 0.5), planned, 1000)
    assert "is not above chance, 0.50" in silenced(pairs).note and np.isnan(silenced(pairs).q)
    assert "is not above chance" in pairs[pairs.purpose == "none"].note.iloc[0]
    text = table_of(raw(changes, planned, "text", "loss", 7.0), planned, 1000)
    assert "is not below a uniform guess, 6.91" in silenced(text).note


def test_a_guess_at_tapes_is_no_skill():
    """What a guess gets in the task's parts is that of its shortest strings, of which there is the most to guess."""
    guessed = tasks.of("iteration").chance_in
    assert guessed == {name: pytest.approx(tape.chance(name, 4)[0]) for name in tape.SYMBOLS}
    assert all(tape.chance(name, length)[0] <= guessed[name] + 1e-9 for name in guessed for length in range(5, 40))
    planned = plan(tasks=("iteration",))
    changes = {name: np.zeros(PROMPTS) for name in planned.id}
    for name, intact, said in (
        ("parity", 0.5, "recall, 0.50, is not above chance, 0.50"), ("polynomial", 0.4, "not above chance, 0.47"),
        ("polynomial", 0.5, "not above chance, 0.47"), ("parity", 0.9, ""), ("copy", 0.7, ""),
    ):  # fmt: skip
        rows = raw(changes, planned, "iteration", "recall", intact).assign(condition=name)
        row = silenced(table_of(rows, planned, 1000))
        assert said in row.note and (row.note == "") == (said == "") == (row.p == 1)
    mixed = raw(changes, planned, "iteration", "recall", 0.4)
    mixed["condition"] = np.where(mixed.condition == "400@0", "copy", "parity")
    table = table_of(mixed, planned, 1000)
    assert "not above chance, 0.30" in silenced(table).note  # what a guess gets of both together
    assert silenced(table, condition="copy").note == "12 prompts: fewer than 20"
    assert "not above chance, 0.50" in silenced(table, condition="parity").note


def test_a_loss_above_a_uniform_guess_is_flagged():
    planned = plan()
    changes = {name: np.zeros(PROMPTS) for name in planned.id} | {"family/mean": np.full(PROMPTS, 5.0)}
    table = table_of(raw(changes, planned, "repeats", "loss", 3.0), planned, 1000)
    assert silenced(table).note == "worse than uniform" and silenced(table, "zero").note == ""
    assert silenced(table).p == 1 / 20  # more loss is more harm


def test_every_measure_is_summarised_and_the_main_one_is_the_claim():
    planned = plan()
    rng = np.random.default_rng(1)
    changes = {name: rng.normal(-0.1, 0.05, PROMPTS) for name in planned.id}
    both = pd.concat(
        [raw(changes, planned, "blimp", measure, level) for measure, level in (("accuracy", 0.9), ("margin", 3.0))]
    )
    ties = both[both.measure == "accuracy"].assign(measure="ties", value=0.05)
    table = table_of(pd.concat([both, ties]), planned, 1000)
    intact = table[table.purpose == "none"].set_index("measure")
    assert list(intact.index) == ["accuracy", "margin", "ties"] and intact.value["ties"] == pytest.approx(0.05)
    assert intact.note["accuracy"] == "5.0 % ties, counted half"
    family = table[(table.purpose == "family") & (table.kind == "mean")].set_index("measure")
    assert list(family.index) == ["accuracy", "margin"] and set(table.measure[table.purpose == "control"]) == set(
        family.index
    )
    assert family.p.notna().all() and family.q["accuracy"] > 0 and np.isnan(family.q["margin"])


def test_nothing_silenced_leaves_rows_of_the_intact_model():
    planned = plan().head(0)
    table = table_of(raw({}, plan()), planned, 1000)
    assert set(table.purpose) == {"none"} and table.q.isna().all()
    assert table_of(raw({}, plan()).head(0), planned, 1000).empty


def test_a_score_that_goes_with_the_effect_is_told_from_one_that_goes_with_depth():
    rng = np.random.default_rng(3)
    layers = np.arange(12).repeat(8)
    effect = layers + rng.normal(0, 1, 96)  # late layers matter more
    deep = layers + rng.normal(0, 1, 96)  # and score more, whatever the head does
    rho, p = score_with_effect(deep, effect, layers, rng, 2000)
    assert rho == pytest.approx(spearmanr(deep, effect).statistic) and rho > 0.8 and p > 0.01
    within = effect + rng.normal(0, 1, 96)
    assert score_with_effect(within, effect, layers, rng, 2000)[1] == 1 / 2001
    shuffle = rng.permutation(96)  # the order of heads is no matter
    assert score_with_effect(deep[shuffle], effect[shuffle], layers[shuffle], rng, 2000)[0] == pytest.approx(rho)


def test_score_with_effect_is_calibrated_within_layers():
    rng = np.random.default_rng(4)
    layers = np.arange(6).repeat(4)
    p = [
        score_with_effect(layers + rng.normal(size=24), layers + rng.normal(size=24), layers, rng, 200)[1]
        for _ in range(400)
    ]
    assert 0.02 <= np.mean(np.array(p) <= 0.05) <= 0.09


def test_score_with_effect_leaves_out_heads_without_a_value():
    scores, effect = np.array([1.0, 2, 3, np.nan]), np.array([1.0, 2, 3, 4])
    assert score_with_effect(scores, effect, np.zeros(4), np.random.default_rng(0), 100)[0] == pytest.approx(1)
    assert np.isnan(score_with_effect(scores[:2], effect[:2], np.zeros(2), np.random.default_rng(0), 10)).all()
    assert np.isnan(score_with_effect(np.ones(4), effect, np.zeros(4), np.random.default_rng(0), 10)).all()


def test_how_all_control_sets_are_matched_is_said_in_one_line():
    alike = "1 of 3 in the same layers, {} of 3 of the same attention kind; {}"
    sink = "holds members: 2 of sink (57 of 72 heads are)"
    levels = pd.Series([alike.format(3, sink), alike.format(2, f"{sink}, 1 of grammar:det (9 of 72 heads are)")])
    assert matching_in_all(levels) == (
        "1 of 3 in the same layers, 2 to 3 of 3 of the same attention kind; "
        "1 of 2 sets hold members of grammar:det, 2 of 2 sets hold members of sink"
    )
    assert matching_in_all(levels[:1].replace(sink, "x")).endswith("hold members of sink")
    clean = pd.Series([alike.format(3, "no member of a causal family")] * 2)
    assert matching_in_all(clean).endswith("; no member of a causal family")


def test_differences_of_one_sign_are_shares_and_no_arm_runs_away():
    lost = np.array([-1.0] * 2 + [0.0] * 28)
    low, high = interval(lost, np.arange(30), change=True)
    assert -0.25 < low < -2 / 30 < 0 < high < 0.12  # two pairs of 30 may be chance
    assert interval(np.array([-1.0] * 15 + [0.0] * 15), np.arange(30), change=True)[1] < -0.2
    assert interval(-lost, np.arange(30), change=True) == (-high, -low)
    mixed = np.array([-1.0, -1.0, 0.5] + [0.0] * 9)
    low, high = interval(mixed, np.arange(12), change=True)
    assert low > mixed.mean() - 2.5 * 2.3 * mixed.std(ddof=1) / np.sqrt(12)


def test_q_is_over_the_claims_of_one_way_of_silencing():
    """Redirected heads that stand out as well leave the q of mean ablation as it is without them."""

    def rows(kind: str, family: str, harms: list[float]) -> list[dict]:
        made = []
        for draw, harm in enumerate(harms):  # the first is the family's
            purpose = "control" if draw else "family"
            same = {"intervention": f"{purpose}/{family}/{kind}/{draw}", "purpose": purpose, "family": family, "k": 1}
            same |= {"kind": kind, "draw": draw, "heads": f"L{draw}H0", "task": "text", "condition": "", "category": ""}
            made += [same | {"cluster": f"c{n}", "prompt": f"p{n}", "measure": "loss", "value": 3 + harm + 0.001 * n,
                             "intact": 3.0} for n in range(20)]  # fmt: skip
        return made

    mean = [*rows("mean", "sink", [1.0] + [0.1] * 19), *rows("mean", "previous", [0.0] + [0.1] * 19)]
    both = [*mean, *rows("sink", "sink", [1.0] + [0.1] * 19)]
    tables = {}
    for name, made in (("mean", mean), ("both", both)):
        raw = pd.DataFrame(made)
        plan = raw.drop_duplicates("intervention").rename(columns={"intervention": "id"})
        table = effects.table([raw], plan.assign(members=1, matching="", tasks=[["text"]] * len(plan)), 1000)
        tables[name] = table[table.p.notna()].set_index(["kind", "family"]).q
    assert tables["mean"].to_dict() == {("mean", "sink"): 0.1, ("mean", "previous"): 1.0}
    assert tables["both"].to_dict() == tables["mean"].to_dict() | {("sink", "sink"): 0.05}
