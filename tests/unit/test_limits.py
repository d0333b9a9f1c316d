"""What is judged of limits: semaphores and locks, which have no workers of their own."""

from __future__ import annotations

import weakref
from typing import Any

import msgspec
import pytest
from pool_support import ORIGIN, SECOND, VirtualPool
from probe_support import FakeProbe
from signals_support import BY_CHANCE, but

from poolscope.aggregation.pool_history import PoolHistory
from poolscope.messages import PoolBatch, PoolOpened, StackSample, parse
from poolscope.probe.interpreter.cpu import CpuClocks
from poolscope.probe.limits import naming
from poolscope.probe.limits.known_limits import Limits
from poolscope.probe.limits.limit import MOMENT_NS, Hold
from poolscope.probe.recording.registry import Pools
from poolscope.rules.reason import Criteria, Scene
from poolscope.rules.table import diagnose
from poolscope.signals.batch import Batch
from poolscope.signals.limits import LimitSignals, limit_signals
from poolscope.signals.sizing import Sizing
from poolscope.signals.window import Window

INSIDE = (("/app/client.py", 23, "Client.request"), ("/lib/asyncio/tasks.py", 700, "sleep"))
WAITING = (("/app/client.py", 22, "Client.request"),)
LOCK = LimitSignals(kind="lock", waited=20, longest_share=0.1, suspended_share=0.9, inside=INSIDE, waiting=WAITING)
GATE = msgspec.structs.replace(LOCK, kind="semaphore")
HELD = ("serial", "held_across_wait", "warning", "shorten_hold")
HELD_NOTE = ("burst", "held_across_wait", "info", "shorten_hold")
REACHED = ("async_then_serial", "limit_reached", "warning", "raise_limit")
REACHED_NOTE = ("burst", "limit_reached", "info", "raise_limit")
SERIAL_UNKNOWN = ("async_then_serial", "unknown", "warning", "none")
UNSEEN = {"worker_cores": None, "worker_cpu_share": None}


def lock(limit=LOCK, **changes):
    return but(max_workers=1, limit=limit, **UNSEEN, **changes)


def gate(limit=GATE, **changes):
    return but(max_workers=3, limit=limit, **UNSEEN, **changes)


def changed(limit, **changes):
    return msgspec.structs.replace(limit, **changes)


def test_a_hold_that_began_before_counts_for_as_long_as_it_is_inside():
    pool = VirtualPool(1, kind="lock").run([(0.0, 4.0, 1), (0.5, 0.01, 1)], finish=False)
    window = Window(pool.history, ORIGIN + SECOND // 2, ORIGIN + 5 * SECOND)
    found = limit_signals(pool.history, window, [])
    assert found is not None
    assert found.longest_share == pytest.approx(3.5 / 4.5)


@pytest.mark.parametrize(
    ("signals", "criteria", "expected"),
    [
        (lock(), Criteria(), HELD),
        (gate(), Criteria(), REACHED),
        # what its holders do is not seen: a gate of several is full all the same, a lock may be held for its work
        (gate(changed(GATE, suspended_share=None)), Criteria(), REACHED),
        (lock(changed(LOCK, suspended_share=None)), Criteria(), ("serial", "unknown", "warning", "none")),
        # they compute: more of them would not help
        (lock(changed(LOCK, suspended_share=0.5)), Criteria(), ("serial", "unknown", "warning", "none")),
        (gate(changed(GATE, suspended_share=0.5)), Criteria(), SERIAL_UNKNOWN),
        # short waits, few holds, or a single long one: a note
        (lock(wait_p50_seconds=0.009, run_p50_seconds=0.001), Criteria(), HELD_NOTE),
        (lock(wait_p50_seconds=0.010, run_p50_seconds=0.001), Criteria(), HELD),
        (lock(changed(LOCK, waited=9)), Criteria(), HELD_NOTE),
        (lock(changed(LOCK, longest_share=0.5)), Criteria(), HELD_NOTE),
        (gate(changed(GATE, waited=9)), Criteria(), REACHED_NOTE),
        (gate(crowd=BY_CHANCE, queue_depth=10), Criteria(), REACHED_NOTE),
        # a batch behind it is told: the limit is what makes it serial
        (gate(batch=Batch(50, 47)), Criteria(), REACHED),
        (gate(batch=Batch(50, 44)), Criteria(), REACHED),
        (gate(changed(GATE, suspended_share=0.5), batch=Batch(50, 47)), Criteria(), SERIAL_UNKNOWN),
        (lock(batch=Batch(50, 47)), Criteria(), HELD),
        # on purpose
        (gate(), Criteria(intended=True), ("async_then_serial", "limit_reached", "info", "raise_limit")),
        (lock(), Criteria(intended=True), ("serial", "held_across_wait", "info", "shorten_hold")),
        (lock(), Criteria(ordered=True), HELD_NOTE),
        # nothing of its own could stand still
        (
            gate(finished=400, seconds_since_finish=20.0, window_seconds=20.0, longest_run_seconds=1.0),
            Criteria(),
            REACHED,
        ),
    ],
)  # fmt: skip
def test_a_limit_is_judged_by_what_it_costs(signals, criteria, expected):
    found = diagnose(signals, criteria)
    assert (found.pattern, found.cause, found.severity, found.action) == expected


def test_a_pool_that_is_wanted_so_is_a_note_but_a_stall_is_none():
    wanted = Criteria(intended=True)
    assert diagnose(but(), wanted).severity == "info"
    assert diagnose(but(seconds_since_finish=20.0, window_seconds=20.0), wanted).severity == "critical"


@pytest.mark.parametrize("signals", [lock(), gate(), lock(changed(LOCK, suspended_share=None))])
@pytest.mark.parametrize(
    "sizing",
    [None, Sizing(None), Sizing(12), Sizing(None, 60), Sizing(None, None, "app:GATE"), Sizing(None, recorded=False)],
)
def test_a_limit_gets_no_advice_about_workers(signals, sizing):
    found = diagnose(signals, Criteria())
    scene = Scene(pool="app:GATE", kind="semaphore", since_seconds=1.0, sizing=sizing)
    advice = found.advice(scene)
    assert "max_workers" not in advice.text
    assert advice.action != "raise_max_workers"
    said = found.sentence(scene)
    assert said.endswith(".")
    assert "worker" not in said


def test_the_sentence_names_where_it_is_held_and_where_it_is_waited_for():
    scene = Scene(pool="app:Client.__init__.lock", kind="lock", since_seconds=3.2)
    found = diagnose(lock(), Criteria())
    assert found.sentence(scene) == (
        "Lock 'app:Client.__init__.lock' has let one through at a time since 3.2 s: each holds it for 400 ms and "
        "spends 90 % of that waiting at client.py:23 (Client.request), while a task waits 1.0 s for its turn at "
        "client.py:22 (Client.request)."
    )
    assert "client.py:23" in found.advice(scene).text


def test_a_replay_gives_the_number_of_a_gate():
    advice = diagnose(gate(), Criteria()).advice(
        Scene(pool="app:GATE", kind="semaphore", since_seconds=1.0, sizing=Sizing(12))
    )
    assert advice.suggested_max_workers == 12
    assert advice.text.startswith("Raise 'app:GATE' to 12 (now 3)")
    assert "intended: true" in advice.text


# -- from messages to signals ------------------------------------------------------------------------------------


def opened(kind):
    return PoolOpened(1, "app:GATE", kind, "asyncio.locks.Semaphore", "app.py:3", 2, 0)


def history(kind):
    made = PoolHistory(opened(kind), pid=1, keep_tasks=100, wait_bounds=[10**9], run_bounds=[10**9])
    second = 10**9
    # Each was asked for at once, and held for a second.
    finished = [item for at in range(4) for item in (1, 2, 0, at * second, (at + 1) * second)]
    arrivals = [1, 0] * 6
    made.fold(PoolBatch(1, 4 * second, 1, 2, 0, 0, finished, [2, 1, 0, 3 * second], [], [], arrivals))
    return made


def sample(at_ns, gate_of_holder):
    holder = [[["app.py", 5, "f"]], 1, [1, 1, 0], gate_of_holder]
    waiting = [[["app.py", 4, "f"]], 1, [0, 1, 0, 0, 1, 0], "semaphore"]
    return parse(("stacks", 1, at_ns, [holder], [waiting]))


def test_what_a_limit_is_judged_by():
    window = Window(history("semaphore"), 0, 4 * 10**9)
    samples = [sample(at, "await" if at % 4 else "") for at in range(8)]
    found = limit_signals(history("semaphore"), window, samples)
    assert found == LimitSignals(
        kind="semaphore",
        waited=4,  # the first one did not wait
        longest_share=0.25,
        suspended_share=0.75,
        inside=(("app.py", 5, "f"),),
        waiting=(("app.py", 4, "f"),),
    )


def test_too_few_looks_say_nothing():
    window = Window(history("lock"), 0, 4 * 10**9)
    found = limit_signals(history("lock"), window, [sample(1, "await")])
    assert found is not None
    assert found.suspended_share is None


def test_other_pools_are_no_limits():
    assert limit_signals(history("thread"), Window(history("thread"), 0, 10**9), []) is None


def test_a_sample_of_before_has_nothing_that_waits():
    assert parse(("stacks", 1, 2, [])) == StackSample(1, 2, [])


# -- what is told of -----------------------------------------------------------------------------------------------


class Owner:
    pass


class Probe(FakeProbe):
    """With the registry of pools that a probe has."""

    def __init__(self):
        super().__init__()
        self.told: list[Any] = []
        self.pools = Pools(self.clock, CpuClocks(), self.told.append, lambda exc: pytest.fail(str(exc)))

    def open_pool(self, executor, *, name, prefix, kind, size, site, recorder):
        created_at, place, _ = site
        return self.pools.open(executor, name=place, kind=kind, created_at=created_at, size=size, recorder=recorder)


SITE = ("app.py:1", "app:GATE", "GATE")


def noted(owner):
    """A probe, the limits of a family, and that of `owner`."""
    probe, limits = Probe(), Limits()
    limit = limits.note(owner, lambda: probe, kind="lock", capacity=1, site=SITE, look=lambda *_: ([], []))
    return probe, limits, limit


def use(limit, waits_ns=0):
    """One hold that is waited for, and given back by what had it."""
    task = Owner()
    asked = limit.clock()
    limit.asked(1, Hold(1, asked, weakref.ref(task), id(task)))
    granted = limit.clock() + waits_ns
    limit.grant(limit.waiting.pop(1), granted)
    assert limit.returned(task, granted + 1)


def test_a_limit_is_told_of_once_something_waits_again():
    owner = Owner()
    probe, limits, limit = noted(owner)
    use(limit)
    limits.look()
    probe.pools.read()
    assert probe.told == []
    use(limit)
    limits.look()
    limits.look()
    probe.pools.read()
    assert [message[0] for message in probe.told] == ["pool_opened", "pool_batch"]
    # All that was noted, and what it was held by before.
    assert len(probe.told[1][-1]) == 2 * 3
    assert limit.opened


def test_a_limit_is_told_of_once_something_has_waited_for_long():
    owner = Owner()
    probe, limits, limit = noted(owner)
    use(limit, MOMENT_NS)
    limits.look()
    probe.pools.read()
    assert [message[0] for message in probe.told] == ["pool_opened", "pool_batch"]


def test_a_record_that_is_torn_ends_and_another_one_begins():
    owner = Owner()
    probe, limits, limit = noted(owner)
    use(limit)
    use(limit)
    limits.look()
    probe.pools.read()
    with pytest.raises(TimeIsUpError):
        limit.broke(TimeIsUpError())
    assert limit.over
    assert limit.again
    probe.pools.read()
    assert [message[0] for message in probe.told] == ["pool_opened", "pool_batch", "pool_batch", "pool_closed"]
    assert len(probe.pools) == 0
    other = limits.note(owner, lambda: probe, kind="lock", capacity=1, site=SITE, look=lambda *_: ([], []))
    use(other)
    use(other)
    limits.look()
    probe.pools.read()
    assert [message[0] for message in probe.told[4:]] == ["pool_opened", "pool_batch"]
    assert probe.told[4][2] == probe.told[0][2]


class TimeIsUpError(Exception):
    """As the handlers of alarms raise it."""


@pytest.mark.parametrize("end", ["over", "gone"])
def test_what_turns_out_to_be_none_is_never_told_of(end):
    owner = Owner()
    probe, limits, limit = noted(owner)
    use(limit)
    use(limit)
    if end == "over":
        limit.over = True
    else:
        del owner
    limits.look()
    probe.pools.read()
    assert probe.told == []
    assert len(probe.pools) == 0


# -- names ---------------------------------------------------------------------------------------------------------


def test_the_name_is_where_it_was_made():
    import sys

    def make():
        return naming.site_of(sys._getframe())

    def stored():
        gate = naming.site_of(sys._getframe())
        return gate  # noqa: RET504 - the name is what is read

    line = make.__code__.co_firstlineno + 1
    found = make()
    assert make() is found
    function = f"{__name__}:test_the_name_is_where_it_was_made.<locals>"
    assert found == (f"unit/test_limits.py:{line}", f"{function}.make:{line}", "")
    assert stored() == (f"unit/test_limits.py:{line + 3}", f"{function}.stored.gate", "gate")
    names: dict[str, Any] = {"__name__": "app", "site_of": lambda: naming.site_of(sys._getframe(1))}
    exec(compile("GATE = site_of()", "/srv/app.py", "exec"), names)
    assert names["GATE"][1:] == ("app:GATE", "GATE")
    assert naming.site_of(None) == ("", "unknown", "")
