"""``python -m qat``."""

from qat.cli import main

main()
