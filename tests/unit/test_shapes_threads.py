"""What the standard thread pool must offer, on made-up modules of other shapes, and the drop-in of an unknown one."""

from __future__ import annotations

import concurrent.futures.thread
import subprocess
import sys
import threading
import types

import pytest

from poolscope.probe.interpreter import shapes


def module_like(**changes):
    """A copy of the standard module with some names changed; None takes one away."""
    made = types.ModuleType("concurrent.futures.thread")
    vars(made).update(vars(concurrent.futures.thread))
    for name, value in changes.items():
        if value is None:
            delattr(made, name)
        else:
            setattr(made, name, value)
    return made


class PlainItem:
    def __init__(self, future, fn, args, kwargs):
        pass

    def run(self):
        pass


class ContextItem:
    def __init__(self, future, task):
        pass

    def run(self, ctx):
        pass


class LaterItem:
    def __init__(self, future, task, priority):
        pass

    def run(self, ctx):
        pass


class Executor:
    def _adjust_thread_count(self):
        pass

    def _initializer_failed(self):
        pass


class ContextExecutor(Executor):
    @classmethod
    def prepare_context(cls, initializer, initargs):
        pass


def test_this_interpreter_is_known():
    assert shapes.thread_pool(concurrent.futures.thread) in (shapes.PLAIN, shapes.CONTEXT)


@pytest.mark.parametrize(
    ("item", "executor", "shape"),
    [(PlainItem, Executor, shapes.PLAIN), (ContextItem, ContextExecutor, shapes.CONTEXT)],
)
def test_both_shapes_are_known_by_what_they_take(item, executor, shape):
    assert shapes.thread_pool(module_like(_WorkItem=item, ThreadPoolExecutor=executor)) == shape


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"_WorkItem": None}, "no _WorkItem in concurrent.futures.thread"),
        ({"_WorkItem": LaterItem}, "a work item of another shape in concurrent.futures.thread"),
        ({"_threads_queues": None}, "no _threads_queues in concurrent.futures.thread"),
        ({"ThreadPoolExecutor": object}, "no _adjust_thread_count in builtins.object"),
        ({"_WorkItem": ContextItem, "ThreadPoolExecutor": Executor}, f"no prepare_context in {__name__}.Executor"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_is_missing_is_named(changes, text):
    with pytest.raises(shapes.Unfamiliar) as raised:
        shapes.thread_pool(module_like(**changes))
    assert str(raised.value) == text
    version = sys.version.split()[0]
    assert shapes.missed("thread pools are not watched", raised.value) == (
        f"thread pools are not watched: {text} in Python {version}"
    )


def test_the_drop_in_of_an_unknown_interpreter_is_the_standard_one():
    program = """
import concurrent.futures.thread as standard
class Item(standard._WorkItem):
    def __init__(self, future, *task, later=None): super().__init__(future, *task)
standard._WorkItem = Item
import poolscope
with poolscope.ThreadPoolExecutor(2, name="mine") as pool:
    assert list(pool.map(abs, [-1, -2])) == [1, 2]
assert isinstance(pool, standard.ThreadPoolExecutor)
report = poolscope.report()
print(len(report.pools), *report.notices)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("0 the drop-in thread pool records nothing: a work item of another shape")
    assert done.stderr.count("the drop-in thread pool records nothing") == 1


def test_the_steps_of_a_standard_future_are_known():
    shapes.future_steps(concurrent.futures._base, threading)


@pytest.mark.parametrize("method", ["set_running_or_notify_cancel", "set_result"])
def test_a_future_that_does_more_takes_its_own_steps(monkeypatch, method):
    base = concurrent.futures._base
    original = getattr(base.Future, method)

    def longer(self, *args):
        return self.audit(original(self, *args))

    monkeypatch.setattr(base.Future, method, longer)
    with pytest.raises(shapes.Unfamiliar) as raised:
        shapes.future_steps(base, threading)
    assert str(raised.value) == "longer of concurrent.futures._base.Future is another one"
