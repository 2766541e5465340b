"""What has no number, and why."""

from stages.page.gaps import missing
from stages.page.section import SlotSection

SECTION = SlotSection("missing", "Not measurable", 110, missing)
