"""One case per pool: from its history to its findings, live and final.

Pure: times come in, and so does the function that gives the source text of a line. Not thread-safe: the judge's owner
guards it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice

import msgspec

from poolscope.analysis import sizing, words
from poolscope.analysis.arrivals import Population, closed_population, follow
from poolscope.analysis.chance import Before
from poolscope.analysis.deadlock import Deadlock, PoolWaits
from poolscope.analysis.detection import (
    Diagnosis,
    Rules,
    amplified,
    behind,
    diagnose,
    stuck_workers,
)
from poolscope.analysis.findings import FINDINGS_KEPT, LINES_SHOWN, Event, SourceOf, evidence, frames_of
from poolscope.analysis.growth import growth
from poolscope.analysis.history import PoolHistory
from poolscope.analysis.occupants import OCCUPANTS, SAMPLES_NEEDED
from poolscope.analysis.signals import PoolSignals, ProcessSignals, held_workers, measure
from poolscope.analysis.stretches import Stretch
from poolscope.analysis.tracking import Episode, Sort, Tracker
from poolscope.analysis.window import before
from poolscope.messages import FunctionNamed, Line
from poolscope.model import Advice, Finding, Frame, SizingPoint

#: Gives the process's signals over [begin, end] ns.
ProcessOf = Callable[[int, int], ProcessSignals]
FunctionOf = Callable[[int], FunctionNamed | None]
#: Gives the pools of the same process that live.
OthersOf = Callable[[], Iterable[PoolHistory]]

#: Tasks replayed for a number while the program runs; the final one takes all that were kept.
LIVE_REPLAY = 20_000
RESIZE_NS = 5_000_000_000
#: A pool's latest tasks, and the other pools that were full for longest, among which its feeder is looked for: the more
#: pools there are, the more that would cost for each of them.
FEEDER_TASKS = 400
FEEDERS = 8
#: The latest tasks, by which it is told whether the submitters keep a fixed number of them in the pool.
POPULATION_TASKS = 2_000
#: A long stretch is judged by its last part, so that what changed shows.
WINDOW_NS = 60_000_000_000
#: What the begin of a stretch shows is looked for until it has lasted for so long, or so many tasks have started.
GROWTH_NS = 30_000_000_000
GROWTH_STARTS = 1_000
#: Judging a window costs about a microsecond a task, and some more a worker in a sample: a busy one is judged less
#: often, never more than this apart.
REST_PER_TASK_NS = 20_000
REST_PER_OCCUPANT_NS = 400_000
REST_NS = 500_000_000
#: So many pools of a process may be full at once until each is judged less often still.
FULL_POOLS = 8
#: Told this much later than it could be, a finding has had time to see where the workers are.
PATIENCE_NS = 600_000_000
#: A pool's finding is over when nothing has been found for this many times `sustain_seconds`: the next stretch of a
#: flapping load takes one of them to be recognised.
HOLD_SUSTAINS = 4
#: A deadlock that was not seen for this long is over.
DEADLOCK_HOLD_NS = 2_000_000_000


class _PoolItem(msgspec.Struct, frozen=True):
    diagnosis: Diagnosis
    signals: PoolSignals
    begin_ns: int
    end_ns: int


class _Bursts:
    """Short or harmless saturation, in sums (ns)."""

    __slots__ = ("count", "first_ns", "item", "last_ns", "longest_ns", "total_ns")

    def __init__(self) -> None:
        self.count = self.total_ns = self.longest_ns = self.first_ns = self.last_ns = 0
        self.item: _PoolItem | None = None

    def add(self, stretch: Stretch, item: _PoolItem | None) -> None:
        if not self.count:
            self.first_ns = stretch.begin_ns
        self.count += 1
        self.total_ns += stretch.saturated_ns
        self.last_ns = stretch.end_ns
        if item is not None and stretch.length_ns >= self.longest_ns:
            self.longest_ns, self.item = stretch.length_ns, item


class PoolCase:
    """Judges one pool as time goes on."""

    def __init__(
        self,
        history: PoolHistory,
        rules: Rules,
        *,
        origin_ns: int,
        process_of: ProcessOf,
        function_of: FunctionOf,
        source_of: SourceOf,
        others_of: OthersOf = tuple,
        full: set[int] | None = None,
    ) -> None:
        """`full` are the pools of the same process that are in a stretch, to which each of their cases adds its own."""
        self.history = history
        self.waits = PoolWaits(history.opened.pool)
        self.rules = rules
        self._origin_ns = origin_ns
        self._process_of = process_of
        self._function_of = function_of
        self._source_of = source_of
        self._others_of = others_of
        self._full: set[int] = set() if full is None else full
        sustain = self._sustain_ns
        self._tracker: Tracker[_PoolItem] = Tracker(hold_ns=HOLD_SUSTAINS * sustain, settle_ns=sustain // 2)
        self._rest_until_ns = 0
        # Begin of a stretch, and what came before it.
        self._before: tuple[int, Before] | None = None
        # The same, and whether runs grow with the number of busy workers.
        self._growing: tuple[int, bool | None] = -1, None
        # End of the last deadlock or stall, or of what it left in the queue: until then it is what saturates the pool.
        self._released_ns = 0
        self._draining = False
        self._bursts = _Bursts()
        self._past: list[Finding] = []
        self._sized: sizing.Sizing | None = None
        #: Workers for the slow functions and for the others, had each a pool of their own.
        self._split: tuple[int | None, int | None] | None = None
        self._sized_ns = 0
        self._final = False

    @property
    def _sustain_ns(self) -> int:
        return int(self.rules.thresholds.sustain_seconds * 1e9)

    @property
    def active(self) -> Finding | None:
        """The finding that lasts."""
        active = self._tracker.active
        return None if active is None else self._finding(active)

    @property
    def active_sort(self) -> Sort | None:
        """What sort of finding it is. Asked at each scrape, which has no use for its frames and words."""
        active = self._tracker.active
        return None if active is None else active.key

    @property
    def warned(self) -> bool:
        """Whether there is, or was, a finding above info."""
        active = self._tracker.active
        return (active is not None and active.key[2] != "info") or any(past.severity != "info" for past in self._past)

    @property
    def suggested(self) -> int | None:
        """The size that is advised now."""
        active = self._tracker.active
        return self._sized.suggested if active is not None and active.item.diagnosis.sized and self._sized else None

    @property
    def resting(self) -> bool:
        """Nothing runs, is queued or lasts, and all that was told has been judged: another look would find the same."""
        history, occupancy = self.history, self.history.occupancy
        return (
            not history.running
            and self._tracker.active is None
            and occupancy.settled_ns > history.last_batch_ns
            and not history.queue_depth
            and not occupancy.stretches.closed
            and occupancy.stretches.begin_ns is None
            and self.waits.deadlock is None
        )

    def settle(self, until_ns: int) -> None:
        """See `PoolHistory.settle`."""
        self.history.settle(until_ns)
        self._note_full()

    def _note_full(self) -> None:
        if self.history.occupancy.stretches.begin_ns is None:
            self._full.discard(self.history.opened.pool)
        else:
            self._full.add(self.history.opened.pool)

    def judge(self, now_ns: int) -> list[Event]:
        """Looks at everything settled so far. Returns what began and ended."""
        events: list[Event] = []
        stretches = self.history.occupancy.stretches
        closed, stretches.closed = stretches.closed, []
        if self.waits.deadlock is not None:
            events += self._deadlocked(self.waits.deadlock, now_ns)
        if self.waits.deadlock is not None:
            return events
        for stretch in closed:
            events += self._over(stretch, now_ns)
        self._drain()
        current = self._since_release(stretches.current)
        if current is not None and current.length_ns >= self._sustain_ns:
            if now_ns < self._rest_until_ns and not self._final:
                return events
            item = self._diagnose(current, self._tracker.active is not None)
            occupants = min(OCCUPANTS, item.signals.samples * item.signals.max_workers)
            rest_ns = item.signals.starts * REST_PER_TASK_NS + occupants * REST_PER_OCCUPANT_NS
            self._rest_until_ns = now_ns + min(REST_NS, rest_ns) * max(1, len(self._full) // FULL_POOLS)
            if self._too_early(item, current):
                return events
            if item.diagnosis.pattern != "burst":
                return events + self._offer(item, current.begin_ns, now_ns)
        if not self._final and (stuck := self._stuck(now_ns)) is not None:
            return events + self._offer(stuck, stuck.begin_ns, now_ns)
        if self._tracker.active is not None:
            events += self._absent(self._tracker.active.item.end_ns, now_ns)
        return events

    def _too_early(self, item: _PoolItem, stretch: Stretch) -> bool:
        """Whether a cause that rests on there being no other, or none, would be told before others could be seen."""
        signals, cause = item.signals, item.diagnosis.cause
        if self._tracker.active is not None or self._final:
            return False
        unseen = cause in ("blocking_io", "unknown") and 0 < signals.samples < SAMPLES_NEEDED
        unread = cause == "unknown" and (signals.worker_cores is None or signals.process.cores_used is None)
        return (unseen or unread) and stretch.length_ns < self._sustain_ns + PATIENCE_NS

    def _deadlocked(self, deadlock: Deadlock, now_ns: int) -> list[Event]:
        """A deadlock stands above all else, from when it is proven until it has not been seen for a while."""
        active = self._tracker.active
        if now_ns - deadlock.at_ns >= DEADLOCK_HOLD_NS:
            self.waits.deadlock = None
            self._release(deadlock.at_ns)
            return self._end(self._tracker.close())
        events: list[Event] = []
        if active is not None and active.item.signals.deadlock is None:
            events += self._end(self._tracker.close())
        item = self._diagnose(Stretch(deadlock.cycle.since_ns, deadlock.at_ns, open=True), False, deadlock)
        return events + self._offer(item, item.begin_ns, now_ns)

    def _release(self, at_ns: int) -> None:
        """A deadlock or a stall ended."""
        self._released_ns, self._draining = at_ns, True

    def _drain(self) -> None:
        """What a deadlock or a stall has left in the queue is part of it. After that another story may begin."""
        oldest_ns = self.history.oldest_submitted_ns
        if self._draining and (oldest_ns is None or oldest_ns >= self._released_ns):
            self._draining = False
            self._released_ns = self.history.occupancy.settled_ns
            self.history.occupancy.stretches.cut(self._released_ns)
            self._note_full()

    def _since_release(self, stretch: Stretch | None) -> Stretch | None:
        """The stretch, unless a deadlock or a stall is part of it."""
        return stretch if stretch is not None and stretch.begin_ns >= self._released_ns else None

    def _stuck(self, now_ns: int) -> _PoolItem | None:
        """Workers may be stuck while the others keep up with the load."""
        if not self.history.running:
            return None
        begin = min(task.started_ns for task in self.history.running.values())
        # First what costs little: many pools have tasks that last, and hardly one has any that is stuck.
        if now_ns - begin < self.rules.thresholds.stuck_task_seconds * 1e9 or now_ns < self._rest_until_ns:
            return None
        self._rest_until_ns = now_ns + REST_NS
        if not stuck_workers(held_workers(self.history, now_ns), self.rules):
            return None
        item = self._diagnose(Stretch(begin, now_ns, open=True), True)
        return item if item.diagnosis.pattern == "stuck_workers" else None

    def finish(self, now_ns: int) -> list[Event]:
        """The pool or the program ended: judges what is left, with all that was kept."""
        self._final = True
        self._full.discard(self.history.opened.pool)
        self.history.finish(now_ns)
        events = self.judge(now_ns)
        if self._tracker.active is not None:
            events += self._end(self._tracker.close())
        return events

    def findings(self) -> tuple[Finding, ...]:
        """All findings so far, the lasting one and the summed up bursts included."""
        active = self.active
        found = [*self._past, *([active] if active is not None else [])]
        if self._bursts.count and self._bursts.item is not None:
            found.append(self._burst_finding(self._bursts.item))
        return tuple(found)

    def curve(self) -> tuple[SizingPoint, ...] | None:
        """The sizing curve, where the size is the problem and a replay says something about it."""
        advised = [
            finding for finding in self.findings() if finding.advice.action in ("raise_max_workers", "bound_submission")
        ]
        if (
            not self.history.keep_tasks
            or not advised
            or any("closed_population" in finding.evidence or finding.advice.pool is not None for finding in advised)
        ):
            return None
        sizes = sizing.sizes_around(self.history.size, advised[-1].advice.suggested_max_workers)
        return sizing.curve(self.history.tasks_for_replay(self.history.last_batch_ns), sizes)

    # -- from stretches to episodes ------------------------------------------------------------------------

    def _diagnose(self, stretch: Stretch, raised: bool, deadlock: Deadlock | None = None) -> _PoolItem:
        begin = max(stretch.begin_ns, stretch.end_ns - WINDOW_NS)
        process = self._process_of(begin, stretch.end_ns)
        measured = measure(self.history, stretch, begin, process, self._came_before(stretch))
        signals = msgspec.structs.replace(
            measured,
            growing=self._grows(stretch, measured.starts),
            deadlock=deadlock,
            awaited=self.waits.awaited(begin, stretch.end_ns, self.history.size),
        )
        rules = msgspec.structs.replace(self.rules, raised=raised)
        diagnosis = diagnose(signals, rules)
        if diagnosis.pattern == "burst" and amplified(signals, rules):
            # Less is enough where tasks do not come at random.
            population = self._population(stretch.begin_ns, stretch.end_ns, POPULATION_TASKS)
            if population is not None:
                crowd = msgspec.structs.replace(signals.crowd, nats=population.nats)
                signals = msgspec.structs.replace(signals, crowd=crowd)
                diagnosis = diagnose(signals, rules)
        return _PoolItem(diagnosis, signals, stretch.begin_ns, stretch.end_ns)

    def _grows(self, stretch: Stretch, starts: int) -> bool | None:
        """Whether runs grow with the number of workers that are busy, as the begin of the stretch shows."""
        known = self._growing[0] == stretch.begin_ns
        if not known or (self._growing[1] is None and stretch.length_ns <= GROWTH_NS and starts <= GROWTH_STARTS):
            self._growing = stretch.begin_ns, growth(self.history, stretch.begin_ns)
        return self._growing[1]

    def _came_before(self, stretch: Stretch) -> Before:
        if self._before is None or self._before[0] != stretch.begin_ns:
            self._before = stretch.begin_ns, before(self.history, stretch.begin_ns)
        return self._before[1]

    def _population(self, begin_ns: int, end_ns: int, most: int | None) -> Population | None:
        """Of the latest tasks, or of all."""
        return closed_population(self.history.spans(most), self.history.size, begin_ns, end_ns)

    def _over(self, stretch: Stretch, now_ns: int) -> list[Event]:
        try:
            left = self._since_release(stretch)
            return self._judge_last(left, now_ns) if left is not None else []
        finally:
            self.history.occupancy.crests.pop(stretch.begin_ns, None)

    def _judge_last(self, stretch: Stretch, now_ns: int) -> list[Event]:
        active = self._tracker.active
        raised = active is not None and active.item.begin_ns == stretch.begin_ns
        if not raised and stretch.length_ns < min(self._sustain_ns, self._bursts.longest_ns):
            # Shorter than the one that stands for them all: it only counts.
            self._bursts.add(stretch, None)
            return self._absent(active.item.end_ns, now_ns) if active is not None else []
        item = self._diagnose(stretch, raised)
        if item.diagnosis.pattern == "burst" or stretch.length_ns < self._sustain_ns:
            if not raised:
                self._bursts.add(stretch, item)
            return self._absent(active.item.end_ns, now_ns) if active is not None else []
        return self._offer(item, stretch.begin_ns, now_ns) + self._absent(stretch.end_ns, now_ns)

    def _offer(self, item: _PoolItem, since_ns: int, now_ns: int) -> list[Event]:
        active = self._tracker.active
        if active is not None and active.item.diagnosis.pattern == "stalled" and item.diagnosis.pattern != "stalled":
            # Tasks finish again. What comes once the queue is worked off is another story.
            self._release(active.last_seen_ns)
            return self._end(self._tracker.close())
        key = (item.diagnosis.pattern, item.diagnosis.cause, item.diagnosis.severity)
        refined = active is not None and active.item.diagnosis.cause == "unknown" != item.diagnosis.cause
        changed = self._tracker.offer(key, item, since_ns, now_ns, refined=refined)
        due = changed or now_ns - self._sized_ns >= RESIZE_NS
        if item.diagnosis.sized and (due or self._sized is None):
            self._resize(item, now_ns)
        if item.diagnosis.action == "split_pool" and (due or self._split is None):
            self._resplit(item, now_ns)
        active = self._tracker.active
        return [(self._finding(active), True)] if changed and active is not None else []

    def _absent(self, until_ns: int, now_ns: int) -> list[Event]:
        return self._end(self._tracker.absent(until_ns, now_ns))

    def _end(self, ended: Episode[_PoolItem] | None) -> list[Event]:
        if ended is None:
            return []
        if ended.until_ns is None:
            ended.until_ns = ended.item.end_ns
        if ended.item.diagnosis.sized:
            self._resize(ended.item, ended.last_seen_ns)
        finding = self._finding(ended)
        self._past.append(finding)
        del self._past[:-FINDINGS_KEPT]
        self._sized = self._split = None
        return [(finding, False)]

    def _resize(self, item: _PoolItem, now_ns: int) -> None:
        history, most = self.history, None if self._final else LIVE_REPLAY
        if not history.keep_tasks:
            self._sized, self._sized_ns = sizing.Sizing(None, recorded=False), now_ns
            return
        population = self._population(item.begin_ns, item.end_ns, most)
        # The feeder may have ended before what it fed.
        feeder = self._feeder(item) or (self._sized.feeder if self._sized is not None else None)
        suggested = None
        if population is None and feeder is None:
            suggested = sizing.suggest(history.tasks_for_replay(now_ns, most), self._sustain_ns)
        tasks = population.tasks if population is not None else None
        self._sized, self._sized_ns = sizing.Sizing(suggested, tasks, feeder), now_ns

    def _resplit(self, item: _PoolItem, now_ns: int) -> None:
        history, most = self.history, None if self._final else LIVE_REPLAY
        slow = item.signals.hogs.functions if item.signals.hogs is not None else ()
        if not history.keep_tasks:
            self._split, self._sized_ns = (None, None), now_ns
            return
        self._split = (
            sizing.suggest(history.tasks_for_replay(now_ns, most, lambda function: function in slow), self._sustain_ns),
            sizing.suggest(
                history.tasks_for_replay(now_ns, most, lambda function: function not in slow), self._sustain_ns
            ),
        )
        self._sized_ns = now_ns

    def _feeder(self, item: _PoolItem) -> str | None:
        """The pool whose workers submit this one's tasks while it is full: maybe itself."""
        end = item.end_ns
        arrivals = [
            submitted
            for _, submitted, *_ in islice(reversed(self.history.recent), FEEDER_TASKS)
            if item.begin_ns <= submitted <= end
        ]
        if not arrivals:
            return None
        begin = min(arrivals)
        others = sorted(self._others_of(), key=lambda other: -other.saturated_ns)[: FEEDERS + 1]
        for other in (self.history, *(other for other in others if other is not self.history)):
            if not other.saturated_ns:
                continue
            starts = []
            for _, _, started, ended, coupled in reversed(other.recent):
                if ended < begin:
                    break
                if started <= end:
                    starts.append((started, coupled))
            if follow(arrivals, starts):
                return other.name
        return None

    # -- from episodes to findings -------------------------------------------------------------------------

    def _offset(self, at_ns: int) -> float:
        return (at_ns - self._origin_ns) / 1e9

    def _frames(
        self, begin_ns: int, end_ns: int, workers: frozenset[int] | None, first: tuple[Line, ...]
    ) -> tuple[Frame, ...]:
        groups, total = self.history.lines(begin_ns, end_ns, workers)
        if groups:
            return frames_of(groups, total, self._source_of, first)
        # Nothing was sampled: the functions that hold the workers are the best that is known.
        busiest = max(self.history.functions.items(), key=lambda item: item[1].run.total, default=None)
        named = self._function_of(busiest[0]) if busiest is not None else None
        if named is None:
            return ()
        # A builtin has a name, but no file and no line.
        source = self._source_of(named.file, named.line) if named.file else None
        return (Frame(named.file, named.line, named.name, source, None),)

    def _finding(self, episode: Episode[_PoolItem]) -> Finding:
        item = episode.item
        # Of stuck workers only their own lines count; of the others what they did is beside the point.
        workers = None
        if item.signals.deadlock is not None:
            workers = frozenset(item.signals.deadlock.cycle.workers)
        elif item.diagnosis.pattern == "stuck_workers":
            workers = frozenset(held.worker for held in stuck_workers(item.signals.held, self.rules))
        waiting: tuple[Line, ...] = ()
        if item.diagnosis.cause == "shared_resource":
            scarce = behind(item.signals)
            waiting = scarce.waiting if scarce is not None else ()
        frames = self._frames(item.begin_ns, episode.last_seen_ns, workers, waiting)
        since = self._offset(episode.since_ns)
        name = self.history.name
        sized = self._sized if item.diagnosis.sized else None
        numbers = evidence(item.signals)
        if sized is not None and sized.population is not None:
            numbers["closed_population"] = float(sized.population)
        return Finding(
            pattern=item.diagnosis.pattern,
            cause=item.diagnosis.cause,
            severity=item.diagnosis.severity,
            since_seconds=since,
            until_seconds=None if episode.until_ns is None else self._offset(episode.until_ns),
            detected_after_seconds=(episode.detected_ns - episode.since_ns) / 1e9,
            summary=words.pool_summary(
                item.diagnosis,
                name,
                since,
                item.signals,
                frames,
                hogs=self._hogs(item.signals),
                population=sized.population if sized is not None else None,
            ),
            evidence=numbers,
            frames=frames,
            advice=self._advice(item, sized),
        )

    def _advice(self, item: _PoolItem, sized: sizing.Sizing | None) -> Advice:
        if item.diagnosis.action == "split_pool" and self._split is not None:
            return words.split_advice(self._hogs(item.signals), *self._split)
        sustain = self.rules.thresholds.sustain_seconds
        kind = self.history.opened.kind
        return words.pool_advice(item.diagnosis, self.history.name, item.signals, sized, sustain, kind)

    def _hogs(self, signals: PoolSignals) -> str:
        """The names of the functions that hold the workers."""
        functions = signals.hogs.functions if signals.hogs is not None else ()
        named = [self._function_of(function) for function in functions[:LINES_SHOWN]]
        return " and ".join(function.name for function in named if function is not None)

    def _burst_finding(self, item: _PoolItem) -> Finding:
        bursts = self._bursts
        diagnosis = msgspec.structs.replace(
            item.diagnosis, pattern="burst", severity="info", sized=False, action="none"
        )
        since = self._offset(bursts.first_ns)
        numbers = evidence(item.signals)
        numbers |= {
            "bursts": float(bursts.count),
            "saturated_seconds": bursts.total_ns / 1e9,
            "longest_seconds": bursts.longest_ns / 1e9,
        }
        return Finding(
            pattern="burst",
            cause=diagnosis.cause,
            severity="info",
            since_seconds=since,
            until_seconds=self._offset(bursts.last_ns),
            detected_after_seconds=bursts.longest_ns / 1e9,
            summary=words.burst_summary(
                self.history.name, bursts.count, bursts.longest_ns / 1e9, bursts.total_ns / 1e9
            ),
            evidence=numbers,
            frames=(),
            advice=words.burst_advice(),
        )
