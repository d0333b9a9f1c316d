"""The probe of this process: what is watched, which messages go to which sinks, and when.

Executors and loops record; one background thread (`ticker`) reads what they recorded every `sample_interval`,
makes messages of it (`sampler`) and hands them to the sinks (`dispatcher`). A task never waits for any of that:
user threads only append. What two threads must not do at once (read a pool, hand over a message) is done under one
lock, which only the background thread and callers of `flush` take.
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
from poolscope.probe.interpreter.unpatched import allocate_lock, get_ident
from poolscope.probe.recording.function_table import FunctionTable
from poolscope.probe.recording.registry import Pools
from poolscope.probe.sampling.coroutines import LOOPS
from poolscope.probe.sampling.handover import HandoverSampler
from poolscope.probe.sampling.sampler import StackSampler
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
    from poolscope.probe.recording.registry import PoolWatch
    from poolscope.probe.sampling.held import HeldReader
    from poolscope.probe.sampling.turns import TurnReader
    from poolscope.probe.settings import PoolRule
    from poolscope.probe.transport.dispatcher import Message, Sink

#: How often the CPU time of the process is sent, and quiet pools are asked whether they were shut down.
PROCESS_INTERVAL_NS = 500_000_000
#: How often it is looked at which workers are held.
HELD_INTERVAL_NS = 250_000_000
#: How long a fork waits for our thread to end, and a reader for another one (seconds).
FORK_PATIENCE = 0.2
FLUSH_PATIENCE = 1.0
#: How long the end of the process waits for our thread to end (seconds), which is woken up for it. A thread that the
#: interpreter stops in the midst of an import keeps its lock, and whatever imports that module last waits for ever.
EXIT_PATIENCE = 5.0
#: How soon a sink is asked again to send what it could not send at once; if there is nothing, practically never.
SEND_AGAIN_NS = 5_000_000
SEND_NEVER_NS = 1 << 62


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
        self._begin()

    def _begin(self) -> None:
        self._outlet = Dispatcher(partial(self.fail, "sink"))
        self.functions = FunctionTable(self.emit, meet=partial(meet, self))
        self._stacks: StackSampler | None = StackSampler(self._cpu)
        self._held: HeldReader | None = None  # made when a worker is held for the first time
        self._held_due_ns = 0
        self._between: HandoverSampler | None = HandoverSampler(self._cpu)
        self._turns: TurnReader | None = None  # made when something is under way for the first time
        self._turns_failed = False
        self._pools = Pools(self.clock, self._cpu, self._outlet.push, partial(self.fail, "pools"))
        #: Whether pools are not read any more: then none is opened.
        self._given_up = False
        self._something_opened = False
        self._engine_sought = self._seeking_engine = False
        self._bereft = False
        self._report.forget()
        # Taken by readers only. `_reader` is the thread that holds it: a sink cannot flush.
        self._reading = allocate_lock()
        self._reader: int | None = None
        self._process_told_ns: int | None = None
        self._own_ns = 0
        self._own_mark = (0, 0)
        self._ticker = Ticker(self.clock, self._job_failed, self._read_last)
        self._drain_job = self._ticker.add("reader", self._period_ns(), self._drain)
        self._send_job = self._ticker.add("sender", SEND_NEVER_NS, self._send)

    # -- settings ------------------------------------------------------------------------------------------

    @property
    def settings(self) -> ProbeSettings:
        """Replaced as a whole; pools that are open keep their name and size."""
        return self._settings

    @settings.setter
    def settings(self, settings: ProbeSettings) -> None:
        self._settings = settings
        self._drain_job.period_ns = self._period_ns()

    def _period_ns(self) -> int:
        return max(1_000_000, int(self._settings.sample_interval * 1e9))

    def pool_rule(self, label: str) -> PoolRule | None:
        """Return what the settings say about a pool: `label` is its name, prefix, or place of creation."""
        return self._settings.rule_for(label)

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
    ) -> PoolRecorder | None:
        """Return a recorder for a new pool, or None if the settings say not to watch it.

        `prefix` is empty unless the program gave one; `site` is where the pool was made (see `creation_site`), unless
        that is just now; `size` returns (workers alive, max_workers) and must not
        hold the executor, which is only referred to weakly here. The sinks get the pool with the next
        reading, which leaves nothing behind if the pool is gone by then without a task.
        """
        try:
            from poolscope.probe.interpreter.stacks import creation_site

            created_at, place, created_by = site or creation_site(1)
            label = name or prefix or place
            rule = self.pool_rule(label)
            if self._given_up or (rule is not None and rule.ignore):
                return None
            recorder = self._pools.open(
                executor,
                name=(rule.name if rule is not None else None) or label,
                kind=kind,
                created_at=created_at,
                created_by=created_by,
                size=size,
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
        """Whether a parent judges this process: then it neither judges itself nor logs failures of ours."""
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
                # Our thread will import what judges. Meanwhile `dataclasses`, in an import of the program's, would take
                # a `typing` that is half there: it looks into `sys.modules` without waiting.
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
        """How late our thread has woken up, in sum (ns)."""
        return self._ticker.overslept_ns

    def tick(self) -> None:
        """Do what is due now. Our thread's work; tests with a clock of their own call it by hand."""
        self._ticker.tick()

    def flush(self, timeout: float = FLUSH_PATIENCE, *, process: bool = True) -> bool:
        """Read everything and hand it over before it returns, in the calling thread.

        Without `process` the CPU time of the process is sent only if it is due: half a second is enough for a scrape.
        False if that could not be done: another reader took longer than `timeout` seconds, or the caller is
        itself called by a reading.
        """
        before = self._cpu.own()
        self._flush_loops()
        if not self._enter(timeout):
            return False
        try:
            self._find_parent()
            self._pools.read(read_cpu=True)
            now = self.clock()
            if process or self._process_due(now):
                self._tell_process(now)
            self._outlet.deliver()
        except Exception as exc:
            if not is_ours(exc):
                raise
            self._give_up("reader", exc)
            return False
        else:
            if self._own_mark[0] == get_ident():
                self._account()  # a job of ours asked for it
            else:
                self._own_ns += self._cpu.own() - before
        finally:
            self._leave()
        return True

    def _flush_loops(self) -> None:
        for flush in list(self.before_flush):
            try:
                flush()
            except Exception as exc:
                if not is_ours(exc):
                    raise
                self.fail("eventloop", exc)

    def _enter(self, timeout: float) -> bool:
        me = get_ident()
        # A sink, or a signal handler in the midst of a flush: waiting for ourselves would never end.
        if self._reader == me or not self._reading.acquire(timeout=timeout):
            return False
        self._reader = me
        return True

    def _leave(self) -> None:
        self._reader = None
        self._reading.release()

    def _drain(self, now_ns: int) -> None:
        # Not under the lock: this imports, and a thread that imports may be waiting to read.
        self._find_engine()
        # A thread that did not end before a fork may still be at that: what is read now would be lost.
        if self._seeking_engine or not self._enter(FLUSH_PATIENCE):
            return
        try:
            self._find_parent()
            # Whether a quiet pool was shut down is asked now and then only.
            full = self._pools.read(ask_all=self._process_due(now_ns))
            # A closer look reads files, and each read releases the GIL: where tasks compute, that takes a second.
            self._outlet.deliver()
            if self._outlet.sinks:
                everyone = self._pools.everyone()
                filled = [watch for watch in everyone if watch.filled]
                if full or filled:
                    self._sample(full + filled, everyone)
                self._look_between([watch for watch in everyone if watch.queued])
                self._look_at_turns(everyone)
                if self._process_due(now_ns):
                    self._sample([watch for watch in everyone if watch.held and not watch.full])
                if now_ns >= self._held_due_ns:
                    self._look_at_held(now_ns)
            self._account()
            if self._process_due(now_ns):
                self._tell_process(now_ns)
            if self._outlet.deliver():
                self._send_job.due_ns = self.clock() + SEND_AGAIN_NS
        finally:
            self._leave()

    def _send(self, now_ns: int) -> None:
        """Go on to send what a sink could not send at once, instead of waiting for it."""
        left = True  # if another thread reads now
        if self._enter(0):
            try:
                left = self._outlet.flush()
            finally:
                self._leave()
        if left:
            self._send_job.due_ns = now_ns + SEND_AGAIN_NS

    def _sample(self, watches: list[PoolWatch], everyone: list[PoolWatch] | None = None) -> None:
        if self._stacks is None:
            return
        try:
            for message in self._stacks.sample(watches, self.clock(), everyone):
                self._outlet.push(message)
        except Exception as exc:
            self._stacks = None
            self.fail("stacks", exc)

    def _look_at_held(self, now_ns: int) -> None:
        """See `HeldReader`. One that has failed is used no more."""
        watches = [watch for watch in self._pools.everyone() if watch.held or watch.full]
        self._held_due_ns = now_ns + HELD_INTERVAL_NS
        if not watches:
            return
        try:
            if self._held is None:
                from poolscope.probe.sampling.held import HeldReader

                self._held = HeldReader(self._cpu)
            for message in self._held.sample(watches, self.clock()):
                self._outlet.push(message)
        except Exception as exc:
            self._held_due_ns = SEND_NEVER_NS
            self.fail("held", exc)

    def _look_between(self, watches: list[PoolWatch]) -> None:
        """Look at what goes on between the tasks of pools in which some are queued."""
        if not watches or self._between is None:
            return
        try:
            for message in self._between.sample(watches, self.clock()):
                self._outlet.push(message)
        except Exception as exc:
            self._between = None
            self.fail("stacks", exc)

    def _look_at_turns(self, everyone: list[PoolWatch]) -> None:
        """See `TurnReader`. One that has failed is used no more."""
        if self._turns_failed or not (LOOPS or any(not watch.quiet for watch in everyone) or others_run()):
            return
        try:
            if self._turns is None:
                from poolscope.probe.sampling.turns import TurnReader

                self._turns = TurnReader(self._cpu, tell=self.notice)
            for message in self._turns.read(everyone, self.clock()):
                self._outlet.push(message)
        except Exception as exc:
            self._turns, self._turns_failed = None, True
            self.fail("turns", exc)

    def _job_failed(self, part: str, exc: BaseException) -> None:
        if part not in ("reader", "thread"):
            self.fail(part, exc)
        elif self._enter(FLUSH_PATIENCE):
            try:
                self._give_up(part, exc)
            finally:
                self._leave()

    def _give_up(self, part: str, exc: BaseException) -> None:
        """Stop reading pools: so they must not go on recording. Under the lock."""
        self._given_up = True
        self._ticker.remove(self._drain_job)
        self.fail(part, exc)
        self._pools.let_go()
        try:
            self._outlet.deliver()
        except Exception:
            pass  # it is logged already

    def _read_last(self) -> None:
        # A process that has yet to look for its engine keeps its records for it.
        if self._outlet.sinks or not self._something_opened:
            self._drain(self.clock())
        # Another thread may get this one's number.
        self._own_mark = (0, 0)

    def _process_due(self, now_ns: int) -> bool:
        told = self._process_told_ns
        return told is None or now_ns - told >= PROCESS_INTERVAL_NS

    def _tell_process(self, now_ns: int) -> None:
        self._process_told_ns = now_ns
        cpu = self._cpu
        used, allowed, children = cpu.process(), cpu.allowed(now_ns), cpu.children()
        self._outlet.push(("process_tick", now_ns, used, self._own_ns, allowed, children))

    def _account(self) -> None:
        """Add what our thread has used since the last time; all of it, if it is a new one."""
        me, used = get_ident(), self._cpu.own()
        known, mark = self._own_mark
        self._own_ns += used - mark if known == me and used >= mark else used
        self._own_mark = (me, used)

    # -- the sinks ---------------------------------------------------------------------------------------

    def _find_engine(self) -> None:
        if not self._something_opened:
            return
        self._something_opened = False
        if self._engine_sought or self.supervised or self._bereft or self._outlet.sinks:
            return
        self._engine_sought = self._seeking_engine = True
        try:
            default_sink(self)
        except BaseException as exc:
            # Then what is recorded is read and dropped.
            self.fail("judge", exc)
        finally:
            self._seeking_engine = False

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
