"""Two families' sets of heads against each other: differences, ranks and sentences that are what was planted."""

from math import log

import numpy as np
import pandas as pd
import pytest
from test_switch import page, raw

from stages.page import against
from stages.page.inputs import COLUMNS
from stages.statistics import switch
from stages.statistics.intervals import interval

FAMILIES = ("induction", "function")


def made(change: dict, drop=None, **intact) -> pd.DataFrame:
    """Return switch.csv of `test_switch.raw`; drop: which rows of the effects were never asked."""
    rows, plans = raw(change)
    rows = rows if drop is None else rows[~drop(rows)]
    return switch.table(rows.assign(**intact), plans, log(1000))


def whole(table: pd.DataFrame) -> pd.DataFrame:
    return table[table.condition == "all"].set_index(["family", "k"])


def notes(table: pd.DataFrame) -> list[str]:
    starts = ("Against", "Not held against")
    return [block.text for block in page(table) if block.kind == "note" and block.text.startswith(starts)]


def test_the_difference_is_that_of_the_changes_on_the_same_prompts_and_its_interval_that_of_their_differences():
    rows, plans = raw({("induction", 4, 0): 0.25, ("function", 4, 0): 0.75})
    table = whole(switch.table(rows, plans, log(1000)))
    function, induction = table.loc[("function", 4)], table.loc[("induction", 4)]
    assert function.other == "induction" and induction.other == "function"
    assert function.beyond == function.change - induction.change == -0.5
    values = rows.pivot(index=["prompt", "cluster"], columns="family", values="value").reset_index()
    expected = interval(values.function - values.induction, values.cluster, change=True)
    assert (function.beyond_low, function.beyond_high) == expected and expected[1] < 0
    mirrored = [-induction.beyond, -induction.beyond_high, -induction.beyond_low]
    assert mirrored == pytest.approx([function.beyond, *expected])
    assert function.beyond_trials == 24 and function.beyond_note == "no rank: no control sets of both"


def test_prompts_that_one_set_was_not_asked_on_are_left_out():
    def drop(rows):  # of induction heads, three of the 24 prompts: the right answers among them
        return (rows.family == "induction") & rows.prompt.isin(["p21", "p22", "p23"])

    table = whole(made({("induction", 4, 0): 0.25, ("function", 4, 0): 1.0}, drop))
    assert table.loc[("function", 4), "trials"] == 24 and table.loc[("induction", 4), "trials"] == 21
    assert (table.beyond_trials == 21).all()
    assert table.loc[("function", 4), "beyond"] == pytest.approx(-15 / 21)  # not -1.0 minus -6 / 21
    assert table.loc[("induction", 4), "beyond"] == pytest.approx(15 / 21)
    assert notes(made({("induction", 4, 0): 0.25, ("function", 4, 0): 1.0}, drop))[0].startswith(
        "Against each other on the same 21 prompts"
    )


@pytest.mark.parametrize("asked", [0, 19, 20])
def test_few_common_prompts_carry_no_comparison(asked):
    def drop(rows):
        return (rows.family == "induction") & (rows.prompt.str[1:].astype(int) >= asked)

    table = made({("induction", 4, 0): 0.25, ("function", 4, 0): 1.0}, drop)
    row = whole(table).loc[("function", 4)]
    assert row.trials == 24 and pd.notna(row.beyond) == (asked == 20)
    if asked == 19:
        assert row.beyond_trials == 19 and row.beyond_note == "19 prompts: fewer than 20"
        assert notes(table) == ["Not held against each other with 4 heads of each silenced: 19 prompts: fewer than 20."]
    conditions = table[table.condition != "all"]
    assert len(conditions) and conditions.beyond.isna().all()  # of 12 prompts each


def test_a_family_of_too_few_heads_is_not_compared_and_says_so():
    table = made({("induction", 1, 0): 0.0, ("function", 1, 0): 0.75, ("function", 4, 0): 0.75})
    row = whole(table).loc[("function", 4)]
    why = "no set of 4 induction heads was silenced"
    assert pd.isna(row.beyond) and row.beyond_note == why and row.beyond_trials == 0
    assert whole(table).loc[("function", 1), "beyond"] == -0.75
    (text,) = notes(table)
    assert text.startswith("Against each other on the same 24 prompts") and "without 4 " not in text
    assert text.endswith(f"Not held against each other with 4 heads of each silenced: {why}.")
    alone = made({("function", 4, 0): 0.75})
    assert whole(alone).beyond_note.item() == "no other family was silenced" and not notes(alone)


def test_a_model_that_has_nothing_to_lose_is_not_compared():
    table = made({("induction", 4, 0): 0.0, ("function", 4, 0): 0.75}, intact=0.0)
    assert table.beyond.isna().all() and table.beyond_note.str.startswith("not measurable").all()
    few = raw({("induction", 4, 0): 0.25, ("function", 4, 0): 0.75})
    clusters = few[0].assign(cluster=few[0].prompt.str[1:].astype(int).mod(7).astype(str))
    wide = switch.table(clusters, few[1], log(1000))
    row = whole(wide).loc[("function", 4)]
    assert row.beyond == -0.5 and pd.isna(row.beyond_low) and row.beyond_note.startswith("7 clusters: fewer than 8")
    assert "more harm than without 4 induction heads, not told apart (7 clusters: fewer than 8" in notes(wide)[0]


def ranked(far: int, sharing: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return effects and plan: families .5 apart, `far` of 19 pairs of control sets as far, in turn either way.

    sharing: so many of the others have a head in common.
    """
    planted = {("induction", 4, 0): 0.25, ("function", 4, 0): 0.75}
    for draw in range(1, 20):
        more = {} if draw > far else {FAMILIES[draw % 2]: 0.5}
        planted |= {(name, 4, draw): more.get(name, 0.0) for name in FAMILIES}
    rows, plans = raw(planted)
    for frame in (rows, plans):
        common = (frame.draw > 19 - sharing) & (frame.family == "function")
        frame.loc[common, "heads"] = frame.loc[common, "heads"] + " L0H0"  # a head of every set of induction's
    return rows, plans


@pytest.mark.parametrize("far", [0, 1, 2, 19])
def test_pairs_of_control_sets_as_far_apart_either_way_are_counted(far):
    table = whole(switch.table(*ranked(far), log(1000)))
    for name in FAMILIES:  # two-sided: the same of both
        row = table.loc[(name, 4)]
        assert row.pairs == 19 and row.beyond_p == (1 + far) / 20 and row.beyond_p_floor == 1 / 20
        assert row.beyond_note == ""


def test_pairs_with_a_common_head_are_left_out_of_the_rank():
    row = whole(switch.table(*ranked(2, sharing=7), log(1000))).loc[("function", 4)]
    assert row.pairs == 12 and row.beyond_p == 3 / 13 and row.controls == 19
    none = whole(switch.table(*ranked(2, sharing=19), log(1000))).loc[("function", 4)]
    assert none.pairs == 0 and pd.isna(none.beyond_p) and none.beyond == -0.5
    assert none.beyond_note == "no rank: the control sets of every draw have common heads"


def test_the_page_names_the_family_that_does_more_harm_by_its_interval():
    table = switch.table(*ranked(0), log(1000))
    row = whole(table).loc[("function", 4)]
    low, high = (f"{-bound:.2f}" for bound in (row.beyond_high, row.beyond_low))
    expected = (
        "Against each other on the same 24 prompts, accuracy on in-context functions, these heads of this model "
        f"alone: without 4 function heads 0.50 [{low}, {high}] more harm than without 4 induction heads. Could "
        "other heads differ so? Of pairs of control sets, one matched to each family, without a common head, as far "
        "apart either way: with 4 of each none of 19 (rank p = 0.05, its floor)."
    )
    assert notes(table) == [expected]
    assert notes(table[table.family == "function"]) == [expected]  # whichever row is read
    for far, rank in ((1, "1 of 19 (rank p = 0.10; not"), (19, "19 of 19 (rank p = 1.00; not")):
        assert f"with 4 of each {rank} told apart from other heads)." in notes(switch.table(*ranked(far), log(1000)))[0]


def test_the_page_says_that_families_are_not_told_apart_where_the_interval_holds_0():
    table = made({("induction", 1, 0): 0.0, ("function", 1, 0): 0.125,
                  ("induction", 4, 0): 0.25, ("function", 4, 0): 0.25})  # fmt: skip
    (text,) = notes(table)
    assert "; without 4 induction heads 0.00 [−" in text and "] more harm than without 4 function heads, not" in text
    assert "without 1 function head 0.12 [−" in text and "] more harm than without 1 induction head, not" in text
    assert "rank" not in text and "These intervals are not corrected for there being 2 of them." in text


def test_more_loss_is_more_harm():
    row = {name: np.nan for name in COLUMNS["switch"].split()} | {"family": "induction", "other": "function", "k": 4}
    row |= {"task": "repeats", "measure": "loss", "beyond": 0.5, "beyond_low": 0.25, "beyond_high": 0.75}
    row |= {"beyond_trials": 20, "pairs": 0, "beyond_note": "no rank: no control sets of both"}
    text = against.said(pd.DataFrame([row]), "loss on repeats", 0.05)
    assert "without 4 induction heads 0.500 [0.250, 0.750] more harm than without 4 function heads." in text
    assert text.endswith(" With 4 of each, other heads may differ as much (no rank: no control sets of both).")
