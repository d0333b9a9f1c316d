"""What could not be seen, and which part of poolscope has failed: notices for a report, counts for a scrape."""

from __future__ import annotations

from collections import Counter, deque

from poolscope.model import kind_of_notice

#: The most notices that are kept, including the one that counts the others, and the most characters of one.
_NOTICES_KEPT = 100
_LONGEST = 2_000
#: The most parts with counts of their own: a message may name any.
_PARTS_KEPT = 50
_OTHER_PARTS = "other"

#: Part of poolscope -> what is missing once it has failed.
_MISSING = {
    "access": "the endpoint lets no request in",
    "certificate": "the endpoint goes on with its old certificate",
    "children": "processes that are not watched are not named",
    "clock": "times are not known",
    "collector": "a scrape had no metrics",
    "checkpoint": "the session is only saved in the end",
    "channel": "what a process did later is missing",
    "cpu": "CPU times are not known",
    "endpoint": "no metrics are served",
    "eventloop": "event loops are watched no more",
    "fork": "a child process is not watched",
    "install": "some pools or event loops are not watched",
    "intake": "a process is watched no more",
    "judge": "findings may be missing",
    "log": "findings are not logged",
    "messages": "something that a process told is left out",
    "on_finding": "a callback is called no more",
    "pools": "tasks of a pool may be missing",
    "reader": "pools are recorded no more",
    "stacks": "the lines where workers are may be missing",
    "turns": "what is awaited in turn may be missing",
    "workers": "the metrics of several processes may be incomplete",
    "thread": "nothing is seen between two reports",
}


#: A notice for many processes names so many of them.
_NAMED = 3


class _Alike:
    """Processes that are reported together: how many, and the first of them."""

    def __init__(self) -> None:
        self.count = 0
        self.first: list[str] = []

    def add(self, name: str, count: int = 1) -> None:
        self.count += count
        if len(self.first) < _NAMED and name not in self.first:
            self.first.append(name)


class SelfHealth:
    """Lives as long as the process is judged, over any number of engines."""

    def __init__(self) -> None:
        #: In order, each with its kind.
        self._notices: dict[str, str] = {}
        self._kinds: Counter[str] = Counter()
        self._left_out = 0
        #: Failures by part.
        self.errors: dict[str, int] = {}
        #: Lines that are not logged yet.
        self.untold: deque[str] = deque(maxlen=100)
        # Processes by why they were not watched, and tasks by number.
        self._unwatched: dict[str, _Alike] = {}
        self._thinned = _Alike()

    def unwatched(self, process: str, reason: str) -> None:
        """Note that a process could not be watched: "12 (python app.py)", and why."""
        if reason in self._unwatched or len(self._unwatched) < _NOTICES_KEPT:
            self._unwatched.setdefault(reason, _Alike()).add(process)

    def thinned(self, pool: str, tasks: int) -> None:
        """Note that so many more tasks of a pool are known by number only."""
        if tasks:
            self._thinned.add(repr(pool), tasks)

    def notice(self, text: str) -> None:
        """Keep a notice of what could not be seen or was switched off: each text once, a hundred in all. If there are
        more, one of the most frequent kind goes: no kind hides another."""
        text = text[:_LONGEST]
        if text in self._notices:
            return
        kind = kind_of_notice(text)
        if len(self._notices) >= _NOTICES_KEPT - 1:
            self._left_out += 1
            most, count = self._kinds.most_common(1)[0]
            if self._kinds[kind] >= count - 1:
                return
            del self._notices[next(known for known in reversed(self._notices) if self._notices[known] == most)]
            self._kinds[most] -= 1
        self._notices[text] = kind
        self._kinds[kind] += 1

    def texts(self) -> tuple[str, ...]:
        """Return the notices for a report, and one for each kind of those that are reported together."""
        told = list(self._notices)
        if self._left_out:
            told.append(f"notices like these, or of further kinds, that came {self._left_out:,} times are left out")
        told += [_unwatched(reason, processes) for reason, processes in self._unwatched.items()]
        if self._thinned.count:
            told.append(_thinned(self._thinned))
        return tuple(told)

    def incident(self, text: str) -> None:
        """Keep a notice and log it at once: something has happened to the program."""
        if text[:_LONGEST] not in self._notices:
            self.untold.append(f"warning: {text}")
            self.notice(text)

    def fault(self, part: str, text: str) -> None:
        """Note that a part of poolscope has failed: count it, and note what is missing."""
        if part not in self.errors and len(self.errors) >= _PARTS_KEPT:
            part = _OTHER_PARTS
        self.errors[part] = self.errors.get(part, 0) + 1
        self.notice(f"{_MISSING.get(part, f'{part} was switched off')}: {text}")

    def failed(self, part: str, text: str) -> None:
        """Do the same, and log it the first time."""
        if part not in self.errors:
            self.untold.append(f"failure of poolscope in part {part}: {text}")
        self.fault(part, text)

    def misjudged(self, name: str, error: Exception) -> None:
        """Note that the judging of one pool or loop has failed."""
        self.failed("judge", f"{name!r}: {type(error).__name__}: {error}")


def _unwatched(reason: str, processes: _Alike) -> str:
    if processes.count == 1:
        return f"process {processes.first[0]} was not watched: {reason}"
    if reason.startswith("it "):
        reason = f"each {reason[3:]}"
    first = ", ".join(processes.first)
    return f"{processes.count} processes were not watched, the first of them {first}: {reason}"


def _thinned(pools: _Alike) -> str:
    names = ", ".join(pools.first) + (" and others" if len(pools.first) == _NAMED else "")
    tasks = "1 task" if pools.count == 1 else f"{pools.count:,} tasks"
    return (
        f"{tasks} came faster than they could be taken in one by one (pools {names}): they are counted, as "
        "are their waits and runs in sum; percentiles are estimated by a sample, and saturation, findings and sizes "
        "rest on the other tasks"
    )
