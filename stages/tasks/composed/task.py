"""Composed functions: the answer is what one function of task icl makes of another's answer.

Stage `apply` asks whether the sum of two function vectors is a vector of the composed function (Todd+ ICLR 2024,
section 3.3). accuracy = every answer token is the argmax given the right ones before it, as in task icl.
"""

from stages.tasks.composed.settings import Settings
from stages.tasks.icl.task import answer_task

COPY = "copy"  # the condition of demonstrations that do neither
ASKED = "asked"  # the relation from the answer to the word asked about
OF = " of "  # a composed condition is named <outer> of <inner>


def parts(condition: str) -> tuple[str, str]:
    """Return the functions of a composed condition: the inner one, which comes first, and the outer one."""
    outer, _, inner = condition.partition(OF)
    return inner, outer


TASK = answer_task(
    name="composed",
    order=8,
    label="composed functions",
    unit="words",
    settings=Settings,
    part=("function", "functions"),
    own_section=True,
)
