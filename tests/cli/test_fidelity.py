"""A program under `poolscope run` is the program: nobody can tell from what it prints, sees and returns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from cli_support import environment, python, same_as_without, script, started, watched

from poolscope.probe.startup.handover import unpack

FINGERPRINT = """
    import json, os, signal, sys, threading
    if "pool" in sys.argv:
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(1) as pool:
            pool.submit(int).result()
    def read(path):
        with open(path) as file:
            return file.read()
    ours = ("PYTHONPATH", "POOLSCOPE_RUN")
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(3)]
    print(json.dumps({
        "name": __name__,
        "file": __file__,
        "main": sorted(vars(sys.modules["__main__"])),
        "spec": str(__spec__ and __spec__.name),
        "argv": sys.argv,
        "orig_argv": sys.orig_argv,
        "path": sys.path,
        "flags": list(sys.flags),
        "environment": {k: v for k, v in os.environ.items() if k not in ours},
        "folder": os.getcwd(),
        "handlers": {int(s): repr(signal.getsignal(s)) for s in signal.valid_signals()},
        "blocked": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))),
        "ignored": [
            # 32 and 33 are the C library's own, which posix_spawn leaves ignored until it needs them.
            hex(int(l.split()[1], 16) & ~(3 << 31))
            for l in read("/proc/self/status").splitlines() if l.startswith(("SigIgn", "SigCgt"))
        ],
        "descriptors": opened,
        "open": sorted(int(fd) for fd in os.listdir("/proc/self/fd") if int(fd) < 900),
        "threads": [thread.name for thread in threading.enumerate()],
        "sitecustomize": "sitecustomize" in sys.modules,
        "terminal": [os.isatty(fd) for fd in (0, 1, 2)],
        "warnings": sys.warnoptions,
        "excepthook": sys.excepthook is sys.__excepthook__,
        "umask": os.umask(0o77),
        "limits": read("/proc/self/limits"),
    }, indent=1))
"""


@pytest.mark.parametrize("pool", [(), ("pool",)])
def test_what_a_program_can_see_of_itself(tmp_path: Path, pool: tuple[str, ...]) -> None:
    script(tmp_path, FINGERPRINT)
    arguments = ("a", "--json", "x y", "--", "-m", "é", "", *pool)
    seen = json.loads(same_as_without("program.py", *arguments, cwd=tmp_path).out)
    assert seen["argv"] == ["program.py", *arguments]
    assert seen["path"][0] == str(tmp_path)


def test_a_module(tmp_path: Path) -> None:
    script(tmp_path, FINGERPRINT, "package/sub/module.py")
    seen = json.loads(same_as_without("-m", "package.sub.module", "--quiet", cwd=tmp_path).out)
    assert seen["spec"] == "package.sub.module"
    assert seen["argv"][1:] == ["--quiet"]


def test_a_module_written_as_one_word(tmp_path: Path) -> None:
    script(tmp_path, "import sys; print(sys.argv)", "module.py")
    assert same_as_without("-mmodule", "x", cwd=tmp_path).status == 0


def test_a_package_a_directory_and_an_archive(tmp_path: Path) -> None:
    script(tmp_path, "", "package/__init__.py")
    main = script(tmp_path, "import sys; print(__name__, sys.argv, sys.path[0])", "package/__main__.py")
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.write(main, "__main__.py")
    for words in (("-m", "package"), ("package",), ("archive.zip",)):
        assert "__main__" in same_as_without(*words, "x", cwd=tmp_path).out


def test_a_program_on_standard_input(tmp_path: Path) -> None:
    assert same_as_without("-", "x", cwd=tmp_path, stdin="import sys; print(sys.argv)").out == "['-', 'x']\n"


def test_a_command(tmp_path: Path) -> None:
    words = (sys.executable, "-X", "dev", "-c", "import sys; print(sys.argv, sys.flags.dev_mode)", "--quiet")
    under, report = watched("--", *words, cwd=tmp_path)
    assert under == python(*words[1:], cwd=tmp_path)
    assert report["command"] == list(words)
    assert [process["command"] for process in report["processes"]] == [list(words)]


@pytest.mark.parametrize("pool", [False, True])
def test_a_development_interpreter_has_nothing_to_complain_about(tmp_path: Path, pool: bool) -> None:
    script(tmp_path, FINGERPRINT)
    words = (sys.executable, "-X", "dev", "-W", "error", "program.py", *(["pool"] if pool else []))
    under, _ = watched("--", *words, cwd=tmp_path)
    assert under == python(*words[1:], cwd=tmp_path)
    assert under.err == ""


def test_standard_input_and_output_are_the_programs(tmp_path: Path) -> None:
    script(
        tmp_path,
        """
        import sys
        data = sys.stdin.buffer.read()
        sys.stdout.buffer.write(bytes(range(256)).hex().encode() + data[::-1])
        print("to stderr", file=sys.stderr)
        """,
    )
    outcome = same_as_without("program.py", cwd=tmp_path, stdin="x" * 200_000 + "\n")
    assert len(outcome.out) == 200_513
    assert outcome.err == "to stderr\n"


@pytest.mark.parametrize(
    ("text", "status", "err"),
    [
        ("", 0, ""),
        ("import sys; sys.exit(3)", 3, ""),
        ("import sys; sys.exit('a reason')", 1, "a reason\n"),
        ("def f(): 1 / 0\nf()", 1, "ZeroDivisionError: division by zero\n"),
        ("x = (", 1, "SyntaxError: '(' was never closed\n"),
        ("import nothing_of_this_name", 1, "ModuleNotFoundError: No module named 'nothing_of_this_name'\n"),
        ("raise KeyboardInterrupt", -2, "KeyboardInterrupt\n"),
        ("import os; os._exit(7)", 7, ""),
        ("import os; os.abort()", -6, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -9, ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGTERM)", -15, ""),
        ("import os, signal; os.kill(os.getpid(), 40)", -40, ""),
    ],
)
def test_every_way_out(tmp_path: Path, text: str, status: int, err: str) -> None:
    script(tmp_path, text)
    outcome = same_as_without("program.py", cwd=tmp_path)
    assert outcome.status == status
    assert outcome.err.endswith(err)


def test_an_exception_of_a_module_shows_its_own_traceback(tmp_path: Path) -> None:
    script(tmp_path, "import nothing_of_this_name", "module.py")
    outcome = same_as_without("-m", "module", cwd=tmp_path)
    assert outcome.status == 1
    assert "Traceback" in outcome.err


def test_the_user_s_own_sitecustomize_still_runs(tmp_path: Path) -> None:
    script(tmp_path, "import builtins; builtins.marker = __name__, __file__", "own/sitecustomize.py")
    script(tmp_path, "import sys; print(marker, sys.modules['sitecustomize'].__file__, sys.path)")
    env = environment(PYTHONPATH=f"{tmp_path / 'own'}{os.pathsep}")
    outcome = same_as_without("program.py", cwd=tmp_path, env=env)
    assert outcome.out.startswith(f"('sitecustomize', '{tmp_path}/own/sitecustomize.py')")


@pytest.mark.parametrize("text", ["1 / 0", "import nothing_of_this_name"])
def test_a_sitecustomize_that_fails_fails_as_before(tmp_path: Path, text: str) -> None:
    script(tmp_path, text, "own/sitecustomize.py")
    script(tmp_path, "print('runs')")
    env = environment(PYTHONPATH=str(tmp_path / "own"))
    alone = python("program.py", cwd=tmp_path, env=env)
    under, _ = watched("program.py", cwd=tmp_path, env=env)
    # Twice: poolscope itself is a Python program with that sitecustomize, too.
    assert under == (alone.status, alone.out, alone.err * 2)


def test_a_command_keeps_the_default_action_of_a_broken_pipe(tmp_path: Path) -> None:
    words = (sys.executable, "-m", "poolscope", "run", "--quiet", "--", "yes")
    with started(*words, cwd=tmp_path) as process:
        assert process.stdout is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.wait(60) == -13
        process.stdout = None


def test_an_ignored_interrupt_stays_ignored(tmp_path: Path) -> None:
    # As in the background of a shell without job control.
    script(tmp_path, FINGERPRINT)
    ignoring = "trap '' INT; exec \"$@\""
    alone = python("program.py", cwd=tmp_path)
    words = ["sh", "-c", ignoring, "sh", sys.executable]
    plain = subprocess.run(
        [*words, "program.py"], cwd=tmp_path, env=environment(), capture_output=True, check=True, timeout=60
    )
    under = subprocess.run(
        [*words, "-m", "poolscope", "run", "--quiet", "program.py"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        check=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
    )
    seen = json.loads(under.stdout)["handlers"]
    assert seen == json.loads(plain.stdout)["handlers"]
    assert seen != json.loads(alone.out)["handlers"]


def test_an_old_or_isolated_interpreter_is_left_alone_and_said_so(tmp_path: Path) -> None:
    words = (sys.executable, "-I", "-c", "print(1)")
    under, report = watched("--", *words, cwd=tmp_path)
    assert under == (0, "1\n", "")
    assert report["processes"] == []
    assert "no Python process was seen" in report["notices"][0]


def test_the_temporary_directory_is_gone_afterwards(tmp_path: Path) -> None:
    script(tmp_path, "import os; print(os.environ['POOLSCOPE_RUN'])")
    (tmp_path / "t").mkdir()
    under, _ = watched("program.py", cwd=tmp_path, env=environment(TMPDIR=str(tmp_path / "t")))
    socket, _, _ = unpack(under.out.rstrip("\n"))
    # pytest's own directories may be too deep for a socket; then it is elsewhere.
    assert not os.path.exists(os.path.dirname(socket))
    assert os.listdir(tmp_path / "t") == []
