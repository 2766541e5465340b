"""Tiny random transformers of many architectures, and tokenizers, made offline."""

from pathlib import Path
from typing import Any

import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from stages.model.anatomy import asked_as, find
from stages.model.images import layout
from stages.model.load import Loaded

WORDS = (
    "the a cat dog bird house tree river sees likes finds is was old new red big small and of in to Q A : on".split()
)
LETTERS = [chr(code) for code in range(33, 127)]
SMALL = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3, "intermediate_size": 48}
OLD = {"n_embd": 32, "n_head": 4, "n_layer": 3}


def tokenizer(kind: str = "decoder") -> hf.PreTrainedTokenizerFast:
    """A byte-level tokenizer of a few words and all letters; encoders get [CLS] and [SEP]."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<pad>", "<bos>", "<eos>", "<mask>"]
    vocabulary = {token: index for index, token in enumerate(specials + alphabet)}
    merges = []
    for word in WORDS:
        piece = "Ġ"
        for letter in word:
            if piece + letter not in vocabulary:
                vocabulary[piece + letter] = len(vocabulary)
                merges.append((piece, letter))
            piece += letter
    core = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    names = {"pad_token": "<pad>", "mask_token": "<mask>"}
    if kind == "decoder":
        names |= {"bos_token": "<bos>", "eos_token": "<eos>"}
    else:
        names |= {"cls_token": "<bos>", "sep_token": "<eos>"}
        core.post_processor = processors.TemplateProcessing(
            single="<bos> $A <eos>", special_tokens=[("<bos>", vocabulary["<bos>"]), ("<eos>", vocabulary["<eos>"])]
        )
    return hf.PreTrainedTokenizerFast(tokenizer_object=core, **names)


VOCABULARY = len(tokenizer())
IDS = {"vocab_size": VOCABULARY, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
WINDOWED = {"sliding_window": 6, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"]}

DECODERS = {
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**OLD, **IDS)),
    "gpt_neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**SMALL, **IDS)),
    "opt": lambda: hf.OPTForCausalLM(
        hf.OPTConfig(
            hidden_size=32, num_attention_heads=4, num_hidden_layers=3, ffn_dim=48, word_embed_proj_dim=32, **IDS
        )
    ),
    "llama_gqa": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**SMALL, num_key_value_heads=2, **IDS)),
    "gemma3": lambda: hf.Gemma3ForCausalLM(
        hf.Gemma3TextConfig(**SMALL, num_key_value_heads=1, head_dim=16, **WINDOWED, **IDS)
    ),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=12, **IDS)),
    "phi": lambda: hf.PhiForCausalLM(hf.PhiConfig(**SMALL, **IDS)),
    "falcon": lambda: hf.FalconForCausalLM(
        hf.FalconConfig(hidden_size=32, num_attention_heads=4, num_hidden_layers=3, **IDS)
    ),
    "bloom": lambda: hf.BloomForCausalLM(hf.BloomConfig(hidden_size=32, n_head=4, n_layer=3, **IDS)),
    "gptj": lambda: hf.GPTJForCausalLM(hf.GPTJConfig(**OLD, rotary_dim=4, **IDS)),
    "olmo2": lambda: hf.Olmo2ForCausalLM(hf.Olmo2Config(**SMALL, **IDS)),
}
ENCODERS = {
    "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**SMALL, **IDS)),
    "modernbert": lambda: hf.ModernBertForMaskedLM(
        hf.ModernBertConfig(**SMALL, local_attention=8, cls_token_id=1, sep_token_id=2, **IDS)
    ),
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
UNUSUAL = {  # hybrids, gates, learned sinks, multipliers, sparse experts, masks of their own
    "jamba": lambda: hf.JambaForCausalLM(
        hf.JambaConfig(
            **SMALL | {"num_hidden_layers": 4}, **EXPERTS, num_key_value_heads=2, attn_layer_period=2,
            attn_layer_offset=1, mamba_d_state=4, mamba_d_conv=2, mamba_dt_rank=4, use_mamba_kernels=False, **IDS,
        )
    ),
    "lfm2": lambda: hf.Lfm2ForCausalLM(
        hf.Lfm2Config(
            **SMALL, num_key_value_heads=2, layer_types=["conv", "full_attention", "full_attention"], **IDS
        )
    ),
    "qwen3_next": lambda: hf.Qwen3NextForCausalLM(
        hf.Qwen3NextConfig(
            **SMALL | {"num_hidden_layers": 4}, **EXPERTS, num_key_value_heads=2, head_dim=16,
            layer_types=["linear_attention", "full_attention"] * 2, linear_key_head_dim=8, linear_value_head_dim=8,
            linear_num_key_heads=2, linear_num_value_heads=4, moe_intermediate_size=16,
            shared_expert_intermediate_size=16, **IDS,
        )
    ),
    "nemotron_h": lambda: hf.NemotronHForCausalLM(
        hf.NemotronHConfig(
            **{k: v for k, v in SMALL.items() if k != "num_hidden_layers"}, num_key_value_heads=2, head_dim=8,
            layers_block_type=["linear_attention", "full_attention", "mlp", "full_attention"], mamba_num_heads=4,
            mamba_head_dim=8, ssm_state_size=8, n_groups=1, chunk_size=8, **IDS,
        )
    ),
    "gpt_oss": lambda: hf.GptOssForCausalLM(
        hf.GptOssConfig(
            **SMALL, num_local_experts=4, num_experts_per_tok=2, num_key_value_heads=2, head_dim=8, sliding_window=6,
            layer_types=["sliding_attention", "full_attention", "full_attention"], **IDS,
        )
    ),
    "granite": lambda: hf.GraniteForCausalLM(
        hf.GraniteConfig(**SMALL, num_key_value_heads=2, residual_multiplier=0.22, attention_multiplier=0.3, **IDS)
    ),
    "gpt_neo": lambda: hf.GPTNeoForCausalLM(
        hf.GPTNeoConfig(
            hidden_size=32, num_heads=4, num_layers=3, intermediate_size=48, window_size=4,
            attention_types=[[["local", "global", "local"], 1]], max_position_embeddings=128, **IDS,
        )
    ),
    "mixtral": lambda: hf.MixtralForCausalLM(
        hf.MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2, num_key_value_heads=2, **IDS)
    ),
    "mpnet": lambda: hf.MPNetForMaskedLM(hf.MPNetConfig(**SMALL, **IDS)),
    "deberta_v2": lambda: hf.DebertaV2ForMaskedLM(
        hf.DebertaV2Config(
            **SMALL, relative_attention=True, pos_att_type=["p2c", "c2p"], max_relative_positions=8, **IDS
        )
    ),
}  # fmt: skip
BESIDE = {  # in every block states beside attention, of one input
    "falcon_h1": lambda: hf.FalconH1ForCausalLM(
        hf.FalconH1Config(
            **SMALL, num_key_value_heads=2, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8,
            mamba_n_groups=1, mamba_chunk_size=8, mamba_d_conv=4, **IDS,
        )
    ),
}  # fmt: skip
PIXELS = {**SMALL, "image_size": 16, "patch_size": 4}
VISION = {
    "vit": lambda: hf.ViTModel(hf.ViTConfig(**PIXELS), add_pooling_layer=False),
    "dinov2": lambda: hf.Dinov2Model(hf.Dinov2Config(**PIXELS)),
    "dinov2_registers": lambda: hf.Dinov2WithRegistersModel(
        hf.Dinov2WithRegistersConfig(**PIXELS, num_register_tokens=3)
    ),
}


def processor() -> Any:
    """An image processor that makes 16 x 16 pixels of any picture."""
    return hf.ViTImageProcessorPil(size={"height": 16, "width": 16})


def make(name: str, seed: int = 0, scale: float = 1.0) -> Loaded:
    """Build a random model of an architecture; `scale` widens its weights so that attention is far from uniform."""
    torch.manual_seed(seed)
    model = (DECODERS | ENCODERS | UNUSUAL | BESIDE | VISION)[name]().eval().requires_grad_(False)
    model.config._attn_implementation = "eager"  # as `load` asks for
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.mul_(scale)
    for parameter in model.parameters() if name in UNUSUAL else ():
        if not torch.isfinite(parameter).all() or not parameter.any():
            parameter.copy_(torch.randn(parameter.shape))  # what is not drawn at the start: sinks, biases
    anatomy = find(model)
    kind = asked_as(model, anatomy)
    if kind == "vision":
        return Loaded(model, None, anatomy, kind, images=layout(model, anatomy.blocks[0], processor()))
    return Loaded(model, tokenizer("decoder" if kind == "decoder" else "masked"), anatomy, kind)


def save(name: str, folder: Path, seed: int = 0, scale: float = 4.0) -> Path:
    """Save a tiny random model with its tokenizer, as a hub snapshot would lie on disk."""
    loaded = make(name, seed, scale)
    loaded.model.save_pretrained(folder)
    (loaded.tokenizer or processor()).save_pretrained(folder)
    return folder
