"""One case per pool: from its history to its findings, live and final.

`FindingBuilder` makes the findings, `SizingAdvisor` knows what a replay says of sizes. Pure: times come in. Not
thread-safe: the engine's owner guards it.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from poolscope.aggregation.pool_history import PoolHistory
from poolscope.aggregation.stretches import Stretch
from poolscope.engine.finding_builder import FindingBuilder
from poolscope.engine.finding_list import Event, most_important
from poolscope.engine.judgement import Bursts, Judgement
from poolscope.engine.sizing_advisor import SizingAdvisor
from poolscope.engine.tracker import Episode, Sort, Tracker
from poolscope.model import Finding, SizingPoint
from poolscope.rules.batch import BatchWork
from poolscope.rules.burst import Burst
from poolscope.rules.reason import Criteria
from poolscope.rules.serial import looks_busy
from poolscope.rules.stuck_workers import StuckWorkers
from poolscope.rules.table import diagnose
from poolscope.signals.arrivals import closed_by_answers, closed_population
from poolscope.signals.awaited_loop import LoopWaits
from poolscope.signals.contention import OCCUPANTS, SAMPLES_NEEDED
from poolscope.signals.deadlock import Deadlock, PoolWaits
from poolscope.signals.handover import SAMPLES_NEEDED as HANDOVERS_NEEDED
from poolscope.signals.held import InLoop, held_workers
from poolscope.signals.measure import Surroundings, gone_seconds, measure
from poolscope.signals.pool_signals import ProcessSignals
from poolscope.signals.scaling import growth
from poolscope.signals.significance import Before
from poolscope.signals.window import Window, before

#: Returns the process's signals over [begin, end] ns.
ProcessOf = Callable[[int, int], ProcessSignals]

#: The latest tasks, which show whether the submitters keep a fixed number of them in the pool.
POPULATION_TASKS = 2_000
#: A long stretch is judged by its last part, so that what changed shows.
WINDOW_NS = 60_000_000_000
#: A pool that is full without a queue is judged by a stretch of so many times `sustain_seconds`, of which it was full
#: for so much: hand-overs between two tasks are gaps.
FULL_SUSTAINS = 5
FULL_SHARE = 0.5
#: Keep checking the start of a stretch until it has lasted this long, or so many tasks have started.
GROWTH_NS = 30_000_000_000
GROWTH_STARTS = 1_000
#: Judging a window costs about a microsecond a task, and some more a worker in a sample: a busy one is judged less
#: often, never more than this apart.
REST_PER_TASK_NS = 20_000
REST_PER_OCCUPANT_NS = 400_000
REST_NS = 500_000_000
#: So many pools of a process may be full at once until each is judged less often still.
FULL_POOLS = 8
#: A finding may wait this long, so that samples can show where the workers are.
PATIENCE_NS = 600_000_000
#: A pool's finding is over when nothing has been found for this many times `sustain_seconds`: the next stretch of a
#: flapping load takes one of them to be recognised.
HOLD_SUSTAINS = 4
#: A deadlock that was not seen for this long is over.
DEADLOCK_HOLD_NS = 2_000_000_000


#: Stands in for what a pool that has ended no longer needs.
_NO_WAITS = PoolWaits(0)


def _is_batch(judgement: Judgement) -> bool:
    return judgement.diagnosis.pattern == "batch"


def _no_process(_begin_ns: int, _end_ns: int) -> ProcessSignals:
    raise AssertionError("a pool that has ended is not judged again")


class PoolCase:
    """Judges one pool as time goes on."""

    def __init__(
        self,
        history: PoolHistory,
        criteria: Criteria,
        *,
        builder: FindingBuilder,
        advisor: SizingAdvisor,
        process_of: ProcessOf,
        full: set[int] | None = None,
        in_loop: InLoop = lambda _: False,
    ) -> None:
        """`full` are the pools of the same process that are in a stretch, to which each of their cases adds its own;
        `in_loop` reads the source."""
        self.history = history
        self.waits = PoolWaits(history.opened.pool)
        self.loop_waits = LoopWaits()
        self.criteria = criteria
        self._builder = builder
        self._advisor = advisor
        self._process_of = process_of
        self._in_loop = in_loop
        self._full: set[int] = set() if full is None else full
        sustain = self._sustain_ns
        self._tracker: Tracker[Judgement] = Tracker(hold_ns=HOLD_SUSTAINS * sustain, settle_ns=sustain // 2)
        self._rest_until_ns = self._full_rest_until_ns = 0
        # Begin of a stretch, and what was measured before it.
        self._before: tuple[int, Before] | None = None
        # The same, and whether runs grow with the number of busy workers.
        self._growing: tuple[int, bool | None] = -1, None
        # End of the last deadlock or stall and of the queue that it left: until then it is what saturates the pool.
        self._released_ns = 0
        self._draining = False
        self._bursts = Bursts()
        self._past: list[Finding] = []
        #: Number of findings that were dropped, important ones included.
        self.left_out = 0
        self._final = False

    @property
    def _sustain_ns(self) -> int:
        return int(self.criteria.thresholds.sustain_seconds * 1e9)

    @property
    def active(self) -> Finding | None:
        """The finding that lasts."""
        active = self._tracker.active
        return None if active is None else self._finding(active)

    @property
    def active_sort(self) -> Sort | None:
        """The sort of the lasting finding. Read at each scrape, which does not need its frames and words."""
        active = self._tracker.active
        return None if active is None else active.key

    @property
    def warned(self) -> bool:
        """Whether there is, or was, a finding above info."""
        active = self._tracker.active
        return (active is not None and active.key[2] != "info") or any(past.severity != "info" for past in self._past)

    @property
    def suggested(self) -> int | None:
        """The size to advise now."""
        active = self._tracker.active
        sizing = self._advisor.sizing
        return sizing.suggested if active is not None and active.item.diagnosis.sized and sizing else None

    @property
    def resting(self) -> bool:
        """Whether nothing runs, is queued or lasts, and all messages were judged: judging again would find the same."""
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
        """Judge all that is settled so far. Returns the findings that began and ended."""
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
            signals = item.signals
            occupants = min(OCCUPANTS, signals.samples * signals.max_workers)
            rest_ns = signals.starts * REST_PER_TASK_NS + occupants * REST_PER_OCCUPANT_NS
            self._rest_until_ns = now_ns + min(REST_NS, rest_ns) * max(1, len(self._full) // FULL_POOLS)
            if self._too_early(item, current):
                return events
            if item.diagnosis.pattern != "burst":
                return events + self._offer(item, current.begin_ns, now_ns)
        if not self._final and (stuck := self._stuck(now_ns) or self._deserted(now_ns)) is not None:
            return events + self._offer(stuck, stuck.begin_ns, now_ns)
        if (busy := self._looks_busy(now_ns)) is not None:
            return events + self._offer(busy, busy.begin_ns, now_ns)
        if self._tracker.active is not None:
            events += self._absent(self._tracker.active.item.end_ns, now_ns)
        return events

    def _too_early(self, item: Judgement, stretch: Stretch) -> bool:
        """Whether a cause that rests on there being no other, or none, would be told before others could be seen, a
        batch that was slow to come as an overload, or what waits for a limit before that."""
        signals, cause = item.signals, item.diagnosis.why
        if self._tracker.active is not None or self._final:
            return False
        few = 0 < signals.samples < SAMPLES_NEEDED or 0 < signals.handovers < HANDOVERS_NEEDED
        unseen = cause.by_exclusion and few
        unread = not cause.established and (signals.worker_cores is None or signals.process.cores_used is None)
        making = item.diagnosis.severity != "info" and cause.about_size and BatchWork.in_the_making(signals)
        return (unseen or unread or making or cause.behind) and stretch.length_ns < self._sustain_ns + PATIENCE_NS

    def _deadlocked(self, deadlock: Deadlock, now_ns: int) -> list[Event]:
        """Give a deadlock precedence, from its proof until it has not been seen for a while."""
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
        """Note that a deadlock or a stall ended."""
        self._released_ns, self._draining = at_ns, True

    def _drain(self) -> None:
        """Count the queue that a deadlock or stall has left as part of it. After that another finding may begin."""
        oldest_ns = self.history.oldest_submitted_ns
        if self._draining and (oldest_ns is None or oldest_ns >= self._released_ns):
            self._draining = False
            self._released_ns = self.history.occupancy.settled_ns
            self.history.occupancy.stretches.cut(self._released_ns)
            self._note_full()

    def _since_release(self, stretch: Stretch | None) -> Stretch | None:
        """Return the stretch, unless it contains a deadlock or stall."""
        return stretch if stretch is not None and stretch.begin_ns >= self._released_ns else None

    def _stuck(self, now_ns: int) -> Judgement | None:
        """Judge whether workers are stuck while the others keep up with the load."""
        if not self.history.running:
            return None
        begin = min(task.started_ns for task in self.history.running.values())
        # The cheap test first: many pools have tasks that last, hardly any has a stuck one.
        if now_ns - begin < self.criteria.thresholds.stuck_task_seconds * 1e9 or now_ns < self._rest_until_ns:
            return None
        self._rest_until_ns = now_ns + REST_NS
        if not StuckWorkers.among(held_workers(self.history, now_ns, closely=False), self.criteria):
            return None
        item = self._diagnose(Stretch(begin, now_ns, open=True), True)
        return item if item.diagnosis.pattern == "stuck_workers" else None

    def _looks_busy(self, now_ns: int) -> Judgement | None:
        """Judge whether all workers are taken for long and get hardly anything done, with or without a queue."""
        fills = self.history.occupancy.fills
        closed, fills.closed = fills.closed, []
        active = self._tracker.active
        long_ns = FULL_SUSTAINS * self._sustain_ns
        candidates = [each for each in [*closed, fills.current] if each is not None and each.length_ns >= long_ns]
        full = max(candidates, key=lambda each: each.length_ns, default=None)
        if active is not None and not looks_busy(active.item.diagnosis):
            return None  # a stretch explains it
        if full is None or full.saturated_ns < FULL_SHARE * full.length_ns or full.begin_ns < self._released_ns:
            return None
        if full.open and not self._final:
            if now_ns < self._full_rest_until_ns:
                lasts = active is not None and looks_busy(active.item.diagnosis)
                return active.item if active is not None and lasts else None
            self._full_rest_until_ns = now_ns + REST_NS
        item = self._diagnose(full, active is not None, full_seconds=full.length_ns / 1e9)
        return item if looks_busy(item.diagnosis) else None

    def _deserted(self, now_ns: int) -> Judgement | None:
        """Judge a pool with tasks and no worker: no stretch shows that if no worker has ever begun a task."""
        history = self.history
        oldest_ns = history.oldest_submitted_ns
        gone = gone_seconds(history, now_ns)
        if gone is None or oldest_ns is None or gone < self.criteria.thresholds.stall_seconds:
            return None
        begin = max(oldest_ns, history.last_finish_ns or 0)
        if now_ns < self._rest_until_ns:
            return None
        self._rest_until_ns = now_ns + REST_NS
        item = self._diagnose(Stretch(begin, now_ns, open=True), True)
        return item if item.diagnosis.pattern == "stalled" else None

    def finish(self, now_ns: int) -> list[Event]:
        """Judge the rest with all kept tasks: the pool or the program has ended."""
        self._final = True
        self._advisor.finish()
        self._full.discard(self.history.opened.pool)
        self.history.finish(now_ns)
        events = self.judge(now_ns)
        if self._tracker.active is not None:
            events += self._end(self._tracker.close())
        # While the names of its functions are still known.
        self._past += self._builder.uncallable()
        return events

    def retire(self) -> None:
        """Note that the pool has ended and was judged for the last time: drop what only judging needs, above all its
        process. Its history and findings stay readable."""
        self._builder.retire()
        self._advisor.retire()
        self._process_of, self._full, self._in_loop = _no_process, set(), lambda _: False
        self.waits, self.loop_waits = _NO_WAITS, LoopWaits()
        self.history.retire()

    def name_of(self, function: int) -> str:
        """Return the name of one of its process's functions."""
        name = self._builder.name_of(function)
        return "unknown" if name is None else name

    def findings(self) -> tuple[Finding, ...]:
        """All findings so far, including the lasting one and the note for all bursts."""
        active = self.active
        found = [*self._past, *([active] if active is not None else [])]
        if self._bursts.longest is not None:
            found.append(self._builder.burst(self._bursts, self._bursts.longest, self._sustain_ns / 1e9))
        if not self._final:
            found += self._builder.uncallable()
        return tuple(found)

    def curve(self) -> tuple[SizingPoint, ...] | None:
        """Return the sizing curve, where the size is the problem and a replay says something about it."""
        return self._advisor.curve(self.findings())

    # -- from stretches to episodes ------------------------------------------------------------------------

    def _diagnose(
        self, stretch: Stretch, raised: bool, deadlock: Deadlock | None = None, full_seconds: float = 0.0
    ) -> Judgement:
        window = Window(self.history, max(stretch.begin_ns, stretch.end_ns - WINDOW_NS), stretch.end_ns)
        around = Surroundings(
            process=self._process_of(window.begin_ns, window.end_ns),
            came_before=self._came_before(stretch),
            growing=self._grows(stretch, window.starts),
            deadlock=deadlock,
            awaited=self.waits.awaited(window.begin_ns, window.end_ns, self.history.size),
            elsewhere=self.waits.queued(window.begin_ns, window.end_ns),
            source_of=self._builder.source_of,
            full_seconds=full_seconds,
            in_loop=self._in_loop,
            awaited_loop=self.loop_waits.awaited(window.begin_ns, window.end_ns, self.history.size),
        )
        signals = measure(self.history, stretch, window, around)
        # A batch is a note: it raises no finding that would only be withdrawn again.
        active = self._tracker.active
        noted = active is not None and _is_batch(active.item)
        criteria = msgspec.structs.replace(self.criteria, raised=raised and not noted)
        diagnosis = diagnose(signals, criteria)
        if isinstance(diagnosis.what, Burst) and diagnosis.what.amplified:
            # Less evidence is enough where tasks do not come at random.
            spans = self.history.tasks.spans(POPULATION_TASKS)
            ended = self.history.tasks.ended_within(stretch.begin_ns, stretch.end_ns, POPULATION_TASKS)
            population = closed_population(
                spans, self.history.size, stretch.begin_ns, stretch.end_ns
            ) or closed_by_answers(ended)
            if population is not None:
                diagnosis = diagnose(signals.unlikely_by(population.nats), criteria)
        return Judgement(diagnosis, stretch.begin_ns, stretch.end_ns)

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

    def _over(self, stretch: Stretch, now_ns: int) -> list[Event]:
        try:
            left = self._since_release(stretch)
            return self._judge_last(left, now_ns) if left is not None else []
        finally:
            self.history.occupancy.peaks.pop(stretch.begin_ns, None)

    def _judge_last(self, stretch: Stretch, now_ns: int) -> list[Event]:
        active = self._tracker.active
        raised = active is not None and active.item.begin_ns == stretch.begin_ns
        if not raised and stretch.length_ns < min(self._sustain_ns, self._bursts.longest_ns):
            # Shorter than the one that represents them all: only count it.
            self._bursts.add(stretch, None)
            return self._absent(active.item.end_ns, now_ns) if active is not None else []
        item = self._diagnose(stretch, raised)
        if item.diagnosis.pattern == "burst" or stretch.length_ns < self._sustain_ns:
            if not raised:
                self._bursts.add(stretch, item)
            return self._absent(active.item.end_ns, now_ns) if active is not None else []
        return self._offer(item, stretch.begin_ns, now_ns) + self._absent(stretch.end_ns, now_ns)

    def _offer(self, item: Judgement, since_ns: int, now_ns: int) -> list[Event]:
        active = self._tracker.active
        if active is not None and active.item.diagnosis.pattern == "stalled" and item.diagnosis.pattern != "stalled":
            # Tasks finish again. Once the queue is empty, another finding may begin.
            self._release(active.last_seen_ns)
            return self._end(self._tracker.close())
        events: list[Event] = []
        if active is not None and active.item.begin_ns != item.begin_ns and _is_batch(active.item) != _is_batch(item):
            # A batch is a finding of its own: later trouble does not end it, and it does not make that trouble a note.
            events, active = self._end(self._tracker.close()), None
        key = (item.diagnosis.pattern, item.diagnosis.cause, item.diagnosis.severity)
        refined = active is not None and item.diagnosis.why.established and not active.item.diagnosis.why.established
        changed = self._tracker.offer(key, item, since_ns, now_ns, refined=refined)
        self._advisor.update(item, now_ns, self._sustain_ns, changed=changed)
        active = self._tracker.active
        return [*events, (self._finding(active), True)] if changed and active is not None else events

    def _absent(self, until_ns: int, now_ns: int) -> list[Event]:
        return self._end(self._tracker.absent(until_ns, now_ns))

    def _end(self, ended: Episode[Judgement] | None) -> list[Event]:
        if ended is None:
            return []
        if ended.until_ns is None:
            ended.until_ns = ended.item.end_ns
        self.history.occupancy.fills.cut(self.history.occupancy.settled_ns)
        self._advisor.conclude(ended.item, ended.last_seen_ns, self._sustain_ns)
        finding = self._finding(ended)
        past = [*self._past, finding]
        self._past = most_important(past)
        self.left_out += len(past) - len(self._past)
        self._advisor.forget()
        return [(finding, False)]

    def _finding(self, episode: Episode[Judgement]) -> Finding:
        return self._builder.finding(
            episode,
            sustain_seconds=self.criteria.thresholds.sustain_seconds,
            sizing=self._advisor.sizing if episode.item.diagnosis.sized else None,
            split=self._advisor.split,
            batch=self._advisor.batch if _is_batch(episode.item) else None,
        )
