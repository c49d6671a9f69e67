"""The installation as a whole: what works here, what does not, and the command or the line that mends it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from . import c_library, kernel_cache, machine
from .packages import DISTRIBUTION, EXTRAS, Package, complete, import_error, install, keras_backend, packages

#: The passes of PyTorch's steps that are compiled on this machine.
_PASSES = Path(__file__).parents[1] / "adapters" / "torch" / "autograd" / "passes.c"
#: Below this much free disk a run may end before its artifacts are written.
_LITTLE_DISK = 1 << 30
#: Below this much memory TensorFlow and PyTorch hardly start.
_LITTLE_MEMORY = 3 << 30


@dataclass(frozen=True)
class Problem:
    """Something that will not work, and the command or the line that mends it.

    Attributes:
        what: does not work, in one sentence.
        remedy: the exact command where there is one.
        serious: whether an installation that has it is broken; an extra that is simply not there is no serious problem.
    """

    what: str
    remedy: str
    serious: bool = True


@dataclass(frozen=True)
class Installation:
    """What is installed and what the machine has.

    ``cached`` is the bytes that the cache holds, ``kernels`` which kernels were measured to be the fastest, ``passes`` how the
    compiled passes of PyTorch's steps stand.
    """

    qat: str
    python: str
    system: str
    packages: tuple[Package, ...]
    processor: machine.Processor
    threads: tuple[int, int]
    memory: int | None
    accelerator: str
    cache: machine.Folder
    cached: int
    kernels: tuple[kernel_cache.Measured, ...]
    passes: c_library.Compiled
    working: machine.Folder
    terminal: machine.Terminal
    problems: tuple[Problem, ...] = ()

    def facts(self) -> dict[str, str]:
        """Return the machine in words."""
        p, t = self.processor, self.terminal
        features = ", ".join(name if has else f"no {name}" for name, has in p.features.items())
        limit = os.environ.get("OMP_NUM_THREADS")
        return {
            "qat": f"{self.qat}, Python {self.python} ({sys.executable}), {self.system}",
            "processor": f"{p.name}: {features}" if features else p.name,
            "threads": f"{self.threads[0]} of {self.threads[1]}" + (f", OMP_NUM_THREADS={limit}" if limit else ""),
            "memory": _gigabytes(self.memory),
            "accelerator": self.accelerator or "none",
            "compiled passes": str(self.passes),
            "cache": f"{self.cache.path}: {self.cached / 1e6:.1f} MB, {'writable' if self.cache.writable else 'not writable'}",
            "disk": f"{_gigabytes(self.working.free)} free in the working folder, {_gigabytes(self.cache.free)} for the cache",
            "terminal": f"{'a pipe' if t.columns is None else f'{t.columns} columns'}, {t.encoding}, locale {t.locale}",
        }

    def to_dict(self) -> dict[str, Any]:
        """Return everything, JSON-ready."""
        found = asdict(self)
        found["passes"]["used"] = self.passes.used
        found["packages"] = [asdict(p) | {"fits": p.fits} for p in self.packages]
        for name in ("cache", "working"):
            found[name]["path"] = str(found[name]["path"])
        return found


def look(imports: bool = False) -> Installation:
    """Look at the installation and the machine.

    Args:
        imports: whether every installed package is imported, in a process of its own.
    """
    from platformdirs import user_cache_dir

    found = packages()
    if imports:
        there = [package for package in found if package.version is not None]
        with ThreadPoolExecutor(max_workers=2) as pool:
            broken = dict(zip(there, pool.map(lambda package: import_error(package.name), there), strict=True))
        found = [replace(package, broken=broken.get(package, "")) for package in found]
    cache = Path(user_cache_dir("qat"))
    made = Installation(
        qat=version(DISTRIBUTION),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        packages=tuple(found),
        processor=machine.processor(),
        threads=machine.threads(),
        memory=machine.memory(),
        accelerator=machine.accelerator(),
        cache=machine.folder(cache),
        cached=machine.size_of(cache),
        kernels=kernel_cache.remembered(),
        passes=c_library.look(_PASSES),
        working=machine.folder(Path.cwd()),
        terminal=machine.terminal(),
    )
    return replace(made, problems=tuple(_problems(made)))


def _problems(found: Installation) -> Iterator[Problem]:
    yield from _problems_of_packages(found.packages)
    yield from _problems_of_the_machine(found)


def _problems_of_packages(found: tuple[Package, ...]) -> Iterator[Problem]:
    for package in found:
        if package.broken:
            yield Problem(f"{package.name} {package.version} cannot be imported: {package.broken}", package.remedy)
        elif package.version is not None and not package.fits:
            yield Problem(f"{package.name} {package.version} is none of the versions {package.needs}", package.remedy)
    works = {extra: complete(found, extra) for extra in EXTRAS}
    if not works["torch"] and not works["keras"]:
        yield Problem("no model can be read: there is neither PyTorch nor Keras", install("torch", "onnx"))
    if works["keras"] and keras_backend() != "tensorflow":
        what = f"Keras models are refused: Keras runs on '{keras_backend()}', and qat needs TensorFlow's backend"
        yield Problem(what, "export KERAS_BACKEND=tensorflow", False)
    if not works["onnx"] and not works["litert"]:
        yield Problem("no artifact can be written or run: there is no runtime", install("onnx", "litert"))
    for extra, purpose in EXTRAS.items():
        missing = [package.name for package in found if package.extra == extra and package.version is None]
        if missing:
            yield Problem(f"not installed: {', '.join(missing)} ({purpose})", install(extra), not extra)


def _problems_of_the_machine(found: Installation) -> Iterator[Problem]:
    p = found.processor
    if p.kind == "x86" and p.features and not p.features["AVX2"]:
        yield Problem(f"{p.name} has no AVX2: PyTorch's and TensorFlow's wheels may crash on it", "qat doctor --imports tries")
    if p.kind == "x86" and p.features and not p.features["VNNI"]:
        yield Problem(
            "an .onnx for the target onnxruntime_vnni would be wrong here: this processor has no VNNI",
            "target: any (7-bit weights) is exact with and without VNNI", False,
        )  # fmt: skip
    if found.accelerator.startswith("CUDA") and complete(found.packages, "torch") and not _torch_sees_cuda():
        yield Problem(
            "there is a GPU, and PyTorch does not use it: this build of torch has no CUDA, or the driver is older than it wants",
            "https://pytorch.org/get-started/locally has the command for your driver", False,
        )  # fmt: skip
    if complete(found.packages, "torch") and found.passes.allowed and not found.passes.used:
        yield Problem(
            "no C compiler: PyTorch's steps compute the same numbers by more passes over memory, up to a tenth slower",
            "install gcc or clang, or export CC=COMPILER", False,
        )  # fmt: skip
    if not found.cache.writable:
        yield Problem(
            f"the cache {found.cache.path} cannot be written: float models are trained again in every run",
            "export XDG_CACHE_HOME=FOLDER names another", False,
        )  # fmt: skip
    if not found.working.writable:
        yield Problem(
            f"{found.working.path} cannot be written: a run has no place for its results", "--output FOLDER names another"
        )
    for folder in (found.working, found.cache):
        if folder.free < _LITTLE_DISK:
            yield Problem(
                f"{_gigabytes(folder.free)} of disk are left for {folder.path}", "--output FOLDER, XDG_CACHE_HOME=FOLDER"
            )
    if found.memory is not None and found.memory < _LITTLE_MEMORY:
        yield Problem(f"{_gigabytes(found.memory)} of memory: a framework and a runtime want 4 GB", "data.batch_size: 16", False)
    if found.terminal.encoding.replace("-", "") != "UTF8":
        yield Problem(f"standard output is {found.terminal.encoding}: names beyond it break", "export PYTHONUTF8=1", False)


def _torch_sees_cuda() -> bool:
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def _gigabytes(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e9:.1f} GB"
