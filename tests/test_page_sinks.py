"""The section on sinks says what its rows say: place or token, silent or not, global only or not."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from stages.page.inputs import COLUMNS
from stages.page.page import Note, Table
from stages.page.section import Context
from stages.page.sections.sinks import sinks
from stages.statistics.sinks import table

SHARES = {"natural": 0.9, "random": 0.8, "repeated": 0.7, "moved": 0.0, "without": 0.0}


def rows(token: bool) -> pd.DataFrame:
    """Heads that look at the first token (or at the first position) of 20 passages; L1H1 fetches nothing there."""
    heads, tokens = [], []
    for name, share in SHARES.items():
        for number in range(20):
            same = {"prompt": f"p{number:02}", "split": "ab"[number % 2], "input": name}
            for head in range(8):
                first = share if token else 0.9
                where = {"layer": head // 2, "head": head % 2, "first": first - 0.01 * head if first else 0.0}
                second = 0.9 if token and name == "moved" else 0.0
                heads.append(same | where | {
                    "second": second, "later": 0.1, "special": 0.0, "punctuation": 0.1, "punctuation_even": 0.02,
                    "learned": 0.0, "value": 0.1, "said": 0.05 if head == 3 else 0.8, "output": 1.0,
                })  # fmt: skip
            tokens += [
                same | {"layer": layer, "position": at, "mark": "ordinary" if at else "first",
                        "norm": 1.0 + 0.01 * (at * 7 % 5) if at else 20.0, "channel": 9.0, "received": 0.1}
                for layer in range(4) for at in range(12)
            ]  # fmt: skip
    return table(pd.DataFrame(heads), pd.DataFrame(tokens))


def probes(local: float, spread: float) -> pd.DataFrame:
    """Every token knows the topic; `local`: how well the next token is read from it."""
    made = []
    for kind in ("first", "attended", "largest", "ordinary", "beside"):
        for target in ("token", "position", "next", "topic", "rest"):
            chance = 0.2 if target == "topic" else 0.0
            for layer in (-1, 0, 1, 2):
                read = {"next": local, "topic": 0.8, "rest": 0.5} if layer >= 0 else {}
                value = read.get(target, chance if target in ("next", "topic", "rest") else np.nan)  # told by no token
                reach = 0.05 if value > 0.05 else 0.04  # the margin is 0.05
                made.append([kind, target, layer, value, value - reach, value + reach, chance, chance, chance, 100, 50,
                             spread, 0, "the same in every prompt" if np.isnan(value) else ""])  # fmt: skip
    return pd.DataFrame(made, columns=COLUMNS["probes"].split())


def silenced_in(kinds: list[str]) -> pd.DataFrame:
    """Five sink heads silenced in some ways: the n-th costs text 0.n nats."""
    same = {"purpose": "family", "family": "sink", "k": 5, "draw": 0, "heads": "L1H0", "members": 5, "task": "text",
            "measure": "loss", "condition": "all", "intact": 3.0, "trials": 20, "clusters": 20, "note": ""}  # fmt: skip
    made = [same | {"kind": kind, "controls": 19 * (kind == "mean"), "change": at / 10, "low": at / 10 - 0.05,
                    "high": at / 10 + 0.05}
            for at, kind in enumerate(kinds, start=1)]  # fmt: skip
    made = [row | {"value": 3.0 + row["change"]} for row in made]
    return pd.DataFrame(made, columns=COLUMNS["effects"].split())


def said(
    sunk: pd.DataFrame, probed: pd.DataFrame, decoder: bool, silenced: pd.DataFrame | None = None, longer=None
) -> str:
    silenced = silenced_in([]) if silenced is None else silenced
    slot = SimpleNamespace(
        sinks=sunk,
        probes=probed,
        decoder=decoder,
        reasons={},
        model={"attention": []},
        path=lambda file: file,
        effects=silenced,
        longer=longer or {},
        heads=pd.DataFrame({"layer": [1, 2], "head": [0, 0], "family": "sink", "member": [1, 0]}),
    )
    return " ".join(block.text for block in sinks(slot, Context({}, [])) if isinstance(block, Note))


@pytest.mark.parametrize("token", [True, False])
def test_place_and_token_are_told_apart(token):
    text = said(rows(token), probes(0.0, 0.5), decoder=False)
    assert ("attention goes with the token, not with the place" in text) == token
    assert ("attention stays with the place, whatever token is there" in text) != token
    assert "Of 8 heads with more than 0.3 there on these passages (of 8 heads), 1 look and say little" in text
    assert "has 20.0 [20.0, 20.0] times the median norm" in text and "nan" not in text.lower().split()


def test_passages_of_one_token_are_said_to_have_no_others():
    """What is no number in `look` of one token (tests/test_sinks.py) is none in the table and not said on the page."""
    with_others = rows(True)
    heads = pd.DataFrame([
        {"prompt": f"p{number:02}", "split": "ab"[number % 2], "input": "natural", "layer": 0, "head": head,
         "first": 1.0, "special": 0.0, "punctuation": 0.0, "punctuation_even": 0.0, "learned": 0.0, "said": 1.0}
        for number in range(20) for head in (0, 1)
    ]).assign(second=np.nan, later=np.nan, value=np.nan, output=np.nan)  # fmt: skip
    tokens = heads[heads["head"] == 0].assign(position=0, mark="first", norm=1.0, channel=9.0, received=1.0)
    alone = table(heads, tokens)
    value = alone[alone["part"] == "all"].set_index("measure")["value"]
    assert value["rate"] == 1 and np.isnan(value["inactive"]) and value["silent"] == 0
    assert not set(alone["measure"]) & {"outliers", "dip", "modes_p"} and "dip" in set(with_others["measure"])
    text = said(alone, probes(0.0, 0.5), decoder=False)
    assert "passages have nothing beside the first token" in text and "nan" not in text.lower().split()
    assert "the norm of others there" not in text and "the norm of others there" in said(
        with_others, probes(0.0, 0.5), decoder=False
    )


def test_modes_of_lengths_are_said_after_correction_over_layers():
    sunk = rows(True)
    place = sunk["measure"] == "modes_p"
    assert place.sum() == 4 and set(sunk.loc[sunk["measure"] == "dip", "layer"]) == {0, 1, 2, 3}
    sunk.loc[place, "value"] = [0.03, 0.5, 0.6, 0.7]
    text = said(sunk, probes(0.0, 0.5), decoder=False)
    assert "in no layer more than one mode is shown (dip test, smallest q over layers 0.12)" in text
    sunk.loc[place, "value"] = [0.001, 0.5, 0.002, 0.7]
    text = said(sunk, probes(0.0, 0.5), decoder=False)
    assert "in layers 0 and 2 the dip test rejects one mode (q at most 0.004; no claim)" in text


def test_a_guess_stands_beside_the_constant_state():
    slot = SimpleNamespace(
        sinks=rows(True), probes=probes(0.0, 0.5), decoder=False, reasons={}, model={"attention": []},
        path=lambda file: file, effects=silenced_in([]), longer={},
    )  # fmt: skip
    last = next(block for block in sinks(slot, Context({}, [])) if isinstance(block, Table) and block.folded)
    at = last.columns.index("a guess")
    assert {line[at] for line in last.rows if "topic" in line[1]} == {"0.20"}


def test_global_only_can_fail():
    assert "probes of the first token read" in said(rows(True), probes(0.0, 0.5), decoder=False)
    assert "global only, by this margin" in said(rows(True), probes(0.0, 0.5), decoder=False)
    text = said(rows(True), probes(0.4, 0.5), decoder=False)
    assert "not global only: the next token can be read as well" in text and "global only, as far" not in text


def test_an_interval_that_ends_at_the_margin_settles_nothing():
    asked = probes(0.0, 0.5)
    asked.loc[(asked["kind"] == "first") & (asked["target"] == "next"), "high"] = 0.0494  # printed as the margin
    text = said(rows(True), asked, decoder=False).split("probes of the first token read")[1].split("In layer")[0]
    assert "Verdict: global (the topic and the other tokens); whether it holds the next token is not settled" in text


def test_what_is_local_may_be_unsettled_beside_what_is_local_only():
    asked = probes(0.0, 0.5)
    for target, values in {"token": (0.5, 0.4, 0.6), "next": (0.0, -0.1, 0.12), "topic": (0.2, 0.1, 0.22),
                           "rest": (0.0, -0.1, 0.04)}.items():  # fmt: skip
        asked.loc[(asked["target"] == target) & (asked["layer"] >= 0), ["value", "low", "high"]] = values
    text = said(rows(True), asked, decoder=False)
    expected = "Verdict: local only, by this margin (the token itself); whether it holds the next token is not settled"
    assert expected in text


def test_a_next_token_that_the_token_itself_tells_is_nothing_that_its_state_holds():
    asked = probes(0.4, 0.5)
    asked.loc[(asked["layer"] < 0) & (asked["target"] == "next"), "value"] = 0.38
    text = said(rows(True), asked, decoder=False)
    assert "not global only" not in text and "whether it holds the next token is not settled" in text


def test_what_the_token_itself_tells_of_the_topic_is_nothing_that_its_state_holds():
    """A word of one file alone: its input embedding knows the topic without having read anything."""
    probed = probes(0.4, 0.5)
    told = (probed["layer"] < 0) & probed["target"].isin(["topic", "rest"]) & (probed["kind"] == "attended")
    knowing = probed.assign(value=probed["value"].mask(told, 0.78))
    verdicts = [
        text.split("probes of the most attended other token read: ")[1].split("Verdict: ")[1].split(". ")[0]
        for text in (said(rows(True), some, decoder=False) for some in (probed, knowing))
    ]
    assert "not global only" in verdicts[0] and "global" not in verdicts[1] and "local (" in verdicts[1]


def test_what_too_few_passages_leave_open_is_not_said_to_be_missing():
    asked = probes(0.0, 0.5)
    wide = (asked["kind"] == "first") & (asked["target"] == "next") & (asked["layer"] >= 0)
    asked.loc[wide, "high"] = 0.12  # between: the margin is 0.05
    text = said(rows(True), asked, decoder=False)
    assert "global (the topic and the other tokens); whether it holds the next token is not settled" in text
    asked.loc[asked["target"].isin(["topic", "rest"]), ["low", "high"]] = [0.0, 0.9]
    asked.loc[wide, ["value", "low", "high"]] = [0.5, 0.4, 0.6]
    text = said(rows(True), asked, decoder=False)
    assert "local (the next token); whether it holds the topic or the other tokens is not settled" in text
    asked.loc[wide, ["value", "low", "high"]] = [0.0, -0.1, 0.04]
    text = said(rows(True), asked, decoder=False)
    assert "nothing is shown to be read by this margin; whether it holds the topic or the other tokens is" in text


def test_redirected_attention_stands_beside_the_other_ways_to_silence():
    text = said(rows(True), probes(0.4, 0.5), False, silenced_in(["mean", "zero", "sink"]))
    assert (
        "Of the 5 best sink heads (L1H0; all members), loss on text: harm +0.300 [+0.250, +0.350] (their mean output "
        "+0.100 [+0.050, +0.150] and zeros +0.200 [+0.150, +0.250] in place; 20 prompts). No control sets are "
        "redirected: this may be what any heads do. Rows of kind `sink` in effects.csv"
    ) in text
    noted = silenced_in(["mean", "zero", "sink"]).assign(k=1, members=1)
    noted.loc[noted["kind"] == "zero", "note"] = "worse than uniform"
    text = said(rows(True), probes(0.4, 0.5), False, noted)
    assert "Of the best of the sink heads (L1H0; member), loss on text" in text
    assert "20 prompts; zeros: worse than uniform)." in text
    assert "Redirected" not in said(rows(True), probes(0.4, 0.5), False, silenced_in(["mean", "zero"]))


def test_redirected_heads_are_ranked_among_others_of_a_longer_study():
    once = silenced_in(["mean", "zero", "sink"])
    ranked = silenced_in(["mean", "sink"]).assign(controls=[39, 39], p=[0.025, 0.2], p_floor=0.025, q=[0.1, 0.3])
    ranked = ranked.assign(control_change=0.01, matching="2 of 5 in the same layers, 5 of 5 of the same attention kind")
    others = ranked.assign(purpose="control", members=0, draw=1, controls=np.nan, heads="L2H0")
    more = others.assign(draw=2, heads="L1H0 L2H0", change=0.3)
    study = SimpleNamespace(effects=pd.concat([ranked, others, more]), path=lambda file: f"full/{file}")
    text = said(rows(True), probes(0.4, 0.5), False, once, {"plan": SimpleNamespace(slot=study, changed=False)})
    assert "No control sets are redirected" not in text
    assert (
        "Control sets are redirected as well in a longer study (full/effects.csv). The 5 best sink heads (L1H0; all "
        "members), loss on text: harm +0.200 [+0.150, +0.250], of control sets +0.200 to +0.300 (0 to 1 of their 5 "
        "heads are sink heads, which look there already); 7 of 39 control sets (as many heads, 2 of 5 in the same "
        "layers, the others from the nearest) do as much: rank p = 0.20; not told apart from other heads."
    ) in text
    unranked = {"plan": SimpleNamespace(slot=SimpleNamespace(effects=ranked[:1], path=study.path), changed=False)}
    changed = {"plan": SimpleNamespace(slot=study, changed=True)}
    for longer in (unranked, changed):
        assert "No control sets are redirected" in said(rows(True), probes(0.4, 0.5), False, once, longer)


def test_the_longest_tokens_stand_beside_their_neighbours_and_not_beside_other_ordinary_ones():
    probed = probes(0.4, 0.5)
    alike = "It is not told apart from as many ordinary tokens."
    assert said(rows(True), probed, decoder=False).count(alike) == 3  # first, attended, largest
    probed.loc[(probed["kind"] == "beside") & (probed["target"] == "topic"), ["value", "low", "high"]] = 0.9, 0.86, 0.94
    probed.loc[(probed["kind"] == "beside") & (probed["target"] == "next"), ["value", "low", "high"]] = 0.1, 0.0, 0.2
    probed.loc[probed["kind"] == "beside", "outliers"] = 7
    text = said(rows(True), probed, decoder=False)
    assert text.count(alike) == 2
    assert "the topic, accuracy 0.80 [0.75, 0.85] (beside it 0.90 [0.86, 0.94])" in text
    assert (
        "More is read of the next token and less is read of the topic than from as many ordinary tokens (what their "
        "input embeddings tell is part of it)."
    ) in text
    assert "(0 of 100 are outliers in some layer, of those beside them 7)" in text
    older = said(rows(True), probed[probed["kind"] != "beside"], decoder=False)
    assert "beside it" not in older and older.count(alike) == 2


def test_a_first_token_of_a_decoder_that_holds_something_is_a_fault():
    assert "a fault" in said(rows(True), probes(0.0, 0.0), decoder=True)
    constant = probes(0.0, 0.0).assign(value=lambda rows: rows["majority"])
    assert "no probe is fitted and what a constant gets is all that can be had" in said(
        rows(True), constant, decoder=True
    )
