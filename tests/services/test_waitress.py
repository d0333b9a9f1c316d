"""waitress: a real server under load, and its dispatcher in process, gated by events."""

from __future__ import annotations

import logging
import signal
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import waitress.task
from cli_support import await_true, script
from load_support import check_knee
from probe_support import FakeProbe, Ledger
from service_support import serving, tool
from waitress.server import create_server
from waitress.task import ThreadedTaskDispatcher

from poolscope.probe import adapters
from poolscope.probe.adapters import waitress as adapter

LIMIT = 30  # seconds for what is sure to come

APP = """
import time

def app(environ, start_response):
    number = environ["PATH_INFO"].rpartition("/")[2]
    time.sleep(0.05)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"page {number}".encode()]
"""


def test_a_server_under_load(tmp_path: Path) -> None:
    script(tmp_path, APP, "app.py")
    command = (tool("waitress-serve"), "--listen", "127.0.0.1:{port}", "--threads", "4", "app:app")
    with serving(*command, folder=tmp_path, watched=False) as server:
        plain = server.drive("/pages/{}", clients=2, requests=10)
        alone = server.stop(signal.SIGINT)
    with serving(*command, folder=tmp_path) as server:
        before = server.drive("/pages/{}", clients=2, requests=10)
        crowd = server.drive("/pages/{}", clients=40, requests=4)
        after = server.drive("/pages/{}", clients=2, requests=10)
        ended = server.stop(signal.SIGINT)
    assert before == after == plain
    assert [answer.body for answer in crowd] == [b"page %d" % number for number in range(160)]
    assert (ended.status, ended.out) == (alone.status, alone.out)
    pool = ended.pool("waitress")
    assert (pool["kind"], pool["executor"]) == ("waitress", "waitress.task.ThreadedTaskDispatcher")
    assert (pool["max_workers"], pool["peak_active"]) == (4, 4)
    assert pool["tasks"]["succeeded"] == pool["tasks"]["submitted"] == 200
    assert [function["name"] for function in pool["functions"]] == ["app.app"]
    check_knee(ended, "waitress", "app.py", "time.sleep(0.05)", gentle_seconds=10 * 0.05)


@pytest.fixture
def probe():
    made = FakeProbe()
    yield made
    adapter.unpatch()
    assert not made.faults


@pytest.fixture
def dispatcher():
    made = []

    def make(threads):
        dispatcher = ThreadedTaskDispatcher()
        dispatcher.set_thread_count(threads)
        made.append(dispatcher)
        return dispatcher

    yield make
    for dispatcher in made:
        dispatcher.shutdown(timeout=LIMIT)


class Task:
    def __init__(self, error=None):
        self.started, self.go, self.cancelled = threading.Event(), threading.Event(), False
        self.error = error

    def service(self):
        self.started.set()
        assert self.go.wait(LIMIT)
        if self.error is not None:
            raise self.error

    def cancel(self):
        self.cancelled = True


def test_waits_runs_and_what_is_cancelled_at_the_end(probe, dispatcher):
    adapter.patch(probe)
    pool = dispatcher(2)
    tasks = [Task() for _ in range(5)]
    for task in tasks:
        pool.add_task(task)
    for task in tasks[:2]:
        assert task.started.wait(LIMIT)
    [recorder] = probe.recorders
    ledger = Ledger(recorder, probe)
    ledger.only(submitted=5, queued=3, running=2)
    assert (ledger.workers, ledger.max_workers) == (2, 2)
    assert probe.opened == [(None, "waitress", "waitress")]
    assert set(probe.function_names().values()) == {f"{__name__}.Task.service"}
    tasks[0].go.set()
    assert tasks[2].started.wait(LIMIT)
    closing = threading.Thread(target=pool.shutdown)
    closing.start()
    await_true(lambda: pool.stop_count == 2, "it does not close")
    ledger.only(submitted=5, succeeded=1, queued=2, running=2)
    assert (ledger.workers, ledger.max_workers) == (2, 2)
    # The threads take nothing more, and what is queued is cancelled.
    tasks[1].go.set()
    tasks[2].go.set()
    closing.join(LIMIT)
    assert [task.cancelled for task in tasks] == [False, False, False, True, True]
    ledger.only(submitted=5, succeeded=3, cancelled=2)
    assert (ledger.workers, ledger.max_workers) == (0, 2)


def test_what_a_task_raises_is_logged_as_without_us(probe, dispatcher, caplog):
    def logged():
        pool = dispatcher(1)
        task, behind = Task(ValueError("no")), Task()
        task.go.set()
        behind.go.set()
        caplog.clear()
        pool.add_task(task)
        pool.add_task(behind)
        assert behind.started.wait(LIMIT)
        [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
        frames = []
        step = record.exc_info[2]
        while step is not None:
            frames.append(step.tb_frame.f_code.co_qualname)
            step = step.tb_next
        return record.getMessage().partition(" object at")[0], frames

    plain = logged()
    adapter.patch(probe)
    assert logged() == plain
    ledger = Ledger(probe.recorders[0], probe)
    await_true(lambda: ledger.read().succeeded, "the second does not end")
    ledger.only(submitted=2, failed=1, succeeded=1)


def test_a_server_that_is_older_is_watched_from_its_next_task_on(probe, dispatcher):
    pool = dispatcher(1)
    before, during, after = Task(), Task(), Task()
    pool.add_task(before)
    assert before.started.wait(LIMIT)
    adapter.patch(probe)
    pool.add_task(during)
    adapter.unpatch()
    pool.add_task(after)
    ledger = Ledger(probe.recorders[0], probe)
    ledger.only(submitted=1, queued=1)
    for task in (before, during, after):
        task.go.set()
        assert task.started.wait(LIMIT)
    pool.shutdown(timeout=LIMIT)
    ledger.only(submitted=1, succeeded=1)


def test_it_goes_off_as_it_came(probe):
    cls = waitress.task.ThreadedTaskDispatcher
    before = dict(vars(cls))
    for _ in range(2):
        adapter.patch(probe)
        adapter.patch(probe)
        assert vars(cls)["add_task"] is not before["add_task"]
        adapter.unpatch()
        adapter.unpatch()
        assert dict(vars(cls)) == before


def test_the_settings_may_say_how_many_threads(probe, dispatcher):
    probe.add_rule("waitress", 3)
    adapter.patch(probe)
    pool = dispatcher(1)
    assert len(pool.threads) == 3
    pool.shutdown(timeout=LIMIT)
    assert not pool.threads


def application(environ, start_response):
    raise AssertionError


@pytest.mark.parametrize("options", [{}, {"clear_untrusted_proxy_headers": False}])
def test_a_connection_goes_by_its_application(probe, options):
    from waitress.channel import HTTPChannel

    server = create_server(application, host="127.0.0.1", port=0, threads=1, **options)
    try:
        channel = HTTPChannel.__new__(HTTPChannel)
        channel.server = server
        function = probe.functions.identify(adapter._application(channel))
        assert probe.function_names()[function] == f"{__name__}.application"
    finally:
        server.close()


@pytest.mark.parametrize("hidden", ["add_task", "handler_thread", "shutdown", "set_thread_count", None])
def test_another_version_is_left_alone(probe, monkeypatch, hidden):
    fake: Any = ModuleType("waitress.task")
    if hidden is not None:
        fake.ThreadedTaskDispatcher = type("ThreadedTaskDispatcher", (), dict(vars(ThreadedTaskDispatcher)))
        delattr(fake.ThreadedTaskDispatcher, hidden)
        before = dict(vars(fake.ThreadedTaskDispatcher))
    monkeypatch.setitem(sys.modules, "waitress.task", fake)
    adapter.patch(probe)
    [(kind, text)] = probe.messages
    assert kind == "notice"
    assert text.startswith(f"waitress {adapters._version('waitress')}: its threads are not watched: no ")
    if hidden is not None:
        assert dict(vars(fake.ThreadedTaskDispatcher)) == before
