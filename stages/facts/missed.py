"""Part miss: answers about known, rare and invented subjects, before and after insertion; scores of a hit."""

from typing import Any

import numpy as np

from stages.facts.asked import Prompts, fact_row
from stages.facts.inserted import Insertion
from stages.store import params
from stages.tasks.facts.task import ASKED, INVENTED, KNOWN, LONG, MAIN, RARE, SHOWN, WORD

AFTER = "_after"  # after the name of what is asked once facts are inserted


def miss(
    loaded: Any, writers: dict, asked: Prompts, settings: params.Params, chosen: dict, inserted: Insertion | None
) -> list[dict]:
    """Return the rows of part miss: answers without and after demonstrations, before and after insertion, and scores.

    After: all inserted facts together, solved jointly. Matched: as many real and invented subjects of each number of
    tokens; of known ones those of split b.
    """
    from stages.model.mlp import storing

    most, mains = settings.memory.missed, [row for row in asked.rows if row.role == MAIN]
    conditions = {kind: asked.of(most, category=kind, split="b")[0] for kind in (KNOWN, RARE, INVENTED)}
    real = [row for row in mains if row.category in (RARE, LONG) or (row.category == KNOWN and row.split == "b")]
    pairs = _as_long(asked, real, [row for row in mains if row.category == INVENTED])[:most]
    conditions |= {"matched_real": [row for row, _ in pairs], "matched_invented": [row for _, row in pairs]}
    conditions = {name: of_condition for name, of_condition in conditions.items() if of_condition}
    rows = _answers(loaded, asked, conditions, "", {})
    if inserted is not None:
        facts = {fact.cluster: fact.targets[0].strip() for fact in inserted.facts}
        after = {KNOWN: conditions.get(KNOWN, [])}
        after |= {INVENTED: [row for row in conditions.get(INVENTED, []) if row.cluster in facts]}
        with storing(loaded, inserted.writer, inserted.joint, inserted.values):
            rows += _answers(loaded, asked, after, AFTER, facts)
    layer = chosen["mlp"]
    return rows + _scores(loaded, {layer: writers[layer]}, asked, settings, inserted, conditions)


def _as_long(asked: Prompts, real: list, invented: list) -> list[tuple]:
    """Return pairs of a real and an invented subject of equally many tokens, each taken once.

    Numbers of tokens that give most pairs come first: fewer lengths of prompts run.
    """
    of = {row.id: len(t.spans[ASKED][0][1]) for row, t in zip(asked.rows, asked.tokens, strict=True)}
    pairs = [
        list(zip(*([row for row in rows if of[row.id] == number] for rows in (real, invented)), strict=False))
        for number in sorted(set(of.values()))
    ]
    return [pair for of_number in sorted(pairs, key=len, reverse=True) for pair in of_number]


def _answers(loaded: Any, asked: Prompts, conditions: dict[str, list], when: str, facts: dict[str, str]) -> list[dict]:
    """Return what is answered about subjects, by condition, each asked once; facts: what invented ones were given."""
    from stages.model import misses

    of = {(row.cluster, row.role): (row, t) for row, t in zip(asked.rows, asked.tokens, strict=True)}
    objects = {row.targets[0].strip() for row in asked.rows if row.category != WORD}
    subjects = sorted({row.cluster for of_condition in conditions.values() for row in of_condition})
    roles, said = (MAIN, *asked.roles(SHOWN)), {}
    for role in roles:
        there = [of[cluster, role] for cluster in subjects if (cluster, role) in of]
        texts, entropy = misses.answers(loaded, [tokens for _, tokens in there])
        said |= {(row.cluster, role): answer for (row, _), *answer in zip(there, texts, entropy, strict=True)}
    rows = []
    for condition, of_condition in conditions.items():
        for row in of_condition:
            right = facts.get(row.cluster, "") if row.category == INVENTED else row.targets[0].strip()
            for role in roles:
                if (row.cluster, role) not in said:
                    continue
                what, (text, nats) = role.partition("-")[0] + when, said[row.cluster, role]
                is_a = misses.kind_of(text, right, row.cluster.partition("/")[2], objects)
                rows.append(fact_row("miss", what, -1, row, "entropy", nats, condition))
                rows += [fact_row("miss", what, -1, row, of_kind, of_kind == is_a, condition)
                         for of_kind in ("right", "object", "echo", "number", "other")]  # fmt: skip
            shown = [said[row.cluster, role][0] for role in roles[1:] if (row.cluster, role) in said]
            if len(shown) == 2:
                rows.append(fact_row("miss", SHOWN + when, -1, row, "agreement", shown[0] == shown[1], condition))
    return [row | {"split": "b"} for row in rows]  # nothing chose on any of them


def _scores(
    loaded: Any, writers: dict, asked: Prompts, settings: params.Params, inserted: Insertion | None, conditions: dict
) -> list[dict]:
    """Return scores of a hit per subject of every condition."""
    from stages.model import misses, rank_one

    ((layer, writer),), of = writers.items(), {row.id: t for row, t in zip(asked.rows, asked.tokens, strict=True)}
    every = list({row.id: row for of_condition in conditions.values() for row in of_condition}.values())
    tokens = [of[row.id] for row in every]
    names = [t.spans[ASKED][0][1] for t in tokens]
    scores = {"tokens": np.array([len(name) for name in names])}
    if all(name[0] > 0 for name in names):  # nothing predicts the first token of a text
        scores["logprob"] = misses.name_logprobs(loaded, tokens, names)
    if inserted is not None:
        known = asked.of(settings.memory.choose, category=KNOWN, split="a")[1]
        keys, stored = (rank_one.mean_keys(loaded, writer, [[t] for t in of], ASKED) for of in (tokens, known))
        values = loaded.model.get_submodule(writer.path)(keys)
        scores |= misses.hits(keys, values, stored, inserted.metric)
    place = {row.id: number for number, row in enumerate(every)}
    return [
        fact_row("miss", "score", layer, row, measure, values[place[row.id]], condition)
        for condition, of_condition in conditions.items()
        for row in of_condition
        for measure, values in scores.items()
    ]
