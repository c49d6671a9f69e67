"""The architectures of the coverage table: which there are, where each is built, what goes in. No framework is imported here."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from typing import Any

FORMATS = ("onnx", "tflite")


@dataclass(frozen=True)
class Input:
    """One input of a model: what its samples are, their sizes, and its name where the model takes a dictionary.

    ``image``: channels, size; ``frames``: how many, size;
    ``clip``: how many, size, the channels before the frames; ``tokens``: vocabulary, length; ``mask``: least length, length;
    ``segments``: 0, length; ``audio``: channels, samples; ``wave``: 0, samples; ``features``: rows, columns.
    """

    kind: str
    first: int
    size: int
    name: str = ""


@dataclass(frozen=True)
class Architecture:
    """One row: ``module.builder(**arguments)`` gives the float model. ``scores``: whether its output is a row of class scores."""

    name: str
    framework: str
    format: str
    module: str
    builder: str
    arguments: dict[str, Any] = field(default_factory=dict)
    inputs: tuple[Input, ...] = (Input("image", 3, 64),)
    scores: bool = True

    @property
    def key(self) -> str:
        """What names the row in the results."""
        return f"{self.framework}/{self.name}/{self.format}"

    def build(self) -> Any:
        """Return the float model, weights random unless its builder says otherwise."""
        return getattr(importlib.import_module(self.module), self.builder)(**self.arguments)


_MOBILE, _RESIDUAL, _DENSE, _TRANSFORMERS = (f"architectures.torch_{m}" for m in ("mobile", "residual", "dense", "transformers"))
_ZOO, _PUBLIC = "qat.runs.zoo_torch", "architectures.public"
_TOKENS, _IMAGE = (Input("tokens", 500, 32),), (Input("image", 3, 64),)
#: PyTorch: name, module, builder, and what is not as usual.
_TORCH: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("MobileNetV2", _ZOO, "mobilenet_v2", {"arguments": {"classes": 10}}),
    ("MobileNetV3-Large", _MOBILE, "mobilenet_v3", {}),
    ("MobileNetV3-Small", _MOBILE, "mobilenet_v3", {"arguments": {"size": "small"}}),
    ("ResNet-18", _ZOO, "resnet18", {"arguments": {"classes": 10}}),
    ("ResNet-50", _RESIDUAL, "resnet50", {}),
    ("RegNetY-400MF", _RESIDUAL, "regnet_y_400mf", {}),
    ("EfficientNet-B0", _MOBILE, "efficientnet_b0", {}),
    ("EfficientNet-Lite0", _MOBILE, "efficientnet_lite0", {"inputs": (Input("image", 3, 96),)}),
    ("DenseNet-121", _RESIDUAL, "densenet121", {}),
    ("ShuffleNetV2", _RESIDUAL, "shufflenet_v2", {}),
    ("ConvNeXt-tiny", _TRANSFORMERS, "convnext_tiny", {}),
    ("ViT-tiny", _TRANSFORMERS, "ViT", {}),
    ("Swin-tiny", "architectures.torch_swin", "SwinTiny", {}),
    ("BERT-mini", _TRANSFORMERS, "Bert", {"inputs": (Input("tokens", 1000, 32),)}),
    ("U-Net", _DENSE, "UNet", {"scores": False}),
    ("Detector", _DENSE, "Detector", {"scores": False}),
    ("Audio-M5", _RESIDUAL, "audio", {"inputs": (Input("audio", 1, 4096),)}),
)
#: timm, by its names: mobile nets, residual nets, nets without BatchNorm, transformers and their mixtures with convolutions.
_TIMM = (
    "mobilenetv4_conv_small", "ghostnetv2_100", "repvit_m0_9", "fastvit_t8", "starnet_s1", "tf_efficientnetv2_b0", "regnetx_002",
    "resnetv2_50", "skresnet18", "hrnet_w18_small", "nf_resnet26", "convnextv2_atto", "efficientvit_b0", "mobilevitv2_050",
    "edgenext_xx_small", "deit_tiny_patch16_224", "levit_128s", "poolformer_s12", "mixer_s32_224", "coatnet_nano_rw_224",
)  # fmt: skip
_TORCHVISION = {
    "googlenet": {"aux_logits": False, "init_weights": True}, "squeezenet1_1": {}, "mnasnet0_5": {}, "efficientnet_v2_s": {},
    "swin_t": {}, "vit_b_16": {"image_size": 64},
}  # fmt: skip
_SEGMENTATION = ("Unet", "UnetPlusPlus", "FPN", "DeepLabV3Plus", "Linknet")
_YOLO = ("yolov5n", "yolov8n", "yolo11n", "yolov8n-seg", "yolov8n-cls")
#: transformers, and what goes into each.
_HUGGING_FACE: dict[str, tuple[Input, ...]] = {
    **dict.fromkeys(("BERT", "RoBERTa", "DistilBERT", "ALBERT", "ELECTRA", "MPNet", "DeBERTa-v2", "T5 encoder"), _TOKENS),
    "BERT, padded": (Input("tokens", 500, 32, "input_ids"), Input("mask", 8, 32, "attention_mask")),
    **dict.fromkeys(("GPT-2", "OPT", "Llama", "Qwen2", "Gemma"), _TOKENS),
    **dict.fromkeys(("ViT", "DeiT", "BEiT", "DINOv2", "CLIP vision", "Swin", "SegFormer", "MobileViT", "ConvNeXt V2"), _IMAGE),
    "wav2vec2": (Input("wave", 0, 4000),),
    "Whisper encoder": (Input("features", 80, 64),),
    "AST": (Input("features", 64, 32),),
}
#: keras.applications by name, with the least size that suits each.
_KERAS: dict[str, int] = {
    "MobileNet": 64, "MobileNetV2": 64, "MobileNetV3Small": 64, "MobileNetV3Large": 64, "EfficientNetB0": 64,
    "EfficientNetV2B0": 64, "ResNet50": 64, "ResNet50V2": 64, "DenseNet121": 64, "NASNetMobile": 64, "Xception": 72,
    "InceptionV3": 75, "InceptionResNetV2": 75, "ConvNeXtTiny": 64, "VGG16": 64,
}  # fmt: skip
_IDS, _PADDING, _SEGMENTS = (
    Input("tokens", 500, 32, "token_ids"),
    Input("mask", 8, 32, "padding_mask"),
    Input("segments", 0, 32, "segment_ids"),
)
_KERAS_HUB: dict[str, tuple[Input, ...]] = {
    **dict.fromkeys(("BertBackbone", "AlbertBackbone"), (_IDS, _SEGMENTS, _PADDING)),
    **dict.fromkeys(("RobertaBackbone", "DistilBertBackbone", "GPT2Backbone"), (_IDS, _PADDING)),
    **dict.fromkeys(("ViTBackbone", "ResNetBackbone", "VGGBackbone", "DenseNetBackbone"), _IMAGE),
}
_WORDS = (Input("tokens", 1000, 32),)
_KERAS_OWN: dict[str, tuple[Input, ...]] = {
    **dict.fromkeys(("Subclassed model", "Layers of one's own", "SpectralNormalization", "Separable, dilated"), _IMAGE),
    **dict.fromkeys(("Bidirectional LSTM", "EinsumDense attention"), _WORDS),
    "TimeDistributed": (Input("frames", 4, 32),),
    "Masked attention": (Input("tokens", 1000, 32, "ids"), Input("mask", 8, 32, "mask")),
    "Siamese": (Input("image", 3, 32, "left"), Input("image", 3, 32, "right")),
}
_TF_KERAS: dict[str, int] = {
    "MobileNet": 64, "MobileNetV2": 64, "MobileNetV3Small": 64, "EfficientNetB0": 64, "ResNet50": 64, "ResNet50V2": 64,
    "DenseNet121": 64, "NASNetMobile": 64, "Xception": 72, "VGG16": 64,
}  # fmt: skip


def _rows(fmt: str) -> tuple[Architecture, ...]:
    """Return the rows of a format, a framework after the other."""

    def torch(name: str, module: str, builder: str, /, **rest: Any) -> Architecture:
        return Architecture(name, "torch", fmt, module, builder, **rest)

    def public(prefix: str, builder: str, name: str, /, scores: bool = True, **arguments: Any) -> Architecture:
        return torch(f"{prefix} {name}", _PUBLIC, builder, arguments={"name": name, **arguments}, scores=scores)

    def keras(
        row: str, module: str, builder: str, inputs: tuple[Input, ...], scores: bool = True, **arguments: Any
    ) -> Architecture:
        return Architecture(row, "keras", fmt, f"architectures.{module}", builder, arguments, inputs, scores)

    hugging_face = {name: {"arguments": {"name": name.split(",")[0]}, "inputs": x} for name, x in _HUGGING_FACE.items()}
    rows = (
        *(torch(name, module, builder, **rest) for name, module, builder, rest in _TORCH),
        *(public("timm", "timm", name) for name in _TIMM),
        *(public("torchvision", "torchvision", name, **options) for name, options in _TORCHVISION.items()),
        *(public("smp", "segmentation", name, scores=False) for name in _SEGMENTATION),
        *(public("Ultralytics", "yolo", name, scores=False) for name in _YOLO),
        *(
            torch(f"HF {name}", "architectures.transformers_models", "model", scores=False, **x)
            for name, x in hugging_face.items()
        ),
        *(keras(n, "keras_models", "application", (Input("image", 3, size),), name=n, size=size) for n, size in _KERAS.items()),
        keras("U-Net", "keras_models", "unet", _IMAGE, scores=False),
        keras("Transformer", "keras_models", "transformer", _WORDS),
        *(keras(f"keras_hub {n}", "keras_public", "hub", inputs, scores=False, name=n) for n, inputs in _KERAS_HUB.items()),
        *(keras(n, "keras_public", "own", inputs, name=n) for n, inputs in _KERAS_OWN.items()),
    )
    if fmt != "tflite":
        return rows
    images = {n: {"name": n, "size": size} for n, size in _TF_KERAS.items()}
    old = (
        Architecture(n, "tf_keras", fmt, "architectures.tf_keras_models", "application", a, (Input("image", 3, a["size"]),))
        for n, a in images.items()
    )
    return (*rows, *old)


ARCHITECTURES: tuple[Architecture, ...] = tuple(row for fmt in FORMATS for row in _rows(fmt))
