"""Which head finds which grammatical relation."""

from stages.page.grammar import grammar
from stages.page.section import SlotSection

SECTION = SlotSection("grammar", "Grammar heads", 50, grammar, seen=2)
