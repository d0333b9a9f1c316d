"""What all adapters share: telling that a library is another one than they know."""

from __future__ import annotations

import logging
import sys
from importlib import metadata
from types import ModuleType

import pytest
from adapter_support import AROUND
from probe_support import FakeProbe

from poolscope.probe import adapters
from poolscope.probe.families import WRAPPING
from poolscope.probe.pools import names


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
    class Broken(FakeProbe):
        def notice(self, text):
            raise OSError("no")

    probe = Broken()
    adapters.unfamiliar(probe, "pytest", "it is not watched")
    assert [part for part, _ in probe.faults] == ["install"]


@pytest.fixture
def nothing_known(monkeypatch):
    monkeypatch.setattr(names, "WRAPPERS", {})


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
    probe = FakeProbe()
    adapters.meet(probe, module)
    library, around = AROUND[module]
    assert not names.WRAPPERS
    assert not probe.faults
    told = [text for kind, text in probe.messages if kind == "notice"]
    assert len(told) == len(around)
    for name, text in zip(around, told, strict=True):
        assert text.startswith(
            f"{library} {adapters._version(library)}: its tasks are not named after your functions: no {name}("
        )


def test_other_modules_cost_nothing():
    probe = FakeProbe()
    adapters.meet(probe, __name__)
    adapters.meet(probe, "?")
    assert not probe.messages
