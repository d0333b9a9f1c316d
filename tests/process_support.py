"""What worker processes run in tests: importable by every start method."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

LIMIT = 60  # seconds for what is sure to come


def nothing():
    pass


def nothing_of(_):
    pass


def hold(folder, name):
    """Says that it has started, and goes on when it may."""
    (Path(folder) / f"{name}.started").touch()
    await_file(Path(folder) / "go")
    return name


def await_file(path):
    await_that(path.exists)


def await_that(condition):
    patience = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < patience, "it did not come"
        time.sleep(0.002)


def now():
    return time.perf_counter_ns()


def fail(text):
    raise ValueError(text)


def unpicklable():
    return lambda: None


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def pid():
    return os.getpid()


def square(number):
    return number * number


def chunk(*_):
    """Takes other parameters than the standard function for a chunk of `map`."""


def modules_of_ours():
    return sorted(name for name in sys.modules if name.partition(".")[0] == "poolscope")


class Gate:
    """The tasks `hold` of one folder."""

    def __init__(self, folder):
        self.folder = folder

    def task(self, name):
        return hold, self.folder, name

    def await_started(self, *names):
        for name in names:
            await_file(self.folder / f"{name}.started")

    def open(self):
        (self.folder / "go").touch()


def leave(status):
    os._exit(status)


def first_numbers():
    yield 1
    raise KeyError("mine")
