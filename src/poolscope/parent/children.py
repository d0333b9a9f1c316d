"""Which Python processes below the program run without our part in them, and why: looked for now and then.

A process that is watched says hello as it starts; a fork of one says so with its first event, and is known by the
command that it shares with its parent. What is left of the Python processes is told of. Who lives shorter than the time
between two looks is not seen.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

#: Options of the interpreter that keep our start hook out, and what they do.
_REASONS = {
    "I": "started with -I, which ignores PYTHONPATH",
    "E": "started with -E, which ignores PYTHONPATH",
    "S": "started with -S, which leaves out what site does",
}
_CLEARED = "started without the environment of the program, by which it would have found us"
_UNKNOWN = "it started without our part in it, it is not known why"

_PYTHON = re.compile(r"(?:python|pypy)(?P<version>[0-9.]*)[a-z]*")

#: Looks that a process has to say hello, where nothing shows that it cannot.
_LOOKS = 8
#: The most text of a command that a notice repeats.
_COMMAND_LENGTH = 60


class Seen(NamedTuple):
    """A process: its number and its parent's, the name of what it executes, its command and its environment's names."""

    pid: int
    parent: int
    executable: str
    command: tuple[str, ...]
    variables: frozenset[str] | None


class Children:
    """Finds the processes that are not watched. `look` is called by one thread."""

    def __init__(self, variable: str) -> None:
        """`variable` is the one by which a process finds its supervisor."""
        self._variable = variable
        self._waiting: dict[tuple[int, tuple[str, ...]], int] = {}
        self._told: set[tuple[int, tuple[str, ...]]] = set()

    def look(self, processes: Iterable[Seen], watched: set[int]) -> list[str]:
        """What there is to tell of the processes that live now; `watched` have said hello."""
        present = {process.pid: process for process in processes}
        notices = []
        for process in present.values():
            key = (process.pid, process.command)
            if process.pid in watched or key in self._told or not _is_python(process):
                continue
            if _is_fork(process, present):
                continue
            reason, looks = self._reason(process)
            self._waiting[key] = self._waiting.get(key, 0) + 1
            if self._waiting[key] < looks:
                continue
            self._told.add(key)
            notices.append(f"process {process.pid} ({_short(process.command)}) was not watched: {reason}")
        self._waiting = {key: looks for key, looks in self._waiting.items() if key[0] in present}
        return notices

    def _reason(self, process: Seen) -> tuple[str, int]:
        """Why it would not be watched, and at how many looks that must be so."""
        for flag in _flags(process.command):
            if flag in _REASONS:
                return _REASONS[flag], 1
        if process.variables is not None and self._variable not in process.variables:
            return _CLEARED, 2  # in the midst of exec there is none for a moment
        return _UNKNOWN, _LOOKS


def _is_python(process: Seen) -> bool:
    found = _PYTHON.fullmatch(process.executable)
    if found is None:
        return False
    numbers = [int(part) for part in found["version"].split(".") if part]
    # An older one says so itself, by the start hook, if that runs.
    return not (len(numbers) >= 2 and tuple(numbers[:2]) < (3, 11) and not _REASONS.keys() & _flags(process.command))


def _is_fork(process: Seen, present: dict[int, Seen]) -> bool:
    parent = present.get(process.parent)
    return parent is not None and parent.command == process.command


def _flags(command: tuple[str, ...]) -> set[str]:
    """The one-letter options of an interpreter's command line."""
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
    """The process and all that descend from it. Those that end meanwhile are left out."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children"):
            return list(_walk(pid, os.getpid(), _children))
    except OSError:
        return []  # it has ended, or a system that does not tell cheaply


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
    command: tuple[str, ...] = ()
    variables: frozenset[str] | None = None
    if _PYTHON.fullmatch(executable):
        command = tuple(_strings(f"/proc/{pid}/cmdline"))
        try:
            variables = frozenset(entry.partition("=")[0] for entry in _strings(f"/proc/{pid}/environ"))
        except OSError:
            pass
    return Seen(pid, parent, executable, command, variables)


def _strings(path: str) -> list[str]:
    with open(path, "rb") as file:
        return [part.decode("utf-8", "replace") for part in file.read().rstrip(b"\0").split(b"\0")]
