"""What is made of looks at an event loop: counters, blocks. Tests turn the clock by hand."""

import gc
import itertools
import os
import sys
import time
import types
import weakref

import pytest
from loop_support import as_judged

import poolscope
from poolscope.probe.loops import busythreads
from poolscope.probe.loops.blocks import REPEAT_NS, BlockTracker, Observation
from poolscope.probe.loops.busythreads import BusyThreads
from poolscope.probe.loops.evidence import Evidence
from poolscope.probe.loops.kernel_clocks import GcTime
from poolscope.probe.loops.meter import Counters, Meter, Reading
from poolscope.probe.loops.monitor import _is_busy
from poolscope.probe.loops.watch import HandleRoot, LoopWatch, _lines, stamp_into

MS = 1_000_000
BLOCKED = 100 * MS
PERIOD = 25 * MS
SWITCH = 5 * MS


def test_evidence_is_the_difference_of_two_counters():
    base = Counters(1000, 100, 50, 10, 20, 30, 40, 100, 1, 2, 3, 5)
    last = Counters(2000, 600, 150, 110, 220, 330, 90, 200, 4, 6, 8, 405)
    e = Evidence.between(base, last, BLOCKED)
    assert (e.wall_ns, e.cpu, e.other, e.gc, e.late, e.still, e.held) == (1000, 0.5, 0.1, 0.1, 0.2, 0.3, 0.4)
    assert (e.delay, e.futex_seen, e.call_seen, e.run_seen) == (0.5, 3, 4, 5)


def test_evidence_does_not_invent_what_was_not_measured():
    e = Evidence.between(Counters(0, None), Counters(10, None), BLOCKED)
    assert e.cpu is None
    assert e.delay is None


class Machine:
    """Clocks that a test moves by hand, and the meter that reads them."""

    def __init__(self):
        self.meter = Meter(PERIOD, SWITCH)
        self.at = self.loop = self.process = self.own = self.switches = 0
        self.counters = self.meter.advance(self.reading(), first=True)
        self.look()

    def reading(self):
        return Reading(self.at, self.loop, self.process, self.own, self.switches, 0)

    def look(self, ms=25, *, loop=0, other=0, own=0, switches=1, on_time=False):
        """`ms` pass, in which those threads use so many ms of CPU, and ours goes to sleep so many times."""
        self.at += int(ms * MS)
        self.loop += int(loop * MS)
        self.own += int(own * MS)
        self.process += int((loop + other + own) * MS)
        self.switches += switches
        before, self.counters = self.counters, self.meter.advance(self.reading(), on_time=on_time)
        return Evidence.between(before, self.counters, BLOCKED)


class TestMeter:
    def test_cpu_of_others_is_without_the_loops_and_ours(self):
        e = Machine().look(100, loop=20, other=50, own=10)
        assert (e.cpu, e.other) == (0.2, 0.5)

    def test_a_clock_that_does_not_move_means_sleep(self):
        assert Machine().look(25).still == 1

    def test_whoever_wakes_up_is_not_asleep(self):
        machine = Machine()
        assert machine.look(25, loop=0.01).still == 0

    def test_too_short_a_time_does_not_tell_sleep_from_waiting_for_the_gil(self):
        machine = Machine()
        machine.look(25, loop=1)
        base = machine.counters
        assert [machine.look(4).still for _ in range(3)] == [0, 0, 0]
        machine.look(4)
        # now it is known, and counts from its beginning
        assert machine.counters.still_ns - base.still_ns == 16 * MS

    def test_a_late_look_at_an_idle_process_is_the_machines_doing(self):
        machine = Machine()
        assert machine.look(325).late == pytest.approx(300 / 325)
        assert machine.counters.silenced

    def test_a_late_look_that_may_be_a_sinks_doing(self):
        machine = Machine()
        machine.look(325, switches=2)
        assert not machine.counters.silenced

    def test_a_late_look_after_a_sleep_that_was_measured(self):
        meter = Meter(PERIOD, SWITCH)
        meter.advance(Reading(0, 0, 0, 0, 0, 0, 5 * MS))
        counters = meter.advance(Reading(325 * MS, 0, 0, 0, 4, 0, 305 * MS))
        assert counters.late_ns == 300 * MS
        assert counters.silenced
        # in time, but then something kept us
        counters = meter.advance(Reading(650 * MS, 0, 0, 0, 6, 0, 306 * MS))
        assert counters.late_ns == 300 * MS
        assert not counters.silenced

    def test_a_late_look_because_we_were_busy_is_nobodys(self):
        assert Machine().look(325, own=300).late == 0

    def test_a_late_look_because_of_the_gil(self):
        machine = Machine()
        e = machine.look(325, other=320, switches=60)
        assert e.late == 0
        assert machine.counters.silenced
        assert e.held == 0
        assert e.waited == 1

    def test_a_loop_that_kept_the_gil(self):
        assert Machine().look(325, loop=320, switches=61).held == 1

    def test_a_loop_that_kept_the_gil_on_a_slow_machine(self):
        assert Machine().look(325, loop=120, switches=61).held == 1

    def test_a_loop_that_let_go_of_the_gil_too_shortly_for_us_to_get_it(self):
        # many short callbacks with a system call in each: we slept once for each of them
        assert Machine().look(325, loop=320, switches=75).held == 0

    def test_a_loop_that_slept_with_the_gil(self):
        assert Machine().look(325, switches=61).held == 1

    def test_a_little_late_is_not_late(self):
        machine = Machine()
        assert machine.look(45).late == 0
        assert not machine.counters.silenced

    def test_looks_in_between_that_were_not_passed_on(self):
        assert Machine().look(325, on_time=True).late == 0

    def test_the_first_reading_is_of_another_thread(self):
        meter = Meter(PERIOD, SWITCH)
        meter.advance(Reading(0, 0, 0, 0, None), first=True)
        counters = meter.advance(Reading(300 * MS, 0, 310 * MS, 500 * MS, 7))
        assert counters.late_ns == 0
        assert counters.other_cpu_ns == 310 * MS

    def test_delay_is_measured_between_two_answers(self):
        machine = Machine()
        machine.meter.measured_delay(machine.at, 7 * MS)
        assert machine.look(25).delay is None
        machine.meter.measured_delay(machine.at, 17 * MS)
        assert machine.look(25).delay == pytest.approx(0.4)

    def test_delay_is_not_measured_across_a_gap(self):
        machine = Machine()
        machine.meter.measured_delay(machine.at, 7 * MS)
        machine.meter.measured_delay(machine.at, None)
        machine.look(25)
        machine.meter.measured_delay(machine.at, 17 * MS)
        assert machine.look(25).delay is None

    def test_answers_of_the_kernel_are_counted(self):
        machine = Machine()
        for wait in ("futex", "call", "call", "run", ""):
            machine.meter.saw_kernel(wait)
        e = machine.look()
        assert (e.futex_seen, e.call_seen, e.run_seen) == (1, 2, 1)


SLEEP = (("app.py", 7, "main"),)
CALL = (("app.py", 8, "main"), ("lib.py", 1, "call"))
BURN = (("other.py", 3, "burn"),)


class Story:
    """A loop as its tracker sees it, with one look each period."""

    def __init__(self, gil=True):
        self.machine = Machine()
        self.tracker = BlockTracker(
            1, blocked_ns=BLOCKED, period_ns=PERIOD, next_block=itertools.count(1).__next__, gil=gil
        )
        self.sent = []
        self.pending = None
        self.tracker.begin(self.machine.counters)

    @property
    def now(self):
        return self.machine.at

    def look(self, root=None, lines=(), ms=25, busy=(), **clocks):
        self.machine.look(ms, **clocks)
        self.sent += self.tracker.look(Observation(self.machine.counters, root, lines, busy, self.pending))
        return self

    def idle(self, looks=1):
        for _ in range(looks):
            self.look(loop=0.05)
        return self

    def held(self, looks, root="A", lines=SLEEP, **clocks):
        """The loop is in one callback for so many looks; a beat is posted with the first."""
        for _ in range(looks):
            self.look(root, lines, **clocks)
            if self.pending is None:
                self.pending = self.now
        return self

    def answer(self, after_ms=1):
        self.pending = None
        self.machine.at += after_ms * MS
        self.sent += self.tracker.ran(self.machine.at)
        return self

    def ended(self):
        return [as_judged(message) for message in self.sent if message[4]]

    def causes(self):
        return [message[5] for message in self.ended()]

    def lengths_ms(self):
        return [(message[4] - message[3]) / MS for message in self.ended()]


class TestBlocks:
    def test_one_long_call(self):
        story = Story().idle(3)
        begun = story.now
        story.held(8).answer()
        (tag, loop, block, started, ended, cause, lines, share) = as_judged(story.sent[-1])
        assert (tag, loop, block, cause, lines, share) == ("loop_block", 1, 1, "blocking_call", list(SLEEP), 0.0)
        assert started == begun + PERIOD // 2  # between the look before and the first that saw it
        assert ended == story.now

    def test_told_once_it_has_lasted_long_enough(self):
        story = Story().idle(2).held(4)
        assert story.sent == []
        story.held(1)
        (message,) = story.sent
        assert message[4] == 0
        assert story.now - message[3] >= BLOCKED

    def test_told_again_every_half_second(self):
        story = Story().idle(2).held(60)
        told = [message for message in story.sent if not message[4]]
        assert len(told) == 1 + (60 * PERIOD - BLOCKED) // REPEAT_NS
        assert len({message[2:4] for message in told}) == 1

    def test_a_short_call_is_no_block(self):
        assert Story().idle(2).held(3).answer().idle(3).sent == []

    def test_many_short_calls_are_no_block(self):
        story = Story().idle(2)
        for root in range(20):
            story.held(1, root=root, loop=2)
        assert story.answer().idle(2).sent == []

    def test_a_long_call_among_short_ones(self):
        story = Story().idle(2)
        for root in range(5):
            story.held(1, root=root, loop=2)
        story.held(8, root="long")
        for root in range(5):
            story.held(1, root=root, loop=2)
        story.answer()
        assert story.lengths_ms() == [200]
        assert story.causes() == ["blocking_call"]

    def test_two_long_calls_without_a_look_in_between(self):
        story = Story().idle(2).held(8, root="A").held(12, root="B").answer()
        assert story.lengths_ms() == [200, 288.5]
        assert [message[2] for message in story.ended()] == [1, 2]
        assert story.ended()[0][4] == story.ended()[1][3]

    def test_the_same_coroutine_again_is_another_call(self):
        # the same root: what tells them apart is the beat that ran in between
        story = Story().idle(2).held(3, root="A").answer().held(3, root="A").answer()
        assert story.sent == []

    def test_a_callback_that_began_after_the_beat(self):
        story = Story().idle(2).look("A", SLEEP)
        # the beat ran before the look that saw the callback, and its answer is read after it
        story.sent += story.tracker.ran(story.now - 2 * MS)
        story.held(7).answer()
        assert story.lengths_ms() == [pytest.approx(2 + 7 * 25 + 1)]

    def test_the_line_most_often_seen(self):
        story = Story().idle(2).held(3, lines=SLEEP).held(6, lines=CALL).answer()
        assert story.ended()[0][6] == list(CALL)

    def test_the_line_counts_whatever_it_calls(self):
        other = (CALL[0], ("lib.py", 2, "other"))
        story = Story().idle(2).held(4, lines=SLEEP).held(3, lines=CALL).held(2, lines=other).answer()
        assert story.ended()[0][6] == list(CALL)

    def test_computing(self):
        story = Story().idle(2).held(8, loop=24).answer()
        assert story.causes() == ["cpu_bound"]
        assert story.ended()[0][7] == pytest.approx(0.96)

    def test_a_callback_that_runs_when_the_loop_stops(self):
        story = Story().idle(2).held(8)
        story.sent += story.tracker.close(story.now)
        assert story.lengths_ms() == [pytest.approx(187.5)]
        assert story.tracker.close(story.now) == []

    def test_a_loop_that_ends_long_after_the_last_look(self):
        story = Story().idle(2).held(2)
        assert story.tracker.close(story.now + 900 * MS) == []

    def test_what_lasts_is_told_when_asked(self):
        story = Story().idle(2).held(3)
        assert story.tracker.ongoing(story.now) == []
        story.held(5)
        message = as_judged(*story.tracker.ongoing(story.now))
        assert message[:3] == ("loop_block", 1, 1)
        assert message[4] == 0
        assert message[5] == "blocking_call"

    def test_a_loop_that_is_held_from_its_first_callback_on(self):
        story = Story().held(8).answer()
        assert story.lengths_ms() == [8 * 25 - 12.5 + 1]

    def test_suspicious_from_half_a_block_on(self):
        story = Story().idle(2).held(2)
        assert not story.tracker.suspicious
        story.held(1)
        assert story.tracker.suspicious
        assert not story.answer().idle(1).tracker.suspicious


class TestSilence:
    """We came late: something kept the GIL or the CPU from us."""

    def test_a_c_function_that_keeps_the_gil(self):
        story = Story().idle(3)
        story.look("A", SLEEP, ms=525, loop=510, switches=101)
        story.answer()
        assert story.causes() == ["cpu_bound"]
        assert story.lengths_ms() == [pytest.approx(525 - 12.5 + 1)]
        assert story.ended()[0][6] == list(SLEEP)

    def test_a_callback_that_runs_as_we_come_late_need_not_be_why(self):
        # our thread got no CPU, the loop's did: it may have run many callbacks
        story = Story().idle(3).look("A", SLEEP, ms=525, loop=500, switches=1).answer()
        assert story.sent == []

    def test_a_beat_that_is_read_late_does_not_prolong_what_was_seen_before(self):
        story = Story().idle(3).held(1).answer(after_ms=300)
        assert story.sent == []

    def test_another_threads_c_function_keeps_the_gil(self):
        story = Story().idle(3)
        story.look(None, ms=525, loop=0.5, other=510, switches=80, busy=[(BURN, 510 * MS)])
        story.pending = story.now
        story.answer()
        assert story.causes() == ["gil_contention"]
        assert story.ended()[0][6] == list(BURN)
        assert story.lengths_ms() == [pytest.approx(501)]

    def test_an_idle_loop_that_never_woke_up_missed_nothing(self):
        story = Story().idle(3).look(None, ms=525, other=510, switches=80)
        story.pending = story.now
        assert story.answer().sent == []

    def test_a_process_that_did_not_run(self):
        story = Story().idle(3).look(None, ms=525)
        story.pending = story.now
        story.answer()
        assert story.causes() == ["host_descheduled"]
        assert story.ended()[0][6] == []

    def test_a_sink_that_kept_us_is_nothing(self):
        story = Story().idle(3).look(None, ms=525, switches=3)
        story.pending = story.now
        assert story.answer().sent == []


class TestStarvation:
    """The loop answers nothing, and no single callback is why."""

    def starve(self, looks, **clocks):
        story = Story().idle(3)
        story.pending = story.now
        for root in range(looks):
            # each look finds it somewhere else
            story.look(root, SLEEP, busy=[(BURN, 24 * MS)], **clocks)
        return story

    def test_gil(self):
        story = self.starve(8, loop=0.3, other=24)
        assert [as_judged(message)[4:6] for message in story.sent] == [(0, "gil_contention")]
        story.answer()
        assert story.causes() == ["gil_contention"]
        assert story.ended()[0][6] == list(BURN)
        assert story.lengths_ms() == [201]

    def test_too_short(self):
        assert self.starve(3, loop=0.3, other=24).answer().sent == []

    def test_no_cpu(self):
        story = Story().idle(3)
        story.pending = story.now
        for root in range(8):
            story.machine.meter.measured_delay(story.now, root * 20 * MS)
            story.look(root, SLEEP, loop=2)
        assert story.answer().causes() == ["host_descheduled"]
        assert story.ended()[0][6] == []

    def test_collections(self):
        story = Story().idle(3)
        story.pending = story.now
        for root in range(8):
            collected = story.machine.counters.gc_ns + 24 * MS
            story.machine.look(25, loop=25)
            old = story.machine.counters
            counters = Counters(old.at_ns, old.loop_cpu_ns, gc_ns=collected)
            story.machine.counters = counters
            story.sent += story.tracker.look(Observation(counters, root, SLEEP, (), story.pending))
        assert story.answer().causes() == ["gc"]

    def test_it_ends_where_something_else_goes_on(self):
        story = self.starve(8, loop=0.3, other=24)
        for root in range(100, 130):
            story.look(root, SLEEP, loop=24)
        story.answer()
        (ended,) = story.ended()
        assert ended[5] == "gil_contention"
        assert (ended[4] - ended[3]) / MS < 500

    def test_a_long_callback_takes_the_block_over(self):
        story = self.starve(8, loop=0.3, other=24)
        story.held(40, root="long")
        story.answer()
        assert {message[2] for message in story.sent} == {1}
        assert story.causes() == ["blocking_call"]
        assert story.ended()[0][6] == list(SLEEP)

    def test_a_block_that_was_told_does_not_count_again(self):
        story = Story().idle(3).held(20, root="A")
        # the beat is still pending, but what waits now are short calls
        for root in range(8):
            story.look(root, SLEEP, loop=0.3, other=24, busy=[(BURN, 24 * MS)])
        story.answer()
        first, second = story.ended()
        assert first[5] == "blocking_call"
        assert second[5] == "gil_contention"
        assert second[3] >= first[4]


def test_a_loop_that_computes_between_looks_is_not_idle():
    idle, busy = Counters(25 * MS, 100_000), Counters(25 * MS, 6 * MS)
    begin, blind = Counters(0, 0), Counters(0, None)
    assert _is_busy(begin, busy)
    assert not _is_busy(begin, idle)
    assert not _is_busy(blind, busy)
    assert not _is_busy(None, busy)


class Handle:
    def __eq__(self, other):
        return True

    __hash__ = None


def test_handles_are_told_apart_by_identity():
    one, other = Handle(), Handle()
    assert HandleRoot(weakref.ref(one)) == HandleRoot(weakref.ref(one))
    assert HandleRoot(weakref.ref(one)) != HandleRoot(weakref.ref(other))
    seen = HandleRoot(weakref.ref(one))
    del one
    again = Handle()  # at the same address, more often than not
    assert HandleRoot(weakref.ref(again)) != seen


class Loop:
    """Something that lives, as a loop does."""


@pytest.mark.parametrize(
    ("gap_ms", "loop_ms", "blocks"),
    [(25, 1, 1), (120, 1, 0), (120, 0, 1)],
    ids=["looks in time", "late, and it woke up", "late, and it never woke up"],
)
def test_a_frame_at_the_address_of_another_is_no_call_that_lasts(gap_ms, loop_ms, blocks):
    loop = Loop()
    tracker = BlockTracker(1, blocked_ns=BLOCKED, period_ns=PERIOD, next_block=itertools.count(1).__next__)
    watch = LoopWatch(
        loop,
        number=1,
        kind="uvloop",
        name="main",
        ident=1,
        native_id=1,
        base=None,
        adopted=False,
        tracker=tracker,
        meter=Meter(PERIOD, SWITCH),
        clock=lambda: 0,
    )
    watch.begin(Reading(0, 0))
    address, told = 4711, []
    for look in range(1, 9):
        told += watch.look(Reading(look * gap_ms * MS, look * loop_ms * MS), address, SLEEP, [])
    assert len({message[2] for message in told}) == blocks


def test_a_stamp_keeps_its_first_time():
    ran, clock = {}, itertools.count(7).__next__
    stamp = stamp_into(ran, clock)
    assert ran == {}
    stamp()
    stamp()
    assert ran == {"at": 7}


class TestGcTime:
    def test_counts_collections_of_any_thread(self):
        clock = itertools.count(0, 10).__next__
        gc_time = GcTime(clock)
        gc.disable()
        gc_time.install()
        try:
            gc.collect()
            gc.collect()
        finally:
            gc_time.remove()
            gc.enable()
        assert gc_time.total_ns(1000) == 20  # from 0 to 10 and from 20 to 30
        assert gc_time.known_ns == 20

    def test_a_collection_that_goes_on_counts_so_far(self):
        gc_time = GcTime(lambda: 5)
        gc_time._begun.append(100)
        assert gc_time.total_ns(130) == 30
        gc_time._done.append(150)
        assert gc_time.total_ns(500) == 50

    def test_leaves_nothing_behind(self):
        before = list(gc.callbacks)
        gc_time = GcTime(lambda: 5)
        gc_time.remove()
        gc_time.install()
        gc_time.install()
        assert len(gc.callbacks) == len(before) + 1
        gc_time.remove()
        assert gc.callbacks == before

    def test_runs_no_python_code_in_a_collection(self):
        # else a signal that came during the collection would be handled there, and what it raises would be lost
        gc_time = GcTime(time.perf_counter_ns)
        called = []

        def profiler(frame, event, arg):
            if event == "call":
                called.append(frame.f_code)

        gc_time.install()
        try:
            sys.setprofile(profiler)
            gc.collect()
            sys.setprofile(None)
        finally:
            sys.setprofile(None)
            gc_time.remove()
        # Not by the word: the checkout, and with it this file, may be in a folder called poolscope.
        package = os.path.join(os.path.dirname(poolscope.__file__), "")
        assert not [code for code in called if code.co_filename.startswith(package)]
        assert not isinstance(gc_time._callback, types.FunctionType)


class FakeThread:
    def __init__(self, native_id):
        self.native_id = native_id


class TestBusyThreads:
    @pytest.fixture
    def machine(self, monkeypatch):
        threads = {1: FakeThread(101), 2: FakeThread(102), 3: FakeThread(None)}
        used = {101: 0, 102: 0}
        monkeypatch.setattr(
            busythreads, "_threads", lambda: [(k, t.native_id) for k, t in threads.items() if t.native_id]
        )
        monkeypatch.setattr(busythreads, "user_lines", lambda frame: [frame] if frame else [])
        monkeypatch.setattr(busythreads, "is_user_file", lambda filename: filename != "lib.py")
        return threads, used, BusyThreads(used.get)

    def test_names_those_who_computed(self, machine):
        _, used, busy = machine
        frames = {1: ("a.py", 1, "a"), 2: ("b.py", 1, "b")}
        assert busy.read(frames) == []  # nothing to compare with
        used[102] += 30 * MS
        assert busy.read(frames) == [(2, (("b.py", 1, "b"),), 30 * MS)]
        used[101] += 10_000  # no computing
        assert busy.read(frames) == []

    def test_a_thread_that_has_started_since(self, machine):
        threads, used, busy = machine
        busy.read(None)
        threads[4] = FakeThread(104)
        used[104] = 12 * MS
        assert busy.read({4: ("c.py", 1, "c")}) == [(4, (("c.py", 1, "c"),), 12 * MS)]

    def test_a_library_is_not_named(self, machine):
        _, used, busy = machine
        busy.read(None)
        used[101] += 30 * MS
        assert busy.read({1: ("lib.py", 1, "worker")}) == []

    def test_a_thread_that_has_ended(self, machine):
        _, used, busy = machine
        busy.read(None)
        del used[102]
        assert busy.read({1: ("a.py", 1, "a")}) == []


LIBRARY = """
import threading

async def respond(look):
    return encode([1], look)

def encode(rows, look):
    return [encode_one(row, look) for row in rows]

def encode_one(row, look):
    return look()

def wait(look):
    look()
"""


class TestLinesOfALibrary:
    """Where no line of a callback is the user's."""

    def look(self, name):
        """Return the lines as they are seen from within a function of the library."""
        names, found, outermost = {}, [], sys._getframe()
        exec(compile(LIBRARY, "/venv/lib/site-packages/encoders.py", "exec"), names)
        made = names[name](lambda: found.append(_lines(sys._getframe(1), id(outermost))))
        if made is not None:
            with pytest.raises(StopIteration):
                made.send(None)
        return found[0]

    def test_of_a_coroutine_it_is_the_line_that_called_what_holds_it(self):
        lines = self.look("respond")
        assert [line[2] for line in lines] == ["respond", "encode"]
        assert lines[0][1] == 5

    def test_without_a_coroutine_it_is_the_innermost_one(self):
        assert [line[2] for line in self.look("wait")] == ["wait"]
