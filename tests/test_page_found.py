"""What was found: every number of the opening stands in a table, and nothing is claimed where a table is silent."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from defaults import of_the_default_run
from test_page import text_of

from stages.families import FAMILIES
from stages.page import inputs, page
from stages.page.section import Context
from stages.page.sections import found
from stages.store import paths
from stages.store.errors import UserError

SLOTS = Path(__file__).parents[1] / "reports" / "slots"
CONTEXT = Context(FAMILIES, ["text", "needle", "icl"])


def said(slot: inputs.Slot) -> list[str]:
    return [block.text for block in found.found(slot, CONTEXT) if block.kind == "note"]


@pytest.fixture(scope="module", params=sorted(path.name for path in SLOTS.iterdir() if path.is_dir()))
def slot(request) -> inputs.Slot:
    return inputs.read(request.param, SLOTS / request.param)


def numbers_of(slot: inputs.Slot) -> set[str]:
    """Return every number of the slot's tables, as the page writes it: rounded to one, two and three decimals."""
    values = [0.3]  # the sink rate's threshold, in the name of the measure
    for name in inputs.COLUMNS:
        table = getattr(slot, name)
        for column in table.select_dtypes("number"):
            values += table[column].dropna().tolist()
    texts = {f"{value:.{digits}f}" for value in values for digits in (0, 1, 2, 3)}
    return texts | {f"{100 * value:.1f}" for value in slot.sinks["value"].dropna()}


def test_every_number_of_the_opening_is_of_its_tables(slot):
    known = numbers_of(slot)
    members = slot.heads[slot.heads["member"] == 1]
    broad = members["family"].where(~members["family"].str.startswith("grammar:"), "grammar")
    counts = members.assign(broad=broad).drop_duplicates(["layer", "head", "broad"]).groupby("broad").size()
    counted = {str(n) for n in [*counts, len(slot.heads.drop_duplicates(["layer", "head"]))]}
    counted.add(str(len(slot.model["not_measured"])))
    for text in said(slot):
        bare = re.sub(r"\[([^\[\]]+)\]\(#[^)]*\)", r"\1", text).replace("−", "-")  # links
        bare = re.sub(r"\bL\d+H\d+\b|\([^()]*dequantised\)|first_letter", "", bare)
        for number in re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?", bare):
            assert number in known | counted, (number, text)


@of_the_default_run
def test_the_opening_figure_draws_what_a_guess_gets():
    slot, counted = inputs.read("decoder", SLOTS / "decoder"), inputs.counting(paths.COUNTING)
    figure = next(block for block in found.found(slot, replace(CONTEXT, counted=counted)) if block.kind == "figure")
    spec = figure.charts[0].spec.to_dict()
    (rows,) = (rows for rows in spec["datasets"].values() if "guess" in rows[0])
    guesses = {row["shown"]: row["guess"] for row in rows}
    assert guesses["grammar:clauses: accuracy on minimal pairs"] == 0.5  # two sentences
    copied = slot.iteration[slot.iteration["function"] == "copy"]["symbols_chance"]
    assert guesses["iteration:copy: recall on strings and tapes"] == copied.iloc[0] == 0.1  # ten symbols
    words = counted[(counted["task"] == "icl") & (counted["condition"] == "all") & (counted["baseline"] == "ngram")]
    assert guesses["function: accuracy on in-context functions"] == words["value"].iloc[0]
    assert "0.10 on strings and tapes (copy)" in figure.says and "no guess was counted for needles" in figure.says


def test_the_opening_links_to_sections(slot):
    for text in said(slot):
        for anchor in re.findall(r"\(#([\w-]+)\)", text):
            assert anchor.startswith(f"{slot.name}-")


@of_the_default_run
def test_harm_of_all_control_sets_is_not_called_a_finding():
    slot = inputs.read("decoder", SLOTS / "decoder")
    alike = slot.effects.copy()
    alike.loc[alike["purpose"] == "family", ["p", "q"]] = 0.5
    text = " ".join(said(replace(slot, effects=alike)))
    assert "Silenced together" not in text and "Not told apart from other heads by what is lost: " in text
    assert "retrieval heads" in text.split("Not told apart")[1]


@of_the_default_run
def test_vectors_that_other_heads_match_are_said_to_be_looked_for():
    slot = inputs.read("decoder", SLOTS / "decoder")
    steering = slot.steering.copy()
    steering.loc[(steering["function"] == "all") & (steering["vector"] == "heads"), "p"] = 0.4
    text = " ".join(said(replace(slot, steering=steering)))
    assert "were looked for in 14 heads" in text and "rank p = 0.40, not told apart from other heads" in text
    assert "are carried by" not in text


@of_the_default_run
def test_a_function_that_most_made_up_words_break_is_on_the_other_side():
    slot = inputs.read("decoder", SLOTS / "decoder")
    table = slot.extrapolation.copy()
    whole = (table["tokens"] == "all") & (table["context"] == "demonstrations") & (table["class"] == "made_up")
    table.loc[whole & (table["function"] == "copy"), ["accuracy", "low", "high"]] = [0.1, 0.0, 0.3]
    text = " ".join(said(replace(slot, extrapolation=table)))
    assert "most are wrong, though most usual words are right, for copy 0.10 (form)" in text


def test_a_slot_without_results_says_so():
    empty = inputs.read("nothing", SLOTS / "nothing")
    assert said(replace(empty, model={"kind": "decoder"}))[-1].startswith("All of it holds of this model")
    blank = pd.DataFrame({"shown": [], "value": []})
    assert found.left(blank.assign(intact=np.nan, heads="", apart=0, p=np.nan), blank.assign(heads=""), [])
    assert text_of(str(page.linked("a [b](#c)"))) == "a b"


@of_the_default_run
def test_heads_of_a_family_that_is_none_are_refused(tmp_path):
    shutil.copytree(SLOTS / "decoder", tmp_path / "decoder")
    heads = tmp_path / "decoder/heads.csv"
    heads.write_text(heads.read_text().replace(",induction,", ",inductoin,"))
    with pytest.raises(UserError, match=r"heads\.csv: family 'inductoin' is none of stages/families; run dvc repro"):
        inputs.read("decoder", tmp_path / "decoder")


def test_a_record_that_is_no_object_is_one_line(tmp_path):
    (tmp_path / "model.json").write_text("[1]")
    with pytest.raises(UserError, match=r"model\.json: holds a list; expected an object; run dvc repro"):
        inputs.read("decoder", tmp_path)
    (tmp_path / "model.json").write_bytes(b"\xff")
    with pytest.raises(UserError, match=r"model\.json: not JSON .*; run dvc repro"):
        inputs.read("decoder", tmp_path)


def test_heads_without_which_less_is_lost_than_without_any_control_set_are_no_mere_draw():
    """All control sets cost more than the sink heads, and the verdict was: not told apart."""
    from stages.page.verdicts import verdict

    row = SimpleNamespace(controls=19, matching="", p=1.0, q=1.0, p_floor=0.05, as_harmful=19, harm=0.04)
    assert verdict(row, 0.05).endswith("rank p = 1.00, q = 1.00 over all claims; so without each of them at least as "
                                       "much is lost")  # fmt: skip
    row.as_harmful, row.p = 18, 0.95
    assert verdict(row, 0.05).endswith("not told apart from other heads")
