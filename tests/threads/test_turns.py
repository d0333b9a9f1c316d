"""What threads and tasks wait for, read from real ones that stand still at a known line."""

from __future__ import annotations

import asyncio
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed, wait
from multiprocessing.pool import ThreadPool
from types import SimpleNamespace
from typing import Any
from weakref import ref

import pytest
from probe_support import FakeProbe

from poolscope.probe.executors import threadpool
from poolscope.probe.interpreter.cpu import CpuClocks
from poolscope.probe.interpreter.gil import gil_enabled
from poolscope.probe.sampling import coroutines
from poolscope.probe.sampling.turns import TurnReader

LIMIT = 20
THIS = __file__

pytestmark = pytest.mark.skipif(not gil_enabled(), reason="tasks are read under the GIL only")


class Free(CpuClocks):
    """Looking costs nothing, so that no look is left out."""

    def own(self) -> int:
        return 0


@pytest.fixture
def reader() -> TurnReader:
    return TurnReader(Free())


@pytest.fixture
def opened() -> Iterator[Callable[[Callable[[threading.Event], object]], threading.Event]]:
    """Runs functions in threads of their own until each is let go."""
    events: list[threading.Event] = []
    threads: list[threading.Thread] = []

    def run(function: Callable[[threading.Event], object]) -> threading.Event:
        event = threading.Event()
        events.append(event)
        threads.append(threading.Thread(target=function, args=(event,), name=function.__name__))
        threads[-1].start()
        return event

    yield run
    for event in events:
        event.set()
    for thread in threads:
        thread.join(LIMIT)


def turns(reader: TurnReader, of: str) -> list[list[Any]]:
    """What is told of those with a line in the function of that name."""
    told = [each for message in reader.read([], 1) for each in message[2]]
    return [each for each in told if any(line[2].endswith(of) for line in each[5])]


def seen(reader: TurnReader, of: str) -> list[Any]:
    """The one turn of that function, waited for."""
    deadline = threading.Event()
    for _ in range(LIMIT * 100):
        if found := turns(reader, of):
            return found[0]
        deadline.wait(0.01)
    raise AssertionError(f"{of} does not wait")


def line_of(function: Callable[..., object], text: str) -> int:
    lines, first = inspect.getsourcelines(function)
    return first + next(number for number, line in enumerate(lines) if text in line)


def test_a_thread_that_waits_for_a_future_a_thread_and_the_end_of_a_pool(reader: TurnReader, opened: Any) -> None:
    def for_a_future(event: threading.Event) -> None:
        with ThreadPoolExecutor(2) as pool:
            pool.submit(event.wait, LIMIT).result()  # here

    def for_a_thread(event: threading.Event) -> None:
        thread = threading.Thread(target=event.wait, args=(LIMIT,))
        thread.start()
        thread.join()  # here

    def for_the_end(event: threading.Event) -> None:
        with ThreadPoolExecutor(2) as pool:  # here
            pool.submit(event.wait, LIMIT)

    def for_a_result(event: threading.Event) -> None:
        with ThreadPool(2) as pool:
            pool.apply(event.wait, (LIMIT,))  # here

    def for_many(event: threading.Event) -> None:
        with ThreadPoolExecutor(2) as pool:
            for each in pool.map(event.wait, [LIMIT]):  # here
                assert each

    gates = {for_a_future: "future", for_a_thread: "thread", for_the_end: "end", for_a_result: "future"}
    for function, gate in {**gates, for_many: "batch"}.items():
        opened(function)
        told = seen(reader, function.__name__)
        assert told[3] == gate, function.__name__
        assert told[5][-1] == (THIS, line_of(function, "# here"), function.__qualname__)


def test_rounds_are_those_of_their_pool(reader: TurnReader) -> None:
    probe, go_on = FakeProbe(), threading.Event()
    threadpool.patch(probe)
    try:

        def by_map() -> None:
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(go_on.wait, [LIMIT, LIMIT]))

        def as_they_come() -> None:
            with ThreadPoolExecutor(2) as pool:
                for each in as_completed([pool.submit(go_on.wait, LIMIT) for _ in range(2)]):
                    each.result()

        def for_all() -> None:
            with ThreadPoolExecutor(2) as pool:
                wait([pool.submit(go_on.wait, LIMIT) for _ in range(2)])

        def for_the_end() -> None:
            with ThreadPoolExecutor(2) as pool:
                pool.submit(go_on.wait, LIMIT)

        gates = {by_map: "batch", as_they_come: "batch", for_all: "batch", for_the_end: "end"}
        threads = [threading.Thread(target=function) for function in gates]
        for number, (thread, (function, gate)) in enumerate(zip(threads, gates.items(), strict=True), 1):
            thread.start()
            running = 1 if function is for_the_end else 2
            patience = threading.Event()
            for _ in range(LIMIT * 100):
                watches = [SimpleNamespace(recorder=recorder, quiet=False) for recorder in probe.recorders]
                told = [each for message in reader.read(watches, 1) for each in message[2]]
                mine = [each for each in told if each[5][-1][2].endswith(function.__name__)]
                if mine and mine[0][1:5:2] == [number, gate] and mine[0][4] == running - 1:
                    break
                patience.wait(0.01)
            assert [(each[1], each[3], each[4]) for each in mine] == [(number, gate, running - 1)], function.__name__
    finally:
        go_on.set()
        for thread in threads:
            thread.join(LIMIT)
        threadpool.unpatch()
    assert not probe.faults


def test_another_future_is_another_turn(reader: TurnReader, opened: Any) -> None:
    futures: list[Future[int]] = [Future(), Future()]

    def in_turn(_: threading.Event) -> None:
        for future in futures:
            future.result()

    opened(in_turn)
    first, again = seen(reader, "in_turn"), seen(reader, "in_turn")
    assert first[6] == again[6], "one turn, seen twice"
    futures[0].set_result(1)
    while (later := seen(reader, "in_turn"))[6] == first[6]:
        pass
    assert later[6][-1] > first[6][-1]
    futures[1].set_result(2)


async def ask(event: asyncio.Event) -> None:
    await event.wait()  # asked


async def each(events: list[asyncio.Event]) -> None:
    for event in events:
        await ask(event)  # each


class Loop:
    """An event loop in a thread of its own, of which a reader knows."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = asyncio.new_event_loop()
        monkeypatch.setitem(coroutines.LOOPS, id(self.loop), (ref(self.loop), 7))
        self.events: list[asyncio.Event] = []
        self.thread = threading.Thread(target=self.run)

    def run(self) -> None:
        self.events = [asyncio.Event() for _ in range(3)]
        self.loop.run_until_complete(each(self.events))  # run
        self.loop.close()

    def go_on(self, place: int) -> None:
        self.loop.call_soon_threadsafe(self.events[place].set)


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    made = Loop(monkeypatch)
    made.thread.start()
    yield made
    for place in range(3):
        made.go_on(place)
    made.thread.join(LIMIT)


def test_a_task_is_told_with_all_of_its_callers(reader: TurnReader, running: Loop) -> None:
    loop, pool, _, gate, others, lines, numbers = seen(reader, "ask")
    assert (loop, pool, gate, others) == (7, 0, "limit", 0), "an event is waited for"
    assert [line[2] for line in lines[-3:]] == ["Loop.run", "each", "ask"]
    assert lines[-1] == (THIS, line_of(ask, "# asked"), "ask")
    assert lines[-2] == (THIS, line_of(each, "# each"), "each")
    assert lines[-3] == (THIS, line_of(Loop.run, "# run"), "Loop.run")
    assert len(numbers) == len(lines)


def test_each_level_has_turns_of_its_own(reader: TurnReader, running: Loop) -> None:
    first = seen(reader, "ask")
    running.go_on(0)
    while (later := seen(reader, "ask"))[6][-1] == first[6][-1]:
        pass
    assert later[6][-3] == first[6][-3], "the loop still runs the same task"
    assert later[6][-2] != first[6][-2], "which awaits another call"


def test_a_task_that_is_awaited_is_not_beside_the_one_that_awaits_it(
    reader: TurnReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.new_event_loop()
    monkeypatch.setitem(coroutines.LOOPS, id(loop), (ref(loop), 9))
    told: list[Any] = []

    async def awaits() -> None:
        event = asyncio.Event()
        loop.call_later(0.05, lambda: (told.extend(turns(reader, "awaits")), event.set()))
        beside = asyncio.create_task(event.wait())
        task = asyncio.create_task(event.wait())
        await task
        await beside

    loop.run_until_complete(awaits())
    loop.close()
    assert [(each[0], each[3], each[4]) for each in told] == [(9, "await", 1)]


def test_nothing_is_kept_alive(reader: TurnReader, running: Loop) -> None:
    seen(reader, "ask")
    (task,) = asyncio.all_tasks(running.loop)
    before = sys.getrefcount(task)
    reader.read([], 1)
    assert sys.getrefcount(task) == before


def test_a_gathering_is_several_at_once(reader: TurnReader, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = asyncio.new_event_loop()
    monkeypatch.setitem(coroutines.LOOPS, id(loop), (ref(loop), 8))
    told: list[Any] = []

    async def rounds() -> None:
        event = asyncio.Event()
        loop.call_later(0.05, lambda: (told.extend(turns(reader, "rounds")), event.set()))
        await asyncio.gather(event.wait(), event.wait())

    loop.run_until_complete(rounds())
    loop.close()
    assert [(each[0], each[3], each[4]) for each in told] == [(8, "batch", 2)]


def test_where_asyncio_is_another_one_nothing_of_it_is_read(running: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    notices: list[str] = []
    reader = TurnReader(Free(), tell=notices.append)
    monkeypatch.delattr(asyncio.tasks, "shield")
    assert turns(reader, "ask") == []
    (notice,) = notices
    assert notice.startswith("what event loops do in turn is not seen: ")
