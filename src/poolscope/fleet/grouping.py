"""Equal verdicts of the instances of a job, put together. Pure: no clock, no thread, no I/O."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import msgspec

from poolscope.fleet.verdicts import Knee, Verdict
from poolscope.ranking import importance


class Group(msgspec.Struct, frozen=True):
    """Pools of one name and kind in the instances of one job, with the same pattern and cause."""

    members: tuple[Verdict, ...]
    #: Instances of the job that have this pool.
    of: int

    @property
    def first(self) -> Verdict:
        """Return the one in which it lasted longest: it stands for the others."""
        return self.members[0]

    @property
    def knees(self) -> tuple[Knee, Knee]:
        """The first and the last of them."""
        knees = [each.knee for each in self.members if each.knee is not None]
        return min(knees, key=lambda knee: knee.by), max(knees, key=lambda knee: knee.by)

    @property
    def lasting(self) -> int:
        """In how many it lasts."""
        return sum(each.lasting for each in self.members)

    def headline(self, show: Callable[[float], str]) -> str:
        """Return one line: `14 of 500 instances of orders: 'db' async_then_serial, limit reached, since ...`."""
        verdict, target = self.first, self.first.key.target
        early, late = self.knees
        when = f"since {early.text(show)}"
        if late.by != early.by:
            when += f", the last one since {late.text(show)}"
        job = f"{target.namespace}/{target.job}" if target.namespace else target.job or "(no job)"
        why = f", {verdict.cause.replace('_', ' ')}" if verdict.cause != "unknown" else ""
        ended = "" if self.lasting else ", over by now" if self.first.until is not None else ""
        return (
            f"{len(self.members):,} of {self.of:,} instance{'' if self.of == 1 else 's'} of {job}: "
            f"{verdict.key.name!r} {verdict.pattern}{why}, {when}{ended}"
        )


def groups(verdicts: Iterable[Verdict]) -> list[Group]:
    """Return the findings in groups, the most severe first, then those of most instances."""
    there: dict[tuple[str, ...], int] = defaultdict(int)
    found: dict[tuple[str, ...], list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        pool = (verdict.key.target.namespace, verdict.key.target.job, verdict.key.mapping, verdict.key.name)
        there[pool] += 1
        if verdict.state == "finding":
            found[(*pool, verdict.pattern, verdict.cause, verdict.severity)].append(verdict)
    made = [Group(_ordered(members), there[key[:4]]) for key, members in found.items()]
    return sorted(made, key=lambda each: (importance(each.first.as_finding()), -len(each.members), each.first.key))


def _ordered(members: Sequence[Verdict]) -> tuple[Verdict, ...]:
    return tuple(sorted(members, key=lambda each: (-each.seconds, each.key)))
