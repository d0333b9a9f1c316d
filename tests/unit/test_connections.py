"""What is judged of clients' pools of connections, and of what waits for them."""

from __future__ import annotations

import msgspec
import pytest
from signals_support import but

from poolscope.aggregation.pool_history import PoolHistory
from poolscope.messages import PoolBatch, PoolOpened, Wait, parse
from poolscope.model import Advice, Finding, Frame
from poolscope.ranking import importance
from poolscope.rules.reason import Criteria, Scene
from poolscope.rules.table import diagnose
from poolscope.signals.deadlock import Awaited, PoolWaits
from poolscope.signals.held import HeldWorker, held_workers
from poolscope.signals.limits import LimitSignals, limit_signals
from poolscope.signals.sizing import Sizing
from poolscope.signals.window import Window

SECOND = 10**9
INSIDE = (("/app/views.py", 12, "load"),)
WAITING = (("/app/views.py", 11, "load"),)
POOL = LimitSignals(kind="connections", waited=20, longest_share=0.1, inside=INSIDE, waiting=WAITING)
UNSEEN = {"worker_cores": None, "worker_cpu_share": None}
TAKEN = Frame("/app/views.py", 14, "forget", "kept.append(engine.connect())", 1.0)


def connections(limit=POOL, size=5, **changes):
    return but(max_workers=size, limit=limit, **UNSEEN, **changes)


def changed(**changes):
    return msgspec.structs.replace(POOL, **changes)


def lost(*seconds, times=None):
    return tuple(HeldWorker(at, 1, each, times, leaked=True, taken=True) for at, each in enumerate(seconds, 1))


@pytest.mark.parametrize(
    ("signals", "expected"),
    [
        (connections(), ("async_then_serial", "limit_reached", "raise_limit")),
        # one connection is no lock: to wait for its answer is to use it
        (connections(changed(suspended_share=0.9), size=1), ("serial", "limit_reached", "raise_limit")),
        (connections(changed(elsewhere_share=0.5), size=1), ("serial", "limit_reached", "raise_limit")),
        (connections(changed(elsewhere_share=0.6), size=1), ("serial", "held_across_wait", "shorten_hold")),
        (connections(changed(suspended_share=0.5)), ("async_then_serial", "unknown", "none")),
        # most of them are never given back
        (connections(held=lost(1.0, 1.0, 1.0)), ("stuck_workers", "leaked", "give_back")),
        (connections(held=lost(1.0, 1.0, 1.0, 1.0, 1.0)), ("stuck_workers", "leaked", "give_back")),
        (connections(held=lost(1.0, 1.0, 1.0, times=10.0)), ("stuck_workers", "leaked", "give_back")),
        # some may be kept on purpose, others are handed on, and nothing has to be said if nothing waits
        (connections(held=lost(9.0, 9.0)), ("async_then_serial", "limit_reached", "raise_limit")),
        (connections(held=lost(1.0, 1.0, 1.0, times=9.0)), ("async_then_serial", "limit_reached", "raise_limit")),
        (connections(held=lost(0.9, 0.9, 0.9)), ("async_then_serial", "limit_reached", "raise_limit")),
        (connections(held=lost(9.0, 9.0, 9.0), queue_depth=0), ("async_then_serial", "limit_reached", "raise_limit")),
    ],
)  # fmt: skip
def test_connections_are_judged_by_who_has_them(signals, expected):
    found = diagnose(signals, Criteria())
    assert (found.pattern, found.cause, found.action) == expected
    assert found.severity == "warning"


def scene(**changes):
    return Scene(pool="app:engine", kind="connections", since_seconds=3.2, **changes)


def test_the_sentence_says_who_has_them_and_who_waits():
    found = diagnose(connections(), Criteria())
    assert found.sentence(scene()) == (
        "Connection pool 'app:engine' has had all its 5 connections in use since 3.2 s: they are asked for faster than "
        "they are given back, each holds one for 400 ms at views.py:12 (load), and a task waits 1.0 s for one at "
        "views.py:11 (load)."
    )
    assert "8 want one at a time" in found.sentence(scene(sizing=Sizing(None, 8)))
    advice = found.advice(scene(sizing=Sizing(9)))
    assert advice.suggested_max_workers == 9
    assert advice.text.startswith("Raise 'app:engine' to 9 (now 5)")
    assert "max_connections" in advice.text


def test_what_is_held_across_something_else_is_to_be_given_back_before():
    found = diagnose(connections(changed(elsewhere_share=0.8)), Criteria())
    assert found.action == "raise_limit"
    assert found.advice(scene()).text.startswith(
        "Give a connection back before what waits at views.py:12 (load), or take it after: 80 % of the time"
    )


def test_the_sentence_about_leaks_names_the_line_that_took_them():
    found = diagnose(connections(held=lost(4.0, 4.0, 4.0), queue_depth=3), Criteria())
    assert found.sentence(scene(frames=[TAKEN])) == (
        "Connection pool 'app:engine' has lost 3 of its 5 connections since 3.2 s: taken at views.py:14 (forget) and "
        "never given back, though what took them has ended, while 3 tasks wait for one."
    )
    assert found.what.workers == {1, 2, 3}
    assert not found.sized
    assert "at views.py:14 (forget)" in found.advice(scene(frames=[TAKEN])).text


# -- what waits for them -----------------------------------------------------------------------------------------


def behind(share=0.7, kind="connections"):
    return but(awaited=Awaited("app:engine", share, kind))


def test_threads_that_wait_for_connections_point_at_them():
    found = diagnose(behind(), Criteria())
    assert (found.cause, found.action, found.sized, found.why.behind) == (
        "shared_resource",
        "relieve_shared_resource",
        False,
        True,
    )
    advice = found.advice(Scene(pool="handlers", since_seconds=1.0, sizing=Sizing(40)))
    assert (advice.pool, advice.suggested_max_workers) == ("app:engine", None)
    assert "its 4 workers spend 70 % of their time waiting for a connection of 'app:engine'" in found.sentence(
        Scene(pool="handlers", since_seconds=1.0)
    )


@pytest.mark.parametrize("signals", [behind(0.5), behind(kind="")])
def test_what_waits_for_less_or_for_tasks_does_not(signals):
    found = diagnose(signals, Criteria())
    assert found.cause in ("blocking_io", "downstream_pool")
    assert not found.why.behind


def finding(cause, pool=None):
    advice = Advice("none", "", pool=pool)
    return Finding("async_then_serial", cause, "warning", 0.0, None, 1.0, "", {}, (), advice)


def test_they_come_first():
    assert importance(finding("limit_reached")) < importance(finding("shared_resource", "app:engine"))
    assert importance(finding("shared_resource")) == importance(finding("limit_reached"))


def test_the_kind_of_what_is_waited_for_is_told():
    waits, names = PoolWaits(1), {1: "handlers", 2: "app:engine"}
    for at in range(10):
        waits.note(at, [Wait(1, 1, 0, 0, False, [(2, 0)])], None, names, (1, 2), {2: "connections"})
    assert waits.awaited(0, 10, 2) == Awaited("app:engine", 0.5, "connections")
    # And it is no work: the task has not got its connection.
    assert waits.queued(0, 0) == {0: frozenset([(1, 0)])}


# -- from messages to signals ------------------------------------------------------------------------------------


def history(waits, held=SECOND):
    opened = PoolOpened(1, "app:engine", "connections", "sqlalchemy.pool.impl.QueuePool", "app.py:3", 2, 0)
    made = PoolHistory(opened, pid=1, keep_tasks=100, wait_bounds=[SECOND], run_bounds=[SECOND])
    finished, arrivals = [], [1, 0]
    for at, wait in enumerate(waits):
        started = at * held
        finished += [1, 2, started - wait, started, started + held]
        arrivals += [1, started - wait]
    end = len(waits) * held
    made.fold(PoolBatch(1, end, 1, 2, 0, 0, finished, [2, 1, 0, 0], [], [], arrivals))
    return made


def signals_of(history, end, stacks=()):
    for at, gate in enumerate(stacks):
        history.sample(parse(("stacks", 1, at + 1, [[[["app.py", 5, "f"]], 1, [2, 1, 0], gate]], [])))
    return limit_signals(history, Window(history, 0, end), history.stacks)


def test_holds_that_overtake_are_waited_for_too():
    half = SECOND // 2
    overtaken = signals_of(history([0, SECOND // 20, half, half]), 4 * SECOND)
    assert (overtaken.overtaken, overtaken.waited) == (True, 5)
    in_turn = signals_of(history([half] * 5), 5 * SECOND)
    assert (in_turn.overtaken, in_turn.waited) == (False, 5)


def test_to_use_a_connection_is_to_wait_for_nothing_else():
    found = signals_of(history([0]), SECOND, ["client"] * 6 + ["await"] * 2)
    assert (found.suspended_share, found.elsewhere_share) == (1.0, 0.25)


def test_what_is_leaked_is_so_at_the_last_look():
    made = history([0] * 3)
    signals_of(made, 3 * SECOND, ["client", "leaked"])
    assert [worker.leaked for worker in held_workers(made, 3 * SECOND)] == [True]
    signals_of(made, 3 * SECOND, ["client"])
    assert [worker.leaked for worker in held_workers(made, 3 * SECOND)] == [False]
