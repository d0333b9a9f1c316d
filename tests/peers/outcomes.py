"""A plugin for pytest: writes the outcome of each test as it comes, so that a run that hangs tells how far it got.

It is put into a project's environment, as `poolscope_peers_outcomes`, and does nothing without its option.
"""

import json

_SEVERITY = ("passed", "xfailed", "skipped", "failed", "error")


class _Outcomes:
    def __init__(self, path):
        self._file = open(path, "w", encoding="utf-8")  # noqa: SIM115
        self._outcomes = {}

    def pytest_runtest_logreport(self, report):
        outcome = report.outcome
        if hasattr(report, "wasxfail"):
            # Passed or not: that a test may do either is what its mark says. Where it must fail, passing is a failure.
            outcome = "xfailed"
        elif report.failed and report.when != "call":
            outcome = "error"
        before = self._outcomes.get(report.nodeid)
        if before is None or _SEVERITY.index(outcome) > _SEVERITY.index(before):
            self._outcomes[report.nodeid] = outcome
        if report.when == "teardown":
            self._tell(report.nodeid, self._outcomes.pop(report.nodeid))

    def pytest_collectreport(self, report):
        if report.outcome != "passed":
            self._tell(report.nodeid, "error" if report.failed else report.outcome)

    def _tell(self, name, outcome):
        self._file.write(json.dumps([name, outcome]) + "\n")
        self._file.flush()


def pytest_addoption(parser):
    parser.addoption("--peers-outcomes")


def pytest_configure(config):
    path = config.getoption("--peers-outcomes")
    if path:
        config.pluginmanager.register(_Outcomes(path), "poolscope-peers-outcomes")
