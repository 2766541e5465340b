"""What n-grams can do on the model's own prompts."""

from stages.page.counting import counting
from stages.page.section import SlotSection

SECTION = SlotSection("counting", "What counting words can do", 30, counting, predicts=True)
