import os
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from runtime_support import FakeExecutor, Record, Worker, submit

from poolscope.probe import runtime
from poolscope.probe.interpreter import cpu
from poolscope.probe.runtime import Probe
from poolscope.probe.settings import ProbeSettings

FAST = ProbeSettings(sample_interval=0.002)


class Signal(Record):
    """A record that one can wait for."""

    def __init__(self):
        super().__init__()
        self._changed = threading.Condition()

    def __call__(self, message):
        with self._changed:
            super().__call__(message)
            self._changed.notify_all()

    def wait_for(self, test, timeout=30):
        with self._changed:
            assert self._changed.wait_for(lambda: test(self), timeout), self.messages


@pytest.fixture
def probe():
    probe = Probe(FAST)
    probe.supervised = True
    yield probe
    probe.stop(30)


@pytest.fixture
def signal(probe):
    signal = Signal()
    probe.add_sink(signal)
    return signal


def open_pool(probe, executor):
    return probe.open_pool(executor, name="pool", prefix="", kind="thread")


def os_threads():
    return set(os.listdir("/proc/self/task"))


class TestThread:
    def test_reads_without_being_asked_and_is_in_nobodys_list(self, probe, signal):
        threads = threading.enumerate()
        executor = FakeExecutor()
        recorder = open_pool(probe, executor)
        submit(recorder, time.perf_counter_ns)
        probe.wake()
        signal.wait_for(lambda record: len(record.of("pool_batch")) > 2)
        assert threading.enumerate() == threads
        del executor
        recorder.broken.extend((1, 1, 1))
        signal.wait_for(lambda record: record.of("pool_closed"))

    def test_not_before_it_is_woken(self, probe, signal):
        before = os_threads()
        executor = FakeExecutor()
        open_pool(probe, executor)
        probe.add_job(0.001, lambda now: None)
        assert os_threads() - before == set()

    def test_woken_by_many_at_once_it_starts_once(self, probe, signal):
        seen = set()
        gate = threading.Barrier(8)

        def wake():
            gate.wait()
            probe.wake()

        probe.add_job(0.001, lambda now: seen.add(threading.get_native_id()))
        threads = [threading.Thread(target=wake) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        calls = threading.Event()
        probe.add_job(0.01, lambda now: calls.set())
        assert calls.wait(30)
        assert len(seen) == 1

    def test_stop_leaves_no_thread_of_the_system(self, probe, signal):
        before = os_threads()
        for _ in range(20):
            probe.wake()
            probe.stop(30)
            assert os_threads() - before == set()

    def test_stop_reads_a_last_time(self, probe, signal):
        executor = FakeExecutor()
        probe.settings = ProbeSettings(sample_interval=3600)
        recorder = open_pool(probe, executor)
        probe.wake()
        probe.stop(30)
        submit(recorder, time.perf_counter_ns)
        probe.wake()
        probe.stop(30)
        assert recorder.arrivals == []
        assert signal.of("pool_batch")[-1][11]

    def test_stop_does_not_wait_for_a_slow_sink(self, probe):
        inside, go_on = threading.Event(), threading.Event()

        def slow(message):
            inside.set()
            go_on.wait(30)

        probe.add_sink(slow)
        probe.notice("something")
        probe.wake()
        assert inside.wait(30)
        probe.stop(0.01)
        # A second thread may start meanwhile; the first ends when it can.
        probe.wake()
        go_on.set()
        signal = Signal()
        probe.add_sink(signal)
        probe.notice("more")
        signal.wait_for(lambda record: ("notice", "more") in record.messages)

    def test_a_new_job_does_not_wait_for_the_others(self, probe, signal):
        probe.settings = ProbeSettings(sample_interval=3600)
        probe.wake()
        called = threading.Event()
        probe.add_job(0.001, lambda now: called.set())
        assert called.wait(30)

    def test_a_job_may_stop_the_thread(self, probe, signal):
        stopped = threading.Event()

        def job(now):
            probe.stop(30)
            stopped.set()

        probe.add_job(0.001, job)
        probe.wake()
        assert stopped.wait(30)


class TestUsersThreads:
    def test_none_of_them_waits_for_a_slow_sink(self, probe):
        inside, go_on = threading.Event(), threading.Event()

        def slow(message):
            inside.set()
            go_on.wait(30)

        probe.add_sink(slow)
        probe.notice("something")
        probe.wake()
        assert inside.wait(30)
        try:
            # All of it returns while the sink is held, or this test hangs.
            executor = FakeExecutor()
            recorder = open_pool(probe, executor)
            submit(recorder, time.perf_counter_ns, probe.functions.identify(submit))
            probe.emit(("notice", "x"))
            probe.add_sink(lambda message: None)()
            probe.add_job(1, lambda now: None)()
            probe.wake()
            assert probe.flush(0.01) is False
        finally:
            go_on.set()

    def test_flushes_and_readings_tell_each_task_once_and_in_order(self, probe, signal):
        executor = FakeExecutor()
        recorder = open_pool(probe, executor)
        tasks = 3000

        def work(ident):
            worker = Worker(recorder, time.perf_counter_ns, ident)
            for _ in range(tasks):
                worker.start(1, submit(recorder, time.perf_counter_ns))
                worker.finish()

        workers = [threading.Thread(target=work, args=(ident,)) for ident in range(3)]
        probe.wake()
        for thread in workers:
            thread.start()
        while any(thread.is_alive() for thread in workers):
            probe.flush(30)
        assert probe.flush(30)
        batches = signal.of("pool_batch")
        times = [batch[2] for batch in batches]
        assert times == sorted(times)
        ended = [tuple(batch[7][at : at + 5]) for batch in batches for at in range(0, len(batch[7]), 5)]
        assert len(ended) == len(set(ended)) == 3 * tasks
        assert sum(len(batch[11]) for batch in batches) == 2 * 3 * tasks
        for number in (1, 2, 3):
            starts = [task[3] for task in ended if task[0] == number]
            assert starts == sorted(starts)

    def test_all_get_the_same_probe(self, monkeypatch):
        monkeypatch.setattr(runtime, "_made", {})
        monkeypatch.setattr(os, "register_at_fork", lambda **hooks: registered.append(hooks))
        registered, found = [], []
        gate = threading.Barrier(8)

        def ask():
            gate.wait()
            found.append(runtime.current())

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(map(id, found))) == 1
        assert len(registered) == 1


class TestCpu:
    def test_the_clock_of_another_thread(self):
        at_work, go_on = threading.Event(), threading.Event()
        ids = []

        def work():
            ids.append(threading.get_native_id())
            end = time.thread_time_ns() + 20_000_000
            while time.thread_time_ns() < end:
                pass
            at_work.set()
            go_on.wait(30)

        thread = threading.Thread(target=work)
        thread.start()
        assert at_work.wait(30)
        assert cpu.thread_cpu_ns(ids[0]) >= 20_000_000
        go_on.set()
        thread.join()
        while cpu.thread_cpu_ns(ids[0]) is not None:  # the system lets go of it a moment later
            time.sleep(0.001)

    def test_our_own_cost_is_counted_over_restarts(self, probe, signal):
        def burn(now):
            end = time.thread_time_ns() + 5_000_000
            while time.thread_time_ns() < end:
                pass
            burnt.set()

        burnt = threading.Event()
        probe.add_job(0.001, burn)
        costs = []
        for _ in range(2):
            burnt.clear()
            probe.wake()
            assert burnt.wait(30)
            probe.stop(30)
            probe.flush()
            costs.append(signal.of("process_tick")[-1][3])
        assert costs[0] >= 5_000_000
        assert costs[1] - costs[0] >= 5_000_000


def run(program, *options):
    """Runs a program of its own; its output. Nothing may be written to standard error."""
    done = subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout.split()


PRELUDE = """
import os, sys, threading, time
from poolscope.probe import runtime
from poolscope.probe.settings import ProbeSettings

probe = runtime.current()
probe.supervised = True
probe.settings = ProbeSettings(sample_interval=0.002)

class Executor:
    _max_workers, _threads, _shutdown = 2, (), False

def event(executor):
    if not executor.__dict__.get("pid") == os.getpid():
        executor.pid = os.getpid()
        executor.recorder = probe.open_pool(executor, name="pool", prefix="", kind="thread")
    executor.recorder.arrivals.extend((1, probe.clock()))
    probe.wake()

def until(test):
    while not test():
        time.sleep(0.001)

def sink_into(messages):
    return probe.add_sink(lambda message: messages.append(message))

def batches(messages):
    return [message for message in messages if message[0] == "pool_batch" and message[11]]

executor = Executor()
"""


def test_the_thread_has_ended_before_the_interpreter_shuts_down():
    """One that is stopped there in the midst of an import keeps its lock, and the last finalizer may wait for that."""
    last = """
import atexit, os
atexit.register(lambda: print(len(os.listdir("/proc/self/task"))))
"""
    output = run(last + PRELUDE + "event(executor)\nassert len(os.listdir('/proc/self/task')) == 2\n")
    assert output == ["1"]


class TestFork:
    def test_neither_side_breaks_and_python_does_not_warn(self):
        """A process with another thread would be warned of: our own must not be that thread."""
        output = run(
            PRELUDE
            + """
told = []
sink_into(told)
event(executor)
until(lambda: batches(told))
for number in range(20):
    pid = os.fork()
    if not pid:
        os._exit(0 if len(os.listdir("/proc/self/task")) == 1 else 1)
    assert os.waitpid(pid, 0)[1] == 0
    before = len(batches(told))
    event(executor)
    until(lambda: len(batches(told)) > before)
print("parent")
""",
            "-Walways",
        )
        assert output == ["parent"]

    def test_a_child_tells_its_own_sinks_of_its_own_events(self):
        output = run(
            PRELUDE
            + """
told = []
sink_into(told)
probe.after_fork.append(lambda probe: mine.append)
event(executor)
until(lambda: batches(told))
mine = []
pid = os.fork()
if not pid:
    before = len(told)
    event(executor)
    until(lambda: batches(mine))
    assert len(told) == before
    opened = [message for message in mine if message[0] == "pool_opened"]
    assert [message[2] for message in opened] == ["pool"]
    assert len(batches(mine)[0][11]) == 2
    os._exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), len(mine))
"""
        )
        assert output == ["7", "0"]

    def test_a_fork_in_a_loop_does_not_end_the_watch(self):
        output = run(
            PRELUDE
            + """
import asyncio

called = []

async def main():
    probe.add_job(0.001, called.append)
    probe.wake()
    while not called:
        await asyncio.sleep(0.001)
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    before = len(called)
    while len(called) == before:
        await asyncio.sleep(0.001)

asyncio.run(main())
print("on")
""",
            "-Walways",
        )
        assert output == ["on"]

    def test_among_other_threads_the_thread_goes_on_at_once(self):
        output = run(
            PRELUDE
            + """
gate = threading.Event()
other = threading.Thread(target=gate.wait)
other.start()
called = []
probe.add_job(0.001, called.append)
probe.wake()
until(lambda: called)
pid = os.fork()
if not pid:
    os._exit(0)
os.waitpid(pid, 0)
before = len(called)
until(lambda: len(called) > before)
gate.set()
print("on")
""",
            "-Wignore",
        )
        assert output == ["on"]

    def test_among_threads_that_compute_no_fork_waits_for_the_thread(self):
        """It would have to get the GIL from them in order to end: it is the same one after the fork."""
        output = run(
            PRELUDE
            + """
stop = False

def spin():
    while not stop:
        pass

others = [threading.Thread(target=spin) for _ in range(3)]
for other in others:
    other.start()
lives = []
probe.add_job(0.001, lambda now: lives.append(probe._ticker._life))
probe.wake()
until(lambda: lives)
for _ in range(10):
    pid = os.fork()
    if not pid:
        # The child begins anew.
        assert probe._ticker._life is None
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
before = len(lives)
until(lambda: len(lives) > before)
assert set(map(id, lives)) == {id(lives[0])}
stop = True
print("same")
""",
            "-Wignore",
        )
        assert output == ["same"]

    def test_a_name_that_stands_for_our_own_thread_is_no_other_thread(self):
        """As `logging` asks for one: the fork has to find the process without it all the same."""
        output = run(
            PRELUDE
            + """
named = []
probe.add_job(0.001, lambda now: named.append(threading.current_thread()))
probe.wake()
until(lambda: named)
assert threading.active_count() == 2
pid = os.fork()
if not pid:
    os._exit(0)
os.waitpid(pid, 0)
print("silent")
""",
            "-Walways",
        )
        assert output == ["silent"]

    def test_many_threads_fork_at_once(self):
        output = run(
            PRELUDE
            + """
told = []
sink_into(told)
event(executor)

def fork():
    for _ in range(10):
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)

threads = [threading.Thread(target=fork) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
before = len(batches(told))
event(executor)
until(lambda: len(batches(told)) > before)
print("on")
""",
            "-Wignore",
        )
        assert output == ["on"]


class TestExit:
    def test_silent_while_busy(self):
        for _ in range(3):
            output = run(
                PRELUDE
                + """
told = []
sink_into(told)
event(executor)
probe.add_job(0.0001, lambda now: [object() for _ in range(1000)])
until(lambda: batches(told))
print("end")
"""
            )
            assert output == ["end"]

    def test_an_event_at_the_very_end(self):
        output = run(
            PRELUDE
            + """
import atexit
atexit.register(event, executor)
class Late:
    def __del__(self):
        event(executor)
late = Late()
print("end")
"""
        )
        assert output == ["end"]

    def test_importing_does_nothing_and_needs_little(self):
        output = run(
            """
import sys, concurrent.futures.thread
before = set(sys.modules)
import poolscope.probe.runtime, poolscope.probe.startup.install
heavy = {"json", "asyncio", "typing", "dataclasses", "socket", "msgspec", "psutil", "fnmatch"}
print(sorted(heavy & (set(sys.modules) - before)), len(sys.meta_path) == len(set(map(id, sys.meta_path))))
"""
        )
        assert output == ["[]", "True"]
