"""What stands on the page for one slot, section by section; what could not be measured is said, never left out.

A section is a `SECTION` in a file of this folder. To add one, add a file.
"""

from importlib import import_module
from pkgutil import iter_modules

from tqdm import tqdm

from stages.page import gaps
from stages.page.inputs import Slot
from stages.page.page import Note, Section
from stages.page.section import Context, SlotSection


def sections() -> list[SlotSection]:
    """Return the sections of this folder's files, in display order."""
    files = [import_module(f"{__name__}.{file.name}") for file in iter_modules(__path__)]
    return sorted((file.SECTION for file in files), key=lambda section: (section.order, section.anchor))


def build(slot: Slot, context: Context) -> list[Section]:
    """Return all sections of a slot, or one that says that it has no results."""
    if not slot.model:
        text = f"No results yet: {slot.path('model.json')} does not exist. Run `dvc repro`."
        return [Section("model", "What was studied", [Note(text)])]
    shown = [section for section in sections() if section.shown(slot)]
    parts = [
        (section, Section(section.anchor, section.title, section.build(slot, context), section.seen))
        for section in tqdm(shown, desc=f"page of {slot.name}", unit="section")
    ]
    predicting = {section.anchor for section, _ in parts if section.predicts}
    return gaps.limits(slot, [part for _, part in parts], predicting)
