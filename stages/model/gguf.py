"""A GGUF file, dequantised once to float32 safetensors in the user cache (about a minute), read from there afterwards.

The cached folder is named by the file's sha256 and by the versions that convert, and lists the sha256 of what it holds:
a damaged one is converted again.
"""

import importlib.metadata
import json
import logging
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from stages.model import files
from stages.model.weights import prove_filled, prove_finite
from stages.store.errors import UserError
from stages.store.folders import replacing

log = logging.getLogger(__name__)
STORED = "stored.txt"  # in a converted folder: how the original stored its weights
CONTENT = "content.sha256"  # in a converted folder: the sha256 of its other files


def converted(file: Path) -> Path:
    """Return a folder of float32 safetensors for a GGUF file.

    Raises `UserError` where the file is damaged or is no whole model.
    """
    versions = "-".join(f"{name}{importlib.metadata.version(name)}" for name in ("transformers", "gguf"))
    target = files.cache() / f"{files.fingerprint(file)}-{versions}"
    if not whole(target):
        with files.alone(target):
            if not whole(target):  # else another process made it meanwhile
                megabytes = file.stat().st_size / 1e6
                log.info("converting %s, %.0f MB, to float32 safetensors, once", file.name, megabytes)
                with replacing(target) as part:
                    _convert(file, part)
    return target


def stored(folder: Path) -> str:
    """Return how the original of a converted folder stores its weights, in llama.cpp's words: Q4_K_M."""
    return (folder / STORED).read_text(encoding="utf-8")


def whole(folder: Path) -> bool:
    """Return whether a converted folder holds what was written, by the sha256 of every file."""
    try:
        return json.loads((folder / CONTENT).read_text(encoding="utf-8")) == files.fingerprints(folder)
    except (OSError, ValueError):
        return False


def _convert(file: Path, target: Path) -> None:
    options = {"gguf_file": file.name, "trust_remote_code": False}
    try:
        kind = _type(file)
        model, info = AutoModelForCausalLM.from_pretrained(
            file.parent, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **options)
    except UserError:
        raise
    except Exception as error:  # whatever the readers of a damaged file stumble over
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(f"{file}: cannot be read as a GGUF model ({reason})") from error
    prove_filled(str(file), model, info)
    prove_finite(str(file), model)
    model.hf_quantizer = None  # save_pretrained would look for a quantiser of the saved weights
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)
    (target / STORED).write_text(kind, encoding="utf-8")
    (target / CONTENT).write_text(json.dumps(files.fingerprints(target), indent=1), encoding="utf-8")


def _type(file: Path) -> str:
    """Return how a GGUF file stores its weights, '' where it does not say; refuse parts and adapters."""
    from gguf import GGUFReader, LlamaFileType

    fields = GGUFReader(file).fields
    said = {
        name: fields[name].contents() for name in ("general.file_type", "general.type", "split.count") if name in fields
    }
    if said.get("split.count", 1) > 1:
        raise UserError(
            f"{file}: one of {said['split.count']} parts; merge them (llama-gguf-split --merge) into one file"
        )
    if said.get("general.type", "model") != "model":
        raise UserError(f"{file}: holds no model, but: {said['general.type']}")
    kind = said.get("general.file_type")
    return "" if kind is None else LlamaFileType(kind).name.removeprefix("MOSTLY_")
