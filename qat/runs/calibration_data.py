"""The checks of a run's calibration data, against its test data."""

from __future__ import annotations

import logging
from typing import Any

from qat.analysis.checks.check import check_data
from qat.analysis.checks.result import DataChecks
from qat.errors import DataError

from .data import RunData

log = logging.getLogger("qat")

#: The test samples that those of calibration are held against.
_REFERENCE = 1000


def checks_of(data: RunData, model: Any) -> DataChecks:
    """Return the checks of the samples that calibrate a run.

    Args:
        data: of the run; its test data are the reference.
        model: the float model; one without weights yet compares by what it makes of the samples too.

    Raises:
        DataError: the samples are no arrays of numbers.
    """
    pairs, _ = data.calibration_pairs()
    return check_data(pairs, reference=data.reference(_REFERENCE), model=model, layout=data.layout)


def warn_of_calibration_data(data: RunData, model: Any) -> None:
    """Say what is not fine with the samples that calibrate a run."""
    try:
        found = checks_of(data, model)
    except DataError as error:  # inputs that do not count their samples, a graph's nodes and edges say
        log.info("the calibration data are not checked: %s", error)
        return
    found.log()
