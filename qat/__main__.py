"""``python -m qat``."""

from .cli import main

main()
