"""Sentences at the edges of what tables hold: no interval, few subjects, the other side, numbers that differ."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from defaults import of_the_default_run
from test_memory import raw_rows, row, said

from stages.families import FAMILIES
from stages.page import cards, carried, inputs, memory_claims, memory_lookup, memory_miss, methods, verdicts
from stages.page.memory_read import Read
from stages.page.section import Context
from stages.page.sections import found, neighbours, orders, streaming, vectors
from stages.statistics import memory

SLOTS, SLOT = Path(__file__).parents[1] / "reports" / "slots", "decoder"
CHOSEN = {"mlp": 1, "attention": 2}


@pytest.fixture(scope="module")
def slot() -> inputs.Slot:
    """Tables of the default run: for tests that are marked so."""
    return inputs.read(SLOT, SLOTS / SLOT)


def opening(slot: inputs.Slot) -> str:
    return " ".join(block.text for block in found.found(slot, Context(FAMILIES, ["text"])) if block.kind == "note")


@of_the_default_run
def test_vectors_of_several_numbers_of_heads_are_in_the_opening(slot):
    steering = slot.steering.copy()
    own = (steering["vector"] == "heads") & (steering["context"] == "zero_shot")
    together = own & (steering["function"] == "all")
    steering.loc[together, "heads"] = np.nan  # as where functions chose different numbers
    steering.loc[own & (steering["function"] == "antonym"), "heads"] = 4
    assert "are carried by 4 to 14 heads, by function: their mean" in opening(replace(slot, steering=steering))
    assert "are carried by heads chosen by function: their mean" in opening(
        replace(slot, steering=steering[together | (steering["vector"] != "heads")])
    )


@of_the_default_run
def test_a_claim_without_harm_is_none_that_holds(slot):
    """Where silencing any heads helps, the set that helps least has a low p."""
    claims = found.rows.silenced(slot.effects, FAMILIES)
    claims = claims[claims["claim"] & claims["p"].notna()].head(3).assign(q=0.01, harm=[0.2, -0.1, 0.3])
    first, second, third = (verdicts._named(claims.iloc[[place]]) for place in range(3))
    said = verdicts.over_all(claims, 0.05)
    assert said.startswith("Over all 3 claims of this model at once, 2 have q at most 0.05 and do harm: ")
    assert said.endswith(f": {first} and {third}.") and second not in said.split(": ")[1]


@of_the_default_run
def test_the_largest_harm_is_that_of_the_claims_it_was_sought_among(slot):
    effects = slot.effects.copy()
    effects.loc[(effects["purpose"] == "family") & (effects["family"] == "retrieval"), ["p", "q"]] = 0.3
    claims = found.rows.silenced(effects, FAMILIES)
    claims = claims[claims["claim"] & claims["p"].notna()]
    apart = claims[(claims["p"] <= 0.05) & (claims["harm"] > 0) & claims["measure"].isin(found.SHARES)]
    assert claims.set_index("family")["harm"]["retrieval"].max() > apart["harm"].max()  # it is no finding
    text = opening(replace(slot, effects=effects))
    assert f"the largest harm among the {len(apart)} told apart that are shares, of {len(claims)} claims," in text


@of_the_default_run
@pytest.mark.parametrize(
    ("close", "verdict"),
    [(0, "chooses them, and not when chance does."), (19, "; when chance does, they are enough in 19 of 19 sets as")],
)
def test_a_cache_by_chance_that_does_as_well_is_not_said_to_fail(slot, close, verdict):
    cache = slot.cache.copy()
    half = (cache["measure"] == "recall") & (cache["method"] == "gate") & (cache["share"] == 0.5)
    cache.loc[half, ["p", "draws_worse", "draws_close"]] = [0.05, 19, close]
    assert verdict in streaming._policy(cache, slot, 0.05)


@of_the_default_run
def test_members_stand_beside_the_threshold_that_was_in_force(slot):
    reliability = slot.reliability.copy()
    reliability.loc[reliability["family"] == "induction", "threshold"] = 0.2
    changed = replace(slot, reliability=reliability)
    for of, card, method in ((changed, "0.2", "0.2 (set in params; 0.4 without)"), (slot, "0.4", "0.4")):
        scores = cards.cards(of, FAMILIES)["L5H1"]["tables"][0]
        at = dict(zip(scores["columns"], next(r for r in scores["rows"] if r[0] == "induction"), strict=True))
        table = methods.sections([of], FAMILIES, 0.05, 0.05)[0].blocks[-1]
        shown = next(r for r in table.rows if r[0] == "induction")[table.columns.index("member at")]
        assert at["member at"] == card and shown.removesuffix(" (our convention)") == method


@pytest.mark.parametrize(
    ("regular", "irregular", "verdict"),
    [
        ((0.6, 0.8), (0.2, 0.4), ""),
        ((0.2, 0.4), (0.6, 0.8), " (worse)"),
        ((0.2, 0.5), (0.4, 0.8), " (not told apart: the intervals overlap)"),
        ((0.2, 0.5), (np.nan, np.nan), " (too few words for an interval: not told apart)"),
    ],
)
def test_endings_lie_above_below_or_are_not_told_apart(regular, irregular, verdict):
    rows = (pd.Series({"low": low, "high": high}) for low, high in (regular, irregular))
    assert carried._apart(*rows) == verdict


@of_the_default_run
@pytest.mark.parametrize(
    ("layerwise", "one", "verdict"),
    [
        ((0.01, 0.0, 0.03), (0.5, 0.4, 0.6), "do worse than one sum at one layer)"),
        ((0.45, 0.35, 0.55), (0.5, 0.4, 0.6), "are not told apart from one sum at one layer)"),
        ((0.95, 0.9, 0.99), (0.8, 0.7, 0.85), "do better than one sum at one layer, which lacks nothing)"),
        ((0.5, 0.4, 0.6), (0.1, 0.0, 0.2), "of what one sum lacks)"),
    ],
)
def test_sums_layer_by_layer_lie_above_below_or_are_not_told_apart(slot, layerwise, one, verdict):
    steering = slot.steering.copy()
    of_all = (steering["function"] == "all") & (steering["context"] == "zero_shot")
    for vector, values in (("layerwise", layerwise), ("function", one)):
        steering.loc[of_all & (steering["vector"] == vector), ["accuracy", "low", "high"]] = values
    assert verdict in vectors._place(steering[steering["function"] == "all"], ["zero_shot"])


@of_the_default_run
@pytest.mark.parametrize(("high", "said"), [(0.12, True), (0.4, False)])
def test_random_vectors_that_do_harm_are_said_to(slot, high, said):
    steering = slot.steering[slot.steering["function"] == "all"].copy()
    of_context = steering["context"] == "shuffled"
    for vector, values in (("none", (0.36, 0.25, 0.5)), ("random", (0.0, 0.0, high))):
        steering.loc[of_context & (steering["vector"] == vector), ["accuracy", "low", "high"]] = values
    (claim,) = vectors._claims(steering, "shuffled")
    text = (
        " Random vectors as long as the heads' sum, added at its layer, take accuracy down, to 0.00 [0.00, 0.12]: to do"
    )
    assert (text in vectors._claim(claim, steering, 0.05)) == said


def read_of(raw: list[dict]) -> Read:
    return Read.of(memory.table(pd.DataFrame(raw), CHOSEN))


@pytest.mark.parametrize(("known", "made_up"), [("known", "invented"), ("matched_real", "matched_invented")])
@pytest.mark.parametrize(
    ("shares", "more"),
    [((20, 2), True), ((2, 20), False), ((10, 11), None)],
)
def test_answers_agree_more_often_about_either_class_or_neither(known, made_up, shares, more):
    raw = [r for r in raw_rows(True) if r["what"] != "shown"]
    for condition in ("known", "invented", "matched_real", "matched_invented"):
        share = shares[0] if condition == known else shares[1] if condition == made_up else 10
        raw += [row(part="miss", what="shown", layer=-1, condition=condition, measure="agreement", cluster=f"c{n}",
                    value=float(n < share)) for n in range(20)]  # fmt: skip
    text = memory_miss._missed(read_of(raw))
    real = "known subjects" if known == "known" else "real ones"
    assert (f": answers about {real} agree more often." in text) == (more is True)
    assert (": answers about invented ones agree more often." in text) == (more is False)
    assert text.count(": not told apart.") == 2 - (more is not None)


def test_few_words_are_not_said_to_do_without_an_mlp():
    few = [r for r in raw_rows(False) if r["condition"] != "copy" or r["cluster"] in ("c0", "c1", "c2", "c3", "c4")]
    text = memory_lookup._word(read_of(few))
    assert text.endswith("whether copying can do without it is not told (5 words, too few for a claim).")
    assert "they can do without it" in memory_lookup._word(read_of(raw_rows(False)))


def test_no_claim_holds_of_few_facts_or_without_an_interval():
    def verdicts(facts: int) -> dict[str, str]:
        kept = {f"c{n}" for n in range(facts)}
        read = read_of([r for r in raw_rows(True) if r["cluster"] in kept])
        return {line[0]: line[-1] for line in memory_claims.rows_of(memory_claims.claims(1, "capital"), read.cells)[0]}

    text = "control: with C = identity, text KL is so many times as large"
    exact = {
        "second singular value of the change over the first, millionths",
        "adapter read from its file, merged: largest difference of logits, millionths",
    }
    for facts in (3, 12):
        few = verdicts(facts)
        assert few["an invented fact is recalled"] == "too few for a claim"
        assert few["entropy, nats more for invented names than for real ones of as many tokens"] == "not measured"
        assert not [claim for claim, verdict in few.items() if verdict.startswith("holds") and claim not in exact]
        assert all(few[claim] == "holds" for claim in exact)  # of one adapter: no sample of anything
    assert verdicts(20)[text] == "holds"
    claim = next(c for c in memory_claims.claims(1, "capital") if not isinstance(c, str) and c.says == text)
    ratio = {"value": 50.0, "low": np.nan, "high": np.nan, "note": ""}
    assert [memory_claims.verdict(claim, ratio | {"clusters": facts}) for facts in (12, 20)] == [
        "too few for a claim", "holds"
    ]  # fmt: skip


def test_orders_of_words_enough_are_not_called_few():
    def cell(trials: int) -> dict:
        return {"accuracy": 0.5, "low": 0.4, "high": 0.6, "trials": trials}

    def told(letters: int, months: int) -> str:
        clean = {("known", "not_stated"): cell(60), ("letters", "not_stated"): cell(letters)}
        return orders.known(clean | {("months", "not_stated"): cell(months)})

    assert told(12, 12).endswith("(letters 0.50 of 12 and months 0.50 of 12: too few for a claim each).")
    assert told(30, 12).endswith("(letters 0.50 of 30 and months 0.50 of 12; too few for a claim: months).")
    assert told(30, 30).endswith("(letters 0.50 of 30 and months 0.50 of 30).")


@of_the_default_run
def test_heads_that_are_no_members_are_not_called_induction_heads_once_silenced(slot):
    """Older tables hold what silencing them did; their attention was not looked at."""
    old = replace(slot, neighbours=slot.neighbours[~slot.neighbours["measure"].str.contains("attention")], longer={})
    now, before = (
        " ".join(block.text for block in neighbours._read(of, "", 0.05) if block.kind == "note") for of in (slot, old)
    )
    assert "With the induction heads silenced" in now and "No induction heads are in the plan" not in now
    assert "With the induction heads silenced" not in before and "No induction heads are in the plan" in before


def test_halves_are_not_said_to_share_no_text():
    text = " ".join(methods.READING)
    assert "nor are prompts that share text" not in text and "prompts that share text kept together" not in text
    assert "a short one of one half can lie in a long one of the other" in text


def two_relations() -> list[dict]:
    """Known facts of `relation_0` that no MLP decides, and of `relation_1` that one does."""
    raw = [r | {"condition": "relation_0"} if r["condition"] == "capital" else r for r in raw_rows(False)]
    more = [r | {"condition": "relation_1", "cluster": f"other-{r['cluster']}"} for r in raw_rows(True)
            if r["condition"] == "capital"]  # fmt: skip
    return raw + more


def test_known_facts_of_several_relations_stand_together(tmp_path):
    raw = two_relations()
    table = memory.table(pd.DataFrame(raw), CHOSEN)
    at = table.set_index(["what", "layer", "measure", "condition"]).sort_index()
    donors = [at.loc[("interchange", 1, "donor", name)] for name in ("relation_0", "relation_1", "all")]
    assert donors[2]["value"] == pytest.approx(np.mean([cell["value"] for cell in donors[:2]])) != donors[0]["value"]
    assert donors[2]["trials"] == 40 and memory.metrics(table)["memory"]["lookup"]["donor"] == donors[2]["value"]
    text = said(raw, tmp_path, CHOSEN)
    assert "of 40 known facts (of 2 relations) right" in text
    alone = said(raw_rows(True), tmp_path, CHOSEN)
    assert "of 20 known facts right" in alone
    assert "all" not in set(memory.table(pd.DataFrame(raw_rows(True)), CHOSEN)["condition"])


@of_the_default_run
def test_the_opening_says_what_all_relations_together_give(slot):
    raw = two_relations()
    path_of = memory.table(pd.DataFrame(raw), CHOSEN)
    value = path_of[(path_of["what"] == "interchange") & (path_of["condition"] == "all") & (path_of["layer"] == 1)]
    value = value[value["measure"] == "donor"]["value"].iloc[0]
    assert f"that subject's answer comes out in {value:.2f}" in opening(replace(slot, memory=path_of))
