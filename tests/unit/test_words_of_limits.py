"""What is said of pools that have no workers of their own: their nouns, deadlocks through them, and what is lost."""

from __future__ import annotations

import msgspec
import pytest
from report_support import hard_limit
from signals_support import but

from poolscope.commands import whatif
from poolscope.messages import Line
from poolscope.model import Frame, Session
from poolscope.rules.reason import Criteria, Scene
from poolscope.rules.table import diagnose
from poolscope.rules.wording import noun, workers
from poolscope.signals.deadlock import Cycle, Deadlock
from poolscope.signals.held import HeldWorker

HERE: Line = ("/srv/app/jobs.py", 20, "save")
FRAMES = (Frame(*HERE, "async with two:", 1.0),)
THERE: tuple[Line, ...] = (("/srv/app/jobs.py", 40, "load"),)


@pytest.mark.parametrize(
    ("kind", "one", "several"),
    [
        ("thread", "1 worker", "4 workers"),
        ("semaphore", "1 permit", "4 permits"),
        ("connections", "1 connection", "4 connections"),
        ("queue", "1 consumer", "4 consumers"),
    ],
)
def test_each_kind_has_its_noun(kind: str, one: str, several: str) -> None:
    assert (workers(1, kind), workers(4, kind)) == (one, several)


@pytest.mark.parametrize("kind", ["semaphore", "connections", "queue"])
def test_whatif_says_permits_connections_and_consumers(kind: str) -> None:
    session = hard_limit()
    (row,) = session.report.pools
    report = msgspec.structs.replace(session.report, pools=(msgspec.structs.replace(row, kind=kind),))
    shown = "\n".join(whatif.lines(Session(report, session.traces), None, [4, 8, 16]))
    assert f" {row.max_workers} {noun(kind)}s, " in shown
    assert f"whatever the number of {noun(kind)}s" in shown
    assert "worker" not in shown


def test_nothing_waits_for_0_microseconds() -> None:
    signals = but(wait_p50_seconds=0.0, queue_depth=0)
    sentence = diagnose(signals, Criteria()).sentence(Scene(pool="slots", kind="semaphore", since_seconds=3.0))
    assert "half of the tasks or more came in without a wait (the longest wait: 1.5 s)" in sentence


def deadlocked(kind: str, next_pool: str | None, next_kind: str, *, count: int = 1, pools: int = 2) -> tuple[str, str]:
    cycle = Cycle(0, tuple(range(1, count + 1)), 2, 2, pools)
    signals = but(deadlock=Deadlock(cycle, 1, next_pool, next_kind, THERE))
    diagnosis = diagnose(signals, Criteria())
    assert (diagnosis.pattern, diagnosis.cause, diagnosis.severity) == ("deadlock", "nested_wait", "critical")
    scene = Scene(pool="one", kind=kind, since_seconds=3.0, frames=FRAMES)
    return diagnosis.sentence(scene), diagnosis.advice(scene).text


def test_two_locks_in_either_order() -> None:
    sentence, advice = deadlocked("lock", "two", "lock")
    assert sentence == (
        "Lock 'one' is deadlocked since 3.0 s: its holder waits for lock 'two' at jobs.py:20 (save), whose holder "
        "waits at jobs.py:40 (load) for this one."
    )
    assert "Take 'one' and 'two' in the same order everywhere" in advice


def test_limits_of_one_name_and_others_between() -> None:
    sentence, advice = deadlocked("lock", "one", "lock", pools=4)
    assert "waits for another lock made there at jobs.py:20" in sentence
    assert sentence.endswith("for this one through 2 others.")
    assert "the two of 'one'" in advice


def test_one_inside_of_itself() -> None:
    sentence, advice = deadlocked("semaphore", None, "", pools=1)
    assert "its holder waits for it again at jobs.py:20 (save)" in sentence
    assert "Do not take 'one' inside of itself" in advice
    assert "its 2 holders wait for more of it" in deadlocked("semaphore", None, "", count=2, pools=1)[0]


def test_a_pool_and_what_it_waits_for() -> None:
    sentence, advice = deadlocked("thread", "gate", "semaphore")
    assert "its 1 worker waits for semaphore 'gate' at jobs.py:20 (save), whose holder waits at jobs.py:40" in sentence
    assert sentence.endswith("for tasks of this pool.")
    assert "Do not wait for tasks of pool 'one' while 'gate' is held" in advice
    sentence, advice = deadlocked("semaphore", "db", "")
    assert sentence.endswith(
        "waits for tasks of pool 'db' at jobs.py:20 (save), which wait at jobs.py:40 (load) for it."
    )
    assert "Do not wait for tasks of pool 'db' while 'one' is held" in advice


@pytest.mark.parametrize("taken", [True, False])
def test_permits_that_are_lost(taken: bool) -> None:
    held = tuple(HeldWorker(at, 1, 3.0, None, leaked=True, taken=taken) for at in (1, 2, 3))
    diagnosis = diagnose(but(held=held, queue_depth=2), Criteria())
    assert (diagnosis.pattern, diagnosis.cause, diagnosis.action) == ("stuck_workers", "leaked", "give_back")
    scene = Scene(pool="one", kind="semaphore", since_seconds=3.0, frames=FRAMES)
    place, why = (" at jobs.py:20 (save)", "though what took them has ended")
    if not taken:
        place, why = "", "and nothing is left that could do so"
    assert diagnosis.sentence(scene) == (
        f"Semaphore 'one' has lost 3 of its 4 permits since 3.0 s: taken{place} and never given back, {why}, while 2 "
        "tasks wait for one."
    )
    assert f"Give back what is taken{place} on every way out" in diagnosis.advice(scene).text
