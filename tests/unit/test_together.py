"""Reports of several processes, put together."""

from __future__ import annotations

import msgspec
import pytest
from report_support import hard_limit, insufficient_data, overlap

from poolscope.integrations.together import together
from poolscope.rendering.inline import text_of


def at(report, moment, pid):
    """The report of a process that started then."""
    rows = {
        name: tuple(msgspec.structs.replace(row, pid=pid) for row in getattr(report, name))
        for name in ("processes", "pools", "event_loops")
    }
    return msgspec.structs.replace(report, started_at=f"2026-08-01T14:00:{moment:06.3f}+00:00", **rows)


def test_times_count_from_the_earliest_start():
    well, sick = at(overlap().report, 10.0, 7), at(hard_limit().report, 12.5, 8)
    [before] = [pool for pool in sick.pools if pool.findings]
    whole = together({"tcp://b": sick, "tcp://a": well}, ["client.py"])
    assert whole.started_at == well.started_at
    assert whole.duration_seconds == max(well.duration_seconds, 2.5 + sick.duration_seconds)
    [pool] = [pool for pool in whole.pools if pool.findings]
    assert pool.first_submit_seconds == before.first_submit_seconds + 2.5
    assert [each.since_seconds for each in pool.findings] == [each.since_seconds + 2.5 for each in before.findings]
    assert all(each in whole.findings for each in pool.findings)


def test_each_process_goes_by_its_name_and_the_worst_comes_first():
    parts = {"a": at(overlap().report, 0, 1), "b": at(hard_limit().report, 0, 2), "c": at(overlap().report, 0, 3)}
    whole = together(parts, ["client.py"])
    assert {row.pid: row.command for row in whole.processes} == {1: ("a",), 2: ("b",), 3: ("c",)}
    assert whole.verdict == parts["b"].verdict == whole.findings[0].pattern
    assert whole.overhead.cpu_seconds == pytest.approx(sum(each.overhead.cpu_seconds for each in parts.values()))
    assert "2" in text_of(whole)


def test_nothing_wrong_anywhere():
    little = at(insufficient_data().report, 0, 1)
    assert together({"a": little}, []).verdict == "insufficient_data"
    assert together({"a": little, "b": at(overlap().report, 0, 2)}, []).verdict == "concurrent"


def test_no_reports():
    with pytest.raises(ValueError, match="no reports"):
        together({}, [])
