"""docs/targets.md says what the code says."""

from pathlib import Path

import pytest

from qat.errors import ConfigError
from qat.planning.document import page

PAGE = Path(__file__).parents[2] / "docs" / "targets.md"


def test_the_tables_of_the_targets_are_those_of_the_code():
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(text), "run python -m qat.planning.document docs/targets.md"


def test_a_target_without_a_table_is_named():
    text = PAGE.read_text(encoding="utf-8").replace("<!-- table tensorrt -->", "")
    with pytest.raises(ConfigError, match=r"there are the targets .*tensorrt"):
        page(text)
