"""trio's worker threads and its event loop: in process, gated by events, and in programs."""

from __future__ import annotations

import functools
import gc
import threading
import traceback
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from adapter_support import Gate, patched
from cli_support import python, script, watched
from probe_support import FakeProbe, Ledger
from trio import _path, _threads, to_thread

from poolscope.probe.adapters import anyio as anyio_adapter
from poolscope.probe.adapters import trio as adapter

LIMIT = 30  # seconds for what is sure to come


@pytest.fixture
def probe():
    with patched(adapter) as made:
        yield made


def ledger(probe):
    return Ledger(probe.recorders[0], probe)


def fail():
    raise LookupError("no such name")


def test_calls_are_tasks_with_their_functions_and_outcomes(probe):
    async def main():
        assert await to_thread.run_sync(divmod, 7, 2) == (3, 1)
        with pytest.raises(LookupError):
            await to_thread.run_sync(fail)
        assert await trio.Path(__file__).exists()

    trio.run(main)
    book = ledger(probe)
    book.only(submitted=3, succeeded=2, failed=1)
    assert (book.recorder.name, book.recorder.kind) == ("trio.to_thread", "trio")
    names = probe.function_names()
    assert {names[function] for _, function, *_ in book.finished} >= {"builtins.divmod", f"{__name__}.fail"}


def test_what_waits_for_a_token_is_queued_and_may_be_cancelled(probe):
    gate = Gate()

    async def main():
        limiter = trio.CapacityLimiter(2)
        run = functools.partial(to_thread.run_sync, gate, limiter=limiter)
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(run)
            await gate.started(2)
            with trio.move_on_after(0):
                await run()
            book = ledger(probe)
            book.only(submitted=4, running=2, queued=1, cancelled=1)
            assert book.max_workers == 2
            limiter.total_tokens = 5
            await gate.started(1)
            book.only(submitted=4, running=3, cancelled=1)
            assert book.max_workers == 5
            gate.open()
        book.only(submitted=4, succeeded=3, cancelled=1)

    trio.run(main)


def test_a_call_that_is_abandoned_keeps_its_place(probe):
    gate = Gate()

    async def main():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(functools.partial(to_thread.run_sync, gate, abandon_on_cancel=True))
            await gate.started(1)
            nursery.cancel_scope.cancel()
        ledger(probe).only(submitted=1, running=1)
        gate.open()

    trio.run(main)


def test_what_a_thread_and_a_traceback_show_is_as_without_us(probe):
    async def of(function):
        try:
            return await to_thread.run_sync(function)
        except Exception as exc:
            return str(exc), [
                (frame.name, Path(frame.filename).name) for frame in traceback.extract_tb(exc.__traceback__)
            ]

    async def coroutine():
        pass

    def name():
        return threading.current_thread().name

    async def main():
        return [await of(function) for function in (name, functools.partial(name), fail, coroutine)]

    patched = trio.run(main)
    adapter.unpatch()
    assert patched == trio.run(main)


def test_a_limiter_of_the_programs_own_is_not_recorded(probe):
    class Limiter:
        async def acquire_on_behalf_of(self, borrower):
            await trio.lowlevel.checkpoint()

        def release_on_behalf_of(self, borrower):
            pass

    async def main():
        return await to_thread.run_sync(divmod, 7, 2, limiter=cast(Any, Limiter()))

    assert trio.run(main) == (3, 1)
    assert not probe.recorders


def test_anyios_threads_are_anyios(probe):
    import anyio
    import anyio._backends._trio

    anyio_adapter.patch(probe)
    try:

        async def main():
            return await anyio.to_thread.run_sync(divmod, 7, 2)

        assert anyio.run(main, backend="trio") == (3, 1)
    finally:
        anyio_adapter.unpatch()
    assert [recorder.kind for recorder in probe.recorders] == ["anyio"]


def test_everything_is_put_back(probe):
    ours = _threads.to_thread_run_sync
    assert to_thread.run_sync is vars(_path)["run_sync"] is ours
    adapter.unpatch()
    assert to_thread.run_sync is vars(_path)["run_sync"] is _threads.to_thread_run_sync is not ours
    assert not hasattr(trio.CapacityLimiter.__init__, "__wrapped__")

    async def main():
        return await ours(divmod, 7, 2)  # somebody has kept it

    assert trio.run(main) == (3, 1)
    assert not probe.recorders


def test_a_limiter_that_is_dropped_is_forgotten(probe):
    before = len(adapter._limiters._pools)

    async def main():
        await to_thread.run_sync(int, limiter=trio.CapacityLimiter(1))

    trio.run(main)
    gc.collect()
    assert len(adapter._limiters._pools) <= before + 1  # the run's own


def test_an_unknown_version_is_left_alone(monkeypatch):
    async def run(function, *args):
        pass

    probe = FakeProbe()
    monkeypatch.setattr(_threads, "to_thread_run_sync", run)
    adapter.patch(probe)
    assert _threads.to_thread_run_sync is run
    assert "its worker threads are not watched" in str(probe.messages)
    adapter.unpatch()


PROGRAM = """
    import time, trio

    async def crawl(host):
        await trio.to_thread.run_sync(look_up, host, limiter=LIMITER)

    def look_up(host):
        time.sleep(0.1)

    def parse():
        time.sleep(0.4)

    async def main():
        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(crawl, f"host{number}.test")
                await trio.sleep(0.01)
            parse()

    LIMITER = trio.CapacityLimiter(4)
    trio.run(main)
    print("done")
"""


def test_a_limiter_that_fills_and_a_line_that_blocks(tmp_path: Path) -> None:
    program = script(tmp_path, PROGRAM)
    plain = python(program, cwd=tmp_path)
    outcome, report = watched(program, cwd=tmp_path)
    assert outcome == plain
    (pool,) = report["pools"]
    assert (pool["name"], pool["kind"], pool["max_workers"]) == ("__main__:<module>.LIMITER", "trio", 4)
    assert pool["tasks"]["succeeded"] == 60
    assert [function["name"] for function in pool["functions"]] == ["__main__.look_up"]
    assert pool["saturated_seconds"] > 0.5
    (loop,) = report["event_loops"]
    assert (loop["name"], loop["kind"]) == ("MainThread", "trio")
    assert loop["peak_tasks"] > 10
    (finding,) = [finding for finding in loop["findings"] if finding["severity"] == "warning"]
    assert (finding["pattern"], finding["cause"]) == ("loop_blocked", "blocking_call")
    assert finding["frames"][0]["function"] == "parse"
    assert finding["advice"]["text"].startswith("Await trio.sleep() in its place")


GUEST = """
    import asyncio, time, trio

    async def inside():
        await trio.sleep(0.05)
        time.sleep(0.4)
        return "done"

    async def main():
        ended = asyncio.get_running_loop().create_future()
        trio.lowlevel.start_guest_run(
            inside,
            run_sync_soon_threadsafe=asyncio.get_running_loop().call_soon_threadsafe,
            done_callback=lambda outcome: ended.set_result(outcome.unwrap()),
        )
        print(await ended)

    asyncio.run(main())
"""


def test_a_guest_of_asyncios_loop_is_seen_there(tmp_path: Path) -> None:
    outcome, report = watched(script(tmp_path, GUEST), cwd=tmp_path)
    assert outcome == (0, "done\n", "")
    (loop,) = report["event_loops"]
    assert loop["kind"] == "asyncio"
    (finding,) = [finding for finding in loop["findings"] if finding["severity"] == "warning"]
    assert finding["frames"][0]["function"] == "inside"
