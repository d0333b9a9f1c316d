"""The loops that run in this process, and the looks at them.

While a loop runs, a job of the probe's thread looks at it every quarter of `loop_blocked_seconds`: it reads where the
loop's thread is, and now and then has the loop run a beat, a callback that notes the time. `blocks` makes blocks of the
looks, with what was measured meanwhile; why a loop was held is not judged here (see `poolscope.rules.loop_causes`).

Nothing of ours holds a loop, or a frame of the user's, for longer than one look.
"""

from __future__ import annotations

import sys
from _thread import allocate_lock, get_ident, get_native_id
from functools import partial
from itertools import count

from poolscope.probe.interpreter.blame import is_ours
from poolscope.probe.interpreter.cpu import run_delay_ns, thread_cpu_ns
from poolscope.probe.interpreter.gil import gil_enabled
from poolscope.probe.interpreter.unpatched import current_frames, getpid, process_time_ns, thread_time_ns
from poolscope.probe.loops.blocks import BlockTracker
from poolscope.probe.loops.busythreads import BusyThreads
from poolscope.probe.loops.identity import has_own, in_notebook, number_of, thread_name, unwatched
from poolscope.probe.loops.kernel_clocks import GcTime, kernel_wait, switches_reader
from poolscope.probe.loops.load import LoopLoad
from poolscope.probe.loops.meter import Meter, Reading
from poolscope.probe.loops.watch import UNUSED, Familiar, LoopWatch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _thread import LockType
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

    from poolscope.probe.api import ProbeApi
    from poolscope.probe.loops.meter import Counters
    from poolscope.probe.loops.stops import LoopStops

    Lines = tuple[tuple[str, int, str], ...]

#: Looks per `loop_blocked_seconds`.
LOOKS = 4
#: How long a thread that starts or stops a loop waits for a look that is under way (seconds).
PATIENCE = 0.5
#: A loop that does not run, though we heard of no stop, is dropped after this.
LOST_NS = 1_000_000_000
#: How often to read the clocks of other threads while nothing is wrong, for later comparison.
BASELINE_NS = 500_000_000
#: In a suspected block, every n-th look asks the kernel, which gives the GIL away.
KERNEL_LOOKS = 4
#: With a loop without rest, every n-th look reads what other threads compute.
BUSY_LOOKS = 4
#: Of a core; of the time since the last look: enough to be looked at.
_BUSY = 0.2
_SOME = 0.3
_HALF = 0.5

#: After so many looks that found the lock taken, its owner was interrupted (Ctrl-C) before it could release it.
_MISSED = 40

_PART = "eventloop"

# Unique in the process, also across several patches.
_next_block = count(1).__next__


class Monitor:
    """The loops that run in this process.

    `enter` and `leave` are called by the threads that run loops, `job` by the probe's thread, `flush` and `stop` by
    any. One lock keeps them apart: a loop only meets it when it starts or stops, and never waits long for it.
    """

    def __init__(self, probe: ProbeApi) -> None:
        self.probe = probe
        #: Looks have failed: no loop is watched any more.
        self._given_up = False
        self._begin()

    def _begin(self, gc_time: GcTime | None = None) -> None:
        if gc_time is not None:
            gc_time.remove()
        self._pid = getpid()
        self._lock = allocate_lock()
        self._running: dict[int, LoopWatch] = {}
        self._remove_job: Callable[[], None] | None = None
        self._familiar: Familiar | None = None
        self._gc_time = GcTime(self.probe.clock)
        self._threads = BusyThreads()
        self._switches = switches_reader()
        self._blocked_ns = self._period_ns = 0
        self._last_ns: int | None = None
        self._baseline_ns = 0
        self._missed = 0
        #: Finds what the thread of a held loop waits for; made when it is first needed, None once it has failed.
        self._stops: LoopStops | None = None
        self._stops_made = False

    # -- loops come and go ---------------------------------------------------------------------------------

    def enter(self, loop: Any, kind: str, base: int | None, *, adopted: bool = False) -> LoopWatch | None:
        """Begin to watch a loop that the calling thread runs. None if it is watched already, or cannot be.

        Raises what is the program's (see `blame`), and nothing else.
        """
        try:
            if self._pid != getpid():
                self._begin(self._gc_time)  # what ran in the parent does not run here
            if self._given_up or not self._enters(loop):
                return None
            if in_notebook():
                self.probe.notice("the event loop of the notebook's kernel is not watched: its cells run in it")
                return None
            watch = self._watch(loop, kind, base, adopted)
            watch.begin(self._reading(self.probe.clock(), thread_cpu_ns(watch.native_id)))
            self.probe.emit(("loop_opened", watch.number, watch.name, watch.kind, self.probe.clock()))
            self._running[id(loop)] = watch
            self._start()
            self.probe.wake()
            return watch
        except Exception as exc:
            if not is_ours(exc):
                raise
            self.probe.fail(_PART, exc)
            return None

    def knows(self, loop: Any) -> bool:
        """Whether this loop is watched while it runs, in this process."""
        known = self._running.get(id(loop))
        return known is not None and known.loop() is loop and self._pid == getpid()

    def _enters(self, loop: Any) -> bool:
        """Whether this loop says that it begins to run. Its class may have methods of its own."""
        try:
            known = self._running.get(id(loop))
            if known is not None and id(known.loop()) == id(loop):
                if loop.is_running():
                    return False
                self._close(known)  # of its last run, whose end we missed
            number_of(loop)
            return not loop.is_closed()
        except Exception as exc:
            if not (is_ours(exc) or has_own(type(loop), ("is_closed", "is_running"))):
                raise
            self.probe.notice(unwatched(f"{type(loop).__module__}.{type(loop).__qualname__}", exc))
            return False

    def _watch(self, loop: Any, kind: str, base: int | None, adopted: bool) -> LoopWatch:
        blocked_ns = max(1_000_000, int(self.probe.settings.loop_blocked_seconds * 1e9))
        period_ns = blocked_ns // LOOKS
        number = number_of(loop)
        if self._familiar is None and kind != "trio":
            self._familiar = Familiar(self.probe.notice)
        return LoopWatch(
            loop,
            number=number,
            kind=kind,
            name=thread_name(),
            ident=get_ident(),
            native_id=get_native_id(),
            base=base,
            adopted=adopted,
            tracker=BlockTracker(
                number,
                blocked_ns=blocked_ns,
                period_ns=period_ns,
                next_block=_next_block,
                gil=gil_enabled(),
            ),
            meter=Meter(period_ns, int(sys.getswitchinterval() * 1e9)),
            clock=self.probe.clock,
            load=LoopLoad(
                number, blocked_ns=blocked_ns, gil=gil_enabled(), ready=partial(run_delay_ns, get_native_id())
            ),
            familiar=UNUSED if kind == "trio" else self._familiar,
        )

    def _start(self) -> None:
        lock = self._lock
        # Not waiting: the calling thread may be in a callback of its loop. The thread that has the lock comes here
        # after it.
        if not lock.acquire(blocking=False):
            return
        try:
            if self._remove_job is None and self._running:
                seconds = self.probe.settings.loop_blocked_seconds
                self._period_ns = max(1_000_000, int(seconds * 1e9)) // LOOKS
                self._blocked_ns = LOOKS * self._period_ns
                self._last_ns = None
                self._baseline_ns = 0
                self._threads.forget()
                self._gc_time.install()
                self._remove_job = self.probe.add_job(self._period_ns / 1e9, self.job)
        finally:
            lock.release()

    def leave(self, watch: LoopWatch) -> None:
        """Note that the loop has stopped. Raises as `enter` does."""
        try:
            if self._pid == getpid():
                self._close(watch)
        except Exception as exc:
            if not is_ours(exc):
                raise
            self.probe.fail(_PART, exc)

    def _close(self, watch: LoopWatch) -> None:
        lock = self._lock
        # If a look takes too long the next one finds that the loop does not run.
        if not lock.acquire(timeout=PATIENCE):
            watch.adopted = True
            return
        try:
            self._end(watch)
        finally:
            self._release(lock)

    def _release(self, lock: LockType) -> None:
        """Finish what the lock guarded: remove the job with the last loop, add it for a loop that did not wait."""
        try:
            remove = self._rest()
        finally:
            lock.release()
        if remove is not None:
            # Not under the lock: it may wait for a look to end, and that for the lock.
            remove()
        if self._running and self._remove_job is None:
            self._start()

    def _end(self, watch: LoopWatch) -> None:
        for key, running in list(self._running.items()):
            if running is watch:
                del self._running[key]
                break
        else:
            return
        now = self.probe.clock()
        for message in [*watch.collect(), *watch.tracker.close(now), *watch.last_load(), *watch.tick(now, 0)]:
            self.probe.emit(message)
        self.probe.emit(("loop_closed", watch.number, now))

    def _rest(self) -> Callable[[], None] | None:
        """With no loop left, remove the collector's callback, and return what removes the job."""
        if self._running:
            return None
        self._gc_time.remove()
        remove, self._remove_job = self._remove_job, None
        return remove

    def stop(self) -> None:
        """Stop watching; running loops go on unwatched."""
        for watch in list(self._running.values()):
            self._close(watch)

    def flush(self) -> None:
        """Report lasting blocks and the lags so far. Gives up if a look takes too long."""
        lock = self._lock
        if self._pid != getpid() or not lock.acquire(timeout=PATIENCE):
            return
        try:
            now = self.probe.clock()
            for watch in list(self._running.values()):
                for message in [*watch.collect(), *watch.tracker.ongoing(now), *watch.tick(now, 0)]:
                    self.probe.emit(message)
        except Exception as exc:
            self._give_up(exc)
        finally:
            self._release(lock)

    def _drop(self, watch: LoopWatch, exc: Exception) -> None:
        """Drop a loop that could not be read: its class may have methods of its own. The others go on."""
        self._end(watch)
        self.probe.notice(unwatched(watch.label, exc))

    def _give_up(self, exc: Exception) -> None:
        """Stop watching all loops, as looks have failed. Call it under the lock; the job goes with its release."""
        self._given_up = True
        watches = list(self._running.values())
        self._running.clear()
        self.probe.fail(_PART, exc)
        for watch in watches:
            self.probe.emit(("loop_closed", watch.number, self.probe.clock()))

    # -- looks ---------------------------------------------------------------------------------------------

    def job(self, now_ns: int) -> None:  # noqa: ARG002 - jobs get the time; we read it when we have looked
        """Look at each loop once. If that fails, no loop is watched any more."""
        lock = self._lock
        if not lock.acquire(timeout=self._period_ns / 1e9):
            self._missed += 1
            if self._missed >= _MISSED:
                self._lock = allocate_lock()
            return
        self._missed = 0
        try:
            self._look()
        except Exception as exc:
            self._give_up(exc)
        finally:
            self._release(lock)

    def _look(self) -> None:
        if self._all_rest():
            return
        watches = [watch for watch in list(self._running.values()) if not self._lost(watch)]
        if not watches:
            return
        for watch in watches:
            self._tell(watch.collect())
        gap = 0 if self._last_ns is None else self.probe.clock() - self._last_ns
        late = gap >= self._period_ns + self._blocked_ns // 2
        suspects = [watch for watch in watches if late or watch.tracker.suspicious]
        places, busy = self._places(watches, suspects)
        own, switches = thread_time_ns(), self._switches()
        now = self._last_ns = self.probe.clock()
        if now - self._baseline_ns >= BASELINE_NS:
            self._baseline_ns = now
            self._threads.read(None)
        self._gc_time.total_ns(now)
        interval_ns = int(self.probe.settings.sample_interval * 1e9)
        for watch, (root, lines) in places.items():
            before = watch.counters
            reading = self._reading(now, thread_cpu_ns(watch.native_id), own, switches)
            self._tell(watch.look(reading, root, lines, busy, suspected=watch in suspects))
            asked = late or root is not None or _is_busy(before, watch.counters)
            self._ask_for_beat(watch, now, asked)
            self._tell(watch.tick(now, interval_ns))
            if watch in suspects and before is not None and watch.counters is not None:
                self._ask_kernel(watch, before, watch.counters)

    def _all_rest(self) -> bool:
        """Whether all loops have slept since the last look. Then this look is cheap: there is nothing to see."""
        now = self.probe.clock()
        watches = list(self._running.values())
        cpu = {}
        for watch in watches:
            cpu[watch] = thread_cpu_ns(watch.native_id)
            if not watch.unmoved(cpu[watch], now):
                return False
        own, switches = thread_time_ns(), self._switches()
        self._last_ns = now
        interval_ns = int(self.probe.settings.sample_interval * 1e9)
        for watch in watches:
            watch.rest(self._reading(now, cpu[watch], own, switches))
            self._tell(watch.tick(now, interval_ns))
        return True

    def _reading(self, now_ns: int, cpu_ns: int | None, own_ns: int = 0, switches: int | None = None) -> Reading:
        collected, overslept = self._gc_time.known_ns, _overslept_ns(self.probe)
        return Reading(now_ns, cpu_ns, process_time_ns(), own_ns, switches, collected, overslept)

    def _ask_for_beat(self, watch: LoopWatch, at_ns: int, asked: bool) -> None:
        try:
            watch.post(at_ns, asked=asked)
        except Exception as exc:
            self._drop(watch, exc)

    def _tell(self, messages: list[tuple[Any, ...]]) -> None:
        for message in messages:
            self.probe.emit(message)

    def _lost(self, watch: LoopWatch) -> bool:
        """Whether the loop is gone or has stopped unnoticed. Closes it then."""
        loop = watch.loop()
        try:
            running = False if loop is None else loop.is_running()
        except Exception as exc:
            self._drop(watch, exc)
            return True
        if running:
            watch.idle_since_ns = None
            return False
        now = self.probe.clock()
        if loop is not None and not watch.adopted:
            # `run_forever` has begun, and will say so in a moment, or has ended.
            watch.idle_since_ns = watch.idle_since_ns or now
            if now - watch.idle_since_ns < LOST_NS:
                return False
        self._end(watch)
        return True

    def _places(
        self, watches: list[LoopWatch], suspects: list[LoopWatch]
    ) -> tuple[dict[LoopWatch, tuple[object, Lines]], list[tuple[int, Lines, int]]]:
        """Return where each loop is and, if one may be held, what all threads are busy with."""
        decoys = [watch.decoys() for watch in watches]
        frames: dict[int, FrameType] = current_frames()
        places: dict[LoopWatch, tuple[object, Lines]] = {}
        try:
            for watch in watches:
                try:
                    frame = frames.get(watch.ident)
                    places[watch] = watch.locate(frame)
                    watch.gate = self._gate(watch, frame) if watch in suspects else ""
                except Exception as exc:
                    self._drop(watch, exc)
            loaded = any(
                watch.load.told and watch.looks % BUSY_LOOKS == 0 for watch in watches if watch.load is not None
            )
            busy = self._threads.read(frames) if suspects or loaded else []
        finally:
            # The dict has our own frame, and so refers to itself.
            frame = None
            frames.clear()
            decoys.clear()
        return places, busy

    def _gate(self, watch: LoopWatch, frame: FrameType | None) -> str:
        """Return what the thread of a loop waits for; "" if that is not known."""
        if not self._stops_made:
            self._stops_made = True
            from poolscope.probe.loops.stops import LoopStops

            self._stops = LoopStops(self.probe.notice)
        if self._stops is None:
            return ""
        try:
            return self._stops(frame, watch.loop())
        except Exception as exc:
            self._stops = None
            self.probe.fail(_PART, exc)
            return ""

    def _ask_kernel(self, watch: LoopWatch, before: Counters, now: Counters) -> None:
        """Ask the kernel about a loop that is off the CPU: what the clocks cannot tell.

        Also about one that does not wake up: else an answer from before would count for the whole block.
        """
        gap = max(1, now.at_ns - before.at_ns)
        if now.loop_cpu_ns is None or before.loop_cpu_ns is None:
            return
        if now.loop_cpu_ns - before.loop_cpu_ns >= _HALF * gap:
            watch.meter.measured_delay(now.at_ns, None)
        elif now.other_cpu_ns - before.other_cpu_ns < _SOME * gap:
            watch.meter.measured_delay(self.probe.clock(), run_delay_ns(watch.native_id))
            watch.meter.saw_kernel(kernel_wait(watch.native_id))
        elif watch.looks % KERNEL_LOOKS == 0:
            watch.meter.saw_kernel(kernel_wait(watch.native_id))


def _is_busy(before: Counters | None, now: Counters | None) -> bool:
    """Whether a loop that is seen between two callbacks is busy all the same.

    A loop that polls often gives the GIL away there each time, so that we mostly find it there.
    """
    if before is None or now is None or before.loop_cpu_ns is None or now.loop_cpu_ns is None:
        return False
    return now.loop_cpu_ns - before.loop_cpu_ns >= _BUSY * (now.at_ns - before.at_ns)


def _overslept_ns(probe: Any) -> int | None:
    """Return by how much the probe's thread has woken up too late in total, if it measures that."""
    overslept: int | None = getattr(probe, "overslept_ns", None)
    return overslept
