"""Orders: what comes after a word, in an order that is known, stated, both, or neither.

accuracy = every token of the answer is the argmax given the right ones before it, as in task icl. The answer to a word
of a stated order stands right after it: to look it up and step on is the rule, and copying is how it is run.
"""

from stages.tasks.icl.task import answer_task
from stages.tasks.orders.settings import Settings

LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
NUMBERS = tuple(
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty".split()
)
MONTHS = tuple("January February March April May June July August September October November December".split())
WEEKDAYS = tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())
KNOWN = {"letters": LETTERS, "numbers": NUMBERS, "months": MONTHS, "weekdays": WEEKDAYS}
MADE_UP = "made_up"
ALL = "known"  # all known orders together
ASKED = "asked"  # the relation from the answer to the word asked about
NOT_STATED, STATED, SHUFFLED, BACKWARDS = CATEGORIES = ("not_stated", "stated", "shuffled", "backwards")


TASK = answer_task(
    name="orders",
    order=9,
    label="orders",
    unit="orders",
    settings=Settings,
    part=("order", "orders"),
    own_section=True,
    own_stage=True,
)
