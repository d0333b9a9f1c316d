"""Programs whose event loop has no rest, or has threads behind it, and their healthy twins."""

import asyncio
import hashlib
import logging.handlers
import queue
import re
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.diagnosis.looping import SECONDS, blocked, burn, now_and_then, serve
from benchmarks.diagnosis.recording import Expected, arrivals, family, in_threads
from benchmarks.diagnosis.waiting import phases

#: Seconds before a loop becomes full, and for how long it is.
CALM, FULL = 2.0, 8.0


def full(cause, line=None, action=None):
    return Expected("loop", "loop_full", cause, line=line, action=action)


def prepare(seconds):
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        sum(range(500))  # <- prepare


async def request(seconds):
    await asyncio.sleep(0.005)
    prepare(seconds)
    await asyncio.sleep(0.005)


async def requests(recording, load):
    """Requests that compute for 15 to 40 ms each, at so much of what one loop can do."""
    rng = recording.random
    seconds = rng.uniform(0.015, 0.04)
    await asyncio.sleep(CALM)
    begin, waiting = asyncio.get_running_loop().time(), []
    with recording.block():
        for at in arrivals(rng, [(FULL, load / seconds)], regular=True):
            await asyncio.sleep(max(0.0, begin + at - asyncio.get_running_loop().time()))
            waiting.append(asyncio.ensure_future(request(seconds)))
        await asyncio.gather(*waiting)


@family(full("cpu_bound", "prepare", "use_process_pool"), alone=True)
def loop_full_of_computing(recording):
    """More requests than one loop can compute, none of which takes as long as a block."""
    asyncio.run(requests(recording, recording.random.uniform(1.2, 1.6)))


@family(Expected("loop"), alone=True)
def loop_with_room(recording):
    """The same with rest between them."""
    asyncio.run(requests(recording, recording.random.uniform(0.3, 0.6)))


async def step(end):
    while time.monotonic() < end:
        await asyncio.sleep(0)


@family(full("many_callbacks", action="do_less"), alone=True)
def loop_full_of_steps(recording):
    """Tasks that are always due, with next to nothing to do."""

    async def crowd():
        await asyncio.sleep(CALM)
        end = time.monotonic() + FULL
        with recording.block():
            await asyncio.gather(*(step(end) for _ in range(recording.random.randint(20, 200))))

    asyncio.run(crowd())


@family(Expected("loop"))
def loop_with_one_busy_task(_recording):
    """A program that computes in its one coroutine: no other task waits for it."""

    async def alone():
        end = time.monotonic() + FULL
        while time.monotonic() < end:
            prepare(0.02)
            await asyncio.sleep(0)

    asyncio.run(alone())


@family(blocked("blocking_call", "own result", "await_instead"))
def loop_waits_for_its_own_coroutine(recording):
    """`run_coroutine_threadsafe(...).result()` in the loop's own thread, which only a timeout ends."""

    async def answer():
        return None

    loops = []

    def call(seconds):
        future = asyncio.run_coroutine_threadsafe(answer(), loops[0])
        try:
            future.result(timeout=seconds)  # <- own result
        except TimeoutError:
            pass

    async def main():
        loops.append(asyncio.get_running_loop())
        await serve(recording, now_and_then(recording, call))

    asyncio.run(main())


@family(blocked("cpu_bound", "hash", "move_to_thread"), alone=True)
def loop_hashes(recording):
    """What lets go of the GIL while it computes."""
    begin = time.thread_time()
    hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 100_000)
    rounds = 100_000 / (time.thread_time() - begin)

    def call(seconds):
        hashlib.pbkdf2_hmac("sha256", b"password", b"salt", int(rounds * seconds))  # <- hash

    asyncio.run(serve(recording, now_and_then(recording, call)))


def answer_records(listening):
    """A collector of logs that answers each record after so many seconds as its text says."""
    while True:
        connection, _ = listening.accept()
        with connection:
            found = re.search(rb"[?&]msg=([0-9.]+)&", connection.recv(1 << 16))
            time.sleep(float(found[1]))
            connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n")


def log_to_a_collector():
    listening = socket.create_server(("127.0.0.1", 0))
    in_threads(1, answer_records, listening)
    log = logging.getLogger("loop")
    log.propagate = False
    return log, logging.handlers.HTTPHandler(f"127.0.0.1:{listening.getsockname()[1]}", "/")


@family(blocked("blocking_call", "log", "move_to_thread"))
def loop_logs_to_a_slow_collector(recording):
    """A handler of the standard library sends each record from the loop, and waits for the answer."""
    log, handler = log_to_a_collector()
    log.addHandler(handler)

    def call(seconds):
        log.warning(f"{seconds:.6f}")  # <- log

    asyncio.run(serve(recording, now_and_then(recording, call)))


@family(Expected("loop"))
def loop_logs_to_a_listener(recording):
    """The same handler in a thread of its own."""
    log, handler = log_to_a_collector()
    records = queue.SimpleQueue()
    log.addHandler(logging.handlers.QueueHandler(records))
    listener = logging.handlers.QueueListener(records, handler)
    listener.start()
    asyncio.run(serve(recording, now_and_then(recording, lambda seconds: log.warning(f"{seconds:.6f}"))))
    listener.stop()


def behind_a_loop(recording, work, rate):
    """A pool whose tasks hand coroutines to a loop in a thread of its own, and wait for them."""
    rng = recording.random
    loop = asyncio.new_event_loop()
    (thread,) = in_threads(1, loop.run_forever)
    pool = recording.pool(ThreadPoolExecutor(rng.randint(6, 10), "pool"))

    def handle(task):
        with task:
            asyncio.run_coroutine_threadsafe(work(), loop).result()  # <- handle
        return task

    pool.play([(at, handle) for at in arrivals(rng, phases(rng, rate(pool.workers), over_seconds=6.0), regular=True)])
    pool.close()
    loop.call_soon_threadsafe(loop.stop)
    thread.join(SECONDS)


@family(
    Expected("pool", "saturated", "downstream_pool", line="handle", action="see_pool", limit=1),
    blocked("blocking_call", "convert", "await_instead"),
)
def pool_behind_a_blocked_loop(recording):
    """What the workers wait for runs in one loop, which a call holds each time."""
    seconds = recording.random.uniform(0.15, 0.3)

    async def convert():
        await asyncio.sleep(0.01)
        with recording.block():
            time.sleep(seconds)  # <- convert

    behind_a_loop(recording, convert, lambda _: 1 / (seconds + 0.01))


@family(
    Expected("pool", "saturated", "blocking_io", line="handle", action="raise_max_workers", size="replay"),
    Expected("loop"),
)
def pool_behind_a_loop_with_room(recording):
    """The coroutines wait side by side, and more workers would have more of them do so."""
    seconds = recording.random.uniform(0.2, 0.4)

    async def convert():
        await asyncio.sleep(seconds)

    behind_a_loop(recording, convert, lambda workers: workers / seconds)


@family(Expected("loop"), alone=True)
def loop_that_starts_threads(recording):
    """Threads are started in the loop while others compute: the loop waits for the GIL with them."""

    async def starts():
        end = time.monotonic() + SECONDS
        threads = in_threads(2, burn, SECONDS / 4)
        while time.monotonic() < end:
            threading.Thread(target=int).start()
            await asyncio.sleep(0.05)
        for thread in threads:
            thread.join()

    asyncio.run(serve(recording, starts()))
