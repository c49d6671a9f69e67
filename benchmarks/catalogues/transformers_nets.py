"""The models of Hugging Face's transformers: every class that its automatic classes know, made small by its configuration.

A configuration becomes small by the names of what it holds (``hidden_size``, ``num_layers``, ...), its nested configurations too.
Which inputs a model takes, its ``forward`` tells.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from architectures import Architecture, Input
from architectures.torchvision_operators import declare_operators
from torch import nn

from . import PARAMETERS, Unsuitable

WORDS, LENGTH, SIZE = 200, 16, 64  # the vocabulary, tokens of a text, pixels of an image's side
#: What a size becomes, by the names that configurations give it.
SMALL: dict[int, tuple[str, ...]] = {
    WORDS: ("vocab_size", "decoder_vocab_size", "text_vocab_size", "vocab_size_or_config_json_file", "entity_vocab_size"),
    64: (
        "max_position_embeddings", "n_positions", "n_ctx", "max_source_positions", "max_target_positions", "intermediate_size",
        "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "d_ff", "n_inner", "mlp_dim", "d_inner", "ffn_hidden_size", "dim_ff",
        "moe_intermediate_size", "shared_expert_intermediate_size", "feed_forward_size", "hidden_dim", "linear_units",
        "encoder_intermediate_size", "decoder_intermediate_size",
    ),
    SIZE: ("image_size",),
    32: (
        "hidden_size", "d_model", "n_embd", "embed_dim", "dim", "embedding_size", "embedding_dim", "word_embed_proj_dim",
        "attention_hidden_size", "projection_dim", "proj_dim", "decoder_hidden_size", "encoder_hidden_size", "emb_dim",
        "width", "fusion_hidden_size", "reassemble_hidden_size", "out_hidden_size", "output_hidden_size", "d_embed",
    ),
    16: ("head_dim", "d_kv", "d_head", "qk_nope_head_dim", "v_head_dim", "q_lora_rank", "kv_lora_rank", "qk_rope_head_dim"),
    2: (
        "num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers", "num_encoder_layers",
        "num_decoder_layers", "num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads",
        "decoder_attention_heads", "num_key_value_heads", "num_decoder_attention_heads", "num_kv_heads", "depth",
        "encoder_num_attention_heads", "decoder_num_attention_heads", "encoder_num_hidden_layers", "decoder_num_hidden_layers",
        "num_experts_per_tok", "moe_topk", "n_group", "topk_group",
    ),
    4: ("num_experts", "num_local_experts", "n_routed_experts"),
    10: ("num_queries",),
}  # fmt: skip
BY_NAME = {name: value for value, names in SMALL.items() for name in names}


def small(values: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration's values made small; lists of widths are halved until they fit, lists of depths become ones."""
    made = {}
    layers = next((values[name] for name in ("num_hidden_layers", "num_layers") if isinstance(values.get(name), int)), 0)
    for name, value in values.items():
        if isinstance(value, dict):
            made[name] = small(value)
        elif isinstance(value, bool) or value is None:
            made[name] = value
        elif isinstance(value, int) and name in BY_NAME:
            made[name] = min(value, BY_NAME[name])
        elif isinstance(value, (list, tuple)) and len(value) == layers > 2:  # an entry a layer
            made[name] = value[:1] + value[-1:]
        elif isinstance(value, (list, tuple)) and value and all(isinstance(v, int) for v in value):
            made[name] = widths(name, list(value))
        else:
            made[name] = value
    return made


def widths(name: str, values: list[int]) -> list[int]:
    """Return a list of a configuration made small."""
    if "depth" in name or ("layers" in name and max(values) < 64):
        return [min(v, 1) for v in values]
    if any(part in name for part in ("hidden_sizes", "embed_dims", "encoder_hidden", "neck_hidden", "conv_dim")):
        while max(values) > 64 and all(v % 2 == 0 for v in values):
            values = [v // 2 for v in values]
    return values


def classes() -> dict[str, str]:
    """Return the configuration class of every model class that an automatic class knows."""
    declare_operators()
    from transformers.models.auto import configuration_auto, modeling_auto

    configurations = configuration_auto.CONFIG_MAPPING_NAMES
    found = {}
    for table in (t for t in vars(modeling_auto) if t.endswith("_MAPPING_NAMES") and t.startswith("MODEL_")):
        for kind, names in getattr(modeling_auto, table).items():
            for name in (names,) if isinstance(names, str) else names:
                if kind in configurations and isinstance(name, str):
                    found[name] = configurations[kind]
    return found


def names() -> list[str]:
    """Return the names of all model classes."""
    return sorted(classes())


def net(name: str) -> nn.Module:
    """Return a small model with random weights that keeps no keys and values between calls."""
    import transformers

    own = getattr(transformers, classes()[name])
    values = small(own().to_dict())
    for given in ("transformers_version", "model_type", "architectures", "dtype", "_attn_implementation_autoset"):
        values.pop(given, None)
    configuration = own(**values)
    for part in (configuration, *(v for v in vars(configuration).values() if hasattr(v, "to_dict"))):
        part.use_cache = False
    torch.manual_seed(0)
    with torch.device("meta"):
        size = sum(p.numel() for p in getattr(transformers, name)(configuration).parameters())
    if size > PARAMETERS:
        raise Unsuitable(f"{size} parameters though made small")
    model: nn.Module = getattr(transformers, name)(configuration)
    return model.eval()


def inputs(model: nn.Module) -> tuple[Input, ...]:
    """Return what a model's ``forward`` takes, by its names."""
    taken, configuration = set(inspect.signature(model.forward).parameters), model.config

    def value(*names: str, default: int) -> int:
        parts = (configuration, *(v for v in vars(configuration).values() if hasattr(v, "to_dict")))
        found = (getattr(part, name, None) for part in parts for name in names)
        return next((v if isinstance(v, int) else v[0] for v in found if isinstance(v, (int, list, tuple)) and v), default)

    given = []
    if "input_ids" in taken:
        given.append(Input("tokens", min(WORDS, value("vocab_size", default=WORDS)), LENGTH, "input_ids"))
        if "attention_mask" in taken:
            given.append(Input("mask", LENGTH // 2, LENGTH, "attention_mask"))
    if "pixel_values" in taken:
        size = value("image_size", default=SIZE)
        given.append(Input("image", value("num_channels", "in_channels", default=3), size, "pixel_values"))
    if "input_values" in taken:
        bins = value("num_mel_bins", default=0)
        given.append(Input("features", 64, bins, "input_values") if bins else Input("wave", 0, 4000, "input_values"))
    if "input_features" in taken:
        given.append(Input("features", value("num_mel_bins", "feature_size", default=80), 128, "input_features"))
    if "decoder_input_ids" in taken:
        given.append(Input("tokens", min(WORDS, value("vocab_size", default=WORDS)), LENGTH, "decoder_input_ids"))
    if not given:
        raise Unsuitable(f"forward takes {', '.join(sorted(taken))}: none is a text, an image or a sound")
    return tuple(given)


def architecture(name: str, format: str) -> Architecture:
    """Return a model with the inputs that it takes by name."""
    arguments = {"name": name}
    return Architecture(
        f"HF {name}", "torch", format, "catalogues.transformers_nets", "net", arguments, inputs(net(name)), scores=False
    )
