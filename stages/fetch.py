"""Fetch one slot's model and describe it: `python -m stages.fetch <slot>` writes data/models/<slot>.json."""

import json
import logging
import sys

from stages.store import files, params, paths
from stages.store.errors import UserError, one_line, run

log = logging.getLogger(__name__)


def main(slot: str) -> None:
    """Locate the model, load it, prove that it is measured right, write origin, anatomy and proof."""
    settings = params.load()
    if slot not in settings.models:
        raise UserError(f"{paths.PARAMS}: models.{slot}: no such slot; slots: {', '.join(settings.models)}")
    from stages.model.cost import checking  # torch reads how its threads wait: `run` says so
    from stages.model.files import weights
    from stages.model.load import first_token, stored
    from stages.model.origin import described, locate, readable
    from stages.model.proof import proven

    source = settings.models[slot]
    origin = locate(slot, source)
    log.info(checking(f"fetch {slot}", weights(readable(origin.folder))))
    try:
        loaded, proof = proven(origin.folder, source.dtype, source.device_map)
    except UserError as error:
        named = str(error).startswith((one_line(str(origin.folder)), str(paths.PARAMS)))
        raise error if named else UserError(f"{origin.folder}: {error}") from error
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
        "bos": first if first is None else one_line(first),
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


if __name__ == "__main__":
    run(main, *sys.argv[1:])
