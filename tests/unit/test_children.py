"""Which processes below the program are not watched, and why."""

from __future__ import annotations

import os
import socket

import pytest

from poolscope.engine.self_health import SelfHealth
from poolscope.supervisor.children import _LOOKS, Children, Seen, holds

HERE = frozenset({"PATH", "POOLSCOPE_RUN"})
SITE = "/lib/poolscope/site"
ROOT, NOBODY = 0, 65534


def seen(
    pid: int,
    *command: str,
    parent: int = 1,
    executable: str = "python3.13",
    variables: frozenset[str] | None = HERE,
    path: str | None = f"{SITE}:/mine",
    user: int | None = ROOT,
) -> Seen:
    return Seen(pid, parent, executable, command or ("python", "app.py"), variables, path, user)


def look(
    *processes: Seen, watched: set[int] | None = None, looks: int = 1, reaching: tuple[int, ...] = ()
) -> tuple[str, ...]:
    """The notices."""
    health = SelfHealth()
    children = Children("POOLSCOPE_RUN", site=SITE, user=ROOT, reaches=lambda pid: pid in reaching)
    for _ in range(looks):
        for process, reason in children.look(processes, watched or set()):
            health.unwatched(process, reason)
    return health.texts()


@pytest.mark.parametrize(
    "words", [["-I"], ["-E", "x.py"], ["-S"], ["-sBI", "-c", "pass"], ["-W", "error", "-X", "dev", "-E"]]
)
def test_an_option_keeps_it_unseen(words: list[str]) -> None:
    (notice,) = look(seen(7, "/usr/bin/python", *words), looks=20)
    assert notice.startswith("process 7 (python -")
    assert "was not watched: started with -" in notice


@pytest.mark.parametrize(
    "words",
    [
        ["x.py", "-I"],
        ["-c", "print(1)", "-I"],
        ["-m", "x", "-E"],
        ["-B", "-mx", "-S"],
        ["-X", "I"],
        ["-WI"],
        ["--", "-S"],
        ["-"],
    ],
)
def test_words_of_the_program_are_none_of_the_interpreter(words: list[str]) -> None:
    assert look(seen(7, "python", *words)) == ()


def test_an_environment_without_us() -> None:
    (notice,) = look(seen(7, variables=frozenset({"PATH"})), looks=2)
    assert "without the environment of the program" in notice


def test_what_was_watched_once_is_watched_while_it_lives() -> None:
    """A judge keeps the latest of those that it has lost; a process may live on without its connection."""
    children = Children("POOLSCOPE_RUN")
    assert children.look([seen(7)], {7}) == []
    assert [children.look([seen(7)], set()) for _ in range(20)] == [[]] * 20
    assert children.look([], set()) == []
    # The next one of that number is another one.
    assert len([notice for _ in range(20) for notice in children.look([seen(7)], set())]) == 1


def test_nothing_is_kept_of_processes_that_have_gone() -> None:
    children = Children("POOLSCOPE_RUN")
    for pid in range(2, 2000):
        assert len(children.look([seen(pid, "python", "-I")], {1})) == 1
    children.look([seen(5000)], set())
    assert (len(children._told), len(children._waiting), len(children._watched)) == (0, 1, 0)


def test_what_is_no_python_or_said_hello_is_fine() -> None:
    quiet = (seen(2, "sleep", "9", executable="sleep"), seen(3), seen(4, executable="pythonic-thing"))
    assert look(*quiet, watched={3}, looks=20) == ()


def test_a_fork_is_known_by_its_parent() -> None:
    assert look(seen(2), seen(3, parent=2), seen(4, parent=3), watched={2}, looks=20) == ()


def test_who_has_not_said_hello_gets_some_time() -> None:
    slow = seen(2)
    assert look(slow, looks=_LOOKS - 1) == ()
    (notice,) = look(slow, looks=3 * _LOOKS)
    assert notice.startswith("process 2 (python app.py) was not watched")


def test_an_older_one_says_so_itself_if_it_can() -> None:
    assert look(seen(2, "python", "x.py", executable="python3.8"), looks=20) == ()
    assert len(look(seen(2, "python", "-I", "x.py", executable="python3.8"), looks=20)) == 1


def test_a_long_command_or_a_strange_one_is_one_short_line() -> None:
    (notice,) = look(seen(2, "python", "-I", "-c", "import os\nos.x()\x1b[0m" + "y" * 500))
    assert len(notice) < 200
    assert notice.isprintable()


@pytest.mark.parametrize("path", [None, "", "/mine", f"{SITE}/other", f"{SITE}2:/mine"])
def test_another_path_of_python(path: str | None) -> None:
    (notice,) = look(seen(7, path=path), looks=2)
    assert notice == (
        "process 7 (python app.py) was not watched: "
        "started with another PYTHONPATH than its parent's, by which it would have found us"
    )


def test_another_user_that_was_not_forked() -> None:
    (notice,) = look(seen(7, user=NOBODY), looks=2)
    assert "it runs as another user" in notice


def test_a_fork_that_became_another_user_is_told_of_if_it_cannot_reach_us() -> None:
    parent, cut_off, fine = seen(2), seen(3, parent=2, user=NOBODY), seen(4, parent=2, user=NOBODY)
    (notice,) = look(parent, cut_off, fine, watched={2}, looks=20, reaching=(4,))
    assert notice.startswith("process 3 (python app.py) was not watched: it runs as another user, and has closed")
    assert look(parent, cut_off, fine, watched={2, 3}, looks=20, reaching=(4,)) == ()
    assert look(parent, seen(5, parent=2, user=None), watched={2}, looks=20) == ()


def test_another_interpreter() -> None:
    (notice,) = look(seen(7, executable="pypy3.11"), looks=2)
    assert notice.endswith("was not watched: it is PyPy, and only CPython is watched")


def test_many_of_one_kind_are_one_notice() -> None:
    isolated = [seen(10 + number, "python", "-I", f"{number}.py") for number in range(44)]
    strange = [seen(100 + number) for number in range(2)]
    first, second = look(*isolated, *strange, looks=_LOOKS)
    assert first == (
        "44 processes were not watched, the first of them "
        "10 (python -I 0.py), 11 (python -I 1.py), 12 (python -I 2.py): started with -I, which ignores PYTHONPATH"
    )
    assert second.startswith("2 processes were not watched, the first of them 100 (python app.py), 101 (python app.py)")
    assert second.endswith(": each started without our part in it, it is not known why")


def test_who_holds_a_socket() -> None:
    with socket.socket() as ours:
        number = os.fstat(ours.fileno()).st_ino
        assert holds(os.getpid(), {number, 1})
    assert not holds(os.getpid(), {number, 1})
    assert holds(1 << 30, {number})
