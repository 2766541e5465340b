"""From a params entry to a model in memory: PyPI package, hub or folder; safetensors or GGUF, never pickles, no code.

`data/models/<slot>.json`, written by fetch, pins what a slot is: every later load compares the files of the folder, and
of the conversion that is read in place of a GGUF file, with it: their names and their sha256, so that neither a
refilled cache nor a file that appears later changes a model silently. What is loaded is proved in `weights`.
"""

import copy
import gc
import json
import logging
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForMultimodalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)
from transformers.utils import is_accelerate_available
from transformers.utils import logging as transformers_logging

from stages.model import anatomy as anatomies
from stages.model import files, gguf, machine, placed
from stages.model.anatomy import Anatomy, asked_as, find, probe_inputs
from stages.model.chunks import Chunks
from stages.model.images import Images, layout
from stages.model.linear import lay_out
from stages.model.observe import close
from stages.model.origin import changed, locate, readable
from stages.model.weights import only_pooler, prove_filled, prove_finite, prove_stored
from stages.store import paths, records, source
from stages.store.errors import UserError
from stages.store.params import Model

log = logging.getLogger(__name__)
FUSED = {
    torch.float32: 1e-4,
    torch.float16: 0.02,
    torch.bfloat16: 0.1,
}  # of the largest output: what SDPA may differ by
PROCESSOR = "preprocessor_config.json"
MODULES = 12  # named in a message
LAID_OUT = 1 / 4  # of memory, at most, of as many workers of a cluster as there are processors, each with a model
transformers_logging.set_verbosity_error()
transformers_logging.disable_progress_bar()


@dataclass(frozen=True)
class Loaded:
    """A model ready to be measured, in evaluation mode, with its tokenizer and anatomy.

    images: how a model of images reads them (its tokenizer is None); None for models of text.
    What the proof at fetch found not to be exact is not used: resumes: blocks below an edit may be skipped; caches: a
    cache of keys, values and states may be continued; divides: attention may be computed a few queries at a time;
    fuses: it may be computed by SDPA; gathers: the LM head may read rows of several passes at once; ends: nothing
    follows that head; narrows: what follows the last attention may run on the tokens that are read alone.
    chunks: where a pass of this model stands, for the hooks that it meets.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast | None
    anatomy: Anatomy
    kind: str
    resumes: bool = True
    caches: bool = True
    divides: bool = True
    fuses: bool = True
    gathers: bool = True
    ends: bool = False
    narrows: bool = False
    images: Images | None = None
    chunks: Chunks = field(default_factory=Chunks, repr=False, compare=False)

    @property
    def device(self) -> torch.device:
        """Where the model's inputs go."""
        return placed.device(self.model)

    def allowed(self, proof: dict[str, str]) -> "Loaded":
        """Return the model with the shortcuts that its proof, check -> 'ok' or what is wrong, has found exact."""
        names = ("resumes", "caches", "divides", "fuses", "gathers", "ends", "narrows")
        return replace(self, **{name: proof[name] == "ok" for name in names if name in proof})


def load(slot: str, attention: Literal["eager", "sdpa"] = "eager", lays_out: bool = False) -> Loaded:
    """Load the model of a slot as fetch recorded it: its files, its anatomy and what its proof allows.

    attention: "sdpa", fused and faster, gives no attention weights; where it was not proved to be the same function,
    the model runs eager.
    lays_out: linear layers may be in memory twice (`stages.model.linear`): sooner where many passes have few rows.
    Raises `UserError` when the origin is gone or its files are not those recorded.
    """
    record = records.read(slot)
    try:
        source, pinned = Model(**{key: record[key] for key in Model.model_fields if key in record}), record["files"]
        anatomy, kind, proof = anatomies.read(record), record["kind"], record["proof"]
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{paths.model(slot)}: no record of a model; run dvc repro -f -s fetch@{slot}") from None
    origin = locate(slot, source)
    if name := changed(origin, pinned):
        raise UserError(
            f"{paths.PARAMS}: models.{slot} = {record['name']}: {name} differs from {paths.model(slot)}; "
            f"run dvc repro -f -s fetch@{slot}, then dvc repro"
        )
    with _uncollected():
        opened = _opened(origin.folder, source.dtype, source.device_map, proved=True)
    loaded = _ready(*opened, anatomy, kind).allowed(proof)
    if attention == "sdpa" and loaded.fuses:
        loaded.model.set_attn_implementation("sdpa")
    if lays_out:
        room = LAID_OUT * machine.memory() / (os.cpu_count() or 1)
        lay_out(loaded.model, loaded.model.get_output_embeddings(), room)
    return loaded


@contextmanager
def _uncollected() -> Iterator[None]:
    """Look for no cyclic garbage meanwhile: a vocabulary is a million small objects, each search walks them all."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@torch.no_grad()
def fuse(model: PreTrainedModel) -> bool:
    """Switch a model to SDPA where it offers it and a short pass equals the eager one (as `close` says).

    A cap on attention scores is ignored by SDPA, and a short pass may not reach it: such models stay as they are.
    """
    if getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None:
        return False
    inputs = probe_inputs(model)
    eager = model(**inputs)[0]
    try:
        model.set_attn_implementation("sdpa")
        fused = model(**inputs)[0]
        same = close(fused, eager, FUSED[eager.dtype])
    except (ValueError, ImportError, KeyError):
        same = False
    if not same or model.config._attn_implementation != "sdpa":
        model.set_attn_implementation("eager")
        return False
    return True


def open_folder(folder: Path, device_map: Any = None) -> Loaded:
    """Load a local folder in float32, with a language-model head where there is one, and find its anatomy.

    Raises `UserError` when something is missing, left over, damaged or of a kind that is not measured.
    """
    model, reader = _opened(folder, "float32", device_map)
    anatomy = find(model)
    return _ready(model, reader, anatomy, asked_as(model, anatomy))


def rounded(looked_at: Loaded, folder: Path, dtype: str, device_map: Any) -> Loaded:
    """Load a folder in another dtype; what was found out about it in float32 holds."""
    return _ready(*_opened(folder, dtype, device_map), looked_at.anatomy, looked_at.kind)


def _ready(model: PreTrainedModel, reader: Any, anatomy: Anatomy, kind: str) -> Loaded:
    if kind == "vision":
        return Loaded(model, None, anatomy, kind, images=layout(model, anatomy.blocks[0], reader))
    return Loaded(model, reader, anatomy, kind)


def _opened(
    folder: Path, dtype: str = "float32", device_map: Any = None, proved: bool = False
) -> tuple[PreTrainedModel, Any]:
    """Return a folder's model and what makes its inputs: its tokenizer, or its image processor.

    proved: fetch has run these very files already, by their sha256: that weights are finite and that the model runs on
    token ids is not proved again, which would take 1.9 of 4.4 seconds of a processor (Gemma 3 270M).
    """
    read = readable(folder)
    try:
        if not isinstance(json.loads((read / "config.json").read_bytes()), dict):
            raise UserError(f"{folder}: config.json: expected an object")
        config = AutoConfig.from_pretrained(read, trust_remote_code=False)
        if config.is_encoder_decoder:
            raise UserError(
                f"{folder}: {config.model_type} is an encoder-decoder; only models of one stack are measured"
            )
        device = placed.chosen()
        model = _model(folder, read, config, {"dtype": getattr(torch, dtype)} | _placing(folder, device_map))
        if device_map is None:
            model.to(device)
        if not proved:
            prove_finite(str(folder), model)
        if model.main_input_name == "pixel_values":
            return model, _processor(folder, read)
        if not proved:
            _read_ids(folder, model)
        return model, _tokenizer(folder, read, model)
    except UserError:
        raise
    except Exception as error:  # what transformers stumbles over in files that others wrote
        for file in read.glob("*.json"):  # which transformers' own words do not say
            if why := _no_object(file):
                raise UserError(f"{file}: {why}; expected an object of JSON, in UTF-8") from error
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise UserError(f"{folder}: cannot be loaded as a model ({reason})") from error


def _no_object(file: Path) -> str:
    """Return why a file is no JSON object, or ''."""
    try:
        return "" if isinstance(json.loads(file.read_text(encoding="utf-8")), dict) else "not an object"
    except (ValueError, RecursionError) as error:
        return f"not JSON ({error})"


def stored(folder: Path) -> str:
    """Return how a model's original files store its weights, in words."""
    read = readable(folder)
    if read != folder:
        kind = gguf.stored(read)
        return f"GGUF {kind}, dequantised" if "Q" in kind else f"GGUF {kind}".strip()
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    method = (getattr(config, "quantization_config", None) or {}).get("quant_method")
    return f"safetensors, {method or str(config.dtype or 'dtype not stated').removeprefix('torch.')}"


def first_token(loaded: Loaded) -> str | None:
    """Return the token that every prompt begins with, BOS or [CLS], None where the tokenizer has none."""
    if loaded.tokenizer is None or loaded.kind == "decoder":
        return getattr(loaded.tokenizer, "bos_token", None) or None
    ids = loaded.tokenizer("a")["input_ids"]
    return loaded.tokenizer.convert_ids_to_tokens(ids[0]) if ids[0] in loaded.tokenizer.all_special_ids else None


def _classes(config: PreTrainedConfig) -> list[Any]:
    """Return auto classes to try in turn: what the config names, else what its type has a head for.

    A config may name a class without a language-model head (LlamaModel, a classifier) or none: the weights decide.
    Types that can be masked or causal (BERT) are masked unless the config says `is_decoder`. Of a vision-language
    model the whole is loaded; given only token ids, it is the language model that runs.
    """
    named, kind = (getattr(config, "architectures", None) or [""])[0], config.model_type
    if named in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():
        known = kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES  # else a part of a model, whose class only its name gives
        return [AutoModelForCausalLM if known else getattr(transformers, named)]
    if named in MODEL_FOR_MASKED_LM_MAPPING_NAMES.values():
        return [AutoModelForMaskedLM]
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(config, "is_decoder", False):
        return [AutoModelForMaskedLM, AutoModel]
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return [AutoModelForCausalLM]
    if kind in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES:
        return [AutoModelForMultimodalLM]
    return [AutoModel]


def _placing(folder: Path, device_map: Any) -> dict[str, Any]:
    """Return what `from_pretrained` is told of where weights go."""
    if device_map is None:
        return {}
    if not is_accelerate_available():
        raise UserError(f"{folder}: device_map needs accelerate: pip install accelerate")
    there = torch.accelerator.device_count()
    for path, place in device_map.items() if isinstance(device_map, dict) else ():
        if type(place) is int and place >= there:
            raise UserError(f"{paths.PARAMS}: device_map: {path!r}: GPU {place} is not here; {there} GPUs are")
    return {"device_map": device_map if isinstance(device_map, str) else dict(device_map)}


def _model(folder: Path, read: Path, config: PreTrainedConfig, options: dict[str, Any]) -> PreTrainedModel:
    """Return the model of the first class that the weights fill exactly.

    options: dtype and placement of the weights. Raises the `UserError` of the last class where none does.
    """
    tried = _classes(config)
    for auto in tried:
        try:
            _named(folder, auto, config, options.get("device_map"))
            model, info = _pretrained(auto, read, **options)
            if only_pooler(model, info["missing_keys"]):
                model, info = _pretrained(auto, read, add_pooling_layer=False, **options)
            weights = files.weights(read)
            prove_filled(str(folder), model, info, options["dtype"], weights)
            prove_stored(model, weights)
            return model.eval().requires_grad_(False)
        except UserError:
            if auto is tried[-1]:
                raise
    raise AssertionError("unreachable: a class is always tried")


def _named(folder: Path, auto: Any, config: PreTrainedConfig, device_map: Any) -> None:
    """Raise `UserError` where a device_map names a module that a model does not have: accelerate reads past it."""
    if not isinstance(device_map, dict):
        return
    with torch.device("meta"):  # no weights, only what there is
        model = (getattr(auto, "from_config", None) or auto._from_config)(copy.deepcopy(config))
    there = dict([*model.named_modules(), *model.named_parameters()])
    if unknown := [path for path in device_map if path not in there]:
        largest = [path for path in there if path.count(".") < 2 or path.rpartition(".")[2].isdigit()]
        raise UserError(
            f"{paths.PARAMS}: device_map: {source.shown(unknown[0])}: no module of {folder}; it has "
            f"{', '.join(repr(path) for path in largest[:MODULES])} and others within these"
        )


def _pretrained(auto: Any, read: Path, **options: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """Return a model and transformers' loading info; what is drawn at random leaves the generator alone.

    What goes to disk and is not there as it will be read lies in a folder that goes when the model does.
    """
    folder = tempfile.mkdtemp(prefix="head-atlas-") if "device_map" in options else None
    with torch.random.fork_rng(devices=[]):
        model, info = auto.from_pretrained(
            read,
            offload_folder=folder,
            use_safetensors=True,
            attn_implementation="eager",
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told in the loading info, and refused there
            **options,
        )
    if folder:
        weakref.finalize(model, shutil.rmtree, folder, ignore_errors=True)
    return model, info


def _processor(folder: Path, read: Path) -> Any:
    from transformers import AutoImageProcessor

    if not (read / PROCESSOR).is_file():
        raise UserError(f"{folder}: a model of images, without {PROCESSOR}: it says how pictures become pixels")
    return AutoImageProcessor.from_pretrained(read, trust_remote_code=False, backend="pil")


def _tokenizer(folder: Path, read: Path, model: PreTrainedModel) -> PreTrainedTokenizerFast:
    tokenizer = AutoTokenizer.from_pretrained(read, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise UserError(f"{folder}: its tokenizer has no character offsets; a fast one (tokenizer.json) is needed")
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise UserError(f"{folder}: its tokenizer has no vocabulary; tokenizer.json is missing or empty")
    rows, core = len(model.get_input_embeddings().weight), tokenizer.backend_tokenizer
    if tokenizer.vocab_size > rows:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, the model {rows}: they do not belong together"
        )
    added = {tokenizer.bos_token}
    if type(model).__name__ not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values():  # which reads nothing else around a text
        added |= {*tokenizer.convert_ids_to_tokens(tokenizer("")["input_ids"]), tokenizer.mask_token}
    numbers = core.get_vocab(with_added_tokens=False)
    numbers |= {token: tokenizer.convert_tokens_to_ids(token) for token in added if token}
    beyond = sorted(token for token, number in numbers.items() if number >= rows)
    if beyond:
        raise UserError(
            f"{folder}: the tokenizer's token {beyond[0]!r:.80} is number {numbers[beyond[0]]}, the model has "
            f"embeddings of {rows}: they do not belong together"
        )
    if getattr(core.model, "dropout", None):
        core.model.dropout = None  # of merges, while models learn: a text would be cut otherwise each time it is read
    return tokenizer


@torch.no_grad()
def _read_ids(folder: Path, model: PreTrainedModel) -> None:
    """Raise `UserError` unless the model runs on token ids alone, as text comes to it, and stays what it is."""
    name, modules = type(model).__name__, list(model.modules())
    if not isinstance(getattr(model.get_input_embeddings(), "weight", None), torch.Tensor):
        raise UserError(f"{folder}: {name} does not run on token ids alone: it has no one table of token embeddings")
    try:
        ids = torch.arange(2, 10, device=placed.device(model))[None] % len(model.get_input_embeddings().weight)
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    except Exception as error:  # pixels or sound are asked for, each model in its own way
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UserError(f"{folder}: {name} does not run on token ids alone ({reason})") from error
    before, after = ([type(module).__name__ for module in some] for some in (modules, model.modules()))
    if modules != list(model.modules()):
        gone, come = (sorted(set(some) - set(others)) for some, others in ((before, after), (after, before)))
        raise UserError(
            f"{folder}: {name} replaces its own modules where it reads a short text ({', '.join(gone) or 'modules'} by "
            f"{', '.join(come) or 'others'}), so what is measured would depend on what ran before; let config.json ask "
            "for the ones that stay"
        )
