"""One case per event loop name: from its history to its findings, one per blocking line, live and final.

Pure: times come in, and so does the function that gives the source text of a line. Not thread-safe: the judge's owner
guards it.
"""

from __future__ import annotations

from poolscope.analysis import words
from poolscope.analysis.detection import LoopLineSignals, diagnose_loop
from poolscope.analysis.findings import FINDINGS_KEPT, Event, SourceOf
from poolscope.analysis.loop_history import BlockingLine, LoopHistory
from poolscope.analysis.tracking import Episode, Sort, Tracker
from poolscope.model import Finding, Frame

#: A line of a loop that caused no block for this long is over.
LOOP_HOLD_NS = 10_000_000_000


class LoopCase:
    """Judges the event loops of one name as time goes on: a finding per blocking line."""

    def __init__(self, history: LoopHistory, *, origin_ns: int, source_of: SourceOf) -> None:
        self.history = history
        self._origin_ns = origin_ns
        self._source_of = source_of
        self._trackers: dict[BlockingLine, Tracker[LoopLineSignals]] = {}
        self._past: list[Finding] = []
        self._final = False

    def judge(self, now_ns: int) -> list[Event]:
        """Looks at the blocks so far. Returns what began and ended."""
        self.history.advance(now_ns)
        events: list[Event] = []
        loop_ns = self.history.ran_ns(now_ns)
        for line in self.history.lines.values():
            signals = line.signals(loop_ns)
            tracker = self._trackers.get(line)
            if tracker is None:
                tracker = self._trackers[line] = Tracker(hold_ns=LOOP_HOLD_NS, settle_ns=0)
            if not signals.blocks:
                # Its only block turned out to have another cause, or another line.
                if (mistaken := tracker.withdraw()) is not None:
                    mistaken.until_ns = line.last_ns
                    events.append((self._finding(line, mistaken), False))
                continue
            diagnosis = diagnose_loop(signals, final=self._final)
            key = (diagnosis.pattern, diagnosis.cause, diagnosis.severity)
            recent = now_ns - line.last_ns < LOOP_HOLD_NS
            if diagnosis.severity != "info" and (recent or self._final):
                if tracker.active is None and not recent and self._told(line):
                    continue  # it was found, it ended, and nothing has happened since
                if tracker.offer(key, signals, line.first_ns, now_ns) and tracker.active is not None:
                    events.append((self._finding(line, tracker.active), True))
            elif (ended := tracker.absent(line.last_ns, now_ns)) is not None:
                events.append(self._keep(line, ended))
        return events

    def finish(self, now_ns: int) -> list[Event]:
        """The program ended."""
        self._final = True
        events = self.judge(now_ns)
        for line, tracker in self._trackers.items():
            if (ended := tracker.close()) is not None:
                ended.until_ns = line.last_ns
                events.append(self._keep(line, ended))
        return events

    def findings(self, now_ns: int) -> tuple[Finding, ...]:
        """All findings so far; lines that only deserve a note included."""
        found = list(self._past)
        for line, tracker in self._trackers.items():
            if tracker.active is not None:
                found.append(self._finding(line, tracker.active))
            elif not self._told(line):
                signals = line.signals(self.history.ran_ns(now_ns))
                if not signals.blocks:
                    continue
                key = ("loop_blocked", signals.cause, "info")
                note = Episode(key, signals, line.first_ns, line.last_ns)
                note.until_ns = line.last_ns
                found.append(self._finding(line, note))
        return tuple(found)

    def active_sorts(self) -> set[Sort]:
        """The sorts of the findings that last. Asked at each scrape, which has no use for their words."""
        lasting = (tracker.active for tracker in self._trackers.values())
        return {active.key for active in lasting if active is not None and active.until_ns is None}

    def _told(self, line: BlockingLine) -> bool:
        tracker = self._trackers.get(line)
        return tracker is not None and bool(tracker.ended)

    def _keep(self, line: BlockingLine, ended: Episode[LoopLineSignals]) -> Event:
        finding = self._finding(line, ended)
        self._past.append(finding)
        del self._past[:-FINDINGS_KEPT]
        return finding, False

    def _finding(self, line: BlockingLine, episode: Episode[LoopLineSignals]) -> Finding:
        signals = episode.item
        pattern, cause, severity = episode.key
        diagnosis = diagnose_loop(signals, final=True)
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
            summary=words.loop_summary(signals, self.history.name, frames),
            evidence={
                "blocks": float(signals.blocks),
                "blocked_seconds": signals.blocked_seconds,
                "longest_seconds": signals.longest_seconds,
                "loop_seconds": signals.loop_seconds,
                "share": signals.share,
                "loop_cpu_share": line.cpu_share,
            },
            frames=frames,
            advice=words.loop_advice(diagnosis),
        )
