"""Programs whose workers wait for something: too few of them, something scarcer than the pool, or each other."""

import fcntl
import multiprocessing
import queue
import socket
import sqlite3
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

from benchmarks.diagnosis.healthy import ask, consume, export, fetch, size_and_run
from benchmarks.diagnosis.recording import THREADS, Expected, arrivals, family, in_threads

TOO_SMALL = Expected("pool", "saturated", "blocking_io", line="fetch", action="raise_max_workers", size="replay")


def phases(rng, capacity, *, over=(1.5, 2.5), calm_seconds=3.0, over_seconds=3.0):
    """A calm time, then too much, in tasks a second."""
    return [(calm_seconds, rng.uniform(0.3, 0.6) * capacity), (over_seconds, rng.uniform(*over) * capacity)]


def overload(recording, *, exponential=False):
    rng = recording.random
    workers, run = size_and_run(rng)
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    times = arrivals(rng, phases(rng, workers / run))
    pool.play([(at, fetch, rng.expovariate(1 / run) if exponential else run) for at in times])


@family(TOO_SMALL)
def sudden_overload(recording):
    overload(recording)


@family(TOO_SMALL)
def sudden_overload_exponential(recording):
    overload(recording, exponential=True)


@family(TOO_SMALL, burners=2)
def overload_host_under_load(recording):
    overload(recording)


@family(TOO_SMALL)
def ramp(recording):
    rng = recording.random
    workers, run = size_and_run(rng)
    full = workers / run
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    load = [(6.0, 0.3 * full, rng.uniform(1.8, 2.4) * full)]
    pool.play([(at, fetch, run) for at in arrivals(rng, load, regular=rng.random() < 0.5)])


@family(TOO_SMALL)
def flapping(recording):
    """Too much for a second, and calm again, three times."""
    rng = recording.random
    workers, run = size_and_run(rng)
    full = workers / run
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    high, calm = rng.uniform(1.8, 2.4), rng.uniform(2.0, 2.6)
    pool.play([(at, fetch, run) for at in arrivals(rng, [(1.0, high * full), (calm, 0.2 * full)] * 3)])


@family(TOO_SMALL)
def slower_service(recording):
    """What the tasks wait for takes longer from some moment on, however many of them there are."""
    rng = recording.random
    workers, run = rng.choice((6, 8, 12)), rng.uniform(0.04, 0.08)
    load, slow = rng.uniform(0.35, 0.5), rng.uniform(3.5, 4.5)
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    times = arrivals(rng, [(7.0, load * workers / run)])
    pool.play([(at, fetch, (slow if at > 4 else 1) * run * rng.uniform(0.9, 1.1)) for at in times])


@family(Expected("pool", "saturated", "blocking_io", line="fetch", size="none"))
def clients_that_wait(recording):
    """A closed loop: what each client submits next depends on when its last task was done."""
    rng = recording.random
    workers, run = rng.choice((2, 3, 4)), rng.uniform(0.03, 0.1)
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    end = time.monotonic() + 6

    def client():
        while time.monotonic() < end:
            pool.submit(fetch, run).result()

    for thread in in_threads(workers * rng.randint(3, 5), client):
        thread.join()


def two_stages(task, first, second):
    with task:
        time.sleep(first)  # <- first stage
        time.sleep(second)
    return task


@family(Expected("pool", "saturated", "blocking_io", line="first stage", action="raise_max_workers", size="replay"))
def two_stage_overload(recording):
    """Nearly all are at one line and a few at another, and nothing is scarce."""
    rng = recording.random
    workers, run = rng.choice((8, 12)), rng.uniform(0.06, 0.15)
    second = run * rng.uniform(0.08, 0.2)
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    times = arrivals(rng, phases(rng, workers / (run + second)))
    pool.play([(at, two_stages, run, second) for at in times])


@family(Expected("pool", "batch", "blocking_io", line="first stage", action="none", info=True))
def two_stage_batch(recording):
    """The same, all at once, so that nobody saw how long a task takes alone."""
    rng = recording.random
    workers, run = rng.choice((8, 12)), rng.uniform(0.06, 0.15)
    stages = [(run * rng.uniform(0.5, 1.5), run * rng.uniform(0.05, 0.25)) for _ in range(int(4 * workers / run))]
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    for future in [pool.submit(two_stages, *stage) for stage in stages]:
        future.result()


NAME = "benchmarks.diagnosis.waiting:process_overload.executor"


@family(Expected(NAME, "saturated", "blocking_io", action="raise_max_workers", size="replay"))
def process_overload(recording):
    rng = recording.random
    workers, run = rng.choice((2, 3, 4)), rng.uniform(0.04, 0.12)
    executor = ProcessPoolExecutor(workers, get_context("forkserver"))
    list(executor.map(time.sleep, [0.2] * workers))
    pool = recording.pool(executor, NAME)
    pool.play([(at, fetch, run) for at in arrivals(rng, phases(rng, workers / run))])


@family(Expected("pool", "serial", "single_worker", line="fetch", action="raise_max_workers", size="replay"))
def one_worker(recording):
    rng = recording.random
    run = rng.uniform(0.02, 0.06)
    pool = recording.pool(ThreadPoolExecutor(1, "pool"))
    pool.play([(at, fetch, run) for at in arrivals(rng, phases(rng, 1 / run))])


@family(Expected("pool", "async_then_serial", "slow_tasks", line="export", action="split_pool"))
def head_of_line(recording):
    """Many short tasks, and then a few long ones that take all workers."""
    rng = recording.random
    workers, short, long = rng.choice((4, 6, 8)), rng.uniform(0.01, 0.03), rng.uniform(1.0, 1.6)
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    load = [(at, fetch, short) for at in arrivals(rng, [(6.0, 0.3 * workers / short)])]
    load += [(2.5 + at, export, long) for at in arrivals(rng, [(3.0, rng.uniform(1.1, 1.6) * workers / long)])]
    pool.play(sorted(load, key=lambda entry: entry[0]))


@family(Expected("pool", "async_then_serial", "slow_tasks", line="consume", action="split_pool"))
def consumers_in_the_way(recording):
    """Consumers have taken most workers, and what is left is too little for the short tasks."""
    rng = recording.random
    consumers, left, run = rng.choice((4, 6)), rng.choice((1, 2)), rng.uniform(0.02, 0.05)
    items = queue.SimpleQueue()
    pool = recording.pool(ThreadPoolExecutor(consumers + left, "pool"))
    for _ in range(consumers):
        pool.submit(consume, items)
    pool.play([(at, fetch, run) for at in arrivals(rng, phases(rng, left / run))])
    for future in pool.futures[consumers:]:
        future.result()
    for _ in range(consumers):
        items.put(None)


@family(Expected(THREADS, "saturated", "blocking_io", line="fetch", action="raise_max_workers", size="replay"))
def multiprocessing_threads(recording):
    rng = recording.random
    workers, run = size_and_run(rng)
    pool = recording.threads(workers)
    pool.play([(at, fetch, run) for at in arrivals(rng, phases(rng, workers / run))])


# -- something scarcer than the pool ----------------------------------------------------------------------------


def scarce(line, limit=None):
    return Expected("pool", "saturated", "shared_resource", line=line, action="relieve_shared_resource", limit=limit)


def locked(task, lock, before, held):
    with task:
        time.sleep(before)
        with lock:  # <- lock
            time.sleep(held)
    return task


@family(scarce("lock", 1))
def lock_convoy(recording):
    rng = recording.random
    workers, held = rng.choice((8, 12, 16)), rng.uniform(0.015, 0.03)
    before = held * rng.uniform(0, 0.5)
    lock = threading.Lock()
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    times = arrivals(rng, phases(rng, 1 / held, over=(2.0, 2.8)))
    pool.play([(at, locked, lock, before, held) for at in times])


@family(scarce("lock", 1))
def lock_convoy_at_once(recording):
    """Nobody saw how long a task takes alone: only the lines tell."""
    rng = recording.random
    workers, held = rng.choice((8, 12, 16)), rng.uniform(0.015, 0.03)
    before = held * rng.uniform(0, 0.3)
    lock = threading.Lock()
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    for future in [pool.submit(locked, lock, before, held) for _ in range(int(5 / held))]:
        future.result()


def locked_in_one_line(task, lock, held):
    with task:
        _ = lock.acquire(), time.sleep(held), lock.release()  # <- lock
    return task


@family(scarce("lock", 1))
def lock_in_one_line(recording):
    """Who waits is at the same line as who goes on."""
    rng = recording.random
    workers, held = rng.choice((4, 8, 12)), rng.uniform(0.015, 0.03)
    lock = threading.Lock()
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    for future in [pool.submit(locked_in_one_line, lock, held) for _ in range(int(5 / held))]:
        future.result()


def locked_first(task, lock, held, after):
    with task:
        with lock:  # <- lock
            time.sleep(held)
        time.sleep(after)
    return task


@family(scarce("lock", 1))
def lock_before_work(recording):
    """Most workers are at what comes after the lock, and yet it is the lock that limits them."""
    rng = recording.random
    workers, held = rng.choice((8, 12, 16)), rng.uniform(0.015, 0.03)
    after = held * rng.uniform(0.3, 0.7) * workers
    lock = threading.Lock()
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    for future in [pool.submit(locked_first, lock, held, after) for _ in range(int(5 / held))]:
        future.result()


def pooled_query(task, connections, held):
    with task:
        connection = connections.get()  # <- connection
        time.sleep(held)
        connections.put(connection)
    return task


def gated_query(task, slots, held):
    with task, slots:  # <- connection
        time.sleep(held)
    return task


def connecting(recording, load, large=False, working=False):
    """A pool of few connections, or of half as many as workers and more; `load` gives the moments of tasks for so many
    a second."""
    rng = recording.random
    workers, count, held = rng.choice((12, 16)), rng.choice((2, 3, 4)), rng.uniform(0.04, 0.08)
    if large:
        workers, count = rng.choice(((8, 4), (8, 5), (12, 6), (12, 8), (16, 10)))
    recording.limit = count
    recording.working = held if working else None
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    times = load(rng, count / held)
    if rng.random() < 0.5:
        slots = threading.BoundedSemaphore(count)
        pool.play([(at, gated_query, slots, held) for at in times])
        return
    connections = queue.Queue()
    for number in range(count):
        connections.put(number)
    pool.play([(at, pooled_query, connections, held) for at in times])


@family(scarce("connection"))
def connection_pool(recording):
    connecting(recording, lambda rng, full: arrivals(rng, phases(rng, full, over=(2.0, 2.8))))


@family(scarce("connection"))
def connection_pool_at_once(recording):
    connecting(recording, lambda rng, full: [0.0] * int(rng.uniform(4, 6) * full))


@family(scarce("connection"))
def large_connection_pool(recording):
    connecting(recording, lambda rng, full: arrivals(rng, phases(rng, full, over=(2.0, 2.8))), large=True)


@family(scarce("connection"))
def large_connection_pool_at_once(recording):
    connecting(recording, lambda rng, full: [0.0] * int(rng.uniform(4, 6) * full), large=True)


def write(task, path, held):
    with task:
        connection = sqlite3.connect(path, timeout=30, isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")  # <- sqlite
        connection.execute("INSERT INTO visits VALUES (1)")
        time.sleep(held)
        connection.execute("COMMIT")
        connection.close()
    return task


@family(scarce("sqlite", 1))
def sqlite_writers(recording):
    rng = recording.random
    workers, held = rng.choice((6, 8, 10)), rng.uniform(0.02, 0.04)
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "visits.db")
        sqlite3.connect(path).executescript("CREATE TABLE visits (number)")
        pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
        # The busy handler of SQLite backs off, so less gets done than 1 / held.
        pool.play([(at, write, path, held) for at in arrivals(rng, phases(rng, 0.8 / held, over=(1.6, 2.2)))])
        pool.close()


def counted(task, semaphore, held):
    with task:
        semaphore.acquire()  # <- semaphore
        time.sleep(held)
        semaphore.release()
    return task


@family(scarce("semaphore"))
def semaphore_in_c(recording):
    """No lock of Python's in sight: a semaphore of the system."""
    rng = recording.random
    workers, count, held = rng.choice((10, 12, 16)), rng.choice((1, 2, 3)), rng.uniform(0.03, 0.06)
    recording.limit = count
    semaphore = multiprocessing.Semaphore(count)
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    load = arrivals(rng, phases(rng, count / held, over=(2.0, 2.8)))
    pool.play([(at, counted, semaphore, held) for at in load])


def filed(task, path, held):
    with task, open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # <- flock
        time.sleep(held)
    return task


@family(scarce("flock", 1))
def file_lock(recording):
    rng = recording.random
    workers, held = rng.choice((6, 8, 12)), rng.uniform(0.02, 0.04)
    with tempfile.NamedTemporaryFile() as file:
        pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
        times = arrivals(rng, phases(rng, 1 / held, over=(2.0, 2.6)))
        pool.play([(at, filed, file.name, held) for at in times])
        pool.close()


def hand_over(task, items, seconds):
    with task:
        time.sleep(seconds)
        items.put(seconds)  # <- put
    return task


@family(scarce("put"))
def full_queue(recording):
    """What the tasks fill is emptied more slowly: whoever takes out of it is what is scarce."""
    rng = recording.random
    workers, takers, held = rng.choice((6, 8, 12)), rng.choice((1, 2)), rng.uniform(0.03, 0.06)
    items = queue.Queue(rng.choice((1, 8)))

    def take():
        while (seconds := items.get()) is not None:
            time.sleep(seconds)

    threads = in_threads(takers, take)
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    count = int(rng.uniform(4, 6) * takers / held)
    for future in [pool.submit(hand_over, items, held) for _ in range(count)]:
        future.result()
    for _ in range(takers):
        items.put(None)
    for thread in threads:
        thread.join()


def polite(task, lock, held):
    with task, lock:  # <- host
        time.sleep(held)
    return task


def served(task, address):
    with task, socket.create_connection(address) as connection:
        connection.sendall(b"get")
        connection.recv(8)  # <- answer
    return task


@contextmanager
def server(threads, seconds):
    """Answers so many requests at once, each after so long; gives its address. From outside, it is only slow."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:

        def answer():
            while (connection := listener.accept()[0]).recv(8):
                time.sleep(seconds)
                connection.sendall(b"done")
                connection.close()

        running = in_threads(threads, answer)
        yield listener.getsockname()
        for _ in running:
            socket.create_connection(listener.getsockname()).close()
        for thread in running:
            thread.join()


@family(scarce("answer"))
def small_server(recording):
    """No line tells who waits for whom. The tasks that fill the pool do: each of them takes longer than the last."""
    rng = recording.random
    workers, threads, held = rng.choice((10, 12, 16)), rng.choice((1, 2, 3)), rng.uniform(0.03, 0.06)
    with server(threads, held) as address:
        pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
        pool.play([(at, served, address) for at in arrivals(rng, phases(rng, threads / held, over=(2.0, 2.6)))])
        pool.close()


@family(scarce("answer"))
def small_server_at_once(recording):
    rng = recording.random
    workers, threads, held = rng.choice((8, 12, 16)), rng.choice((1, 2)), rng.uniform(0.03, 0.06)
    with server(threads, held) as address:
        pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
        for future in [pool.submit(served, address) for _ in range(int(rng.uniform(4, 6) * threads / held))]:
            future.result()
        pool.close()


@family(scarce("host"))
def locks_of_several(recording):
    """One at a time for each of a few hosts: how many go on at once varies, for chance may bring two of one host."""
    rng = recording.random
    workers, hosts, held = rng.choice((12, 16)), rng.choice((2, 3, 4)), rng.uniform(0.03, 0.06)
    locks = [threading.Lock() for _ in range(hosts)]
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    count = int(rng.uniform(4, 6) * hosts / held)
    for future in [pool.submit(polite, rng.choice(locks), held) for _ in range(count)]:
        future.result()


# -- other pools, and each other --------------------------------------------------------------------------------


@family(
    Expected("front", "saturated", "downstream_pool", line="ask", action="see_pool"),
    Expected("back", "saturated", "blocking_io", line="fetch", size="any"),
)
def downstream(recording):
    rng = recording.random
    small, run = rng.choice((2, 3)), rng.uniform(0.04, 0.08)
    front = recording.pool(ThreadPoolExecutor(small * rng.randint(4, 6), "front"), "front")
    back = recording.pool(ThreadPoolExecutor(small, "back"), "back")
    front.play([(at, ask, back, run) for at in arrivals(rng, phases(rng, small / run, over=(2.0, 2.8)))])
    front.close()


PATIENCE = 4.0


def ask_own_pool(task, recording, parents, pool, seconds):
    """Once all have asked, nobody is left to answer."""
    with task:
        time.sleep(seconds)
        child = pool.submit(fetch, seconds)
        parents.pop()
        if not parents:
            recording.moment("deadlock")
        try:
            child.result(timeout=PATIENCE)  # <- nested
        except TimeoutError:
            child.cancel()
    return task


@family(Expected("pool", "deadlock", "nested_wait", line="nested", action="avoid_nested_wait"))
def nested_deadlock(recording):
    rng = recording.random
    workers, run = rng.choice((2, 3, 4, 6)), rng.uniform(0.03, 0.1)
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    pool.play([(at, fetch, run) for at in arrivals(rng, [(2.0, 0.3 * workers / run)])])
    for future in list(pool.futures):
        future.result()
    parents = [None] * workers
    for future in [pool.submit(ask_own_pool, recording, parents, pool, run) for _ in range(workers)]:
        future.result()
    pool.play([(at, fetch, run) for at in arrivals(rng, [(1.0, 0.3 * workers / run)])])


def ask_other_pool(task, recording, waiting, hops, pools, seconds):
    """Front asks back, and back asks front, whose workers all wait for back by then."""
    with task:
        time.sleep(seconds)
        _, there = pools
        child = there.submit(ask_other_pool if hops else fetch, *_passed_on(recording, waiting, hops, pools, seconds))
        if not hops:
            waiting.pop()
            if not waiting:
                recording.moment("deadlock")
        try:
            child.result(timeout=PATIENCE)  # <- cross
        except TimeoutError:
            child.cancel()
    return task


def _passed_on(recording, waiting, hops, pools, seconds):
    return (recording, waiting, hops - 1, pools[::-1], seconds) if hops else (seconds,)


@family(
    Expected("front", "deadlock", "nested_wait", line="cross", action="avoid_nested_wait"),
    Expected("back", "deadlock", "nested_wait", line="cross", action="avoid_nested_wait"),
)
def cross_pool_deadlock(recording):
    rng = recording.random
    workers, run = rng.choice((2, 3, 4)), rng.uniform(0.03, 0.1)
    front = recording.pool(ThreadPoolExecutor(workers, "front"), "front")
    back = recording.pool(ThreadPoolExecutor(workers, "back"), "back")
    for pool in (front, back):
        pool.play([(at, fetch, run) for at in arrivals(rng, [(1.5, 0.3 * workers / run)])])
    for future in front.futures + back.futures:
        future.result()
    waiting = [None] * workers
    asked = [front.submit(ask_other_pool, recording, waiting, 1, (front, back), run) for _ in range(workers)]
    for future in asked:
        future.result()
    front.close()


# -- tasks that do not come back --------------------------------------------------------------------------------


def call(task, recording, stuck, answer, seconds):
    """Waits for an answer in `seconds`, or, once things are `stuck`, for one that does not come."""
    with task:
        if stuck and stuck.pop():
            recording.moment("stuck")
            answer.wait()  # <- hang
        else:
            time.sleep(seconds)
    return task


def hanging(recording, workers, hang, load):
    rng = recording.random
    run = rng.uniform(0.02, 0.06)
    stuck, answer = [], threading.Event()
    pool = recording.pool(ThreadPoolExecutor(workers, "pool"))
    plan = [(2.5, load * workers / run)]
    pool.play([(at, call, recording, stuck, answer, run) for at in arrivals(rng, plan)])
    stuck += [True] * hang
    pool.play([(at, call, recording, stuck, answer, run) for at in arrivals(rng, [(5.0, load * workers / run)])])
    answer.set()


@family(
    Expected("pool", "stuck_workers", "stuck_tasks", line="hang", action="add_timeout"),
    settings={"detection": {"stuck_task_seconds": 2.0}},
)
def stuck_tasks(recording):
    workers = recording.random.choice((6, 8, 10))
    hanging(recording, workers, recording.random.randint(1, workers // 3), recording.random.uniform(0.2, 0.35))


@family(
    Expected("pool", "stalled", "stuck_tasks", line="hang", action="add_timeout"),
    settings={"detection": {"stall_seconds": 2.0, "stuck_task_seconds": 3.0}},
)
def stalled(recording):
    workers = recording.random.choice((3, 4, 6, 8))
    hanging(recording, workers, workers, recording.random.uniform(0.2, 0.35))


@family(TOO_SMALL)
def timer_whose_beat_divides_the_runs(recording):
    """Some calls at each beat, each of which takes some beats: they end, and others start, as more are submitted."""
    rng = recording.random
    beat, beats, together = rng.uniform(0.08, 0.12), rng.choice((3, 4, 5)), rng.choice((2, 3))
    pool = recording.pool(ThreadPoolExecutor(beats * together - rng.choice((3, 4)), "pool"))
    calm = [(beat * number, fetch, beat * beats) for number in range(int(2.5 / beat))]
    begin = len(calm) * beat
    pool.play([*calm, *((begin + beat * number, fetch, beat * beats) for number in range(40) for _ in range(together))])
