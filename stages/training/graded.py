"""Checkpoints of lessons that grade answers (stages/recipes/graded.py): all inputs in one pass.

Legend: N input, T token, Q symbol, U hidden unit.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import log_softmax
from transformers import PreTrainedModel
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP

from stages.recipes.graded import Graded
from stages.recipes.settings import Architecture
from stages.training.bag import Bag
from stages.training.build import read as continuing

Row = tuple[str, str, str, float, float, float]  # as of `stages.training.checkpoint`


def read(folder: Path, architecture: Architecture) -> PreTrainedModel:
    """Load a checkpoint, in evaluation mode."""
    if architecture.type != "bag":
        return continuing(folder)
    return Bag.from_pretrained(folder, dtype=torch.float32, use_safetensors=True).eval().requires_grad_(False)


def answered(model: PreTrainedModel, ids_NT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return log-probabilities (N, T, Q), nats, and what the last MLP's output matrix is multiplied with, (N, T, U)."""
    kept = []
    last = [module for module in model.modules() if isinstance(module, GPT2MLP)][-1]
    handle = last.c_proj.register_forward_pre_hook(lambda module, arguments: kept.append(arguments[0]))
    try:
        with torch.inference_mode():
            logits_NTQ = model(torch.from_numpy(ids_NT), use_cache=False).logits
    finally:
        handle.remove()
    return log_softmax(logits_NTQ.double(), -1).numpy(), kept[0].numpy()


def measured(model: PreTrainedModel, lesson: Graded, held: Any) -> Iterator[Row]:
    """Yield the lesson's measures of one checkpoint."""
    for measure, number, value in lesson.graded(held, *answered(model, lesson.inputs(held))):
        yield measure, "", f"{number:05d}", float(value), np.nan, 1.0
