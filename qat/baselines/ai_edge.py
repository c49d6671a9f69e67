"""AI Edge Quantizer: a float ``.tflite`` with a signature in, an integer one out."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from qat.system.silence import quiet

from .baseline import Maker, Sample

TOOL = "AI Edge Quantizer"
RECIPES = ("dynamic_wi8_afp32", "weight_only_wi8_afp32", "static_wi8_ai8")


def makers(exported: Callable[[], bytes], batches: Callable[[], list[Sample]], inputs: Sequence[str]) -> list[Maker]:
    """Return a maker for each of the tool's recipes.

    Args:
        exported: returns the float file.
        batches: returns the calibration batches as the float file takes them.
        inputs: the names of the signature's inputs, in the batches' order.
    """

    def maker(recipe: str) -> Maker:
        return Maker(f"aeq_{recipe}", TOOL, recipe, lambda: quantized(exported(), recipe, batches, inputs))

    return [maker(recipe) for recipe in RECIPES]


def quantized(raw: bytes, name: str, batches: Callable[[], list[Sample]], inputs: Sequence[str]) -> bytes:
    """Return the tool's file of a recipe, by the name of its function; the arguments are those of :func:`makers`."""
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    with quiet(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "float.tflite"
        path.write_bytes(raw)
        tool = quantizer.Quantizer(str(path))
        tool.load_quantization_recipe(getattr(recipe, name)())
        statistics = None
        if tool.need_calibration:
            key, runner = next(iter(Interpreter(model_content=raw).get_signature_list().items()))
            names = inputs if set(inputs) == set(runner["inputs"]) else runner["inputs"]
            # Whole batches: the tool averages the ranges of its samples, and would cut the tails of single ones.
            statistics = tool.calibrate({key: [dict(zip(names, batch, strict=True)) for batch in batches()]})
        return bytes(tool.quantize(statistics).quantized_model)
