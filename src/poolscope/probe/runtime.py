"""The probe of this process: who is watched, what is told about it, to whom, and when.

Executors and loops record; one background thread (`ticker`) reads what they recorded every `sample_interval`,
makes messages of it (`sampler`) and hands them to the sinks (`outlet`). A task never waits for any of that:
user threads only append. What must not be done by two threads at once (read a pool, hand over a message) is
done under one lock, which only the background thread and callers of `flush` take.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from time import perf_counter_ns

from poolscope.probe.adapters import meet
from poolscope.probe.cpu import CpuClocks, GuardedClocks
from poolscope.probe.native import allocate_lock, get_ident
from poolscope.probe.outlet import Outlet
from poolscope.probe.pools.names import FunctionTable
from poolscope.probe.pools.registry import Pools
from poolscope.probe.pools.sampler import StackSampler
from poolscope.probe.settings import ProbeSettings
from poolscope.probe.ticker import Ticker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from poolscope.probe.outlet import Message, Sink
    from poolscope.probe.pools.recording import PoolRecorder
    from poolscope.probe.pools.registry import PoolWatch
    from poolscope.probe.settings import PoolRule

#: How often the CPU time of the process is told, and quiet pools are asked whether they were shut down.
PROCESS_INTERVAL_NS = 500_000_000
#: How long a fork waits for our thread to end, and a reader for another one (seconds).
FORK_PATIENCE = 0.2
FLUSH_PATIENCE = 1.0
#: Faults that nobody has fetched, beyond which more of them are not kept.
_FAULTS_KEPT = 1000


def default_sink(probe: Probe) -> object:
    """Gives a process that nobody else watches its own judge. Our thread calls it once, if there is no sink.

    It is imported by name and late: under a supervisor the probe must do with the standard library.
    """
    return __import__("poolscope.profiler", fromlist=["local_sink"]).local_sink(probe)


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
        #: Whether a parent judges this process: then it never judges itself, nor logs failures of ours.
        self.supervised = False
        #: Called in a forked child with its first event; each may return a sink.
        self.after_fork: list[Callable[[Probe], Sink | None]] = []
        self._resume = False
        self._begin()

    def _begin(self) -> None:
        self._outlet = Outlet(partial(self.fail, "sink"))
        self.functions = FunctionTable(self.emit, meet=partial(meet, self))
        self._stacks: StackSampler | None = StackSampler(self._cpu)
        self._pools = Pools(self.clock, self._cpu, self._outlet.push, partial(self.fail, "pools"))
        #: Nobody reads pools any more: none is opened.
        self._given_up = False
        self._something_opened = False
        self._judge_sought = self._seeking_judge = False
        self._bereft = False
        self._failed_parts: set[str] = set()
        self._notices: set[str] = set()
        # Taken by readers only. `_reader` is the thread that holds it: a sink that flushes is told no.
        self._reading = allocate_lock()
        self._reader: int | None = None
        self._process_told_ns: int | None = None
        self._own_ns = 0
        self._own_mark = (0, 0)
        self._ticker = Ticker(self.clock, self._job_failed, self._read_last)
        self._drain_job = self._ticker.add("reader", self._period_ns(), self._drain)

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
        """What the settings say about a pool: `label` is its name, prefix, or place of creation."""
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
        site: tuple[str, str] | None = None,
    ) -> PoolRecorder | None:
        """A recorder for a new pool, or None if the settings say not to watch it.

        `prefix` is empty unless the program gave one; `site` is where the pool was made (see `creation_site`), unless
        that is just now; `size` gives (workers alive, max_workers) and must not
        hold the executor, which is only referred to weakly here. The pool is told to the sinks by the next
        reading, and leaves nothing behind if it is gone by then without a task.
        """
        try:
            from poolscope.probe.stacks import creation_site

            created_at, place = site or creation_site(1)
            label = name or prefix or place
            rule = self.pool_rule(label)
            if self._given_up or (rule is not None and rule.ignore):
                return None
            recorder = self._pools.open(
                executor,
                name=(rule.name if rule is not None else None) or label,
                kind=kind,
                created_at=created_at,
                size=size,
            )
            self._something_opened = True
            if not self._cpu.readable:
                self.notice("the CPU time of pool workers is not known on this system, and shown as 0")
            return recorder
        except Exception as exc:
            self.fail("pools", exc)
            return None

    def add_job(self, period_seconds: float, job: Callable[[int], object]) -> Callable[[], None]:
        """Has our thread, once it runs, call `job(now_ns)` every so often. One that raises is taken out.

        Returns a function that takes it out.
        """
        ticker = self._ticker
        added = ticker.add("job", max(1, int(period_seconds * 1e9)), job)
        return lambda: ticker.remove(added)

    # -- what is told --------------------------------------------------------------------------------------

    @property
    def sinks(self) -> tuple[Sink, ...]:
        """Those that messages go to now."""
        return self._outlet.sinks

    def add_sink(self, sink: Sink) -> Callable[[], None]:
        """Hands all messages to `sink` from the next reading on, beginning with what is open by then.

        One that raises is taken out. Returns a function that takes it out.
        """
        return self._outlet.add(sink)

    def emit(self, message: Message) -> None:
        """Queues a message (see `poolscope.messages`) for the sinks. Never waits."""
        if message[0] == "loop_opened":
            self._something_opened = True
        self._outlet.push(message)

    def notice(self, text: str) -> None:
        """Tells once what could not be seen, or was switched off."""
        if text not in self._notices:
            self._notices.add(text)
            self.emit(("notice", text))

    def warn(self, text: str) -> None:
        """The same; and the log hears of it, unless a parent does."""
        if text not in self._notices:
            self.notice(text)
            if not self.supervised:
                import logging

                logging.getLogger("poolscope").warning("%s", text)

    def incident(self, text: str) -> None:
        """Tells once of what has happened to the program: at once, by the log or by the parent."""
        if not self.supervised:
            self.warn(text)
        elif text not in self._notices:
            self._notices.add(text)
            self.emit(("incident", text))

    def fail(self, part: str, exc: BaseException) -> None:
        """Tells of a failure of ours. The first in each `part` is logged, unless a parent hears of it."""
        text = _described(exc)
        if self._outlet.waiting < _FAULTS_KEPT:
            self.emit(("fault", part, text))
        if part in self._failed_parts or self.supervised:
            return
        self._failed_parts.add(part)
        try:
            import logging

            logging.getLogger("poolscope").error("failure of poolscope in part %s: %s", part, text)
        except Exception as failure:
            # A log handler of the program's: no task's business.
            self._failed_parts.add("log")
            self.fail("log", failure)

    # -- readings ------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Starts our thread if it does not run. Called at the first event of a process; cheap after that."""
        ticker = self._ticker
        if ticker.running:
            return
        try:
            ticker.wake()
        except Exception as exc:
            # While the interpreter shuts down no thread starts any more, and there is nothing left to see.
            if "shutdown" not in str(exc):
                self.fail("thread", exc)

    def stop(self, timeout: float = FORK_PATIENCE) -> None:
        """Ends our thread, waiting no longer than `timeout` seconds. The next `wake` starts it again."""
        self._ticker.stop(timeout)

    @property
    def overslept_ns(self) -> int:
        """By how much our thread has woken up too late, in sum."""
        return self._ticker.overslept_ns

    def tick(self) -> None:
        """Does what is due now. Our thread's work; tests with a clock of their own call it by hand."""
        self._ticker.tick()

    def flush(self, timeout: float = FLUSH_PATIENCE, *, process: bool = True) -> bool:
        """Reads everything and hands it over before it returns, in the calling thread.

        Without `process` the CPU time of the process is told only if that is due: a scrape can do with half a second.
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
        # If none was ever watched there is no such module, and no need to import it.
        eventloop = sys.modules.get("poolscope.probe.loops.patch")
        if eventloop is not None:
            try:
                eventloop.flush()
            except Exception as exc:
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
        # Not under the lock: this imports, and somebody who imports may be waiting to read.
        self._find_judge()
        # A thread that did not end before a fork may still be at that: what is read now would go to nobody.
        if self._seeking_judge or not self._enter(FLUSH_PATIENCE):
            return
        try:
            self._find_parent()
            # Whether a quiet pool was shut down is asked now and then only.
            full = self._pools.read(ask_all=self._process_due(now_ns))
            # Whoever looks closer reads files, and each gives the GIL away: where tasks compute, that takes a second.
            self._outlet.deliver()
            if self._outlet.sinks:
                if full:
                    self._sample(full, self._pools.everyone())
                if self._process_due(now_ns):
                    self._sample([watch for watch in self._pools.everyone() if watch.held and not watch.full])
            self._account()
            if self._process_due(now_ns):
                self._tell_process(now_ns)
            self._outlet.deliver()
        finally:
            self._leave()

    def _sample(self, watches: list[PoolWatch], everyone: list[PoolWatch] | None = None) -> None:
        if self._stacks is None:
            return
        try:
            for message in self._stacks.sample(watches, self.clock(), everyone):
                self._outlet.push(message)
        except Exception as exc:
            self._stacks = None
            self.fail("stacks", exc)

    def _job_failed(self, part: str, exc: BaseException) -> None:
        if part not in ("reader", "thread"):
            self.fail(part, exc)
        elif self._enter(FLUSH_PATIENCE):
            try:
                self._give_up(part, exc)
            finally:
                self._leave()

    def _give_up(self, part: str, exc: BaseException) -> None:
        """Pools are not read any more: so they must not go on recording what nobody fetches. Under the lock."""
        self._given_up = True
        self._ticker.remove(self._drain_job)
        self.fail(part, exc)
        self._pools.let_go()
        try:
            self._outlet.deliver()
        except Exception:
            pass  # the log has heard of it

    def _read_last(self) -> None:
        # A process that has yet to look for its judge keeps its records for it.
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
        """Adds what our thread has used since the last time; all of it, if it is a new one."""
        me, used = get_ident(), self._cpu.own()
        known, mark = self._own_mark
        self._own_ns += used - mark if known == me and used >= mark else used
        self._own_mark = (me, used)

    # -- who is told ---------------------------------------------------------------------------------------

    def _find_judge(self) -> None:
        if not self._something_opened:
            return
        self._something_opened = False
        if self._judge_sought or self.supervised or self._bereft or self._outlet.sinks:
            return
        self._judge_sought = self._seeking_judge = True
        try:
            default_sink(self)
        except BaseException as exc:
            # Then nobody is told: what is recorded is read and dropped.
            self.fail("judge", exc)
        finally:
            self._seeking_judge = False

    def _find_parent(self) -> None:
        """In a forked child that has something to tell: the sinks in place of the parent's."""
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
        """Ends our thread: a child of a process with threads may deadlock, and Python warns of that."""
        # Kept if set: several threads may be about to fork.
        self._resume = self._ticker.stop(FORK_PATIENCE) or self._resume

    def after_fork_in_parent(self) -> None:
        """Goes on, if our thread ran.

        From Python 3.13 on the threads are counted for the warning after this call. So if we were the only
        one, the next event starts our thread again, or the running loop's next turn.
        """
        if not self._resume:
            return
        self._resume = False
        if _single_threaded():
            events = sys.modules.get("asyncio.events")
            loop = None if events is None else events._get_running_loop()
            if loop is not None:
                loop.call_soon(self.wake)
            return
        self.wake()

    def after_fork_in_child(self) -> None:
        """Starts anew: pools, loops, jobs and sinks were the parent's."""
        self._resume = False
        self._begin()
        self._bereft = bool(self.after_fork)


def _described(exc: BaseException) -> str:
    """One line: what was raised, and where."""
    try:
        text = f"{type(exc).__name__}: {exc}".replace("\n", " ")[:500]
    except Exception:
        text = type(exc).__name__
    step = exc.__traceback__
    while step is not None and step.tb_next is not None:
        step = step.tb_next
    if step is None:
        return text
    return f"{text} ({os.path.basename(step.tb_frame.f_code.co_filename)}:{step.tb_lineno})"


def _single_threaded() -> bool:
    try:
        return len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return False


_made: dict[str, Probe] = {}


def current() -> Probe:
    """The probe of this process, made on first use."""
    try:
        return _made["probe"]
    except KeyError:
        pass
    made = Probe()
    # One step: of several threads that come here at once, all get the same.
    probe = _made.setdefault("probe", made)
    if probe is made and hasattr(os, "register_at_fork"):
        os.register_at_fork(
            before=probe.before_fork,
            after_in_parent=probe.after_fork_in_parent,
            after_in_child=probe.after_fork_in_child,
        )
    return probe
