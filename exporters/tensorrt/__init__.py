"""TensorRT: the calibration cache of an engine without Q/DQ, and what its builder demands of a file with Q/DQ."""

from .calibration_cache import CalibrationCache, read_cache, write_cache
from .calibrator import EntropyCalibrator, calibrator_for
from .onnx_ranges import calibrate_onnx
from .placement import Finding, check_placement

__all__ = [
    "CalibrationCache",
    "EntropyCalibrator",
    "Finding",
    "calibrate_onnx",
    "calibrator_for",
    "check_placement",
    "read_cache",
    "write_cache",
]
