"""Nothing of ours blocks in the thread of an event loop: pools are made and used there while a detector looks out.

`blockbuster` raises from calls that block (files, folders, sleeps, locks that are taken) in a thread whose event loop
runs. Each program is a process of its own, as what is done once in a process counts too, such as our own imports.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
    import asyncio
    import json
    import sys
    import threading
    import time

    import uvloop
    import multiprocessing.pool  # asks for the working folder itself
    from blockbuster import blockbuster_ctx
    from poolscope.probe import runtime

    probe = runtime.current()
    probe.supervised = True
    told = []
    probe.add_sink(told.append)

    {programs}

    async def main():
        loop = asyncio.get_running_loop()
        with blockbuster_ctx():
            from poolscope.probe.startup.install import install
            installation = install()
            await {name}(loop)
            with install():
                pass
            await asyncio.sleep(0.3)
            installation.uninstall()

    {runner}.run(main())
    probe.flush()
    probe.stop()
    print(json.dumps({{
        "wrong": [message for message in told if message[0] in ("fault", "notice", "incident")],
        "pools": sorted(message[2] for message in told if message[0] == "pool_opened"),
        "loops": sorted({{message[3] for message in told if message[0] == "loop_opened"}}),
    }}))
"""

PROGRAMS = """
async def standard(loop):
    import concurrent.futures
    pool = concurrent.futures.ThreadPoolExecutor(2, "mine")
    await asyncio.gather(*[loop.run_in_executor(pool, time.sleep, 0.01) for _ in range(6)])
    cancelled = [pool.submit(time.sleep, 0.01) for _ in range(6)]
    cancelled[-1].cancel()
    while not all(future.done() for future in cancelled):
        await asyncio.sleep(0.01)
    # Before 3.13 it waits for its threads at a lock.
    await asyncio.to_thread(pool.shutdown)

async def dropin(loop):
    from poolscope.executors.threads import ThreadPoolExecutor
    pool = ThreadPoolExecutor(2, "mine")
    await asyncio.gather(*[loop.run_in_executor(pool, time.sleep, 0.01) for _ in range(6)])
    await asyncio.to_thread(pool.shutdown)

async def threads_of_multiprocessing(loop):
    # From 3.14 on it writes to a pipe itself as it is made, and as it goes.
    global pool
    pool = await asyncio.to_thread(lambda: multiprocessing.pool.ThreadPool(2))
    results = [pool.apply_async(time.sleep, (0.01,)) for _ in range(6)]
    while not all(result.ready() for result in results):
        await asyncio.sleep(0.01)
    await asyncio.to_thread(pool.terminate)

async def through_anyio(loop):
    import anyio, anyio.to_thread
    await asyncio.gather(*[anyio.to_thread.run_sync(time.sleep, 0.01) for _ in range(6)])
    mine = anyio.CapacityLimiter(2)
    await asyncio.gather(*[anyio.to_thread.run_sync(time.sleep, 0.01, limiter=mine) for _ in range(6)])

async def through_asgiref(loop):
    from asgiref.sync import async_to_sync, sync_to_async
    async def inner():
        await sync_to_async(time.sleep)(0.01)
    await asyncio.gather(*[sync_to_async(time.sleep)(0.01) for _ in range(3)])
    await sync_to_async(async_to_sync(inner), thread_sensitive=False)()
"""


def run(name: str, runner: str = "asyncio") -> dict[str, list[object]]:
    text = textwrap.dedent(PROGRAM)
    ended = subprocess.run(
        [sys.executable, "-c", text.format(runner=runner, programs=PROGRAMS.strip(), name=name)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr
    found: dict[str, list[object]] = json.loads(ended.stdout)
    assert found["wrong"] == []
    return found


@pytest.mark.parametrize(
    ("name", "pools"),
    [
        ("standard", ["asyncio", "mine"]),
        ("dropin", ["mine"]),
        ("threads_of_multiprocessing", ["__main__:threads_of_multiprocessing.<locals>.<lambda>"]),
        ("through_anyio", ["__main__:through_anyio.mine", "anyio.to_thread"]),
        ("through_asgiref", ["asgiref.current_thread", "asgiref.sync_to_async", "asyncio"]),
    ],
)
def test_what_is_watched_in_a_loop(name: str, pools: list[str]) -> None:
    found = run(name)
    assert found["loops"] == ["asyncio"]
    # Without the line, where a pool is stored in no variable.
    assert set(pools) <= {re.sub(r":\d+$", "", str(pool)) for pool in found["pools"]}


def test_under_uvloop() -> None:
    assert run("standard", "uvloop")["loops"] == ["uvloop"]
