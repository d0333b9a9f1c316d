"""From looks at a loop to its blocks: what held it, since when, and what was seen meanwhile. Pure: times (ns) come in.

A block is one callback that held the loop for `blocked_ns` or more. Many short ones that make the loop late are lag,
not a block. Where the loop could not run for a reason outside of its callbacks (see `Evidence.starved`), no single
callback needs to be found: then the block is the time in which the loop answered nothing.
"""

from __future__ import annotations

from poolscope.probe.loops.evidence import Evidence

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from poolscope.probe.loops.meter import Counters

    Message = tuple[Any, ...]
    Line = tuple[str, int, str]
    Lines = tuple[Line, ...]

#: How often a lasting block is reported again.
REPEAT_NS = 500_000_000
#: The most lines of one block to count apart.
_LINES_KEPT = 200


class Observation:
    """What was seen of a loop at one moment.

    `root` is the callback that it was in (anything that equals itself only as long as it is the same call), None
    between two callbacks; `lines` the user's line of it first, and `gate` what it is stopped at there; `others` the
    lines of other threads with the CPU time that they used since the last look; `pending_ns` since when a beat has not
    been answered, None if none was sent.
    """

    __slots__ = ("counters", "gate", "lines", "others", "pending_ns", "root")

    def __init__(
        self,
        counters: Counters,
        root: object = None,
        lines: Sequence[Line] = (),
        others: Sequence[tuple[Lines, int]] = (),
        pending_ns: int | None = None,
        gate: str = "",
    ) -> None:
        self.counters = counters
        self.gate = gate
        self.root = root
        self.lines = tuple(lines)
        self.others = others
        self.pending_ns = pending_ns


class _Span:
    """A time in which the loop made no progress, in one callback or (root None) at all."""

    __slots__ = (
        "base",
        "block",
        "first_ns",
        "gates",
        "last",
        "others",
        "root",
        "started_ns",
        "starved",
        "told_ns",
        "votes",
    )

    def __init__(self, root: object, started_ns: int, base: Counters, look: Observation) -> None:
        self.root = root
        self.started_ns = started_ns
        self.base = base
        self.first_ns = look.counters.at_ns
        self.last = look.counters
        self.votes: dict[Lines, int] = {}
        self.others: dict[Lines, int] = {}
        self.gates: dict[tuple[Lines, str], int] = {}
        self.block = 0
        self.told_ns = 0
        #: Of a span without a callback: what was measured when the loop was last known to be starved.
        self.starved: Evidence | None = None
        self.see(look)

    def see(self, look: Observation) -> None:
        self.last = look.counters
        if look.lines and (look.lines in self.votes or len(self.votes) < _LINES_KEPT):
            self.votes[look.lines] = self.votes.get(look.lines, 0) + 1
            if look.gate:
                # Looked for in a suspected block only.
                self.gates[look.lines, look.gate] = self.gates.get((look.lines, look.gate), 0) + 1
        for lines, cpu_ns in look.others:
            if lines in self.others or len(self.others) < _LINES_KEPT:
                self.others[lines] = self.others.get(lines, 0) + cpu_ns

    def gate(self, blamed: Lines) -> str:
        """Return what these lines were stopped at in most looks; "": nothing that is known."""
        found = {gate: count for (lines, gate), count in self.gates.items() if lines == blamed}
        return max(found, key=lambda gate: found[gate]) if found else ""


def _most(weights: dict[Lines, int]) -> list[Line]:
    """Return the heaviest first line, with what most often comes with it."""
    firsts: dict[Line, int] = {}
    for lines, weight in weights.items():
        firsts[lines[0]] = firsts.get(lines[0], 0) + weight
    if not firsts:
        return []
    blamed = max(firsts, key=firsts.__getitem__)
    chosen: Lines = max([lines for lines in weights if lines[0] == blamed], key=lambda lines: weights[lines])
    return list(chosen)


class BlockTracker:
    """The blocks of one loop. For one caller at a time; every method returns the messages to send.

    At most one block is open at a time. Times at which something was seen are exact; that a callback began or ended
    is known to within the two looks around it, of which the middle is taken: the error is half a period, or half the
    gap where a look came late.
    """

    def __init__(
        self,
        loop: int,
        *,
        blocked_ns: int,
        period_ns: int,
        next_block: Callable[[], int],
        gil: bool = True,
    ) -> None:
        self._loop = loop
        self._blocked_ns = blocked_ns
        self._period_ns = period_ns
        self._next_block = next_block
        self._gil = gil
        self._span: _Span | None = None
        self._stuck: _Span | None = None
        self._prev: Counters | None = None
        #: No callback that runs now began before this: the loop was seen between two of them.
        self._floor_ns = 0
        #: All before this was reported as a block.
        self._told_until_ns = 0

    @property
    def suspicious(self) -> bool:
        """Whether the loop has been held for half of what makes a block: worth a closer look."""
        return any(
            span is not None and 2 * (span.last.at_ns - span.started_ns) >= self._blocked_ns
            for span in (self._span, self._stuck)
        )

    def begin(self, counters: Counters) -> None:
        """Take in that the loop begins to run, and what the clocks say then."""
        self._prev = counters
        self._floor_ns = counters.at_ns

    def look(self, look: Observation) -> list[Message]:
        """Take in one look."""
        out: list[Message] = []
        at, prev = look.counters.at_ns, self._prev
        span = self._span
        if span is not None and look.root is not None and look.root == span.root:
            span.see(look)
        else:
            if span is not None:
                middle = (span.last.at_ns + at) // 2
                self._end_callback(span, middle, out)
            self._span = None
            if look.root is not None:
                started = self._start_of_callback(look, prev)
                self._span = _Span(look.root, started, prev or look.counters, look)
        self._see_stuck(look, prev, out)
        self._judge(at, out)
        self._prev = look.counters
        return out

    def _start_of_callback(self, look: Observation, prev: Counters | None) -> int:
        """When a callback that is seen for the first time began, as well as can be told."""
        now = look.counters
        if prev is None:
            return now.at_ns
        earliest, latest = max(self._floor_ns, prev.at_ns), now.at_ns
        if latest - earliest > 2 * self._period_ns:
            # We came late. If this callback kept the GIL from us, it had begun by the time we were due. Otherwise
            # others may have run meanwhile, and nothing is known but that it runs now.
            if now.held_ns > prev.held_ns:
                latest = earliest + self._period_ns
            else:
                earliest = latest - self._period_ns
        return (earliest + latest) // 2

    def _end_of_callback(self, span: _Span, at_ns: int) -> int:
        """When a callback ended that was over by `at_ns`, as well as can be told.

        Other callbacks since the last look are counted with it: at most what fits between two looks. If we came late,
        we only know that it ran then.
        """
        known = span.last.at_ns + self._period_ns
        return at_ns if at_ns <= known + self._period_ns else known

    def _see_stuck(self, look: Observation, prev: Counters | None, out: list[Message]) -> None:
        """Follow the time in which the loop answers nothing, in any callback or none."""
        at, since = look.counters.at_ns, look.pending_ns
        late = prev is not None and at - prev.at_ns >= self._period_ns + self._blocked_ns // 2
        if since is None and prev is not None and late and look.counters.silenced:
            # Nothing was asked of the loop. But our thread, which needs the GIL and a CPU too, did not get on either.
            since = prev.at_ns + self._period_ns
        stuck = self._stuck
        if since is None:
            if stuck is not None:
                self._end_stuck(stuck, stuck.last.at_ns, out)
        elif stuck is not None:
            stuck.see(look)
        elif prev is not None:
            self._stuck = _Span(None, max(since, self._told_until_ns), prev, look)

    def _judge(self, at: int, out: list[Message]) -> None:
        span, stuck = self._span, self._stuck
        if span is not None and at - span.started_ns >= self._blocked_ns:
            self._take_over(span)
            if not span.told_ns or at - span.told_ns >= REPEAT_NS:
                span.told_ns = at
                out.append(self._message(span, self._evidence(span), 0))
        elif stuck is not None and at - stuck.started_ns >= self._blocked_ns:
            evidence = self._evidence(stuck)
            if evidence.starved:
                stuck.starved = evidence
                stuck.block = stuck.block or self._next_block()
                if not stuck.told_ns or at - stuck.told_ns >= REPEAT_NS:
                    stuck.told_ns = at
                    out.append(self._message(stuck, evidence, 0))
            elif stuck.block:
                # It is over, and something else goes on.
                self._end_stuck(stuck, (self._prev or stuck.last).at_ns, out)

    def _take_over(self, span: _Span) -> None:
        """Make the span of a callback the open block, replacing the one before."""
        stuck, self._stuck = self._stuck, None
        if span.block:
            return
        if stuck is not None and stuck.block:
            span.block, span.told_ns = stuck.block, stuck.told_ns
            span.started_ns = min(span.started_ns, stuck.started_ns)
        else:
            span.block = self._next_block()

    def ran(self, at_ns: int) -> list[Message]:
        """Take in that the loop was between two callbacks at this moment: it answered a beat."""
        out: list[Message] = []
        span, stuck = self._span, self._stuck
        if span is not None:
            if span.first_ns <= at_ns:
                self._span = None
                self._end_callback(span, self._end_of_callback(span, at_ns), out)
            else:
                span.started_ns = max(span.started_ns, at_ns)
        if self._stuck is not None and stuck is not None and stuck.started_ns <= at_ns:
            self._end_stuck(stuck, at_ns, out)
        self._floor_ns = max(self._floor_ns, at_ns)
        return out

    def close(self, at_ns: int) -> list[Message]:
        """Note that the loop stopped, and begin anew."""
        out: list[Message] = []
        if self._span is not None:
            self._end_callback(self._span, self._end_of_callback(self._span, at_ns), out)
        if self._stuck is not None:
            self._end_stuck(self._stuck, at_ns, out)
        self._span = self._stuck = self._prev = None
        return out

    def ongoing(self, at_ns: int) -> list[Message]:
        """Report the open block again."""
        for span in (self._span, self._stuck):
            if span is not None and span.block:
                span.told_ns = at_ns
                return [self._message(span, span.starved or self._evidence(span), 0)]
        return []

    def _end_callback(self, span: _Span, at_ns: int, out: list[Message]) -> None:
        if not span.block:
            if at_ns - span.started_ns < self._blocked_ns:
                return
            self._take_over(span)
        out.append(self._message(span, self._evidence(span), at_ns))
        # An unanswered beat counts from here on.
        self._stuck = None
        self._told_until_ns = at_ns

    def _end_stuck(self, stuck: _Span, at_ns: int, out: list[Message]) -> None:
        self._stuck = None
        evidence = stuck.starved or self._evidence(stuck)
        if not stuck.block and at_ns - stuck.started_ns >= self._blocked_ns and evidence.starved:
            stuck.block = self._next_block()
        if stuck.block:
            out.append(self._message(stuck, evidence, max(at_ns, stuck.started_ns + 1)))
            self._told_until_ns = at_ns

    def _evidence(self, span: _Span) -> Evidence:
        return Evidence.between(span.base, span.last, self._blocked_ns, self._gil)

    def _message(self, span: _Span, evidence: Evidence, ended_ns: int) -> Message:
        share = self._evidence(span).cpu or 0.0
        lines = _most(span.votes)
        return (
            "loop_block",
            self._loop,
            span.block,
            span.started_ns,
            ended_ns,
            "",
            lines,
            min(1.0, max(0.0, share)),
            evidence.told(),
            _most(span.others),
            span.gate(tuple(lines)),
        )
