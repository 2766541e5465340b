"""Longer studies of a slot's stages (full/params.yaml): shown, folded, beside what the default run says."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from stages.page import inputs
from stages.page.inputs import Slot
from stages.page.page import Fold, Note
from stages.store import params, paths


@dataclass(frozen=True)
class Study:
    """One stage of a slot at a larger size.

    slot: its tables, as this study has them; says: what made them; changed: whether params have since.
    """

    slot: Slot
    says: str
    changed: bool = False

    def fold(self, title: str, blocks: list) -> Fold:
        """Return blocks, closed at first, with what made them before."""
        return Fold(f"A longer study: {title}", [Note(self.says), *blocks])


def attached(slot: Slot, default: params.Params, sizes: params.Longer) -> Slot:
    """Return the slot with the longer studies of it that are there and were made with the same weights, by stage."""
    stages = [name for name in sorted(params.Longer.model_fields) if name not in ("seed", "recipes", "slots", "tasks")]
    studies = {}
    for stage in stages if slot.name in sizes.slots else ():
        folder = paths.FULL / paths.deeper(slot.name, stage)
        made = _made(folder)
        if getattr(sizes, stage) is None or not made or made["files"] != slot.model.get("files"):
            continue
        read = replace(inputs.read(slot.name, folder), model=slot.model, heads=slot.heads)
        now = params.asked_of(stage, params.deepened(default, sizes, stage))
        changed = any(made[key] != now[key] for key in now if key in made)  # older studies wrote down less
        usual = params.asked_of(stage, default)["params"]
        studies[stage] = Study(read, _provenance(stage, slot.name, made["params"], usual, changed), changed)
    return replace(slot, longer=studies)


def _made(folder: Path) -> dict[str, Any]:
    path = folder / "params.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _provenance(stage: str, slot: str, made: dict, usual: dict, changed: bool) -> str:
    sizes = [f"`{key}: {made[key]}` (default {usual.get(key)})" for key in made if made[key] != usual.get(key)]
    text = f"Made by `dvc repro full/dvc.yaml:deeper@{stage}-{slot}`, which `dvc repro` leaves as it is, with "
    text += f"{', '.join(sizes) or 'the same sizes'}."
    text += " Terms are those above."
    return text + (" THE PARAMS HAVE CHANGED SINCE: run it again." if changed else "")
