"""`multiprocessing.pool.Pool` patched in place: real processes, gated by files."""

from __future__ import annotations

import multiprocessing
from time import perf_counter_ns

import process_support as child
import pytest
from probe_support import FakeProbe, Ledger
from process_support import LIMIT, Gate

from poolscope.probe.pools import multiprocessing_pool as family

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

METHODS = ["fork", "spawn", "forkserver"]


@pytest.fixture
def probe():
    made = FakeProbe(perf_counter_ns)
    yield made
    family.unpatch()
    assert not made.faults


@pytest.fixture
def gate(tmp_path):
    made = Gate(tmp_path)
    yield made
    made.open()


@pytest.fixture
def make(probe):
    """Makes a watched pool; its ledger is `ledger(probe)`."""
    made = []

    def make(processes=1, method="fork", **options):
        family.patch(probe)
        pool = multiprocessing.get_context(method).Pool(processes, **options)
        made.append(pool)
        return pool

    yield make
    for pool in made:
        pool.terminate()
        pool.join()


def ledger(probe):
    return Ledger(probe.recorders[-1], probe)


def notices(probe):
    return [message[1] for message in probe.messages if message[0] == "notice"]


@pytest.mark.parametrize("method", METHODS)
def test_what_runs_and_what_waits(make, probe, gate, method):
    pool = make(2, method)
    results = [pool.apply_async(*task(gate, name)) for name in "abcdef"]
    gate.await_started("a", "b")
    book = ledger(probe)
    book.only(submitted=6, running=2, queued=4)
    assert (book.workers, book.max_workers) == (2, 2)
    gate.open()
    assert [result.get(LIMIT) for result in results] == list("abcdef")
    book.only(submitted=6, succeeded=6)
    assert {task[0] for task in book.finished} == {1, 2}
    pool.close()
    pool.join()
    assert book.read().workers == 0
    assert (probe.recorders[0].kind, probe.recorders[0].executor) == ("process", "multiprocessing.pool.Pool")
    assert probe.function_names() == {1: "process_support.hold"}
    assert not notices(probe)


def task(gate, name):
    fn, *args = gate.task(name)
    return fn, args


@pytest.mark.parametrize("method", METHODS)
def test_the_start_is_the_one_in_the_child(make, probe, method):
    pool = make(1, method)
    inside = [pool.apply(child.now) for _ in range(3)]
    book = ledger(probe).read()
    assert len(book.finished) == 3
    for at, (*_, submitted, started, ended) in zip(inside, book.finished, strict=True):
        assert submitted <= started <= at <= ended <= perf_counter_ns()


@pytest.mark.parametrize(
    ("call", "expected", "tasks"),
    [
        (lambda pool: pool.apply(child.square, (3,)), 9, 1),
        (lambda pool: pool.map(child.square, range(4), chunksize=1), [0, 1, 4, 9], 4),
        (lambda pool: pool.map(child.square, range(5), chunksize=2), [0, 1, 4, 9, 16], 3),
        (lambda pool: pool.map(child.square, []), [], 0),
        (lambda pool: pool.map_async(child.square, range(3), 1).get(LIMIT), [0, 1, 4], 3),
        (lambda pool: pool.starmap(child.square, [(1,), (2,)], 1), [1, 4], 2),
        (lambda pool: list(pool.imap(child.square, range(4))), [0, 1, 4, 9], 4),
        (lambda pool: list(pool.imap(child.square, range(4), chunksize=2)), [0, 1, 4, 9], 2),
        (lambda pool: sorted(pool.imap_unordered(child.square, iter(range(4)))), [0, 1, 4, 9], 4),
    ],
)
def test_every_way_to_submit(make, probe, call, expected, tasks):
    assert call(make(2)) == expected
    ledger(probe).only(submitted=tasks, succeeded=tasks)
    assert set(probe.function_names().values()) <= {"process_support.square"}
