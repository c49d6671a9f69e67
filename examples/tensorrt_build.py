"""Build a TensorRT engine from an .onnx, with or without Q/DQ.

    python examples/tensorrt_build.py net.onnx --out net.engine --int8 --fp16 --data images.npz
    python examples/tensorrt_build.py net_int8.onnx --out net.engine --fp16 --pin head.softmax --timing-cache timings.bin

An .onnx without Q/DQ is calibrated here, on the CPU, by the entropy of its tensors; ``--cache FILE`` keeps the scales, or reads
those of an earlier run. An .onnx with Q/DQ is first held against the builder's rules. ``--pin`` keeps layers in FP16 by their
names. Where polygraphy is installed it builds the engine, else TensorRT's own Python package does. Needs an NVIDIA GPU and
TensorRT 8.6 or later; ``--dry-run`` stops before the build, and needs neither.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx

from qat.exporters.tensorrt import calibrate_onnx, calibrator_for, check_placement, read_cache, write_cache


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a .onnx file")
    parser.add_argument("--out", type=Path, required=True, help="the engine")
    parser.add_argument("--int8", action="store_true", help="let layers without Q/DQ run in int8, by the scales of the cache")
    parser.add_argument("--fp16", action="store_true", help="let layers run in FP16")
    parser.add_argument("--data", type=Path, help="a .npz with an array for each input, by name: calibration samples")
    parser.add_argument("--cache", type=Path, help="the calibration cache; default: beside the engine")
    parser.add_argument("--pin", nargs="*", default=[], metavar="LAYER", help="layers to keep in FP16")
    parser.add_argument("--timing-cache", type=Path, help="kernels' timings of earlier builds, which make this one quicker")
    parser.add_argument("--batch", type=int, default=8, help="samples a step of calibration")
    parser.add_argument("--dry-run", action="store_true", help="calibrate and check, but do not build")
    return parser.parse_args(arguments)


def calibrated(options: argparse.Namespace) -> Path:
    """Return the calibration cache of a model without Q/DQ; made where it does not exist."""
    cache = options.cache or options.out.with_suffix(".cache")
    if cache.is_file():
        print(f"{cache}: {len(read_cache(cache).scales)} scales")
        return cache
    if options.data is None:
        raise SystemExit(f"{options.model} has no Q/DQ: pass --data with samples, or --cache with scales")
    names = [value.name for value in onnx.load(options.model, load_external_data=False).graph.input]
    with np.load(options.data) as arrays:
        missing = [name for name in names if name not in arrays]
        if missing:
            raise SystemExit(f"{options.data} has no array '{missing[0]}'; it has {', '.join(arrays)}")
        inputs = [arrays[name] for name in names]
    batches = [tuple(x[i : i + options.batch] for x in inputs) for i in range(0, len(inputs[0]), options.batch)]
    found = calibrate_onnx(options.model, batches)
    write_cache(found, cache)
    print(f"{cache}: {len(found.scales)} scales of {len(inputs[0])} samples")
    return cache


def has_qdq(path: Path) -> bool:
    """Return whether a file holds QuantizeLinear or DequantizeLinear."""
    nodes = onnx.load(path, load_external_data=False).graph.node
    return any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in nodes)


def checked(path: Path) -> None:
    """Print where a file breaks the builder's rules; stop where the builder would refuse it."""
    found = check_placement(path)
    for finding in found:
        print(f"{finding.level}: {finding.node}: {finding.says}")
    if any(finding.level == "error" for finding in found):
        raise SystemExit(f"{path}: TensorRT would refuse this file")


def build_by_polygraphy(options: argparse.Namespace, cache: Path | None) -> None:
    """Build the engine by polygraphy's command, which has all of this as options."""
    import subprocess
    import sys

    command = [sys.executable, "-m", "polygraphy", "convert", str(options.model), "-o", str(options.out)]
    command += ["--fp16"] if options.fp16 else []
    command += ["--int8", "--calibration-cache", str(cache)] if options.int8 and cache else ["--int8"] if options.int8 else []
    if options.pin:
        command += ["--precision-constraints", "obey", "--layer-precisions", *(f"{name}:float16" for name in options.pin)]
    if options.timing_cache:
        command += ["--load-timing-cache", str(options.timing_cache), "--save-timing-cache", str(options.timing_cache)]
    print(" ".join(command))
    if not options.dry_run:
        raise SystemExit(subprocess.call(command))


def build(options: argparse.Namespace, cache: Path | None) -> None:
    """Build the engine by TensorRT's own builder."""
    import tensorrt as trt

    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    explicit = getattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH", None)  # the only form there is since TensorRT 10
    network = builder.create_network(0 if explicit is None else 1 << int(explicit))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(options.model)):
        raise SystemExit("\n".join(str(parser.get_error(i)) for i in range(parser.num_errors)))
    config = builder.create_builder_config()
    if options.fp16:
        config.set_flag(trt.BuilderFlag.FP16)
    if options.int8:
        config.set_flag(trt.BuilderFlag.INT8)
        if cache is not None:
            names = [network.get_input(i).name for i in range(network.num_inputs)]
            config.int8_calibrator = calibrator_for(trt, [], names, cache)
    if options.pin:
        config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
        layers = {network.get_layer(i).name: network.get_layer(i) for i in range(network.num_layers)}
        for name in options.pin:
            if name not in layers:
                raise SystemExit(f"--pin {name}: no such layer; the network has {', '.join(layers)}")
            layers[name].precision = trt.float16
    timings = options.timing_cache.read_bytes() if options.timing_cache and options.timing_cache.is_file() else b""
    timing = config.create_timing_cache(timings)
    config.set_timing_cache(timing, ignore_mismatch=False)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise SystemExit("TensorRT built no engine: its log above says why")
    options.out.write_bytes(engine)
    if options.timing_cache:
        options.timing_cache.write_bytes(config.get_timing_cache().serialize())
    print(f"{options.out}: {len(bytes(engine))} bytes")


def main(arguments: Sequence[str] | None = None) -> None:
    """Calibrate or check, then build."""
    options = parsed(arguments)
    cache = None
    if has_qdq(options.model):
        checked(options.model)
    elif options.int8:
        cache = calibrated(options)
    if find_spec("polygraphy") is not None:
        build_by_polygraphy(options, cache)
    elif options.dry_run:
        print("dry run: not built")
    elif find_spec("tensorrt") is None:
        raise SystemExit("TensorRT is not installed: pip install tensorrt, on a machine with an NVIDIA GPU; or pass --dry-run")
    else:
        build(options, cache)


if __name__ == "__main__":
    main()
