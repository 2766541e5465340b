"""Single heads: exact where it ran, first order everywhere, and how far the two agree."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control

from stages.statistics import causal

LIMIT = 4.05  # nats: what a uniform guess loses
HEADS = [(layer, head) for layer in range(6) for head in range(4)]


def rng(name: str) -> np.random.Generator:
    return np.random.default_rng(len(name))


def tables(estimates: pd.DataFrame, ran: pd.DataFrame, kind: str = "mean") -> tuple[pd.DataFrame, pd.DataFrame]:
    return causal.tables(estimates, ran, kind, 10_000, rng, LIMIT)


def planted(noise: float = 0.0, sign: int = 1, prompts: int = 16) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Head i loses i / 10 nats; L0H0 nothing. First order says the same, but for noise; half of the heads ran."""
    draw, estimates, ran = np.random.default_rng(1), [], []
    for prompt in range(prompts):
        same = {"task": "text", "cluster": f"c{prompt}", "prompt": f"p{prompt}", "measure": "loss"}
        for index, (layer, head) in enumerate(HEADS):
            effect = index / 10 + (draw.normal(0, 0.01) if index else draw.normal(0, 1) * 1e-3)
            guess = sign * effect + draw.normal(0, noise)
            estimates += [
                same | {"layer": layer, "head": head, "kind": kind, "change": guess} for kind in ("mean", "zero")
            ]
            if index % 2 == 0 and prompt < prompts // 2:
                named = {"purpose": "single", "kind": "mean", "heads": f"L{layer}H{head}"}
                ran.append(same | named | {"value": 3 + effect, "intact": 3.0})
    return pd.DataFrame(estimates), pd.DataFrame(ran)


def test_all_heads_have_an_estimate_and_those_that_ran_an_exact_effect():
    table, _ = tables(*planted())
    assert list(table.columns) == causal.CAUSAL and len(table) == len(HEADS)
    assert table.exact.notna().sum() == len(HEADS) // 2
    assert table.change.equals(table.exact.fillna(table.first_order))
    assert table.first_order.to_numpy() == pytest.approx(np.arange(24) / 10, abs=0.02)


def test_a_head_without_which_the_model_is_worse_than_uniform_is_noted():
    """Head i loses 3 + i / 10 nats, and even ones ran: from the 12th on more than 4.05; an estimate says nothing."""
    table, _ = tables(*planted())
    assert list(table.index[table.note == "worse than uniform"]) == [12, 14, 16, 18, 20, 22]
    estimates, ran = planted()
    ran = ran.assign(measure="logprob", value=-ran.value, intact=-ran.intact)
    table, _ = tables(estimates.assign(measure="logprob"), ran)
    assert (table.note != "").sum() == 6


def test_intervals_hold_the_change_and_q_finds_the_planted_ones_among_those_that_ran():
    table, _ = tables(*planted())
    assert ((table.low <= table.change) & (table.change <= table.high)).all()
    ran = table.exact.notna()
    assert (table.q[ran][1:] < 0.05).all() and table.q[0] > 0.05
    assert table.q[~ran].isna().all()  # an estimate is not tested


def test_q_is_that_of_each_head_alone():
    """Eight clusters: sign flips counted in full, head by head, and adjusted over the heads that ran."""
    estimates, ran = planted(prompts=16)
    ran = ran.assign(value=ran.value + np.random.default_rng(5).normal(0, 2, len(ran)))
    table, _ = tables(estimates, ran)
    signs = np.array(list(product([-1, 1], repeat=8)))
    p = [
        min(1.0, 2 * min(np.mean(side * signs @ changes >= side * changes.sum() - 1e-9) for side in (1, -1)))
        for changes in (ran[ran["heads"] == f"L{layer}H{head}"].value.to_numpy() - 3 for layer, head in HEADS[::2])
    ]
    assert table.q[::2].to_numpy() == pytest.approx(false_discovery_control(p), abs=0.03)


def test_the_kind_is_the_one_asked_for():
    estimates, ran = planted()
    zero = estimates.assign(change=estimates.change.where(estimates.kind == "mean", 7.0))
    table, agreement = tables(zero, ran, "zero")
    assert (table.first_order == 7).all() and table.exact.isna().all() and agreement.heads[0] == 0


def test_agreement_is_what_it_is():
    _, perfect = tables(*planted())
    assert perfect.rank_correlation[0] == pytest.approx(1) and perfect.sign_agreement[0] >= 11 / 12
    assert perfect.heads[0] == 12 and perfect.top[0] == 12
    _, opposite = tables(*planted(sign=-1))
    assert opposite.rank_correlation[0] == pytest.approx(-1) and opposite.sign_agreement[0] <= 1 / 12
    _, noisy = tables(*planted(noise=5))
    assert abs(noisy.rank_correlation[0]) < 0.95


def test_without_heads_that_ran_there_is_no_agreement_and_nothing_is_made_up():
    estimates, ran = planted()
    table, agreement = tables(estimates, ran.iloc[:0])
    assert table.exact.isna().all() and table.change.equals(table.first_order)
    assert agreement.heads[0] == 0 and np.isnan(agreement.rank_correlation[0])


def test_few_clusters_have_no_interval():
    table, _ = tables(*planted(prompts=4))
    assert table.low.isna().all()


def test_nothing_measured_is_an_empty_table():
    estimates, ran = planted()
    table, agreement = tables(estimates.iloc[:0], ran)
    assert table.empty and agreement.empty and list(agreement.columns) == causal.AGREEMENT
