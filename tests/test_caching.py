"""What the page says of gates, caches and text under streaming: also where there is nothing to lose."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from test_page import model, render, text_of, write_slot

from stages.gates import _rankings
from stages.page.sections import streaming
from stages.statistics import caching
from stages.statistics.intervals import interval


def measured(change: float) -> pd.DataFrame:
    rows = []
    for layer in range(2):
        for head in range(2):
            far = layer == head == 1
            rows.append({"layer": layer, "head": head, "key_head": 0, "layer_window": None, "key_change": 0.1,
                         "mass": 0.1, "change": change if far else 0.01, "logprob": -change if far else 0.0,
                         "key_logprob": 0.0, "low": 0.05 if far else 0.0, "high": 0.9 if far else 0.02,
                         "key_low": 0.08, "key_high": 0.12, "mass_answer": 0.2 * head,
                         "wu": 0.1 * head, "induction": 0.0,
                         "echo": 0.0, "prompts": 20 if far else 2, "key_prompts": 20, "weighed": 2})  # fmt: skip
    return pd.DataFrame(rows)


THRESHOLDS = {"gate": 0.1, "logprob": 0.1, "mass": 0.05, "mass_answer": 0.05, "wu": 0.1, "induction": 0.4, "echo": 0.4}


def cached(gate: float, none: float, random: list[float], whole: float = 0.9, shares=(0.5,)) -> pd.DataFrame:
    rows, full = [], {("gate", 0.5): "L0K0 L1K0", ("gate", 0.25): "L1K0"}
    tried = [("full", 1.0, 0, whole), ("none", 0.0, 0, none), ("gate", 0.5, 0, gate), ("gate", 0.25, 0, gate)]
    tried += [("random", share, draw, value) for share in shares for draw, value in enumerate(random, start=1)]
    for prompt in range(20):
        for method, share, draw, value in tried:
            held = full.get((method, share), "L0K0 L1K0" if draw < 3 else "L0K0 L0K1")
            rows.append({"task": "needle", "measure": "recall", "method": method, "share": share, "kept_heads": held,
                         "kept": round(4 * share), "draw": draw, "entries": 0.6, "prompt": f"p{prompt}",
                         "cluster": f"p{prompt}", "value": value})  # fmt: skip
    return caching.table(pd.DataFrame(rows))


def streamed(bare: float, sunk: float) -> pd.DataFrame:
    rows = []
    for passage in range(8):
        for sinks, positions, change in [(-1, "text", 0.0), (0, "text", bare), (4, "text", sunk), (4, "cache", sunk)]:
            for length in (64, 128):
                rows.append({"prompt": f"p{passage}", "cluster": f"p{passage}", "sinks": sinks, "positions": positions,
                             "length": length, "tokens": 8, "loss": 3.0 + change * (1 + 0.01 * passage)})  # fmt: skip
    return caching.streamed(pd.DataFrame(rows))


def page(
    folder, change=0.5, gate=0.88, none=0.1, random=(0.5,) * 19, bare=2.0, sunk=0.1, whole=0.9, free=(), shares=(0.5,)
) -> str:
    gates = measured(change)
    overlap, policy = caching.overlap(gates, THRESHOLDS), {"sinks": 4, "window": 32}
    tables = {"gates": gates, "gates_overlap": overlap, "streaming": streamed(bare, sunk)}
    tables["model"] = model() | {"attention_free": list(free)}
    folder = write_slot(folder / "decoder", **tables)
    cached(gate, none, list(random), whole, shares).to_csv(folder / "cache.csv", index=False)
    (folder / "cache.json").write_text(pd.Series(policy).to_json())
    return text_of(render(folder))


def test_the_page_says_which_heads_cannot_stream_and_what_half_a_cache_costs(tmp_path):
    shown = page(tmp_path)
    assert "3 of 4 query heads, streaming alone, move the last hidden state by less than 0.1" in shown
    assert "1 move it by more: L1H1 0.50 [0.05, 0.90] (log-probability of the answer −0.50 nats a token)" in shown
    assert "On which side of 0.1 is not told for L1H1 0.50 [0.05, 0.90]." in shown
    assert "3 heads moved it by less than 0.075 on the first 2 and rest on these 2 alone, too few for a claim" in shown
    assert "attention to what is cut over 2 needle prompts, too few for a claim, of split a" in shown
    keys = "Of 2 key heads, all readers streaming together, 2 move it by 0.1 or more: L0K0 0.10 "
    keys += "[0.08, 0.12] and L1K0 0.10 [0.08, 0.12] (mean"
    assert keys in shown
    half = "0.88 when the 2 of 4 key heads with the largest gates keep all (60 % of the entries)"
    assert half in shown and "its mean is within 0.05 of full, harm +0.020" in shown
    drawn = "As many key heads at random: 0.50 (mean of 19 sets, the best 0.50); 19 of these sets lose more than the "
    drawn += "gate's, 0 are within 0.05 of full; rank p = 0.05 (floor 0.05): half of the cache's key heads are enough"
    assert drawn in shown
    assert (
        "2 of the random sets hold the 1 with the largest gates (L1K0): recall 0.50, without 0.50. By chance 50 % of"
        in shown
    )
    assert "Fewer key heads by the gate: 0.88 with 1." in shown
    assert (
        "a window of 32 without first tokens does harm +2.070" in shown and "sinks take 95 % off its mean harm" in shown
    )


def test_the_page_says_how_random_sets_and_other_rankings_do(tmp_path):
    folder, rows = write_slot(tmp_path / "decoder", gates=measured(0.5)), []
    losses = [("full", 1.0, 0, 3.0), ("none", 0.0, 0, 4.0), ("gate", 0.5, 0, 3.1)]
    losses += [("random", 0.5, draw, 3.05 if draw == 1 else 3.5) for draw in range(1, 20)]
    losses += [("gate", 0.25, 0, 3.8), ("random", 0.25, 1, 3.6), ("random", 0.25, 2, 3.9)]
    recalls = [("full", 1.0, 0, 0.9), ("none", 0.0, 0, 0.0), ("gate", 0.5, 0, 0.9), ("first", 0.25, 0, 0.2)]
    recalls += [("first", 0.5, 0, 0.4), ("retrieval", 0.5, 0, 0.7), ("retrieval", 0.25, 0, 0.3)]
    for task, measure, tried in (("text", "loss", losses), ("needle", "recall", recalls)):
        for method, share, draw, value in tried:
            rows += [{"task": task, "measure": measure, "method": method, "share": share, "kept": round(4 * share),
                      "kept_heads": "L0K0", "draw": draw, "entries": share, "prompt": f"p{number}",
                      "cluster": f"p{number}", "value": value} for number in range(8)]  # fmt: skip
    caching.table(pd.DataFrame(rows)).to_csv(folder / "cache.csv", index=False)
    caching.overlap(measured(0.5), THRESHOLDS).to_csv(folder / "gates_overlap.csv", index=False)
    shown = text_of(render(folder))
    drawn = "kept by the gate (18 of 19 random sets of as many do more harm, their mean loss 3.476, the lowest 3.050; "
    assert drawn + "rank p = 0.10, floor 0.05)." in shown
    assert (
        "Other rankings at half: the first layers 0.40 and by Wu's retrieval score 0.70. Other rankings at 0.250"
        in shown
    )
    fewer = "With 1 kept, +0.800 [+0.800, +0.800] (1 of 2 random sets of as many do more harm, their mean loss 3.750, "
    assert fewer + "the lowest 3.600; rank p = 0.67, floor 0.33)." in shown
    assert "Loss on text, 8 passages, too few for a claim, at every 4th token: 3.000 nats a token" in shown
    assert "the text has no random sets" not in shown


def test_the_page_says_that_nothing_is_lost_or_told_apart(tmp_path):
    shown = page(tmp_path, change=0.02, gate=0.5, random=(0.6,) * 9, bare=0.0)
    assert "None of 4 query heads, streaming alone, moves the last hidden state by 0.1 of its length or more" in shown
    assert "not within 0.05 of full, harm +0.400" in shown and "rank p = 1.00 (floor 0.10): too few random" in shown
    assert "the window alone is not told apart from full attention" in shown
    some = page(tmp_path / "some", random=(0.9,) * 3 + (0.5,) * 16)
    assert "16 of these sets lose more than the gate's, 3 are within 0.05 of full" in some
    assert "not told apart from random sets, 3 of which do as well or better." in some
    worse = page(tmp_path / "worse", gate=0.6)
    assert "better than chance, and yet half of the key heads are not enough" in worse
    both = {"shares": (0.25, 0.5)}
    assert "by the gate: 0.88 with 1 (19 of 19 random sets lose more" in page(tmp_path / "both", **both)
    easy = page(tmp_path / "easy", none=0.88, **both)
    assert "There is little to lose" in easy and "rank p = 0.05 (floor 0.05)." not in easy
    found = "ith half of the key heads cut to a few first tokens and a window, recall of needles is 0.88"
    assert found in easy and "nothing to lose: with" not in easy
    unable = page(tmp_path / "unable", gate=0.03, none=0.0, random=(0.0,) * 19, whole=0.0, **both)
    assert "There is nothing to lose: with the full cache it recalls as good as nothing; no cache is tested." in unable
    assert "is enough for these prompts" not in unable and "recall of needles is" not in unable
    assert "by the gate: 0.88 with 1. " in easy and "by the gate: 0.03 with 1. " in unable  # not tested: no rank either


def test_the_page_says_what_is_not_cut_in_a_model_that_attends_in_some_blocks_only(tmp_path):
    hybrid, whole = page(tmp_path / "hybrid", free=[2, 5]), page(tmp_path / "whole")
    said = "What blocks 2 and 5 without measured attention may carry from token to token, such as a recurrent state, is"
    assert said in hybrid and "such as a recurrent state" not in whole


def test_the_page_says_why_nothing_was_cut(tmp_path):
    shown = text_of(render(write_slot(tmp_path / "decoder")))
    assert "No cache was cut:" in shown


def test_definitions_are_counted_and_compared_over_heads():
    table = caching.overlap(measured(0.5), THRESHOLDS).set_index(["a", "b"])
    assert table.heads_a["gate", "gate"] == 1 and table.heads_a["mass", "mass"] == 4
    assert table.shared["gate", "wu"] == 1 and table.heads_b["gate", "wu"] == 2
    assert table.spearman["gate", "wu"] == pytest.approx(1 / 3**0.5)
    without = measured(0.5).drop(columns="wu").assign(wu=None)
    assert "wu" not in set(caching.overlap(without, THRESHOLDS).a)


def test_gates_have_intervals_over_clusters_and_none_of_few():
    rng, rows = np.random.default_rng(0), []
    for number in range(16):
        for head, key_head in ((0, 0), (1, 0), (caching.ALONE, 0)):
            if head != 1 or number < 3:
                rows.append({"prompt": f"p{number}", "split": "a", "cluster": f"c{number}", "layer": 0, "head": head,
                             "key_head": key_head, "change": rng.uniform(0, 1), "logprob": 0.0, "mass": 0.1,
                             "mass_answer": 0.1})  # fmt: skip
    raw = pd.DataFrame(rows)
    table = caching.gates(raw, pd.DataFrame(columns=["family", "layer", "head", "score_a"]), {0: None})
    changes = raw[raw["head"] == 0].change
    assert (table.low[0], table.high[0]) == pytest.approx(interval(changes, [f"c{n}" for n in range(16)]))
    assert table.low[0] < table.change[0] < table.high[0] and table.key_low[0] < table.key_change[0]
    assert np.isnan(table.low[1]) and np.isnan(table.high[1]) and table.key_low[1] == table.key_low[0]


def test_what_is_measured_at_one_share_stands_side_by_side_and_a_half_is_a_half():
    """A ranking may be asked for at a share of nothing, and random sets and rankings at others than a half."""
    tried = [("full", 1.0, 0.9), ("none", 0.0, 0.1), ("gate", 0.25, 0.6), ("first", 0.25, 0.6), ("gate", 0.75, 0.7)]
    halves = [("gate", 0.5, 0.7), ("first", 0.5, 0.3)]
    rows = pd.DataFrame(tried + halves, columns=["method", "share", "value"]).assign(low=0.0, high=1.0)
    made = streaming.curve(rows, ["gate", "first", "none", "full"]).to_dict(format="vega-lite")
    drawn = pd.DataFrame(max(made["datasets"].values(), key=len))
    apart = drawn.groupby("share").x.agg(lambda x: x.nunique() == len(x))
    assert apart.all() and list(drawn[drawn.share.isin([0.0, 0.75, 1.0])].x) == [1.0, 0.0, 0.75]
    nothing = pd.DataFrame([{"method": "gate", "share": 0.0, "value": 0.1}])
    assert streaming._at(pd.concat([nothing, rows]), "gate").value == 0.7
    assert [streaming._at(rows, method).value for method in ("full", "none", "first")] == [0.9, 0.1, 0.3]
    assert streaming._at(nothing, "gate") is None


def test_loss_on_text_stands_beside_recall_as_what_it_is_more_than_with_all():
    rows = pd.DataFrame({"method": ["full", "gate", "none"], "share": [1.0, 0.5, 0.0], "kept": [4, 2, 0]})
    rows = rows.assign(entries=rows["share"], low=0.1, high=0.9, change_low=-0.1, change_high=0.3, draws=0)
    recall = rows.assign(measure="recall", value=[0.9, 0.8, 0.2], change=0.0)
    loss = rows.assign(measure="loss", value=[4.0, 4.1, 4.3], change=[0.0, 0.1, 0.3])
    both = SimpleNamespace(cache=pd.concat([recall, loss]), path=lambda file: file)
    figure = streaming._curve(both)
    assert [chart.label for chart in figure.charts] == ["Recall of needles", "Text: loss more than with all"]
    (drawn,) = figure.charts[1].spec.to_dict(format="vega-lite")["datasets"].values()
    assert [(row["value"], row["low"], row["high"]) for row in drawn][1] == (0.1, -0.1, 0.3)
    alone = streaming._curve(SimpleNamespace(cache=recall, path=lambda file: file))
    assert len(alone.charts) == 1 and "text" not in alone.says.lower()


def test_a_key_head_is_known_by_the_model_where_a_query_head_has_no_score():
    """Four query heads of two key heads, one of which no prompt scored: its group is as large as before."""
    gates = pd.DataFrame(
        [{"layer": 0, "head": head, "key_head": head // 2, "change": 0.0} for head in range(4)]
        + [{"layer": 0, "head": caching.ALONE, "key_head": key, "change": -1.0 - key} for key in range(2)]
    )
    scores = pd.DataFrame({"family": "retrieval", "layer": 0, "head": range(4), "score_a": [0.1, 0.9, 0.2, np.nan]})
    assert _rankings(gates, scores)["retrieval"] == [(0, 0), (0, 1)]
