"""What all adapters share: telling that a library is another one than they know."""

from __future__ import annotations

import logging
import sys
from importlib import metadata
from types import ModuleType
from typing import Any

import pytest
from adapter_support import AROUND
from probe_support import FakeProbe, mistake

from poolscope.probe import adapters, targets
from poolscope.probe.recording import function_table
from poolscope.probe.targets import WRAPPING


@pytest.fixture(autouse=True)
def nothing_logged_yet(monkeypatch):
    monkeypatch.setattr(adapters, "_logged", set())


def test_an_unfamiliar_library_is_told_and_logged_once(caplog):
    probe = FakeProbe()
    line = f"pytest {metadata.version('pytest')}: its pools are not watched: no Pool.submit"
    for _ in range(2):
        adapters.unfamiliar(probe, "pytest", "its pools are not watched: no Pool.submit")
    assert probe.messages[0] == ("notice", line)
    assert caplog.record_tuples == [("poolscope", logging.WARNING, line)]


def test_under_a_parent_that_reports_the_log_stays_as_it_is(caplog):
    probe = FakeProbe()
    probe.supervised = True
    adapters.unfamiliar(probe, "no-such-library", "it is not watched")
    assert probe.messages == [("notice", "no-such-library (unknown version): it is not watched")]
    assert not caplog.records


def test_a_failure_of_ours_is_told():
    probe: Any = FakeProbe()
    probe.notice = mistake(OSError("no"))
    adapters.unfamiliar(probe, "pytest", "it is not watched")
    assert [part for part, _ in probe.faults] == ["install"]


def test_what_a_handler_of_the_programs_raises_is_not(monkeypatch):
    """Of a signal, as a library is met in the thread of the program."""
    probe: Any = FakeProbe()

    def handler(*_):
        raise TimeoutError("the program's")

    monkeypatch.setitem(targets.WRAPPING, "its_module", targets.WRAPPING["joblib.parallel"])
    monkeypatch.setattr("poolscope.probe.adapters.joblib.meet", handler)
    with pytest.raises(TimeoutError):
        targets.meet(probe, "its_module")
    probe.notice = handler
    with pytest.raises(TimeoutError):
        adapters.unfamiliar(probe, "pytest", "it is not watched")
    assert probe.faults == []


@pytest.fixture
def nothing_known(monkeypatch):
    monkeypatch.setattr(function_table, "WRAPPERS", {})


def test_each_library_is_there():
    assert WRAPPING.keys() == AROUND.keys()


@pytest.mark.parametrize(
    "there", [{}, {"run_job": len, "BatchedCalls": dict, "_unary_response_in_pool": lambda event: 0}]
)
@pytest.mark.parametrize("module", AROUND)
def test_of_another_version_tasks_keep_the_names_of_what_is_around_them(module, there, nothing_known, monkeypatch):
    fake = ModuleType(module)
    vars(fake).update(there)
    monkeypatch.setitem(sys.modules, module, fake)
    probe: Any = FakeProbe()
    targets.meet(probe, module)
    library, around = AROUND[module]
    assert not function_table.WRAPPERS
    assert not probe.faults
    told = [text for kind, text in probe.messages if kind == "notice"]
    assert len(told) == len(around)
    for name, text in zip(around, told, strict=True):
        assert text.startswith(
            f"{library} {adapters._version(library)}: its tasks are not named after your functions: no {name}("
        )


def test_other_modules_cost_nothing():
    probe: Any = FakeProbe()
    targets.meet(probe, __name__)
    targets.meet(probe, "?")
    assert not probe.messages
