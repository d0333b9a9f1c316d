"""Loops within a callback of a loop (`nest_asyncio2`), and Textual's: what holds them is told, and no more."""

from __future__ import annotations

from pathlib import Path

from cli_support import script, watched

#: The inner runs wait for longer than anything may hold a loop, or than it may be without rest.
NESTED = """
    import asyncio
    import nest_asyncio2

    nest_asyncio2.apply()

    async def fetch():
        await asyncio.sleep(0.8)
        return 3

    async def page():
        return asyncio.run(fetch())

    async def main():
        other = asyncio.create_task(asyncio.sleep(2))
        found = [await page(), asyncio.get_running_loop().run_until_complete(fetch())]
        await other
        return found

    print(asyncio.run(main()))
"""
#: Held in the inner run.
HELD = """
    import asyncio, time
    import nest_asyncio2

    nest_asyncio2.apply()

    async def parse():
        await asyncio.sleep(0.1)
        time.sleep(0.4)

    async def main():
        asyncio.run(parse())
        await asyncio.sleep(0.5)

    asyncio.run(main())
"""


def test_a_run_within_a_run_holds_nothing_while_it_waits(tmp_path: Path) -> None:
    (tmp_path / "soon.yaml").write_text("detection: {sustain_seconds: 0.1}\n")
    outcome, report = watched("--config", "soon.yaml", script(tmp_path, NESTED), cwd=tmp_path)
    assert outcome == (0, "[3, 3]\n", "")
    assert report["event_loops"]
    assert [finding for finding in report["findings"] if finding["severity"] != "info"] == []
    assert report["verdict"] == "concurrent"


def test_what_holds_the_inner_run_is_told(tmp_path: Path) -> None:
    outcome, report = watched(script(tmp_path, HELD), cwd=tmp_path)
    assert outcome == (0, "", "")
    found = [finding for finding in report["findings"] if finding["severity"] == "warning"]
    assert [finding["pattern"] for finding in found] == ["loop_blocked"]
    assert found[0]["frames"][0]["function"] == "parse"


TEXTUAL = """
    import asyncio, time
    from textual.app import App

    class Shop(App):
        async def on_mount(self):
            self.set_timer(0.3, self.load)

        def load(self):
            time.sleep(0.4)
            self.exit("done")

    print(Shop().run(headless=True))
"""


def test_what_holds_an_application_of_textuals(tmp_path: Path) -> None:
    outcome, report = watched(script(tmp_path, TEXTUAL), cwd=tmp_path)
    assert (outcome.status, outcome.out) == (0, "done\n")
    (loop,) = report["event_loops"]
    assert loop["kind"] == "asyncio"
    assert [finding["frames"][0]["function"] for finding in loop["findings"] if finding["severity"] == "warning"] == [
        "Shop.load"
    ]
