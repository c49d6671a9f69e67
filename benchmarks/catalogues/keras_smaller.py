"""What the Keras catalogues share: small arguments for a constructor, the least of a family, and what goes into a model."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from typing import Any

from architectures import Architecture, Input

from . import PARAMETERS, Unsuitable, catalogue

WORDS, LENGTH, CLASSES = 200, 16, 10
#: What a whole number of a constructor becomes, by the first pattern that its name holds; a name is refused by none.
NUMBERS: tuple[tuple[str, int], ...] = (
    (r"_token_id$|_id$|type_vocab|segments$|channels$|_ratio|factor|kernel|stride|patch|window|groups?$|registers?", 0),
    (r"vocab|num_tokens", WORDS),
    (r"classes$|labels$|^nc$", CLASSES),
    (r"queries$", 12),
    (r"experts_per_tok|top_?k|kv_heads|key_value_heads|topk_group|n_group", 2),
    (r"experts?$", 4),
    (r"heads?$", 4),
    (r"head_(dim|size)|lora_(rank|dim)|rope_head|nope_head|key_dim|value_dim|key_value_dim|v_head", 16),
    (r"(max|sequence|source|target|seq).*(length|len|positions?|embeddings)", 64),
    (r"layers?(_enc|_dec)?$|blocks?$|depthe?s?$|repeats$|num_transformer$", 2),
    (r"mlp|ffn|intermediate|feed_?forward|hidden_units", 128),
    (r"dims?$|_size$|width$|filters?(_num)?$|filter_num", 64),
)
DEPTHS = r"depth|num_blocks|block_repeats|num_repeats|num_layers|stackwise_num_blocks|num_layers"
WIDTHS = r"dims$|dim$|channels$|filters$|hidden_sizes|widths?$"
IMAGE = r"^(image|img|input)_(size|shape)$|^resolution$|^(high_res_|vision_)image_size$"
#: What is made small, from all to the least; the first set that gives a model is taken.
TRIES: tuple[tuple[bool, int | None], ...] = ((True, 64), (False, 64), (True, 128), (True, None), (False, None))

#: Words of a size in a name, from the least.
SIZES = (
    "atto", "femto", "pico", "xxs", "nano", "xs", "tiny", "mini", "t", "n", "a", "small", "s", "", "b", "c", "d", "e", "base",
    "m", "medium", "big", "l", "large", "xl", "xlarge", "x", "xxlarge", "huge", "giant", "gigantic",
)  # fmt: skip
SIZE_WORD = (
    r"(?i:(atto|femto|pico|nano|tiny|mini|small|medium|base|big|x*large|huge|gigantic|giant))"
    r"|(?<=[a-z\d])_?(X*[SMLT]|[A-Ea-elmnstx])$"
)


def number(name: str) -> int | None:
    """Return what a whole number of this name becomes; None where it stays."""
    return next((value for pattern, value in NUMBERS if re.search(pattern, name)), None) or None


def smaller(name: str, value: Any, narrow: bool, side: int | None) -> Any:
    """Return an argument made small: a number by its name, a list of depths ones, a list of widths a quarter."""
    if re.search(IMAGE, name):
        shape = (side or 224, side or 224, 3) if name.endswith("shape") else side or 224
        return shape if side or value is inspect.Parameter.empty else value
    if isinstance(value, (list, tuple)) and value and all(type(v) is int for v in value):
        kept = type(value)
        if re.search(DEPTHS, name) and max(value) < 64:
            return kept(min(v, 1) for v in value)
        if narrow and re.search(WIDTHS, name) and all(v % 32 == 0 for v in value):
            return kept(v // 4 for v in value)
        return value
    small = number(name)
    if value is inspect.Parameter.empty or type(value) is int:
        if small is None or (type(value) is int and value <= small):
            return value
        shallow = small <= 4 and not re.search("head", name)
        return small if narrow or shallow or small in (WORDS, CLASSES) or value is inspect.Parameter.empty else value
    return value


def arguments(build: Callable[..., Any], given: dict[str, Any], narrow: bool, side: int | None) -> dict[str, Any]:
    """Return small arguments for a constructor; those of ``given`` stand. A configuration's own are taken too."""
    called = build.__init__ if inspect.isclass(build) else build  # a metaclass may hide the constructor's own parameters
    named = {
        name: parameter.default
        for name, parameter in inspect.signature(called).parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD) and name != "self"
    }
    configuration = getattr(build, "config_class", None)
    held = configuration().constructor_kwargs() if configuration else {}
    made = {}
    for name, value in {**held, **{n: v for n, v in named.items() if v is not inspect.Parameter.empty or n not in held}}.items():
        small = smaller(name, value, narrow, side)
        asked = named.get(name) is inspect.Parameter.empty and small is not inspect.Parameter.empty
        if name not in given and (small is not value or asked):
            made[name] = small
    return {**made, **given}


def fitting(build: Callable[..., Any], given: dict[str, Any]) -> tuple[dict[str, Any], Any]:
    """Return the smallest arguments that a constructor takes, and its model.

    Raises:
        Unsuitable: none of them gives a model, or the model has too many parameters.
    """
    why = ""
    for narrow, side in TRIES:
        made = arguments(build, given, narrow, side)
        try:
            model = build(**made)
            count = model.count_params()
        except Exception as error:  # a package refuses a size by whatever exception its code meets
            why = why or f"{type(error).__name__}: {error}"
            continue
        if count > PARAMETERS:
            raise Unsuitable(f"{count} parameters though made small")
        return made, model
    raise Unsuitable(why)


def net(package: str, name: str, given: dict[str, Any]) -> Any:
    """Return a model of a catalogue whose random weights are the same each time."""
    import keras

    keras.utils.set_random_seed(0)
    return catalogue(package).constructor(name)(**given)


def least(names: Iterable[str]) -> list[str]:
    """Return the first of each family: names that differ by their size alone, as ``ConvNeXtTiny`` and ``ConvNeXtBase`` do."""
    families: dict[str, str] = {}

    def size(name: str) -> tuple[int, list[int], str]:
        found = re.search(SIZE_WORD, name)
        rank = SIZES.index((found[1] or found[2]).lower()) if found else SIZES.index("")
        return rank, [int(n) for n in re.findall(r"\d+", name)], name

    for name in sorted(names, key=size):
        families.setdefault(re.sub(r"(?<![vV])\d+", "", re.sub(SIZE_WORD, "", name)).lower(), name)
    return sorted(families.values())


def entering(model: Any) -> tuple[Input, ...]:
    """Return what goes into a model: by its inputs' names where it takes a dictionary.

    Raises:
        Unsuitable: an input is neither an image, a text nor a sound.
    """
    import keras

    struct = model._inputs_struct if hasattr(model, "_inputs_struct") else model.inputs
    named = isinstance(struct, dict)
    return tuple(one_input(t.name if not named else name, t, named) for name, t in (
        struct.items() if named else ((t.name, t) for t in keras.tree.flatten(struct))
    ))  # fmt: skip


def one_input(name: str, tensor: Any, named: bool) -> Input:
    """Return what goes into one input, by its shape and its name."""
    shape, key = tensor.shape[1:], name if named else ""
    whole = "int" in str(tensor.dtype) or "bool" in str(tensor.dtype)
    if len(shape) == 4 and shape[-1] == 3 and shape[1] == shape[2]:
        return Input("frames", shape[0], shape[1], key)
    if len(shape) == 3 and shape[0] == shape[1] and not whole:
        return Input("image", shape[2] or 3, shape[0] or 64, key)
    if len(shape) == 2 and not whole:
        return Input("features", shape[0] or LENGTH, shape[1] or 64, key)
    if len(shape) == 1 and "mask_pos" in name:
        return Input("tokens", LENGTH, shape[0] or 4, key)
    if len(shape) == 1 and "mask" in name:
        return Input("mask", (shape[0] or LENGTH) // 2, shape[0] or LENGTH, key)
    if len(shape) == 1 and re.search("segment|type", name):
        return Input("segments", 0, shape[0] or LENGTH, key)
    if len(shape) == 1 and (whole or re.search("ids|tokens", name)):
        return Input("tokens", shape[0] or LENGTH if "position" in name else WORDS, shape[0] or LENGTH, key)
    if len(shape) == 1:
        return Input("wave", 0, shape[0] or 4000, key)
    raise Unsuitable(f"the input {name} of shape {tensor.shape} is neither an image, a text nor a sound")


def row(package: str, name: str, format: str, made: dict[str, Any], model: Any) -> Architecture:
    """Return the row of a model that :func:`net` builds from its package, its name and its arguments."""
    chosen = {"package": package, "name": name, "given": made}
    return Architecture(
        f"{package} {name}", "keras", format, "catalogues.keras_smaller", "net", chosen, entering(model), scores=False
    )
