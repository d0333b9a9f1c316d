"""Tasks that cannot run, as what was submitted is no function."""

from __future__ import annotations

from typing import Any

import pytest
from pool_support import VirtualPool

from poolscope.messages import FunctionNamed
from poolscope.probe.recording import function_table
from poolscope.probe.recording.function_table import FunctionTable
from poolscope.rules import called_not_passed
from poolscope.rules.called_not_passed import CalledNotPassed


def named(table: FunctionTable, said: list[Any], what: object) -> tuple[Any, ...]:
    table.identify(what)
    return tuple(said[-1])


def test_the_place_of_what_is_no_function_is_where_it_was_submitted() -> None:
    said: list[Any] = []
    table = FunctionTable(said.append)
    tag, number, name, file, line = named(table, said, None)
    assert (tag, name, file) == ("function", "builtins.NoneType (not callable)", __file__)
    assert line == named.__code__.co_firstlineno + 1
    assert named(table, said, None)[1] == number, "the same line, the same function"
    assert len(said) == 1
    assert named(table, said, [1])[2] == "builtins.list (not callable)"


@pytest.mark.parametrize("what", [print, len, int, "x".join, type("C", (), {"__call__": lambda self: None})()])
def test_what_can_be_called_is_none_of_it(what: object) -> None:
    said: list[Any] = []
    assert not named(FunctionTable(said.append), said, what)[2].endswith(called_not_passed.NOT_CALLABLE)


def test_the_probe_and_the_rules_end_the_name_alike() -> None:
    assert function_table.NOT_CALLABLE == called_not_passed.NOT_CALLABLE


@pytest.mark.parametrize(
    ("name", "tasks", "found"), [("a.B (not callable)", 5, True), ("a.B (not callable)", 4, False)]
)
def test_so_few_may_be_a_slip(name: str, tasks: int, found: bool) -> None:
    assert (CalledNotPassed.match(name, tasks) is not None) is found
    assert CalledNotPassed.match("a.B", 100) is None


def test_it_is_a_note_with_the_line_while_the_pool_lives_and_after() -> None:
    pool = VirtualPool(4)
    function = FunctionNamed(1, "builtins.NoneType (not callable)", "/srv/app/jobs.py", 22)
    pool.case._builder._function_of = lambda _: function
    pool.run([(0.1 * number, 0.0001, 1) for number in range(30)], finish=False)
    living = pool.case.findings()
    pool.case.finish(pool.history.last_batch_ns)
    pool.case.retire()
    for (note,) in (living, pool.case.findings()):
        assert (note.pattern, note.cause, note.severity) == ("not_concurrent", "called_not_passed", "info")
        assert note.summary.startswith("Pool 'pool' was given NoneType in place of a function at jobs.py:22: 30 tasks")
        assert (note.frames[0].file, note.frames[0].line) == ("/srv/app/jobs.py", 22)
        assert note.advice.action == "pass_the_function"
