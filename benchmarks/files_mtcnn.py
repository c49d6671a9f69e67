"""MTCNN's three nets as one system, in float and in int8: ``python benchmarks/files_mtcnn.py``.

Downloads the wheel facenet-pytorch by pip, without its dependencies, for the weights of the nets.
"""

from __future__ import annotations

import os
from pathlib import Path

from wheels import files_of

from qat.systems.execute import execute

WHEEL = "facenet-pytorch==2.6.0"
CONFIG = Path(__file__).parent / "systems" / "mtcnn.yaml"
#: Where the wheel and its weights are kept.
WHEELS = Path(__file__).parents[1] / "build" / "wheels"


def main() -> None:
    """Download the weights, quantize the system, print its tables."""
    weights = files_of(WHEEL, [f"facenet_pytorch/data/{net}.pt" for net in ("pnet", "rnet", "onet")], WHEELS)
    os.environ["MTCNN_WEIGHTS"] = str(weights[0].parent)
    print(execute(CONFIG, Path("runs") / "mtcnn"))


if __name__ == "__main__":
    main()
