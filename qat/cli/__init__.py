"""The command line. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

from . import process
from .artifacts import compare, inspect
from .auto import auto
from .beginning import init
from .checks import check
from .configs import configs
from .diagnose import diagnose
from .installation import doctor
from .lint import lint
from .mixed import mixed_precision
from .options import application
from .plans import plan, recipes
from .quantize import quantize
from .runs import demo, export, ptq, run, train
from .sensitivity import sensitivity
from .systems import system

#: The commands, in the order in which ``qat --help`` lists them.
COMMANDS = (
    demo, quantize, init, check, run, auto, ptq, train, export, compare, diagnose, plan, sensitivity, mixed_precision,
    configs, recipes, inspect, lint, system, doctor,
)  # fmt: skip

app = application(COMMANDS)


def main() -> None:
    """Run the command line."""
    process.run(app)
