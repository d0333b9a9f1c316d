"""Programs behind one semaphore or lock: told with who holds it and who waits, and silent where it does its work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_support import poolscope, script

HEAD = """
    import asyncio, threading, time
    from concurrent.futures import ThreadPoolExecutor

    async def call(limit, seconds):
        async with limit:
            await asyncio.sleep(seconds)

    async def calls(limit, times, seconds, pause):
        tasks = []
        for _ in range(times):
            tasks.append(asyncio.create_task(call(limit, seconds)))
            await asyncio.sleep(pause)
        await asyncio.gather(*tasks)
"""

ONE_LOCK = """
    async def main():
        lock = asyncio.Lock()
        await calls(lock, 80, 0.05, 0.02)

    asyncio.run(main())
"""

GATE = """
    async def main():
        gate = asyncio.Semaphore(3)
        await calls(gate, 120, 0.1, 0.015)

    asyncio.run(main())
"""

#: Each in a thread of its own, so that none is faster than those that wait.
THREADS = """
    slots = threading.BoundedSemaphore(2)

    def fetch():
        with slots:
            time.sleep(0.05)

    threads = []
    for _ in range(100):
        threads.append(threading.Thread(target=fetch))
        threads[-1].start()
        time.sleep(0.01)
    for thread in threads:
        thread.join()
"""

SHORT = """
    async def main():
        lock, table = asyncio.Lock(), []

        async def note(number):
            async with lock:
                table.append(number)
                await asyncio.sleep(0)

        for _ in range(60):
            await asyncio.gather(*(note(number) for number in range(50)))
            await asyncio.sleep(0.02)

    asyncio.run(main())
"""

NEVER = """
    async def main():
        await calls(asyncio.Semaphore(50), 100, 0.1, 0.015)

    asyncio.run(main())
"""

#: The limit is there so that not all of a batch go on at once.
BATCH = """
    async def main():
        limit = asyncio.Semaphore(10)
        await asyncio.gather(*(call(limit, 0.1) for _ in range(250)))

    asyncio.run(main())
"""

#: One takes room, another one gives it back.
SIGNAL = """
    async def main():
        room, items = asyncio.Semaphore(4), asyncio.Queue()

        async def produce():
            for number in range(100):
                await room.acquire()
                items.put_nowait(number)

        async def consume():
            for _ in range(100):
                await items.get()
                await asyncio.sleep(0.02)
                room.release()

        await asyncio.gather(produce(), consume())

    asyncio.run(main())
"""


def report_of(tmp_path: Path, program: str, *words: str) -> dict[str, Any]:
    script(tmp_path, HEAD + program)
    outcome = poolscope("run", "--quiet", "--json", "it.json", *words, "program.py", cwd=tmp_path)
    assert (outcome.status, outcome.out, outcome.err) == (0, "", "")
    report: dict[str, Any] = json.loads((tmp_path / "it.json").read_text())
    return report


@pytest.mark.parametrize(
    ("program", "kind", "size", "expected", "sources"),
    [
        (
            ONE_LOCK,
            "lock",
            1,
            ("serial", "held_across_wait", "shorten_hold"),
            ["await asyncio.sleep(seconds)", "async with limit:"],
        ),
        (
            GATE,
            "semaphore",
            3,
            ("async_then_serial", "limit_reached", "raise_limit"),
            ["await asyncio.sleep(seconds)", "async with limit:"],
        ),
        (
            THREADS,
            "semaphore",
            2,
            ("async_then_serial", "limit_reached", "raise_limit"),
            ["time.sleep(0.05)", "with slots:"],
        ),
    ],
    ids=["a lock", "a semaphore", "a semaphore of threads"],
)
def test_what_all_wait_for_is_told(
    tmp_path: Path, program: str, kind: str, size: int, expected: tuple[str, ...], sources: list[str]
) -> None:
    report = report_of(tmp_path, program)
    [pool] = [pool for pool in report["pools"] if pool["kind"] == kind]
    assert pool["max_workers"] == size
    [finding] = [finding for finding in pool["findings"] if finding["severity"] != "info"]
    assert (finding["pattern"], finding["cause"], finding["advice"]["action"]) == expected
    assert set(sources) <= {frame["source"] for frame in finding["frames"]}
    assert "max_workers" not in finding["advice"]["text"]
    assert report["verdict"] == expected[0]


@pytest.mark.parametrize("program", [SHORT, NEVER, SIGNAL], ids=["held for short", "never waited for", "a signal"])
def test_one_that_does_its_work_is_left_in_peace(tmp_path: Path, program: str) -> None:
    report = report_of(tmp_path, program)
    assert report["verdict"] == "concurrent"
    if program is not SHORT:
        assert [pool for pool in report["pools"] if pool["kind"] != "queue"] == []


def test_a_batch_behind_one_is_told(tmp_path: Path) -> None:
    report = report_of(tmp_path, BATCH)
    [pool] = report["pools"]
    [finding] = [finding for finding in pool["findings"] if finding["severity"] != "info"]
    assert (finding["pattern"], finding["cause"]) == ("async_then_serial", "limit_reached")
    assert "await asyncio.sleep(seconds)" in {frame["source"] for frame in finding["frames"]}


def test_one_on_purpose_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text('pools: [{match: "__main__:*", name: rate, intended: true}]')
    report = report_of(tmp_path, GATE, "--config", "c.yaml")
    [pool] = report["pools"]
    assert pool["name"] == "rate"
    assert "limit_reached" in {finding["cause"] for finding in pool["findings"]}
    assert {finding["severity"] for finding in pool["findings"]} == {"info"}
    assert report["verdict"] == "concurrent"


def test_the_settings_turn_it_off(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("limits: false")
    assert report_of(tmp_path, ONE_LOCK, "--config", "c.yaml")["pools"] == []
