"""Celery's processes, with stand-ins for its worker and its pool: what tasks may go through on their way."""

from __future__ import annotations

import sys
from collections import deque
from types import ModuleType, SimpleNamespace

import pytest
from probe_support import CountingClock, FakeProbe, Ledger

from poolscope.probe.adapters import celery_prefork as adapter


class TaskPool:
    """Of `celery.concurrency.prefork`: what it is given stays in `given`."""

    _pool = None

    def __init__(self, limit):
        self.limit = limit
        self.given = []

    def on_start(self):
        processes = [SimpleNamespace(pid=100 + n, index=n, _popen=SimpleNamespace(returncode=None)) for n in range(9)]
        self._pool = SimpleNamespace(_pool=processes[: self.limit], _processes=self.limit, spare=processes)

    def on_apply(self, **options):
        self.given.append(options)

    def apply_async(self, target, args=None, kwargs=None, **options):
        self.on_apply(**options)


class WorkController:
    """Of `celery.worker.worker`: gives the pool no more than it has processes."""

    def __init__(self, limit):
        self.pool = TaskPool(limit)
        self.pool.on_start()
        self.free, self.waiting = limit, deque()

    def _process_task_sem(self, req):
        return self._quick_acquire(self._process_task, req)

    def _quick_acquire(self, process, req):
        if self.free:
            self.free -= 1
            return process(req)
        return self.waiting.append((process, req))

    def release(self):
        process, req = self.waiting.popleft()
        process(req)

    def _process_task(self, req):
        if not req.revoked:
            req.execute_using_pool(self.pool)


class Request:
    """A task that has been taken from the broker."""

    def __init__(self, fn, revoked=False):
        self.task = SimpleNamespace(run=fn)
        self.revoked = revoked
        self.heard = []

    def execute_using_pool(self, pool):
        pool.apply_async(
            None, accept_callback=self.on_accepted, callback=self.on_success, error_callback=self.on_failure
        )

    def on_accepted(self, pid, at):
        self.heard.append(pid)

    def on_success(self, value):
        self.heard.append(value)

    def on_failure(self, info):
        self.heard.append(info)


class Signal:
    def __init__(self):
        self.receivers = []

    def connect(self, receiver, weak):
        self.receivers.append(receiver)

    def disconnect(self, receiver):
        self.receivers.remove(receiver)


@pytest.fixture
def celery(monkeypatch):
    parts = {
        "celery.concurrency.prefork": {"TaskPool": TaskPool},
        "celery.worker.worker": {"WorkController": WorkController},
        "celery.signals": {name: Signal() for name in ("worker_process_init", "task_prerun", "task_postrun")},
    }
    for name, contents in parts.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)
    return sys.modules["celery.signals"]


@pytest.fixture
def probe(celery):
    before = dict(vars(TaskPool)), dict(vars(WorkController))
    made = FakeProbe(CountingClock())
    adapter.patch(made)
    yield made
    adapter.unpatch()
    assert (dict(vars(TaskPool)), dict(vars(WorkController))) == before
    assert not any(signal.receivers for signal in vars(celery).values() if isinstance(signal, Signal))
    assert not made.faults


def ledger(probe):
    return Ledger(probe.recorders[0], probe)


def fetch():
    pass


def test_from_the_broker_to_a_process_and_back(probe):
    worker = WorkController(2)
    requests = [Request(fetch) for _ in range(3)]
    for request in requests:
        worker._process_task_sem(request)
    book = ledger(probe)
    book.only(submitted=3, queued=3)
    assert (book.workers, book.max_workers, probe.recorders[0].name) == (2, 2, "celery.prefork")
    first, second = worker.pool.given
    first["accept_callback"](101, 0.0)
    second["accept_callback"](100, 0.0)
    book.only(submitted=3, queued=1, running=2)
    first["callback"]((0, "value", 1e-9))
    second["callback"]((1, "info", 1e-9))
    book.only(submitted=3, queued=1, succeeded=1, failed=1)
    assert [request.heard for request in requests] == [[101, (0, "value", 1e-9)], [100, (1, "info", 1e-9)], []]
    worker.release()
    worker.pool.given[2]["accept_callback"](100, 0.0)
    worker.pool.given[2]["error_callback"]("lost")
    book.only(submitted=3, succeeded=1, failed=2)
    assert {worker for worker, *_ in book.finished} == {1, 2}


def test_a_revoked_task_was_cancelled(probe):
    worker = WorkController(1)
    worker._process_task_sem(Request(fetch, revoked=True))
    ledger(probe).only(submitted=1, cancelled=1)


def test_a_result_without_a_start(probe):
    worker = WorkController(1)
    worker._process_task(Request(fetch))
    worker.pool.given[0]["error_callback"]("no process could take it")
    ledger(probe).only(submitted=1, broken=1)


def test_a_pool_that_grows(probe):
    worker = WorkController(1)
    worker.pool._pool._pool = worker.pool._pool.spare
    for _ in range(2):
        worker._process_task(Request(fetch))
    for pid, options in zip((104, 100), worker.pool.given, strict=True):
        options["accept_callback"](pid, 0.0)
    book = ledger(probe)
    book.only(submitted=2, running=2)
    assert [log.place() for log in probe.recorders[0].workers] == [None, None]


def test_another_version_is_left_alone(celery, monkeypatch):
    monkeypatch.setattr(WorkController, "_process_task_sem", lambda self, req: None)
    probe = FakeProbe()
    adapter.patch(probe)
    WorkController(1)
    [(kind, text)] = probe.messages
    assert kind == "notice"
    assert "no WorkController._process_task_sem that uses _quick_acquire and _process_task" in text
