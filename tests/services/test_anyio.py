"""anyio's worker threads on its real backends: in process, gated by events."""

from __future__ import annotations

import contextvars
import functools
import gc
import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from typing import Any, cast

import anyio
import anyio._backends._asyncio
import anyio._backends._trio
import pytest
from adapter_support import Gate
from anyio import CapacityLimiter, from_thread, to_thread
from anyio._core._synchronization import CapacityLimiterAdapter
from cli_support import script, started, watched
from probe_support import FakeProbe, Ledger, as_ours
from probe_support import waits as told

from poolscope.probe import adapters
from poolscope.probe.adapters import anyio as adapter
from poolscope.probe.adapters.limited_threads import UNLIMITED
from poolscope.probe.interpreter.cpu import CpuClocks
from poolscope.probe.recording.virtual_workers import VirtualWorker

LIMIT = 30  # seconds for what is sure to come
BACKENDS = {
    "asyncio": ("asyncio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}


@pytest.fixture
def probe():
    made = FakeProbe()
    yield made
    adapter.unpatch()
    assert not made.faults


@pytest.fixture(params=BACKENDS)
def run(request):
    backend, options = BACKENDS[request.param]
    return functools.partial(anyio.run, backend=backend, backend_options=options)


def square(number):
    return number * number


def fail(number):
    raise ValueError(number)


async def until(condition):
    with anyio.fail_after(LIMIT):
        while not condition():
            await anyio.sleep(0.001)


def waiting(limiter, count):
    return lambda: limiter.statistics().tasks_waiting == count


def ledger(probe, number=-1):
    return Ledger(probe.recorders[number], probe)


def test_what_runs_and_what_waits(run, probe):
    async def main():
        limiter = to_thread.current_default_thread_limiter()
        limiter.total_tokens = 2
        gate = Gate()
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(to_thread.run_sync, gate)
            await gate.started(2)
            await until(waiting(limiter, 3))
            book = ledger(probe)
            book.only(submitted=5, running=2, queued=3)
            assert (book.workers, book.max_workers) == (2, 2)
            assert book.recorder.taken() == 2
            limiter.total_tokens = 3
            await gate.started(1)
            book.only(submitted=5, running=3, queued=2)
            assert (book.workers, book.max_workers) == (3, 3)
            gate.open()
        assert await to_thread.run_sync(square, 3) == 9
        book.only(submitted=6, succeeded=6)
        assert book.workers == 3
        assert book.recorder.taken() == 0
        return book

    adapter.patch(probe)
    book = run(main)
    assert probe.opened == [("anyio.to_thread", "", "anyio")]
    assert set(probe.function_names().values()) == {f"{Gate.__module__}.Gate", f"{__name__}.square"}
    workers = {worker for worker, *_ in book.finished}
    assert workers == {1, 2, 3}


def test_errors_and_their_tracebacks_are_those_without_us(run, probe):
    def lines(error):
        return [(line.filename, line.lineno, line.name) for line in traceback.extract_tb(error.__traceback__)]

    async def main():
        shown = []
        for fn, argument in ((fail, 1), (int, "x")):
            try:
                await to_thread.run_sync(fn, argument)
            except ValueError as error:
                shown.append((repr(error), error.__context__, lines(error)))
        wrong: tuple[Any, ...] = ("x", -1)
        for tokens in wrong:
            try:
                CapacityLimiter(tokens)
            except (TypeError, ValueError) as error:
                shown.append((repr(error), error.__context__, lines(error)))
        assert len(shown) == 4
        return shown

    plain = run(main)
    adapter.patch(probe)
    assert run(main) == plain
    ledger(probe).only(submitted=2, failed=2)


def test_context_variables_and_the_thread_are_as_without_us(run, probe):
    variable: contextvars.ContextVar[Any] = contextvars.ContextVar("variable")

    def look():
        found = variable.get()
        variable.set("changed")
        anyio.from_thread.check_cancelled()
        return found, anyio.from_thread.run_sync(lambda: 7)

    async def main():
        variable.set("mine")
        return (await to_thread.run_sync(look), variable.get())

    adapter.patch(probe)
    assert run(main) == (("mine", 7), "mine")


def test_a_task_that_is_cancelled_while_it_waits(run, probe):
    async def main():
        limiter = CapacityLimiter(1)
        gate = Gate()
        scope, left = anyio.CancelScope(), anyio.Event()

        async def impatient():
            with scope:
                await to_thread.run_sync(square, 1, limiter=limiter)
            left.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(functools.partial(to_thread.run_sync, gate, limiter=limiter))
            await gate.started(1)
            tasks.start_soon(impatient)
            await until(waiting(limiter, 1))
            book = ledger(probe)
            book.only(submitted=2, running=1, queued=1)
            scope.cancel()
            await left.wait()
            book.only(submitted=2, running=1, cancelled=1)
            gate.open()
        book.only(submitted=2, succeeded=1, cancelled=1)
        assert set(book.tasks.values()) == {0}

    adapter.patch(probe)
    run(main)


def test_an_abandoned_task_runs_until_its_thread_ends_it(run, probe):
    async def main():
        limiter = CapacityLimiter(1)
        gate, second = Gate(), Gate()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(functools.partial(to_thread.run_sync, gate, abandon_on_cancel=True, limiter=limiter))
                await gate.started(1)
                scope.cancel()
        book = ledger(probe)
        book.only(submitted=1, running=1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(functools.partial(to_thread.run_sync, second, limiter=limiter))
            # trio keeps the token until the thread has ended; asyncio's threads are at work beyond the limit then.
            if await given_back(limiter):
                await second.started(1)
                book.only(submitted=2, running=2)
            gate.open()
            second.open()
        await until(lambda: book.read().succeeded == 2)
        book.only(submitted=2, succeeded=2)

    async def given_back(limiter):
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        return limiter.statistics().tasks_waiting == 0

    adapter.patch(probe)
    run(main)


def test_a_token_that_is_refused(probe):
    async def main():
        limiter = CapacityLimiter(1)
        async with limiter:
            with pytest.raises(RuntimeError, match="already holding"):
                await to_thread.run_sync(square, 1, limiter=limiter)
        assert await to_thread.run_sync(square, 2, limiter=limiter) == 4

    adapter.patch(probe)
    anyio.run(main)
    ledger(probe).only(submitted=1, succeeded=1, rejected=1)


def test_each_limiter_is_a_pool_named_by_where_it_was_made(run, probe):
    shared = make_limiter()
    adapter.patch(probe)
    outside = make_limiter()
    made = []
    open_pool = probe.open_pool

    def noting(*args, site, **how):
        made.append(site)
        return open_pool(*args, site=site, **how)

    probe.open_pool = noting

    async def main():
        inside = make_limiter()
        for limiter in (inside, outside, shared, inside, None):
            assert await to_thread.run_sync(square, 2, limiter=limiter) == 4

    run(main)
    names = [name for _, name, _ in made]
    assert names == [
        MADE,
        MADE,
        # Older than the patch: by the line that used it first.
        f"{__name__}:{main.__qualname__}:{main.__code__.co_firstlineno + 3}",
        "anyio.to_thread",
    ]
    here = f"services/{os.path.basename(__file__)}:{make_limiter.__code__.co_firstlineno + 1}"
    assert [place for place, *_ in made[:2]] == [here, here]
    line = to_thread.current_default_thread_limiter.__code__.co_firstlineno
    assert made[3][0] == f"anyio/to_thread.py:{line}"
    ledger(probe, 0).only(submitted=2, succeeded=2)


def make_limiter():
    return CapacityLimiter(3)


#: What such a limiter is called: it is returned, and not stored.
MADE = f"{__name__}:make_limiter:{make_limiter.__code__.co_firstlineno + 1}"


def test_a_pool_ends_with_its_limiter(run, probe):
    async def main():
        await to_thread.run_sync(square, 1)
        await to_thread.run_sync(square, 1, limiter=CapacityLimiter(1))

    adapter.patch(probe)
    gc.collect()
    before = len(adapter._limiters._pools)
    run(main)
    gc.collect()
    assert len(adapter._limiters._pools) == before
    assert [recorder.size() for recorder in probe.recorders] == [None, None]
    run(main)
    assert len(probe.recorders) == 4


def test_without_a_limit(probe):
    async def main():
        limiter = CapacityLimiter(sys.float_info.max * 2)
        await to_thread.run_sync(square, 1, limiter=limiter)
        return ledger(probe).read().max_workers

    adapter.patch(probe)
    assert anyio.run(main) == UNLIMITED


def test_the_settings_may_give_another_size(run, probe):
    probe.add_rule("anyio.to_thread", 7)
    probe.add_rule(MADE, 5)

    async def main():
        limiter = make_limiter()
        await to_thread.run_sync(square, 1)
        await to_thread.run_sync(square, 1, limiter=limiter)
        assert to_thread.current_default_thread_limiter().total_tokens == 7
        assert limiter.total_tokens == 5
        assert [ledger(probe, number).read().max_workers for number in (0, 1)] == [7, 5]

    adapter.patch(probe)
    run(main)


def test_a_pool_that_is_to_be_ignored(probe):
    probe.ignored.add("anyio.to_thread")
    adapter.patch(probe)
    assert anyio.run(to_thread.run_sync, square, 3) == 9
    assert not probe.recorders


def patched():
    owners = (
        anyio._backends._asyncio.AsyncIOBackend,
        anyio._backends._trio.TrioBackend,
        anyio._backends._asyncio.CapacityLimiter,
        anyio._backends._trio.CapacityLimiter,
        CapacityLimiterAdapter,
    )
    return [dict(vars(owner)) for owner in owners]


def test_undo_leaves_everything_as_it_was(probe):
    before = patched()
    for _ in range(2):
        adapter.patch(probe)
        adapter.patch(probe)
        assert patched() != before
        adapter.unpatch()
        adapter.unpatch()
        assert patched() == before


def test_uninstall_while_tasks_run_and_wait(run, probe):
    async def main():
        limiter = CapacityLimiter(1)
        submit = functools.partial(to_thread.run_sync, limiter=limiter)
        gate = Gate()
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(submit, gate)
            await gate.started(1)
            await until(waiting(limiter, 2))
            adapter.unpatch()
            tasks.start_soon(submit, square, 2)
            await until(waiting(limiter, 3))
            adapter.patch(probe)
            tasks.start_soon(submit, square, 2)
            await until(waiting(limiter, 4))
            gate.open()
        ledger(probe).only(submitted=4, succeeded=4)

    adapter.patch(probe)
    run(main)
    assert len(probe.recorders) == 1


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_opens_pools_of_its_own(probe):
    limiter = CapacityLimiter(1)
    submit = functools.partial(to_thread.run_sync, square, 2, limiter=limiter)
    adapter.patch(probe)
    anyio.run(submit)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            # In a child the adapter asks for the probe of the process.
            found = []
            cast(Any, adapter._switch.current).find_probe = lambda: found.append(FakeProbe()) or found[-1]  # type: ignore[func-returns-value]
            cast(Any, limiter)._internal_limiter = None
            anyio.run(submit)
            opened = [probe for probe in found if probe.recorders]
            status = 0 if len(opened) == 1 and opened[0].opened == probe.opened else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    ledger(probe).only(submitted=1, succeeded=1)


@pytest.fixture
def quiet(monkeypatch):
    monkeypatch.setattr(adapters, "_logged", set())


@pytest.mark.parametrize("missing", ["method", "parameters", "limiter"])
def test_another_anyio_is_left_alone(probe, quiet, monkeypatch, missing, caplog):
    module = anyio._backends._asyncio
    if missing == "method":
        monkeypatch.delattr(module.AsyncIOBackend, "run_sync_in_worker_thread")
    elif missing == "parameters":
        monkeypatch.setattr(module.AsyncIOBackend, "run_sync_in_worker_thread", classmethod(lambda cls, job: None))
    else:
        monkeypatch.setattr(module.CapacityLimiter, "borrowed_tokens", None)
    before = patched()[::2]
    for _ in range(2):
        adapter.patch(probe)
    assert patched()[0] == before[0]
    [text] = {message[1] for message in probe.messages}
    assert text.startswith(f"anyio {anyio_version()}: its worker threads are not watched: no ")
    assert [record.getMessage() for record in caplog.records] == [text]
    # The other backend goes on.
    assert anyio.run(to_thread.run_sync, square, 3, backend="trio") == 9
    ledger(probe).only(submitted=1, succeeded=1)


def anyio_version():
    from importlib import metadata

    return metadata.version("anyio")


def test_a_limiter_of_another_kind_is_not_watched():
    class Own:
        async def __aenter__(self):
            pass

        async def __aexit__(self, *exc):
            pass

    probe = FakeProbe()
    adapter.patch(probe)

    async def main():
        limiter: Any = Own()
        return [await to_thread.run_sync(square, number, limiter=limiter) for number in range(5)]

    try:
        assert anyio.run(main) == [0, 1, 4, 9, 16]
    finally:
        adapter.unpatch()
    assert len(probe.faults) == 1  # told once
    assert not probe.recorders


@pytest.mark.parametrize("after", range(4))
def test_a_clock_that_fails_is_not_the_tasks_business(after):
    readings = iter(range(after))
    probe = FakeProbe(as_ours(lambda: next(readings) + 1))
    adapter.patch(probe)

    async def main():
        for number in range(3):
            assert await to_thread.run_sync(square, number) == number * number
        with pytest.raises(ValueError, match="5"):
            await to_thread.run_sync(fail, 5)

    try:
        anyio.run(main)
    finally:
        adapter.unpatch()
    assert probe.faults
    assert probe.recorders[0].given_up


def test_a_start_that_had_to_wait_is_coupled_and_another_is_not(probe):
    """Threads of a loop serve all its limiters; the workers are places, and theirs are the ends and starts."""

    async def main():
        limiter = CapacityLimiter(2)
        submit = functools.partial(to_thread.run_sync, limiter=limiter)
        gates = [Gate() for _ in range(3)]
        async with anyio.create_task_group() as tasks:
            for gate in gates[:2]:
                tasks.start_soon(submit, gate)
                await gate.started(1)
            tasks.start_soon(submit, gates[2])
            await until(waiting(limiter, 1))
            gates[1].open()
            await gates[2].started(1)
            gates[0].open()
            gates[2].open()
        await submit(square, 1)
        return ledger(probe).read().finished

    adapter.patch(probe)
    finished = sorted(anyio.run(main), key=lambda row: row[4])
    (first, second, third, alone) = finished
    assert third[0] == second[0] != first[0]  # it took the place that was given back
    assert third[3] < second[5] < third[4]  # and was submitted before that
    assert alone[3] > max(row[5] for row in finished[:3])


@pytest.mark.parametrize("options", [{}, {"use_uvloop": True}], ids=["asyncio", "uvloop"])
def test_threads_that_wait_for_a_token_through_the_loop(probe, options):
    """All tokens are held by threads that wait for coroutines, which wait for a token: nobody goes on."""

    async def main():
        limiter = CapacityLimiter(2)
        submit = functools.partial(to_thread.run_sync, limiter=limiter)

        async def inner():
            return await submit(square, 3)

        async with anyio.create_task_group() as tasks:
            # Threads that other limiters have used too are no places of this one's.
            for _ in range(5):
                tasks.start_soon(to_thread.run_sync, square, 1)
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(functools.partial(submit, abandon_on_cancel=True), from_thread.run, inner)
            await until(waiting(limiter, 2))
            number = probe.recorders[-1].id
            stuck = [(number, worker, False, {(number, 0)}) for worker in (1, 2)]
            await until(lambda: told(probe) == stuck)
            book = ledger(probe).read()
            assert (book.workers, book.max_workers) == (2, 2)
            await until(lambda: told(probe) == stuck)
            limiter.total_tokens = 3
        assert told(probe) == []

    adapter.patch(probe)
    anyio.run(main, backend_options=options)


def test_who_has_been_abandoned_holds_no_token(probe):
    async def main():
        limiter, free = CapacityLimiter(1), anyio.Event()
        found = []

        def thread():
            from_thread.run(free.wait)

        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(functools.partial(to_thread.run_sync, thread, limiter=limiter, abandon_on_cancel=True))
                await until(lambda: told(probe) == [(1, 1, False, {(0, 0)})])
                scope.cancel()
        found = told(probe)
        free.set()
        await until(lambda: ledger(probe).read().running == 0)
        return found

    adapter.patch(probe)
    assert anyio.run(main) == []


def test_places_count_the_cpu_time_of_their_tasks():
    probe = FakeProbe(time.perf_counter_ns)
    adapter.patch(probe)

    def burn(nanoseconds):
        end = time.thread_time_ns() + nanoseconds
        while time.thread_time_ns() < end:
            pass

    async def main():
        limiter = CapacityLimiter(1)
        await to_thread.run_sync(burn, 20_000_000)  # of another pool, in the same thread
        for _ in range(3):
            await to_thread.run_sync(burn, 5_000_000, limiter=limiter)

    try:
        anyio.run(main)
    finally:
        adapter.unpatch()
    # Its thread uses some more as it ends, which may be after the loop.
    for thread in threading.enumerate():
        if thread.name == "AnyIO worker thread":
            thread.join()
    recorder = probe.recorders[1]
    [worker] = recorder.workers
    assert type(worker) is VirtualWorker
    clocks = CpuClocks()
    used = recorder.cpu(clocks)
    assert 15_000_000 <= used < 20_000_000
    assert recorder.cpu(clocks) == used


def test_counts_hold_while_callers_are_cancelled_and_it_is_installed_and_uninstalled(run, probe):
    """Each task is recorded wholly or not at all, whenever its caller gives up."""
    chance = random.Random(5)

    async def main():
        limiter = CapacityLimiter(3)
        stop = anyio.Event()

        async def toggle():
            while not stop.is_set():
                adapter.unpatch()
                adapter.patch(probe)
                await anyio.sleep(0.001)

        async def caller():
            for number in range(20):
                with anyio.move_on_after(chance.choice((0.0001, 0.001, LIMIT))):
                    abandon = chance.random() < 0.5
                    found = await to_thread.run_sync(square, number, abandon_on_cancel=abandon, limiter=limiter)
                    assert found == number * number

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(toggle)
            async with anyio.create_task_group() as callers:
                for _ in range(30):
                    callers.start_soon(caller)
            stop.set()
        book = ledger(probe)
        await until(lambda: book.read().running == 0)
        return book

    adapter.patch(probe)
    book = run(main)
    assert len(probe.recorders) == 1
    assert book.queued == book.running == book.failed == book.rejected == 0
    assert set(book.tasks.values()) == {0}
    assert book.succeeded > 100
    assert book.cancelled > 0
    assert len(book.recorder.workers) <= 30


def test_a_thread_that_starts_what_was_just_cancelled(probe):
    """It had looked at its future before the caller was cancelled: the task runs, and counts as cancelled."""

    async def main():
        adapter.patch(probe)
        default = anyio._backends._asyncio.AsyncIOBackend.current_default_thread_limiter
        task: Any = adapter._limiters.arrived((square, (3,)), default(), default, lambda: probe)
        task.cancelled()
        assert task(3) == 9
        ledger(probe).only(submitted=1, cancelled=1)
        task = adapter._limiters.arrived((square, (3,)), default(), default, lambda: probe)
        assert task(3) == 9
        task.cancelled()
        ledger(probe).only(submitted=1, succeeded=1)

    anyio.run(main)


def test_a_program_that_imports_nothing_else(tmp_path):
    """The backend is what imports asyncio, of which we hear first."""
    program = """
        import anyio
        from anyio import to_thread

        async def main():
            print([await to_thread.run_sync(abs, -number) for number in range(12)])

        anyio.run(main)
        """
    script(tmp_path, program)
    outcome, report = watched("program.py", cwd=tmp_path)
    assert outcome == (0, "[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]\n", "")
    [row] = report["pools"]
    assert (row["name"], row["tasks"]["succeeded"]) == ("anyio.to_thread", 12)
    assert [loop["kind"] for loop in report["event_loops"]] == ["asyncio"]
    assert not report["notices"]


DEADLOCKED = """
import anyio
from anyio import from_thread, to_thread

def work():
    pass

async def asked():
    await to_thread.run_sync(work)

def ask():
    from_thread.run(asked)

async def main():
    to_thread.current_default_thread_limiter().total_tokens = 3
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(to_thread.run_sync, ask)

anyio.run(main)
"""


def test_a_deadlock_through_the_loop_is_told_while_it_lasts(tmp_path):
    script(tmp_path, DEADLOCKED)
    words = (sys.executable, "-m", "poolscope", "run", "--json", "report.json", "program.py")
    with started(*words, cwd=tmp_path) as process:
        assert process.stderr is not None
        told = process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        process.wait(LIMIT)
    assert f"critical: pool '{adapter.DEFAULT}': deadlock (nested_wait)" in told
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["verdict"] == "deadlock"
    [finding] = [finding for finding in report["findings"] if finding["severity"] != "info"]
    assert (finding["evidence"]["deadlocked_workers"], finding["advice"]["pool"]) == (3, adapter.DEFAULT)
    assert finding["frames"][0]["source"] == "from_thread.run(asked)"
