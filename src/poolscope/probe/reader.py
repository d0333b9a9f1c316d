"""Reads what the pools of a process have recorded, and hands it to the sinks.

The probe's thread reads every `sample_interval`; `flush` reads in the thread that calls it. One lock keeps two threads
from reading a pool, or handing over a message, at once. No task ever takes it.
"""

from __future__ import annotations

from poolscope.probe.interpreter.blame import is_ours
from poolscope.probe.interpreter.unpatched import allocate_lock, get_ident
from poolscope.probe.sampling.samplers import Samplers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from poolscope.probe.interpreter.cpu import CpuClocks
    from poolscope.probe.recording.registry import Pools
    from poolscope.probe.ticker import Ticker
    from poolscope.probe.transport.dispatcher import Dispatcher

#: How often the CPU time of the process is sent, and quiet pools are asked whether they were shut down.
PROCESS_INTERVAL_NS = 500_000_000
#: How long a reader waits for another one (seconds).
FLUSH_PATIENCE = 1.0
#: How soon a sink may send again what it could not send at once; with nothing left, practically never.
SEND_AGAIN_NS = 5_000_000
SEND_NEVER_NS = 1 << 62


class Reader:
    """Call `begin` first, and again in a forked child. Any thread may call any method."""

    def __init__(
        self,
        clock: Callable[[], int],
        cpu: CpuClocks,
        fail: Callable[[str, BaseException], object],
        tell: Callable[[str], object],
        *,
        before_flush: list[Callable[[], object]],
        find_engine: Callable[[], bool],
        find_parent: Callable[[], object],
    ) -> None:
        """Call each of `before_flush` before a `flush`; `tell` takes notices for the user.

        `find_engine` and `find_parent` look for sinks, before a reading of our thread and within each reading; the
        former returns whether our thread may read.
        """
        self._clock = clock
        self._cpu = cpu
        self._fail = fail
        self._tell = tell
        self._before_flush = before_flush
        self._find_engine = find_engine
        self._find_parent = find_parent

    def begin(self, pools: Pools, outlet: Dispatcher, ticker: Ticker, period_ns: int) -> None:
        """Read these pools each `period_ns` in the thread of `ticker`, and nothing of before."""
        self._pools = pools
        self._outlet = outlet
        self.samplers = Samplers(self._clock, self._cpu, outlet.push, self._fail, self._tell)
        #: Whether pools are not read any more.
        self.given_up = False
        # Only readers take it. `_reading_thread` is the thread that holds it: a sink must not flush.
        self._lock = allocate_lock()
        self._reading_thread: int | None = None
        self._process_told_ns: int | None = None
        self._own_ns = 0
        self._own_mark = (0, 0)
        self._ticker = ticker
        self._drain_job = ticker.add("reader", period_ns, self.drain)
        self._send_job = ticker.add("sender", SEND_NEVER_NS, self._send)

    @property
    def period_ns(self) -> int:
        """How often our thread reads."""
        return self._drain_job.period_ns

    @period_ns.setter
    def period_ns(self, period_ns: int) -> None:
        self._drain_job.period_ns = period_ns

    # -- on demand -----------------------------------------------------------------------------------------

    def flush(self, timeout: float, *, process: bool) -> bool:
        """See `Probe.flush`."""
        before = self._cpu.own()
        self._flush_loops()
        if not self.enter(timeout):
            return False
        try:
            self._find_parent()
            self._pools.read(read_cpu=True)
            now = self._clock()
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
            self.leave()
        return True

    def _flush_loops(self) -> None:
        for flush in list(self._before_flush):
            try:
                flush()
            except Exception as exc:
                if not is_ours(exc):
                    raise
                self._fail("eventloop", exc)

    def enter(self, timeout: float) -> bool:
        """Take the lock; False if another thread has it for longer than `timeout` seconds, or this one has it."""
        me = get_ident()
        # A sink, or a signal handler in the midst of a flush: waiting for ourselves would never end.
        if self._reading_thread == me or not self._lock.acquire(timeout=timeout):
            return False
        self._reading_thread = me
        return True

    def leave(self) -> None:
        """Give the lock back."""
        self._reading_thread = None
        self._lock.release()

    # -- in our thread -------------------------------------------------------------------------------------

    def drain(self, now_ns: int) -> None:
        """Read all pools, look closer at the full ones, and deliver the messages."""
        # Not under the lock: this imports, and a thread that imports may be waiting to read.
        if not self._find_engine() or not self.enter(FLUSH_PATIENCE):
            return
        try:
            self._find_parent()
            # Check only now and then whether quiet pools were shut down.
            full = self._pools.read(ask_all=self._process_due(now_ns))
            # A closer look reads files, and each read releases the GIL: where tasks compute, that takes a second.
            self._outlet.deliver()
            if self._outlet.sinks:
                everyone = self._pools.everyone()
                filled = [watch for watch in everyone if watch.filled]
                if full or filled:
                    self.samplers.look_at_lines(full + filled, everyone)
                self.samplers.look_between([watch for watch in everyone if watch.queued])
                self.samplers.look_at_turns(everyone)
                if self._process_due(now_ns):
                    self.samplers.look_at_lines([watch for watch in everyone if watch.held and not watch.full])
                self.samplers.look_at_held(everyone, now_ns)
            self._account()
            if self._process_due(now_ns):
                self._tell_process(now_ns)
            if self._outlet.deliver():
                self._send_job.due_ns = self._clock() + SEND_AGAIN_NS
        finally:
            self.leave()

    def _send(self, now_ns: int) -> None:
        """Go on to send what a sink could not send at once, instead of waiting for it."""
        left = True  # if another thread reads now
        if self.enter(0):
            try:
                left = self._outlet.flush()
            finally:
                self.leave()
        if left:
            self._send_job.due_ns = now_ns + SEND_AGAIN_NS

    def job_failed(self, part: str, exc: BaseException) -> None:
        """Report a job of our thread that raised. Without a reader, or a thread, nothing is recorded any more."""
        if part not in ("reader", "thread"):
            self._fail(part, exc)
        elif self.enter(FLUSH_PATIENCE):
            try:
                self._give_up(part, exc)
            finally:
                self.leave()

    def _give_up(self, part: str, exc: BaseException) -> None:
        """Stop reading pools, and so stop them from recording. Call it under the lock."""
        self.given_up = True
        self._ticker.remove(self._drain_job)
        self._fail(part, exc)
        self._pools.let_go()
        try:
            self._outlet.deliver()
        except Exception:
            pass  # it is logged already

    # -- CPU time ------------------------------------------------------------------------------------------

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

    def thread_ended(self) -> None:
        """Forget which thread was ours: another one may get its number."""
        self._own_mark = (0, 0)
