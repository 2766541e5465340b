"""The table of steering: accuracy over functions, the rank of the heads among control sets, what was left out."""

import numpy as np
import pandas as pd
import pytest

from stages.statistics import steering
from stages.statistics.control import NONE
from stages.store import tables


def outcomes(
    function: str, vector: str, right: int, prompts: int = 20, context: str = "zero_shot", draw: int = 0, **row
):
    """Outcomes of the chosen setting on so many prompts, the first `right` of them answered."""
    same = {"function": function, "split": "b", "context": context, "vector": vector, "layer": -1, "strength": 0.0}
    same |= {"heads": 4 if vector in ("heads", "control") else 0, "draw": draw, "chosen": True, "logprob": -1.0}
    same |= {"names": f"L0H{draw} L1H{draw}" if vector == "control" else "", "matching": ""} | row
    if vector == "control":
        same["matching"] = "1 of 2 in the same layers, 2 of 2 of the same attention kind"
    return [
        same | {"prompt": f"{function}/{n}#{context}", "cluster": f"{function}/{n}", "correct": n < right}
        for n in range(prompts)
    ]


def table(rows: list[dict], skipped: dict | None = None, texts: dict | None = None) -> pd.DataFrame:
    made = steering.table(pd.DataFrame(rows)[tables.STEERING.names], skipped or {}, texts or {})
    return made.set_index(["function", "context", "vector"])


def test_the_heads_are_ranked_among_control_sets_per_function_and_over_functions():
    rows = outcomes("f", "heads", 10) + outcomes("g", "heads", 20)
    for draw in range(1, 20):  # in f one set does as well, in g none, over both none
        rows += outcomes("f", "control", 10 if draw == 7 else 2, draw=draw) + outcomes("g", "control", 4, draw=draw)
    made = table(rows)
    heads = made.xs(("zero_shot", "heads"), level=("context", "vector"))
    assert heads.p.to_dict() == pytest.approx({"all": 1 / 20, "f": 2 / 20, "g": 1 / 20})
    assert heads.p_floor.eq(1 / 20).all() and heads.controls.eq(19).all() and heads.overlap.eq(0).all()
    assert heads.accuracy.to_dict() == pytest.approx({"all": 0.75, "f": 0.5, "g": 1.0})
    assert heads.control_accuracy["all"] == pytest.approx((0.1 * 18 + 0.5 + 0.2 * 19) / 38)
    assert (heads.low < heads.accuracy).all() and heads.trials.to_dict() == {"all": 40, "f": 20, "g": 20}
    alike = "1 of 2 in the same layers, 2 of 2 of the same attention kind"
    assert set(heads.matching) == {f"{alike}; no set holds a head tried for the vector"}
    held = [row | {"matching": f"{alike}; 1 {steering.TRIED}"} if row["draw"] == 3 else row for row in rows]
    said = table(held).loc["all", "zero_shot", "heads"].matching
    assert said == f"{alike}; 1 of 19 sets hold heads tried for the vector"
    controls = made.loc["f", "zero_shot", "control"]
    assert controls.accuracy == pytest.approx((0.1 * 18 + 0.5) / 19) and controls.trials == 20


def in_texts(first: int, second: int, other: int = 0) -> tuple[list[dict], dict[str, str]]:
    """Two functions, 24 prompts each, in two texts in turn: how many of each text's 12 are right under the heads.

    other: how many of the second text's are, under the first control set.
    """
    texts = ('The word "{x}" means', "I saw {x}:")
    rows, written = [], {}
    for function in ("f", "g"):
        runs = [("none", 0, 0, 0), ("heads", 0, first, second)]
        runs += [("control", draw, 0, other * (draw == 1)) for draw in range(1, 20)]
        for vector, draw, *right in runs:
            for n, row in enumerate(outcomes(function, vector, 0, 24, "natural", draw)):
                rows.append(row | {"correct": n // 2 < right[n % 2]})
                written[row["prompt"]] = texts[n % 2]
    return rows, written


def test_each_natural_text_has_rows_beside_those_of_all():
    rows, written = in_texts(6, 12, other=12)
    made = table(rows + outcomes("f", "heads", 10, context="rare"), texts=written)
    first, second = dict.fromkeys(written.values())
    assert made.loc["all", "natural", "heads"].accuracy == pytest.approx(0.75)
    for text, accuracy, p in ((first, 0.5, 0.05), (second, 1.0, 0.1)):
        cell = made.loc["all", text, "heads"]
        assert (cell.accuracy, cell.trials, cell.controls) == (accuracy, 24, 19) and cell.p == pytest.approx(p)
        assert made.loc["all", text, "none"].accuracy == 0 and ("f", text, "heads") not in made.index
    assert list(made.index.unique("context")) == ["natural", first, second, "rare"]


def said_of_texts(tmp_path, rows: list[dict], written: dict[str, str]) -> list:
    from stages.page import inputs
    from stages.page.sections.vectors import _texts

    table(rows, texts=written).reset_index().to_csv(tmp_path / "steering.csv", index=False)
    read = inputs.frame(tmp_path / "steering.csv", inputs.COLUMNS["steering"].split())
    return _texts(read[read.function == "all"], "steering.csv", 0.05)


def test_it_is_said_whether_one_text_carries_the_number(tmp_path):
    note, shown = said_of_texts(tmp_path, *in_texts(0, 12))
    assert 'give from 0.00 (The word "{x}" means) to 1.00 (I saw {x}:), intervals that do not meet' in note.text
    assert "In 1 of them they stand out" in note.text
    assert [row[:3] for row in shown.rows] == [['The word "{x}" means', "24", "0.00"], ["I saw {x}:", "24", "0.00"]]
    assert [row[-1] for row in shown.rows] == ["1.00", "0.05"]
    note, _ = said_of_texts(tmp_path, *in_texts(8, 9))
    assert "do not meet" not in note.text and "In all of them they stand out" in note.text
    note, _ = said_of_texts(tmp_path, *in_texts(8, 9, other=9))  # a control set does as well in the second
    assert "In 1 of them" in note.text
    rows, written = in_texts(8, 9)
    assert said_of_texts(tmp_path, rows, dict.fromkeys(written, "only {x}")) == []
    few = [row for row in rows if int(row["prompt"].split("/")[1].split("#")[0]) < 16]
    for some in (few, [row for row in rows if row["draw"] < 2]):  # 8 prompts of a function, one control set
        note, _ = said_of_texts(tmp_path, some, written)
        assert "stand out" not in note.text and "In 2 of them prompts or control sets are too few to" in note.text


def test_a_held_out_choice_says_in_how_many_functions_it_is_the_same_heads():
    own = {"f": "L0H1 L2H3", "g": "L0H1 L2H3"}
    rows = [row for name, heads in own.items() for row in outcomes(name, "heads", 10, names=heads)]
    rows += outcomes("f", "held_out", 10, names="L2H3 L0H1") + outcomes("g", "held_out", 5, names="L0H1 L2H2")
    note = table(rows).note.xs(("zero_shot", "held_out"), level=("context", "vector"))
    assert note["all"] == "the heads of `heads` in 1 of 2 functions"
    assert note["f"] == "the heads of `heads` in 1 of 1 functions"
    assert note["g"] == "the heads of `heads` in 0 of 1 functions"


def test_where_no_set_is_written_the_table_says_that_and_not_that_none_could_be():
    made = table([row for context in ("zero_shot", "rare") for row in outcomes("f", "heads", 10, context=context)])
    assert made.matching["f", "rare", "heads"] == steering.NOT_WRITTEN
    assert made.matching["f", "zero_shot", "heads"] == NONE
    sets = [outcomes("f", "control", right, draw=draw, context="rare") for draw, right in ((1, 5), (2, 0), (3, 10))]
    made = table([*outcomes("f", "heads", 10, context="rare"), *(row for rows in sets for row in rows)])
    few = made.loc["f", "rare", "heads"]
    assert few.controls == 3 and few.control_accuracy == pytest.approx(0.25) and pd.isna(few.p)
    assert "3 control sets: no rank" in few.note and few.matching != steering.NOT_WRITTEN


def test_draws_are_ranked_as_means_over_functions_not_by_the_best_of_each():
    """Set 1 is as good as the heads in f, set 2 in g; over both, neither is."""
    rows = outcomes("f", "heads", 10) + outcomes("g", "heads", 10)
    rows += outcomes("f", "control", 10, draw=1) + outcomes("g", "control", 0, draw=1)
    rows += outcomes("f", "control", 0, draw=2) + outcomes("g", "control", 10, draw=2)
    p = table(rows).p.xs(("zero_shot", "heads"), level=("context", "vector"))
    assert p.to_dict() == pytest.approx({"all": 1 / 3, "f": 2 / 3, "g": 2 / 3})
    rows += outcomes("f", "control", 20, draw=3)  # g has no third set: no draw of both
    made = table(rows).loc["all", "zero_shot", "heads"]
    assert made.controls == 2 and made.p == pytest.approx(1 / 3)


def test_every_function_counts_the_same_whatever_its_number_of_prompts():
    rows = outcomes("f", "heads", 30, prompts=30) + outcomes("g", "heads", 0, prompts=10)
    made = table(rows)
    assert made.accuracy["all", "zero_shot", "heads"] == 0.5
    assert made.note["g", "zero_shot", "heads"] == "10 prompts: fewer than 20"


def test_few_prompts_have_no_rank_and_few_clusters_no_interval():
    rows = outcomes("f", "heads", 5, prompts=6)
    for draw in range(1, 20):
        rows += outcomes("f", "control", 0, prompts=6, draw=draw)
    row = table(rows).loc["f", "zero_shot", "heads"]
    assert np.isnan(row.p) and np.isnan(row.low) and row.controls == 19
    assert row.note == "6 prompts: fewer than 20; 6 clusters: fewer than 8, no interval"


def test_only_what_was_chosen_is_reported_and_what_it_was_chosen_from_is_said():
    rows = outcomes("f", "heads", 10) + outcomes("f", "function", 5, layer=8, strength=2.0, heads=4)
    rows += outcomes("f", "heads", 20, prompts=8, chosen=False, heads=4, split="a")
    rows += outcomes("f", "heads", 20, prompts=8, chosen=False, heads=12, split="a")
    made = table(rows + outcomes("g", "function", 5, layer=3, strength=2.0, heads=4))
    row = made.loc["f", "zero_shot", "heads"]
    assert (row.accuracy, row.trials, row.tried, row.controls, row.matching) == (0.5, 20, "4 12", 0, NONE)
    together = made.loc["all", "zero_shot", "function"]
    assert pd.isna(together.layer) and together.strength == 2.0 and made.layer["f", "zero_shot", "function"] == 8


def test_functions_left_out_stand_there_with_the_reason_and_are_in_no_mean():
    rows = outcomes("f", "none", 18, context="clean") + outcomes("f", "none", 0) + outcomes("f", "heads", 10)
    made = table(rows, {"successor": "solved 0.46"})
    assert made.note["successor", "clean", "none"] == "not steered: solved 0.46"
    assert made.accuracy["all", "clean", "none"] == pytest.approx(0.9)
    assert made.index.get_level_values("context")[0] == "clean"
    assert steering.table(pd.DataFrame(columns=tables.STEERING.names), {}, {}).empty
