"""Retrieval heads fetch an answer token from far back in the context (Wu+ ICLR 2025).

Wu's score: while the answer is decoded greedily, credit a head whose most attended position lies in the answer's span
inside the needle and holds the token just generated, each position once; divide by the span's tokens; average over the
trials answered in full. A trial answered in full was decoded exactly as if teacher-forced, so one forward pass gives
the score. Trials whose answer has two equal tokens are left out: there 'each position once' would depend on the order.
"""

import numpy as np

from stages.families.family import Family, Relation, Tokens, one_key

SHORTEST = 5  # tokens of an answer, at least (Wu+)


def relation(tokens: Tokens) -> Relation | None:
    """The position that predicts an answer token -> that token in the needle."""
    for answer, needle in tokens.spans.get("retrieval", ()):
        same = len(answer) == len(needle) and (tokens.ids[answer] == tokens.ids[needle]).all()
        if same and len(answer) >= SHORTEST and len(np.unique(tokens.ids[answer])) == len(answer):
            return one_key(len(tokens), answer - 1, needle)
    return None


FAMILY = Family(
    name="retrieval",
    order=7,
    task="needle",
    threshold=0.1,
    convention=False,
    statistic="hits",
    content=True,
    relation_text="position that predicts an answer token → that token in the needle",
    source="Wu+ ICLR 2025 (arXiv 2404.15574)",
    relation=relation,
    solved_only=True,
    home=("needle",),
)
