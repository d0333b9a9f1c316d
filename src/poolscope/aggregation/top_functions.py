"""Counts by function: the busiest by name, and all others as one.

The busiest functions change. A function adds to the count where it is shown now, and what was counted stays where it
was: no count goes down, none is lost, and together they are the whole. Only functions that have done something since
cost time.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping

#: The name of all functions but the busiest, and of a function with that very name.
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


class TopFunctions:
    """`add` or `put` what functions have done, then `count` it. Not thread-safe: its owner guards it."""

    def __init__(self, limit: int) -> None:
        """At most `limit` functions have their own names."""
        self._limit = limit
        self._functions: dict[str, _Function] = {}
        #: Those that have done something since the last count.
        self._changed: dict[str, _Function] = {}
        #: Functions shown by name now, and those that ever were.
        self._chosen: dict[str, _Function] = {}
        self._named: dict[str, _Function] = {}
        self._rest: Total | None = None

    def add(self, more: Iterable[tuple[str, int, int]]) -> None:
        """Add what functions have done since: (name, tasks started, ns of workers)."""
        functions, changed = self._functions, self._changed
        for name, started, busy_ns in more:
            function = functions.get(name)
            if function is None:
                function = functions[name] = _Function()
            function.started += started
            function.busy_ns += busy_ns
            changed[name] = function

    def put(self, totals: Mapping[str, Total]) -> None:
        """Take the totals of functions."""
        for name, (started, busy_ns) in totals.items():
            function = self._functions.get(name)
            if function is None:
                function = self._functions[name] = _Function()
            elif (function.started, function.busy_ns) == (started, busy_ns):
                continue
            function.started, function.busy_ns = started, busy_ns
            self._changed[name] = function

    def done(self) -> Iterator[tuple[str, int, int]]:
        """Return all that functions have done, as `add` takes it."""
        return ((name, function.started, function.busy_ns) for name, function in self._functions.items())

    def count(self, among: Iterable[str] | None = None) -> None:
        """Choose by the most that each was known to have done, and count what is new of it.

        A total that is lower than it was counts as no change: a task that runs is counted up to now, and that it had
        ended by then is heard later. Only functions `among` these may go by their names; by default all.
        """
        changed, self._changed = self._changed, {}
        chosen = self._chosen
        if among is not None:
            self._choose({name: self._functions[name] for name in among})
        elif not changed.keys() <= chosen.keys():
            # A function that has done nothing has overtaken none.
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
        """Show at most `limit` functions by name from now on."""
        self._limit = limit
        self._choose(self._functions)

    def bound(self, most: int) -> None:
        """Where there are more than `most` functions, keeps about half as many: those that go by their names, and the
        busiest. What the others have done counts as done by `OTHER`, and what was counted by their names too."""
        if len(self._functions) <= most:
            return
        idle = [
            (function.busy_ns, name)
            for name, function in self._functions.items()
            if name != OTHER and name not in self._chosen and function.busy_ns >= function.counted_ns
        ]
        idle.sort()
        other = self._functions.setdefault(OTHER, _Function())
        rest_started, rest_ns = self._rest or (0, 0)
        for _, name in idle[: max(0, len(self._functions) - most // 2)]:
            function = self._functions.pop(name)
            self._changed.pop(name, None)
            self._named.pop(name, None)
            other.started += function.started
            other.busy_ns += function.busy_ns
            other.counted_started += function.counted_started
            other.counted_ns += function.counted_ns
            rest_started += function.named_started
            rest_ns += function.named_ns
        self._changed[OTHER] = other
        if rest_started or rest_ns:
            self._rest = rest_started, rest_ns

    def forget_all_but(self, names: Container[str]) -> None:
        """Those that are missing have become part of `OTHER` where their totals come from."""
        for functions in (self._functions, self._changed, self._chosen, self._named):
            for name in [name for name in functions if name not in names]:
                del functions[name]

    def __len__(self) -> int:
        return len(self._functions)

    def shown(self) -> Iterator[tuple[str, Total]]:
        """Return the functions shown by name with their counts, and the rest, if any, as `OTHER`."""
        for name, function in self._chosen.items():
            yield name, (function.named_started, function.named_ns)
        if self._rest is not None:
            yield OTHER, self._rest

    def former(self) -> Iterator[tuple[str, Total]]:
        """Return what was counted by the names of functions that go by them no more."""
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
