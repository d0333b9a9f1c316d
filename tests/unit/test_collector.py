"""The collector reads everybody, believes nobody, and ends in time. No threads: it is told to end before it runs."""

from __future__ import annotations

import itertools
import socket
import threading
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from poolscope.errors import PoolscopeError
from poolscope.probe.transport.channel import encode
from poolscope.supervisor.collector import CATCH_UP_NS, LATE_ROUNDS, TICK_NS, Collector

SECOND = 1_000_000_000


class FakeJudge:
    """Keeps what it is told, per connection; refuses what says so."""

    def __init__(self, lock: threading.Lock) -> None:
        self.lock = lock
        self.heard: dict[int, list[Any]] = {}
        self.gone: list[int] = []
        self.notices: list[str] = []
        self.ticks: list[int] = []
        self.delivered = 0
        self.fails = False

    def feed(self, source: int, raw: Sequence[Any]) -> None:
        assert self.lock.locked()
        if raw[0] == "nonsense":
            raise PoolscopeError("unreadable")
        if raw[0] == "bug":
            raise ZeroDivisionError("a bug")
        self.heard.setdefault(source, []).append(list(raw))

    def lost(self, source: int, now_ns: int) -> None:
        assert self.lock.locked()
        self.gone.append(source)

    def notice(self, text: str) -> None:
        assert self.lock.locked()
        self.notices.append(text)

    def failed(self, part: str, text: str) -> None:
        assert self.lock.locked()
        self.notices.append(f"{part}: {text}")

    def tick(self, now_ns: int) -> None:
        assert self.lock.locked()
        self.ticks.append(now_ns)
        if self.fails:
            raise ZeroDivisionError("a bug")

    def deliver(self) -> None:
        assert not self.lock.locked()
        self.delivered += 1


class Setup:
    """A collector, its judge, and processes that talk to it. The clock goes on by 10 ms a reading."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self.judge = FakeJudge(self._lock)
        self.collector = Collector(self._lock, path, itertools.count(0, SECOND // 100).__next__)
        self._processes: list[socket.socket] = []

    def process(self, data: bytes, *, ends: bool = True) -> None:
        process = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        process.connect(self._path)
        process.sendall(data)
        if ends:
            process.close()
        else:
            self._processes.append(process)

    def say(self, data: bytes) -> None:
        self._processes[0].sendall(data)

    def run(self, patience_ns: int = 10 * SECOND) -> FakeJudge:
        self.collector.finish(patience_ns)
        self.collector.run(self.judge)
        return self.judge

    def close(self) -> None:
        self.collector.close()
        for process in self._processes:
            process.close()


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    made = Setup(str(tmp_path / "s"))
    yield made
    made.close()


def test_everything_that_was_sent_is_heard(setup: Setup) -> None:
    for name in ("a", "b"):
        setup.process(encode(("hello", name)) + encode(("bye", 1)))
    judge = setup.run()
    assert judge.heard == {1: [["hello", "a"], ["bye", 1]], 2: [["hello", "b"], ["bye", 1]]}
    assert sorted(judge.gone) == [1, 2]
    assert setup.collector.connections == 2


@pytest.mark.parametrize("ends", [True, False])
def test_what_was_sent_in_time_is_heard_however_late_it_is_read(setup: Setup, ends: bool) -> None:
    """On a busy machine the judge may be ready only when the program has ended, and the patience with it."""
    setup.process(encode(("hello", "a")) + encode(("bye", 1)), ends=ends)
    judge = setup.run(patience_ns=0)
    assert judge.heard == {1: [["hello", "a"], ["bye", 1]]}
    assert judge.gone == [1] * ends


def test_which_processes_live_on_is_known(setup: Setup) -> None:
    setup.process(encode(("hello", 4, 711)), ends=False)
    setup.process(encode(("hello", 4, 712)) + encode(("bye", 1)))
    setup.run(patience_ns=0)
    assert setup.collector.outliving() == [711]


def test_a_forked_child_that_has_yet_to_speak_is_waited_for(setup: Setup) -> None:
    # It has inherited the door, and connects only when it has something to say.
    setup.process(encode(("door", 5)), ends=False)
    tick = setup.judge.tick

    def speak(now_ns: int) -> None:
        tick(now_ns)
        setup.process(encode(("hello", "child")))

    setup.judge.tick = speak  # type: ignore[method-assign]
    assert ["hello", "child"] in setup.run(patience_ns=SECOND).heard[2]


def test_who_goes_on_to_talk_is_not_heard_for_ever(setup: Setup) -> None:
    setup.process(encode(("hello", "a")), ends=False)
    feed = setup.judge.feed

    def talk(source: int, raw: Sequence[Any]) -> None:
        feed(source, raw)
        setup.say(encode(("more",)))

    setup.judge.feed = talk  # type: ignore[method-assign]
    judge = setup.run(patience_ns=0)
    assert 2 <= len(judge.heard[1]) <= LATE_ROUNDS + 1


def test_more_than_one_read_can_take(setup: Setup) -> None:
    batch = ("pool_batch", 1, 2, 3, 4, 5, 0, list(range(5000)), [], [], [], [])
    setup.process(encode(batch))
    [heard] = setup.run().heard[1]
    assert [list(item) if isinstance(item, array) else item for item in heard] == list(batch)


@pytest.mark.parametrize(
    ("data", "notice"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "a process is watched no more: a frame of"),
        (encode(("nonsense",)), "a process is watched no more: unreadable"),
        (encode(("bug",)), "intake: ZeroDivisionError: a bug"),
    ],
)
def test_a_process_that_makes_no_sense_is_dropped_alone(setup: Setup, data: bytes, notice: str) -> None:
    setup.process(encode(("hello", "mad")) + data, ends=False)
    setup.process(encode(("hello", "sane")))
    judge = setup.run()
    assert judge.heard[2] == [["hello", "sane"]]
    assert len(judge.notices) == 1
    assert notice in judge.notices[0]
    assert sorted(judge.gone) == [1, 2]


def test_a_frame_that_was_cut_off_is_no_fault(setup: Setup) -> None:
    setup.process(encode(("hello", "a")) + encode(("bye", 1))[:-3])
    judge = setup.run()
    assert judge.heard == {1: [["hello", "a"]]}
    assert judge.notices == []


def test_a_process_that_lives_on_is_waited_for_in_vain(setup: Setup) -> None:
    setup.process(encode(("hello", "a")), ends=False)
    judge = setup.run(patience_ns=SECOND)
    assert judge.heard == {1: [["hello", "a"]]}
    assert judge.gone == []


def test_the_judge_is_told_the_time(setup: Setup) -> None:
    setup.process(b"", ends=False)
    judge = setup.run(patience_ns=SECOND)
    assert 5 <= len(judge.ticks) <= SECOND // TICK_NS
    assert judge.delivered == len(judge.ticks)


def test_a_judge_that_fails_is_told_of_once(setup: Setup) -> None:
    setup.judge.fails = True
    setup.process(encode(("hello", "a")), ends=False)
    judge = setup.run(patience_ns=SECOND)
    assert len(judge.ticks) > 1
    assert judge.heard == {1: [["hello", "a"]]}
    assert judge.notices == ["judge: ZeroDivisionError: a bug"]


def test_after_a_stop_of_its_own_all_is_read_before_the_judge_is_told_the_time(setup: Setup) -> None:
    setup.collector._clock = itertools.chain([0, 0], itertools.count(6 * SECOND, SECOND // 100)).__next__
    setup.process(encode(("hello", "a")), ends=False)
    order: list[str] = []
    feed, tick = setup.judge.feed, setup.judge.tick

    def talk(source: int, raw: Sequence[Any]) -> None:
        order.append(raw[0])
        feed(source, raw)
        if len(order) < 20:
            setup.say(encode(("more",)))

    def told(now_ns: int) -> None:
        order.append("tick")
        tick(now_ns)

    setup.judge.feed, setup.judge.tick = talk, told  # type: ignore[method-assign]
    setup.run(patience_ns=7 * SECOND)
    assert order[:20] == ["hello"] + ["more"] * 19
    assert set(order[20:]) == {"tick"}


def test_who_goes_on_to_talk_does_not_keep_the_time_from_the_judge_for_ever(setup: Setup) -> None:
    setup.collector._clock = itertools.chain([0, 0], itertools.count(6 * SECOND, SECOND // 100)).__next__
    setup.process(encode(("hello", "a")), ends=False)
    feed = setup.judge.feed

    def talk(source: int, raw: Sequence[Any]) -> None:
        feed(source, raw)
        setup.say(encode(("more",)))

    setup.judge.feed = talk  # type: ignore[method-assign]
    judge = setup.run(patience_ns=14 * SECOND)
    assert judge.ticks
    assert min(judge.ticks) >= 6 * SECOND + CATCH_UP_NS


def test_who_says_what_time_it_is_has_told_all_that_was_before(setup: Setup) -> None:
    setup.collector._clock = itertools.chain([0, 0], itertools.count(6 * SECOND, SECOND // 100)).__next__
    setup.process(encode(("hello", "a")), ends=False)
    order: list[Any] = []
    feed, tick = setup.judge.feed, setup.judge.tick

    def talk(source: int, raw: Sequence[Any]) -> None:
        order.append(raw[-1])
        feed(source, raw)
        setup.say(encode(("process_tick", len(order) * SECOND)))

    def told(now_ns: int) -> None:
        order.append("tick")
        tick(now_ns)

    setup.judge.feed, setup.judge.tick = talk, told  # type: ignore[method-assign]
    setup.run(patience_ns=7 * SECOND)
    before = order[: order.index("tick")]
    assert before[:2] == ["a", SECOND]
    assert 6 * SECOND < before[-1] < 10 * SECOND
