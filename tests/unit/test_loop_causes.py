"""Why a loop was blocked: what was measured in, cause out."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from poolscope.messages import BlockEvidence, LoopBlock, parse
from poolscope.probe.loops.evidence import Evidence
from poolscope.rules.loop_causes import LOOP_CAUSES, judged

MS = 1_000_000
BLOCKED = 100 * MS
LOOP = ("/app/main.py", 7, "fetch")
BUSY = ("/app/busy.py", 3, "burn")

#: Causes that hold up a loop whatever its callbacks do.
STARVED = ("gil_contention", "gc", "host_descheduled")


def evidence(wall_ms: int = 400, **shares: Any) -> BlockEvidence:
    return BlockEvidence(wall_ms * MS, BLOCKED, **shares)


def block(given: BlockEvidence | None, cause: str = "") -> LoopBlock:
    return LoopBlock(1, 1, 0, given.wall_ns if given else 1, cause, [LOOP], 0.0, given, [BUSY])


# name, evidence, cause
CAUSES = [
    ("asleep in one call", evidence(still=0.9), "blocking_call"),
    ("asleep, while others compute", evidence(still=0.9, other=1.0), "blocking_call"),
    ("asleep, and seen in futex, as is whoever waits for a lock", evidence(still=0.9, futex_seen=4), "blocking_call"),
    ("many short sleeps, nobody else computes", evidence(cpu=0.05, other=0.05), "blocking_call"),
    ("a third of a CPU, and nothing else is known", evidence(cpu=0.3), "unknown"),
    ("a third of a CPU, and slept in between", evidence(cpu=0.3, delay=0.05), "blocking_call"),
    ("half sleep, half work of its own", evidence(cpu=0.4, still=0.55), "blocking_call"),
    ("computes", evidence(cpu=0.95), "cpu_bound"),
    ("computes, without the GIL beside others who do", evidence(cpu=0.95, other=0.9), "cpu_bound"),
    ("computes on a slow machine", evidence(cpu=0.35, delay=0.4), "cpu_bound"),
    ("computes for long, on a machine that is too busy", evidence(cpu=0.3, delay=0.65), "cpu_bound"),
    ("computes, was stopped for a while", evidence(cpu=0.4, late=0.3, other=0.15), "cpu_bound"),
    ("computes in a virtual machine that got half a CPU", evidence(cpu=0.4, run_seen=5, call_seen=1), "cpu_bound"),
    (
        "computes shortly, in a virtual machine that gets no CPU",
        evidence(117, cpu=0.25, delay=0.2, run_seen=2),
        "unknown",
    ),
    ("keeps the GIL in a C function", evidence(cpu=0.9, held=0.9), "cpu_bound"),
    ("keeps the GIL, on a slow machine", evidence(cpu=0.4, held=0.9), "cpu_bound"),
    ("keeps the GIL, on a machine that is far too busy", evidence(1900, cpu=0.12, held=1.0), "cpu_bound"),
    ("keeps the GIL shortly, on a machine that is too busy", evidence(126, cpu=0.25, held=0.53), "host_descheduled"),
    ("keeps the GIL, computes a little and sleeps", evidence(126, cpu=0.25, held=0.9, delay=0.02), "blocking_call"),
    ("keeps the GIL for a slow device", evidence(cpu=0.05, held=1.0), "blocking_call"),
    ("keeps the GIL, and sleeps", evidence(cpu=0.0, still=0.9, held=0.9), "blocking_call"),
    ("waits for the GIL", evidence(cpu=0.004, other=0.98), "gil_contention"),
    ("waits for the GIL, seen in futex", evidence(cpu=0.004, other=0.98, futex_seen=3, call_seen=1), "gil_contention"),
    ("gets the GIL now and then", evidence(cpu=0.3, other=0.65), "gil_contention"),
    ("short sleeps, while others compute", evidence(cpu=0.004, other=0.98, call_seen=3, futex_seen=1), "blocking_call"),
    ("once in a call, while others compute", evidence(cpu=0.004, other=1.0, waited=0.9, call_seen=1), "unknown"),
    (
        "waits for the GIL on a machine that is far too busy",
        evidence(cpu=0.001, other=0.32, waited=0.35, delay=0.08, futex_seen=1, run_seen=1),
        "unknown",
    ),
    ("never woke up, but was ready to run", evidence(still=0.9, other=0.3, run_seen=2), "unknown"),
    ("short sleeps, seen by the kernel", evidence(cpu=0.05, other=0.05, call_seen=3, futex_seen=1), "blocking_call"),
    ("waits for the GIL, on a slow machine", evidence(cpu=0.004, other=0.4, waited=0.9), "gil_contention"),
    (
        "another keeps the GIL, on a machine that is far too busy",
        evidence(1600, cpu=0.002, other=0.15, waited=1.0),
        "gil_contention",
    ),
    ("another keeps the GIL for a slow device", evidence(cpu=0.002, other=0.05, waited=1.0), "unknown"),
    ("shares the GIL, on a slow machine", evidence(cpu=0.2, other=0.4, waited=0.9), "unknown"),
    ("off the CPU beside others without a GIL", evidence(cpu=0.004, other=0.98, gil=False), "unknown"),
    ("nothing but a collection", evidence(cpu=0.95, gc=0.95), "gc"),
    ("just a block because of a collection", evidence(150, cpu=0.95, gc=0.6), "gc"),
    ("computes, and collects what it makes", evidence(1000, cpu=0.95, gc=0.6), "cpu_bound"),
    ("collects in another thread", evidence(cpu=0.0, other=0.95, gc=0.9), "gc"),
    ("nobody ran", evidence(late=0.8), "host_descheduled"),
    ("nobody ran, nor woke up", evidence(late=0.8, still=0.9), "host_descheduled"),
    ("we came late because others took all CPUs", evidence(late=0.8, still=0.9, other=1.5), "blocking_call"),
    ("ready, but on no CPU", evidence(cpu=0.15, delay=0.75), "host_descheduled"),
    ("computes shortly, on a machine that is too busy", evidence(200, cpu=0.4, delay=0.6), "host_descheduled"),
    ("ready, but our own threads had the CPUs", evidence(cpu=0.15, delay=0.75, other=1.6), "unknown"),
    ("a bit of everything", evidence(cpu=0.4, other=0.4), "unknown"),
    ("ready most of the time, never on a CPU", evidence(cpu=0.1, run_seen=5), "unknown"),
    ("no clocks, but nobody computed", evidence(cpu=None, other=0.02), "blocking_call"),
    ("no clocks, somebody computed", evidence(cpu=None, other=0.9), "unknown"),
    ("no clocks, nobody ran", evidence(cpu=None, late=0.8), "host_descheduled"),
]


@pytest.mark.parametrize(("given", "cause"), [case[1:] for case in CAUSES], ids=[case[0] for case in CAUSES])
def test_the_cause_that_the_evidence_establishes(given: BlockEvidence, cause: str) -> None:
    assert judged(block(given)).cause == cause


@pytest.mark.parametrize(("given", "cause"), [case[1:] for case in CAUSES], ids=[case[0] for case in CAUSES])
def test_the_lines_to_blame(given: BlockEvidence, cause: str) -> None:
    lines = {"gil_contention": [BUSY], "gc": [], "host_descheduled": []}
    assert judged(block(given)).lines == lines.get(cause, [LOOP])


def test_a_block_that_carries_its_cause_keeps_it() -> None:
    """As a probe of protocol 3 sends it."""
    told = block(None, "gc")
    assert judged(told) == told
    old = ("loop_block", 1, 1, 5, 9, "cpu_bound", [LOOP], 0.9)
    message = parse(old)
    assert isinstance(message, LoopBlock)
    assert judged(message) == message
    assert message.cause == "cpu_bound"


def test_each_cause_has_a_name_of_its_own_and_the_last_one_always_matches() -> None:
    assert len({rule.name for rule in LOOP_CAUSES}) == len(LOOP_CAUSES)
    assert LOOP_CAUSES[-1].name == "unknown"
    assert {name for _, _, name in CAUSES} == {rule.name for rule in LOOP_CAUSES}


def test_what_is_told_is_what_is_judged() -> None:
    assert BlockEvidence.__struct_fields__ == (
        "wall_ns",
        "blocked_ns",
        "cpu",
        "other",
        "gc",
        "late",
        "still",
        "held",
        "waited",
        "delay",
        "futex_seen",
        "call_seen",
        "run_seen",
        "gil",
    )
    measured = Evidence(5, blocked_ns=2, cpu=0.5, other=0.25, delay=None, run_seen=3, gil=False)
    told = msgspec.convert(measured.told(), BlockEvidence)
    assert all(getattr(told, name) == getattr(measured, name) for name in told.__struct_fields__)


def test_the_probe_tells_of_a_loop_that_is_starved_by_anything() -> None:
    """It has no callback to point at then, and leaves the cause to the rules."""
    rng = random.Random(4)
    shares = (0.0, 0.0, 0.05, 0.19, 0.2, 0.3, 0.45, 0.5, 0.6, 0.79, 0.8, 0.9, 1.0)
    counts = (0, 0, 0, 1, 2, 5)
    given = [evidence(wall) for wall in (100, 400)]
    given += [case[1] for case in CAUSES]
    for _ in range(20_000):
        names = ("other", "gc", "late", "still", "held", "waited")
        given.append(
            evidence(
                rng.choice((110, 200, 400, 1600)),
                **{name: rng.choice(shares) if rng.random() < 0.4 else 0.0 for name in names},
                cpu=rng.choice((None, *shares)),
                delay=rng.choice((None, *shares)),
                **{name: rng.choice(counts) for name in ("futex_seen", "call_seen", "run_seen")},
                gil=rng.random() < 0.9,
            )
        )
    for e in given:
        fields = {name: getattr(e, name) for name in e.__struct_fields__}
        measured = Evidence(fields.pop("wall_ns"), **fields)
        assert measured.starved == (judged(block(e)).cause in STARVED), e
