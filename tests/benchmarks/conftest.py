import logging

import pytest


@pytest.fixture(autouse=True)
def notices_are_heard_again():
    """Undo what a benchmark does for its whole process: it silences notices."""
    yield
    logging.disable(logging.NOTSET)
