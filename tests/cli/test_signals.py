"""Signals reach the program once, and poolscope ends as the program ended, with a report."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_support import (
    PATIENCE,
    alive,
    await_path,
    await_true,
    end,
    environment,
    line,
    python,
    script,
    started,
    watched,
)

RUN = (sys.executable, "-m", "poolscope", "run", "--quiet", "--json", "report.json")

WAITING = """
    import os, signal
    print(os.getpid(), flush=True)
    while True:
        signal.pause()
"""

COUNTING = """
    import os, signal, sys, time
    received = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGRTMIN, signal.SIGWINCH):
        signal.signal(number, lambda number, frame: received.append(number))
    print(os.getpid(), flush=True)
    while not received:
        time.sleep(0.01)
    time.sleep(0.3)  # for a second one, if there is one
    print(*map(int, received), flush=True)
"""


def report(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "report.json").read_text())
    return found


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1])
def test_a_signal_to_poolscope_ends_the_program_and_then_poolscope(tmp_path: Path, number: int) -> None:
    script(tmp_path, WAITING)
    with started(*RUN, "program.py", cwd=tmp_path) as process:
        pid = int(line(process))
        process.send_signal(number)
        assert process.wait(PATIENCE) == -number
        assert not alive(pid)
    assert report(tmp_path)["exit_code"] == -number


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
def test_a_signal_that_ends_the_program_ends_poolscope(tmp_path: Path, number: int) -> None:
    script(tmp_path, WAITING)
    with started(*RUN, "program.py", cwd=tmp_path) as process:
        os.kill(int(line(process)), number)
        assert process.wait(PATIENCE) == -number
    assert report(tmp_path)["exit_code"] == -number


OWN_SIGNAL = """
    import signal
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(2, "pool")
    for task in [pool.submit(int) for _ in range(1000)]:
        task.result()
    signal.raise_signal(signal.SIGTERM)
"""


def test_a_program_that_ends_itself_by_a_signal_loses_no_task(tmp_path: Path) -> None:
    program = script(tmp_path, OWN_SIGNAL)
    outcome, told = watched(program, cwd=tmp_path)
    assert outcome == python(program, cwd=tmp_path)
    assert outcome.status == told["exit_code"] == -signal.SIGTERM
    [pool] = told["pools"]
    assert pool["tasks"]["succeeded"] == 1000


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGRTMIN, signal.SIGWINCH]
)
def test_a_signal_that_the_program_handles_is_forwarded(tmp_path: Path, number: int) -> None:
    script(tmp_path, COUNTING)
    with started(*RUN, "program.py", cwd=tmp_path) as process:
        line(process)
        process.send_signal(number)
        assert line(process) == str(int(number))
        assert process.wait(PATIENCE) == 0


class Terminal:
    """A terminal whose foreground job is poolscope."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.keyboard, line = pty.openpty()
        self.process = subprocess.Popen(
            # As the leader of a new session it gets the terminal as its own.
            [sys.executable, "-c", "import os, sys; os.login_tty(0); os.execv(sys.argv[1], sys.argv[1:])", *words],
            stdin=line,
            stdout=line,
            stderr=line,
            cwd=folder,
            env=environment(),
        )
        os.close(line)
        self.seen = b""

    def press(self, key: bytes) -> None:
        os.write(self.keyboard, key)

    def await_line(self) -> str:
        while b"\n" not in self.seen:
            self.seen += os.read(self.keyboard, 1000)
        found, _, self.seen = self.seen.partition(b"\n")
        return found.strip().decode()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.keyboard)


def test_a_ctrl_c_reaches_the_program_once(tmp_path: Path) -> None:
    script(tmp_path, COUNTING)
    terminal = Terminal(tmp_path, *RUN, "program.py")
    try:
        terminal.await_line()
        terminal.press(b"\x03")
        assert terminal.await_line().removeprefix("^C") == str(int(signal.SIGINT))
        assert terminal.process.wait(PATIENCE) == 0
    finally:
        terminal.close()


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_stopped_job_goes_on(tmp_path: Path) -> None:
    # Not by the terminal's ^Z: the kernel does not stop a group that no shell could continue.
    script(tmp_path, COUNTING)
    with started(*RUN, "program.py", cwd=tmp_path, process_group=0) as process:
        pid = int(line(process))
        os.killpg(process.pid, signal.SIGSTOP)
        await_true(lambda: state(pid) == state(process.pid) == "T", "the job did not stop")
        os.killpg(process.pid, signal.SIGCONT)
        process.send_signal(signal.SIGTERM)
        assert line(process) == str(int(signal.SIGTERM))
        assert process.wait(PATIENCE) == 0


def test_a_killed_poolscope_leaves_the_program_alone(tmp_path: Path) -> None:
    script(
        tmp_path,
        """
        import os, sys, time
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(2) as pool:
            print(os.getpid(), sum(pool.map(int, "123")), flush=True)
            while not os.path.exists("go"):
                time.sleep(0.01)
            for _ in range(20):
                assert sum(pool.map(int, "123")) == 6
                time.sleep(0.02)
        child = os.fork()
        if child:
            assert os.waitpid(child, 0)[1] == 0
            with open("done.tmp", "w") as file:
                print(sys.meta_path, file=file)
            os.rename("done.tmp", "done")
        """,
    )
    env = environment(TMPDIR=str(tmp_path))  # which it cannot clean up
    with started(*RUN, "program.py", cwd=tmp_path, env=env) as process:
        pid, total = line(process).split()
        assert total == "6"
        try:
            process.kill()
            process.wait()
            (tmp_path / "go").touch()
            await_path(tmp_path / "done")
            assert process.stderr is not None
            assert process.stderr.read() == ""
        finally:
            end(int(pid))
    assert "poolscope" not in (tmp_path / "done").read_text()


def test_processes_that_outlive_the_program_are_not_waited_for(tmp_path: Path) -> None:
    script(tmp_path, WAITING, "child.py")
    script(
        tmp_path,
        """
        import subprocess, sys
        child = subprocess.Popen([sys.executable, "child.py"], stdout=subprocess.PIPE, text=True)
        print(child.stdout.readline(), end="", flush=True)
        child.returncode = 0  # no warning that it still runs
        """,
    )
    with started(*RUN, "program.py", cwd=tmp_path) as process:
        pid = int(line(process))
        try:
            assert process.wait(PATIENCE) == 0
            assert alive(pid)
        finally:
            end(pid)
    processes = report(tmp_path)["processes"]
    assert isinstance(processes, list)
    assert pid in [process["pid"] for process in processes]
