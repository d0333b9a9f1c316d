"""A plugin for pytest: calls `poolscope.install()` before there are tests, as a program's `conftest.py` would.

At the end the file of its option has how many tasks were recorded.
"""

import os
from pathlib import Path

import poolscope

poolscope.install()
_pid = os.getpid()


def pytest_addoption(parser):
    parser.addoption("--peers-tasks")


def pytest_unconfigure(config):
    path = config.getoption("--peers-tasks")
    if path and os.getpid() == _pid:
        Path(path).write_text(str(sum(pool.tasks.submitted for pool in poolscope.report().pools)))
