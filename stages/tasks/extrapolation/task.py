"""Procedure against knowledge: a function that is solved on usual words, asked of rare and of made-up ones.

accuracy = every token of the answer and of what ends it is the argmax given the right ones before (else `tables` would
be right wherever `tablesque` was begun); to counting, case and line ends are no words. Stage `answer` judges what
greedy decoding writes by its letters instead.
"""

from stages.tasks.extrapolation.settings import Settings
from stages.tasks.icl.task import answer_task, counted

USUAL, IRREGULAR, RARE, MADE_UP, COPIED = CLASSES = ("usual", "irregular", "rare", "made_up", "copied")
ASKED = "asked"  # the relation from the answer to the word asked about: it says which tokens they are


TASK = answer_task(
    name="extrapolation",
    order=7,
    label="usual, rare and made-up words",
    unit="words",
    settings=Settings,
    part=("function", "functions"),
    steered=True,
    own_section=True,
    counted=counted,
)
