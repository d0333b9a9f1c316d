"""Where a pool's time goes between its tasks: callbacks, handing over, and results that wait to be taken.

Facts from samples; the rules decide what follows from them. Pure: no clock, no thread, no I/O.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from poolscope.messages import Handover, Line

#: Fewer samples than this say nothing about where the time goes.
SAMPLES_NEEDED = 8

#: Lines, and in how many samples a thread was there, most often first.
Places = tuple[tuple[tuple[Line, ...], int], ...]


class Between(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen between the tasks of a pool, while some were queued. Shares of 1, seconds, cores."""

    samples: int
    #: The part of the workers that are in callbacks of tasks that have ended, on average.
    callback_share: float = 0.0
    #: The part of its time that the thread that takes results spends in callbacks; None if there is no such thread.
    receiver_callback_share: float | None = None
    #: Where workers are in callbacks, and where that thread is.
    callback_places: Places = ()
    receiver_places: Places = ()
    #: Cores that the threads that send tasks and take results use (None: not known), and the part of the time that they
    #: are on a CPU or ready to be.
    sender_cores: float | None = None
    receiver_cores: float | None = None
    sender_busy: float = 0.0
    receiver_busy: float = 0.0
    #: The mean time that results wait to be taken from the workers; None if it is not known.
    return_seconds: float | None = None
    #: Part of the samples in which results waited for a thread that was at a line of its own, how many waited at the
    #: end, and where the thread was.
    untaken_share: float = 0.0
    untaken: int = 0
    taker_places: Places = ()


def between(samples: Sequence[Handover], workers: int, task_share: float = 0.0) -> Between | None:
    """Return what these samples of a pool of so many workers show; None if they are too few.

    `task_share` is the recorded part of the workers' time in tasks. Callbacks can take no more than the rest, though
    samples may show a short one more often than it lasts where threads wait for a CPU.
    """
    if len(samples) < SAMPLES_NEEDED:
        return None
    calling: Counter[tuple[Line, ...]] = Counter()
    receiving: Counter[tuple[Line, ...]] = Counter()
    taking: Counter[tuple[Line, ...]] = Counter()
    received = untaken = 0
    for sample in samples:
        calling.update(tuple(lines) for lines in sample.callbacks)
        received += sample.receiving is not None
        if sample.receiving:
            receiving[tuple(sample.receiving)] += 1
        kept = [tuple(lines) for waiting, lines in sample.taking if waiting and lines]
        taking.update(kept)
        untaken += bool(kept) and all(lines for waiting, lines in sample.taking)
    sender = [(sample.at_ns, sample.sender_ns, sample.sender_ready_ns) for sample in samples]
    receiver = [(sample.at_ns, sample.receiver_ns, sample.receiver_ready_ns) for sample in samples]
    return Between(
        samples=len(samples),
        callback_share=min(1 - task_share, calling.total() / (len(samples) * max(1, workers))),
        receiver_callback_share=receiving.total() / received if received else None,
        callback_places=tuple(calling.most_common()),
        receiver_places=tuple(receiving.most_common()),
        sender_cores=_cores([(at_ns, used_ns) for at_ns, used_ns, _ in sender if used_ns >= 0]),
        receiver_cores=_cores([(at_ns, used_ns) for at_ns, used_ns, _ in receiver if used_ns >= 0]),
        sender_busy=_busy(sender),
        receiver_busy=_busy(receiver),
        return_seconds=_delay(samples),
        untaken_share=untaken / len(samples),
        untaken=sum(waiting for waiting, _ in samples[-1].taking),
        taker_places=tuple(taking.most_common()),
    )


def _cores(readings: Sequence[tuple[int, int]]) -> float | None:
    """CPU time per time between the first and the last reading (at, used: ns)."""
    if len(readings) < SAMPLES_NEEDED:
        return None
    (begin_ns, first_ns), (end_ns, last_ns) = readings[0], readings[-1]
    # A clock that went back is that of another thread.
    return (last_ns - first_ns) / (end_ns - begin_ns) if end_ns > begin_ns and last_ns >= first_ns else None


def _busy(readings: Sequence[tuple[int, int, int]]) -> float:
    """Return the same for the CPU time used and the time that a thread was ready to run; (at, used, ready: ns)."""
    both = _cores([(at_ns, used_ns + ready_ns) for at_ns, used_ns, ready_ns in readings if used_ns >= 0])
    return min(1.0, both or 0.0)


def _delay(samples: Sequence[Handover]) -> float | None:
    count = samples[-1].returned - samples[0].returned
    return (samples[-1].returned_ns - samples[0].returned_ns) / count / 1e9 if count > 0 else None
