"""Attention of the heads that matter on real prompts: `python -m stages.examples <slot>`.

Writes reports/slots/<slot>/examples.json: for each family, one prompt and where each of its members looks in it. The
prompt is the first of split b, by id, that the family's score counts, whatever it shows; the query is the last that has
the relation (a word of several tokens: their mean). A family of effects has no target: there it is the position that
predicts the answer. How many heads and tokens are kept is a budget (params `examples`).
"""

import json
import logging
import sys
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from stages import tasks
from stages.families import FAMILIES
from stages.families.family import Family, Tokens
from stages.statistics.examples import first_counted, near, strip, strongest
from stages.store import files, params, paths, records, tables
from stages.store.errors import run

log = logging.getLogger(__name__)
SINK = "[learned sink]"
DIGITS = 3  # of a weight


def main(slot: str) -> None:
    """Read the members of all families, show each family's on its prompt; or say why there are none."""
    settings = params.load().examples
    record = records.read(slot)
    members = strongest(tables.HEADS.read(slot), settings.heads)
    why = "no head is a member of a family" if members.empty else ""
    if record["kind"] == "vision":
        why = "a model of images reads patches, which have no names"
    shown = {} if why else _examples(slot, members, settings.tokens)
    content = json.dumps({"reason": why, "families": shown}, indent=1, ensure_ascii=False)
    files.write_text(paths.examples(slot), content + "\n")
    heads = len(members.drop_duplicates(["layer", "head"]))
    log.info("%s: %s", slot, why or f"{heads} heads in {len(shown)} families")


def _examples(slot: str, members: pd.DataFrame, most: int) -> dict[str, dict[str, Any]]:
    """Return family -> its example, in display order."""
    from stages.model.attended import Attention  # torch is loaded only where something is shown
    from stages.model.cost import Work, announce
    from stages.model.load import load
    from stages.model.tokens import encode

    loaded = load(slot)
    attention, prompts = Attention(loaded), {}  # family -> row of its prompt
    for task, names in members.groupby(members.family.map(lambda name: FAMILIES[name].task)).family.unique().items():
        chosen = _prompts(slot, task, names)
        rows = tables.PROMPTS.read(task, only=[("id", "in", list(chosen.values()))]).set_index("id", drop=False)
        prompts |= {name: rows.loc[prompt] for name, prompt in chosen.items()}
    work = Work(sum(len(encode(loaded, prompt)) for prompt in prompts.values()))
    log.info(announce(f"examples {slot}", len(prompts), work, loaded))
    shown: dict[str, dict[str, Any]] = {}
    for name, prompt in tqdm(prompts.items(), desc="examples", unit="family"):
        own = members[members.family == name]
        heads = [(int(layer), int(head)) for layer, head in zip(own.layer, own["head"], strict=True)]
        shown[name] = example(attention, FAMILIES[name], prompt, heads, most)
    return {name: shown[name] for name in FAMILIES if name in shown}


def _prompts(slot: str, task: str, names: np.ndarray) -> dict[str, str]:
    """Return family -> the id of its prompt."""
    chosen: dict[str, str] = {}
    columns, reported = ["prompt", "split", "relation", "recalled"], ("split", "==", "b")
    of_names = ("relation", "in", list(names))
    measured = tables.RELATIONS.of_prompts(slot, task, columns=columns, only=[of_names, reported])
    for name in names:
        if FAMILIES[name].relation is None:
            rows = tables.PROMPTS.read(task, columns=["id", "split", "role"], only=[reported])
            asked = rows[rows.role.isin(tasks.of(task).roles)].assign(recalled=np.nan).rename(columns={"id": "prompt"})
            chosen[name] = first_counted(asked, solved_only=False)
        else:
            chosen[name] = first_counted(measured[measured.relation == name], FAMILIES[name].solved_only)
    return {name: prompt for name, prompt in chosen.items() if prompt}


def example(attention: Any, family: Family, prompt: Any, heads: list[tuple[int, int]], most: int) -> dict[str, Any]:
    """Return a prompt's cells (tokens; lengths of stretches left out), query, targets, and every head's weights.

    A stretch is marked as a target only where all of it is one; `on_target` counts every target.
    attention: `stages.model.attended.Attention`; prompt: a row of PROMPTS; heads: (layer, head); most: tokens shown.
    """
    from stages.model.tokens import encode, token_name

    loaded = attention.loaded
    tokens = encode(loaded, prompt)
    queries, targets, learned = asked(family, tokens)
    seen = queries.max() + 1 if loaded.anatomy.causal else len(tokens)
    names = [token_name(loaded, index) for index in tokens.ids[:seen].tolist()]
    cells, places = strip(names, near(seen, queries, targets, most))
    if any(layer.sink for layer in loaded.anatomy.layers.values()):
        cells, places = [*cells, SINK], [*places, np.array([len(tokens)])]
        targets = np.r_[targets, len(tokens)] if learned else targets
    weights = attention(tokens, queries)
    shown = {}
    for layer, head in heads:
        own_S = weights[layer][head]
        shown[f"L{layer}H{head}"] = {
            "on_target": round(float(own_S[targets].sum()), DIGITS) if len(targets) else None,
            "weights": " ".join(f"{own_S[at].sum():.{DIGITS}f}" for at in places),
        }
    return {
        "prompt": prompt.id,
        "cells": cells,
        "query": [index for index, at in enumerate(places) if np.isin(at, queries).any()],
        "targets": [index for index, at in enumerate(places) if np.isin(at, targets).all()],
        "heads": shown,
    }


def asked(family: Family, tokens: Tokens) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return the token positions of the last query, those of its targets, and whether a learned sink is one too."""
    if family.relation is None:
        return tokens.target[:1] - 1, np.array([], dtype=int), False
    relation = family.relation(tokens)
    (rows, targets), query = relation.pairs, relation.queries[-1]
    keys = targets[rows == len(relation.queries) - 1]
    if relation.words:
        return tokens.words[query], np.concatenate([tokens.words[key] for key in keys]), False
    return np.array([query]), keys, relation.sink


if __name__ == "__main__":
    run(main, *sys.argv[1:])
