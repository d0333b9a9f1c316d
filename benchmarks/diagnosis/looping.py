"""Programs around an event loop: healthy, and blocked in each way."""

import asyncio
import gc
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.diagnosis.healthy import fetch, size_and_run
from benchmarks.diagnosis.recording import Expected, Task, arrivals, family, in_threads
from benchmarks.diagnosis.waiting import TOO_SMALL, phases

SECONDS = 7.0


def burn(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(500))  # <- burn


async def client(rng, end):
    """One of many that keep a loop alive."""
    while time.monotonic() < end:
        await asyncio.sleep(rng.uniform(0.02, 0.1))
        sum(range(200))


async def serve(recording, *others):
    rng = recording.random
    end = time.monotonic() + SECONDS
    await asyncio.gather(*(client(rng, end) for _ in range(rng.randint(10, 60))), *others)


async def now_and_then(recording, call, *, times=None):
    """Calls `call(seconds)` in the loop, for 0.12 to 0.3 s each, with pauses."""
    rng = recording.random
    await asyncio.sleep(rng.uniform(0.5, 1.5))
    for _ in range(times or rng.randint(4, 8)):
        seconds = rng.uniform(0.12, 0.3)
        with recording.block():
            call(seconds)
        await asyncio.sleep(rng.uniform(0.3, 0.7))


def blocked(cause, line, action):
    return Expected("loop", "loop_blocked", cause, line=line, action=action)


@family(Expected("loop"))
def loop_healthy(recording):
    asyncio.run(serve(recording))


@family(Expected("loop"), burners=2)
def loop_host_under_load(recording):
    asyncio.run(serve(recording))


@family(Expected("loop"))
def loop_with_short_calls(recording):
    """Calls that hold the loop for less than anybody notices."""
    asyncio.run(serve(recording, now_and_then(recording, lambda seconds: time.sleep(seconds / 6))))


@family(blocked("blocking_call", "sleep", "await_instead"))
def loop_sleeps(recording):
    def call(seconds):
        time.sleep(seconds)  # <- sleep

    asyncio.run(serve(recording, now_and_then(recording, call)))


@family(blocked("blocking_call", "sleep once", "await_instead"))
def loop_sleeps_once(recording):
    def call(seconds):
        time.sleep(1.0 + seconds)  # <- sleep once

    asyncio.run(serve(recording, now_and_then(recording, call, times=1)))


@family(Expected("loop"))
def loop_that_ends_in_a_call(recording):
    """What ends a server writes something down, in a task that the main one waits for: nobody else is there."""

    async def end():
        await asyncio.sleep(0.8)  # the others are gone for long
        time.sleep(recording.random.uniform(1.0, 1.5))

    async def main():
        await serve(recording)
        await asyncio.create_task(end())

    asyncio.run(main())


@family(blocked("blocking_call", "receive", "await_instead"))
def loop_reads_a_socket(recording):
    here, there = socket.socketpair()

    def answer():
        while request := there.recv(8):
            time.sleep(float(request))
            there.sendall(b"done")

    def call(seconds):
        here.sendall(f"{seconds:.6f}".encode())
        here.recv(8)  # <- receive

    in_threads(1, answer)
    asyncio.run(serve(recording, now_and_then(recording, call)))
    here.close()


@family(blocked("blocking_call", "acquire", "await_instead"))
def loop_waits_for_a_lock(recording):
    lock, taken, wanted = threading.Lock(), threading.Event(), []

    def hold():
        while True:
            while not wanted:
                time.sleep(0.001)
            with lock:
                taken.set()
                time.sleep(wanted.pop())

    def call(seconds):
        taken.clear()
        wanted.append(seconds)
        taken.wait()
        with lock:  # <- acquire
            pass

    in_threads(1, hold)
    asyncio.run(serve(recording, now_and_then(recording, call)))


@family(blocked("cpu_bound", "burn", "use_process_pool"), alone=True)
def loop_computes(recording):
    asyncio.run(serve(recording, now_and_then(recording, burn)))


def hold_the_gil(recording, numbers, pauses):
    for pause in pauses:
        time.sleep(pause)
        with recording.block():
            sum(numbers)  # <- hold


@family(blocked("gil_contention", "hold", "use_process_pool"), alone=True)
def loop_beside_a_long_c_call(recording):
    """Another thread is in C code that does not let go of the GIL."""
    rng = recording.random
    begin = time.perf_counter()
    sum(range(1_000_000))
    million = time.perf_counter() - begin
    numbers = range(int(rng.uniform(0.2, 0.35) / million * 1_000_000))
    pauses = [rng.uniform(0.4, 0.8) for _ in range(6)]
    thread = threading.Thread(target=hold_the_gil, args=(recording, numbers, pauses))
    thread.start()
    asyncio.run(serve(recording))
    thread.join()


@family(blocked("gil_contention", "burn", "use_process_pool"), alone=True)
def loop_beside_computing_threads(recording):
    """Many threads compute, and the loop gets the GIL as one of them."""
    rng = recording.random
    count = rng.randint(30, 45)

    async def crowd():
        await asyncio.sleep(1)
        with recording.block():
            threads = in_threads(count, burn, 3.0 / count)
            while any(thread.is_alive() for thread in threads):
                await asyncio.sleep(0.01)

    asyncio.run(serve(recording, crowd()))


class Node:
    def __init__(self, other):
        self.other = other


@family(Expected("loop", "loop_blocked", "gc", info=True), alone=True)
def loop_collects_garbage(recording):
    """A large heap in cycles, and the collector at work in the loop's thread."""
    rng = recording.random
    gc.disable()
    kept = []
    begin = 0.0
    while begin < rng.uniform(0.2, 0.3):
        for _ in range(200_000):
            node = Node(None)
            node.other = Node(node)
            kept.append(node)
        before = time.perf_counter()
        gc.collect()
        begin = time.perf_counter() - before
    asyncio.run(serve(recording, now_and_then(recording, lambda _: gc.collect(), times=4)))


DEFAULT = "asyncio"


@family(
    Expected(DEFAULT, "saturated", "blocking_io", line="fetch", action="raise_max_workers", size="replay"),
    Expected("loop"),
)
def loop_fills_its_default_executor(recording):
    """`asyncio.to_thread` for everything: the threads of the loop are a pool like any other."""
    rng = recording.random
    run = rng.uniform(0.2, 0.4)

    async def feed():
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(int)
        pool = recording.pool(loop._default_executor, DEFAULT)
        begin, waiting = loop.time(), []
        for at in arrivals(rng, phases(rng, pool.workers / run)):
            await asyncio.sleep(max(0.0, begin + at - loop.time()))
            task = Task()
            pool.tasks.append(task)
            waiting.append(asyncio.ensure_future(asyncio.to_thread(fetch, task, run)))
        await asyncio.gather(*waiting)

    asyncio.run(serve(recording, feed()))


@family(TOO_SMALL, Expected("loop"))
def loop_feeds_a_full_pool(recording):
    """The pool is too small; the loop that waits for it is fine."""
    rng = recording.random
    workers, run = size_and_run(rng)
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))

    async def feed():
        begin = time.monotonic()
        waiting = []
        for at in arrivals(rng, phases(rng, workers / run)):
            await asyncio.sleep(max(0.0, begin + at - time.monotonic()))
            waiting.append(asyncio.wrap_future(pool.submit(fetch, run)))
        await asyncio.gather(*waiting)

    asyncio.run(serve(recording, feed()))
