"""What a process keeps for a parent that does not read, and what it tells once that goes on."""

from __future__ import annotations

from typing import Any

import pytest

from poolscope.probe.startup import bootstrap
from poolscope.probe.startup.bootstrap import Link, Watched
from poolscope.probe.transport import thinning
from poolscope.probe.transport.channel import ChannelClosed
from poolscope.probe.transport.thinning import Thinned

Message = tuple[Any, ...]


class Parent:
    """A channel to a parent that reads, or not; each message takes 10 bytes, and a batch one for each number."""

    def __init__(self, path: str, door: None) -> None:
        self.reads = True
        self.gone = False
        self.told: list[Message] = []
        self._kept: list[Message] = []
        self.waiting = 0
        self.finished = False
        self.closed = False

    def put(self, message: Message) -> None:
        if self.gone:
            self.close()
            raise ChannelClosed
        self._kept.append(message)
        self.waiting += 10 + sum(len(item) for item in message if isinstance(item, list))

    def flush(self) -> None:
        if self.reads:
            self.told += self._kept
            self._kept, self.waiting = [], 0

    def finish(self) -> bool:
        self.finished = True
        self.flush()
        return not self.waiting

    def close(self) -> None:
        self.closed = True
        self._kept, self.waiting = [], 0

    def tags(self) -> list[str]:
        return [message[0] for message in self.told]


@pytest.fixture
def lost() -> list[str]:
    return []


@pytest.fixture
def link(monkeypatch: pytest.MonkeyPatch, lost: list[str]) -> Link:
    monkeypatch.setattr(bootstrap, "Channel", Parent)
    monkeypatch.setattr(bootstrap, "MOST_WAITING", 100)
    return Link("path", lambda: lost.append("lost"))


@pytest.fixture
def parent(link: Link) -> Any:
    assert isinstance(link._channel, Parent)
    assert link._channel.tags() == ["hello"]
    link._channel.told.clear()
    return link._channel


def batch(at: int, tasks: int = 0, pool: int = 1) -> Message:
    finished = [n for number in range(tasks) for n in (1, 2, at + number, at + number, at + number)]
    arrivals = [n for number in range(tasks) for n in (1, at + number)]
    return ("pool_batch", pool, at, 1, 1, 0, 0, finished, [], [], [], arrivals)


def deliver(link: Link, *messages: Message) -> bool:
    for message in messages:
        link.put(message)
    return link.flush()


def test_a_parent_that_reads_is_told_everything(link: Link, parent: Parent) -> None:
    for at in range(1000, 21_000, 1000):
        assert not deliver(link, batch(at, 10), ("stacks", 1, at, []))
    assert parent.tags() == ["pool_batch", "stacks"] * 20


def test_batches_beyond_the_bound_are_added_up(link: Link, parent: Parent) -> None:
    parent.reads = False
    for at in range(1000, 101_000, 1000):
        assert deliver(link, batch(at, 10), ("stacks", 1, at, []))
        assert parent.waiting <= 200
    parent.reads = True
    assert not deliver(link)
    assert parent.tags() == ["pool_batch", "stacks", "pool_batch", "pool_sums", "pool_batch"]
    sums, rest = parent.told[-2:]
    assert sums[2:5] == (2000, 100_000, 980)
    assert sums[10] == [1, 980, 0, 0, 0, 0, 0]
    assert rest == batch(100_000)
    # And then as before.
    assert not deliver(link, batch(200_000, 10))
    assert parent.tags()[-1] == "pool_batch"
    assert parent.told[-1] == batch(200_000, 10)


def test_it_goes_on_only_when_all_that_was_kept_is_out(link: Link, parent: Parent) -> None:
    parent.reads = False
    deliver(link, batch(1000, 20))
    deliver(link, batch(2000, 20))
    parent.waiting, kept = 1, parent.waiting
    assert deliver(link, batch(3000, 1))
    parent.waiting, parent.reads = kept, True
    assert not deliver(link, batch(4000, 1))
    assert parent.tags() == ["pool_batch", "pool_sums", "pool_batch"]


def test_a_pool_in_which_nothing_ended_has_nothing_left_out(link: Link, parent: Parent) -> None:
    parent.reads = False
    deliver(link, batch(1000, 20))
    waiting = [[1, 2000], [1, 3000]]
    for arrivals in waiting:
        deliver(link, (*batch(arrivals[1])[:-1], arrivals))
    parent.reads = True
    deliver(link)
    assert parent.tags() == ["pool_batch", "pool_batch"]
    assert parent.told[-1] == (*batch(3000)[:-1], [1, 2000, 1, 3000])


def test_a_pool_that_ends_meanwhile_is_told_of_in_order(link: Link, parent: Parent) -> None:
    parent.reads = False
    deliver(link, batch(1000, 20), batch(2000, 3, pool=2))
    deliver(link, batch(3000, 3, pool=2), ("pool_closed", 2, 3000))
    parent.reads = True
    deliver(link)
    assert [message[:2] for message in parent.told] == [
        ("pool_batch", 1),
        ("pool_sums", 2),
        ("pool_batch", 2),
        ("pool_closed", 2),
    ]


def test_what_else_there_is_is_bounded_too_and_that_is_said(link: Link, parent: Parent) -> None:
    parent.reads = False
    for number in range(100):
        deliver(link, ("loop_tick", number, 0, [], 0))
    assert parent.waiting <= 210
    parent.reads = True
    assert not deliver(link)
    assert parent.tags()[-1] == "notice"
    assert "had more messages than could be sent" in parent.told[-1][1]
    parent.told.clear()
    deliver(link, ("loop_tick", 1, 0, [], 0))
    assert parent.tags() == ["loop_tick"]


def test_the_end_tells_what_was_held_back_and_waits_for_it(link: Link, parent: Parent) -> None:
    parent.reads = False
    deliver(link, batch(1000, 20), batch(2000, 1))
    parent.reads, parent.finished = True, False
    link.bye()
    assert parent.tags() == ["pool_batch", "pool_sums", "pool_batch", "bye"]
    assert parent.finished


def test_a_parent_that_is_gone_is_told_of_once(link: Link, parent: Parent, lost: list[str]) -> None:
    parent.reads = False
    deliver(link, batch(1000, 20), batch(2000, 1))
    parent.gone = True
    link.put(("notice", "x"))
    assert not deliver(link, batch(3000, 1), ("notice", "y"))
    assert link._thinning is not None
    assert [message[2] for message in link._thinning.take()] == [1000, 2000]
    assert lost == ["lost"]


def test_a_long_batch_goes_in_parts(link: Link, parent: Parent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(thinning, "MOST_NUMBERS", 20)
    deliver(link, batch(1000, 10))
    assert {message[2] for message in parent.told[:-1]} == {0}
    assert parent.told[-1] == batch(1000)
    assert [n for message in parent.told for n in message[7]] == batch(1000, 10)[7]
    assert [n for message in parent.told for n in message[11]] == batch(1000, 10)[11]


def test_a_judge_of_the_same_process_takes_so_many_at_once() -> None:
    told: list[Message] = []
    sink = Thinned(told.append, most=10)
    sink.put(batch(1000, 8))
    sink.put(batch(2000, 8))
    sink.put(batch(3000, 1))
    sink.put(("pool_closed", 2, 3000))
    assert [message[0] for message in told] == ["pool_batch", "pool_closed"]
    sink.flush()
    assert [message[0] for message in told] == ["pool_batch", "pool_closed", "pool_sums", "pool_batch"]
    assert told[2][2:5] == (1000, 3000, 9)
    told.clear()
    sink(batch(4000, 10))
    assert told == [batch(4000, 10)]
    told.clear()
    sink.put(batch(5000, 11))
    sink.put(("pool_closed", 1, 5000))
    assert [message[0] for message in told] == ["pool_sums", "pool_batch", "pool_closed"]


class Reader:
    """A probe of which nothing else is asked at the end of a process."""

    def __init__(self, reads: bool) -> None:
        self.reads = reads
        self.patience = 0.0

    def stop(self, timeout: float = 0.0) -> None:
        pass

    def flush(self, timeout: float) -> bool:
        self.patience = timeout
        return self.reads


@pytest.mark.parametrize("reads", [True, False])
def test_an_end_that_was_not_read_is_told_of(link: Link, parent: Parent, reads: bool) -> None:
    process = Watched.__new__(Watched)
    reader = Reader(reads)
    vars(process).update(_over=False, _probe=reader, _link=link)
    process.finish()
    process.finish()
    assert parent.tags() == ["notice"] * (not reads) + ["bye"]
    assert reader.patience >= 1.0
    if not reads:
        assert "ended before it was read: what it did last is missing" in parent.told[0][1]
