"""The executors that are compared. Each makes a context manager of a number of workers: the pool while it is there.

poolscope's records go to a sink that drops them, as a pipe to a supervising parent would, and for `drop-in judged`
also to a judge in this process, as in a program that uses the drop-in without a supervisor.
"""

from __future__ import annotations

import functools
import time
from concurrent import futures
from contextlib import contextmanager

import poolscope
from poolscope.config import Settings
from poolscope.probe import runtime
from poolscope.probe.settings import PoolRule, ProbeSettings
from poolscope.profiler import Observer

UNWATCHED = "benchmark-not-watched"


def watch():
    """The probe of this process, its thread running."""
    probe = runtime.current()
    probe.settings = ProbeSettings(pools=[PoolRule(UNWATCHED, ignore=True)])
    probe.add_sink(lambda _: None)
    probe.wake()
    return probe


@contextmanager
def judged(workers):
    observer = Observer(runtime.current(), Settings())
    try:
        with poolscope.ThreadPoolExecutor(workers) as pool:
            yield pool
    finally:
        observer.close()


@contextmanager
def patched(workers):
    with poolscope.install(loops=False), futures.ThreadPoolExecutor(workers) as pool:
        yield pool


def executor_exporter(workers):
    import executor_exporter as peer

    return peer.ThreadPoolExecutor(workers)


@contextmanager
def opentelemetry(workers):
    from opentelemetry.instrumentation.threading import ThreadingInstrumentor

    peer = ThreadingInstrumentor()
    peer.instrument()
    try:
        with futures.ThreadPoolExecutor(workers) as pool:
            yield pool
    finally:
        peer.uninstrument()


@functools.cache
def _metered():
    """What one writes by hand on a Friday: four metrics around each task. Labels are resolved once, which is kind."""
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

    registry = CollectorRegistry()
    submitted = Counter("tasks_submitted", "Tasks", ["pool"], registry=registry).labels("benchmark")
    active = Gauge("tasks_active", "Tasks", ["pool"], registry=registry).labels("benchmark")
    waited = Histogram("task_wait_seconds", "Wait", ["pool"], registry=registry).labels("benchmark")
    ran = Histogram("task_run_seconds", "Run", ["pool"], registry=registry).labels("benchmark")

    class MeteredExecutor(futures.ThreadPoolExecutor):
        def submit(self, fn, /, *args, **kwargs):
            arrived = time.perf_counter()

            def task():
                began = time.perf_counter()
                waited.observe(began - arrived)
                active.inc()
                try:
                    return fn(*args, **kwargs)
                finally:
                    active.dec()
                    ran.observe(time.perf_counter() - began)

            future = super().submit(task)
            submitted.inc()
            return future

    return MeteredExecutor


#: By the name in the tables. `standard again` is the standard executor against itself: the noise of this machine.
CONTESTANTS = {
    "standard": futures.ThreadPoolExecutor,
    "standard again": futures.ThreadPoolExecutor,
    "drop-in": poolscope.ThreadPoolExecutor,
    "drop-in judged": judged,
    "drop-in recording off": functools.partial(poolscope.ThreadPoolExecutor, name=UNWATCHED),
    "patched": patched,
    "executor-exporter": executor_exporter,
    "opentelemetry threading": opentelemetry,
    "prometheus_client by hand": lambda workers: _metered()(workers),
}
