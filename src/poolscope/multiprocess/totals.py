"""What this process has counted, and what all peers have together."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from poolscope.config import MetricsSettings
from poolscope.metrics.merge import merged
from poolscope.multiprocess import peer_client, processes
from poolscope.multiprocess.spool_dir import SCRAPE_PATIENCE, SpoolDir
from poolscope.multiprocess.wire import VERSION, Told, encoded
from poolscope.probe.interpreter.unpatched import allocate_lock
from poolscope.snapshot import Snapshot

if TYPE_CHECKING:
    from poolscope.metrics.families import Failed


class Counts:
    """The counts of the peer `name`, for itself and for others. Any thread may call any method."""

    def __init__(
        self,
        name: str,
        snapshot: Callable[[], Snapshot],
        detailed: Callable[[], Snapshot],
        metrics: MetricsSettings,
        failed: Failed,
    ) -> None:
        self.family = processes.family()
        self._name = name
        self._snapshot = snapshot
        self._detailed = detailed
        self._failed = failed
        # Histograms of other bounds cannot be added up.
        self._bounds = (zlib.crc32(repr(metrics.wait_buckets).encode()), zlib.crc32(repr(metrics.run_buckets).encode()))
        self._telling = allocate_lock()
        self._told_at = 0.0

    def seconds_since_told(self) -> float:
        """How old what is left in the directory is."""
        return time.monotonic() - self._told_at

    def tell(self, folder: SpoolDir, *, details: bool = False) -> tuple[Snapshot, bytes]:
        """Return what this process has counted, after leaving it in the directory."""
        with self._telling:
            snapshot = (self._detailed if details else self._snapshot)()
            answer = encoded(Told(VERSION, self.family, self._bounds, snapshot))
            try:
                if not details:
                    folder.tell(self._name, answer)
                    self._told_at = time.monotonic()
            except FileNotFoundError:
                pass  # the next look at it makes it anew
            except OSError as error:
                self._failed("workers", error)
            return snapshot, answer

    def of_all(self, folder: SpoolDir, *, details: bool = False) -> Snapshot:
        """Return the counts of all peers, those that ended included. May raise OSError."""
        own, _ = self.tell(folder, details=details)
        paths = {name: folder.socket_path(name) for name in folder.answering() if name != self._name}
        question = peer_client.DETAILS if details else peer_client.COUNTS
        answers, silent = peer_client.ask(paths, question, peer_client.ANSWER_SECONDS)
        # Under the lock, and after the answers: what is among the dead by then includes what they answered.
        with folder.lock(SCRAPE_PATIENCE) as locked:
            if locked:
                try:
                    folder.bury()
                except Exception as error:  # a full disk, say: the next time may be better
                    self._failed("workers", error)
            dead = folder.dead()
            left = {name: told for name in folder.told() if name != self._name and (told := folder.last(name))}
        living, others = [own], []
        for name, told in answers.items():
            if told.bounds == self._bounds and (name in left or processes.lives(name)):
                living.append(told.snapshot)
        for name, told in left.items():
            if name not in answers and told.bounds == self._bounds:
                others.append(told.snapshot)
        if dead is not None and dead.bounds == self._bounds:
            others.append(dead.snapshot)
        hung = [name.partition(".")[0] for name in silent if processes.lives(name)]
        if hung:
            text = f"no answer from process {', '.join(hung[:5])}: its counters are as of its last answer"
            self._failed("workers", TimeoutError(text))
        return merged(living, others)
