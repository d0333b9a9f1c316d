"""Which Python processes below the program run without our part in them, and why: looked for now and then.

A process that is watched says hello as it starts; a fork of one says so with its first event, and is known by the
command that it shares with its parent. The report names the other Python processes. One that lives for less than the
time between two looks is not seen.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Set
from typing import NamedTuple

#: Options of the interpreter that keep our start hook out, and what they do.
_REASONS = {
    "I": "started with -I, which ignores PYTHONPATH",
    "E": "started with -E, which ignores PYTHONPATH",
    "S": "started with -S, which leaves out what site does",
}
_CLEARED = "started without the environment of the program, by which it would have found us"
_REPLACED = "started with another PYTHONPATH than its parent's, by which it would have found us"
_OTHER_USER = "it runs as another user, which the parent's socket is closed to"
_CUT_OFF = "it runs as another user, and has closed the descriptors by which it would have found us"
_PYPY = "it is PyPy, and only CPython is watched"
_UNKNOWN = "it started without our part in it, it is not known why"

_PYTHON = re.compile(r"(?:python|pypy)(?P<version>[0-9.]*)[a-z]*")

#: Looks that a process has to say hello, where nothing shows that it cannot.
_LOOKS = 8
#: The most text of a command that a notice repeats.
_COMMAND_LENGTH = 60


class Seen(NamedTuple):
    """A process: its number and its parent's, the name of its executable, its command, the names of its environment
    variables, its PYTHONPATH, and its user. What cannot be read is None."""

    pid: int
    parent: int
    executable: str
    command: tuple[str, ...]
    variables: frozenset[str] | None
    python_path: str | None = None
    user: int | None = None


class Unwatched(NamedTuple):
    """A process that is not watched, by number and command, and why."""

    process: str
    reason: str


class Children:
    """Finds the processes that are not watched. `look` is called by one thread."""

    def __init__(
        self,
        variable: str,
        *,
        site: str = "",
        user: int | None = None,
        reaches: Callable[[int], bool] = lambda _: True,
    ) -> None:
        """By `variable` a process finds its supervisor, which runs as `user`; `site` is the folder of its
        start hook. `reaches(pid)`: whether a forked process that runs as another user could still find it."""
        self._variable = variable
        self._site = site
        self._user = user
        self._reaches = reaches
        #: Those of the processes that live which have said hello; an engine forgets those that it lost.
        self._watched: set[int] = set()
        self._waiting: dict[tuple[int, tuple[str, ...]], int] = {}
        self._told: set[tuple[int, tuple[str, ...]]] = set()

    def look(self, processes: Iterable[Seen], watched: set[int]) -> list[Unwatched]:
        """Return what there is to report of the processes that live now; `watched` have said hello."""
        present = {process.pid: process for process in processes}
        watched = self._watched = (self._watched | watched) & present.keys()
        self._told = {key for key in self._told if key[0] in present}
        found = []
        for process in present.values():
            key = (process.pid, process.command)
            if process.pid in watched or key in self._told or not _is_python(process):
                continue
            if not _is_fork(process, present):
                reason, looks = self._reason(process)
            elif self._is_stranger(process) and not self._reaches(process.pid):
                reason, looks = _CUT_OFF, _LOOKS
            else:
                continue
            self._waiting[key] = self._waiting.get(key, 0) + 1
            if self._waiting[key] < looks:
                continue
            self._told.add(key)
            found.append(Unwatched(f"{process.pid} ({_short(process.command)})", reason))
        self._waiting = {key: looks for key, looks in self._waiting.items() if key[0] in present}
        return found

    def _is_stranger(self, process: Seen) -> bool:
        return None not in (self._user, process.user) and process.user != self._user

    def _reason(self, process: Seen) -> tuple[str, int]:
        """Return why it would not be watched, and at how many looks that must hold."""
        for flag in _flags(process.command):
            if flag in _REASONS:
                return _REASONS[flag], 1
        if process.variables is not None and self._variable not in process.variables:
            return _CLEARED, 2  # in the midst of exec there is none for a moment
        if process.variables is not None and self._site not in (process.python_path or "").split(os.pathsep):
            return _REPLACED, 2
        if self._is_stranger(process):
            return _OTHER_USER, 2
        if process.executable.startswith("pypy"):
            return _PYPY, 2
        return _UNKNOWN, _LOOKS


def _is_python(process: Seen) -> bool:
    found = _PYTHON.fullmatch(process.executable)
    if found is None:
        return False
    numbers = [int(part) for part in found["version"].split(".") if part]
    # An older interpreter says so itself, by the start hook, if that runs.
    return not (len(numbers) >= 2 and tuple(numbers[:2]) < (3, 11) and not _REASONS.keys() & _flags(process.command))


def _is_fork(process: Seen, present: dict[int, Seen]) -> bool:
    parent = present.get(process.parent)
    return parent is not None and parent.command == process.command


def _flags(command: tuple[str, ...]) -> set[str]:
    """Return the one-letter options of an interpreter's command line."""
    flags: set[str] = set()
    words = iter(command[1:])
    for word in words:
        if not word.startswith("-") or word == "-" or word.startswith("--"):
            break
        for at, letter in enumerate(word[1:], 2):
            if letter in "cm":
                return flags
            if letter in "WX":
                if at == len(word):
                    next(words, None)
                break
            flags.add(letter)
    return flags


def _short(command: tuple[str, ...]) -> str:
    text = " ".join([os.path.basename(command[0]), *command[1:]]) if command else "?"
    text = "".join(char if char.isprintable() else " " for char in text)
    return text if len(text) <= _COMMAND_LENGTH else text[: _COMMAND_LENGTH - 3] + "..."


def below(pid: int) -> list[Seen]:
    """Return the process and all that descend from it. Those that end meanwhile are left out."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children"):
            return list(_walk(pid, os.getpid(), _children))
    except OSError:
        return []  # it has ended, or the system has no cheap way to find out


def _walk(pid: int, parent: int, children: Callable[[int], list[int]]) -> Iterable[Seen]:
    pending = [(pid, parent)]
    while pending:
        pid, parent = pending.pop()
        try:
            pending += [(child, pid) for child in children(pid)]
            yield _seen(pid, parent)
        except OSError:
            continue


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/children") as file:
            found += map(int, file.read().split())
    return found


def _seen(pid: int, parent: int) -> Seen:
    executable = os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    if not _PYTHON.fullmatch(executable):
        return Seen(pid, parent, executable, (), None)
    command = tuple(_strings(f"/proc/{pid}/cmdline"))
    variables: dict[str, str] | None = None
    user = None
    try:
        variables = dict(_assignment(entry) for entry in _strings(f"/proc/{pid}/environ"))
        user = _user(pid)
    except OSError:
        pass
    path = None if variables is None else variables.get("PYTHONPATH")
    return Seen(pid, parent, executable, command, None if variables is None else frozenset(variables), path, user)


def _assignment(entry: str) -> tuple[str, str]:
    name, _, value = entry.partition("=")
    return name, value


def _user(pid: int) -> int | None:
    """Return the user that the process acts for."""
    with open(f"/proc/{pid}/status") as file:
        for line in file:
            if line.startswith("Uid:"):
                return int(line.split()[2])
    return None


def holds(pid: int, sockets: Set[int]) -> bool:
    """Whether the process has one of these sockets (inodes) open; yes, if that cannot be read."""
    folder = f"/proc/{pid}/fd"
    names = {f"socket:[{number}]" for number in sockets}
    try:
        for descriptor in os.listdir(folder):
            try:
                if os.readlink(f"{folder}/{descriptor}") in names:
                    return True
            except FileNotFoundError:
                continue  # closed meanwhile
    except OSError:
        return True
    return False


def _strings(path: str) -> list[str]:
    with open(path, "rb") as file:
        return [part.decode("utf-8", "replace") for part in file.read().rstrip(b"\0").split(b"\0")]
