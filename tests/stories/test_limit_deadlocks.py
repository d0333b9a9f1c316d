"""Deadlocks and losses through limits, proven while they last, and a long hold that is none."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from cli_support import poolscope, script

#: Each of them for four seconds, all at once: as long as nothing can go on in one, the others do.
DEADLOCKS = """
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    async def both(first, second, met):
        async with first:
            await met.wait()
            async with second:  # both
                pass

    async def again(lock):
        async with lock:
            await inner(lock)

    async def inner(lock):
        async with lock:  # inner
            pass

    def in_thread(loop, gate):
        return asyncio.run_coroutine_threadsafe(inner(gate), loop).result(6)  # thread

    async def through_pool(pool, gate, loop):
        async with gate:
            await loop.run_in_executor(pool, in_thread, loop, gate)  # through

    async def honest(lock):
        async with lock:
            await asyncio.sleep(3)

    async def main():
        one = asyncio.Lock()
        two = asyncio.Lock()
        own = asyncio.Lock()
        gate = asyncio.Semaphore(1)
        healthy = asyncio.Lock()
        pool = ThreadPoolExecutor(1, "single")
        met = asyncio.Barrier(2)
        loop = asyncio.get_running_loop()
        stuck = [both(one, two, met), both(two, one, met), again(own), through_pool(pool, gate, loop)]
        tasks = [asyncio.create_task(each) for each in stuck]
        held = [asyncio.create_task(honest(healthy)) for _ in range(2)]
        await asyncio.wait(tasks, timeout=4)
        for task in (*tasks, *held):
            task.cancel()
        await asyncio.gather(*tasks, *held, return_exceptions=True)
        pool.shutdown(wait=False, cancel_futures=True)

    asyncio.run(main())
"""

#: Both permits are taken by calls that fail, and nothing is left that could give them back.
LOST = """
    import asyncio, signal, threading

    async def call(gate, fails):
        await gate.acquire()
        if fails:
            raise ValueError
        gate.release()

    async def main():
        gate = asyncio.Semaphore(2)
        for fails in (False, True, True, False):
            try:
                await call(gate, fails)
            except ValueError:
                pass

    signal.setitimer(signal.ITIMER_REAL, 4)
    signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        pass
"""

#: Every tenth call fails after it has got a permit that it waited for, while others go on.
LEAKED = """
    import asyncio

    async def call(gate, fails):
        await gate.acquire()  # took
        await asyncio.sleep(0.02)
        if fails:
            raise ValueError
        gate.release()

    async def main():
        gate = asyncio.Semaphore(2)
        tasks = [asyncio.create_task(call(gate, number % 10 == 9)) for number in range(40)]
        await asyncio.wait(tasks, timeout=4)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
"""


def findings(tmp_path: Path, program: str) -> dict[str, dict[str, Any]]:
    """By the variable of the limit, or the name of the pool, what is above a note."""
    script(tmp_path, program)
    outcome = poolscope("run", "--quiet", "--json", "it.json", "program.py", cwd=tmp_path)
    assert (outcome.status, outcome.out) == (0, "")
    report: dict[str, Any] = json.loads((tmp_path / "it.json").read_text())
    return {
        pool["name"].rpartition(".")[2]: finding
        for pool in report["pools"]
        for finding in pool["findings"]
        if finding["severity"] != "info"
    }


def test_deadlocks_through_limits_are_proven_and_a_long_hold_is_none(tmp_path: Path) -> None:
    found = findings(tmp_path, DEADLOCKS)
    assert set(found) == {"one", "two", "own", "gate", "single"}
    assert {(each["severity"], each["pattern"], each["cause"]) for each in found.values()} == {
        ("critical", "deadlock", "nested_wait")
    }
    both = r"its holder waits for lock '__main__:main\.two' at program\.py:\d+ \(both\), whose holder waits at "
    assert re.search(both + r"program\.py:\d+ \(both\) for this one", found["one"]["summary"])
    assert "its holder waits for it again" in found["own"]["summary"]
    assert "for tasks of pool 'single'" in found["gate"]["summary"]
    assert "waits for semaphore '__main__:main.gate'" in found["single"]["summary"]
    assert found["one"]["advice"]["pool"].endswith(".two")
    assert found["own"]["frames"][0]["source"].endswith("# inner")


def test_permits_that_nothing_can_give_back_are_lost(tmp_path: Path) -> None:
    found = findings(tmp_path, LOST)["gate"]
    assert (found["pattern"], found["cause"], found["advice"]["action"]) == ("stuck_workers", "leaked", "give_back")
    assert "has lost 2 of its 2 permits" in found["summary"]
    assert "taken and never given back, and nothing is left that could do so" in found["summary"]


def test_a_permit_is_lost_whose_task_has_ended(tmp_path: Path) -> None:
    found = findings(tmp_path, LEAKED)["gate"]
    assert (found["pattern"], found["cause"]) == ("stuck_workers", "leaked")
    assert "(call) and never given back, though what took them has ended" in found["summary"]
    assert found["frames"][0]["source"].endswith("# took")
