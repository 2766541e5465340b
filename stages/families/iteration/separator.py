"""Separator heads look from the tape at the ':' before it, which tells how far the tape is (Cabannes+ NeurIPS 2024).

In two layers trained from scratch this is the first half of the iteration circuit. In a pretrained model it may as well
be a head that looks at the last delimiter, whatever the task: all functions are one family.
"""

from functools import partial

from stages.families.family import Family
from stages.families.iteration.iteration import relation

FAMILY = Family(
    name="separator",
    order=12,
    task="iteration",
    threshold=0.5,
    convention=True,
    statistic="over_half",
    content=True,
    relation_text="tape position → ':' before the tape, from the second symbol on",
    source="Cabannes+ NeurIPS 2024 (arXiv 2406.02128)",
    relation=partial(relation, span="separator"),
)
