"""Quantization-aware training on the integer grid: what you train is, bit for bit, what you ship.

The five calls are :func:`prepare`, :func:`calibrate`, :func:`finetune`, :func:`export` and :func:`compare`; the PTQ
baselines come from :func:`ptq_baselines`. Importing this package imports no framework.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .analysis.checks.check import check_data
    from .analysis.mixed.mixed_precision import mixed_precision
    from .analysis.sensitivity.sensitivity import sensitivity
    from .api import (
        Artifact,
        Baseline,
        Entry,
        Epoch,
        Handled,
        History,
        Metadata,
        Parity,
        Plan,
        PreparedModel,
        QatError,
        Report,
        TrainingOptions,
        adaround,
        calibrate,
        compare,
        correct_biases,
        evaluate,
        export,
        finetune,
        freeze_ranges,
        load,
        load_prepared,
        plan,
        prepare,
        ptq_baselines,
        reconstruct,
        register_handler,
        track_ranges,
    )
    from .files.diagnosed import diagnose
    from .files.quantize import quantize

    __version__: str

__all__ = [
    "Artifact",
    "Baseline",
    "Entry",
    "Epoch",
    "Handled",
    "History",
    "Metadata",
    "Parity",
    "Plan",
    "PreparedModel",
    "QatError",
    "Report",
    "TrainingOptions",
    "__version__",
    "adaround",
    "calibrate",
    "check_data",
    "compare",
    "correct_biases",
    "diagnose",
    "evaluate",
    "export",
    "finetune",
    "freeze_ranges",
    "load",
    "load_prepared",
    "mixed_precision",
    "plan",
    "prepare",
    "ptq_baselines",
    "quantize",
    "reconstruct",
    "register_handler",
    "sensitivity",
    "track_ranges",
]

#: The calls that stand above those of the API, and their modules.
_ABOVE = {
    "check_data": ".analysis.checks.check",
    "diagnose": ".files.diagnosed",
    "mixed_precision": ".analysis.mixed.mixed_precision",
    "quantize": ".files.quantize",
    "sensitivity": ".analysis.sensitivity.sensitivity",
}


def __getattr__(name: str) -> object:
    # PEP 562: a name is looked up on first use, so that `import qat` and `qat --help` stay fast.
    if name == "__version__":
        from importlib.metadata import version

        return version("qat-toolkit")
    if name in _ABOVE:
        from importlib import import_module

        return getattr(import_module(_ABOVE[name], __name__), name)
    if name in __all__:
        from . import api

        return getattr(api, name)
    raise AttributeError(f"module 'qat' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
