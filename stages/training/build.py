"""Small models built from a params entry, and checkpoints in Hugging Face format: `config.json`, `model.safetensors`.

Attention only (`inner: 0`): GPT-2 whose MLPs have one hidden unit with frozen weights and a zero output, since the
class knows no block without an MLP. What is saved is an ordinary GPT-2, read by `AutoModelForCausalLM`.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from stages.recipes.settings import Architecture
from stages.training.bag import bag, configuration


def build(architecture: Architecture, vocabulary: int, positions: int) -> PreTrainedModel:
    """Build a model with random weights from torch's global stream; no dropout, embeddings tied.

    Registers are the last ids of the vocabulary.
    """
    kinds = {"gpt2": _gpt2, "llama": _llama, "bert": _bert, "bag": bag}
    return kinds[architecture.type](
        architecture, vocabulary + architecture.registers, positions + architecture.registers
    )


def _bert(architecture: Architecture, vocabulary: int, positions: int) -> BertForMaskedLM:
    return BertForMaskedLM(
        BertConfig(
            vocab_size=vocabulary,
            max_position_embeddings=positions,
            type_vocab_size=1,
            hidden_size=architecture.width,
            num_attention_heads=architecture.heads,
            num_hidden_layers=architecture.layers,
            intermediate_size=architecture.inner,
            hidden_act=architecture.activation,
            initializer_range=architecture.initializer_range,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )


def _llama(architecture: Architecture, vocabulary: int, positions: int) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            max_position_embeddings=positions,
            hidden_size=architecture.width,
            num_attention_heads=architecture.heads,
            num_hidden_layers=architecture.layers,
            intermediate_size=architecture.inner,
            hidden_act=architecture.activation,
            initializer_range=architecture.initializer_range,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


def _gpt2(architecture: Architecture, vocabulary: int, positions: int) -> GPT2LMHeadModel:
    inner = max(1, architecture.inner)
    more = {"n_positions": positions, "n_inner": inner, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    model = GPT2LMHeadModel(configuration(architecture, vocabulary, **more))
    if not architecture.inner:
        for block in model.transformer.h:
            block.mlp.requires_grad_(False)
            block.mlp.c_proj.weight.zero_()
    with torch.no_grad():
        if architecture.embedding_range:
            model.transformer.wte.weight *= architecture.embedding_range / architecture.initializer_range
        if architecture.attention_range:
            for block in model.transformer.h:  # columns: queries, keys, values
                block.attn.c_attn.weight[:, : 2 * architecture.width] *= (
                    architecture.attention_range / architecture.initializer_range
                )
        if architecture.positions == "sinusoids":
            model.transformer.wpe.weight.copy_(architecture.amplitude * sinusoids(positions, architecture.width))
    return model


def sinusoids(positions: int, width: int) -> torch.Tensor:
    """Return the position table (T, D) of Vaswani+ 2017: a start for a learned one."""
    rate_F = 10_000.0 ** (-torch.arange(0, width, 2) / width)
    angle_TF = torch.arange(positions)[:, None] * rate_F
    return torch.stack([angle_TF.sin(), angle_TF.cos()], dim=-1).flatten(1)[:, :width]


def save(model: PreTrainedModel, folder: Path) -> None:
    """Write a checkpoint: the configuration and the weights, nothing else."""
    transformers_logging.disable_progress_bar()
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)


def read(folder: Path, masked: bool = False) -> PreTrainedModel:
    """Load a checkpoint, in evaluation mode and with the attention that is measured."""
    transformers_logging.disable_progress_bar()
    kind = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    model = kind.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, attn_implementation="eager")
    return model.eval().requires_grad_(False)


def numbered(vocabulary: int, mask: int | None = None) -> PreTrainedTokenizerFast:
    """Return a tokenizer whose words are the numbers of its tokens: recipes have tokens, no text."""
    words = {str(number): number for number in range(vocabulary)}
    hidden = {} if mask is None else {"mask_token": str(mask)}
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="0")), **hidden)
