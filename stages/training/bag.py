"""A model without attention: every token reads the sum of the embeddings up to it, and MLPs do the rest.

Blocks are GPT-2's MLPs, each after a layer norm and added to the residual stream. There are no positions: tokens that
mean something else at another place are to be other tokens.

Legend: B sequence, T token, D width.
"""

from typing import Any

import torch
from torch import nn
from transformers import GPT2Config, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput
from transformers.models.gpt2.modeling_gpt2 import GPT2MLP

from stages.recipes.settings import Architecture


class Bag(PreTrainedModel):
    """Embeddings summed from the first token on, MLPs, and a linear layer to the vocabulary."""

    config_class = GPT2Config

    def __init__(self, config: GPT2Config):
        super().__init__(config)
        inner = config.n_inner
        self.embeddings = nn.Embedding(config.vocab_size, config.n_embd)
        self.norms = nn.ModuleList(nn.LayerNorm(config.n_embd) for _ in range(config.n_layer + 1))
        self.mlps = nn.ModuleList(GPT2MLP(inner, config) for _ in range(config.n_layer))
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if hasattr(module, "weight") and not isinstance(module, nn.LayerNorm):
            nn.init.normal_(module.weight, std=self.config.initializer_range)

    def forward(self, input_ids: torch.Tensor, **_) -> CausalLMOutput:
        """Return logits (B, T, V); token T is the first that sees itself."""
        state_BTD = self.embeddings(input_ids).cumsum(1)
        for norm, mlp in zip(self.norms, self.mlps, strict=False):
            state_BTD = state_BTD + mlp(norm(state_BTD))
        return CausalLMOutput(logits=self.head(self.norms[-1](state_BTD)))


def bag(architecture: Architecture, vocabulary: int, positions: int) -> Bag:
    """Build one with random weights from torch's global stream; `positions` and heads mean nothing to it."""
    return Bag(configuration(architecture, vocabulary, n_inner=architecture.inner))


def configuration(architecture: Architecture, vocabulary: int, **more: Any) -> GPT2Config:
    """Return a configuration of GPT-2; more: what this kind of model has besides."""
    return GPT2Config(
        vocab_size=vocabulary,
        n_embd=architecture.width,
        n_head=architecture.heads,
        n_layer=architecture.layers,
        activation_function=architecture.activation,
        initializer_range=architecture.initializer_range,
        resid_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
        **more,
    )
