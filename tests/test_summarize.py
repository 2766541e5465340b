"""Summaries of raw outcomes: steering, overlap, reliability, and metrics that a choice has not seen."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from synthetic import record

from stages.families import FAMILIES
from stages.page.section import Context
from stages.page.sections import overlap as overlap_section
from stages.statistics import arcs, effects, stepping
from stages.statistics.causal import AGREEMENT, CAUSAL
from stages.store import files, paths, tables
from stages.store.metrics import measured, metrics
from stages.summarize import main, overlap, reliability, with_single_effect

ROOT = Path(__file__).parents[1]


def test_overlap_and_reliability_follow_the_heads_table():
    heads = [(layer, head) for layer in range(5) for head in range(4)]
    rows = [
        {"layer": layer, "head": head, "family": family, "score_a": at, "score_b": sign * at, "prompts": 9,
         "member": at < 4 if family == "induction" else 2 <= at < 6}
        for family, sign in (("induction", 1), ("retrieval", -1))
        for at, (layer, head) in enumerate(heads)
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    shared = overlap(table).set_index(["family_a", "family_b"])
    chance = 4 * 4 / 20
    expected = chance / (8 - chance)
    assert shared.corrected["induction", "retrieval"] == pytest.approx((2 / 6 - expected) / (1 - expected))
    assert shared.corrected["induction", "induction"] == pytest.approx(1.0)
    by_family = reliability(table, {"retrieval": 0.3}).set_index("family")
    assert by_family.spearman.to_dict() == pytest.approx({"induction": 1.0, "retrieval": -1.0})
    assert by_family.threshold.to_dict() == {"induction": 0.4, "retrieval": 0.3}  # its own, that of params


def test_heads_shared_by_nested_relations_are_no_finding():
    heads = pd.DataFrame([(layer, head) for layer in range(5) for head in range(4)], columns=["layer", "head"])
    members = {"previous": 4, "local": 4, "induction": 3}
    table = pd.concat([heads.assign(family=name, member=heads.index < count) for name, count in members.items()])
    slot = SimpleNamespace(overlap=overlap(table), path=lambda name: name)
    note, _ = overlap_section.overlap(slot, Context(FAMILIES, []))
    assert note.text.startswith("Beyond chance, previous and induction overlap most: 3 heads")
    assert "no finding: previous and local (4)." in note.text
    apart = SimpleNamespace(overlap=overlap(table[table.family != "local"]), path=lambda name: name)
    assert "no finding" not in overlap_section.overlap(apart, Context(FAMILIES, []))[0].text


def test_a_family_is_asked_whether_its_score_goes_with_single_effects_on_its_home_task():
    rng = np.random.default_rng(0)
    heads = pd.DataFrame([(layer, head) for layer in range(6) for head in range(8)], columns=["layer", "head"])
    score = rng.random(len(heads))
    judged = pd.concat([heads.assign(family=family, score_a=score) for family in ("induction", "retrieval", "local")])
    single = heads.assign(
        task="repeats", measure="loss", change=np.nan, low=np.nan, high=np.nan, q=np.nan, exact=np.nan, note=""
    )
    single = single.assign(first_order=score + 0.1 * rng.random(len(heads)))[CAUSAL]
    needle = single.assign(task="needle", measure="logprob")  # the same numbers: the best heads raise it
    table = with_single_effect(judged, pd.concat([single, needle]), 1000, seed=1).set_index("family")
    assert list(table.index) == ["induction", "retrieval"]  # local has no home task
    assert table.effect_task.to_dict() == {"induction": "repeats", "retrieval": "needle"}
    assert table.effect_rho["induction"] > 0.9 and table.effect_p["induction"] == pytest.approx(1 / 1001)
    assert table.effect_rho["retrieval"] == pytest.approx(-table.effect_rho["induction"])
    assert table.effect_p["retrieval"] > 0.9
    merged = reliability(judged.assign(score_b=judged.score_a, member=False, prompts=9), {}).merge(
        table.reset_index(), "left"
    )
    assert merged.effect_rho.isna().to_list() == [False, False, True]


def small(heads=None, silenced=None, grammar=None) -> dict:
    """Metrics of a few rows, the other tables empty."""
    empty = pd.DataFrame(columns=["layer", "head", "family", "score", "score_a", "score_b", "member"])
    return metrics(
        empty if heads is None else heads,
        pd.DataFrame(columns=effects.COLUMNS) if silenced is None else silenced,
        pd.DataFrame(),
        pd.DataFrame(columns=arcs.COLUMNS) if grammar is None else grammar,
        pd.DataFrame(columns=stepping.COLUMNS),
        None,
        {"blimp": "accuracy", "needle": "recall"},
    )


def test_the_top_score_is_that_of_split_b_of_the_head_chosen_on_split_a():
    columns = ["layer", "head", "family", "score", "score_a", "score_b", "member"]
    heads = pd.DataFrame([[1, 0, "sink", 0.7, 0.9, 0.5, True], [2, 0, "sink", 0.8, 0.8, 0.8, True]], columns=columns)
    assert small(heads)["heads"] == {"sink": {"members": 2, "top_score": 0.5, "top_layer": 1}}
    assert small(heads.assign(score_a=np.nan))["heads"] == {"sink": {"members": 2}}


def test_what_is_no_number_is_left_out_of_metrics():
    """Python writes NaN into JSON, which nothing else reads."""
    numbers = {"sinks": {"rate": 1.0, "inactive": float("nan")}, "circuit": {"a": {"p": float("inf")}}, "trials": 0}
    assert measured(numbers) == {"sinks": {"rate": 1.0}, "trials": 0}


def test_metrics_hold_change_and_rank_of_the_main_measure():
    row = {"purpose": "family", "family": "retrieval", "kind": "mean", "task": "needle", "condition": "all"}
    rows = [
        row | {"measure": "logprob", "change": -7.0, "p": 0.05},
        row | {"measure": "recall", "change": -0.4, "p": 0.05},
        row | {"measure": "recall", "change": -0.6, "kind": "zero"},
        row | {"measure": "accuracy", "change": -0.1, "task": "blimp"},
        row | {"purpose": "none", "family": "", "kind": "", "measure": "recall", "value": 0.9, "trials": 40},
    ]
    numbers = small(silenced=pd.DataFrame(rows, columns=effects.COLUMNS))
    assert numbers["ablation"] == {"retrieval": {"blimp": {"change": -0.1}, "needle": {"change": -0.4, "p": 0.05}}}
    assert numbers["needle"] == {"recall": 0.9, "trials": 40}


def test_what_mixes_directions_is_a_hit_rate():
    row = {"label": "all", "accuracy": 0.7, "baseline": 0.4, "trials": 600}
    rows = [row | {"direction": "dep-to-head"}, row | {"direction": "", "accuracy": 0.75, "trials": 3000}]
    numbers = small(grammar=pd.DataFrame(rows, columns=arcs.COLUMNS))["grammar"]
    assert numbers == {"uas": 0.7, "uas_offset": 0.4, "arcs": 600, "hit_rate": 0.75, "hit_rate_offset": 0.4}


def test_all_summaries_are_written_from_the_tables(tmp_path, monkeypatch):
    """One family of two layers, silenced on needles against 19 control sets; no text, treebank or iteration task."""
    content = yaml.safe_load((ROOT / "tests/params.yaml").read_text())
    content["tasks"] = {"needle": content["tasks"]["needle"]}
    content["classify"]["thresholds"] = {"retrieval": 0.25}
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(content))
    rng, slot, parts = np.random.default_rng(0), "decoder", range(21)
    heads = pd.DataFrame([(layer, head) for layer in (0, 1) for head in parts], columns=["layer", "head"])
    score = rng.random(len(heads))
    judged = heads.assign(
        family="retrieval", score=score, score_a=score, score_b=score, score_null=0.0, baseline=0.1, note=""
    ).assign(lead_a=score - 0.1)
    judged = judged.assign(low=score, high=score, p=0.01, q=0.01, member=score > 0.9, member_a=score > 0.9, prompts=40)
    tables.HEADS.write(judged, slot)
    sets = [("family/retrieval/1/mean", "family", 0, "L0H0")]
    sets += [(f"control/retrieval/1/mean/{draw}", "control", draw, f"L0H{draw}") for draw in range(1, 20)]
    plan, raw = [], []
    for name, purpose, draw, silenced in [("none", "none", 0, ""), *sets]:
        run = {"purpose": purpose, "family": "retrieval", "k": 1, "kind": "mean", "draw": draw, "heads": silenced}
        if purpose == "none":
            run |= {"family": "", "k": 0, "kind": ""}
        else:
            plan.append(
                run | {"id": name, "members": 0, "tasks": ["needle"], "condition": "", "matching": "same layers"}
            )
        where = {"intervention": name, "task": "needle", "condition": "200@0.5", "category": "200", "measure": "recall"}
        lost = {"none": 0.0, "family": 0.8, "control": 0.1}[purpose]
        for number in range(24):
            prompt = {"cluster": f"c{number}", "prompt": f"p{number}", "value": 1.0 - lost, "intact": 1.0}
            raw.append(run | where | prompt)
    tables.PLANS.write(pd.DataFrame(plan), slot)
    tables.EFFECTS.write(pd.DataFrame(raw), slot)
    estimates = [
        {"layer": layer, "head": head, "kind": "mean", "task": "needle", "cluster": f"c{n}", "prompt": f"p{n}"}
        | {"measure": "logprob", "change": -value + 0.01 * rng.normal()}
        for (layer, head), value in zip(heads.itertuples(index=False), score, strict=True)
        for n in range(8)
    ]
    tables.FIRST_ORDER.write(pd.DataFrame(estimates), slot)
    tables.ANSWERS.write_empty(slot, why="not asked")
    tables.NGRAM.write_empty(why="not counted")
    tables.CIRCUIT.write_empty(slot, why="no head")
    tables.COMPOSITION.write_empty(slot, why="no head")
    tables.SINK_HEADS.write_empty(slot, why="no text")
    tables.SINK_TOKENS.write_empty(slot, why="no text")
    tables.PROBES.write_empty(slot, why="no text")
    tables.SHIFTS.write_empty(slot, why="no function")
    tables.OFFSETS.write_empty(slot, why="no function")
    tables.READINGS.write_empty(slot, why="no function")
    tables.NEIGHBOURS.write_empty(slot, why="no task")
    tables.NEIGHBOURS_ATTENTION.write_empty(slot, why="no task")
    tables.NEIGHBOURS_SILENCED.write_empty(slot, why="no task")
    tables.GATES.write_empty(slot, why="no task")
    tables.CACHE.write_empty(slot, why="no task")
    tables.STREAMING.write_empty(slot, why="no task")
    tables.ORDERS.write_empty(slot, why="no task")
    tables.MEMORY.write_empty(slot, why="no task")
    tables.NORMS.write_empty(slot, why="no images")
    tables.STEERING.write_empty(slot, why="no function")
    tables.COMPOSED.write_empty(slot, why="no function")
    tables.CONTINUED.write_empty(slot, why="no function")
    sizes = {"heads": 21, "kv_heads": 1, "head_size": 4, "window": None, "kind": "global"}
    files.write_text(paths.model(slot), record(slot, attention=[{"layer": layer, **sizes} for layer in (0, 1)]))

    main(slot)
    folder = paths.report(slot)
    names = (
        "agreement cache causal circuit composed continued effects extrapolation gates gates_overlap grammar heads "
        "images iteration memory neighbours orders overlap probes readings reliability shifts sinks steering "
        "streaming sweep switch"
    ).split()
    assert sorted(path.name for path in folder.glob("*.csv")) == [f"{name}.csv" for name in names]
    silenced = pd.read_csv(folder / "effects.csv").set_index("purpose")
    assert tuple(silenced.reset_index().columns) == tuple(effects.COLUMNS)
    assert (
        "family,retrieval,1,mean,0,L0H0,0,needle,all,recall,0.20000,1.00000,-0.80000"
        in (folder / "effects.csv").read_text()
    )
    assert silenced.p["family"] == silenced.q["family"] == 0.05 and silenced.controls["family"] == 19
    assert (silenced.low["family"], silenced.high["family"]) == pytest.approx((-0.99, -0.6), abs=0.1)
    single = pd.read_csv(folder / "causal.csv")
    assert list(single.columns) == CAUSAL and len(single) == len(heads) and single.exact.isna().all()
    assert list(pd.read_csv(folder / "agreement.csv").columns) == AGREEMENT
    row = pd.read_csv(folder / "reliability.csv").iloc[0]
    assert (row.family, row.threshold, row.effect_task) == ("retrieval", 0.25, "needle")
    assert row.effect_rho > 0.9 and row.effect_p < 0.01
    numbers = json.loads((folder / "metrics.json").read_text())
    assert numbers["ablation"] == {"retrieval": {"needle": {"change": -0.8, "p": 0.05}}}
    assert numbers["needle"] == {"recall": 1.0, "trials": 24}
    columns = "layer head family score score_a score_b score_null baseline low high q member member_a prompts note"
    assert list(pd.read_csv(folder / "heads.csv").columns) == columns.split()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    main(slot)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
