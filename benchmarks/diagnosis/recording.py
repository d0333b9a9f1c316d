"""What a labelled program keeps of itself, by its own clock and without poolscope: the realised log of a run.

Standard library only: it runs inside the watched program. Lists are appended to from several threads (one operation
each, atomic in CPython) and read when all of them are done.
"""

import json
import random
import threading
import time
from concurrent.futures import Future
from contextlib import contextmanager
from multiprocessing.pool import ThreadPool

FAMILIES = {}
#: A pool without a name is called by where it was made.
THREADS = "benchmarks.diagnosis.recording:Recording.threads.pool"


class Expected:
    """What is right to say of one subject (a pool, or the loop "loop"), by construction.

    `pattern` None: nothing above info. "saturated": `serial` or `async_then_serial`, which of them the realised log
    decides. `cause`: one, or several that are equally right. `line`: the comment `# <- line` marks it. `limit`: so many
    tasks at a time pass what the workers queue for, if the recording does not say. `full`: it is so from the moment of
    that name on, whether tasks wait or not. `size`: "replay" (the number of an independent replay), "none" (a number
    would be wrong) or "any". `optional`: it is right, too, not to see it at all.
    """

    def __init__(
        self,
        name="pool",
        pattern=None,
        cause=(),
        *,
        line=None,
        action=None,
        limit=None,
        info=False,
        size="none",
        full=False,
        optional=False,
    ):
        self.name = name
        self.pattern = pattern
        self.causes = (cause,) if isinstance(cause, str) else cause
        self.line = line
        self.action = action
        self.limit = limit
        self.info = info
        self.size = size
        self.full = full
        self.optional = optional


class Family:
    """A generator of programs. `alone`: no other program may run beside it. `burners`: computing processes that do."""

    def __init__(self, run, expected, settings, alone, burners):
        self.name = run.__name__
        self.run = run
        self.expected = expected
        self.settings = settings
        self.alone = alone or burners > 0
        self.burners = burners


def family(*expected, settings=None, alone=False, burners=0):
    def register(run):
        FAMILIES[run.__name__] = Family(run, expected, settings or {}, alone, burners)
        return run

    return register


class Task:
    """Stamps of one task, ns. `with task:` is its run; it travels to a worker process and back."""

    __slots__ = ("cancelled", "ended", "started", "submitted")

    def __init__(self):
        self.started = self.ended = self.cancelled = None
        self.submitted = time.monotonic_ns()

    def __enter__(self):
        self.started = time.monotonic_ns()
        return self

    def __exit__(self, *_):
        self.ended = time.monotonic_ns()


class Pool:
    """An executor of the standard library, and the log of what it was given."""

    def __init__(self, executor, workers):
        self.executor = executor
        self.workers = workers
        self.tasks = []
        self.futures = []

    def submit(self, function, *arguments):
        task = Task()
        self.tasks.append(task)
        future = self.executor.submit(function, task, *arguments)
        self.futures.append(future)
        return future

    def cancel(self, future):
        if future.cancel():
            self.tasks[self.futures.index(future)].cancelled = time.monotonic_ns()

    def map(self, function, values):
        def stamped():
            for _ in values:
                task = Task()
                self.tasks.append(task)
                yield task

        return list(self.executor.map(function, stamped(), values))

    def play(self, schedule):
        """Submits (at, function, arguments...) when its time has come, in seconds from now; a late one at once."""
        begin = time.monotonic()
        for at, function, *arguments in schedule:
            delay = begin + at - time.monotonic()
            if delay > 0:
                time.sleep(delay)
            self.submit(function, *arguments)

    def close(self):
        self.executor.shutdown(wait=True)

    def log(self):
        # What comes back from another process is a copy with the stamps of over there.
        for index, future in enumerate(self.futures):
            if not future.cancelled() and future.exception() is None and isinstance(future.result(), Task):
                self.tasks[index] = future.result()
        return {
            "workers": self.workers,
            "tasks": [[task.submitted, task.started, task.ended, task.cancelled] for task in self.tasks],
        }


class Threads:
    """A `multiprocessing.pool.ThreadPool` with the face of an executor."""

    def __init__(self, pool):
        self.pool = pool

    def submit(self, function, *arguments):
        future = Future()
        self.pool.apply_async(function, arguments, callback=future.set_result, error_callback=future.set_exception)
        return future

    def shutdown(self, wait):
        self.pool.close()
        if wait:
            self.pool.join()


class Recording:
    """One run: its random numbers, its pools, the blocks of its loop and single moments, ns."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.pools = {}
        self.blocks = []
        self.moments = {}
        #: So many tasks at a time pass what the workers queue for, where the seed decides.
        self.limit = None
        #: Seconds of work in each task, where the rest of its run is spent in a queue.
        self.working = None
        self.clocks = time.time(), time.monotonic_ns()

    def pool(self, executor, name="pool"):
        made = self.pools[name] = Pool(executor, executor._max_workers)
        return made

    def threads(self, workers):
        pool = ThreadPool(workers)
        made = self.pools[THREADS] = Pool(Threads(pool), workers)
        return made

    @contextmanager
    def block(self):
        begin = time.monotonic_ns()
        yield
        self.blocks.append([begin, time.monotonic_ns()])

    def moment(self, name):
        """Remembers the first time that this was called with that name."""
        self.moments.setdefault(name, time.monotonic_ns())

    def write(self, path):
        for pool in self.pools.values():
            pool.close()
        log = {
            "clocks": self.clocks,
            "ended": time.monotonic_ns(),
            "pools": {name: pool.log() for name, pool in self.pools.items()},
            "blocks": self.blocks,
            "moments": self.moments,
            "limit": self.limit,
            "working": self.working,
        }
        with open(path, "w") as file:
            json.dump(log, file)


def arrivals(rng, phases, *, regular=False, begin=0.0):
    """Moments of a load in phases of (seconds, arrivals a second, and at its end if it ramps), Poisson or regular."""
    for seconds, rate, *last in phases:
        last = last[0] if last else rate
        at = 0.0
        while True:
            now = rate + (last - rate) * min(1.0, at / seconds)
            at += 1 / now if regular else rng.expovariate(now)
            if at >= seconds:
                break
            yield begin + at
        begin += seconds


def in_threads(count, function, *arguments):
    """Starts `function` in threads that do not keep the program alive."""
    threads = [threading.Thread(target=function, args=arguments, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads
