"""From a pool's judgements to its findings: lines of code, numbers and words. Pure.

Not thread-safe: the engine's owner guards it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from poolscope.aggregation.pool_history import PoolHistory
from poolscope.aggregation.sampled_lines import waiting_lines, worker_lines
from poolscope.engine.judgement import Bursts, Judgement
from poolscope.engine.tracker import Episode
from poolscope.messages import FunctionNamed, Line
from poolscope.model import Finding, Frame
from poolscope.rules import burst, called_not_passed
from poolscope.rules.called_not_passed import CalledNotPassed
from poolscope.rules.reason import Diagnosis, Scene
from poolscope.signals.pool_signals import PoolSignals
from poolscope.signals.sizing import BatchCurve, Sizing, SplitSizes

#: Returns the text of a line of a file, if it can be read.
SourceOf = Callable[[str, int], str | None]
#: Returns what is known of a function of the process.
FunctionOf = Callable[[int], FunctionNamed | None]

#: The lines where workers are: at most this many are reported, each with at least this share.
LINES_SHOWN = 3
SHARE_SHOWN = 0.1
#: The numbers of each finding that say most, and those that say least. Numbers that only its cause has come before
#: all of them.
_MOST = ("wait_p50_seconds", "run_p50_seconds", "amplification", "effective_parallelism")
_LEAST = (
    "unhindered_run_seconds",
    "throughput_per_second",
    "worker_cpu_share",
    "process_cores_used",
    "queue_depth",
    "cpu_limit_cores",
    "process_cores_allowed",
    "longest_running_seconds",
    "oldest_queued_seconds",
    "workers_ready_without_cpu",
    "child_cores_used",
    "held_up_share",
    "downstream_share",
    "tasks_started",
    "tasks_finished",
    "wait_max_seconds",
    "max_workers",
    "coupling",
    "window_seconds",
)
#: Fewer workers than this waiting for a CPU are no evidence of anything.
READY_SHOWN = 0.1


class FindingBuilder:
    """Makes the findings of one pool."""

    def __init__(self, history: PoolHistory, *, origin_ns: int, function_of: FunctionOf, source_of: SourceOf) -> None:
        """`origin_ns` is the origin of the findings' times."""
        self._history = history
        self._origin_ns = origin_ns
        self._function_of = function_of
        self._source_of = source_of

    def name_of(self, function: int) -> str | None:
        """Return the name of one of its process's functions, if it is known."""
        named = self._function_of(function)
        return named.name if named is not None else None

    def source_of(self, file: str, line: int) -> str | None:
        """Return the text of a line, if it can be read."""
        return self._source_of(file, line)

    def retire(self) -> None:
        """Note that the pool has ended: drop its process, except the names of the functions that it ran."""
        self._function_of = {
            function: self._function_of(function) for function in self._history.tasks.function_ids()
        }.get

    def finding(
        self,
        episode: Episode[Judgement],
        *,
        sustain_seconds: float,
        sizing: Sizing | None,
        split: SplitSizes | None,
        batch: BatchCurve | None = None,
    ) -> Finding:
        """Return the finding of an episode, with what a replay says about sizes."""
        judgement, diagnosis = episode.item, episode.item.diagnosis
        frames = self._frames(judgement.begin_ns, episode.last_seen_ns, diagnosis)
        if judgement.signals.limit is not None or judgement.signals.work_queue is not None:
            waiting = waiting_lines(self._history.stacks, judgement.begin_ns, episode.last_seen_ns)
            frames += tuple(frame for frame in frames_of(*waiting, self._source_of) if frame not in frames)
        numbers = evidence(judgement.signals)
        if sizing is not None and sizing.population is not None:
            numbers["closed_population"] = float(sizing.population)
        scene = Scene(
            pool=self._history.name,
            kind=self._history.opened.kind,
            since_seconds=self._offset(episode.since_ns),
            frames=frames,
            name_of=self.name_of,
            sustain_seconds=sustain_seconds,
            sizing=sizing,
            split=split,
            batch=batch,
        )
        return Finding(
            pattern=diagnosis.pattern,
            cause=diagnosis.cause,
            severity=diagnosis.severity,
            since_seconds=scene.since_seconds,
            until_seconds=None if episode.until_ns is None else self._offset(episode.until_ns),
            detected_after_seconds=(episode.detected_ns - episode.since_ns) / 1e9,
            summary=diagnosis.sentence(scene),
            evidence=ordered(numbers, diagnosis.telling),
            frames=frames,
            advice=diagnosis.advice(scene),
        )

    def uncallable(self) -> list[Finding]:
        """Return a note for each thing that was submitted time and again though it cannot be called."""
        return [note for function in self._history.functions if (note := self._uncallable(function)) is not None]

    def _uncallable(self, function: int) -> Finding | None:
        named, history = self._function_of(function), self._history
        found = None if named is None else CalledNotPassed.match(named.name, history.functions[function].run.count)
        if named is None or found is None:
            return None
        source = self._source_of(named.file, named.line) if named.file else None
        frames = (Frame(named.file, named.line, "", source, 1.0),) if named.file else ()
        since_ns = history.first_submit_ns or history.opened.at_ns
        return Finding(
            pattern=called_not_passed.PATTERN,
            cause=called_not_passed.CAUSE,
            severity=called_not_passed.SEVERITY,
            since_seconds=self._offset(since_ns),
            until_seconds=self._offset(max(since_ns, history.last_finish_ns or 0)),
            detected_after_seconds=0.0,
            summary=found.sentence(history.name, _at(named)),
            evidence={"tasks": float(found.tasks)},
            frames=frames,
            advice=found.advice(),
        )

    def burst(self, bursts: Bursts, longest: Judgement, sustain_seconds: float) -> Finding:
        """Return one note for all bursts. A stretch of `sustain_seconds` would have been a finding."""
        longest_seconds, total = bursts.most_ns / 1e9, bursts.total_ns / 1e9
        what = longest.diagnosis.what
        # One that another pattern was found in counts as a burst only where it was too short.
        reason = what.reason if isinstance(what, burst.Burst) else burst.short(sustain_seconds)
        numbers = evidence(longest.signals)
        numbers |= {"bursts": float(bursts.count), "saturated_seconds": total, "longest_seconds": longest_seconds}
        return Finding(
            pattern=burst.Burst.name,
            cause=longest.diagnosis.cause,
            severity=burst.Burst.severity,
            since_seconds=self._offset(bursts.first_ns),
            until_seconds=self._offset(bursts.last_ns),
            detected_after_seconds=longest_seconds,
            summary=burst.together(
                self._history.opened.kind, self._history.name, bursts.count, longest_seconds, total, reason
            ),
            evidence=ordered(numbers, burst.Burst.telling),
            frames=(),
            advice=burst.advice(longest.signals, sustain_seconds),
        )

    def _offset(self, at_ns: int) -> float:
        return (at_ns - self._origin_ns) / 1e9

    def _frames(self, begin_ns: int, end_ns: int, diagnosis: Diagnosis) -> tuple[Frame, ...]:
        elsewhere = diagnosis.why.places
        if elsewhere is not None:
            return frames_of(elsewhere, sum(count for _, count in elsewhere), self._source_of)
        groups, total = worker_lines(self._history.stacks, begin_ns, end_ns, diagnosis.what.workers)
        if groups:
            return frames_of(groups, total, self._source_of, diagnosis.why.waiting)
        # Nothing was sampled: the functions that occupy the workers are the best information.
        busiest = max(self._history.functions.items(), key=lambda item: item[1].run.total, default=None)
        named = self._function_of(busiest[0]) if busiest is not None else None
        if named is None:
            return ()
        # A builtin has a name, but no file and no line.
        source = self._source_of(named.file, named.line) if named.file else None
        return (Frame(named.file, named.line, named.name, source, None),)


def frames_of(
    groups: Sequence[tuple[tuple[Line, ...], int]], total: int, source_of: SourceOf, first: tuple[Line, ...] = ()
) -> tuple[Frame, ...]:
    """Return the lines where most workers were: each user's line with the library line most often below it. Lines in
    `first` come first, however few workers are there."""
    by_line: dict[Line, int] = {}
    below: dict[Line, Line] = {}
    for lines, count in groups:  # by count: the first library line met is the most frequent
        if not lines:
            continue
        by_line[lines[0]] = by_line.get(lines[0], 0) + count
        if len(lines) > 1:
            below.setdefault(lines[0], lines[1])
    below.update(pairwise(first))
    frames: list[Frame] = []
    for line, count in sorted(by_line.items(), key=lambda item: (item[0] not in first, -item[1]))[:LINES_SHOWN]:
        share = count / total
        if share < SHARE_SHOWN and frames:
            break
        for shown in (line, below.get(line)):
            if shown is not None:
                file, number, function = shown
                frames.append(Frame(file, number, function, source_of(file, number), share))
    return tuple(frames)


def ordered(values: Mapping[str, float], telling: Sequence[str]) -> dict[str, float]:
    """Return the numbers, first those that say most about the finding (`telling`)."""
    rest = [*_MOST, *_LEAST]
    places = {name: place for place, name in enumerate([*telling, "", *(name for name in rest if name not in telling)])}
    return {name: values[name] for name in sorted(values, key=lambda name: places.get(name, places[""]))}


def evidence(signals: PoolSignals) -> dict[str, float]:
    """Return the numbers that a pool's finding rests on, by name; unknown ones are left out."""
    values: dict[str, float | None] = {
        "max_workers": float(signals.max_workers),
        "window_seconds": signals.window_seconds,
        "tasks_started": float(signals.starts),
        "tasks_finished": float(signals.finished),
        "coupling": signals.coupling,
        "wait_mean_seconds" if signals.overtaken else "wait_p50_seconds": signals.wait_p50_seconds,
        "wait_max_seconds": signals.wait_max_seconds,
        "run_p50_seconds": signals.run_p50_seconds,
        "working_run_seconds": signals.working_run_seconds,
        "amplification": signals.amplification,
        "unhindered_run_seconds": signals.work.alone_p50_seconds,
        "effective_parallelism": signals.effective_parallelism,
        "throughput_per_second": signals.throughput,
        "queue_depth": float(signals.queue_depth),
        "oldest_queued_seconds": signals.oldest_queued_seconds,
        "worker_cpu_share": signals.worker_cpu_share,
        "held_up_share": signals.held_up.share if signals.held_up is not None else None,
        "resource_holders": float(signals.contention.holders) if signals.contention is not None else None,
        "deadlocked_workers": float(signals.deadlock.cycle.all_workers) if signals.deadlock is not None else None,
        "deadlocked_pools": float(signals.deadlock.cycle.pools) if signals.deadlock is not None else None,
        "downstream_share": signals.awaited.share if signals.awaited is not None else None,
        "without_workers_seconds": signals.gone_seconds if signals.queue_depth else None,
        "standing_seconds": signals.standing.seconds if signals.standing is not None else None,
        "long_lived_workers": float(sum(held.stays for held in signals.held)) or None,
        "given_up_share": signals.given_up_share or None,
        "replacing_share": signals.replacing_share or None,
        **_between(signals),
        "held_back_share": (signals.work_queue.held_back_share or None) if signals.work_queue is not None else None,
        "loop_awaited_share": signals.awaited_loop.share if signals.awaited_loop is not None else None,
        "loop_held_share": signals.awaited_loop.held_share if signals.awaited_loop is not None else None,
        "longest_running_seconds": signals.held[0].seconds if signals.held else None,
        "workers_ready_without_cpu": signals.workers_ready if (signals.workers_ready or 0) >= READY_SHOWN else None,
        "child_cores_used": signals.child_cores,
        "process_cores_used": signals.process.cores_used,
        "process_cores_allowed": signals.process.cores_allowed,
        "cpu_limit_cores": signals.cpu_limit_cores,
    }
    return {name: value for name, value in values.items() if value is not None}


def _between(signals: PoolSignals) -> dict[str, float | None]:
    """Return the numbers of what was seen between the tasks, if it matters to the finding."""
    seen = signals.between
    if seen is None:
        return {}
    per_task = seen.callback_share * signals.max_workers / signals.throughput if signals.throughput else None
    numbers: dict[str, float | None] = {
        "callback_share": seen.callback_share,
        "callback_seconds": per_task,
        "receiver_callback_share": seen.receiver_callback_share,
        "sender_busy_share": seen.sender_busy,
        "receiver_busy_share": seen.receiver_busy,
        "result_wait_seconds": seen.return_seconds,
        "results_not_taken_share": seen.untaken_share,
        "results_waiting": float(seen.untaken),
    }
    numbers = {name: value for name, value in numbers.items() if value}
    return numbers | {"task_share": signals.task_share} if numbers else {}


def _at(named: FunctionNamed) -> str:
    return f" at {named.file.rsplit('/', 1)[-1]}:{named.line}" if named.file else ""
