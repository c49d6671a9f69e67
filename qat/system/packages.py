"""The packages that the toolkit's extras bring: which are installed, and whether their versions are those it was made for.

Read from the packages' own records; no package is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

DISTRIBUTION = "qat-toolkit"

#: What each extra is for, in the order of the report; without a name, what every installation has.
EXTRAS = {
    "": "the toolkit itself",
    "torch": "PyTorch models",
    "keras": "Keras models; in a .tflite, what stays float of a PyTorch model",
    "litert": ".tflite artifacts, their checks and their PTQ baselines",
    "onnx": ".onnx artifacts, their checks and their PTQ baselines",
    "keras-onnx": "in an .onnx, what stays float of a Keras model",
    "report": "comparisons, plots, the embedded digits, image folders",
    "ssim": "the metric ssim",
    "detection": "mean average precision",
    "train": "TensorBoard's logs, training in several processes",
}

#: The name that a package is imported by, where it is not the package's own.
_MODULES = {
    "tensorflow-model-optimization": "tensorflow_model_optimization", "ai-edge-litert": "ai_edge_litert.interpreter",
    "ai-edge-quantizer": "ai_edge_quantizer", "onnx-ir": "onnx_ir", "scikit-learn": "sklearn", "pillow": "PIL",
}  # fmt: skip


@dataclass(frozen=True)
class Package:
    """One package that an extra brings.

    Attributes:
        name: of the package.
        extra: that brings it.
        needs: the versions that the toolkit was made for.
        version: the installed one; None where it is not installed.
        broken: why it cannot be imported, where that was tried and failed.
    """

    name: str
    extra: str
    needs: str
    version: str | None
    broken: str = ""

    @property
    def fits(self) -> bool:
        """Whether it is installed in a version that the toolkit was made for, and was not found broken."""
        required = Requirement(f"x{self.needs}").specifier
        return self.version is not None and required.contains(self.version, prereleases=True) and not self.broken

    @property
    def remedy(self) -> str:
        """The command that brings it."""
        return f"pip install --force-reinstall {self.name}" if self.broken else install(self.extra)


def install(*extras: str) -> str:
    """Return the command that installs some extras."""
    names = ",".join(filter(None, extras))
    return f"pip install '{DISTRIBUTION}[{names}]'" if names else f"pip install {DISTRIBUTION}"


def packages() -> list[Package]:
    """Return the packages of the extras, in the order of :data:`EXTRAS`."""
    found = []
    for requirement in map(Requirement, requires(DISTRIBUTION) or ()):
        extra = next((e for e in EXTRAS if requirement.marker is None or requirement.marker.evaluate({"extra": e})), None)
        if extra is not None:
            found.append(Package(requirement.name, extra, str(requirement.specifier), _version(requirement.name)))
    return sorted(found, key=lambda package: list(EXTRAS).index(package.extra))


def import_error(package: str) -> str:
    """Import a package in a process of its own, which may crash, and return why it failed; empty where it did not."""
    module = _MODULES.get(package, package)
    done = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, text=True, check=False)
    if done.returncode < 0:
        return f"the import was killed by signal {-done.returncode}: its binary does not fit this processor"
    return (done.stderr.strip().splitlines() or ["it ended without a word"])[-1] if done.returncode else ""


def keras_backend() -> str:
    """Return the backend that Keras would run on: of ``KERAS_BACKEND``, else of its file, else TensorFlow's."""
    named = os.environ.get("KERAS_BACKEND")
    file = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "keras.json"
    try:
        return named or str(json.loads(file.read_text())["backend"])
    except (OSError, ValueError, KeyError, TypeError):
        return "tensorflow"


def complete(found: Sequence[Package], extra: str) -> bool:
    """Whether all packages of an extra fit."""
    return all(package.fits for package in found if package.extra == extra)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
