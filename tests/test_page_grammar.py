"""Grammar on the page: claims follow intervals, 60 families are one elsewhere, encoders say once what they lack."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic
from test_page import HEADS as WIDTH
from test_page import LAYERS, effects, model, overlaps, render, specs_of, text_of, values, write_slot

from stages.families import FAMILIES
from stages.families.treebank.grammar import DIRECTIONS, GROUPS, LABELS, name
from stages.page import clark, gaps, grammar, grammar_rows, inputs, rows, sections
from stages.page.section import Context

PUBLISHED = Path(__file__).parents[2] / "shared/data/published/clark_notebook_all_relations.csv"
EMPTY = pd.DataFrame(columns=synthetic.COLUMNS)


def write_encoder(folder: Path, **replaced) -> Path:
    generator = np.random.default_rng(3)
    arcs = synthetic.arcs(generator, 6, 12, causal=False)
    scores = synthetic.heads(generator, arcs, 6, 12)
    local = scores[scores["family"] == name("det", "dep-to-head")].assign(family="local", baseline=None, score_null=0.1)
    scores = pd.concat([local, scores], ignore_index=True)
    content = {"model": synthetic.encoder(), "metrics": {"grammar": {"uas": 0.5}}, "heads": scores, "grammar": arcs}
    content |= {"effects": None, "causal": None, "agreement": None, "steering": None, "iteration": None}
    content |= {"extrapolation": None, "composed": None, "continued": None, "sweep": None}
    content |= {"overlap": overlaps(scores)}
    return write_slot(folder, **content | replaced)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_slot(tmp_path_factory.mktemp("grammar") / "decoder")


@pytest.fixture(scope="module")
def slot(folder) -> inputs.Slot:
    return inputs.read("decoder", folder)


@pytest.fixture(scope="module")
def shown(folder) -> str:
    return text_of(render(folder))


def test_findings_say_the_middle_the_ends_and_the_whole(slot, shown):
    gains = grammar_rows.measured(slot.grammar)["gain"]
    assert f"Over {len(gains)} relations (a label in one direction)" in shown
    assert f"does by {100 * gains.median():+.1f} points in the median. Largest: obj → head, L" in shown
    assert "57.8 % [56.1, 59.7] of 3726 words are found, labels given, over both directions (a hit rate, not a" in shown
    assert "45.0 %: +12.8 [+11.0, +14.7] points" in shown
    assert "A causal model sees only what came before" in shown
    assert "A causal model" not in grammar.findings(slot.grammar, causal=False)
    arcs = slot.grammar.assign(direction=slot.grammar["direction"].replace("", "dep-to-head"))
    assert "of 3726 words are found by the chosen heads from their dependents, labels given (UAS)" in grammar.findings(
        arcs, causal=True
    )


def test_map_has_a_cell_per_head_and_relation_and_marks_members_and_the_chosen(slot):
    found = grammar_rows.measured(slot.grammar)
    cells, labels, layers = grammar_rows.placed(grammar_rows.leads(slot.heads, found))
    assert len(cells) == len(found) * LAYERS * WIDTH == len(cells.drop_duplicates(["x", "y"]))
    assert cells["chosen"].sum() == len(found)
    members = slot.heads[slot.heads["family"].str.startswith("grammar:")]["member"].sum()
    assert cells["member"].sum() == members > 0
    assert list(labels[labels["heading"] == 0]["text"]) == list(found["relation"])
    assert list(labels[labels["heading"] == 1]["text"]) == [group.replace("_", " ") for group in GROUPS]
    assert list(layers["text"]) == [f"L{layer}" for layer in range(LAYERS)]
    top = cells.loc[cells["lead"].idxmax()]
    assert top["relation"] == "obj → head" and np.isclose(top["lead"], 0.45)
    assert np.allclose(cells["lead"], cells["score"] - cells["baseline"])


def test_table_is_bold_where_the_gain_is_sure_and_quotes_clark_only_for_their_direction(slot):
    block = grammar.table(slot.grammar, "grammar.csv")
    found = pd.concat([slot.grammar[slot.grammar["label"] == "all"], grammar_rows.measured(slot.grammar)])
    assert [i in block.marked for i in range(len(found))] == list(found["gain_low"] > 0)
    by_name = {row[0]: row for row in block.rows}
    assert by_name["obj → head"][-1] == "86.8 (40.0, 2 left) dobj"
    assert by_name["det → head"][-1] == "94.3 (51.7, 1 right) det"
    assert by_name["obj → dependents"][-1] == by_name["case → head"][-1] == "–"
    assert block.rows[0][0] == "all (hit rate, both directions)" and len(block.rows) == len(found)
    assert block.rows[0][-1] == "–"  # no hit rate stands beside a UAS
    arcs = slot.grammar.assign(direction=slot.grammar["direction"].replace("", "dep-to-head"))
    first = grammar.table(arcs, "grammar.csv").rows[0]
    assert (first[0], first[-1]) == ("all → head (UAS)", "34.7 (26.7, 1 right) all")
    row = found[(found["label"] == "nsubj") & (found["direction"] == "dep-to-head")].iloc[0]
    assert by_name["nsubj → head"][3] == f"{100 * row['baseline']:.1f} ({int(row['best_offset'])} left)"


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the published table is not beside this repository")
def test_published_numbers_are_those_of_the_notebook():
    printed = {row["relation"]: row for row in csv.DictReader(PUBLISHED.open())}
    for one in [*clark.COUNTERPARTS.values(), clark.ALL]:
        row = printed[one.label]
        numbers = [row[key] for key in ("n_in_wsj_dev", "accuracy", "baseline_accuracy", "baseline_offset")]
        assert [float(number) for number in numbers] == [one.arcs, one.accuracy, one.baseline, one.offset]
        assert row["head_layer-head_1based"] == f"{one.layer + 1}-{one.head + 1}"
        assert row["direction_as_printed"] == "dep->head"
    assert set(clark.COUNTERPARTS) <= set(LABELS)


def test_nothing_to_say_says_both_medians(slot, shown):
    found = slot.grammar.dropna(subset="rise")
    rise, others = (f"{100 * found[column].median():+.1f}".replace("-", "−") for column in ("rise", "others"))
    assert f"Over {len(found)} relations it rises by {rise} points in the median in the chosen heads, and by " in shown
    assert f"{others} in the model's other heads. Largest rise: obj → head, L" in shown
    figure = grammar.nothing_to_say(grammar_rows.measured(slot.grammar), "grammar.csv")[0]
    assert sum(len(values(chart.spec.to_dict())) - 1 for chart in figure.charts) == len(
        found
    )  # one row is the line at 0
    without = slot.grammar.assign(rise=np.nan)
    assert "was not measured" in grammar.nothing_to_say(grammar_rows.measured(without), "")[0].text


def test_claims_on_minimal_pairs_stand_once_and_their_section_points_to_them(slot, shown):
    section = shown.split("and stands beside it only where")[1].split("What happens without them The best")[0]
    assert "when the best heads of grammar:arguments and grammar:clauses are silenced stands under" in section
    assert shown.count("grammar heads of arguments (L5H1, L5H2, L11H2; 2 members") == 1
    arguments, clauses = shown.split("best grammar heads of arguments")[1].split("best grammar heads of clauses")
    assert "does as much harm: rank p = 0.05, its floor" in arguments
    assert "not told apart from other heads" in clauses
    own = rows.silenced(slot.effects, FAMILIES).query("family == 'grammar:arguments' and claim")
    assert list(own["task"]) == ["blimp"] and own["as_harmful"].item() == 0


def test_sixty_families_are_one_elsewhere(slot, shown, folder):
    elsewhere = re.sub(r"Grammar heads Over \d.*?What happens without them", "", shown)
    assert not re.search(r"grammar:\w+:(dep|head)", elsewhere)  # groups of relations are silenced, not relations
    measured = int((slot.grammar["label"] != "all").sum() - slot.grammar["note"].ne("").sum())
    assert f"(median of {measured})" in elsewhere and "see Grammar heads" in elsewhere
    assert "grammar, one per label and direction" in elsewhere
    assert "measured for 16 families of heads" in shown
    pair = "family fewer than 20 query words in one half of the sentences: iobj (12), compound:prt (7)"
    assert f"grammar {pair}" in elsewhere
    charts = [chart for chart in specs_of(render(folder)).values() if "family_a" in json.dumps(chart)]
    assert any(row["family_b"] == "grammar" for row in values(charts[0]))


@pytest.mark.parametrize("gone", [True, False])
def test_without_a_treebank_a_sentence_says_so(tmp_path, gone):
    bare = {"grammar": None if gone else EMPTY, "effects": effects(np.random.default_rng(1))}
    kept = {"not_measured": {f"family {family}": "task treebank is not in params" for family in grammar_rows.FAMILIES}}
    html = render(write_slot(tmp_path / "decoder", model=model() | kept, **bare), tasks=["text", "blimp"])
    shown = text_of(html)
    assert "No grammar head was measured: task treebank is not in params." in shown
    assert "Grammar heads were not silenced" not in shown  # nothing more to say than that
    assert shown.count("grammar family task treebank is not in params") == 1
    html = render(write_slot(tmp_path / "other", **bare))
    assert re.search(r"No grammar head was measured: \S+grammar.csv has no rows.", text_of(html))


def test_relations_without_a_number_are_grouped_by_reason_and_count(folder):
    slot = inputs.read("decoder", folder)
    one = slot.grammar[(slot.grammar["label"] == "iobj") & (slot.grammar["direction"] == "head-to-dep")].index
    slot.grammar.loc[one, "note"] = "11 query words in one half of the sentences: fewer than 20"
    slot.model["not_measured"] = {f"family {name('csubj', direction)}": "no such arc" for direction in DIRECTIONS}
    assert grammar_rows.unmeasured(slot) == (
        "fewer than 20 query words in one half of the sentences: iobj → head (12), iobj → dependents (11), "
        "compound:prt (7); no such arc: csubj"
    )


def test_an_encoder_says_once_what_it_cannot_show(tmp_path):
    one, two = write_slot(tmp_path / "decoder"), write_encoder(tmp_path / "encoder")
    html = render(one, two)
    shown = text_of(html)
    anchors = re.findall(r'<section id="encoder-([^"]+)"', html)
    assert anchors == ["found", "limits", "heads", "grammar", "sinks", "overlap", "missing", "model"]
    said = shown[shown.index("What it cannot show An encoder") :]
    assert said.index("'What the intact model can do'") < said.index("'Function vectors'") < said.index("The heads")
    assert shown.count("an encoder writes no continuation") == 2  # families, and the stage `steer`
    assert "UAS is over dependents" in said and "not silenced" not in said
    assert "No head has a positive" not in said and "n-grams of the text" not in said
    assert all(values(spec) for spec in specs_of(html).values())
    assert "nan" not in shown.lower().split()
    linked = set(re.findall(r'href="#([^"]+)"', html))
    assert linked <= {*re.findall(r'id="([^"]+)"', html)}


def test_a_masked_model_keeps_what_it_can_do(tmp_path):
    table = effects(np.random.default_rng(1))
    table = table[(table["purpose"] == "none") & (table["task"] == "blimp")]
    record = synthetic.encoder() | {"kind": "masked"}
    html = render(write_encoder(tmp_path / "encoder", model=record, effects=table))
    anchors = re.findall(r'<section id="encoder-([^"]+)"', html)
    assert anchors == "found intact counting heads limits grammar sinks overlap missing model".split()
    assert "A masked language model fills gaps" in text_of(html)
    assert "In-context functions by function" not in text_of(html)


def test_a_decoder_is_never_cut(slot):
    parts = sections.build(slot, Context({}, []))
    assert gaps.limits(slot, parts, {part.anchor for part in parts}) == parts


def test_side_by_side_folds_the_gains(tmp_path):
    gain = {"obj:dep-to-head": 0.36, "det:dep-to-head": 0.19}
    one = write_slot(tmp_path / "decoder", metrics={"grammar": {"uas": 0.4, "gain": gain}})
    html = render(one, write_encoder(tmp_path / "encoder"))
    shown = text_of(html)
    assert "grammar, uas 0.4 0.5" in shown and "grammar, gain" not in shown
    assert re.search(r"<summary>Accuracy of grammar heads beyond the best offset \(2 relations\)", html)
    assert "obj:dep-to-head 0.36 –" in shown
