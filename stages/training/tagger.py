"""Models that are asked something at every token, with registers before the others: text models as they are, and a ViT.

The ViT is transformers' DINOv2 with registers (class token, registers, patches; pre-LN) and one linear layer behind,
which any reader of that architecture can open. A lesson without a class token leaves it out of the sequence.

Legend: B batch, T token of the lesson, S token of the model (registers and T), D width, P pixel of a patch, Q answer.
"""

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, mse_loss
from transformers import (
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    Dinov2WithRegistersPreTrainedModel,
    PreTrainedModel,
)

from stages.recipes.lesson import IGNORED, Batch
from stages.recipes.settings import Architecture
from stages.recipes.states import States
from stages.training import build as texts

PAINTING = 10.0  # weight of the pixels' squared error


class Tagger(Dinov2WithRegistersPreTrainedModel):
    """DINOv2 with registers and a linear layer that every token's answers and pixels are read from."""

    def __init__(self, config: Dinov2WithRegistersConfig):
        super().__init__(config)
        self.dinov2_with_registers = Dinov2WithRegistersModel(config)
        self.head = nn.Linear(config.hidden_size, config.answers)
        self.post_init()

    def forward(self, pixels_BHW: torch.Tensor, kept_BS: torch.Tensor | None = None, output_attentions: bool = False):
        """Return answers (B, S, Q) and attention; `kept_BS`: tokens that are there, in this order.

        Tokens are in the order registers, class token, patches.
        """
        body, registers = self.dinov2_with_registers, self.config.num_register_tokens
        hidden_BSD = body.embeddings(pixels_BHW[:, None])
        order = [*range(1, 1 + registers), *([0] if self.config.pooled else [])]
        order += range(1 + registers, hidden_BSD.shape[1])
        hidden_BSD = hidden_BSD[:, order]
        if kept_BS is not None:
            hidden_BSD = torch.take_along_dim(hidden_BSD, kept_BS[..., None], 1)
        out = body.encoder(hidden_BSD, output_attentions=output_attentions)
        return self.head(body.layernorm(out.last_hidden_state)), out.attentions


def build(architecture: Architecture, lesson: States) -> PreTrainedModel:
    """Build a model of the lesson with random weights from torch's global stream."""
    if lesson.side is None:
        return texts.build(architecture, lesson.symbols, lesson.positions)
    side, patch = lesson.side
    config = Dinov2WithRegistersConfig(
        hidden_size=architecture.width,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        mlp_ratio=architecture.inner // architecture.width,
        hidden_act=architecture.activation,
        initializer_range=architecture.initializer_range,
        image_size=side,
        patch_size=patch,
        num_channels=1,
        num_register_tokens=architecture.registers,
        layerscale_value=1.0,
        drop_path_rate=0.0,
        answers=lesson.symbols + lesson.paints,
        pooled=lesson.pooled,
    )
    model = Tagger(config)
    registers = model.dinov2_with_registers.embeddings.register_tokens
    nn.init.normal_(registers, std=architecture.initializer_range)  # zeros, as there, would stay alike for ever
    return model


def read(folder: Path, architecture: Architecture) -> PreTrainedModel:
    """Load a checkpoint, in evaluation mode and with attention that can be returned."""
    if architecture.type != "vit":
        return texts.read(folder, masked=architecture.type == "bert")
    model = Tagger.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, attn_implementation="eager")
    return model.eval().requires_grad_(False)


def answers(
    model: PreTrainedModel,
    inputs: np.ndarray,
    registers: int,
    kept_BS: torch.Tensor | None = None,
    attention: bool = False,
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...] | None]:
    """Return every token's answers (B, S, Q), registers first, and, where asked for, the attention of each layer.

    inputs: token ids (B, T) or images; kept_BS: tokens that are there (all): the others are gone, places stay.
    """
    if isinstance(model, Tagger):
        return model(torch.from_numpy(inputs).float(), kept_BS, attention)
    ids_BT = torch.from_numpy(inputs)
    first = model.config.vocab_size - registers
    ids_BS = torch.cat([torch.arange(first, first + registers).expand(len(ids_BT), -1), ids_BT], dim=1)
    if kept_BS is not None:
        ids_BS = ids_BS.gather(1, kept_BS)
    # with positions that jump and no mask, transformers takes the tokens for several sequences packed into one
    there_BS = None if kept_BS is None else torch.ones_like(ids_BS)
    out = model(ids_BS, attention_mask=there_BS, position_ids=kept_BS, use_cache=False, output_attentions=attention)
    return out.logits, out.attentions if attention else None


def objective(model: PreTrainedModel, batch: Batch, architecture: Architecture) -> torch.Tensor:
    """Return the cross-entropy of what is asked, plus the weighed squared error of the pixels where there are any."""
    scores_BSQ, _ = answers(model, batch.ids_BT, architecture.registers)
    scores_BTQ = scores_BSQ[:, architecture.registers :]
    pixels = 0 if batch.pixels_BTP is None else batch.pixels_BTP.shape[-1]
    labels_N = torch.from_numpy(batch.labels_BT).flatten()
    choices_NQ = scores_BTQ[..., : scores_BTQ.shape[-1] - pixels].flatten(0, 1)
    loss = cross_entropy(choices_NQ, labels_N, ignore_index=IGNORED)
    if not pixels:
        return loss
    return loss + PAINTING * mse_loss(scores_BTQ[..., -pixels:], torch.from_numpy(batch.pixels_BTP).float())
