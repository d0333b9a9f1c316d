"""The sweep by blocks finds what the walk from event to event finds."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poolscope.aggregation import sweep
from poolscope.aggregation.sweep import Sweep

#: At the same moment: arrived, withdrawn, went on, went idle, began.
Due = tuple[list[int], ...]


def events(rng: random.Random, workers: int, count: int) -> list[Due]:
    """What happens in a pool in which bursts of tasks come and are worked off, ten times."""
    at, queued, occupied, found = 0, 0, 0, []
    for _ in range(10):
        due: Due = ([], [], [], [], [])
        filling = rng.random()
        for _ in range(count):
            at += rng.choice((0, 0, 1, 3))
            if rng.random() < 0.02:
                filling = rng.random()
            if queued == 0 or rng.random() < filling:
                due[sweep.ARRIVED].append(at)
                queued += 1
            elif occupied < workers and rng.random() < 0.5:
                due[sweep.BEGAN].append(at)
                queued, occupied = queued - 1, occupied + 1
            elif occupied and rng.random() < 0.01:
                due[sweep.WENT_IDLE].append(at)
                occupied -= 1
            elif occupied:
                due[sweep.WENT_ON].append(at)
                queued -= 1
            elif rng.random() < 0.01:
                due[sweep.WITHDRAWN].append(at)
                queued -= 1
        found.append(due)
        at += 1
    return found


def swept(each: list[Due], workers: int, hands_out: bool) -> list[object]:
    subject = Sweep(workers, 0, hands_out=hands_out)
    found: list[object] = []
    for turn, due in enumerate(each):
        subject.max_workers = max(0, workers + turn % 4 - 1)
        subject.stretches.turn(subject.saturated, subject.swept_ns)
        subject.sweep(due)
        subject.swept_ns = max([subject.swept_ns, *(times[-1] for times in due if times)])
        subject.stretches.advance(subject.swept_ns)
        found += [
            (subject.queued, subject.occupied, subject.saturated),
            (subject.peak_queued, subject.peak_occupied),
            list(subject.alone),
            (subject.stretches.current, list(subject.stretches.closed), subject.stretches.saturated_ns),
            dict(subject.peaks),
        ]
    return found


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from((1, 2, 4, 16)), st.booleans(), st.sampled_from((1, 3, 64)))
def test_blocks_hide_nothing(seed: int, workers: int, hands_out: bool, block: int) -> None:
    each = events(random.Random(seed), workers, 300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "RUSH", 1 << 40)
        walked = swept(each, workers, hands_out)
        patch.setattr(sweep, "RUSH", 0)
        patch.setattr(sweep, "BLOCK", block)
        assert swept(each, workers, hands_out) == walked


def test_a_queue_that_stays_deep_is_not_walked(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Sweep(2, 0, hands_out=True)
    subject.sweep(([1] * 1000, [], [], [], [2, 2]))
    assert (subject.queued, subject.occupied, subject.saturated) == (998, 2, True)
    walked: list[object] = []
    monkeypatch.setattr(subject, "_walk", walked.append)
    subject.sweep((list(range(10, 5010, 5)), [], list(range(12, 5012, 5)), [], []))
    assert not walked
    assert subject.queued == 998
    assert (subject.peak_queued, subject.stretches.current is not None) == (1000, True)
