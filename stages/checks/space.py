"""Memory and disk against the need that params announce: `stages.store.budget`."""

import shutil
from pathlib import Path

from stages.checks.finding import Finding
from stages.model import files
from stages.store import budget, params, records
from stages.store.errors import UserError

GB = 1e9


def findings(settings: params.Params) -> list[Finding]:
    """Compare what is free with what the largest model that is known so far needs."""
    sizes, needs = {}, {}
    for slot in settings.models:
        try:
            there = records.read(slot)
        except UserError:
            continue  # not fetched, or a finding of the artefacts: its size is not known
        sizes[slot] = there["parameters"]
        needs[slot] = budget.memory(sizes[slot], width=4 if there.get("dtype", "float32") == "float32" else 2)
    if not sizes:
        return [Finding("no model is fetched yet: memory and disk are not checked", wrong=False)]
    slot = max(needs, key=needs.get)
    return [*_memory(slot, needs[slot]), *_disk(sizes)]


def _memory(slot: str, need: int) -> list[Finding]:
    import psutil

    free = psutil.virtual_memory().available
    about = f"memory: slot {slot} needs about {need / GB:.1f} GB, {free / GB:.1f} GB are free"
    if need <= free:
        return [Finding(about, wrong=False)]
    return [Finding(about, "close other programs, or put a smaller model in the slot")]


def _disk(sizes: dict[str, int]) -> list[Finding]:
    """A file system that holds both the results and the cache of models is asked for both."""
    places = {Path.cwd(): budget.RESULTS, files.cache(): sum(budget.converted(size) for size in sizes.values())}
    together: dict[int, list[tuple[Path, int]]] = {}
    for place, need in places.items():
        together.setdefault(place.stat().st_dev, []).append((place, need))
    out = []
    for parts in together.values():
        where, need = " and ".join(str(place) for place, _ in parts), sum(need for _, need in parts)
        free = shutil.disk_usage(parts[0][0]).free
        about = f"disk: {where} needs about {need / GB:.1f} GB in all, {free / GB:.1f} GB are free"
        short = need > free
        out.append(
            Finding(about, "dvc gc -w (old results), or HEAD_ATLAS_CACHE on another disk" if short else "", short)
        )
    return out
