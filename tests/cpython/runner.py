"""Runs tests of CPython's own in one mode: `runner.py MODE OUTPUT NAME...`, and writes what became of each.

A mode says what the tests find under the standard names:

- `standard`: the standard library as it is;
- `drop-in`: our executor in place of the standard class;
- `patched`: the standard class, patched by `install`;
- `uninstalled`: the same after `uninstall`.

The output is JSON: `outcomes` (test id -> passed, skipped, failed), `details` (test id -> traceback or reason of what
did not pass), `recorded` (how many tasks poolscope saw).
"""

from __future__ import annotations

import concurrent.futures.thread
import gc
import json
import sys
import unittest
from pathlib import Path

#: Items that were noted of queues.
followed = 0

#: Tests of executors other than those of threads, which the drop-in does not touch.
OTHERS = ("ProcessPool", "InterpreterPool")


def enter(mode: str) -> None:
    if mode == "standard":
        return
    import poolscope

    if mode == "drop-in":
        concurrent.futures.ThreadPoolExecutor = concurrent.futures.thread.ThreadPoolExecutor = (
            poolscope.ThreadPoolExecutor
        )
        return
    follow_tests()
    installation = poolscope.install()
    if mode == "uninstalled":
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            assert list(pool.map(abs, [-1, -2])) == [1, 2]
        installation.uninstall()


def follow_tests() -> None:
    """Has the queues that CPython's tests make followed, as if these were the user's and not the standard library's."""
    from poolscope.probe.limits import queue_patch, threading_queues, work_queue

    for module in (queue_patch, threading_queues, work_queue):
        module.is_user_file = bool

    noted = work_queue.WorkQueue._arrives

    def arrives(self, item, held):
        global followed
        followed += 1
        noted(self, item, held)

    work_queue.WorkQueue._arrives = arrives


def one_queue() -> None:
    """Has the tests of queues use the module that is in use, and not copies of it that nobody watches."""
    import queue

    from test.support import import_helper

    fresh = import_helper.import_fresh_module
    import_helper.import_fresh_module = lambda name, *args, **kwargs: (
        queue if name == "queue" else fresh(name, *args, **kwargs)
    )


def enter_in_children(mode: str) -> None:
    """Has the programs that tests start by `assert_python_ok("-c", ...)` begin in the mode, too."""
    from test.support import script_helper

    start = script_helper.assert_python_ok
    paths = [str(Path(__file__).parent), *sys.path]
    prefix = f"import sys; sys.path[:] = {paths!r}; import runner; runner.enter({mode!r})\n"

    def assert_python_ok(*args, **env):
        if len(args) == 2 and args[0] == "-c":
            args = ("-c", prefix + args[1])
        return start(*args, **env)

    script_helper.assert_python_ok = assert_python_ok


class Outcomes(unittest.TestResult):
    def __init__(self) -> None:
        super().__init__()
        self.outcomes: dict[str, str] = {}
        self.details: dict[str, str] = {}

    def _note(self, test, outcome, detail=""):
        # A test that has failed in a part of it, or after its body, stays failed.
        if self.outcomes.get(test.id()) != "failed":
            self.outcomes[test.id()] = outcome
        if detail:
            self.details[test.id()] = detail

    def addSuccess(self, test):  # noqa: N802 - unittest's names, here and below
        self._note(test, "passed")

    def addExpectedFailure(self, test, err):  # noqa: N802
        self._note(test, "passed")

    def addSkip(self, test, reason):  # noqa: N802
        self._note(test, "skipped", reason)

    def addFailure(self, test, err):  # noqa: N802
        self._note(test, "failed", self._exc_info_to_string(err, test))

    addError = addFailure  # noqa: N815

    def addUnexpectedSuccess(self, test):  # noqa: N802
        self._note(test, "failed", "passed, though a failure is expected")

    def addSubTest(self, test, subtest, err):  # noqa: N802
        if err is not None:
            self._note(test, "failed", self._exc_info_to_string(err, test))


def wanted(tests: unittest.TestSuite) -> unittest.TestSuite:
    """The same suite without the tests of others; the suites stay, as each brings its module's fixtures."""
    kept = unittest.TestSuite()
    for test in tests:
        if isinstance(test, unittest.TestSuite):
            kept.addTest(wanted(test))
        elif not type(test).__name__.startswith(OTHERS):
            kept.addTest(test)
    return kept


def recorded() -> int:
    if "poolscope" not in sys.modules:
        return 0
    import poolscope

    return followed + sum(pool.tasks.submitted for pool in poolscope.report().pools)


def main(mode: str, output: str, *names: str) -> None:
    enter(mode)
    enter_in_children(mode)
    one_queue()
    from test import support

    # As `python -m test -u cpu` has it.
    support.use_resources = ["cpu"]
    loader = unittest.TestLoader()
    tests = wanted(loader.loadTestsFromNames(names))
    if loader.errors:
        # As tests of the loader's own they would fail with and without us alike.
        sys.exit("\n".join(loader.errors))
    result = Outcomes()
    # Many tests collect garbage again and again: with the modules of all tests to walk through, that is two thirds of
    # what everything here costs.
    gc.collect()
    gc.freeze()
    tests.run(result)
    told = {"outcomes": result.outcomes, "details": result.details, "recorded": recorded()}
    Path(output).write_text(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
