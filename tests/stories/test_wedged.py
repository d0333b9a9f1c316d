"""A program that hangs for good: its loop blocked, its pool full, the interpreter's lock held by C code."""

from __future__ import annotations

import json
import os
import signal
import sys
import urllib.request
from pathlib import Path

from cli_support import PATIENCE, await_true, script, started

PROGRAM = """
    import asyncio, os, re, threading, time
    from concurrent.futures import ThreadPoolExecutor

    gate = threading.Event()

    async def main():
        pool = ThreadPoolExecutor(2, thread_name_prefix="full")
        for _ in range(5):
            pool.submit(gate.wait)
        while not os.path.exists("wedge"):
            await asyncio.sleep(0.01)
        re.match(r"(a+)+$", "a" * 64 + "b")

    asyncio.run(main())
"""


def scrape(url: str) -> dict[str, float]:
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        lines = answer.read().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}


def test_a_wedged_program_keeps_its_endpoint_and_a_killed_one_its_report(tmp_path: Path) -> None:
    script(tmp_path, PROGRAM)
    words = (sys.executable, "-m", "poolscope", "run", "--listen", "127.0.0.1:0", "--json", "it.json", "program.py")
    age = 'poolscope_pool_oldest_queued_seconds{pool="full"}'
    with started(*words, cwd=tmp_path) as process:
        assert process.stderr is not None
        url = process.stderr.readline().removeprefix("poolscope: metrics at ").strip()
        await_true(lambda: scrape(url).get('poolscope_pool_queue_depth{pool="full"}') == 3.0, "no pool showed up")
        (tmp_path / "wedge").touch()
        before = scrape(url)
        # Nothing in the program can run any more, yet the only signal that moves in a stall still moves.
        await_true(lambda: scrape(url)[age] > before[age] + 2, "the age of the oldest task stood still")
        assert scrape(url)['poolscope_pool_active_workers{pool="full"}'] == 2.0
        program = children(process.pid)[0]
        os.kill(program, signal.SIGKILL)
        assert process.wait(PATIENCE) == -signal.SIGKILL
    report = json.loads((tmp_path / "it.json").read_text())
    assert report["exit_code"] == -signal.SIGKILL
    (pool,) = report["pools"]
    assert (pool["tasks"]["submitted"], pool["tasks"]["started"]) == (5, 2)
    assert report["event_loops"][0]["kind"] == "asyncio"


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
