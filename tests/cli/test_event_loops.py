"""Programs with event loops of every kind are as without us, with warnings as errors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from cli_support import python, script, watched

LOOPS = """
    import asyncio
    import sys
    import threading
    import time
    import uvloop

    async def main():
        await asyncio.sleep(0.05)
        await asyncio.to_thread(time.sleep, 0.05)
        tasks = [asyncio.create_task(asyncio.sleep(0.05)) for _ in range(3)]
        await asyncio.gather(*tasks)
        return type(asyncio.get_running_loop()).__module__.partition(".")[0]

    def eager():
        loop = asyncio.new_event_loop()
        loop.set_task_factory(getattr(asyncio, "eager_task_factory", None))  # from 3.12 on
        return loop

    print(asyncio.run(main()), asyncio.run(main(), debug=True), uvloop.run(main()))
    for factory in (None, uvloop.new_event_loop, eager):
        with asyncio.Runner(loop_factory=factory) as runner:
            print(runner.run(main()), runner.run(main()))
    loop = asyncio.new_event_loop()
    print(loop.run_until_complete(main()))
    loop.close()
    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    thread.join()
"""

ODD = """
    import asyncio
    import threading

    class Refuses(asyncio.SelectorEventLoop):
        def call_soon_threadsafe(self, callback, *args, context=None):
            raise ValueError("not here")

    class Silent(asyncio.SelectorEventLoop):
        def is_running(self):
            if threading.get_ident() != threading.main_thread().ident:
                raise LookupError("nor here")
            return super().is_running()

    async def main():
        for _ in range(8):
            await asyncio.sleep(0.05)
        return 1

    for name, factory in (("Refuses", Refuses), ("Silent", Silent), ("plain", asyncio.SelectorEventLoop)):
        loop = factory()
        try:
            task = loop.create_task(main())
            task.add_done_callback(lambda task: loop.stop())
            loop.run_forever()
        finally:
            loop.close()
        print(name, task.result())
"""


@pytest.mark.parametrize("options", [("-W", "error"), ("-W", "error", "-X", "dev")])
def test_every_way_to_run_a_loop(tmp_path: Path, options: tuple[str, ...]) -> None:
    program = script(tmp_path, LOOPS)
    alone = python(*options, program, cwd=tmp_path)
    outcome, report = watched("--", sys.executable, *options, program, cwd=tmp_path)
    assert outcome == alone
    assert outcome.out.splitlines() == [
        "asyncio asyncio uvloop",
        "asyncio asyncio",
        "uvloop uvloop",
        "asyncio asyncio",
        "asyncio",
    ]
    assert (outcome.status, outcome.err) == (0, "")
    assert {loop["kind"] for loop in report["event_loops"]} == {"asyncio", "uvloop"}
    assert report["notices"] == []


def test_an_odd_loop_is_not_watched_and_the_others_are(tmp_path: Path) -> None:
    program = script(tmp_path, ODD)
    outcome, report = watched(program, cwd=tmp_path)
    assert outcome == python(program, cwd=tmp_path)
    assert outcome.out == "Refuses 1\nSilent 1\nplain 1\n"
    assert sorted(report["notices"]) == [
        "an event loop of class __main__.Refuses is not watched: ValueError: not here",
        "an event loop of class __main__.Silent is not watched: LookupError: nor here",
    ]
    (loop,) = report["event_loops"]
    assert loop["kind"] == "asyncio"
    assert loop["lag_seconds"]["p50"] is not None


def test_the_last_of_the_program_goes_in_silence(tmp_path: Path) -> None:
    """What the main script holds goes after our modules, as the interpreter shuts down, and may still run a loop."""
    program = script(
        tmp_path,
        """
        import asyncio
        import anyio
        import anyio.to_thread

        async def main():
            await anyio.to_thread.run_sync(int, limiter=limiter)

        class Closes:
            def __init__(self):
                self.loop = asyncio.new_event_loop()
                self.run = self.loop.run_until_complete
                self.sleep = asyncio.sleep

            def __del__(self):
                self.run(self.sleep(0))
                self.loop.close()
                print("closed")

        limiter = anyio.CapacityLimiter(2)
        others = [anyio.CapacityLimiter(1) for _ in range(3)]
        closes = Closes()
        loop = asyncio.new_event_loop()
        loop.run_until_complete(main())
        asyncio.run(main())
        """,
    )
    outcome, report = watched(program, cwd=tmp_path)
    assert outcome == python(program, cwd=tmp_path)
    assert outcome.out == "closed\n"
    assert "Exception ignored" not in outcome.err
    assert report["notices"] == []
