"""What a container does to a program: process 1, no home, no name, nothing to write to.

By the namespaces that containers are made of: util-linux has `unshare`, and a machine that runs containers lets it be.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_support import PATIENCE, Outcome, environment, line, run, script, started

#: An ordinary user may make namespaces only within one of users.
AS_ROOT = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
#: `kill-child`: the namespace goes with `unshare`.
FIRST = ["unshare", *AS_ROOT, "--pid", "--fork", "--kill-child", "--mount-proc"]

POOL = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(2, thread_name_prefix="workers") as pool:
    print(sum(pool.map(int, range(50))))
"""


def poolscope(folder: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "poolscope", "run", "--quiet", "--json", str(folder / "report.json"), *words]


def check(folder: Path, outcome: Outcome) -> None:
    """The program ran as ever, and its pool was seen."""
    assert outcome == (0, "1225\n", "")
    report = json.loads((folder / "report.json").read_text())
    assert [(pool["name"], pool["tasks"]["succeeded"]) for pool in report["pools"]] == [("workers", 50)]
    assert report["notices"] == []


def test_as_process_1(tmp_path: Path) -> None:
    script(tmp_path, POOL + "import os; assert os.getppid() == 1\n")
    check(tmp_path, run(*FIRST, *poolscope(tmp_path, "program.py"), cwd=tmp_path))


def test_process_1_passes_signals_on_and_ends_as_the_program_did(tmp_path: Path) -> None:
    text = """
        import signal, sys
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
        print("ready", flush=True)
        signal.pause()
        """
    script(tmp_path, text)
    with started(*FIRST, *poolscope(tmp_path, "program.py"), cwd=tmp_path) as process:
        assert line(process) == "ready"
        first = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
        os.kill(first, signal.SIGTERM)
        assert process.wait(PATIENCE) == 7


def test_process_1_ends_although_no_signal_can_end_it(tmp_path: Path) -> None:
    script(tmp_path, "import os; os.kill(os.getpid(), 15)")
    outcome = run(*FIRST, *poolscope(tmp_path, "program.py"), cwd=tmp_path)
    assert outcome == (128 + signal.SIGTERM, "", "")


def test_orphans_are_waited_for(tmp_path: Path) -> None:
    """By a process that inherits them without being the first one: a subreaper."""
    text = """
        import os, time
        parents = []
        for _ in range(5):
            if not (child := os.fork()):
                if not os.fork():
                    os._exit(0)
                os._exit(0)
            os.waitpid(child, 0)
        def states():
            supervisor = os.getppid()
            for pid in open(f"/proc/{supervisor}/task/{supervisor}/children").read().split():
                try:
                    yield open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0]
                except OSError:
                    pass
        deadline = time.monotonic() + 30
        while "Z" in (found := list(states())) and time.monotonic() < deadline:
            time.sleep(0.01)
        print("Z" in found)
        """
    script(tmp_path, text)
    # PR_SET_CHILD_SUBREAPER lasts through exec.
    become = """if True:
        import ctypes, os, sys
        assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0
        os.execv(sys.argv[1], sys.argv[1:])
        """
    outcome = run(sys.executable, "-c", become, *poolscope(tmp_path, "program.py"), cwd=tmp_path)
    assert outcome == (0, "False\n", "")


def test_without_a_home(tmp_path: Path) -> None:
    script(tmp_path, POOL)
    bare = {name: value for name, value in environment().items() if name in ("PATH", "LANG")}
    check(tmp_path, run(*poolscope(tmp_path, "program.py"), cwd=tmp_path, env=bare))


def test_as_a_user_without_a_name(tmp_path: Path) -> None:
    """Of any number, as OpenShift gives them out."""
    script(
        tmp_path,
        POOL + "import os, pwd\ntry: pwd.getpwuid(os.getuid())\nexcept KeyError: pass\nelse: raise SystemExit(9)\n",
    )
    nobody = ["unshare", "--user", "--map-user=54321", "--map-group=54321"]
    check(tmp_path, run(*nobody, *poolscope(tmp_path, "program.py"), cwd=tmp_path))
    script(tmp_path, "import poolscope\nwith poolscope.serve('127.0.0.1:0'): print('served')\n")
    assert run(*nobody, sys.executable, "program.py", cwd=tmp_path) == (0, "served\n", "")


def read_only(*folders: str) -> list[str]:
    """Nothing can be written below these; what is there can be read, this checkout perhaps."""
    mounts = " && ".join(f"mount --bind {folder} {folder} && mount -o remount,bind,ro {folder}" for folder in folders)
    return ["unshare", *AS_ROOT, "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh"]


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """A directory that is not below /tmp."""
    home = Path("/run") if os.geteuid() == 0 else Path.home()
    folder = home / f"poolscope-test-{os.getpid()}"
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


def test_with_a_read_only_root(elsewhere: Path) -> None:
    """What is left is /dev/shm, which a container has to itself."""
    script(elsewhere, POOL)
    words = poolscope(elsewhere, "program.py")
    check(elsewhere, run(*read_only("/tmp", "/var/tmp"), *words, cwd=elsewhere, env=environment(TMPDIR="/tmp")))


def test_with_nothing_to_write_to(elsewhere: Path) -> None:
    script(elsewhere, POOL)
    words = [sys.executable, "-m", "poolscope", "run", "--quiet", "program.py"]
    env = environment(TMPDIR="/tmp", XDG_RUNTIME_DIR="")
    outcome = run(*read_only("/tmp", "/var/tmp", "/dev/shm"), *words, cwd=elsewhere, env=env)
    assert outcome.status == 2
    (said,) = outcome.err.splitlines()
    assert said == "poolscope: no directory for a socket can be made: set TMPDIR to a short, writable path"
    # A process that serves itself does so, alone, and says so once.
    script(
        elsewhere,
        "import poolscope\nwith poolscope.serve(PORT) as server: print(server.url != '')\n".replace(
            "PORT", "'127.0.0.1:19464'"
        ),
    )
    outcome = run(*read_only("/tmp", "/var/tmp", "/dev/shm"), sys.executable, "program.py", cwd=elsewhere, env=env)
    assert outcome[:2] == (0, "True\n")
    (said,) = outcome.err.splitlines()
    assert "TMPDIR" in said
