"""The probe's one background thread, and the jobs that it runs."""

from __future__ import annotations

import sys

from poolscope.probe.interpreter.native_thread import NativeThread
from poolscope.probe.interpreter.unpatched import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Clock = Callable[[], int]

#: The longest sleep between two looks at the jobs (s).
_LONGEST_WAIT = 1.0


class Job:
    """A job to run every `period_ns`. A late one runs once, not as often as it was missed.

    `due_ns` is written by the thread that ticks, and by `wake` while none does; `period_ns` may be set by any thread.
    """

    __slots__ = ("due_ns", "part", "period_ns", "run")

    def __init__(self, part: str, period_ns: int, run: Callable[[int], object], now_ns: int) -> None:
        self.part = part
        self.period_ns = period_ns
        self.run = run
        self.due_ns = now_ns + period_ns


class Ticker:
    """Jobs, and the thread that runs them from the first `wake` on.

    `wake`, `add` and `stop` may be called by any thread. At most one thread is meant to run; one that did not
    stop in time ends as soon as it sees that it should.
    """

    def __init__(
        self,
        clock: Clock,
        failed: Callable[[str, BaseException], object],
        last: Callable[[], object] = lambda: None,
    ) -> None:
        """`failed(part, exc)` is called for jobs that raise; `last` is called when the thread has been told to
        stop.
        """
        self._clock = clock
        self._failed = failed
        self._last = last
        self._jobs: list[Job] = []
        #: How late the thread has woken up, in total (ns): no thread runs while the process is stopped or starved.
        self.overslept_ns = 0
        self._life: NativeThread | None = None
        self._starting = allocate_lock()
        # Locked, except when another thread wants to wake ours: to wait for it with a timeout is our sleep.
        self._call = allocate_lock()
        self._call.acquire()

    @property
    def running(self) -> bool:
        """Whether the thread has been started and not been told to stop."""
        return self._life is not None

    def add(self, part: str, period_ns: int, run: Callable[[int], object]) -> Job:
        """Have `run(now_ns)` called each `period_ns`, first after one period. One that raises is taken out."""
        job = Job(part, period_ns, run, self._clock())
        self._jobs.append(job)
        self._interrupt()
        return job

    def remove(self, job: Job) -> None:
        """Remove a job. Does nothing if it is not there."""
        try:
            self._jobs.remove(job)
        except ValueError:
            pass

    def tick(self) -> None:
        """Do what is due, in the calling thread."""
        for job in list(self._jobs):
            now = self._clock()
            if now < job.due_ns or job not in self._jobs:
                continue
            job.due_ns = now + job.period_ns
            try:
                job.run(now)
            except BaseException as exc:  # SystemExit too: no job may end the thread that other jobs need
                self.remove(job)
                self._failed(job.part, exc)

    def seconds_to_next(self) -> float:
        """Return how long (ns) nothing will be due, unless a new job comes."""
        due = min([job.due_ns for job in list(self._jobs)], default=None)
        if due is None:
            return _LONGEST_WAIT
        return min(max(0.0, (due - self._clock()) / 1e9), _LONGEST_WAIT)

    def wake(self) -> None:
        """Start the thread if it is not running. Raises RuntimeError if the system gives us none."""
        # Never waits for the lock: a finalizer or signal handler may come here in the thread that holds it.
        if self._life is not None or not self._starting.acquire(blocking=False):
            return
        try:
            if self._life is None:
                life = self._life = NativeThread()
                now = self._clock()
                for job in list(self._jobs):
                    # Not at once: the program runs its first task.
                    job.due_ns = max(job.due_ns, now + job.period_ns)
                try:
                    life.begin(self._live)
                except BaseException:
                    self._life = None
                    raise
        finally:
            self._starting.release()

    def stop(self, timeout: float) -> bool:
        """Tell the thread to end, and wait for that `timeout` seconds at most. Returns whether it was
        running.

        For a fork and for the end of the process: what is recorded after it stays where it is until the next
        `wake`.
        """
        life, self._life = self._life, None
        if life is None:
            return False
        life.end(self._interrupt, timeout)
        return True

    def _interrupt(self) -> None:
        try:
            self._call.release()
        except RuntimeError:
            pass  # it was called already, and the thread has yet to wake up

    def _live(self, life: NativeThread) -> None:
        try:
            while not life.stopping:
                wanted = self.seconds_to_next()
                before = self._clock()
                if not self._call.acquire(timeout=wanted):
                    self.overslept_ns += max(0, self._clock() - before - round(wanted * 1e9))
                if not life.stopping:
                    self.tick()
            self._last()
        except BaseException as exc:
            # While the interpreter shuts down, names may be gone already: that is no failure.
            if sys is not None and not sys.is_finalizing():
                self._failed("thread", exc)
        finally:
            if self._life is life:
                self._life = None
