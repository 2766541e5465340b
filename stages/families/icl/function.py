"""Function heads carry what the demonstrations ask for: not a way of looking but an effect (Todd+ ICLR 2024).

The score is the average indirect effect: the probability that the right first answer token gains when the head's output
at the last token of a prompt with shuffled labels is replaced by its mean over clean prompts of the same function.
"""

from stages.families.family import Family

FAMILY = Family(
    name="function",
    order=8,
    task="icl",
    threshold=0.01,
    convention=True,
    statistic="effect",
    content=False,
    relation_text="indirect effect of the head's last-token output",
    source="Todd+ ICLR 2024 (arXiv 2310.15213)",
    home=("icl",),
)
