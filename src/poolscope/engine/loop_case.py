"""One case per event loop name: from its history to its findings, one per blocking line and one of a loop without rest,
live and final.

Pure: times come in, and so does the function that gives the source text of a line. Not thread-safe: the engine's owner
guards it.
"""

from __future__ import annotations

from typing import Any

from poolscope.aggregation.loop_history import BlockingLine, LoopHistory
from poolscope.engine.finding_builder import SourceOf
from poolscope.engine.finding_list import Event, most_important
from poolscope.engine.tracker import Episode, Sort, Tracker
from poolscope.model import Finding, Frame
from poolscope.rules.loop_blocked import LoopBlocked
from poolscope.rules.loop_full import SUSTAINS, LoopFull
from poolscope.rules.loop_words import in_words_of
from poolscope.signals.loop_evidence import measured
from poolscope.signals.loop_load import measure_load
from poolscope.signals.loop_signals import measure_line

#: A line of a loop that caused no block for this long is over.
LOOP_HOLD_NS = 10_000_000_000


class LoopCase:
    """Judges the event loops of one name as time goes on: a finding per blocking line."""

    def __init__(
        self, history: LoopHistory, *, origin_ns: int, source_of: SourceOf, sustain_seconds: float = 1.0
    ) -> None:
        self.history = history
        self._full_ns = int(SUSTAINS * sustain_seconds * 1e9)
        self._full: Tracker[LoopFull] = Tracker(hold_ns=LOOP_HOLD_NS, settle_ns=self._full_ns)
        #: End of the load that was judged last.
        self._loaded_ns = 0
        self._origin_ns = origin_ns
        self._source_of = source_of
        self._trackers: dict[BlockingLine, Tracker[LoopBlocked]] = {}
        self._past: list[Finding] = []
        #: The last finding of each line.
        self._kept: dict[BlockingLine, Finding] = {}
        #: Number of findings that were dropped, important ones included.
        self.left_out = 0
        self._final = False
        self._folded = False

    @property
    def _label(self) -> str:
        """Return its name for sentences: a thread may have run loops of both kinds."""
        kind = "Event loop" if self.history.kind == "asyncio" else f"{self.history.kind} event loop"
        return f"{kind} {self.history.name!r}"

    def judge(self, now_ns: int) -> list[Event]:
        """Judge the blocks so far. Returns the findings that began and ended."""
        if self._folded:
            return []
        self.history.advance(now_ns)
        events: list[Event] = []
        for line in self.history.lines.values():
            signals = measure_line(line, self.history, now_ns)
            tracker = self._trackers.get(line)
            if tracker is None:
                tracker = self._trackers[line] = Tracker(hold_ns=LOOP_HOLD_NS, settle_ns=0)
            if not signals.blocks:
                # Its only block turned out to have another line.
                if (mistaken := tracker.withdraw()) is not None:
                    mistaken.until_ns = line.last_ns
                    events.append((self._finding(line, mistaken), False))
                continue
            reason = LoopBlocked.match(signals, final=self._final)
            key = (reason.pattern, reason.cause, reason.severity)
            if tracker.active is not None and reason.passing:
                # It turned out to be how the program started, or ended.
                tracker.active.key, tracker.active.item = key, reason
            recent = now_ns - line.last_ns < LOOP_HOLD_NS
            if tracker.active is not None and tracker.active.key[1] != reason.cause:
                # Its blocks turned out to have another cause.
                mistaken = tracker.withdraw()
                if mistaken is not None:
                    mistaken.until_ns = line.last_ns
                    events.append((self._finding(line, mistaken), False))
            if reason.severity != "info" and (recent or self._final):
                if tracker.active is None and not recent and self._told(line):
                    continue  # it was found, it ended, and nothing has happened since
                if tracker.offer(key, reason, line.first_ns, now_ns) and tracker.active is not None:
                    events.append((self._finding(line, tracker.active), True))
            elif (ended := tracker.absent(line.last_ns, now_ns)) is not None:
                events.append(self._keep(self._finding(line, ended), line))
        return events + self._judge_load(now_ns)

    def _judge_load(self, now_ns: int) -> list[Event]:
        """Judge how much of its time a loop is at work, if there is a new report of that."""
        loads = self.history.loads
        if loads and loads[-1].at_ns != self._loaded_ns:
            self._loaded_ns = loads[-1].at_ns
            found = LoopFull.match(measure_load(self.history, self._full_ns))
            if found is not None:
                key = (found.pattern, found.cause, found.severity)
                if self._full.offer(key, found, found.signals.since_ns, now_ns) and self._full.active is not None:
                    began = self._full_finding(self._full.active)
                    return [(began, True)] if found.severity != "info" else []
                return []
        if self._full.active is not None:
            ended = self._full.absent(self._full.active.item.signals.until_ns, now_ns)
            return [] if ended is None else [self._keep(self._full_finding(ended))]
        return []

    def finish(self, now_ns: int) -> list[Event]:
        """Judge the rest, as the program has ended."""
        self._final = True
        events = self.judge(now_ns)
        for line, tracker in self._trackers.items():
            if (ended := tracker.close()) is not None:
                ended.until_ns = line.last_ns
                events.append(self._keep(self._finding(line, ended), line))
        if (full := self._full.close()) is not None:
            full.until_ns = full.item.signals.until_ns
            events.append(self._keep(self._full_finding(full)))
        return events

    def fold(self, now_ns: int) -> list[Event]:
        """Merge these ended loops with others: only totals of their lines are left, which are not judged again.
        Returns the findings that end with that."""
        try:
            return [] if self._folded else self.finish(now_ns)
        finally:
            for line, tracker in self._trackers.items():
                line.warned = line.warned or (tracker.ended is not None and tracker.ended.key[2] != "info")
            full = [finding for finding in self._past if finding.pattern == LoopFull.name]
            self._trackers, self._past, self._kept, self._folded = {}, full, {}, True

    def absorb(self, ended: LoopCase) -> None:
        """Add the totals of another case. Both are folded."""
        self.history.absorb(ended.history)
        self.left_out += ended.left_out

    def _whole(self, line: BlockingLine, now_ns: int) -> LoopBlocked:
        """Return what the blocks of a line amount to, as if no more of them came."""
        return LoopBlocked.match(measure_line(line, self.history, now_ns), final=True)

    def _totals(self, now_ns: int) -> list[Finding]:
        """Return a finding of each line, as severe as the worst of those that it stands for."""
        found = []
        for line in self.history.lines.values():
            reason = self._whole(line, now_ns)
            severity = "warning" if line.warned else reason.severity
            total = Episode((reason.pattern, reason.cause, severity), reason, line.first_ns, line.last_ns)
            total.until_ns = line.last_ns
            found.append(self._finding(line, total))
        return most_important(sorted(found, key=lambda finding: finding.evidence["blocked_seconds"]))

    def findings(self, now_ns: int) -> tuple[Finding, ...]:
        """All findings so far, including those of lines that only deserve a note."""
        if self._folded:
            return (*self._past, *self._totals(now_ns))
        again = {
            id(self._kept[line])
            for line, tracker in self._trackers.items()
            if tracker.active is not None and line in self._kept
        }
        found = [finding for finding in self._past if id(finding) not in again]
        if self._full.active is not None:
            found.append(self._full_finding(self._full.active))
        for line, tracker in self._trackers.items():
            if tracker.active is not None:
                found.append(self._finding(line, tracker.active))
            elif not self._told(line):
                reason = self._whole(line, now_ns)
                if not reason.signals.blocks:
                    continue
                note = Episode((reason.pattern, reason.cause, "info"), reason, line.first_ns, line.last_ns)
                note.until_ns = line.last_ns
                found.append(self._finding(line, note))
        return tuple(found)

    def active_sorts(self) -> set[Sort]:
        """Return the sorts of the lasting findings. Called at each scrape, which does not need their words."""
        lasting: list[Episode[Any] | None] = [tracker.active for tracker in self._trackers.values()]
        lasting.append(self._full.active)
        return {active.key for active in lasting if active is not None and active.until_ns is None}

    def _told(self, line: BlockingLine) -> bool:
        tracker = self._trackers.get(line)
        return tracker is not None and tracker.ended is not None

    def _keep(self, finding: Finding, line: BlockingLine | None = None) -> Event:
        # Of a line that blocked again later, the last one counts all its blocks.
        former = self._kept.get(line) if line is not None else None
        past = [*(each for each in self._past if each is not former), finding]
        if line is not None:
            self._kept[line] = finding
        self._past = most_important(past)
        self.left_out += len(past) - len(self._past)
        return finding, False

    def _full_finding(self, episode: Episode[LoopFull]) -> Finding:
        reason, signals = episode.item, episode.item.signals
        frames = tuple(
            Frame(file, number, function, self._source_of(file, number), share)
            for lines, share in reason.lines
            for file, number, function in lines
        )
        until = episode.until_ns
        numbers = {
            "share": signals.share,
            "full_seconds": (signals.until_ns - episode.since_ns) / 1e9,
            "lag_p50_seconds": signals.lag_p50_seconds,
            "rest_lag_p50_seconds": signals.rest_lag_seconds,
            "tasks": float(signals.tasks),
            "loop_cpu_share": signals.block.evidence.cpu,
            "other_threads_cores": signals.block.evidence.other,
        }
        return Finding(
            pattern=reason.pattern,
            cause=reason.cause,
            severity=reason.severity,
            since_seconds=(episode.since_ns - self._origin_ns) / 1e9,
            until_seconds=None if until is None else (until - self._origin_ns) / 1e9,
            detected_after_seconds=(episode.detected_ns - episode.since_ns) / 1e9,
            summary=reason.sentence(self._label, frames),
            evidence={name: value for name, value in numbers.items() if value is not None},
            frames=frames,
            advice=in_words_of(self.history.kind, reason.advice(frames)),
        )

    def _finding(self, line: BlockingLine, episode: Episode[LoopBlocked]) -> Finding:
        reason, signals = episode.item, episode.item.signals
        pattern, cause, severity = episode.key
        frames = tuple(
            Frame(file, number, function, self._source_of(file, number)) for file, number, function in line.lines
        )
        until = episode.until_ns
        return Finding(
            pattern=pattern,
            cause=cause,
            severity="info" if severity == "info" else "warning",
            since_seconds=(line.first_ns - self._origin_ns) / 1e9,
            until_seconds=None if until is None else (until - self._origin_ns) / 1e9,
            detected_after_seconds=(episode.detected_ns - episode.since_ns) / 1e9,
            summary=reason.sentence(self._label, frames),
            evidence={
                "blocks": float(signals.blocks),
                "blocked_seconds": signals.blocked_seconds,
                "longest_seconds": signals.longest_seconds,
                "loop_seconds": signals.loop_seconds,
                "share": signals.share,
                "loop_cpu_share": line.cpu_share,
                **measured(line),
            },
            frames=frames,
            advice=in_words_of(self.history.kind, reason.advice(frames)),
        )
