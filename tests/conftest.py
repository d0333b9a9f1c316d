"""For all tests."""

import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

# Its assertions say what they found. Here, as folders of tests are read in any order.
pytest.register_assert_rewrite("cli_support")

#: What a shell has its background jobs ignore, or nohup, and so every program that they start.
_DEFAULTS: dict[signal.Signals, Any] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGQUIT: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
}


def pytest_configure() -> None:
    for number, handler in _DEFAULTS.items():
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def no_thread_of_the_probe_outlives_its_test() -> Iterator[None]:
    """The probe of this process goes on for as long as it lives: its judge would meet the faults of later tests."""
    yield
    runtime = sys.modules.get("poolscope.probe.runtime")
    probe = runtime and runtime._made.get("probe")
    if probe is not None:
        probe.stop()
