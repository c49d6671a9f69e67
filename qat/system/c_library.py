"""C functions that are compiled on the user's machine when they are first needed, for its very processor.

The library stands in the user's cache. Without a compiler there is none, and the caller computes by other means: nothing that is
installed needs one.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from . import machine

#: Set to 0 it forbids to compile, and to load what was compiled.
SWITCH = "QAT_COMPILED"
#: IEEE 754 to the letter: no sum in another order, no product and sum in one rounding. Only flags of exceptions are given up.
FLAGS = ("-std=c11", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fopenmp", "-fPIC")
_SECONDS = 60


def load(source: Path) -> ctypes.CDLL | None:
    """Return the functions of a C file; None where it cannot be compiled or loaded.

    OpenMP's functions are those of a library that this process has loaded already, as PyTorch's: two of them would fight for the
    processor's cores.
    """
    if os.environ.get(SWITCH) == "0" or not hasattr(os, "getuid"):
        return None
    try:
        library = _path(source)
        if not library.exists():
            _compile(source, library)
        owners = {path.stat().st_uid for path in (library, library.parent)}
        return ctypes.CDLL(str(library)) if owners == {os.getuid()} else None
    except (OSError, subprocess.SubprocessError):
        return None


@dataclass(frozen=True)
class Compiled:
    """How a C file stands on this machine.

    Attributes:
        source: the file's name.
        compiler: the compiler's path and version; empty where there is none.
        allowed: whether :data:`SWITCH` allows it.
        made: whether the library is there.
    """

    source: str
    compiler: str
    allowed: bool
    made: bool

    @property
    def used(self) -> bool:
        """Whether the functions are used, or will be where they are first needed."""
        return self.allowed and (self.made or bool(self.compiler))

    def __str__(self) -> str:
        if not self.allowed:
            return f"not used: {SWITCH}=0 forbids them"
        if not self.used:
            return "not used: no C compiler"
        by = f" by {self.compiler}" if self.compiler else ""
        return f"in use, compiled{by}" if self.made else f"compiled at first use{by}"


def look(source: Path) -> Compiled:
    """Say how a C file stands, without compiling or loading it."""
    allowed = os.environ.get(SWITCH) != "0" and hasattr(os, "getuid")
    return Compiled(source.name, _compiler(), allowed, hasattr(os, "getuid") and _path(source).is_file())


def _compiler() -> str:
    """Return the path of the C compiler, with the first line that it says of its version; empty where there is none."""
    command = shlex.split(os.environ.get("CC", "cc"))
    if not command or (found := shutil.which(command[0])) is None:
        return ""
    try:
        said = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True, timeout=_SECONDS).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{found} ({said.partition(chr(10))[0].strip()})"


def _path(source: Path) -> Path:
    from platformdirs import user_cache_dir

    found = machine.processor()
    what = (source.read_text(), FLAGS, os.uname().sysname, os.uname().machine, found.name, sorted(found.features.items()))
    digest = hashlib.sha256(repr(what).encode()).hexdigest()
    return Path(user_cache_dir("qat")) / "compiled" / f"{source.stem}-{digest[:16]}.so"


def _compile(source: Path, library: Path) -> None:
    """Write the library at once: other processes may compile it too, or read it."""
    library.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    compiler = shlex.split(os.environ.get("CC", "cc"))
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made, linked = Path(folder) / "made.o", Path(folder) / "linked.so"
        for command in ([*FLAGS, "-c", str(source), "-o", str(made)], ["-shared", str(made), "-Wl,-z,now", "-o", str(linked)]):
            subprocess.run([*compiler, *command], check=True, capture_output=True, timeout=_SECONDS, stdin=subprocess.DEVNULL)
        os.replace(linked, library)
