"""Proof that a model in memory is the model in its files: no weight drawn at random, none left over, all finite.

transformers fills what a file lacks with random numbers, anew at every load, and drops what it does not expect; both
are said in its loading info. What it may drop: what the class itself declares (buffers of older versions), and what
another class of the same modelling file reads under the same config (poolers, classifiers, vision towers). A file cut
by its config, packed weights and weights of another architecture are none of these.
"""

import inspect
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

from stages.model import placed
from stages.store.errors import UserError

SHOWN = 3  # keys in a message
FILL = re.compile(r"(^|\.)masked_bias$")  # the number that older versions filled causal masks with, a buffer


def prove_filled(
    where: str,
    model: PreTrainedModel,
    info: Mapping[str, Any],
    dtype: torch.dtype = torch.float32,
    stored: Sequence[Path] = (),
) -> None:
    """Raise `UserError`, beginning with `where`, unless the files fill the model with numbers of a dtype.

    info: transformers' loading info. stored: the safetensors files, for what only their content explains. A class may
    keep single modules in float32 whatever is asked.
    """
    name = type(model).__name__
    if info["mismatched_keys"]:
        key, here, wanted = min(info["mismatched_keys"], key=str)
        raise UserError(f"{where}: {key} has shape {tuple(here)}; config.json asks for {tuple(wanted)}")
    if missing := info["missing_keys"]:
        raise UserError(f"{where}: {_lacks(model, missing)}")
    if left := _without_masks(unexplained(model, info["unexpected_keys"]), stored):
        raise UserError(
            f"{where}: {name} with this config.json has no place for {_some(left)}; config and weights do not belong "
            "together, or the weights are packed in a way that is not known"
        )
    for key, value in placed.weights(model):
        if value.dtype not in (dtype, torch.float32):
            had, asked = (str(name).removeprefix("torch.") for name in (value.dtype, dtype))
            raise UserError(f"{where}: {key} is {had} in memory, not {asked}")


def prove_finite(where: str, model: PreTrainedModel) -> None:
    """Raise `UserError`, beginning with `where`, where a weight is NaN or infinite."""
    for key, value in placed.weights(model):
        # sums make no copy of the size of the weights; the fast one alone may overflow where all are finite
        if not (torch.isfinite(value.sum()) or torch.isfinite(value.sum(dtype=torch.float64))):
            raise UserError(f"{where}: {key} holds values that are not finite (NaN or infinite)")


def prove_stored(model: PreTrainedModel, stored: Iterable[Path]) -> None:
    """Raise `UserError` naming a safetensors file whose weights are no real numbers, unless a quantiser read it.

    Those are whole, complex and Boolean ones. Whole numbers that are no weights (position ids, causal masks of older
    versions) are left alone.
    """
    if getattr(model, "hf_quantizer", None) is not None:
        return
    parameters = {_bare(model, key) for key, _ in model.named_parameters(remove_duplicate=False)}
    for file in stored:
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118  (a reader, not a mapping)
                dtype = tensors.get_slice(key).get_dtype()
                if (
                    dtype != "BF16"
                    and dtype[0] in "IUBC"
                    and (_bare(model, key) in parameters or key.endswith(".weight"))
                ):
                    raise UserError(
                        f"{file}: {key} is stored as {dtype}, and config.json names no quantiser that is known here"
                    )


def unexplained(model: PreTrainedModel, keys: Iterable[str]) -> list[str]:
    """Return the keys of a file that neither a buffer of the model nor a sister class with the same config explains."""
    keys = [key for key in keys if not FILL.search(key)]
    if not keys:
        return []
    known = {_bare(model, name) for name, _ in model.named_buffers()} | _of_sisters(model)
    return sorted(key for key in keys if _bare(model, key) not in known)


def _without_masks(keys: Sequence[str], stored: Iterable[Path]) -> list[str]:
    """Return the keys without those of causal masks (1, 1, T, T), which older versions stored as buffers."""
    masks: set[str] = set()
    for file in stored if keys else ():
        with safe_open(file, framework="pt") as tensors:
            for key in set(tensors.keys()) & set(keys):
                shape = tensors.get_slice(key).get_shape()
                if shape[:2] == [1, 1] and len(shape) == 4:
                    mask = tensors.get_tensor(key)[0, 0].float()
                    masks |= {key} if torch.equal(mask, torch.ones_like(mask).tril()) else set()
    return [key for key in keys if key not in masks]


def headless(model: PreTrainedModel, missing: Iterable[str]) -> bool:
    """Return whether what is missing is the model's head, and nothing of the stack below it."""
    prefix = f"{model.base_model_prefix}."
    return hasattr(model, model.base_model_prefix) and not any(key.startswith(prefix) for key in missing)


def only_pooler(model: PreTrainedModel, missing: Iterable[str]) -> bool:
    """Return whether what is missing is a pooler, which the class can do without."""
    optional = "add_pooling_layer" in inspect.signature(type(model).__init__).parameters
    return optional and bool(missing) and all(key.startswith("pooler.") for key in missing)


def _lacks(model: PreTrainedModel, missing: Iterable[str]) -> str:
    name = type(model).__name__
    if not headless(model, missing):
        return f"the weights lack {_some(missing)}, which {name} with this config.json has"
    text = f"the weights lack the language-model head of {name}: {_some(missing)}"
    return f"{text}; add them, or save the model with a head"


def _some(keys: Iterable[str]) -> str:
    keys = sorted(keys)
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return ", ".join(keys[:SHOWN]) + more


def _bare(model: PreTrainedModel, key: str) -> str:
    return key.removeprefix(f"{model.base_model_prefix}.")


def _of_sisters(model: PreTrainedModel) -> set[str]:
    """Return the keys that other classes of the modelling file have with this config, without the base's prefix."""
    known: set[str] = set()
    for cls in vars(sys.modules[type(model).__module__]).values():
        if not (isinstance(cls, type) and issubclass(cls, PreTrainedModel) and cls.config_class is type(model.config)):
            continue
        try:
            with torch.device("meta"):
                known |= {_bare(model, key) for key in cls(model.config).state_dict()}
        except Exception:  # a class that needs more than a config explains nothing
            continue
    return known
