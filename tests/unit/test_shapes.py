"""What is asked of the interpreter before it is touched: shapes that are there, and made-up ones that are not."""

from __future__ import annotations

import concurrent.futures.process
import multiprocessing.pool
import sys
import types
from functools import wraps

import pytest
from probe_support import FakeProbe

from poolscope.probe.interpreter import shapes


def other(module, path, change):
    """A copy of a module in which what is at `path` is `change`; None: it is not there."""
    made = types.ModuleType(module.__name__)
    vars(made).update(vars(module))
    owner, _, name = path.rpartition(".")
    attributes = dict(vars(getattr(made, owner) if owner else made))
    attributes[name] = change
    if change is None:
        del attributes[name]
    if not owner:
        vars(made).clear()
        vars(made).update(attributes)
        return made
    for unwanted in ("__dict__", "__weakref__"):
        attributes.pop(unwanted, None)
    cls = getattr(made, owner)
    setattr(made, owner, type(cls.__name__, cls.__bases__, attributes))
    return made


def lacks(check, module, path, change):
    """What `check` misses in such a copy; None: nothing."""
    try:
        check(other(module, path, change))
    except shapes.Unfamiliar as reason:
        return str(reason)
    return None


def another(*_):
    """A function that takes other parameters than the one that it stands for, and uses nothing."""


def wrapped(function):
    """The same function as another tool has wrapped it."""

    @wraps(function)
    def around(*args, **kwargs):
        return function(*args, **kwargs)

    return around


def test_what_is_missed_is_one_line_with_the_version():
    probe, module = FakeProbe(), other(concurrent.futures.process, "_WorkItem", None)
    assert not shapes.known(shapes.process_pool, module, probe, "process pools are not watched")
    version = sys.version.split()[0]
    text = f"process pools are not watched: no _WorkItem in concurrent.futures.process in Python {version}"
    assert probe.messages == [("notice", text)]
    assert shapes.known(shapes.process_pool, concurrent.futures.process, probe, "process pools are not watched")
    assert len(probe.messages) == 1


class TestProcessPool:
    module = concurrent.futures.process
    #: The function that makes a worker process.
    maker = "_spawn_worker" if hasattr(module, "_spawn_worker") else "ProcessPoolExecutor._spawn_process"

    def test_this_one(self):
        for check in (shapes.process_pool, shapes.process_workers, shapes.process_chunks):
            check(self.module)

    @pytest.mark.parametrize(
        ("path", "change", "reason"),
        [
            ("_WorkItem", None, "no _WorkItem in concurrent.futures.process"),
            ("_WorkItem", another, "_WorkItem of concurrent.futures.process does not take (future, fn, args, kwargs)"),
            ("_ResultItem", None, "no _ResultItem in concurrent.futures.process"),
            ("_ResultItem", another, "_ResultItem of concurrent.futures.process does not take (work_id, "),
            ("_ExecutorManagerThread", None, "no _ExecutorManagerThread in concurrent.futures.process"),
            (
                "_ExecutorManagerThread.wait_result_broken_or_wakeup",
                None,
                "no wait_result_broken_or_wakeup in concurrent.futures.process._ExecutorManagerThread",
            ),
            (
                "_ExecutorManagerThread.wait_result_broken_or_wakeup",
                another,
                "wait_result_broken_or_wakeup of concurrent.futures.process._ExecutorManagerThread does not use ",
            ),
            ("_ExecutorManagerThread.__init__", another, "__init__ of concurrent.futures.process._Executor"),
            ("_ExecutorManagerThread.process_result_item", another, "process_result_item of "),
            ("_ExecutorManagerThread.is_shutting_down", another, "is_shutting_down of "),
            ("_ExecutorManagerThread.add_call_item_to_queue", another, "add_call_item_to_queue of "),
            ("_global_shutdown", None, "no _global_shutdown in concurrent.futures.process"),
        ],
    )
    def test_without_it_no_pool_is_watched(self, path, change, reason):
        assert lacks(shapes.process_pool, self.module, path, change).startswith(reason)

    @pytest.mark.parametrize(
        ("path", "change", "reason"),
        [
            ("_process_worker", None, "no _process_worker in concurrent.futures.process"),
            ("_process_worker", another, "_process_worker of concurrent.futures.process does not take (call_queue, "),
            ("_CallItem", None, "no _CallItem in concurrent.futures.process"),
            ("_CallItem", another, "_CallItem of concurrent.futures.process does not take (work_id)"),
            (
                "ProcessPoolExecutor._spawn_process",
                None,
                "no _spawn_process in concurrent.futures.process.ProcessPoolExecutor",
            ),
            ("ProcessPoolExecutor._spawn_process", another, "_spawn_process of concurrent.futures.process.ProcessPool"),
            (maker, another, f"{maker.rpartition('.')[2]} of concurrent.futures.process"),
        ],
    )
    def test_without_it_only_the_starts_are_not_stamped(self, path, change, reason):
        assert lacks(shapes.process_workers, self.module, path, change).startswith(reason)
        assert lacks(shapes.process_pool, self.module, path, change) is None

    def test_results_that_hold_no_more(self):
        class ResultItem:
            __slots__ = ("exception", "result", "work_id")

            def __init__(self, work_id, exception=None, result=None):
                pass

        assert "has no place for more" in lacks(shapes.process_workers, self.module, "_ResultItem", ResultItem)
        assert lacks(shapes.process_pool, self.module, "_ResultItem", ResultItem) is None

    @pytest.mark.skipif(not hasattr(module, "_spawn_worker"), reason="the executor replaces workers itself")
    def test_workers_that_are_replaced_in_another_way(self):
        path = "_ExecutorManagerThread._replace_dead_worker"
        reason = "_replace_dead_worker of concurrent.futures.process._ExecutorManagerThread does not use _mp_context"
        assert lacks(shapes.process_workers, self.module, path, another) == reason
        assert lacks(shapes.process_pool, self.module, path, another) is None

    def test_without_it_only_functions_of_map_are_not_named(self):
        for change in (None, another):
            assert "_process_chunk" in lacks(shapes.process_chunks, self.module, "_process_chunk", change)
            for check in (shapes.process_pool, shapes.process_workers):
                assert lacks(check, self.module, "_process_chunk", change) is None

    def test_what_is_not_touched_may_be_another(self):
        def more(call_queue, result_queue, initializer, initargs, max_tasks, context):
            pass

        assert lacks(shapes.process_workers, self.module, "_process_worker", more) is None
        for path in ("ProcessPoolExecutor.submit", "ProcessPoolExecutor.map", "ProcessPoolExecutor.__init__"):
            for check in (shapes.process_pool, shapes.process_workers, shapes.process_chunks):
                assert lacks(check, self.module, path, another) is None

    def test_what_another_tool_has_wrapped_is_the_same(self):
        around = wrapped(self.module.ProcessPoolExecutor._spawn_process)
        assert lacks(shapes.process_workers, self.module, "ProcessPoolExecutor._spawn_process", around) is None


class TestMultiprocessingPool:
    module = multiprocessing.pool

    def test_this_one(self):
        shapes.multiprocessing_pool(self.module)
        shapes.multiprocessing_workers(self.module)

    @pytest.mark.parametrize(
        ("path", "change", "reason"),
        [
            ("ThreadPool", None, "no ThreadPool in multiprocessing.pool"),
            ("mapstar", None, "no mapstar in multiprocessing.pool"),
            ("_helper_reraises_exception", None, "no _helper_reraises_exception in multiprocessing.pool"),
            ("Pool.imap", None, "no imap in multiprocessing.pool.Pool"),
            ("Pool.apply_async", another, "apply_async of multiprocessing.pool.Pool does not use _check_running"),
            ("Pool._map_async", another, "_map_async of multiprocessing.pool.Pool does not use _check_running"),
            ("Pool.__init__", another, "__init__ of multiprocessing.pool.Pool does not use _taskqueue"),
        ],
    )
    def test_without_it_no_pool_is_watched(self, path, change, reason):
        assert lacks(shapes.multiprocessing_pool, self.module, path, change) == reason

    @pytest.mark.parametrize(
        ("path", "change", "reason"),
        [
            ("MapResult", None, "no MapResult in multiprocessing.pool"),
            ("worker", None, "no worker in multiprocessing.pool"),
            ("worker", another, "worker of multiprocessing.pool does not take (inqueue, outqueue)"),
            (
                "Pool._repopulate_pool_static",
                another,
                "_repopulate_pool_static of multiprocessing.pool.Pool does not take (ctx, Process)",
            ),
            ("Pool._handle_tasks", None, "no _handle_tasks in multiprocessing.pool.Pool"),
            (
                "Pool._handle_results",
                another,
                "_handle_results of multiprocessing.pool.Pool does not take (outqueue, get",
            ),
            ("Pool._guarded_task_generation", another, "_guarded_task_generation of "),
            ("Pool._get_tasks", another, "_get_tasks of multiprocessing.pool.Pool does not take (func, it, size)"),
            ("Pool._wrap_exception", False, "_wrap_exception of another sense in multiprocessing.pool"),
        ],
    )
    def test_without_it_only_threads_are_watched(self, path, change, reason):
        assert lacks(shapes.multiprocessing_workers, self.module, path, change).startswith(reason)
        assert lacks(shapes.multiprocessing_pool, self.module, path, change) is None

    def test_a_pool_that_makes_its_workers_last(self):
        def __init__(self):  # noqa: N807 - in place of the standard one
            self._taskqueue = self._processes = self._pool = self._change_notifier = None
            self._setup_queues(), self._quick_put, self._quick_get, self._repopulate_pool, self.Process
            self._terminate_pool()

        assert lacks(shapes.multiprocessing_workers, self.module, "Pool.__init__", __init__).endswith("in this order")
        assert lacks(shapes.multiprocessing_pool, self.module, "Pool.__init__", __init__) is None

    def test_what_another_tool_has_wrapped_is_the_same(self):
        for name in ("__init__", "apply_async", "imap"):
            for check in (shapes.multiprocessing_pool, shapes.multiprocessing_workers):
                around = wrapped(getattr(multiprocessing.pool.Pool, name))
                assert lacks(check, self.module, f"Pool.{name}", around) is None
