"""Programs whose imports are lazy (3.15): each module is met when it runs, and no sooner than without us."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from cli_support import environment, python, same_as_without, script, watched

pytestmark = pytest.mark.skipif(not hasattr(sys, "lazy_modules"), reason="from 3.15 on imports may be lazy")

#: `imported()` is what has run of what is imported; the rest of a program is put between its two calls.
PROGRAM = """
    import sys
    import time
    {lazy}import asyncio
    {lazy}import multiprocessing.pool
    {lazy}from concurrent.futures import ThreadPoolExecutor

    NAMES = ("asyncio.base_events", "multiprocessing.pool", "concurrent.futures.thread", "concurrent.futures.process",
             "array", "fcntl", "inspect", "json", "resource")

    def imported():
        print([name for name in NAMES if name in sys.modules])

    async def main():
        for _ in range(5):
            await asyncio.sleep(0.05)
        await asyncio.to_thread(time.sleep, 0.01)

    imported()
    with ThreadPoolExecutor(2, "lazy") as pool:
        list(pool.map(time.sleep, [0.01] * 6))
    imported()
    asyncio.run(main())
    imported()
    with multiprocessing.pool.ThreadPool(2) as pool:
        pool.map(time.sleep, [0.01] * 6)
    imported()
    print(sorted(name for name in sys.lazy_modules if name in NAMES))
"""


def seen(report: dict[str, Any]) -> tuple[list[str], dict[str, int]]:
    kinds = [loop["kind"] for loop in report["event_loops"]]
    return kinds, {pool["name"]: pool["tasks"]["succeeded"] for pool in report["pools"]}


@pytest.mark.parametrize(
    ("lazy", "options"),
    [("lazy ", ()), ("", ("-X", "lazy_imports=all")), ("lazy ", ("-X", "lazy_imports=normal"))],
)
def test_what_is_imported_lazily(tmp_path: Path, lazy: str, options: tuple[str, ...]) -> None:
    program = script(tmp_path, PROGRAM.format(lazy=lazy))
    alone = python(*options, program, cwd=tmp_path)
    outcome, report = watched("--", sys.executable, *options, program, cwd=tmp_path)
    assert outcome == alone
    assert outcome.out.splitlines()[0] == "[]"
    kinds, pools = seen(report)
    assert kinds == ["asyncio"]
    assert pools["lazy"] == 6
    assert sorted(pools.values()) == [1, 6, 6]
    assert report["notices"] == []


def test_where_the_environment_makes_all_imports_lazy(tmp_path: Path) -> None:
    """Also those of the parent."""
    program = script(tmp_path, PROGRAM.format(lazy=""))
    env = environment(PYTHON_LAZY_IMPORTS="all")
    same_as_without(program, cwd=tmp_path, env=env)
    _, report = watched(program, cwd=tmp_path, env=env)
    assert seen(report)[1]["lazy"] == 6
    assert report["notices"] == []
