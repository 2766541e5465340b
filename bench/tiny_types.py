"""Tiny random models of every causal, masked and vision-language type that the installed transformers knows.

A type's own default config is shrunk by the names of its fields (`SIZES`); lists with one entry per layer keep every
kind of layer that the default has; what no rule can know is in `OVERRIDES`. Weights are redrawn wide enough that heads
attend differently: the library's own start would give nearly uniform attention, under which most faults cannot be seen.
"""

import dataclasses
import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import CONFIG_MAPPING, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
)

LAYERS, HEADS, WIDTH, VOCABULARY = 4, 4, 32, 256
SPECIAL = {"pad": 0, "bos": 1, "cls": 1, "decoder_start": 1, "eos": 2, "sep": 2, "eod": 2, "mask": 3}
REACH = 16  # tokens of windows and chunks, so that prompts of 64 and more leave them

# Field name (whole, a regular expression) -> what it becomes; the first rule that fits holds.
SIZES: list[tuple[str, int]] = [
    (r"(attention|sliding|local_attention|keep)_(window|window_size|window_len|chunk_size)|sliding_window_size", REACH),
    (r"local_attention|sliding_window|rel_extent", REACH),
    (r"window_size", 4),
    (r"(local|lsh)_attn_chunk_length|attention_window", REACH),
    (r"num_(key_value|kv|global_key_value)_heads|kv_n_heads|swa_num_key_value_heads|num_query_groups", 2),
    (r"index_n_heads", 32),  # few would tie: the scores of keys that no indexer head likes are all 0
    (r"(mamba_n|n_mamba|mamba_num|linear_num|linear_num_key)_heads", 4),
    (r"linear_num_value_heads", 4),
    (r"(.*_)?(attention_heads|num_heads|n_heads?|resampler_heads)|num_attention_heads", HEADS),
    (r"head_dim|swa_head_dim|global_head_dim|kv_channels", 16),
    (r"(linear_(key_|value_)?head_dim|index_head_dim|mamba_d_head|mamba_head_dim|resampler_(head_dim|dim_head))", 8),
    (r"qk_nope_head_dim|v_head_dim|qk_rope_head_dim|d_kv|rotary_dim", 8),
    (r"qk_head_dim", 16),
    (r"q_lora_rank|kv_lora_rank|o_lora_rank", 16),
    (r"(mamba_d_state|ssm_state_size|state_size)", 8),
    (r"mamba_dt_rank|time_step_rank", 4),
    (r"(mamba_)?chunk_size|mamba_chunk_size", 8),
    (r"n_groups|mamba_n_groups|mamba_ngroups|o_groups", 1),
    (r"index_topk", 8),
    (r"n_group|topk_group|num_expert_group|n_shared_experts|num_shared_experts|moe_num_shared_experts", 1),
    (r"num_experts_per_tok(en)?|moe_topk|moe_top_k|moe_k|top_k_experts", 2),
    (r"(n_routed_|num_local_|num_|moe_num_|zero_)experts?(_num)?", 4),
    (r"num_hidden_layers|n_layers?|num_layers|(encoder_|decoder_)?layers|num_(de|en)coder_layers", LAYERS),
    (r"depth", 2),
    (r"first_k_dense_replace|num_dense_layers|num_nextn_predict_layers", 1),
    (r"num_kv_shared_layers", 2),
    (r"hidden_size|d_model|n_embd|dim|emb_dim|embed_dim|out_hidden_size|projection_dim|text_hidden_size", WIDTH),
    (r".*hidden_size|embedding_size|embedding_dim|word_embed_proj_dim|vision_output_dim|.*embedding_size", WIDTH),
    (r".*(intermediate_size|ffn_dim|ffn_hidden_size|d_ff|dff|dim_ff|mlp_dim|hidden_dim)|n_inner|d_inner", 48),
    (r"max_position_embeddings|n_positions|n_ctx|max_seq_len|context_length|model_max_length", 512),
    (r"vocab_size|decoder_vocab_size|unpadded_vocab_size|.*vocab_size_per_layer_input", VOCABULARY),
    (r"hidden_size_per_layer_input|laurel_rank", 8),
    (r"image_size", 32),
    (r"patch_size", 8),
    (r"(image|video|audio)_(token_)?(id|index)|.*_token_(id|index)|.*_id", -1),  # the last ids: see `_token`
]


def _mrope(*sections: int) -> dict[str, Any]:
    """Return rotary parameters whose sections (time, height, width) fit a tiny head."""
    return {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(sections)}


# What no rule can know: model type -> fields; for those of another config that a field holds, `type.field` -> fields.
OVERRIDES: dict[str, dict[str, Any]] = {
    "bamba": {"mamba_d_head": 16, "attn_layer_indices": [1, 3]},
    "blt": {"encoder_hash_byte_group_vocab": 64},
    "blt.encoder_config": {"hidden_size_global": WIDTH},
    "blt.decoder_config": {"hidden_size_global": WIDTH},
    "chameleon": {"vocabulary_map": {"<image>": 250}},
    "cohere_compass_text": {
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4} for kind in ("sliding_attention", "full_attention")
        },
    },
    "dbrx.attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8.0},
    "deepseek_ocr2.text_config": {"mlp_layer_types": ["dense", "sparse"] * 2, "num_experts_per_tok": 2},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2},
    "dots3_note.vision_config": {"adapter_in_dim": WIDTH, "adapter_out_dim": WIDTH},
    "dots3_note.audio_config": {"adapter_input_size": WIDTH, "adapter_out_dim": WIDTH},
    "dots3_note_text": {
        "num_key_value_heads": 4,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 4,
        "swa_q_lora_rank": 16,
        "swa_kv_lora_rank": 16,
        "swa_head_dim": 16,
        "swa_qk_nope_head_dim": 8,
        "swa_v_head_dim": 8,
    },
    "ernie4_5_vl_moe.text_config": {"moe_intermediate_size": [48, 24], "rope_parameters": _mrope(1, 1, 2)},
    "esm": {"vocab_size": VOCABULARY, "mask_token_id": 3, "pad_token_id": 0, "position_embedding_type": "rotary"},
    "esmc": {"head_dim": 8},
    "gemma4_text": {"global_head_dim": 32, "num_kv_shared_layers": 2},
    "glm5_next.text_config": {"index_kpool": 4, "index_topk": 16, "num_key_value_heads": 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]], "window_size": REACH},
    "granite4_vision.vision_config": {"hidden_size": 64},
    "granite4_vision": {"downsample_rate": "1/2", "deepstack_layer_map": [[0, 1]], "spatial_target_layers": [1, 2]},
    "granitemoehybrid": {"mamba_d_head": 16, "layer_types": ["linear_attention", "full_attention"] * 2},
    "helium": {"head_dim": 8},
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "hunyuan_vl.text_config": {"head_dim": 16},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "janus.vq_config": {"base_channels": 32, "channel_multiplier": [1, 1]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "longcat_flash": {"head_dim": 8},
    "luke": {"entity_vocab_size": 16, "entity_emb_size": 8},
    "mllama.text_config": {"cross_attention_layers": [1, 3]},
    "ministral": {"head_dim": 16},
    "molmo2.adapter_config": {"vision_feature_layer": [1, 0]},
    "muse_spark.audio_config": {"hidden_sizes": [16, 16, 16, 16]},
    "musicgen.decoder": {"num_codebooks": 1},
    "musicgen_melody.decoder": {"num_codebooks": 1},
    "nemotron": {"num_key_value_heads": 2},
    "nemotron_h_omni.vision_config": {"video_temporal_patch_size": 2},
    "paddleocr_vl.text_config": {"rope_parameters": _mrope(2, 3, 3)},
    "perceiver": {"d_latents": 32, "num_latents": 8, "num_self_attends_per_block": 2},
    "qwen4_exp_text": {
        "indexer_n_heads": 32,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 16,
        "indexer_budget": 16,
        "indexer_compress_ratio": 4,
    },
    "reformer": {"axial_pos_embds_dim": [16, 16], "axial_pos_shape": [16, 16], "attention_head_size": 8},
    "roc_bert": {"shape_vocab_size": 256, "pronunciation_vocab_size": 256},
    "step3p7.text_config": {"sliding_window": REACH, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "xlstm": {"qk_dim_factor": 1.0, "num_heads": 2},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "num_hidden_layers": 6,
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "layers_block_type": [
            "linear_attention",
            "linear_attention",
            "hybrid",
            "linear_attention",
            "hybrid",
            "linear_attention",
        ],
    },
}
for _name in ("gemma4", "gemma4_unified"):
    OVERRIDES[f"{_name}.text_config"] = {"global_head_dim": 32}
OVERRIDES["diffusion_gemma.text_config"] = {
    "global_head_dim": 32,
    "moe_intermediate_size": 48,
    "num_experts": 4,
    "top_k_experts": 2,
}
OVERRIDES["gemma4_unified_text"] = {"global_head_dim": 32}
OVERRIDES["cohere_compass.text_config"] = OVERRIDES["cohere_compass_text"]
OVERRIDES["dots3_note.text_config"] = OVERRIDES["dots3_note_text"]
OVERRIDES["qwen4_exp.text_config"] = OVERRIDES["qwen4_exp_text"]


# The same type with other options that change what a head is or sees: type -> name of the variant -> fields.
VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "bert": {"decoder": {"is_decoder": True}},
    "big_bird": {"full": {"attention_type": "original_full"}},
    "bloom": {"post-norm residual": {"apply_residual_connection_post_layernorm": True}},
    "deberta": {"relative": {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 32}},
    "deberta-v2": {
        "v3": {
            "relative_attention": True,
            "pos_att_type": ["p2c", "c2p"],
            "position_buckets": 16,
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
        }
    },
    "falcon": {
        "alibi": {"alibi": True, "multi_query": False, "num_kv_heads": 4},
        "new": {"new_decoder_architecture": True, "num_kv_heads": 2},
        "sequential": {"parallel_attn": False},
    },
    "gemma3_text": {"both ways": {"use_bidirectional_attention": True}},
    "gpt2": {"scaled by layer": {"scale_attn_by_inverse_layer_idx": True}},
    "gpt_bigcode": {"many keys": {"multi_query": False}},
    "gpt_neox": {"sequential": {"use_parallel_residual": False}},
    "llama": {"biased, one key": {"attention_bias": True, "num_key_value_heads": 1, "head_dim": 12}},
    "mistral": {"no window": {"sliding_window": None}},
    "opt": {"post-norm": {"do_layer_norm_before": False}},
    "qwen2": {"windows": {"use_sliding_window": True, "sliding_window": REACH, "max_window_layers": 2}},
    "roberta": {"relative": {"position_embedding_type": "relative_key_query"}},
    "stablelm": {"parallel": {"use_parallel_residual": True, "qk_layernorm": True}},
    "xlm": {"causal": {"causal": True}},
}
for _name in ("qwen3", "qwen2_moe", "qwen3_moe"):
    VARIANTS[_name] = VARIANTS["qwen2"]


def types() -> Iterator[tuple[str, str, str]]:
    """Yield (model type, class, variant) of every causal, masked and vision-language type, sorted; '': its defaults."""
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    seeing = {pair for pair in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.items() if pair[0] not in known}
    for name, cls in sorted(seeing | set(known.items()) | set(MODEL_FOR_MASKED_LM_MAPPING_NAMES.items())):
        for variant in ("", *VARIANTS.get(name, ())):
            if not (name == "bert" and variant and cls not in known.values()):
                yield name, cls, variant


def config(name: str, cls: str = "", variant: str = "") -> PreTrainedConfig:
    """Return a type's default config, shrunk; a causal class of an encoder's type is told that it decodes.

    All but BERT's: what calls itself a causal model and sees both ways (the default there) must be noticed.
    """
    given = VARIANTS[name][variant] if variant else {}
    made = CONFIG_MAPPING[name](**_shrunk(name, CONFIG_MAPPING[name]) | given)
    if cls in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() and hasattr(made, "is_decoder") and name != "bert":
        made.is_decoder = True
    wanted = getattr(getattr(transformers, cls, None), "config_class", None)
    text = made.get_text_config(decoder=True)
    if wanted is not None and not isinstance(made, wanted) and isinstance(text, wanted):  # a family's text model
        made = text
    return made


def _shrunk(name: str, cls: type[PreTrainedConfig], given: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the fields of a config class that make it tiny; given: the fields that its parent sets."""
    given, wanted = dict(given or {}), OVERRIDES.get(name, {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            default = cls(**given)
        except Exception:  # a default that its own class refuses: the overrides mend it
            default = cls(**given | wanted)
    known = {field.name for field in dataclasses.fields(cls)} - {f.name for f in dataclasses.fields(PreTrainedConfig)}
    known |= {"pad_token_id", "bos_token_id", "eos_token_id", "sep_token_id", "vocab_size"} & set(vars(default))
    layers = getattr(default, "num_hidden_layers", None) or getattr(default, "num_layers", None)
    fields: dict[str, Any] = {}
    for key in sorted(known):
        value = _value(default, key)
        if key in wanted:
            fields[key] = wanted[key]
        elif isinstance(value, PreTrainedConfig):
            inner = given.get(key) or {}
            fields[key] = {"model_type": value.model_type} if type(value).model_type else {}
            fields[key] |= _shrunk(f"{name}.{key}", type(value), inner if isinstance(inner, dict) else None)
        elif (small := _small(key, value, default, layers)) is not None:
            fields[key] = small
    if (
        "mrope_section" in (getattr(cls, "ignore_keys_at_rope_validation", None) or ())
        and "rope_parameters" not in wanted
    ):
        rope = dict(_value(default, "rope_parameters") or {})
        half = int((fields.get("head_dim") or WIDTH // HEADS) * rope.get("partial_rotary_factor", 1.0)) // 2
        fields["rope_parameters"] = rope | {"mrope_section": [half - 2 * (half // 3), half // 3, half // 3]}
    extra = {key: value for key, value in wanted.items() if key not in fields}
    return {**given, **fields, **extra}


def _value(default: PreTrainedConfig, key: str) -> Any:
    """Return a field of a default config, where it varies between layers what all others have."""
    try:
        return getattr(default, key, None)
    except Exception:
        return next(field.default for field in dataclasses.fields(default) if field.name == key)


def _small(key: str, value: Any, default: PreTrainedConfig, layers: int | None) -> Any:
    """Return what a field becomes, None where its default stays."""
    if key.endswith(("token_id", "token_index")) and value is not None:
        return _token(key)
    if isinstance(value, bool) or value is None or key.startswith("_"):
        return None
    scales = (isinstance(value, float) and "multiplier" in key) or re.fullmatch(r"\w+_(alpha|beta)_factor", key)
    if scales:  # a factor on what joins the residual must not be 1
        return 0.6
    if isinstance(value, int):
        for pattern, size in SIZES:
            if re.fullmatch(pattern, key):
                if size < 0 or (value <= size and size not in (LAYERS, VOCABULARY) and "window" not in key):
                    return None
                if key.startswith("num_key_value") and value >= (getattr(default, "num_attention_heads", 0) or 0):
                    return HEADS
                return size
        return None
    if isinstance(value, list | tuple) and layers and len(value) == layers and layers > 2 and not _is_size(key):
        return _per_layer(list(value))
    indices = isinstance(value, list | tuple) and re.search(r"index(es)?$|indices|layers$|_ids$|idxs", key)
    if indices and value and layers and all(type(v) is int and 0 <= v <= layers for v in value):
        return sorted({min(v * LAYERS // layers, LAYERS - 1) for v in value})
    return None


def _is_size(key: str) -> bool:
    return key in ("image_size", "patch_size")


def _per_layer(values: list) -> list:
    """Return `LAYERS` entries in which every kind of the default's entries comes, in order of first appearance."""
    if all(isinstance(v, int) and not isinstance(v, bool) for v in values) and max(values) > 1:
        ascending = values == sorted(values) and len(set(values)) == len(values)
        return values[:LAYERS] if ascending else [48 if v > HEADS else v for v in values[:LAYERS]]
    kinds = list(dict.fromkeys(map(str, values)))
    by_name = {str(value): value for value in values}
    return [by_name[kinds[index % len(kinds)]] for index in range(max(LAYERS, len(kinds)))]


def _token(key: str) -> int:
    """Return a special token's id: the tokenizer's own, or one of the last, which no prompt of the bench uses."""
    stem = re.sub(r"_token_(id|index)$", "", key)
    return SPECIAL.get(stem, VOCABULARY - 1 - sum(map(ord, stem)) % 40)


QUERY_KEY = "q|k|query|key|q_proj|k_proj|qkv|c_attn|wqkv|query_key_value"


def build(name: str, cls: str, variant: str = "", seed: int = 0) -> PreTrainedModel:
    """Return a tiny random model of a type, in evaluation mode."""
    torch.manual_seed(seed)
    made = config(name, cls, variant)
    model = getattr(transformers, cls)(made).eval()
    widen(model, torch.Generator().manual_seed(seed))
    return model.float()


@torch.no_grad()
def widen(model: nn.Module, generator: torch.Generator) -> None:
    """Redraw matrices so that signals keep their size and attention is far from uniform; shake vectors by 0.1."""
    for name, parameter in sorted(model.named_parameters()):
        if not parameter.is_floating_point():
            continue
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() < 2:
            parameter.add_(noise * (1.0 if "sink" in name else 0.1))
        elif "embed" in name or "wte" in name or "wpe" in name:
            parameter.copy_(noise * 0.7)
        else:
            fan = parameter.shape[-1] if parameter.dim() == 2 else parameter[0].numel()
            sharp = (
                2.0
                if re.search(r"(^|[._])(q|k|query|key|q_proj|k_proj|qkv|c_attn|wqkv|query_key_value)\b", name)
                else 1.0
            )
            parameter.copy_(noise * sharp / math.sqrt(max(fan, 1)))


def tokenizer(encoder: bool) -> PreTrainedTokenizerFast:
    """A fast byte-level tokenizer of letters and two-letter words; encoders get [CLS] and [SEP]."""
    pieces = ["<pad>", "<bos>", "<eos>", "<mask>", "<unk>", "Ġ", *"abcdefghijklmnopqrstuvwxyz"]
    merges = [("Ġ", first) for first in "bdfgklmnprst"]
    merges += [(f"Ġ{first}", second) for first in "bdfgklmnprst" for second in "aeiou"]
    vocabulary = {piece: index for index, piece in enumerate(pieces + ["".join(pair) for pair in merges])}
    core = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    names = {"pad_token": "<pad>", "mask_token": "<mask>", "unk_token": "<unk>"}
    if encoder:
        core.post_processor = processors.TemplateProcessing(
            single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 2)]
        )
        names |= {"cls_token": "<bos>", "sep_token": "<eos>"}
    else:
        names |= {"bos_token": "<bos>", "eos_token": "<eos>"}
    return PreTrainedTokenizerFast(tokenizer_object=core, **names)


def save(name: str, cls: str, folder: Path, variant: str = "", seed: int = 0) -> PreTrainedModel:
    """Save a tiny model with its tokenizer as a hub snapshot would lie on disk; return the model."""
    model = build(name, cls, variant, seed)
    model.save_pretrained(folder)
    tokenizer(encoder=cls in MODEL_FOR_MASKED_LM_MAPPING_NAMES.values()).save_pretrained(folder)
    return model
