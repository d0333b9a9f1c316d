"""A session is a file, and a file may hold anything: what is shown of it is a report, or one line that says what is
wrong, in bounded memory and time. Seeded: the same damage in each run."""

from __future__ import annotations

import copy
import io
import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
import report_support

from poolscope import session as sessions
from poolscope.commands import whatif
from poolscope.errors import PoolscopeError, SessionError
from poolscope.model import Session
from poolscope.rendering.terminal import render
from poolscope.session import load, save

MAGIC = b"poolscope session 1\n"
WHOLE = sorted(set(report_support.SESSIONS) - {"hostile", "nulls"})
#: Numbers that no run has.
NUMBERS = [float("nan"), float("inf"), -float("inf"), -1, -0.5, 0, 2**63 - 1, -(2**63), 1e308, -1e308, 5e-324, 2**31]
TEXTS = ["", "\x1b[2J\r\n", "x" * 5_000, "\u202e"]


def plain(name: str) -> dict[str, Any]:
    value: dict[str, Any] = msgspec.to_builtins(report_support.SESSIONS[name](), builtin_types=(bytes,))
    return value


def write(path: Path, content: bytes, level: int = 1) -> Path:
    """A file that is whole, with `content` inside."""
    payload = zlib.compress(content, level)
    path.write_bytes(MAGIC + struct.pack(">IQ", zlib.crc32(payload), len(payload)) + payload)
    return path


def json_of(session: Session) -> None:
    session.report.to_json()


def report_of(session: Session) -> None:
    render(session, io.StringIO(), color=False)


def curve_of(session: Session) -> None:
    list(whatif.lines(session, None, None))
    list(whatif.lines(session, None, [1, 4, 1000]))


SHOWN: list[Callable[[Session], None]] = [report_of, json_of, curve_of]


def check(path: Path) -> bool:
    """Whether it is loaded, and then shown; otherwise it is refused, by name, in one line."""
    refusal = None
    try:
        session = load(path)
    except SessionError as error:
        refusal = str(error)
    if refusal is not None:
        assert refusal.isprintable()
        assert path.name in refusal
        return False
    for show in SHOWN:
        try:
            show(session)
        except PoolscopeError as error:
            refusal = str(error)
    assert refusal is None or (refusal.startswith("no pool in this session") and not session.report.pools)
    return True


# -- damage from outside -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_a_file_damaged_at_every_nth_byte_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "run.session"
    save(report_support.SESSIONS[name](), path)
    whole = path.read_bytes()
    choose = random.Random(13)
    for place in [*range(60), *range(60, len(whole), max(1, len(whole) // 60))]:
        if place < len(whole):
            damaged = bytearray(whole)
            damaged[place] ^= choose.randrange(1, 256)
            path.write_bytes(damaged)
            assert not check(path), place
            path.write_bytes(whole[:place])
            assert not check(path), place


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_content_damaged_at_every_nth_byte_is_shown_or_refused(name: str, tmp_path: Path) -> None:
    """Under a checksum that fits."""
    content = msgspec.msgpack.encode(report_support.SESSIONS[name]())
    path = tmp_path / "run.session"
    choose = random.Random(13)
    for place in range(0, len(content), max(1, len(content) // 80)):
        damaged = bytearray(content)
        damaged[place] ^= choose.randrange(1, 256)
        check(write(path, bytes(damaged)))
        assert not check(write(path, content[:place]))


# -- values that no run has --------------------------------------------------------------------------------


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from places(item, (*path, number))
    if path:
        yield path


def change(value: Any, choose: random.Random) -> Any:
    if isinstance(value, str):
        return choose.choice(TEXTS)
    if isinstance(value, bytes):
        changed = bytearray(value)
        for _ in range(choose.choice([1, 3, 50]) if changed else 0):
            place = 8 * choose.randrange(len(changed) // 8)
            number = choose.choice([-1, -2, 0, 2**63 - 1, -(2**63), 2**62, choose.randrange(10**10)])
            changed[place : place + 8] = struct.pack("<q", number)
        return bytes(changed)
    if isinstance(value, list):
        return choose.choice([[], value[:1], value * 3, value[::-1]])
    if isinstance(value, dict):
        return {key: item for key, item in value.items() if choose.random() < 0.9}
    return choose.choice(NUMBERS)


@pytest.mark.slow
def test_numbers_texts_and_lists_that_no_run_has(tmp_path: Path) -> None:
    choose = random.Random(12)
    contents = {name: plain(name) for name in WHOLE}
    every = {name: list(places(content)) for name, content in contents.items()}
    path, shown = tmp_path / "run.session", 0
    for _ in range(400):
        name = choose.choice(WHOLE)
        content = copy.deepcopy(contents[name])
        for _ in range(choose.choice([1, 1, 2, 5, 20])):
            *way, last = choose.choice(every[name])
            holder: Any = content
            try:
                for key in way:
                    holder = holder[key]
                holder[last] = change(holder[last], choose)
            except (KeyError, IndexError, TypeError):
                pass  # what it was in has changed already
        shown += check(write(path, msgspec.msgpack.encode(content)))
    assert 50 < shown < 400


@pytest.mark.parametrize("duration", [float("nan"), float("inf"), -float("inf"), -1.0, 1e308])
def test_a_run_that_lasted_no_time(duration: float, tmp_path: Path) -> None:
    content = plain("hard_limit")
    content["report"]["duration_seconds"] = duration
    with pytest.raises(SessionError, match=r"is damaged \(it lasted -?(nan|inf|1\.0|1e\+308) seconds\)"):
        load(write(tmp_path / "run.session", msgspec.msgpack.encode(content)))


def test_tasks_in_any_order_of_any_functions_are_replayed_in_time() -> None:
    """One pass over the tasks, however many functions have some that never ran."""
    choose = random.Random(14)
    numbers = [choose.randrange(-(2**62), 2**62) if at % 4 else at for at in range(4 * 20_000)]
    trace = report_support.hard_limit().traces[0]
    tasks = whatif.tasks(msgspec.structs.replace(trace, tasks=struct.pack(f"<{len(numbers)}q", *numbers)), 1000)
    assert len(tasks) == 20_000
    assert all(one.submitted_ns <= other.submitted_ns for one, other in pairwise(tasks))
    assert min(task.run_ns for task in tasks) >= 0


# -- bombs -------------------------------------------------------------------------------------------------


def bomb(what: str, times: int, filler: int) -> bytes:
    """A session of `times` the same, and `filler` bytes that cannot be packed."""
    content = plain("hard_limit")
    report, (trace,) = content["report"], content["traces"]
    (row,) = report["pools"]
    if what == "timeline":
        trace["timeline"] = [[0, 1, 0, 0, 0, 0, 0]] * times
    elif what == "tasks":
        trace["tasks"] = bytes(32 * times)
    elif what == "findings":
        row["findings"] = report["findings"] = row["findings"] * times
    elif what == "pools":
        report["pools"] = [dict(row, name=f"pool-{number}") for number in range(times)]
        content["traces"] = [dict(trace, tasks=b"", timeline=[])] * times
    else:
        report[what] = report[what] * times if report[what] else [""] * times
    report["command"] = [random.Random(9).randbytes(filler).hex()]
    return msgspec.msgpack.encode(content)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "times"), [("timeline", 2_000_000), ("tasks", 1_000_000), ("findings", 20_000), ("notices", 20_000_000)]
)
def test_what_unpacks_to_many_times_its_size_is_refused_before_it_takes_memory(
    what: str, times: int, tmp_path: Path
) -> None:
    path = write(tmp_path / "run.session", bomb(what, times, 1000), level=9)
    size = path.stat().st_size
    tracemalloc.start()
    try:
        with pytest.raises(SessionError, match=r"run\.session unpacks to more than \d+ MiB, which no poolscope writes"):
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 3 * (sessions.ROOM_BYTES + sessions.MOST_TIMES * size)
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "times"),
    [("timeline", 300_000), ("tasks", 60_000), ("findings", 1_000), ("pools", 600), ("notices", 10**6)],
)
def test_the_most_that_a_small_file_may_hold_is_shown(what: str, times: int, tmp_path: Path) -> None:
    path = write(tmp_path / "run.session", bomb(what, times, 10_000), level=9)
    assert path.stat().st_size < 150_000
    assert check(path)


def test_what_packs_too_well_is_packed_so_that_it_can_be_read_again(tmp_path: Path) -> None:
    session = report_support.hard_limit()
    (trace,) = session.traces
    trace = msgspec.structs.replace(trace, tasks=bytes(32 * 200_000))
    session = msgspec.structs.replace(session, traces=(trace,))
    path = tmp_path / "run.session"
    save(session, path)
    assert path.stat().st_size > len(trace.tasks)
    assert load(path) == session
