"""uvloop's loop and its default executor, in a program that nobody changed."""

from __future__ import annotations

from pathlib import Path

from cli_support import python, script, watched

PROGRAM = """
import asyncio, time, uvloop
from concurrent.futures import ThreadPoolExecutor

def work(number):
    time.sleep(0.02)
    return number

def block():
    time.sleep(0.3)

async def main():
    loop = asyncio.get_running_loop()
    print(await asyncio.gather(*(asyncio.to_thread(work, number) for number in range(20))))
    print(await asyncio.gather(*(loop.run_in_executor(None, work, number) for number in range(20))))
    loop.set_default_executor(ThreadPoolExecutor(2, "mine"))
    print(await asyncio.gather(*(asyncio.to_thread(work, number) for number in range(20))))
    block()
    await asyncio.sleep(0.05)
    try:
        await asyncio.to_thread(int, "x")
    except ValueError as error:
        print(error)

uvloop.run(main())
"""


def test_the_default_executors_and_the_loop_of_uvloop(tmp_path: Path) -> None:
    script(tmp_path, PROGRAM)
    alone = python("program.py", cwd=tmp_path)
    outcome, report = watched("program.py", cwd=tmp_path)
    assert outcome == alone
    rows = {row["name"]: row for row in report["pools"]}
    assert set(rows) == {"uvloop", "mine"}
    assert rows["uvloop"]["tasks"]["succeeded"] == 40
    assert rows["mine"]["tasks"]["succeeded"] == 20
    assert rows["mine"]["tasks"]["failed"] == 1
    assert rows["mine"]["max_workers"] == rows["mine"]["peak_active"] == 2
    for row in rows.values():
        assert row["kind"] == "thread"
        assert "__main__.work" in [function["name"] for function in row["functions"]]
        assert row["peak_queue_depth"] > 0
    [loop] = report["event_loops"]
    assert loop["kind"] == "uvloop"
    [finding] = loop["findings"]
    assert (finding["pattern"], finding["cause"]) == ("loop_blocked", "blocking_call")
    assert finding["frames"][0]["function"] == "block"
