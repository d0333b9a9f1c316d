"""Counts by function, of which the busiest go by their names, and all others together as one.

Which functions are the busiest changes. What a function adds goes to where it is shown now, and what was counted stays
where it was: no count ever goes down, none is lost, and all of them together are the whole. Only functions that have
done something cost more than a look.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

#: What all functions but the busiest go by, and one that is called so.
OTHER = "other"

#: Of one function: tasks started, and time of workers (ns).
Total = tuple[int, int]


class _Function:
    """What one function has done (tasks started, ns of workers), and what of that was counted, also by its name."""

    __slots__ = ("busy_ns", "counted_ns", "counted_started", "named_ns", "named_started", "started")

    def __init__(self) -> None:
        self.started = self.busy_ns = 0
        self.counted_started = self.counted_ns = 0
        self.named_started = self.named_ns = 0


class Busiest:
    """`add` or `put` what functions have done, then `count` it. Not thread-safe: its owner guards it."""

    def __init__(self, limit: int) -> None:
        """At most `limit` functions go by their names."""
        self._limit = limit
        self._functions: dict[str, _Function] = {}
        #: Those that have done something since the last count.
        self._changed: dict[str, _Function] = {}
        #: Those that go by their names now, and those that ever did.
        self._chosen: dict[str, _Function] = {}
        self._named: dict[str, _Function] = {}
        self._rest: Total | None = None

    def add(self, more: Iterable[tuple[str, int, int]]) -> None:
        """What functions have done beside what they had done before: (name, tasks started, ns of workers)."""
        functions, changed = self._functions, self._changed
        for name, started, busy_ns in more:
            function = functions.get(name)
            if function is None:
                function = functions[name] = _Function()
            function.started += started
            function.busy_ns += busy_ns
            changed[name] = function

    def put(self, totals: Mapping[str, Total]) -> None:
        """What functions have done in all."""
        for name, (started, busy_ns) in totals.items():
            function = self._functions.get(name)
            if function is None:
                function = self._functions[name] = _Function()
            elif (function.started, function.busy_ns) == (started, busy_ns):
                continue
            function.started, function.busy_ns = started, busy_ns
            self._changed[name] = function

    def done(self) -> Iterator[tuple[str, int, int]]:
        """All that functions have done, as `add` takes it."""
        return ((name, function.started, function.busy_ns) for name, function in self._functions.items())

    def count(self, among: Iterable[str] | None = None) -> None:
        """Chooses by the most that each was known to have done, and counts what is new of it.

        A total that is lower than it was counts as no change: a task that runs is counted up to now, and that it had
        ended by then is heard later. Only functions `among` these may go by their names; by default all.
        """
        changed, self._changed = self._changed, {}
        chosen = self._chosen
        if among is not None:
            self._choose({name: self._functions[name] for name in among})
        elif not changed.keys() <= chosen.keys():
            # What has done nothing has overtaken nothing.
            self._choose(chosen | changed)
        chosen = self._chosen
        rest_started, rest_ns = self._rest or (0, 0)
        others = False
        for name, function in changed.items():
            if (started := function.started - function.counted_started) > 0:
                function.counted_started = function.started
            else:
                started = 0
            if (busy_ns := function.busy_ns - function.counted_ns) > 0:
                function.counted_ns = function.busy_ns
            else:
                busy_ns = 0
            if name in chosen:
                function.named_started += started
                function.named_ns += busy_ns
            else:
                others = True
                rest_started += started
                rest_ns += busy_ns
        if others:
            self._rest = rest_started, rest_ns

    def resize(self, limit: int) -> None:
        """From now on at most `limit` functions go by their names."""
        self._limit = limit
        self._choose(self._functions)

    def shown(self) -> Iterator[tuple[str, Total]]:
        """The functions that go by their names, with what was counted by them, and the rest as `OTHER` once there is
        one."""
        for name, function in self._chosen.items():
            yield name, (function.named_started, function.named_ns)
        if self._rest is not None:
            yield OTHER, self._rest

    def former(self) -> Iterator[tuple[str, Total]]:
        """What was counted by the names of functions that go by them no more."""
        for name, function in self._named.items():
            if name not in self._chosen:
                yield name, (function.named_started, function.named_ns)

    def _choose(self, candidates: Mapping[str, _Function]) -> None:
        names = {name: max(it.busy_ns, it.counted_ns) for name, it in candidates.items() if name != OTHER}
        chosen = list(names)
        if len(chosen) > self._limit:
            least = sorted(names.values())[-self._limit]
            chosen = [name for name, busy_ns in names.items() if busy_ns >= least]
            if len(chosen) > self._limit:  # as busy as one another
                chosen.sort(key=lambda name: (-names[name], -candidates[name].started, name))
        self._chosen = {name: candidates[name] for name in chosen[: self._limit]}
        self._named |= self._chosen
