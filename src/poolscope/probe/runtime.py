"""The probe of this process: what is watched, which messages go to which sinks, and when.

Executors and loops record; one background thread (`ticker`) reads what they recorded every `sample_interval`
(`reader`), looks closer at full pools (`sampling`) and hands messages to the sinks (`dispatcher`). A task never waits
for any of that: the program's threads only append.
"""

from __future__ import annotations

import atexit
import os
from functools import partial
from time import perf_counter_ns

from poolscope.probe.api import registered
from poolscope.probe.forks import go_on, others_run
from poolscope.probe.interpreter.blame import is_ours
from poolscope.probe.interpreter.cpu import CpuClocks, GuardedClocks
from poolscope.probe.reader import FLUSH_PATIENCE, Reader
from poolscope.probe.recording.function_table import FunctionTable
from poolscope.probe.recording.recorder import unread_recorder
from poolscope.probe.recording.registry import Pools
from poolscope.probe.self_report import SelfReport
from poolscope.probe.settings import ProbeSettings
from poolscope.probe.targets import meet
from poolscope.probe.ticker import Ticker
from poolscope.probe.transport.dispatcher import Dispatcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from poolscope.probe.interpreter.stacks import Site
    from poolscope.probe.recording.recorder import PoolRecorder
    from poolscope.probe.settings import PoolRule
    from poolscope.probe.transport.dispatcher import Message, Sink

#: How long a fork waits for our thread to end (seconds).
FORK_PATIENCE = 0.2
#: How long the end of the process waits for our thread to end (seconds), which is woken up for it. A thread that the
#: interpreter stops during an import keeps its lock, and a later import of that module waits for ever.
EXIT_PATIENCE = 5.0


def default_sink(probe: Probe) -> object:
    """Give a process that nothing else watches its own engine. Our thread calls it once, if there is no sink."""
    return None if registered.local_engine is None else registered.local_engine(probe)


class Probe:
    """Watches one process. `current()` gives the one of this process; others are for tests.

    Any thread may call any method. None raises because of a failure of ours: that goes to `fail`. In a forked
    child the same object starts anew: it knows no pool, function, job or sink of the parent's.
    """

    def __init__(
        self,
        settings: ProbeSettings | None = None,
        clock: Callable[[], int] = perf_counter_ns,
        *,
        cpu: CpuClocks | None = None,
    ) -> None:
        self._settings = settings or ProbeSettings()
        self.clock = clock
        self._cpu = GuardedClocks(cpu or CpuClocks(), partial(self.fail, "cpu"))
        self._report = SelfReport(self.emit, lambda: self._outlet.waiting)
        #: Called in a forked child with its first event; each may return a sink.
        self.after_fork: list[Callable[[Probe], Sink | None]] = []
        #: See `api.ProbeApi`: what event loops have seen, if any was ever watched.
        self.before_flush: list[Callable[[], object]] = []
        self._resume = False
        self._reader = Reader(
            clock,
            self._cpu,
            self.fail,
            self.notice,
            before_flush=self.before_flush,
            find_engine=self._find_engine,
            find_parent=self._find_parent,
        )
        self._begin()

    def _begin(self) -> None:
        self._outlet = Dispatcher(partial(self.fail, "sink"))
        self.functions = FunctionTable(self.emit, meet=partial(meet, self))
        self._pools = Pools(self.clock, self._cpu, self._outlet.push, partial(self.fail, "pools"))
        self._something_opened = False
        self._engine_sought = self._seeking_engine = False
        self._bereft = False
        self._report.forget()
        self._ticker = Ticker(self.clock, self._reader.job_failed, self._read_last)
        self._reader.begin(self._pools, self._outlet, self._ticker, self._period_ns())

    # -- settings ------------------------------------------------------------------------------------------

    @property
    def settings(self) -> ProbeSettings:
        """Replaced as a whole; pools that are open keep their name and size."""
        return self._settings

    @settings.setter
    def settings(self, settings: ProbeSettings) -> None:
        self._settings = settings
        self._reader.period_ns = self._period_ns()

    def _period_ns(self) -> int:
        return max(1_000_000, int(self._settings.sample_interval * 1e9))

    def pool_rule(self, label: str, kind: str) -> PoolRule | None:
        """Return what the settings say about a pool: `label` is its name, prefix, or place of creation."""
        return self._settings.rule_for(label, kind)

    # -- what is watched -----------------------------------------------------------------------------------

    def open_pool(
        self,
        executor: object,
        *,
        name: str | None,
        prefix: str,
        kind: str,
        size: Callable[[], tuple[int, int] | None] | None = None,
        site: Site | None = None,
        recorder: PoolRecorder | None = None,
    ) -> PoolRecorder | None:
        """Return a recorder for a new pool, or None if the settings say not to watch it. `recorder`: the one that has
        recorded it so far (see `new_recorder`).

        `prefix` is empty unless the program gave one; `site` is where the pool was made (see `creation_site`), unless
        that is just now; `size` returns (workers alive, max_workers) and must not
        hold the executor, which is only referred to weakly here. The sinks get the pool with the next
        reading, which leaves nothing behind if the pool is gone by then without a task.
        """
        try:
            from poolscope.probe.interpreter.stacks import creation_site

            created_at, place, created_by = site or creation_site(1)
            label = name or prefix or place
            rule = self.pool_rule(label, kind)
            if self._reader.given_up or (rule is not None and rule.ignore):
                return None
            recorder = self._pools.open(
                executor,
                name=(rule.name if rule is not None else None) or label,
                kind=kind,
                created_at=created_at,
                created_by=created_by,
                size=size,
                recorder=recorder,
            )
            self._something_opened = True
            if not self._cpu.readable:
                self.notice("the CPU time of pool workers is not known on this system, and shown as 0")
            return recorder
        except Exception as exc:
            if not is_ours(exc):
                raise
            self.fail("pools", exc)
            return None

    def new_recorder(self, owner: object, kind: str) -> PoolRecorder | None:
        """Return a recorder for what may come to be a pool, which nothing reads before `open_pool` gets it; None if
        nothing is recorded any more."""
        return None if self._reader.given_up else unread_recorder(owner, kind)

    def add_job(self, period_seconds: float, job: Callable[[int], object]) -> Callable[[], None]:
        """Have our thread, once it runs, call `job(now_ns)` regularly. A job that raises is taken out.

        Returns a function that takes it out.
        """
        ticker = self._ticker
        added = ticker.add("job", max(1, int(period_seconds * 1e9)), job)
        return lambda: ticker.remove(added)

    # -- messages --------------------------------------------------------------------------------------

    @property
    def sinks(self) -> tuple[Sink, ...]:
        """The sinks that messages go to now."""
        return self._outlet.sinks

    def add_sink(self, sink: Sink) -> Callable[[], None]:
        """Hand all messages to `sink` from the next reading on, beginning with what is open by then.

        One that raises is taken out. Returns a function that takes it out.
        """
        return self._outlet.add(sink)

    def emit(self, message: Message) -> None:
        """Queue a message (see `poolscope.messages`) for the sinks. Never waits."""
        if message[0] == "loop_opened":
            self._something_opened = True
        self._outlet.push(message)

    @property
    def supervised(self) -> bool:
        """Whether a parent judges this process. If so, it does not judge itself and logs no failures of ours."""
        return self._report.supervised

    @supervised.setter
    def supervised(self, supervised: bool) -> None:
        self._report.supervised = supervised

    def notice(self, text: str) -> None:
        """See `SelfReport.notice`."""
        self._report.notice(text)

    def warn(self, text: str) -> None:
        """See `SelfReport.warn`."""
        self._report.warn(text)

    def incident(self, text: str) -> None:
        """See `SelfReport.incident`."""
        self._report.incident(text)

    def fail(self, part: str, exc: BaseException) -> None:
        """See `SelfReport.fail`."""
        self._report.fail(part, exc)

    # -- readings ------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Start our thread if it does not run. Called at the first event of a process; cheap after that."""
        ticker = self._ticker
        if ticker.running:
            return
        try:
            if not self.supervised:
                # Our thread will import the engine. Meanwhile `dataclasses`, in an import of the program's, would find
                # a half-imported `typing`: it looks into `sys.modules` without waiting.
                import typing  # noqa: F401
            ticker.wake()
        except Exception as exc:
            if not is_ours(exc):
                raise
            # While the interpreter shuts down no thread starts any more, and there is nothing left to see.
            if "shutdown" not in str(exc):
                self.fail("thread", exc)

    def stop(self, timeout: float = FORK_PATIENCE) -> None:
        """End our thread, waiting no longer than `timeout` seconds. The next `wake` starts it again."""
        self._ticker.stop(timeout)

    @property
    def overslept_ns(self) -> int:
        """How late our thread has woken up, in total (ns)."""
        return self._ticker.overslept_ns

    def tick(self) -> None:
        """Do what is due now. Our thread calls it; so do tests with a clock of their own."""
        self._ticker.tick()

    def flush(self, timeout: float = FLUSH_PATIENCE, *, process: bool = True) -> bool:
        """Read everything and hand it over before it returns, in the calling thread.

        Without `process` the CPU time of the process is sent only if it is due: half a second is enough for a scrape.
        False if that could not be done: another reader took longer than `timeout` seconds, or the caller is
        itself called by a reading.
        """
        return self._reader.flush(timeout, process=process)

    def _read_last(self) -> None:
        # A process that has not looked for its engine yet keeps its records for it.
        if self._outlet.sinks or not self._something_opened:
            self._reader.drain(self.clock())
        self._reader.thread_ended()

    # -- the sinks ---------------------------------------------------------------------------------------

    def _find_engine(self) -> bool:
        """Look for an engine once there is something to judge, if there is no sink. Return whether one may read."""
        if not self._something_opened:
            return not self._seeking_engine
        self._something_opened = False
        if self._engine_sought or self.supervised or self._bereft or self._outlet.sinks:
            # A thread that did not end before a fork may still be at that: what is read now would be lost.
            return not self._seeking_engine
        self._engine_sought = self._seeking_engine = True
        try:
            default_sink(self)
        except BaseException as exc:
            # Without an engine, records are read and dropped.
            self.fail("judge", exc)
        finally:
            self._seeking_engine = False
        return True

    def _find_parent(self) -> None:
        """In a forked child that has messages: the sinks in place of the parent's."""
        if not self._bereft or not (self._pools or self._outlet.waiting):
            return
        self._bereft = False
        for make in list(self.after_fork):
            try:
                sink = make(self)
                if sink is not None:
                    self.add_sink(sink)
            except Exception as exc:
                self.fail("fork", exc)

    # -- forks ---------------------------------------------------------------------------------------------

    def before_fork(self) -> None:
        """End our thread if it is the only one beside the caller: a child of a process with threads may deadlock, and
        Python warns of that. Beside others it stays: they are warned of all the same, and where they compute it would
        take long to end."""
        if others_run():
            return
        # Kept if set: several threads may be about to fork.
        self._resume = self._ticker.stop(FORK_PATIENCE) or self._resume

    def after_fork_in_parent(self) -> None:
        """Go on, if our thread ran."""
        if self._resume:
            self._resume = False
            go_on([self.wake])

    def after_fork_in_child(self) -> None:
        """Start anew: pools, loops, jobs and sinks were the parent's."""
        self._resume = False
        self._begin()
        self._bereft = bool(self.after_fork)


_made: dict[str, Probe] = {}


def current() -> Probe:
    """Return the probe of this process, made on first use."""
    try:
        return _made["probe"]
    except KeyError:
        pass
    made = Probe()
    # One step: of several threads that come here at once, all get the same.
    probe = _made.setdefault("probe", made)
    if probe is made:
        atexit.register(probe.stop, EXIT_PATIENCE)
    if probe is made and hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=probe.before_fork,
            after_in_parent=probe.after_fork_in_parent,
            after_in_child=probe.after_fork_in_child,
        )
    return probe


registered.current = lambda: current()  # as tests may put another in its place
