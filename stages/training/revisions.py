"""Revisions of a pretrained model: where each comes from, that it loads, and the same weights at every later load.

Weights of others are never DVC outputs: `data/checkpoints/<recipe>/<arm>-0/<step>/model.json` stands for them, with the
sha256 of every file, as `data/models/<slot>.json` does for a slot.
"""

import json
from pathlib import Path

from stages.model.files import listed
from stages.model.load import Loaded, open_folder
from stages.model.origin import Origin, changed, described, find_origin
from stages.model.proof import prove
from stages.recipes.settings import Revisions
from stages.store import paths
from stages.store.errors import UserError
from stages.store.params import Model


def record(recipe: str, arm: str, revisions: Revisions, step: int) -> dict:
    """Find one revision, load it, prove that it is measured right; return what pins it.

    Raises `UserError` naming the key in params.yaml when it is not there or cannot be measured.
    """
    origin = _origin(recipe, arm, revisions, step)
    if not any(file.suffix in (".safetensors", ".gguf") for file in listed(origin.folder)):
        raise UserError(
            f"{_key(recipe, arm, step)} = {revisions.revisions[step]!r}: no *.safetensors among its files; pickled "
            "weights are not read: convert them to safetensors in folders of your own and use source: path"
        )
    loaded = open_folder(origin.folder)
    _, proof = prove(loaded)
    return {
        "step": step,
        "source": revisions.source,
        "name": revisions.name,
        "revision": revisions.revisions[step],
        "origin": origin.sentence,
        "licence": origin.licence,
        "kind": loaded.kind,
        "architecture": type(loaded.model).__name__,
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
        "files": described(origin),
        "proof": proof,
    }


def opened(recipe: str, arm: str, revisions: Revisions, step: int) -> Loaded:
    """Load a revision as `train` recorded it.

    Raises `UserError` when its origin is gone or its files are not those recorded.
    """
    file = paths.revision(recipe, arm, step)
    again = f"run dvc repro -f -s train@{recipe}, then dvc repro"
    try:
        recorded = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file}: no such file; {again}") from None
    origin = _origin(recipe, arm, revisions, step)
    if name := changed(origin, recorded["files"]):
        raise UserError(
            f"{_key(recipe, arm, step)} = {revisions.revisions[step]!r}: {name} differs from {file}; {again}"
        )
    return open_folder(origin.folder).allowed(recorded.get("proof", {}))


def _key(recipe: str, arm: str, step: int) -> str:
    return f"{paths.PARAMS}: recipes.{recipe}.train.revisions.{step} of arm {arm}"


def _origin(recipe: str, arm: str, revisions: Revisions, step: int) -> Origin:
    revision, key = revisions.revisions[step], _key(recipe, arm, step)
    if revisions.source == "hub":
        where = f"{key}: {revisions.name}"
        return find_origin(where, Model(source="hub", name=revisions.name, revision=revision))
    folder = Path(revisions.name).expanduser() / revision
    if not folder.is_dir():
        there = sorted(path.name for path in folder.parent.iterdir() if path.is_dir()) if folder.parent.is_dir() else []
        allowed = f"it has {', '.join(there[:20])}" if there else "there is none"
        raise UserError(f"{key} = {revision!r}: no such subfolder of {revisions.name}; {allowed}")
    return find_origin(f"{key} = {revision!r}", Model(source="path", name=str(Path(revisions.name) / revision)))
