"""Which findings deserve a line in the log while the program runs: one story, one warning. Pure.

A story is what one event of the program's makes of its pools and loops: a finding and what it becomes, the findings of
pools of one name, a deadlock in each of its pools, and pools that wait for the one that is full.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from poolscope.model import SEVERITIES, Finding
from poolscope.rules.wording import moment

#: Lasting findings whose story is remembered. The oldest are forgotten first.
_MOST_KEPT = 1_000


#: Causes of a pool that waits for another one.
_POINTING = ("downstream_pool", "shared_resource")


class Whose(NamedTuple):
    """The pool or loop that a finding is of; `several` processes have one of that name."""

    kind: str
    name: str
    pid: int
    several: bool

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}" + (f" of process {self.pid}" if self.several else "")


class _Story:
    """What was logged of it: causes by pattern, and the worst severity."""

    __slots__ = ("severity", "told")

    def __init__(self, finding: Finding) -> None:
        self.told = {(finding.pattern, finding.cause)}
        self.severity = SEVERITIES.index(finding.severity)

    def adds(self, finding: Finding) -> bool:
        """Whether this pattern or cause is new to it."""
        key = (finding.pattern, finding.cause)
        new = key not in self.told
        self.told.add(key)
        return new

    def worsens(self, finding: Finding) -> bool:
        """Whether this is more severe than before."""
        severity = SEVERITIES.index(finding.severity)
        worse = severity > self.severity
        self.severity = max(severity, self.severity)
        return worse


class _Member(NamedTuple):
    """The last state of a finding that lasts."""

    whose: Whose
    finding: Finding
    story: _Story


class Stories:
    """The findings that last, by story. Not thread-safe: the engine's owner guards it."""

    def __init__(self) -> None:
        self._lasting: dict[tuple[object, ...], _Member] = {}

    def began(self, whose: Whose, finding: Finding) -> str | None:
        """Return the line for a finding that began, or became another one; None if its story has been told."""
        key = _key(whose, finding)
        known = self._lasting.get(key)
        joined = None if known is not None else self._joined(whose, finding)
        story = known.story if known is not None else joined.story if joined is not None else _Story(finding)
        self._lasting[key] = _Member(whose, finding, story)
        if len(self._lasting) > _MOST_KEPT:
            del self._lasting[next(iter(self._lasting))]
        worse, new = story.worsens(finding), story.adds(finding)
        what = f"{whose}: {finding.pattern} ({finding.cause})"
        if (known is None and joined is None) or worse:
            return f"{finding.severity}: {what}: {finding.summary}"
        if joined is not None and joined.whose.pid != whose.pid:
            return f"also: {what}"
        return f"update: {what}: {finding.summary}" if new and not _waits(finding, joined) else None

    def ended(self, whose: Whose, finding: Finding) -> str | None:
        """Return the line for a finding that ended; None as long as its story goes on elsewhere."""
        member = self._lasting.pop(_key(whose, finding), None)
        if member is not None and any(other.story is member.story for other in self._lasting.values()):
            return None
        until = finding.until_seconds
        lasted = f"from {moment(finding.since_seconds)}" + (f" to {moment(until)}" if until is not None else "")
        return f"over: {whose}: {finding.pattern} ({finding.cause}), {lasted}"

    def _joined(self, whose: Whose, finding: Finding) -> _Member | None:
        """Return a member of the story that the finding belongs to, preferably in the same process."""
        return min(self._alike(whose, finding), key=lambda member: member.whose.pid != whose.pid, default=None)

    def _alike(self, whose: Whose, finding: Finding) -> Iterator[_Member]:
        for member in self._lasting.values():
            other = member.finding
            same = (member.whose.kind, member.whose.name) == (whose.kind, whose.name)
            if (same and _sort(whose, finding) == _sort(member.whose, other)) or (
                member.whose.pid == whose.pid
                and (_linked(finding, member.whose, other) or _linked(other, whose, finding))
            ):
                yield member


def _key(whose: Whose, finding: Finding) -> tuple[object, ...]:
    return whose.kind, whose.name, whose.pid, finding.since_seconds, _line(whose, finding)


def _line(whose: Whose, finding: Finding) -> tuple[str, int] | None:
    """Return the line that a finding is about: a loop has one for each, a pool is one whatever its workers do."""
    if whose.kind != "loop" or not finding.frames:
        return None
    return finding.frames[0].file, finding.frames[0].line


def _sort(whose: Whose, finding: Finding) -> tuple[object, ...]:
    return finding.pattern, finding.cause, _line(whose, finding)


def _linked(finding: Finding, whose: Whose, other: Finding) -> bool:
    """Whether the finding points at the pool of the other one."""
    if whose.kind != "pool" or finding.advice.pool != whose.name:
        return False
    return finding.cause in _POINTING or finding.pattern == other.pattern == "deadlock"


def _waits(finding: Finding, joined: _Member | None) -> bool:
    """Whether the only news is a pool that waits for another one, whose story was logged."""
    return joined is not None and _linked(finding, joined.whose, joined.finding)
