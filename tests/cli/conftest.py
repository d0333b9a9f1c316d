"""Assertions in the support module say what they found."""

import pytest

pytest.register_assert_rewrite("cli_support")
