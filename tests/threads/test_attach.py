"""Recording one pool that somebody else made; what the families do is in their own tests."""

from __future__ import annotations

import concurrent.futures.thread
import gc
import multiprocessing
import threading
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.pool import ThreadPool
from time import perf_counter_ns

import pytest
from probe_support import FakeProbe, Ledger
from process_support import square

import poolscope
from poolscope.executors import processes, threads
from poolscope.probe import runtime
from poolscope.probe.executors import threadpool
from poolscope.probe.processes import multiprocessing_pool, processpool
from poolscope.probe.startup.install import install

LIMIT = 30
FAMILIES = [threadpool, processpool, multiprocessing_pool]


@pytest.fixture
def probe(monkeypatch):
    made = FakeProbe(perf_counter_ns)
    monkeypatch.setattr(runtime, "current", lambda: made)
    monkeypatch.setattr("poolscope.probe.startup.install.current", lambda: made)
    yield made
    threadpool._instances.forget()
    for family in FAMILIES:
        family.unpatch()
    assert not made.faults


@pytest.fixture(params=["threads", "processes", "multiprocessing"])
def pool(request):
    if request.param == "multiprocessing":
        with ThreadPool(1) as made:
            yield made
        made.join()
    elif request.param == "threads":
        with ThreadPoolExecutor(1, "standard") as made:
            yield made
    else:
        with ProcessPoolExecutor(1, multiprocessing.get_context("fork")) as made:
            yield made


def run(pool):
    if isinstance(pool, ThreadPool):
        assert pool.apply(square, (2,)) == 4
    else:
        assert pool.submit(square, 2).result(LIMIT) == 4


def ledger(probe):
    return Ledger(probe.recorders[-1], probe)


def test_recorded_from_then_on(probe, pool):
    run(pool)
    assert poolscope.attach(pool, name="mine") is pool
    run(pool)
    assert poolscope.attach(pool) is pool
    run(pool)
    ledger(probe).only(submitted=2, succeeded=2)
    assert [recorder.name for recorder in probe.recorders] == ["mine"]


def test_no_other_pool_is(probe, pool):
    poolscope.attach(pool)
    with ThreadPoolExecutor(1) as other:
        run(other)
    with ThreadPool(1) as other:
        run(other)
    other.join()
    assert len(probe.recorders) == 1


@pytest.mark.parametrize("order", ["attach first", "install first"])
def test_beside_install(probe, pool, order):
    if order == "attach first":
        poolscope.attach(pool)
        installation = install(loops=False)
    else:
        installation = install(loops=False)
        run(pool)
        poolscope.attach(pool)
    run(pool)
    with ThreadPoolExecutor(1) as other:
        run(other)
        installation.uninstall()
        run(other)
        assert Ledger(probe.recorders[-1], probe).read().submitted == 1
    run(pool)
    done = 2 if order == "attach first" else 3
    Ledger(probe.recorders[0], probe).only(submitted=done, succeeded=done)
    with install(loops=False):
        run(pool)
    run(pool)
    Ledger(probe.recorders[0], probe).only(submitted=2, succeeded=2)
    assert len(probe.recorders) == 2


def test_the_patch_goes_when_the_attached_pool_has_gone(probe):
    before = dict(vars(ThreadPoolExecutor))
    with poolscope.attach(ThreadPoolExecutor(1)) as pool:
        run(pool)
    install(loops=False).uninstall()
    assert dict(vars(ThreadPoolExecutor)) != before
    del pool
    gc.collect()
    install(loops=False).uninstall()
    assert dict(vars(ThreadPoolExecutor)) == before


def test_tasks_from_before_are_never_counted(probe):
    started, opened = threading.Event(), threading.Event()

    def block():
        started.set()
        assert opened.wait(LIMIT)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(block)
        assert started.wait(LIMIT)
        early, cancelled = pool.submit(square, 2), pool.submit(square, 2)
        poolscope.attach(pool)
        late, dropped = pool.submit(square, 3), pool.submit(square, 3)
        assert cancelled.cancel()
        assert dropped.cancel()
        book = ledger(probe)
        book.only(submitted=2, queued=1, cancelled=1)
        opened.set()
        assert (early.result(LIMIT), late.result(LIMIT)) == (4, 9)
    book.only(submitted=2, succeeded=1, cancelled=1)


def test_a_subclass_with_its_own_submit(probe):
    calls = []

    class Own(ThreadPoolExecutor):
        def submit(self, fn, /, *args, **kwargs):
            calls.append(fn)
            return super().submit(fn, *args, **kwargs)

    with poolscope.attach(Own(1)) as pool:
        run(pool)
    assert calls == [square]
    ledger(probe).only(submitted=1, succeeded=1)


@pytest.mark.parametrize("module", [threads, processes])
def test_the_own_executors_are_renamed_at_most(probe, monkeypatch, module):
    monkeypatch.setattr(module, "_find_probe", lambda: probe)
    cls = module.ThreadPoolExecutor if module is threads else module.ProcessPoolExecutor
    with cls(1, name="before") as pool:
        assert poolscope.attach(pool) is pool
        assert probe.recorders[0].name == "before"
        poolscope.attach(pool, name="after")
        assert probe.recorders[0].name == "after"
        probe.recorders[0].told = True
        poolscope.attach(pool, name="too late")
        assert probe.recorders[0].name == "after"
        assert "keeps its name" in probe.messages[-1][1]
        run(pool)
    ledger(probe).only(submitted=1, succeeded=1)


class Unknown(Executor):
    pass


@pytest.mark.parametrize("what", [Unknown(), None, ThreadPoolExecutor])
def test_what_is_no_known_pool_is_refused(probe, what):
    with pytest.raises(poolscope.PoolscopeError, match=r"cannot attach to .*: pass a ThreadPoolExecutor") as raised:
        poolscope.attach(what)
    assert "\n" not in str(raised.value)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # the threads of the first pool are there
def test_a_pool_of_processes_must_be_watched_when_it_makes_them(probe):
    context = multiprocessing.get_context("fork")
    with context.Pool(1) as late:
        with pytest.raises(poolscope.PoolscopeError, match=r"call poolscope.install\(\) before it is made") as raised:
            poolscope.attach(late)
        with install(loops=False), context.Pool(1) as pool:
            assert poolscope.attach(pool, name="mine") is pool
            assert pool.apply(square, (2,)) == 4
    assert "\n" not in str(raised.value)
    assert probe.recorders[0].name == "mine"
    ledger(probe).only(submitted=1, succeeded=1)


def test_an_executor_of_an_unknown_shape_is_left_alone(probe, monkeypatch):
    class WorkItem:
        def __init__(self, future, call):
            self.future = future
            self.call = call

        def run(self, worker):
            self.future.set_result(worker.run(self.call))

    monkeypatch.setattr(concurrent.futures.thread, "_WorkItem", WorkItem)
    before = dict(vars(ThreadPoolExecutor))
    with ThreadPoolExecutor(1) as pool, install(loops=False):
        poolscope.attach(pool)
        assert dict(vars(ThreadPoolExecutor)) == before
    assert not probe.recorders
    assert "thread pools are not watched: a work item of another shape" in probe.messages[-1][1]
