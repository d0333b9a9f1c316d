"""What became of a suite in one mode against another, test by test. Pure: no file, no process."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

#: Of a test that never came to its end: a run that hangs or crashes ends without a word about the rest.
NOT_RUN = "not run"
#: The names under which a run as a whole is compared, beside its tests.
STATUS = "[exit status]"
STANDARD_ERROR = "[standard error]"

_VARIABLE = re.compile(r"0x[0-9a-fA-F]+|\d+")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run of a suite."""

    #: Test -> passed, failed, error, skipped, xfailed, xpassed; "changed" of what a test leaves behind.
    tests: Mapping[str, str]
    #: Exit status, negative for a signal; None if its time was up.
    status: int | None
    #: Lines of standard error, as `lines_of` has them.
    errors: frozenset[str]
    seconds: float
    #: What poolscope recorded; None in a plain run.
    tasks: int | None = None

    def counts(self) -> Counter[str]:
        return Counter(self.tests.values())


@dataclass(slots=True)
class Difference:
    """What differs between a plain and a watched run: name -> (plain, watched)."""

    certain: dict[str, tuple[str, str]] = field(default_factory=dict)
    flaky: dict[str, tuple[str, str]] = field(default_factory=dict)
    known: dict[str, tuple[str, str]] = field(default_factory=dict)


def lines_of(text: str, folders: Iterable[str] = ()) -> frozenset[str]:
    """The lines of a standard error without what changes from run to run: numbers, addresses, temporary folders."""
    for folder in folders:
        text = text.replace(folder, "TMP")
    return frozenset(line for line in (_VARIABLE.sub("N", line).strip() for line in text.splitlines()) if line)


def differences(plain: Outcome, watched: Outcome) -> dict[str, tuple[str, str]]:
    """Name of a test, or of the run as a whole -> (plain, watched), where these are not the same."""
    found = {}
    for test in sorted({*plain.tests, *watched.tests}):
        pair = (plain.tests.get(test, NOT_RUN), watched.tests.get(test, NOT_RUN))
        # What a run did not get to says nothing of a test; that its time was up is told once, below.
        cut_off = (plain.status is None and test not in plain.tests) or (
            watched.status is None and test not in watched.tests
        )
        if pair[0] != pair[1] and not cut_off:
            found[test] = pair
    if plain.status != watched.status:
        found[STATUS] = (_status(plain.status), _status(watched.status))
    for line in sorted(plain.errors ^ watched.errors):
        here = ("printed", "") if line in plain.errors else ("", "printed")
        found[f"{STANDARD_ERROR} {line}"] = here
    return found


def _status(status: int | None) -> str:
    return "time was up" if status is None else str(status)


def settled(
    first: Mapping[str, tuple[str, str]], again: Mapping[str, tuple[str, str]], known: Collection[str]
) -> Difference:
    """Sorts what differed the first time by whether it did so, in the same way, again.

    `known` holds what is documented to differ: beginnings of names, or ends after an asterisk.
    """
    told = Difference()
    for name, pair in first.items():
        if is_known(name, known):
            told.known[name] = pair
        elif again.get(name) == pair:
            told.certain[name] = pair
        else:
            told.flaky[name] = pair
    return told


def is_known(name: str, known: Collection[str]) -> bool:
    """Whether what differs is among what is documented to do so."""
    return any(name.endswith(each[1:]) if each.startswith("*") else name.startswith(each) for each in known)
