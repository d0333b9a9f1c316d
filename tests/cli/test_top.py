"""`poolscope top`: its view driven by textual's pilot, and what it is told by real runs."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import live_support
import psutil
import pytest
from cli_support import PATIENCE, await_true, environment, poolscope, run, script, started
from endpoint_support import certificate, protected, secret
from live_support import shown

from poolscope.commands import top
from poolscope.commands.top import source
from poolscope.errors import PoolscopeError
from poolscope.live.board import Board
from poolscope.live.feed import Feed, pages
from poolscope.live.screen import View
from poolscope.metrics.families import serve_snapshots

FULL = """
    import time
    from concurrent.futures import ThreadPoolExecutor

    def work():
        time.sleep(0.05)

    with ThreadPoolExecutor(2, "full") as pool:
        for _ in range(10_000):
            pool.submit(work)
        time.sleep(600)
"""


def piloted(board: Board, width: int, act: Callable[[View], Awaitable[None]], height: int = 30, **how: object) -> str:
    """What a view shows after `act`, as the text of its screenshot."""

    async def go() -> str:
        view = View(board, **({"ask": lambda: board} | how))  # type: ignore[arg-type]
        async with view.run_test(size=(width, height)) as pilot:
            await pilot.pause()
            await act(view)
            await pilot.pause()
            return view.export_screenshot()

    svg = asyncio.run(go())
    return re.sub(r"<[^>]*>|&#160;", lambda found: "" if found[0].startswith("<") else " ", svg)


async def nothing(_view: View) -> None:
    pass


async def look(view: View) -> None:
    view.look()
    await view.workers.wait_for_complete()


class TestView:
    @pytest.mark.parametrize("width", [12, 20, 60, 80, 200])
    def test_it_shows_what_is_wrong_and_the_numbers(self, width: int) -> None:
        text = piloted(shown(live_support.hard_limit()), width, nothing, height=60)
        assert "4/4" in text
        assert "fetch" in text
        assert "jobs.py:31" in text
        assert "WARNING" in text

    def test_it_looks_again(self) -> None:
        text = piloted(shown(live_support.hard_limit()), 80, look, ask=lambda: shown(live_support.batch()))
        assert "250 of 1,000 done" in text
        assert "jobs.py" not in text

    def test_what_does_not_answer_is_told_and_the_last_look_stays(self) -> None:
        def ask() -> Board:
            raise PoolscopeError("the run does not answer")

        text = piloted(shown(live_support.hard_limit()), 80, look, ask=ask)
        assert "the run does not answer. Asking again." in text
        assert "4/4" in text

    def test_names_are_no_markup(self) -> None:
        assert "[bold]" in piloted(shown(live_support.hostile()), 200, nothing)

    def test_ctrl_c_is_for_the_program_of_a_run(self) -> None:
        pressed: list[str] = []

        async def press(view: View) -> None:
            view.action_interrupt()

        piloted(shown(live_support.batch()), 80, press, interrupted=lambda: pressed.append("interrupt"))
        assert pressed == ["interrupt"]

    def test_it_ends_with_the_run(self) -> None:
        read, write = os.pipe()

        async def go() -> None:
            view = View(shown(live_support.batch()), lambda: shown(live_support.batch()), ended=read)
            async with view.run_test():
                os.close(write)
                while view.is_running and not view._exit:
                    await asyncio.sleep(0.01)

        asyncio.run(asyncio.wait_for(go(), PATIENCE))
        os.close(read)

    def test_a_small_terminal_scrolls(self) -> None:
        async def down(view: View) -> None:
            view.query_one("VerticalScroll").scroll_end(animate=False)

        assert "max_workers=11" in piloted(shown(live_support.hard_limit()), 60, down, height=8)


class TestRuns:
    def test_by_port_by_process_and_by_parent_also_when_the_program_hangs(self, tmp_path: Path) -> None:
        script(tmp_path, FULL)
        words = (sys.executable, "-m", "poolscope", "run", "--listen", "127.0.0.1:0", "program.py")
        with started(*words, cwd=tmp_path) as process:
            assert process.stderr is not None
            url = process.stderr.readline().removeprefix("poolscope: metrics at ").strip()
            assert process.stderr.readline() == f"poolscope: live view at {url.removesuffix('metrics')}\n"
            port = url.rpartition(":")[2].removesuffix("/metrics")
            await_true(lambda: "full" in {pool.name for pool in source(port)().pools}, "no pool showed up")
            [program] = psutil.Process(process.pid).children()
            os.kill(program.pid, signal.SIGSTOP)
            for target in (url, port, str(program.pid), str(process.pid), f"127.0.0.1:{port}"):
                board = source(target)()
                [pool] = board.pools
                assert (pool.name, pool.size, pool.active) == ("full", 2, 2)
                assert board.command.endswith("program.py")
            told = poolscope("top", str(program.pid), cwd=tmp_path)
            assert (told.status, told.err) == (0, "")
            assert "full 2/2, " in told.out
            assert told.out.count("\n") == 1
            program.kill()

    def test_status_lines_where_there_is_no_terminal(self, tmp_path: Path) -> None:
        program = script(tmp_path, "import time\ntime.sleep(0.1)")
        outcome = poolscope("run", "--live", program, cwd=tmp_path)
        assert outcome.status == 0


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("ftp://x", "is no URL of an endpoint"),
        ("http://", "is no URL of an endpoint"),
        ("http://[::1", "is no URL of an endpoint"),
        ("99999999", "is no port, and no process under poolscope run"),
        ("0", "is no port"),
        ("http://127.0.0.1:1", "nothing to see at http://127.0.0.1:1/live: "),
    ],
)
def test_what_cannot_be_shown_is_said_in_one_line(tmp_path: Path, target: str, said: str) -> None:
    outcome = poolscope("top", target, cwd=tmp_path)
    assert (outcome.status, outcome.out) == (2, "")
    assert said in outcome.err
    assert outcome.err.count("\n") == 1


def test_without_textual_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "textual", None)
    with pytest.raises(PoolscopeError, match=r"pip install 'poolscope\[top\]'"):
        top.check_extra()


def live(folder: Path, text: str, act: Callable[[int], object]) -> tuple[int, str]:
    """Runs a program with `--live` on a terminal of its own, and does something there once the view is shown: how it
    ended, and all that the terminal got."""
    script(folder, text)
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(folder)
        words = [sys.executable, "-m", "poolscope", "run", "--live", "program.py"]
        os.execve(words[0], words, environment(TERM="xterm-256color", COLUMNS="100", LINES="30"))
    shown, acted, deadline = "", False, time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            shown += os.read(terminal, 65536).decode("utf-8", "replace")
        except OSError:
            break
        if "q quit" in shown and not acted:
            acted = True
            act(terminal)
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


class TestLive:
    """`run --live` on a terminal."""

    def test_the_output_comes_after_the_view_and_the_report_last(self, tmp_path: Path) -> None:
        text = """
            import os, sys, time
            from concurrent.futures import ThreadPoolExecutor
            with ThreadPoolExecutor(2, "full") as pool:
                list(pool.map(time.sleep, [0.01] * 40))
            print("the result", sys.stdout.isatty(), sys.stdin.read() == "")
            while not os.path.exists("go"):
                time.sleep(0.01)
            sys.exit(5)
        """
        status, shown = live(tmp_path, text, lambda _: (tmp_path / "go").touch())
        assert status == 5
        view, _, after = shown.rpartition("\x1b[?1049l")
        assert "the result" not in view
        assert "the result True True\r\n" in after
        assert "40 tasks" in after.partition("the result")[2]

    def test_the_output_goes_on_once_the_view_was_left(self, tmp_path: Path) -> None:
        text = """
            import os, time
            print("before")
            while not os.path.exists("go"):
                time.sleep(0.01)
            print("after")
        """

        def leave(terminal: int) -> None:
            os.write(terminal, b"q")
            while b"before" not in os.read(terminal, 65536):
                pass
            (tmp_path / "go").touch()

        status, shown = live(tmp_path, text, leave)
        assert status == 0
        assert "after\r\n" in shown

    def test_ctrl_c_interrupts_the_program(self, tmp_path: Path) -> None:
        text = "import time\nprint('begun')\ntime.sleep(600)"
        status, shown = live(tmp_path, text, lambda terminal: os.write(terminal, b"\x03"))
        assert status == -signal.SIGINT
        assert "KeyboardInterrupt" in shown.rpartition("\x1b[?1049l")[2]


def test_color_and_width_beat_what_is_detected(tmp_path: Path) -> None:
    script(tmp_path, "from concurrent.futures import ThreadPoolExecutor as T\nT(1).submit(int).result()")
    made = poolscope("run", "--color", "always", "--width", "60", "--session", "recorded", "program.py", cwd=tmp_path)
    assert "\x1b[" in made.err
    told = poolscope(
        "report", "recorded", "--color", "never", "--width", "60", cwd=tmp_path, env=environment(FORCE_COLOR="1")
    )
    assert re.sub(r"\x1b\[[0-9;]*m", "", made.err).splitlines() == told.out.splitlines()
    assert max(map(len, told.out.splitlines())) <= 60
    for width in ("39", "501", "wide", "-1", "9" * 30):
        refused = poolscope("report", "recorded", f"--width={width}", cwd=tmp_path)
        assert (refused.status, refused.out) == (2, "")
        assert refused.err == f"poolscope: --width {width}: expected a number of columns from 40 to 500\n"


def test_over_tls_with_a_token(tmp_path: Path) -> None:
    crt, key = certificate(tmp_path)
    token = secret(tmp_path, "token", "s3cret\n")
    settings = protected(tls={"certificate": crt, "key": key}, bearer_token_file=token)
    feed = Feed(lambda: live_support.snapshot(live_support.full(1)), "app.py")
    with serve_snapshots(live_support.snapshot, settings, pages=pages(feed)) as server:
        url = f"https://localhost:{server.port}"
        assert source(url, token, crt)().pools[0].name == "fetch"
        with pytest.raises(PoolscopeError, match="credentials are needed"):
            source(url, None, crt)()
        with pytest.raises(PoolscopeError, match="nothing to see"):
            source(url, token)()
        with pytest.raises(PoolscopeError, match="--bearer-token-file nowhere cannot be read"):
            source(url, "nowhere", crt)
        with pytest.raises(PoolscopeError, match="--ca nowhere cannot be used"):
            source(url, token, "nowhere")


def test_it_draws_in_tmux(tmp_path: Path) -> None:
    tmux = shutil.which("tmux")
    if tmux is None:
        if "CI" in os.environ:
            pytest.fail("there is no tmux: Debian's package tmux has it")
        pytest.skip("there is no tmux")
    feed = Feed(lambda: live_support.snapshot(live_support.full(1), findings=(live_support.a_finding(),)), "app.py")
    with serve_snapshots(live_support.snapshot, protected(), pages=pages(feed)) as server:
        ours = (tmux, "-L", f"poolscope-{os.getpid()}", "-f", os.devnull)
        words = f"{shlex.quote(sys.executable)} -m poolscope top {server.port}"
        run(*ours, "new-session", "-d", "-x", "80", "-y", "30", words, cwd=tmp_path)
        try:
            await_true(lambda: "4/4" in run(*ours, "capture-pane", "-p", cwd=tmp_path).out, "it shows nothing")
            shown = run(*ours, "capture-pane", "-p", cwd=tmp_path).out
            assert shown.startswith("ASYNC THEN SERIAL\n")
            assert "jobs.py:31 in fetch" in shown
            run(*ours, "send-keys", "q", cwd=tmp_path)
            await_true(lambda: run(*ours, "list-sessions", cwd=tmp_path).status != 0, "it does not end")
        finally:
            run(*ours, "kill-server", cwd=tmp_path)


def test_completion_is_made_for_each_shell(tmp_path: Path) -> None:
    for shell in ("bash", "zsh", "tcsh"):
        outcome = poolscope("completion", shell, cwd=tmp_path)
        assert (outcome.status, outcome.err) == (0, "")
        for word in ("compare", "--fail-on", "hard-limit", "--bearer-token-file"):
            assert word in outcome.out
    (tmp_path / "complete").write_text(poolscope("completion", "bash", cwd=tmp_path).out)
    asked = "source ./complete; COMP_WORDS=(poolscope run --fail); COMP_CWORD=2; _shtab_poolscope; echo ${COMPREPLY[@]}"
    assert run("bash", "-c", asked, cwd=tmp_path).out == "--fail-on\n"
