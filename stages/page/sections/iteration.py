"""Whether the model writes tapes, and which heads look at the next symbol."""

from stages.page.iteration import iteration
from stages.page.section import SlotSection

SECTION = SlotSection("iteration", "Stepping through a string", 80, iteration, predicts=True)
