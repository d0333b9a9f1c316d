"""Twisted's thread pools: in process, gated by events, and the reactor's in a program."""

from __future__ import annotations

import threading
import warnings
from pathlib import Path

import pytest
from adapter_support import patched
from cli_support import python, script, watched
from probe_support import FakeProbe, Ledger
from twisted.python import threadpool

from poolscope.probe.adapters import twisted as adapter

LIMIT = 30  # seconds for what is sure to come


@pytest.fixture
def probe():
    with patched(adapter) as made:
        yield made


@pytest.fixture
def pool(probe):
    made = threadpool.ThreadPool(0, 2, "names")
    made.start()
    yield made
    if not made.joined:
        made.stop()


def ledger(probe):
    return Ledger(probe.recorders[0], probe)


def test_calls_are_tasks_with_their_functions_and_outcomes(probe, pool):
    results, done = [], threading.Semaphore(0)

    def note(ok, result):
        results.append((ok, result if ok else result.type))
        done.release()

    def fail():
        raise LookupError("no such name")

    pool.callInThreadWithCallback(note, divmod, 7, 2)
    pool.callInThreadWithCallback(note, fail)
    pool.callInThread(done.release)
    for _ in range(3):
        assert done.acquire(timeout=LIMIT)
    assert sorted(results, key=str) == [(False, LookupError), (True, (3, 1))]
    pool.stop()
    ledger(probe).only(submitted=3, succeeded=2, failed=1)
    assert probe.recorders[0].name == "names"
    assert probe.recorders[0].kind == "twisted"


def test_what_waits_is_queued_until_a_thread_is_free(probe, pool):
    gate, inside = threading.Event(), threading.Semaphore(0)

    def hold():
        inside.release()
        gate.wait(LIMIT)

    for _ in range(5):
        pool.callInThread(hold)
    for _ in range(2):
        assert inside.acquire(timeout=LIMIT)
    book = ledger(probe)
    book.only(submitted=5, running=2, queued=3)
    gate.set()
    pool.stop()
    book.only(submitted=5, succeeded=5)


def test_a_traceback_has_no_line_of_ours(probe, pool):
    failures, done = [], threading.Event()

    def note(ok, failure):
        failures.append(failure.getTraceback())
        done.set()

    def fail():
        raise LookupError("no such name")

    pool.callInThreadWithCallback(note, fail)
    assert done.wait(LIMIT)
    assert "in fail" in failures[0]
    assert "adapters/twisted.py" not in failures[0]


def test_a_warning_that_counts_frames_names_the_caller_of_the_library_s(pool):
    seen, done = [], threading.Semaphore(0)

    def warn():
        warnings.warn("old", DeprecationWarning, stacklevel=2)

    def count():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                pool.callInThreadWithCallback(lambda *_: done.release(), warn)
                assert done.acquire(timeout=LIMIT)
        seen.append([Path(each.filename).name for each in caught])

    count()
    adapter.unpatch()
    count()
    assert seen[0] == seen[1]
    assert seen[0] == ["context.py"] * 2


def test_after_the_end_nothing_is_recorded(probe, pool):
    pool.stop()
    pool.callInThread(print)
    ledger(probe).only()


def test_an_unknown_version_is_left_alone(monkeypatch):
    probe = FakeProbe()
    monkeypatch.setattr(threadpool.ThreadPool, "callInThreadWithCallback", lambda self: None)
    before = dict(threadpool.ThreadPool.__dict__)
    adapter.patch(probe)
    assert dict(threadpool.ThreadPool.__dict__) == before
    assert "its thread pools are not watched" in str(probe.messages)


PROGRAM = """
    import asyncio, time
    from twisted.internet import asyncioreactor

    asyncioreactor.install(asyncio.new_event_loop())
    from twisted.internet import reactor, task, threads

    done = []

    def look_up(host):
        time.sleep(0.2)
        done.append(host)

    def crawl():
        if len(asked) < 80:
            asked.append(threads.deferToThread(look_up, "host.test"))
        elif len(done) == 80:
            print(len(done))
            reactor.stop()

    asked = []
    reactor.suggestThreadPoolSize(4)
    task.LoopingCall(crawl).start(0.03)
    reactor.run()
"""


def test_the_reactors_pool_turns_serial(tmp_path: Path) -> None:
    program = script(tmp_path, PROGRAM)
    plain = python(program, cwd=tmp_path)
    outcome, report = watched(program, cwd=tmp_path)
    assert outcome == plain
    (pool,) = report["pools"]
    assert (pool["name"], pool["kind"]) == ("twisted.internet.reactor", "twisted")
    assert (pool["max_workers"], pool["peak_workers"]) == (10, 4), "it was made for ten"
    assert pool["tasks"]["succeeded"] == 80
    (finding,) = [finding for finding in pool["findings"] if finding["severity"] != "info"]
    assert (finding["pattern"], finding["cause"]) == ("async_then_serial", "blocking_io")
    assert finding["frames"][0]["function"] == "look_up"


def test_another_size_can_be_tried(tmp_path: Path) -> None:
    program = script(tmp_path, PROGRAM)
    words = ("--set", "twisted.internet.reactor.max_workers=16")
    _, report = watched(*words, program, cwd=tmp_path)
    assert report["pools"][0]["max_workers"] == 16
    assert not [finding for finding in report["pools"][0]["findings"] if finding["severity"] != "info"]


def test_a_reactor_that_is_no_guest_of_asyncios_is_told(tmp_path: Path) -> None:
    program = script(
        tmp_path,
        """
        from twisted.internet import reactor, threads

        threads.deferToThread(divmod, 7, 2).addCallback(print).addBoth(lambda _: reactor.stop())
        reactor.run()
        """,
    )
    plain = python(program, cwd=tmp_path)
    outcome, report = watched(program, cwd=tmp_path)
    assert outcome == plain
    (notice,) = report["notices"]
    assert "is an event loop of a kind that is not known: what blocks it is not seen" in notice
