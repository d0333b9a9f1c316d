"""What all adapters share: telling that a library is another one than they know."""

from __future__ import annotations

import logging
from importlib import metadata

import pytest
from probe_support import FakeProbe

from poolscope.probe import adapters


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
