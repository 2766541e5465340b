"""Fetch one slot's model and describe it: `python -m stages.fetch <slot>` writes data/models/<slot>.json."""

import json
import logging
import sys
from dataclasses import replace
from pathlib import Path

from stages.model.load import Loaded, first_token, open_folder, rounded, stored
from stages.model.origin import described, locate
from stages.model.proof import prove
from stages.store import files, params, paths
from stages.store.errors import UserError, run

log = logging.getLogger(__name__)


def main(slot: str) -> None:
    """Locate the model, load it, prove that it is measured right, write origin, anatomy and proof."""
    settings = params.load()
    if slot not in settings.models:
        raise UserError(f"{paths.PARAMS}: models.{slot}: no such slot; slots: {', '.join(settings.models)}")
    source = settings.models[slot]
    origin = locate(slot, source)
    loaded, proof = _proven(origin.folder, source)
    first = first_token(loaded)
    if first is None and loaded.images is None:
        log.warning("%s: its tokenizer has no BOS; every prompt begins with its first word", slot)
    record = {
        "slot": slot,
        **source.model_dump(include={"source", "name", "revision"}),
        "origin": origin.sentence,
        "licence": origin.licence,
        "kind": loaded.kind,
        "architecture": type(loaded.model).__name__,
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
        "vocabulary": 0 if loaded.images else len(loaded.model.get_input_embeddings().weight),
        "stored": stored(origin.folder),
        "dtype": source.dtype,
        **({} if source.device_map is None else {"device_map": source.device_map}),
        "bos": first,
        "files": described(origin),
        **({"images": loaded.images.recorded()} if loaded.images else {}),
        **loaded.anatomy.recorded(),
        "proof": proof,
    }
    files.write_text(paths.model(slot), json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    log.info(
        "%s: %s, %d attention layers, %d heads",
        slot,
        origin.sentence,
        len(loaded.anatomy.layers),
        len(loaded.anatomy.heads),
    )


def _proven(folder: Path, source: params.Model) -> tuple[Loaded, dict[str, str]]:
    """Load a model, find its anatomy and prove it: in float32, where what differs is seen, and as it will run."""
    if source.dtype == "float32":
        return prove(open_folder(folder, source.device_map))
    looked_at, exact = prove(open_folder(folder, None if source.device_map is None else "auto"))
    looked_at = replace(looked_at, model=None)  # its weights are no longer needed
    _, coarse = prove(loaded := rounded(looked_at, folder, source.dtype, source.device_map))
    proof = {name: exact[name] if exact[name] != "ok" else coarse[name] for name in exact}
    return loaded.allowed(proof), proof


if __name__ == "__main__":
    run(main, *sys.argv[1:])
