"""What a program starts itself is counted, and starts as ever."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import socketserver
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest
from probe_support import FakeProbe, mistake

from poolscope.probe import targets
from poolscope.probe.recording import own_starts

LIMIT = 30  # seconds for what is sure to come
STARTS = {cls: cls.start for cls in (threading.Thread, multiprocessing.process.BaseProcess)}
FILE = f"{os.path.basename(os.path.dirname(__file__))}/{os.path.basename(__file__)}"


@pytest.fixture
def probe():
    own_starts._state.forget()
    made = FakeProbe()
    targets.own_starts().patch(made)
    yield made
    own_starts.unpatch()
    own_starts._state.forget()
    assert not made.faults
    assert {cls: cls.start for cls in STARTS} == STARTS


def counted(probe):
    """(what, place or library) -> how many, and whether one was over before the next began."""
    own_starts.flush()
    found = {}
    for tag, what, where, _, more, in_turn, _ in (each for each in probe.messages if each[0] == "started"):
        assert tag == "started"
        number, _ = found.get((what, where.partition(":")[0]), (0, True))
        found[what, where.partition(":")[0]] = number + more, in_turn
    return found


def test_threads_one_after_the_other(probe):
    for _ in range(30):
        thread = threading.Thread(target=int)
        thread.start()
        thread.join(LIMIT)
    assert counted(probe) == {("thread", FILE): (30, True)}
    places = {message[2] for message in probe.messages}
    assert len(places) == 1
    # Told when their number has doubled, so that a program that is killed was told of.
    assert [message[4] for message in probe.messages] == [1, 1, 2, 4, 8, 14]


def test_threads_at_once(probe):
    go = threading.Event()
    threads = [threading.Thread(target=go.wait, args=(LIMIT,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    go.set()
    for thread in threads:
        thread.join(LIMIT)
    assert counted(probe) == {("thread", FILE): (3, False)}


def test_what_has_gone_without_being_asked_for_was_over(probe):
    others = threading.active_count()  # of tests before
    for _ in range(3):
        threading.Timer(0, int).start()
        while threading.active_count() > others:
            time.sleep(0.001)
    assert counted(probe)["thread", FILE][0] == 3


class Started(threading.Thread):
    def start(self):
        self.said = "started"
        super().start()


def test_a_class_of_the_programs_own_starts_at_its_line(probe):
    thread = Started(target=int)
    thread.start()
    thread.join(LIMIT)
    assert thread.said == "started"
    assert counted(probe) == {("thread", FILE): (1, True)}


def test_threads_of_pools_that_are_watched_are_not_counted_twice(probe):
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(abs, (-1, -2))) == [1, 2]
    assert counted(probe) == {}
    assert own_starts.started() > 0


def test_threads_of_a_library_go_by_its_name(probe):
    class Answer(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.sendall(b"1")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Answer) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        import socket

        with socket.create_connection(server.server_address, LIMIT) as client:
            assert client.recv(1) == b"1"
        server.shutdown()
        serving.join(LIMIT)
    assert counted(probe) == {("thread", FILE): (1, True), ("thread", "socketserver"): (1, True)}


def test_processes(probe):
    context = multiprocessing.get_context("spawn")
    for _ in range(2):
        process = context.Process(target=int)
        process.start()
        process.join(LIMIT)
        assert process.exitcode == 0
    assert counted(probe) == {("process", FILE): (2, True)}


class Unknown(concurrent.futures.Executor):
    def submit(self, fn, /, *args, **kwargs):
        future = concurrent.futures.Future()
        threading.Thread(target=lambda: future.set_result(fn(*args, **kwargs))).start()
        return future


def test_an_executor_of_an_unknown_kind_is_named(probe):
    assert Unknown().submit(abs, -3).result(LIMIT) == 3
    (message,) = (each for each in probe.messages if each[0] == "started")
    assert message[6] == f"{__name__}.Unknown"


def test_an_error_has_no_line_of_ours(probe):
    thread = threading.Thread(target=int)
    thread.start()
    thread.join(LIMIT)
    with pytest.raises(RuntimeError, match="threads can only be started once") as caught:
        thread.start()
    files = [os.path.basename(frame.filename) for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert files == [os.path.basename(__file__), "threading.py"]


def test_a_failure_of_ours_stays_ours(probe, monkeypatch):
    monkeypatch.setattr(own_starts, "_place", mistake(TypeError("ours")))
    thread = threading.Thread(target=int)
    thread.start()
    thread.join(LIMIT)
    assert [part for part, _ in probe.faults] == ["starts"]
    probe.faults.clear()


def test_without_a_probe_the_first_one_calls_for_one():
    own_starts._state.forget()
    called = []
    targets.own_starts().await_first(lambda: called.append(1))
    try:
        for _ in range(2):
            thread = threading.Thread(target=int)
            thread.start()
            thread.join(LIMIT)
        assert called == [1]
        probe = FakeProbe()
        own_starts.patch(probe)
        assert counted(probe) == {("thread", FILE): (2, True)}
    finally:
        own_starts.unpatch()
        own_starts._state.forget()
    assert {cls: cls.start for cls in STARTS} == STARTS
