"""Timelines for Perfetto."""

from __future__ import annotations

import gzip
import json
import math
import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

import jsonschema
import pytest
import report_support
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from poolscope.model import Block, Frame, LoopTrace, PoolTrace, Session, TimelinePoint
from poolscope.rendering import trace

#: Of the trace event format: what each kind of event must and may have.
_NUMBER = {"type": "number", "minimum": 0}
_WHERE = {"pid": {"type": "integer"}, "tid": {"type": "integer"}, "ts": _NUMBER, "name": {"type": "string"}}


def _event(kind: str, needed: list[str], **more: Any) -> dict[str, Any]:
    properties = {"ph": {"const": kind}, **_WHERE, **more}
    return {"type": "object", "properties": properties, "required": ["ph", *needed], "additionalProperties": False}


_FLOW = {"cat": {"type": "string"}, "id": {"type": "string"}}
SCHEMA = {
    "type": "object",
    "required": ["traceEvents", "otherData"],
    "properties": {
        "displayTimeUnit": {"enum": ["ms", "ns"]},
        "otherData": {"type": "object", "additionalProperties": {"type": "string"}},
        "traceEvents": {
            "items": {
                "oneOf": [
                    _event("M", ["pid", "name", "args"], args={"type": "object"}),
                    _event("X", ["pid", "tid", "ts", "dur", "name"], dur=_NUMBER, args={"type": "object"}),
                    _event("C", ["pid", "ts", "name", "args"], args={"additionalProperties": {"type": "number"}}),
                    _event("i", ["pid", "tid", "ts", "name", "s"], s={"enum": ["g", "p", "t"]}),
                    _event("s", ["pid", "tid", "ts", "id", "cat", "name"], **_FLOW),
                    _event("f", ["pid", "tid", "ts", "id", "cat", "name", "bp"], bp={"const": "e"}, **_FLOW),
                ]
            }
        },
    },
}


def told(session: Session) -> dict[str, Any]:
    def refuse(word: str) -> None:
        raise ValueError(word)

    encoded = json.loads(trace.encode(session), parse_constant=refuse)
    jsonschema.validate(encoded, SCHEMA)
    return encoded


def with_tasks(
    *tasks: tuple[int, int, int, int], names: tuple[str, ...] = ("f",), workers: tuple[int, ...] = ()
) -> Session:
    session = report_support.healthy_pools()
    packed = struct.pack(f"<{4 * len(tasks)}q", *(number for task in tasks for number in task))
    trace = PoolTrace(functions=names, tasks=packed, timeline=(), workers=struct.pack(f"<{len(workers)}q", *workers))
    return replace(session, traces=(trace,))


def runs(encoded: dict[str, Any]) -> list[tuple[int, float, float]]:
    """(track, begin, duration) of each task."""
    events = [event for event in encoded["traceEvents"] if event["ph"] == "X" and event["tid"] >= 3]
    return [(event["tid"], event["ts"], event["dur"]) for event in events]


@pytest.mark.parametrize(
    "made",
    [
        report_support.overlap,
        report_support.hard_limit,
        report_support.several_pools,
        report_support.empty,
        report_support.hostile,
    ],
)
def test_what_any_session_gives_is_valid(made: Callable[[], Session]) -> None:
    told(made())


def test_a_task_is_in_the_first_lane_that_is_free() -> None:
    encoded = told(with_tasks((0, 0, 0, 3000), (0, 0, 1000, 2000), (0, 0, 2000, 4000), (0, 0, 2500, 2600)))
    assert runs(encoded) == [(3, 0, 3), (4, 1, 1), (4, 2, 2), (5, 2.5, 0.1)]
    names = {event["tid"]: event["args"]["name"] for event in encoded["traceEvents"] if event["name"] == "thread_name"}
    assert [names[track] for track in (1, 2, 3, 4, 5)] == [
        "findings",
        "submitted",
        "running 1",
        "running 2",
        "running 3",
    ]


def test_a_worker_has_a_track_of_its_own() -> None:
    tasks = [(0, 0, 0, 1000), (0, 0, 500, 1500), (0, 0, 1600, 1700), (0, 0, -1, -1), (0, 0, 1800, 1900)]
    encoded = told(with_tasks(*tasks, workers=(1, 2, 2, 0, 1)))
    assert runs(encoded) == [(3, 0, 1), (4, 0.5, 1), (4, 1.6, 0.1), (3, 1.8, 0.1)]
    names = {event["tid"]: event["args"]["name"] for event in encoded["traceEvents"] if event["name"] == "thread_name"}
    assert names == {1: "findings", 2: "submitted", 3: "worker 1", 4: "worker 2"}


def test_a_worker_that_has_ended_leaves_its_track_to_the_next() -> None:
    tasks = [(0, 0, number * 1000, (number + 1) * 1000) for number in range(4)]
    assert {track for track, _, _ in runs(told(with_tasks(*tasks, workers=(1, 2, 3, 4))))} == {3}


def test_a_loop_has_a_track_of_its_blocks() -> None:
    blocks = (Block(1.0, 0.25, 0), Block(2.0, 0.5, -1), Block(math.nan, 0.5, 0))
    session = replace(with_tasks(), loops=(LoopTrace((Frame("app.py", 7, "view"),), blocks),))
    report = replace(session.report, event_loops=(report_support.loop(),))
    events = told(replace(session, report=report))["traceEvents"]
    held = [(event["ts"], event["dur"], event["name"]) for event in events if event["ph"] == "X"]
    assert held == [(1_000_000, 250_000, "view"), (2_000_000, 500_000, "?")]


def test_an_arrow_leads_from_a_submission_to_its_start() -> None:
    encoded = told(with_tasks((0, 1000, 5000, 6000), (0, 7000, 7000, 8000)))
    flows = {event["ph"]: event for event in encoded["traceEvents"] if event["ph"] in "sf"}
    assert (flows["s"]["ts"], flows["f"]["ts"]) == (1, 5)
    assert flows["s"]["id"] == flows["f"]["id"]
    # Each end has a bar to lie on.
    bars = {(event["pid"], event["tid"], event["ts"]) for event in encoded["traceEvents"] if event["ph"] == "X"}
    assert {(flow["pid"], flow["tid"], flow["ts"]) for flow in flows.values()} <= bars


def test_only_the_longest_waits_have_arrows_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "MOST_ARROWS", 3)
    encoded = told(with_tasks(*((0, 0, number * 1000, number * 1000 + 1) for number in range(1, 9))))
    ends = [event["ts"] for event in encoded["traceEvents"] if event["ph"] == "f"]
    assert ends == [6, 7, 8]


def test_what_never_started_is_not_there_and_what_never_ended_ends_with_the_record() -> None:
    session = with_tasks((0, 0, -1, -1), (0, 0, 1000, -1))
    ((_, begin, duration),) = runs(told(session))
    assert begin + duration == session.report.duration_seconds * 1e6


def test_a_file_that_would_be_too_long_keeps_the_longest_tasks_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace, "MOST_BYTES", 400)
    encoded = told(with_tasks(*((0, 0, number * 1000, number * 1000 + number) for number in range(1, 21))))
    kept = [duration for _, _, duration in runs(encoded)]
    assert kept == sorted(kept)
    assert len(kept) == 5
    assert max(kept) == 0.02
    assert encoded["otherData"]["left_out"].startswith("15 of the shortest tasks")
    (mark,) = [event for event in encoded["traceEvents"] if event["ph"] == "i"]
    assert mark["name"].startswith("not shown: 15 of")


def test_findings_are_bars_and_marks() -> None:
    events = told(report_support.hard_limit())["traceEvents"]
    bars = [event for event in events if event["ph"] == "X" and event["tid"] == 1 and event["name"][0] == "w"]
    assert [(bar["name"], bar["ts"]) for bar in bars] == [("warning: async_then_serial (blocking_io)", 4_000_000)]
    assert bars[0]["args"]["lines"][0].endswith("shop/jobs.py:31 in fetch")
    assert sum(event["ph"] == "i" for event in events) == 2


def test_counters_are_those_of_the_timeline_and_numbers_only() -> None:
    session = with_tasks((0, 0, 0, 1000))
    points = (TimelinePoint(0.1, 0.1, 2.0, 5.0, 0.0, 1, 1), TimelinePoint(0.2, 0.1, math.nan, 5.0, 0.0, 1, 1))
    session = replace(session, traces=(replace(session.traces[0], timeline=points),))
    counters = [event for event in told(session)["traceEvents"] if event["ph"] == "C"]
    assert [(event["ts"], event["args"]) for event in counters] == [(0, {"active": 2.0}), (0, {"queued": 5.0})]


def test_it_can_be_compressed_the_same_each_time() -> None:
    session = report_support.hard_limit()
    compressed = trace.encode(session, compressed=True)
    assert gzip.decompress(compressed) == trace.encode(session)
    assert compressed == trace.encode(session, compressed=True)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(*[st.integers(-(2**63), 2**63 - 1)] * 4), max_size=20))
def test_any_numbers_give_a_valid_file(tasks: list[tuple[int, int, int, int]]) -> None:
    told(with_tasks(*tasks))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), min_size=1, max_size=40))
def test_lanes_are_as_many_as_run_at_once_and_no_two_tasks_share_one(spans: list[tuple[int, int]]) -> None:
    spans.sort()
    placed = runs(told(with_tasks(*((0, 0, begin * 1000, (begin + length) * 1000) for begin, length in spans))))
    most = max(sum(begin <= at < begin + length for begin, length in spans) for at in range(71))
    assert len({track for track, _, _ in placed}) == most
    moments = Counter((track, at) for track, begin, length in placed for at in range(int(begin), int(begin + length)))
    assert max(moments.values()) == 1
