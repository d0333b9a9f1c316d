"""Phrases that the sentences of several rules are made of. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from poolscope.messages import Line
from poolscope.model import Frame
from poolscope.signals.pool_signals import PoolSignals

#: A line with a smaller share of the samples is called the most frequent one, not the line of all.
NEARLY_ALL = 0.9

_MINUTE, _HOUR, _DAY = 60, 3600, 86_400


def seconds(value: float | None) -> str:
    """Return a duration as people say it: `85 ms`, `2.3 s`, `3 min 20 s`, `2 days 4 h`."""
    if value is None:
        return "an unknown time"
    if value < 0.001:
        return f"{value * 1e6:.0f} µs"
    if value < 0.9995:
        return f"{value * 1e3:.0f} ms" if value >= 0.01 else f"{value * 1e3:.1f} ms"
    return moment(value)


def moment(value: float) -> str:
    """Return a time since the start of the program: `6.2 s`, `3 min 20 s`."""
    return f"{value:.1f} s" if value < _MINUTE - 0.05 else minutes(value)


def minutes(value: float) -> str:
    """Return a duration (s, a minute or more) in its two largest units, the second one only if there is any."""
    whole = round(value)
    if whole < _HOUR:
        first, rest, unit = f"{whole // _MINUTE} min", whole % _MINUTE, "s"
    elif whole < _DAY:
        first, rest, unit = f"{whole // _HOUR} h", whole % _HOUR // _MINUTE, "min"
    else:
        days = whole // _DAY
        first, rest, unit = f"{days:,} day{'' if days == 1 else 's'}", whole % _DAY // _HOUR, "h"
    return f"{first} {rest} {unit}" if rest else first


def place(frames: Sequence[Frame]) -> str:
    """Return the first of these lines with a blank before it; empty if there is none.

    If other lines have a part and none has a larger one, it is called the most frequent one. If no worker was seen at a
    line, the line is that of a `def`, where nothing waits or computes: then the function is named instead.
    """
    if not frames:
        return ""
    frame = frames[0]
    share = frame.share
    largest = share is not None and all(share >= (other.share or 0.0) for other in frames)
    most = " most often" if largest and share is not None and share < NEARLY_ALL else ""
    if not frame.file or share is None:
        return f"{most} in {frame.function}"
    return f"{most} at {frame.file.rsplit('/', 1)[-1]}:{frame.line} ({frame.function})"


def subject(kind: str, pool: str) -> str:
    """`Pool 'crawler'`, `Semaphore 'app:GATE'`."""
    return f"{kind.capitalize() if kind in ('lock', 'semaphore') else 'Pool'} {pool!r}"


def counted(count: int, noun: str) -> str:
    """`1 task`, `4 tasks`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def are(count: int) -> str:
    """`is` of one, `are` of others."""
    return "is" if count == 1 else "are"


def children(count: int, what: str) -> str:
    """`30 threads`, `1 process`: what a program has started."""
    return f"{count:,} processes" if what == "process" and count != 1 else counted(count, what)


#: What the places of a pool are called that are no workers, by its kind.
_NOUNS = {"semaphore": "permit", "lock": "permit", "connections": "connection", "queue": "consumer"}


def noun(kind: str) -> str:
    """Return what one place of a pool of this kind is called: `worker`, `permit`, `connection`, `consumer`."""
    return _NOUNS.get(kind, "worker")


def workers(count: int, kind: str = "") -> str:
    """`1 worker`, `4 workers`; of a pool of another kind what it has: `4 permits`."""
    return counted(count, noun(kind))


def all_workers(count: int) -> str:
    """`its one worker`, `both workers`, `all 4 workers`."""
    return {1: "its one worker", 2: "both workers"}.get(count, f"all {count} workers")


def percent(share: float) -> str:
    """`17 %`."""
    return f"{100 * share:.0f} %"


_ORDINALS = ("", "", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")


def every(share: float, function: str | None) -> str:
    """`every third call of fetch takes`, `one call in 20 takes`, `7 calls in 10 take`."""
    count, of = round(1 / share), "" if function is None else f" of {function}"
    if count < 2:
        return f"{10 * share:.0f} calls in 10{of} take"
    return f"every {_ORDINALS[count]} call{of} takes" if count < len(_ORDINALS) else f"one call in {count}{of} takes"


def costs(signals: PoolSignals) -> str:
    """Return what a full pool costs a task."""
    if signals.full_seconds:
        return done_at_once(signals)
    own = signals.working_run_seconds or signals.run_p50_seconds
    if own is None and signals.amplification is not None:  # from metrics that do not count what is done
        return f"a task now takes {signals.amplification:.1f} times as long as its own work"
    return f"a task now waits {seconds(signals.wait_p50_seconds)} for {seconds(own)} of its own work"


def done_at_once(signals: PoolSignals) -> str:
    """Return how little a pool gets done that only looks busy."""
    at_once = signals.effective_parallelism or 0.0
    return f"all together they get as much done as {at_once:.1f} workers with nothing in their way"


def at(lines: Sequence[Line]) -> str:
    """Return the first of these lines with a blank before it; empty if there is none."""
    if not lines or not lines[0][0]:
        return ""
    file, line, function = lines[0]
    return f" at {file.rsplit('/', 1)[-1]}:{line} ({function})"
