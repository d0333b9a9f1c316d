"""What a replay says about the size of a pool, computed again as time goes on. Pure.

Not thread-safe: the engine's owner guards it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from poolscope.aggregation.pool_history import PoolHistory
from poolscope.aggregation.replay import run_times
from poolscope.engine.judgement import Judgement
from poolscope.model import Finding, SizingPoint
from poolscope.signals.arrivals import (
    Population,
    answers_in_part,
    closed_by_answers,
    closed_by_growth,
    closed_population,
    follow,
)
from poolscope.signals.closed_loop import ClosedLoop, Visit, closed_loop
from poolscope.signals.fidelity import Span, agrees
from poolscope.signals.sizing import (
    BatchCurve,
    Sizing,
    SplitSizes,
    batch_curve,
    curve,
    first_step,
    sizes_around,
    suggest,
)

#: Returns the live pools of the same process.
OthersOf = Callable[[], Iterable[PoolHistory]]

#: Actions that change the size, or would.
SIZED = ("raise_max_workers", "raise_limit", "bound_submission")
#: Tasks replayed for a number while the program runs; the final one takes all that were kept.
LIVE_REPLAY = 20_000
RESIZE_NS = 5_000_000_000
#: The latest tasks of a closed loop that are replayed while the program runs, and in the end.
LIVE_LOOP = 1_000
WHOLE_LOOP = 10_000
#: A pool's latest tasks, and the other pools that were full for longest, among which its feeder is looked for: the more
#: pools there are, the more that would cost for each of them.
FEEDER_TASKS = 400
FEEDERS = 8


class SizingAdvisor:
    """Keeps the advice about the size of one pool, or of two pools in its place."""

    def __init__(self, history: PoolHistory, *, others_of: OthersOf = tuple) -> None:
        self._history = history
        self._others_of = others_of
        #: For a finding that is about size: a number of workers, or why there is none.
        self.sizing: Sizing | None = None
        #: For one about slow functions: workers for them and for the others.
        self.split: SplitSizes | None = None
        #: For a batch: how long it takes on other sizes.
        self.batch: BatchCurve | None = None
        # For the report, the curve of the longest batch, and when that began.
        self._batch_curve: tuple[SizingPoint, ...] = ()
        self._batch_ns = 0
        # The same of the last submitters that waited for their results.
        self._closed_curve: tuple[SizingPoint, ...] = ()
        self._at_ns = 0
        #: Tasks that are replayed; None: all that were kept.
        self._most: int | None = LIVE_REPLAY

    def update(self, judgement: Judgement, now_ns: int, sustain_ns: int, *, changed: bool) -> None:
        """Compute what such a finding needs, if it is new or enough time has passed."""
        diagnosis = judgement.diagnosis
        due = changed or now_ns - self._at_ns >= RESIZE_NS
        if diagnosis.sized and (due or self.sizing is None):
            self._resize(judgement, now_ns, sustain_ns)
        if diagnosis.action == "split_pool" and (due or self.split is None):
            self._resplit(judgement, now_ns, sustain_ns)
        if diagnosis.pattern == "batch" and due:
            self._rebatch(judgement, now_ns)

    def conclude(self, judgement: Judgement, now_ns: int, sustain_ns: int) -> None:
        """Compute the advice for the last time: the finding ends."""
        if judgement.diagnosis.sized:
            self._resize(judgement, now_ns, sustain_ns)
        if judgement.diagnosis.pattern == "batch":
            self._rebatch(judgement, now_ns)

    def forget(self) -> None:
        """Note that no finding lasts any more."""
        self.sizing = self.split = self.batch = None

    def finish(self) -> None:
        """Note that the pool has ended: from now on use all kept tasks."""
        self._most = None

    def retire(self) -> None:
        """Drop the other pools."""
        self._others_of = tuple

    def curve(self, findings: Sequence[Finding]) -> tuple[SizingPoint, ...] | None:
        """Return the sizing curve, where the size is the problem and a replay says something about it; else that of
        the longest batch."""
        history = self._history
        advised = [finding for finding in findings if finding.advice.action in SIZED]
        if not advised:
            # Where something else is wrong, more workers would not do what a replay says.
            wrong = any(finding.severity != "info" for finding in findings)
            return None if wrong else self._batch_curve or None
        fed = any(finding.advice.pool is not None for finding in advised)
        if fed or not history.keep_tasks or not history.kept_count:
            return None
        if any("closed_population" in finding.evidence for finding in advised):
            return self._closed_curve or None
        sizes = sizes_around(history.size, advised[-1].advice.suggested_max_workers)
        return curve(history.tasks.for_replay(history.last_batch_ns), sizes)

    def _resize(self, judgement: Judgement, now_ns: int, sustain_ns: int) -> None:
        history, self._at_ns = self._history, now_ns
        if not history.keep_tasks:
            self.sizing = Sizing(None, recorded=False)
            return
        population = self._population(judgement)
        # The feeder may have ended before what it fed.
        feeder = self._feeder(judgement) or (self.sizing.feeder if self.sizing is not None else None)
        # What waits for results submits as one task ends and another starts, as the workers themselves would.
        if population is not None and feeder in (None, history.name):
            self._reloop(judgement, now_ns, population.tasks)
            return
        if feeder is not None:
            self.sizing = Sizing(None, population.tasks if population is not None else None, feeder=feeder)
            return
        suggested = None
        faithful = agrees(self._record(judgement), history.size)
        if faithful:
            suggested = suggest(history.tasks.for_replay(now_ns, self._most), sustain_ns)
            # It was full, so what the replay leaves out has filled it.
            faithful = suggested is None or suggested > history.size
        if suggested is None or not faithful:
            self.sizing = Sizing(None, faithful=faithful)
            return
        first = first_step(history.size, suggested)
        self.sizing = Sizing(first, enough=suggested if suggested > first else None)

    def _population(self, judgement: Judgement) -> Population | None:
        """Return the tasks that submitters keep in the pool, if they wait for results."""
        history, begin_ns, end_ns = self._history, judgement.begin_ns, judgement.end_ns
        spans = list(history.tasks.spans(self._most))
        ended = history.tasks.ended_within(begin_ns, end_ns, self._most)
        return (
            closed_population(spans, history.size, begin_ns, end_ns)
            or closed_by_answers(ended)
            or closed_by_growth(spans, history.size, begin_ns, end_ns)
            or closed_by_answers(ended, answers_in_part)
        )

    def _reloop(self, judgement: Judgement, now_ns: int, population: int) -> None:
        """Replay a closed loop with its population, if that is known."""
        self._closed_curve, size = (), self._history.size
        # A limit only shows what waits for it, not what passes freely.
        known = judgement.signals.limit is None and agrees(self._record(judgement), size)
        loop = self._loop(judgement, now_ns) if known else None
        if loop is not None:
            population = loop.population
            sizes = sizes_around(size, population if population > size else None)
            self._closed_curve = tuple(map(loop.point, sizes))
        self.sizing = Sizing(None, population, points=self._closed_curve)

    def _loop(self, judgement: Judgement, now_ns: int) -> ClosedLoop | None:
        """Return the closed loop of a stretch, or of its last part."""
        history, most = self._history, WHOLE_LOOP if self._most is None else LIVE_LOOP
        begin_ns = max(judgement.begin_ns, history.complete_since(most) or 0)
        known = [
            task
            for task in history.tasks.known(most, cancelled=False)
            if task[1] <= judgement.end_ns and not 0 <= task[3] <= begin_ns
        ]
        if not known:
            return None
        functions, submitted, started, finished = zip(*known, strict=True)
        runs = run_times(functions, started, finished, now_ns, history.durations.usual_runs())
        ends = (end if end >= 0 else sys.maxsize for end in finished)
        return closed_loop(map(Visit, functions, submitted, ends, runs))

    def _rebatch(self, judgement: Judgement, now_ns: int) -> None:
        """Replay a batch, if it computes nothing and all of it is known."""
        history, self._at_ns, self.batch = self._history, now_ns, None
        if judgement.begin_ns == self._batch_ns:
            self._batch_curve = ()
        cause = judgement.diagnosis.why
        since_ns = history.complete_since(self._most)
        if cause.harmless or not history.keep_tasks or (since_ns is not None and since_ns > judgement.begin_ns):
            return
        if self._most is not None and history.queue_depth > self._most:
            return  # it takes too long while the program runs
        tasks = history.tasks.within(judgement.begin_ns, judgement.end_ns, now_ns, self._most)
        if not tasks or not agrees(self._record(judgement), history.size):
            return
        self.batch = batch_curve(tasks, history.size)
        points = curve(tasks, sizes_around(history.size, None))
        if not self._batch_curve or points[-1].makespan_seconds >= self._batch_curve[-1].makespan_seconds:
            self._batch_curve, self._batch_ns = points, judgement.begin_ns

    def _record(self, judgement: Judgement) -> list[Span]:
        """Return the tasks that ran in a stretch, or in its last part if no more is known."""
        history = self._history
        begin_ns = max(judgement.begin_ns, history.complete_since(self._most) or 0)
        return [
            (submitted, started, finished if finished >= 0 else None)
            for _, submitted, started, finished in history.tasks.known(self._most, cancelled=False)
            if 0 <= started <= judgement.end_ns and not 0 <= finished <= begin_ns
        ]

    def _resplit(self, judgement: Judgement, now_ns: int, sustain_ns: int) -> None:
        history, self._at_ns = self._history, now_ns
        if not history.keep_tasks:
            self.split = SplitSizes(None, None)
            return
        hogs = judgement.signals.hogs
        slow = hogs.functions if hogs is not None else ()
        self.split = SplitSizes(
            suggest(history.tasks.for_replay(now_ns, self._most, lambda function: function in slow), sustain_ns),
            suggest(history.tasks.for_replay(now_ns, self._most, lambda function: function not in slow), sustain_ns),
        )

    def _feeder(self, judgement: Judgement) -> str | None:
        """Return the pool whose workers submit this one's tasks while it is full: maybe itself."""
        end = judgement.end_ns
        arrivals = [
            submitted
            for _, submitted, *_ in islice(reversed(self._history.recent), FEEDER_TASKS)
            if judgement.begin_ns <= submitted <= end
        ]
        if not arrivals:
            return None
        begin = min(arrivals)
        others = sorted(self._others_of(), key=lambda other: -other.saturated_ns)[: FEEDERS + 1]
        for other in (self._history, *(other for other in others if other is not self._history)):
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
