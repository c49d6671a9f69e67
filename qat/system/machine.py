"""The machine, as far as it decides what runs and how fast: processor, accelerator, memory, folders, terminal."""

from __future__ import annotations

import ctypes.util
import locale
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

#: The instructions that decide which integer kernels run, by the words that Linux has for them.
_FEATURES = {
    "AVX2": {"avx2"},
    "AVX512": {"avx512f"},
    "VNNI": {"avx512_vnni", "avx_vnni"},
    "AMX": {"amx_int8"},
    "bf16": {"avx512_bf16", "amx_bf16", "bf16"},
    "dotprod": {"asimddp"},
    "i8mm": {"i8mm"},
}
#: macOS' words for those of Apple's processors.
_APPLE = {"dotprod": "hw.optional.arm.FEAT_DotProd", "i8mm": "hw.optional.arm.FEAT_I8MM", "bf16": "hw.optional.arm.FEAT_BF16"}
#: What each kind of processor may have.
_OF = {"x86": ("AVX2", "AVX512", "VNNI", "AMX", "bf16"), "arm": ("dotprod", "i8mm", "bf16")}


@dataclass(frozen=True)
class Processor:
    """The processor: its name, its kind (``x86``, ``arm`` or empty), and which features it has; none where nobody says."""

    name: str
    kind: str
    features: dict[str, bool] = field(default_factory=dict)


def processor() -> Processor:
    """Return the processor."""
    machine = platform.machine().lower()
    kind = "x86" if machine in ("x86_64", "amd64", "i686") else "arm" if machine.startswith(("arm", "aarch64")) else ""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        text = info.read_text()
        words = set(" ".join(re.findall(r"^(?:flags|Features)\s*:(.*)$", text, re.MULTILINE)).split())
        name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
        has = {feature: bool(_FEATURES[feature] & words) for feature in _OF.get(kind, ())}
        return Processor(name[1].strip() if name else machine, kind, has)
    if sys.platform == "darwin":
        has = {feature: _sysctl(word) == "1" for feature, word in _APPLE.items()} if kind == "arm" else {}
        return Processor(_sysctl("machdep.cpu.brand_string") or machine, kind, has)
    return Processor(platform.processor() or machine, kind)


def _sysctl(name: str) -> str:
    done = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def threads() -> tuple[int, int]:
    """Return how many threads this process may use, and how many the machine has."""
    there = os.cpu_count() or 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else there, there


def usable_threads() -> int:
    """Return how many threads a runtime should compute with: those of this process, or fewer by ``OMP_NUM_THREADS``."""
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    allowed, _ = threads()
    return min(int(wanted), allowed) if wanted.isdigit() and int(wanted) > 0 else allowed


def interruptions() -> int:
    """Return how often other work took a core from a thread of this process so far; 0 where nobody counts."""
    if sys.platform == "win32":
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def memory() -> int | None:
    """Return the machine's memory in bytes; None where nobody says."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def accelerator() -> str:
    """Return what the machine has: ``CUDA`` with the driver's names of its GPUs, ``MPS``, or empty."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return "MPS"
    names = [
        match[1].strip()
        for path in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
        if (match := re.search(r"^Model:(.*)$", path.read_text(), re.MULTILINE))
    ]
    if names:
        return f"CUDA: {', '.join(names)}"
    return "CUDA" if ctypes.util.find_library("cuda") or ctypes.util.find_library("nvcuda") else ""


@dataclass(frozen=True)
class Folder:
    """A folder: whether it can be written to, and the bytes that are free on its disk."""

    path: Path
    writable: bool
    free: int


def folder(path: Path) -> Folder:
    """Return what is known of a folder, which need not exist yet."""
    there = next(p for p in (path, *path.parents) if p.exists())
    writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    return Folder(path, writable, shutil.disk_usage(there).free)


def size_of(path: Path) -> int:
    """Return the bytes of a folder's files, at any depth."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


@dataclass(frozen=True)
class Terminal:
    """Where results are printed: the columns of a terminal (None of a pipe), its encoding, the locale."""

    columns: int | None
    encoding: str
    locale: str


def terminal() -> Terminal:
    """Return what is known of standard output."""
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    name = locale.setlocale(locale.LC_CTYPE)
    return Terminal(columns, (sys.stdout.encoding or "unknown").upper(), name)
