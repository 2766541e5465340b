"""A change of low rank as a LoRA adapter that `peft` reads: adapter_model.safetensors and adapter_config.json.

W' = W + sum of values keys^T: A = keys (R, F), B = values^T (D, R), r = alpha = R, so that the scale alpha / r is 1.
Source of the format: peft's `LoraConfig` and `save_pretrained`; peft itself is not needed to write it.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load, save

from stages.model.load import Loaded
from stages.model.mlp import Writer


def write(
    folder: Path,
    writer: Writer,
    keys_RF: torch.Tensor,
    values_RD: torch.Tensor,
    base: str,
    provenance: Mapping[str, str],
) -> None:
    """Write an adapter of a writer's weight.

    base: the model it changes; provenance: what else the weights' file says about where it comes from, name -> text.
    """
    rank = len(keys_RF)
    config = {
        "base_model_name_or_path": base,
        "bias": "none",
        "fan_in_fan_out": writer.transposed,
        "inference_mode": True,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": rank,
        "target_modules": [writer.path],
        "task_type": "CAUSAL_LM",
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    name = f"base_model.model.{writer.path}"
    tensors = {f"{name}.lora_A.weight": keys_RF, f"{name}.lora_B.weight": values_RD.T}
    note = {"provenance": json.dumps(dict(provenance), sort_keys=True)}  # safetensors writes several in any order
    content = save({key: tensor.float().cpu().contiguous() for key, tensor in tensors.items()}, note)
    (folder / "adapter_model.safetensors").write_bytes(content)


def read(folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys (R, F) and values (R, D) of an adapter, as its file has them."""
    tensors = load((folder / "adapter_model.safetensors").read_bytes())
    a, b = (next(t for name, t in tensors.items() if f"lora_{letter}" in name) for letter in "AB")
    return a, b.T


@torch.no_grad()
def second_singular(writer_weight_DF: torch.Tensor, keys_RF: torch.Tensor, values_RD: torch.Tensor) -> float:
    """Return the second singular value over the first of W' - W: both as they are stored, rounded."""
    before_DF = writer_weight_DF.float()
    change_DF = (before_DF + (values_RD.T @ keys_RF).to(before_DF.device)) - before_DF
    first, second = torch.linalg.svdvals(change_DF)[:2].tolist()
    return second / first


@contextmanager
def merged(loaded: Loaded, writer: Writer, keys_RF: torch.Tensor, values_RD: torch.Tensor) -> Iterator[None]:
    """Let the weight itself be W + values^T keys for a while, as an adapter is merged."""
    weight = loaded.model.get_submodule(writer.path).weight
    before = weight.detach().clone()
    change_DF = (values_RD.T @ keys_RF).to(weight)
    with torch.no_grad():
        weight += change_DF.T if writer.transposed else change_DF
    try:
        yield
    finally:
        with torch.no_grad():
            weight.copy_(before)
