"""What a watched process says of itself."""

from __future__ import annotations

from poolscope.messages.base import BaseMessage


class Hello(BaseMessage, tag="hello", frozen=True):
    """First of each process. `gil` is false on a free-threaded build with the GIL off."""

    protocol: int
    pid: int
    parent: int
    command: list[str]
    python: str
    at_ns: int
    gil: bool


class Bye(BaseMessage, tag="bye", frozen=True):
    """Last of a process that ended in order. `alone`: it had one thread and no child process, as far as is known."""

    at_ns: int
    alone: bool = False


class ProcessTick(BaseMessage, tag="process_tick", frozen=True):
    """CPU nanoseconds so far of the process and of our own threads in it; CPUs the process may use (quota
    and affinity); CPU nanoseconds of its child processes, as far as they have ended."""

    at_ns: int
    cpu_ns: int
    overhead_ns: int
    allowed_cpus: float
    children_ns: int = 0


class Notice(BaseMessage, tag="notice", frozen=True):
    """Something that could not be seen or was switched off, and why."""

    text: str


class Unwatched(BaseMessage, tag="unwatched", frozen=True):
    """A process that cannot be watched, by its number and command, and why. Instead of a hello."""

    process: str
    reason: str


class Incident(BaseMessage, tag="incident", frozen=True):
    """A notice of something that has happened to the program, which a reader may be waiting for: where a
    worker was killed, it may hang."""

    text: str


class Fault(BaseMessage, tag="fault", frozen=True):
    """A failure of ours in the named part (`poolscope_errors_total{part}`)."""

    part: str
    text: str


class Started(BaseMessage, tag="started", frozen=True):
    """So many `more` threads or processes (`what`) were started that are of no pool that is watched: at a line of the
    program's ("package/file.py:12"), or by a `library`. `in_turn`: each was over before the next one began. `executor`
    is the class that starts them, if it is an executor of a kind that is not known; with no `more` it is there, at the
    line of its `submit`."""

    what: str
    where: str
    library: str
    more: int
    in_turn: bool
    executor: str = ""


class FunctionNamed(BaseMessage, tag="function", frozen=True):
    """Names a function id before its first use. `file` is empty and `line` 0 where there is no Python code."""

    function: int
    name: str
    file: str
    line: int
