"""What tests of commands and pages share; assertions in the support module say what they found."""

from collections.abc import Iterator
from typing import Any

import pytest

pytest.register_assert_rewrite("cli_support")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from browser_support import launched

    with launched() as it:
        yield it
