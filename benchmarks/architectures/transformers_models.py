"""Models of Hugging Face's transformers, each of its own class, small and with random weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .torchvision_operators import declare_operators

_TEXT = {"hidden_size": 96, "num_attention_heads": 3, "intermediate_size": 192, "num_hidden_layers": 2, "vocab_size": 500}
_VISION = {"hidden_size": 96, "num_attention_heads": 3, "intermediate_size": 192, "num_hidden_layers": 2, "image_size": 64}
_LANGUAGE = {**_TEXT, "num_key_value_heads": 3, "max_position_embeddings": 64}
_AUDIO = {
    "hidden_size": 96, "num_attention_heads": 3, "intermediate_size": 192, "num_hidden_layers": 2,
    "conv_dim": (32,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
}  # fmt: skip
#: ``(model class, configuration class, what the configuration holds)``. Sizes that no entry names are the configuration's own.
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "BERT": ("BertForSequenceClassification", "BertConfig", _TEXT),
    "RoBERTa": ("RobertaForSequenceClassification", "RobertaConfig", _TEXT),
    "DistilBERT": (
        "DistilBertForSequenceClassification", "DistilBertConfig",
        {"dim": 96, "n_heads": 3, "hidden_dim": 192, "n_layers": 2, "vocab_size": 500},
    ),
    "ALBERT": ("AlbertForSequenceClassification", "AlbertConfig", {**_TEXT, "embedding_size": 32}),
    "ELECTRA": ("ElectraForSequenceClassification", "ElectraConfig", {**_TEXT, "embedding_size": 32}),
    "MPNet": ("MPNetForSequenceClassification", "MPNetConfig", _TEXT),
    "DeBERTa-v2": ("DebertaV2ForSequenceClassification", "DebertaV2Config", _TEXT),
    "T5 encoder": (
        "T5EncoderModel", "T5Config",
        {"d_model": 96, "d_kv": 32, "num_heads": 3, "d_ff": 192, "num_layers": 2, "vocab_size": 500},
    ),
    "GPT-2": ("GPT2LMHeadModel", "GPT2Config", {"n_embd": 96, "n_head": 3, "n_layer": 2, "vocab_size": 500, "use_cache": False}),
    "OPT": (
        "OPTForCausalLM", "OPTConfig",
        {
            "hidden_size": 96, "num_attention_heads": 3, "ffn_dim": 192, "num_hidden_layers": 2, "vocab_size": 500,
            "word_embed_proj_dim": 96, "use_cache": False,
        },
    ),
    "Llama": ("LlamaForCausalLM", "LlamaConfig", {**_LANGUAGE, "use_cache": False}),
    "Qwen2": ("Qwen2ForCausalLM", "Qwen2Config", {**_LANGUAGE, "use_cache": False}),
    "Gemma": ("GemmaForCausalLM", "GemmaConfig", {**_LANGUAGE, "head_dim": 32, "use_cache": False}),
    "ViT": ("ViTForImageClassification", "ViTConfig", {**_VISION, "patch_size": 16}),
    "DeiT": ("DeiTForImageClassification", "DeiTConfig", {**_VISION, "patch_size": 16}),
    "BEiT": ("BeitForImageClassification", "BeitConfig", {**_VISION, "patch_size": 16}),
    "DINOv2": ("Dinov2ForImageClassification", "Dinov2Config", {**_VISION, "patch_size": 16}),
    "CLIP vision": ("CLIPVisionModelWithProjection", "CLIPVisionConfig", {**_VISION, "patch_size": 16, "projection_dim": 32}),
    "Swin": (
        "SwinForImageClassification", "SwinConfig",
        {"image_size": 64, "patch_size": 4, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    ),
    "SegFormer": (
        "SegformerForSemanticSegmentation", "SegformerConfig",
        {
            "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "decoder_hidden_size": 32,
            "num_attention_heads": [1, 1, 2, 2],
        },
    ),
    "MobileViT": ("MobileViTForImageClassification", "MobileViTConfig", {"image_size": 64}),
    "ConvNeXt V2": (
        "ConvNextV2ForImageClassification", "ConvNextV2Config", {"depths": [1, 1, 2, 1], "hidden_sizes": [16, 32, 48, 64]},
    ),
    "wav2vec2": ("Wav2Vec2ForSequenceClassification", "Wav2Vec2Config", _AUDIO),
    "Whisper encoder": (
        "WhisperForAudioClassification", "WhisperConfig",
        {"d_model": 96, "encoder_attention_heads": 3, "encoder_ffn_dim": 192, "encoder_layers": 2, "max_source_positions": 32},
    ),
    "AST": ("ASTForAudioClassification", "ASTConfig", {
        **{k: v for k, v in _VISION.items() if k != "image_size"}, "max_length": 64, "num_mel_bins": 32,
    }),
}  # fmt: skip


def model(name: str) -> nn.Module:
    """Return a model by the name that it has in ``MODELS``."""
    kind, configuration, options = MODELS[name]
    declare_operators()
    import transformers

    torch.manual_seed(0)
    return getattr(transformers, kind)(getattr(transformers, configuration)(**options))
