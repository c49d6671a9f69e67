"""The models of keras_hub: every backbone, and every task on its own backbone, made small by their arguments."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from architectures import Architecture

from .keras_smaller import CLASSES, arguments, fitting, row

_PYRAMID = {
    "input_conv_filters": [64], "input_conv_kernel_sizes": [7], "stackwise_num_filters": [64, 64, 64, 64],
    "stackwise_num_blocks": [1, 1, 1, 1], "stackwise_num_strides": [1, 2, 2, 2], "block_type": "basic_block",
}  # fmt: skip
_SMOL = {
    "attention_bias": False, "attention_dropout": 0.0, "rope_layer_enabled_list": [True, False], "mlp_bias": False,
    "layer_types": ["full_attention"] * 2, "layer_norm_epsilon": 1e-5, "rope_theta": 1e4, "partial_rotary_factor": 1.0,
}  # fmt: skip
#: What backbones ask for in lists, whose lengths no name tells.
ASKED: dict[str, dict[str, Any]] = {
    "ResNetBackbone": _PYRAMID,
    "VGGBackbone": {"stackwise_num_repeats": [1, 1, 2], "stackwise_num_filters": [16, 32, 64]},
    "DenseNetBackbone": {"stackwise_num_repeats": [2, 2, 2]},
    "CSPNetBackbone": {
        "stem_filters": 16, "stem_kernel_size": 3, "stem_strides": 2, "stackwise_depth": [1, 2, 1], "block_type": "dark",
        "stackwise_strides": [2, 2, 2], "stackwise_num_filters": [32, 64, 64],
    },
    "XceptionBackbone": {"stackwise_conv_filters": [[16, 32], [64, 64], [64, 64]], "stackwise_pooling": [False, True, False]},
    "EfficientNetBackbone": {
        "stackwise_width_coefficients": [1.0] * 3, "stackwise_depth_coefficients": [1.0] * 3, "stackwise_kernel_sizes": [3, 3, 5],
        "stackwise_num_repeats": [1, 2, 2], "stackwise_input_filters": [16, 16, 24], "stackwise_output_filters": [16, 24, 40],
        "stackwise_expansion_ratios": [1, 6, 6], "stackwise_strides": [1, 2, 2], "num_features": 128,
        "stackwise_squeeze_and_excite_ratios": [0.25] * 3, "stackwise_block_types": ["v1", "v1", "v1"],
        "stackwise_force_input_filters": [0] * 3, "stackwise_nores_option": [False] * 3,
    },
    "MobileNetBackbone": {
        "stackwise_expansion": [[40, 56], [64, 144, 144]], "stackwise_num_blocks": [2, 3],
        "stackwise_num_filters": [[16, 16], [24, 24, 24]], "stackwise_kernel_size": [[3, 3], [5, 5, 5]],
        "stackwise_num_strides": [[2, 1], [2, 1, 1]], "stackwise_se_ratio": [[None, None], [0.25, 0.25, 0.25]],
        "stackwise_activation": [["relu", "relu"], ["hard_swish"] * 3], "stackwise_padding": [[1, 1], [2, 2, 2]],
        "output_num_filters": 128, "depthwise_filters": 8, "depthwise_stride": 2, "depthwise_residual": True,
        "last_layer_filter": 128,
    },
    "MiTBackbone": {
        "layerwise_depths": [1, 1], "num_layers": 2, "layerwise_num_heads": [1, 2], "layerwise_sr_ratios": [4, 2],
        "max_drop_path_rate": 0.1, "layerwise_patch_sizes": [7, 3], "layerwise_strides": [4, 2], "hidden_dims": [16, 32],
    },
    "SwinTransformerBackbone": {"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4},
    "HGNetV2Backbone": {
        "depths": [1, 1], "embedding_size": 16, "hidden_sizes": [32, 64], "stem_channels": [3, 8, 16], "hidden_act": "relu",
        "use_learnable_affine_block": True, "stackwise_stage_filters": [(16, 8, 32, 1, 3, 3), (32, 16, 64, 1, 3, 3)],
        "apply_downsample": [False, True], "use_lightweight_conv_block": [False, True],
    },
    "DINOV2Backbone": {"patch_size": 8, "position_embedding_shape": (64, 64, 3)},
    "DINOV3Backbone": {"patch_size": 8},
    "ViTBackbone": {"patch_size": 8},
    "DeiTBackbone": {"patch_size": 8},
    "ViTDetBackbone": {"global_attention_layer_indices": [1], "window_size": 2, "num_output_channels": 16},
    "RWKV7Backbone": {"gate_lora": 8, "mv_lora": 8, "aaa_lora": 8, "decay_lora": 8},
    "WhisperBackbone": {"num_mels": 16, "max_encoder_sequence_length": 64},
    "RoformerV2Backbone": {"head_size": 16},
    "GemmaBackbone": {"head_dim": 16},
    "DebertaV3Backbone": {"bucket_size": 8},
    "FNetBackbone": {"max_sequence_length": 16},
    "MoonshineBackbone": {"filter_dim": 32},
    "SmolLMBackbone": _SMOL,
    "SmolLM3Backbone": _SMOL,
}  # fmt: skip
#: Backbones around an image encoder, and what they ask for besides.
AROUND: dict[str, dict[str, Any]] = {
    "DeepLabV3Backbone": {
        "spatial_pyramid_pooling_key": "P4", "upsampling_size": 4, "dilation_rates": [2, 4], "low_level_feature_key": "P2",
        "projection_filters": 8,
    },
    "BASNetBackbone": {"num_classes": 1, "projection_filters": 8},
    "RetinaNetBackbone": {"min_level": 3, "max_level": 5, "use_p5": False},
    "SegFormerBackbone": {"projection_filters": 16},
}  # fmt: skip


def classes() -> dict[str, Any]:
    """Return every backbone, and every task that has a backbone of its own, by its name."""
    from keras_hub import models

    found = {name: getattr(models, name) for name in dir(models) if inspect.isclass(getattr(models, name))}
    own = {n: c for n, c in found.items() if issubclass(c, models.Backbone) and c is not models.Backbone}
    tasks = {n: c for n, c in found.items() if issubclass(c, models.Task) and getattr(c, "backbone_cls", None) is not None}
    return {**own, **tasks}


def names() -> list[str]:
    """Return the names of all backbones and tasks."""
    return sorted(classes())


def backbone(name: str, given: dict[str, Any]) -> Any:
    """Return a backbone; one around an image encoder gets a small one."""
    encoder = {} if name not in AROUND else {"image_encoder": backbone(*_encoder(name))}
    return classes()[name](**given, **encoder)


def _encoder(name: str) -> tuple[str, dict[str, Any]]:
    """Return the image encoder of a backbone around one."""
    kind = "MiTBackbone" if name == "SegFormerBackbone" else "ResNetBackbone"
    return kind, {**ASKED[kind], "image_shape": (64, 64, 3)}


def constructor(name: str) -> Callable[..., Any]:
    """Return what builds a model."""
    return functools.partial(built, name)


def built(name: str, **given: Any) -> Any:
    """Return a model: a backbone, or a task on the backbone that ``given["backbone"]`` tells."""
    if "backbone" not in given:
        return backbone(name, given)
    task = classes()[name]
    inner = backbone(task.backbone_cls.__name__, given["backbone"])
    return task(backbone=inner, **{k: v for k, v in given.items() if k != "backbone"})


def architecture(name: str, format: str) -> Architecture:
    """Return a small model."""
    found = classes()[name]
    own = getattr(found, "backbone_cls", found)
    asked = ASKED.get(own.__name__, {}) | AROUND.get(own.__name__, {})
    if own.__name__ in AROUND:
        made, model = asked, backbone(own.__name__, asked)
    else:
        made, model = fitting(own, asked)
    if found is own:
        return row("keras_hub", name, format, made, model)
    rest = arguments(found, {"backbone": made, "preprocessor": None}, True, 64)
    rest |= {"num_classes": CLASSES} if "num_classes" in inspect.signature(found).parameters else {}
    return row("keras_hub", name, format, rest, built(name, **rest))
