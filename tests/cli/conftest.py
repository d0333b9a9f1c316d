"""What tests of commands and pages share."""

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from browser_support import launched

    with launched() as it:
        yield it
