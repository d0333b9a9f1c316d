"""Which processes below the program are not watched, and why."""

from __future__ import annotations

import pytest

from poolscope.parent.children import _LOOKS, Children, Seen

HERE = frozenset({"PATH", "POOLSCOPE_RUN"})


def seen(
    pid: int, *command: str, parent: int = 1, executable: str = "python3.13", variables: frozenset[str] | None = HERE
) -> Seen:
    return Seen(pid, parent, executable, command or ("python", "app.py"), variables)


def look(*processes: Seen, watched: set[int] | None = None, looks: int = 1) -> list[str]:
    children = Children("POOLSCOPE_RUN")
    return [notice for _ in range(looks) for notice in children.look(processes, watched or set())]


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
    assert look(seen(7, "python", *words)) == []


def test_an_environment_without_us() -> None:
    (notice,) = look(seen(7, variables=frozenset({"PATH"})), looks=2)
    assert "without the environment of the program" in notice


def test_what_is_no_python_or_said_hello_is_fine() -> None:
    quiet = (seen(2, "sleep", "9", executable="sleep"), seen(3), seen(4, executable="pythonic-thing"))
    assert look(*quiet, watched={3}, looks=20) == []


def test_a_fork_is_known_by_its_parent() -> None:
    assert look(seen(2), seen(3, parent=2), seen(4, parent=3), watched={2}, looks=20) == []


def test_who_has_not_said_hello_gets_some_time() -> None:
    slow = seen(2)
    assert look(slow, looks=_LOOKS - 1) == []
    (notice,) = look(slow, looks=3 * _LOOKS)
    assert notice.startswith("process 2 (python app.py) was not watched")


def test_an_older_one_says_so_itself_if_it_can() -> None:
    assert look(seen(2, "python", "x.py", executable="python3.8"), looks=20) == []
    assert len(look(seen(2, "python", "-I", "x.py", executable="python3.8"), looks=20)) == 1


def test_a_long_command_or_a_strange_one_is_one_short_line() -> None:
    (notice,) = look(seen(2, "python", "-I", "-c", "import os\nos.x()\x1b[0m" + "y" * 500))
    assert len(notice) < 200
    assert notice.isprintable()
