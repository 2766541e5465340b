"""Grammar heads look from a word to its syntactic head, or from a head to its dependent (Clark+ 2019).

One family per label and direction, measured over words, not tokens: attention TO a word sums over its pieces, FROM a
word averages over them; the word itself and special tokens are taken out. The score is the share of query words whose
most attended word is the right one; what it must beat is the best fixed offset in words. Labels are those of Universal
Dependencies (de Marneffe+ 2021), in UD's own groups; subtypes that English treebanks count apart stand by themselves.
"""

from functools import cache, partial

import numpy as np
import pandas as pd

from stages.families.family import Family, Relation, Tokens

GROUPS = {
    "arguments": "nsubj nsubj:pass obj iobj obl expl",
    "modifiers": "det amod nummod nmod nmod:poss advmod compound compound:prt appos flat",
    "function_words": "case aux aux:pass cop mark cc",
    "clauses": "xcomp ccomp advcl acl acl:relcl csubj conj parataxis",
}
GROUP = {label: group for group, labels in GROUPS.items() for label in labels.split()}
LABELS = tuple(GROUP)
DIRECTIONS = {"dep-to-head": "dependent → its head", "head-to-dep": "head → its dependents"}
FEWEST = 20  # query words of a relation, at least: fewer are not measurable


def name(label: str, direction: str) -> str:
    """Return the family's name: grammar:obj:dep-to-head."""
    return f"grammar:{label}:{direction}"


@cache
def parts(family: str) -> tuple[str, str]:
    """Return label and direction of a grammar family's name."""
    _, *label, direction = family.split(":")
    return ":".join(label), direction


@cache
def measured_label(label: str) -> str | None:
    """Return the label that an arc counts under: its own, else its universal part; None for what is not measured."""
    universal = label.split(":")[0]
    return label if label in GROUP else universal if universal in GROUP else None


def relation(tokens: Tokens, family: str) -> Relation | None:
    """Query word -> the words it has the relation with, as rows and columns of `tokens.words`."""
    label, direction = parts(family)
    pairs = [
        pair
        for name, arcs in tokens.arcs.items()
        if parts(name)[1] == direction and measured_label(parts(name)[0]) == label
        for pair in arcs
    ]
    if not pairs:
        return None
    queries = sorted({query for query, _ in pairs})
    keys = np.zeros((len(queries), len(tokens.words)), dtype=bool)
    for query, key in pairs:
        keys[queries.index(query), key] = True
    return Relation(np.array(queries), keys, words=True)


def ranked(judged: pd.DataFrame, group: str) -> pd.DataFrame:
    """Return all heads with `score_a`, their largest lead over the best offset in a label of the group on split a.

    judged: the heads table. `member`: the head is one in any of the group's families.
    """
    inside = [family for family in judged.family.unique() if family.startswith("grammar:")]
    inside = [family for family in inside if GROUP[parts(family)[0]] == group]
    rows = judged[judged.family.isin(inside)].copy()
    rows["score_a"] = rows.lead_a
    return rows.groupby(["layer", "head"], as_index=False)[["score_a", "member"]].max()


FAMILIES = tuple(
    Family(
        name=name(label, direction),
        order=100 + index,
        task="treebank",
        threshold=0.0,
        convention=False,
        statistic="hits_word",
        content=True,
        relation_text=f"{label}: {words}",
        source="Clark+ 2019 (arXiv 1906.04341), Chen+ ICLR 2024 (arXiv 2309.07311)",
        relation=partial(relation, family=name(label, direction)),
        home=("blimp",),
        joint=f"grammar:{GROUP[label]}",
    )
    for index, (label, (direction, words)) in enumerate(
        (label, pair) for label in LABELS for pair in DIRECTIONS.items()
    )
)
