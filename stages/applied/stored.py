"""What `steer` left of a slot: what is applied where it was not made."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stages import tasks
from stages.store import params, paths, records
from stages.store.errors import UserError

if TYPE_CHECKING:
    import torch

    from stages.model.intervene import Head

SHOWN = "icl"  # the task whose prompts the vectors are from
VECTOR = "function"  # which stored vector of a function is added


@dataclass(frozen=True)
class Stored:
    """What `steer` left of a slot.

    heads: its top ones, the best first; numbers: how many of them each function's vectors hold; means: function ->
    mean output (K,) per head; added: function -> layer, and the vector (D,) times its strength.
    """

    heads: "tuple[Head, ...]"
    numbers: Mapping[str, int]
    means: "Mapping[str, Mapping[Head, torch.Tensor]]"
    added: "Mapping[str, tuple[int, torch.Tensor]]"


def provenance(slot: str) -> dict:
    """Return what `steer` says of a slot's vectors: heads, the best first, and settings; or the `reason` for none."""
    with _file(slot, "np") as file:
        return json.loads(file.metadata()["provenance"])


def exported(slot: str) -> "dict[str, dict[int, torch.Tensor]]":
    """Return what `steer` keeps by name, `<function>.<vector>`: layer -> vector (D,), before its strength."""
    with _file(slot, "pt") as file:
        made = json.loads(file.metadata()["provenance"])["vectors"]
        return {name: dict(zip(of["layers"], file.get_tensor(name), strict=True)) for name, of in made.items()}


@contextmanager
def _file(slot: str, framework: str) -> Iterator:
    """Open a slot's vectors; raises `UserError` where the file is missing, damaged or says not where it is from."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(paths.vectors(slot), framework) as file:
            yield file
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{paths.vectors(slot)}: no vectors of steer ({reason}); run dvc repro steer@{slot}") from None


def missing(slot: str, task: str, settings: params.Params) -> str:
    """Return why a task's prompts cannot be answered under function vectors, or ''."""
    record = records.read(slot)
    for name in (SHOWN, task):
        if getattr(settings.tasks, name) is None:
            return f"tasks.{name} is not in params"
    if why := tasks.of(SHOWN).refuses(record["kind"]):
        return why
    reason = provenance(slot).get("reason")
    return f"no function was steered: {reason}" if reason is not None else ""


def read(slot: str) -> Stored:
    """Read what `steer` chose, and the mean outputs that it wrote in place."""
    from stages.engine.means import solved_means

    made, vectors = provenance(slot), exported(slot)
    chosen = {
        name.removesuffix(f".{VECTOR}"): setting
        for name, setting in made["vectors"].items()
        if name.endswith(f".{VECTOR}")
    }
    solved = solved_means(slot, SHOWN)
    means = {name: solved[name, ""] for name in chosen}
    added = {}
    for name, setting in chosen.items():
        ((layer, vector_D),) = vectors[f"{name}.{VECTOR}"].items()
        added[name] = layer, vector_D * setting["strength"]
    heads = tuple((layer, head) for layer, head in made["heads"])
    return Stored(heads, {name: setting["heads"] for name, setting in chosen.items()}, means, added)
