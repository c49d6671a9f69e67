"""Quantization-aware training on the integer grid: what you train is, bit for bit, what you ship.

The five calls are :func:`prepare`, :func:`calibrate`, :func:`finetune`, :func:`export` and :func:`compare`; the PTQ
baselines come from :func:`ptq_baselines`. Importing this package imports no framework.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from qat.graph.custom_layers import Handled, register_handler

    from .api import (
        adaround,
        calibrate,
        compare,
        correct_biases,
        evaluate,
        export,
        finetune,
        load_prepared,
        plan,
        prepare,
        ptq_baselines,
    )
    from .errors import QatError

__all__ = [
    "Handled",
    "QatError",
    "__version__",
    "adaround",
    "calibrate",
    "compare",
    "correct_biases",
    "evaluate",
    "export",
    "finetune",
    "load_prepared",
    "plan",
    "prepare",
    "ptq_baselines",
    "register_handler",
]


def __getattr__(name: str) -> Any:
    # PEP 562: the calls are looked up on first use, so that `import qat` and `qat --help` stay fast.
    if name == "QatError":
        from .errors import QatError

        return QatError
    if name in ("Handled", "register_handler"):
        from qat.graph import custom_layers as handlers

        return getattr(handlers, name)
    if name in __all__:
        from . import api

        return getattr(api, name)
    raise AttributeError(f"module 'qat' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
