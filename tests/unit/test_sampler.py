import gc
import sys
import weakref
from types import SimpleNamespace
from typing import Any

from runtime_support import SECOND, FakeCpu

from poolscope.probe.recording.recorder import PoolRecorder
from poolscope.probe.recording.worker_clocks import DELAY_INTERVAL_NS, DELAYS_READ, WorkerCpu, WorkerDelay
from poolscope.probe.sampling.sampler import (
    STACKS_LIMIT,
    StackSampler,
)

LINE = ("app.py", 3, "task")
BELOW = ("lib.py", 9, "call")


def pool(workers, pool_id=1):
    recorder = PoolRecorder(
        pool_id, name="p", kind="thread", executor="x", created_at="", size=lambda: (workers, workers)
    )
    for number in range(workers):
        recorder.join(1000 + number, 2000 + number).running = (1, 0, number)
    return SimpleNamespace(recorder=recorder, delay=WorkerDelay())


def sampler(frames, cpu=None, place=lambda frame: (frame.lines, frame.spot)):
    return StackSampler(cpu or FakeCpu(), lambda: dict(frames), place, lambda frame: getattr(frame, "gate", ""))


def frame(*lines, spot=0, gate=""):
    return SimpleNamespace(lines=list(lines), spot=spot, gate=gate, f_code=None, f_back=None)


def test_equal_stacks_are_counted_together():
    frames = {1000: frame(LINE, BELOW), 1001: frame(LINE), 1002: frame(LINE, BELOW), 7: frame(("other.py", 1, "x"))}
    [message] = sampler(frames).sample([pool(3)], 5)
    assert message[:3] == ("stacks", 1, 5)
    assert sorted(message[3]) == [[[LINE], 0, [2, 1, 1], ""], [[LINE, BELOW], 0, [1, 1, 0, 3, 1, 2], ""]]


def test_places_in_one_line_are_told_from_each_other():
    frames = {1000: frame(LINE, spot=4), 1001: frame(LINE, spot=9), 1002: frame(LINE, spot=4)}
    [message] = sampler(frames).sample([pool(3)], 5)
    assert message[3] == [[[LINE], 4, [1, 1, 0, 3, 1, 2], ""], [[LINE], 9, [2, 1, 1], ""]]


def test_who_waits_for_what_few_can_have_is_told_from_who_does_not():
    frames = {1000: frame(LINE, gate="lock"), 1001: frame(LINE)}
    [message] = sampler(frames).sample([pool(2)], 5)
    assert message[3] == [[[LINE], 0, [1, 1, 0], "lock"], [[LINE], 0, [2, 1, 1], ""]]


def test_of_workers_that_are_interpreters_no_line_is_told():
    """It would be that of the call into the other interpreter."""
    watch = pool(1)
    watch.recorder.kind = "interpreter"
    assert sampler({1000: frame(LINE)}).sample([watch], 5) == []


def test_only_workers_in_a_task_count():
    watch = pool(2)
    watch.recorder.workers[0].running = None
    [message] = sampler({1000: frame(LINE), 1001: frame(LINE)}).sample([watch], 5)
    assert message[3] == [[[LINE], 0, [2, 1, 1], ""]]


def test_a_worker_that_leaves_its_task_meanwhile_does_not_count():
    watch = pool(1)

    def place(frame):
        watch.recorder.workers[0].running = (1, 0, 99)
        return frame.lines, 0

    assert sampler({1000: frame(LINE)}, place=place).sample([watch], 5) == []


def test_a_worker_without_frames_or_lines_does_not_count():
    assert sampler({1000: frame()}).sample([pool(2)], 5) == []


def test_of_many_workers_all_get_their_turn():
    watch = pool(STACKS_LIMIT + 10)
    seen = []

    def place(frame):
        seen.append(frame)
        return [LINE], 0

    reader = sampler({1000 + number: number for number in range(STACKS_LIMIT + 10)}, place=place)
    [message] = reader.sample([watch], 1)
    assert [len(tasks) // 3 for _, _, tasks, _ in message[3]] == [STACKS_LIMIT]
    reader.sample([watch], 2)
    assert set(seen) == set(range(STACKS_LIMIT + 10))


def test_rests_in_proportion_to_what_it_costs():
    cpu = FakeCpu()
    cpu.cost_ns = 500_000
    reader = sampler({1000: frame(LINE)}, cpu)
    asked = range(0, 200_000_000, 10_000_000)
    sampled = [at for at in asked if reader.sample([pool(1)], at)]
    assert sampled == [0, 50_000_000, 100_000_000, 150_000_000]


def test_holds_no_frame():
    class Local:
        pass

    def task():
        local = Local()
        alive.append(weakref.ref(local))
        return reader.sample([watch], SECOND)

    alive: list[Any] = []
    watch = pool(1)
    reader = StackSampler(FakeCpu(), lambda: {1000: sys._getframe(3)}, lambda frame: ([LINE], 0))
    assert task()
    gc.disable()
    try:
        assert alive[0]() is None
    finally:
        gc.enable()


def test_cpu_time_adds_up_over_workers():
    cpu, recorder, total = FakeCpu(), pool(2).recorder, WorkerCpu()
    cpu.threads = {2000: 5, 2001: 7}
    total.read(recorder.workers, cpu, 1)
    cpu.threads = {2000: 6, 2001: 10}
    total.read(recorder.workers, cpu, 2)
    assert (total.total, total.read_ns) == (16, 2)


def test_a_worker_that_ended_keeps_its_last_reading():
    cpu, recorder, total = FakeCpu(), pool(2).recorder, WorkerCpu()
    cpu.threads = {2000: 5, 2001: 7}
    total.read(recorder.workers, cpu, 1)
    cpu.threads = {2001: 8}
    total.read(recorder.workers, cpu, 2)
    assert total.total == 13
    # The thread id was given to somebody else: not the pool's time.
    cpu.threads = {2000: 500, 2001: 8}
    total.read(recorder.workers, cpu, 3)
    assert total.total == 13


def test_a_clock_that_goes_back_is_that_of_another_thread():
    cpu, recorder, total = FakeCpu(), pool(1).recorder, WorkerCpu()
    for reading in (50, 3, 400):
        cpu.threads = {2000: reading}
        total.read(recorder.workers, cpu, 1)
    assert total.total == 50


def test_a_worker_that_left_is_read_once_more():
    cpu, recorder, total = FakeCpu(), pool(1).recorder, WorkerCpu()
    recorder.workers[0].left = True
    for reading in (50, 60):
        cpu.threads = {2000: reading}
        total.read(recorder.workers, cpu, 1)
    assert total.total == 50


def test_how_long_workers_waited_for_a_cpu():
    cpu, workers, delay = FakeCpu(), pool(2).recorder.workers, WorkerDelay()
    assert delay.due(0)
    assert not delay.read(workers, cpu, 0)  # the system does not tell
    cpu.delays = {2000: 5, 2001: 7}
    assert delay.read(workers, cpu, 1)
    assert not delay.due(DELAY_INTERVAL_NS)
    assert delay.due(1 + DELAY_INTERVAL_NS)
    cpu.delays = {2000: 6, 2001: 10}
    assert delay.read(workers, cpu, 1 + DELAY_INTERVAL_NS)
    assert delay.total == 4


def test_few_workers_stand_for_all():
    cpu, workers, delay = FakeCpu(), pool(3 * DELAYS_READ).recorder.workers, WorkerDelay()
    cpu.delays = dict.fromkeys(range(2000, 2100), 5)
    delay.read(workers, cpu, 1)
    cpu.delays = dict.fromkeys(range(2000, 2100), 15)
    delay.read(workers, cpu, 2)
    assert delay.total == 10 * 3 * DELAYS_READ


def test_what_they_waited_while_nobody_looked_does_not_count():
    cpu, workers, delay = FakeCpu(), pool(1).recorder.workers, WorkerDelay()
    for at, reading in ((1, 5), (10 * DELAY_INTERVAL_NS, 500), (11 * DELAY_INTERVAL_NS, 600)):
        cpu.delays = {2000: reading}
        delay.read(workers, cpu, at)
    assert delay.total == 100


def test_the_waits_of_a_full_pool_for_a_cpu_are_told():
    cpu = FakeCpu()
    cpu.delays = {2000: 5}
    reader, watch = sampler({1000: frame(LINE)}, cpu), pool(1)
    tags = [[message[0] for message in reader.sample([watch], at, [watch])] for at in (1, 2, 1 + DELAY_INTERVAL_NS)]
    assert tags == [["pool_ready", "waits", "stacks"], ["waits", "stacks"], ["pool_ready", "waits", "stacks"]]


def test_what_a_thread_waited_counts_in_whatever_place_it_is():
    cpu, workers, delay = FakeCpu(), pool(2).recorder.workers, WorkerDelay()
    cpu.delays = {2000: 5, 2001: 500}
    delay.read(workers, cpu, 1)
    workers[0].native_id, workers[1].native_id = 2001, 2000
    cpu.delays = {2000: 6, 2001: 503}
    delay.read(workers, cpu, 2)
    assert delay.total == 4
