"""Procedure against knowledge: a function that is solved on usual words, asked of rare and of made-up ones.

accuracy = every token of the answer and of what ends it is the argmax given the right ones before (else `tables` would
be right wherever `tablesque` was begun); to counting, case and line ends are no words. Stage `answer` judges what
greedy decoding writes by its letters instead.
"""

from typing import Any

from stages.tasks.extrapolation.settings import Settings
from stages.tasks.icl.task import answer_task, counted

USUAL, IRREGULAR, RARE, MADE_UP, COPIED = CLASSES = ("usual", "irregular", "rare", "made_up", "copied")
UNSEEN = (MADE_UP, COPIED)
ASKED = "asked"  # the relation from the answer to the word asked about: it says which tokens they are


def word_tokens(tokens: Any) -> int:
    """Return how many of the model's own tokens the word asked about is; tokens: of the prompt."""
    ((_, word),) = tokens.spans[ASKED]
    return len(word)


def known(category: str, tokens: int) -> bool:
    """Tell whether a made-up word is known all the same: one token of the model's own (krom, vork: names and parts)."""
    return category in UNSEEN and tokens == 1


TASK = answer_task(
    name="extrapolation",
    order=7,
    label="usual, rare and made-up words",
    unit="words",
    settings=Settings,
    part=("function", "functions"),
    steered=lambda prompt, tokens: not known(prompt.category, word_tokens(tokens)),
    own_section=True,
    counted=counted,
)
