"""Take README's picture of a report: that of a real run, in a browser of 1280 pixels. `make screenshot` calls it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

COMMAND = "qat run digits_torch"
#: Of the browser's window: the decision and the first plots.
SIZE = "1280,1360"
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--virtual-time-budget=4000",
)  # fmt: skip


def main(target: Path) -> None:
    """Run the command in an empty folder, and write a picture of its report."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", *COMMAND.split(), "--output", "run", "-q"], cwd=folder, check=True)
        page = Path(folder, "run", "report.html").resolve().as_uri()
        place = (f"--user-data-dir={folder}/browser", f"--window-size={SIZE}", f"--screenshot={target.resolve()}")
        subprocess.run(["chromium", *FLAGS, *place, page], check=True, stderr=subprocess.DEVNULL)
    reduced(target)


def reduced(target: Path) -> None:
    """Write a picture with 128 colours, which hold this page whole."""
    from PIL import Image

    with Image.open(target) as image:
        image.convert("RGB").quantize(128).save(target, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
