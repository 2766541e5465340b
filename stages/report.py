"""Stage `report`: the page people read, from the git-tracked summaries of every slot in params.yaml."""

import logging
import sys
from pathlib import Path

from stages.families import FAMILIES
from stages.families.family import Family
from stages.page import head_maps, inputs, longer, methods, page, recipes, sections, sentences
from stages.page.section import Context
from stages.store import files, params, paths
from stages.store.cost import announce, size
from stages.store.errors import run
from stages.tasks import of as family_task

log = logging.getLogger(__name__)
ALWAYS, DRAWN = 1000, 17  # small calculations that any page takes, and that a kilobyte of summaries takes


def main() -> None:
    """Write reports/index.html and one SVG of head maps per slot."""
    settings = params.load()
    sizes = params.load_studies(paths.FULL / paths.PARAMS)
    summaries = [file for name in settings.models for file in paths.report(name).glob("*.*")]
    kilobytes = size(summaries) // 1024
    counts = {"slots": len(settings.models), "summaries": len(summaries), "KB": kilobytes}
    log.info(announce("report", counts, ALWAYS + kilobytes * DRAWN))
    slots = [longer.attached(inputs.read(name, paths.report(name)), settings, sizes) for name in settings.models]
    tasks = {name: task for name, task in settings.tasks if task is not None}
    pairs = tasks[sentences.PAIRED].source if sentences.PAIRED in tasks else ""
    images = tasks["images"].source if "images" in tasks else ""
    seen = {name: family for name, family in FAMILIES.items() if _shown(family, slots)}
    context = Context(FAMILIES, list(tasks), inputs.counting(paths.COUNTING), pairs, settings.classify.alpha, images)
    parts = [(slot, sections.build(slot, context)) for slot in slots]
    closing = methods.prompts(inputs.sources(paths.SOURCES))
    closing += methods.sections(slots, seen, settings.classify.alpha, settings.classify.margin)
    emerging = recipes.sections({Path(): settings, paths.FULL: sizes})
    html = page.render(settings.report.title, parts, seen, methods.compared(slots) + emerging + closing)
    files.write_text(paths.PAGE, html)
    log.info("%s: %d slots, %d KB", paths.PAGE, len(slots), len(html) // 1024)
    for slot in slots:
        title = f"{slot.title}: score of every head, layer x head; members outlined"
        atlas = head_maps.atlas(slot.heads, FAMILIES, head_maps.whole_layers(slot.model), title)
        if atlas is not None:
            files.write_text(paths.FIGURES / f"{slot.name}-heads.svg", page.svg(atlas))


def _shown(family: Family, slots: list[inputs.Slot]) -> bool:
    """Say whether a family could be measured in any slot, by what its task reads."""
    reads = family_task(family.task).reads
    return any((slot.model.get("kind") == "vision") == (reads == "image") for slot in slots)


if __name__ == "__main__":
    run(main, *sys.argv[1:])
