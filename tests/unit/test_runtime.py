import itertools
import logging
from typing import Any, ClassVar

import pytest
from probe_support import as_ours, mistake
from runtime_support import MS, SECOND, FakeCpu, FakeExecutor, HandClock, Record, Worker, fake_stacks, submit

from poolscope.probe import runtime
from poolscope.probe.runtime import Probe
from poolscope.probe.settings import PoolRule, ProbeSettings
from poolscope.probe.transport.dispatcher import Dispatcher


@pytest.fixture
def stacks(monkeypatch):
    return fake_stacks(monkeypatch)


@pytest.fixture
def clock():
    return HandClock()


@pytest.fixture
def probe(clock, stacks, monkeypatch):
    monkeypatch.setattr(runtime, "default_sink", lambda probe: None)
    return Probe(clock=clock, cpu=FakeCpu())


@pytest.fixture
def record(probe):
    sink = Record()
    probe.add_sink(sink)
    return sink


def open_pool(probe, executor, name="pool", prefix=""):
    return probe.open_pool(executor, name=name, prefix=prefix, kind="thread")


def tick(probe, seconds=0.1):
    probe.clock.advance(seconds)
    probe.tick()


class TestPools:
    @pytest.mark.parametrize(
        ("name", "prefix", "label"),
        [
            ("name", "prefix", "name"),
            (None, "prefix", "prefix"),
            (None, "", "module:function"),
            ("", "", "module:function"),
        ],
    )
    def test_name(self, probe, name, prefix, label):
        recorder = open_pool(probe, FakeExecutor(), name, prefix)
        assert (recorder.name, recorder.created_at) == (label, "package/file.py:12")

    def test_settings_rename_and_ignore(self, probe):
        probe.settings = ProbeSettings(
            pools=[PoolRule("db-*", name="database", max_workers=3), PoolRule("module:*", ignore=True)]
        )
        assert open_pool(probe, FakeExecutor(), "db-read").name == "database"
        assert open_pool(probe, FakeExecutor(), "web").name == "web"
        assert open_pool(probe, FakeExecutor(), None) is None
        assert probe.pool_rule("db-read", "thread").max_workers == 3
        assert probe.pool_rule("web", "thread") is None

    def test_size_is_that_of_the_executor_unless_given(self, probe):
        executor = FakeExecutor(7)
        executor._threads = {1, 2}
        recorder = open_pool(probe, executor)
        assert recorder.last_size == (2, 7)
        del executor
        assert recorder.size() is None
        other = FakeExecutor()
        assert probe.open_pool(other, name="x", prefix="", kind="k", size=lambda: (1, 9)).last_size == (1, 9)

    def test_a_failure_of_ours_is_no_failure_of_the_pools(self, probe, record, stacks, caplog):
        stacks.creation_site = mistake(LookupError("no frame"))
        assert open_pool(probe, FakeExecutor()) is None
        assert open_pool(probe, FakeExecutor()) is None
        probe.flush()
        faults = record.of("fault")
        assert [fault[1] for fault in faults] == ["pools", "pools"]
        assert faults[0][2].startswith("LookupError: no frame (made_up.py:")
        assert len(caplog.records) == 1

    def test_what_was_never_used_is_never_told(self, probe, record):
        for _ in range(1000):
            open_pool(probe, FakeExecutor())
        tick(probe)
        assert record.tags() == []

    def test_a_system_without_thread_clocks_is_told_once(self, clock, stacks):
        probe, record = Probe(clock=clock, cpu=FakeCpu(readable=False)), Record()
        probe.add_sink(record)
        executors = [FakeExecutor(), FakeExecutor()]
        for executor in executors:
            open_pool(probe, executor)
        probe.flush()
        assert len(record.of("notice")) == 1
        assert len(record.of("pool_opened")) == 2


class TestMessages:
    def test_a_function_is_named_before_the_batch_that_uses_it(self, probe, record):
        executor = FakeExecutor()
        recorder = open_pool(probe, executor)
        submit(recorder, probe.clock, probe.functions.identify(tick))
        tick(probe)
        assert record.tags() == ["function", "pool_opened", "pool_batch"]
        assert record.messages[0][2].endswith("test_runtime.tick")

    def test_a_batch_comes_each_interval(self, probe, record, clock):
        executor = FakeExecutor()
        submit(open_pool(probe, executor), clock)
        for _ in range(10):
            tick(probe, 0.05)
        assert record.tags() == ["pool_opened", *["pool_batch"] * 5]

    def test_the_interval_follows_the_settings(self, probe, record, clock):
        executor = FakeExecutor()
        probe.settings = ProbeSettings(sample_interval=0.5)
        tick(probe)
        submit(open_pool(probe, executor), clock)
        for _ in range(10):
            tick(probe)
        assert record.tags() == ["pool_opened", *["pool_batch"] * 2]

    def test_a_late_sink_hears_of_all_that_is_open(self, probe, record, clock):
        staying, leaving = FakeExecutor(), FakeExecutor()
        open_pool(probe, staying, "staying"), open_pool(probe, leaving, "leaving")
        probe.functions.identify(tick)
        probe.emit(("loop_opened", 1, "loop", "asyncio", 5))
        probe.emit(("loop_opened", 2, "loop", "asyncio", 5))
        probe.emit(("loop_closed", 2, 6))
        probe.notice("something")
        probe.notice("something")
        tick(probe)
        del leaving
        tick(probe)
        late = Record()
        probe.add_sink(late)
        probe.emit(("loop_tick", 1, 7, [], 0))
        tick(probe)
        assert sorted(late.tags()) == ["function", "loop_opened", "loop_tick", "notice", "pool_opened"]
        assert late.of("pool_opened")[0][2] == "staying"
        assert late.messages[-1][0] == "loop_tick"
        assert late.tags().count("notice") == record.tags().count("notice") == 1

    def test_what_was_pushed_before_any_sink_is_not_lost(self, probe):
        probe.functions.identify(tick)
        tick(probe)
        late = Record()
        probe.add_sink(late)
        probe.flush()
        assert late.tags() == ["function"]

    def test_a_sink_that_was_taken_out_hears_nothing(self, probe, record):
        other = Record()
        remove = probe.add_sink(other)
        assert len(probe.sinks) == 2
        remove()
        remove()
        assert probe.sinks == (record,)
        probe.notice("something")
        probe.flush()
        assert record.tags() == ["notice"]
        assert other.messages == []

    def test_a_sink_that_raises_is_taken_out_and_told_of(self, probe, caplog):
        before, after = Record(), Record()

        def broken(message):
            raise OSError("gone")

        probe.add_sink(before)
        probe.add_sink(broken)
        probe.add_sink(after)
        probe.notice("one")
        probe.flush()
        probe.notice("two")
        probe.flush()
        for sink in (before, after):
            assert sink.tags() == ["notice", "fault", "notice"]
            assert sink.of("fault")[0][1] == "sink"
        assert probe.sinks == (before, after)
        assert [record.name for record in caplog.records] == ["poolscope"]

    def test_a_sink_that_gathers_is_told_when_a_delivery_ends(self, probe):
        told = []
        waiting: list[Any] = []

        class Gathering:
            put = staticmethod(waiting.append)

            def __call__(self, message):
                raise AssertionError("it has `put`")

            def flush(self):
                told.append([message[0] for message in waiting])
                waiting.clear()

        gathering = Gathering()
        remove = probe.add_sink(gathering)
        probe.notice("one")
        probe.notice("two")
        probe.flush(process=False)
        assert told == [["notice", "notice", "process_tick"]]
        assert probe.sinks == (gathering,)
        remove()
        probe.notice("three")
        probe.flush()
        assert len(told) == 1

    def test_a_sink_that_has_something_left_is_asked_again_soon(self, probe, clock):
        asked = []
        left = [True, True, True, True, False]

        class Slow:
            def __call__(self, message):
                pass

            put = __call__

            def flush(self):
                asked.append(clock())
                return left.pop(0)

        probe.add_sink(Slow())
        probe._reader.period_ns = 1000 * SECOND
        clock.advance(0.1)
        begin = clock()
        tick(probe, 0)
        assert asked == [begin] * 2  # a reading delivers twice
        assert probe._ticker.seconds_to_next() == 0.005
        for _ in range(20):
            tick(probe, 0.001)
        assert [(at - begin) // MS for at in asked[2:]] == [5, 10, 15]

    def test_a_sink_may_add_a_sink_and_emit(self, probe):
        late = Record()

        def sink(message):
            if message[0] == "notice":
                probe.add_sink(late)
                probe.emit(("fault", "x", "y"))

        probe.add_sink(sink)
        probe.notice("something")
        probe.flush()
        probe.flush()
        assert late.tags() == ["notice", "fault"]

    def test_a_sink_that_flushes_is_told_no(self, probe):
        answers = []
        probe.add_sink(lambda message: answers.append(probe.flush()))
        probe.notice("something")
        assert probe.flush()
        assert set(answers) == {False}

    def test_faults_that_nobody_fetches_are_bounded(self, probe):
        record = Record()
        for _ in range(5000):
            probe.fail("part", ValueError("x"))
        probe.add_sink(record)
        probe.flush()
        assert len(record.of("fault")) == 1000

    def test_an_error_that_cannot_be_shown(self, probe, record):
        class Odd(Exception):
            def __str__(self):
                raise RuntimeError

        probe.fail("part", Odd())
        probe.flush()
        assert record.of("fault") == [("fault", "part", "Odd")]

    def test_a_supervised_process_logs_nothing(self, probe, record, caplog):
        probe.supervised = True
        probe.fail("part", ValueError("x"))
        probe.flush()
        assert record.of("fault") == [("fault", "part", "ValueError: x")]
        assert caplog.records == []

    def test_what_happened_to_the_program_is_told_once_to_the_parent_or_to_the_log(self, probe, record, caplog):
        probe.supervised = True
        probe.incident("a worker was killed")
        probe.incident("a worker was killed")
        probe.flush()
        assert record.of("incident") == [("incident", "a worker was killed")]
        assert caplog.records == []
        probe.supervised = False
        probe.incident("another one")
        probe.incident("another one")
        probe.flush()
        assert record.of("notice") == [("notice", "another one")]
        assert len(record.of("incident")) == 1
        assert [entry.getMessage() for entry in caplog.records] == ["another one"]

    def test_a_log_handler_that_raises_is_not_our_task(self, probe):
        class Handler(logging.Handler):
            def handle(self, record):
                raise RuntimeError("handler")

        handler = Handler()
        logging.getLogger("poolscope").addHandler(handler)
        try:
            probe.fail("part", ValueError("x"))
        finally:
            logging.getLogger("poolscope").removeHandler(handler)


class TestProcess:
    def test_a_flush_without_it_tells_it_only_if_it_is_due(self, probe, record, clock):
        probe.flush(process=False)
        probe.flush(process=False)
        assert record.tags(without=()) == ["process_tick"]
        probe.flush()
        clock.advance(0.5)
        probe.flush(process=False)
        assert record.tags(without=()) == ["process_tick"] * 3

    def test_told_every_half_second(self, probe, record, clock):
        probe._cpu.clocks.process_ns, probe._cpu.clocks.children_ns = 123, 45
        times = []
        for _ in range(20):
            tick(probe)
        times = [message[1] for message in record.of("process_tick")]
        assert [b - a for a, b in itertools.pairwise(times)] == [500 * MS] * (len(times) - 1)
        assert len(times) == 4
        assert record.messages[0][2:] == (123, 0, 2.0, 45)

    def test_our_own_time_is_what_our_thread_and_flushes_used(self, probe, record):
        cpu = probe._cpu.clocks
        cpu.own_ns = 5 * MS  # our thread is new: all of it counts
        tick(probe)
        cpu.own_ns = 7 * MS
        tick(probe)
        probe.flush()  # here by the same thread
        assert record.of("process_tick")[-1][3] == 7 * MS
        probe._read_last()
        cpu.own_ns = 3 * MS  # a new thread with a clock of its own
        tick(probe)
        probe.flush()
        assert record.of("process_tick")[-1][3] == 10 * MS

    def test_a_flush_by_the_program_costs_what_it_takes(self, probe, record):
        probe._cpu.clocks.own_ns = SECOND  # the program's own
        probe._cpu.clocks.cost_ns = 3
        probe.flush()
        probe.flush()
        assert record.of("process_tick")[-1][3] == 3


class TestJobs:
    def test_a_job_runs_each_period(self, probe, clock):
        calls: list[Any] = []
        remove = probe.add_job(0.25, calls.append)
        begin = clock()
        for _ in range(10):
            tick(probe)
        assert [(call - begin) // MS for call in calls] == [300, 600, 900]
        remove()
        remove()
        tick(probe, 1)
        assert len(calls) == 3

    def test_a_late_job_is_not_made_up_for(self, probe):
        calls: list[Any] = []
        probe.add_job(0.1, calls.append)
        tick(probe, 5)
        assert len(calls) == 1

    @pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3)])
    def test_a_job_that_raises_is_taken_out_and_told_of(self, probe, record, error):
        calls: list[Any] = []

        def job(now):
            calls.append(now)
            raise error

        probe.add_job(0.1, job)
        for _ in range(3):
            tick(probe)
        assert len(calls) == 1
        [fault] = record.of("fault")
        assert fault[1] == "job"

    def test_a_job_may_take_out_itself_and_others(self, probe):
        calls: list[Any] = []

        def job(now):
            calls.append(now)
            remove()
            remove_other()

        remove = probe.add_job(0.1, job)
        remove_other = probe.add_job(0.1, calls.append)
        for _ in range(3):
            tick(probe)
        assert len(calls) == 1

    def test_a_job_may_flush(self, probe, record):
        answers = []
        probe.add_job(0.1, lambda now: answers.append(probe.flush()))
        tick(probe)
        assert answers == [True]


class TestJudge:
    @pytest.fixture
    def sought(self, probe, monkeypatch):
        calls: list[Any] = []

        def default_sink(probe):
            sink = Record()
            probe.add_sink(sink)
            calls.append(sink)

        monkeypatch.setattr(runtime, "default_sink", default_sink)
        return calls

    def test_a_process_that_nobody_watches_gets_its_own_with_the_first_pool(self, probe, sought, clock):
        tick(probe)
        assert sought == []
        executors = [FakeExecutor(), FakeExecutor()]
        submit(open_pool(probe, executors[0]), clock)
        tick(probe)
        open_pool(probe, executors[1])
        tick(probe)
        [sink] = sought
        assert [message[1] for message in sink.of("pool_opened")] == [1, 2]
        assert sink.tags()[:2] == ["pool_opened", "pool_batch"]

    def test_what_is_read_while_it_is_sought_waits_for_it(self, probe, monkeypatch, clock):
        """A thread that is still importing it as the process forks is followed by another one."""
        sink = Record()

        def slow(probe):
            tick(probe)
            probe._reader.drain(clock())
            probe.add_sink(sink)

        monkeypatch.setattr(runtime, "default_sink", slow)
        executor = FakeExecutor()
        submitted = submit(open_pool(probe, executor), clock)
        tick(probe)
        assert sink.tags() == ["pool_opened", "pool_batch"]
        assert sink.messages[1][-1] == [1, submitted]

    def test_a_loop_asks_for_one_too(self, probe, sought):
        probe.emit(("loop_opened", 1, "loop", "asyncio", 5))
        tick(probe)
        assert sought[0].tags() == ["loop_opened"]

    def test_not_where_somebody_listens(self, probe, record, sought):
        executor = FakeExecutor()
        open_pool(probe, executor)
        tick(probe)
        assert sought == []

    def test_not_under_a_supervisor(self, probe, sought):
        probe.supervised = True
        executor = FakeExecutor()
        open_pool(probe, executor)
        tick(probe)
        assert sought == []

    def test_without_one_records_are_read_and_dropped(self, probe, monkeypatch, clock, caplog):
        def missing(probe):
            raise ImportError("No module named 'msgspec'")

        monkeypatch.setattr(runtime, "default_sink", missing)
        executors = []
        for _ in range(3):
            executors.append(FakeExecutor())
            recorder = open_pool(probe, executors[-1])
            submit(recorder, clock)
            tick(probe)
            assert recorder.arrivals == []
        assert probe._outlet.waiting == 0
        assert len(caplog.records) == 1
        assert "msgspec" in caplog.text

    def test_the_end_of_our_thread_loses_nothing_for_a_judge_to_come(self, probe, sought, clock):
        executor = FakeExecutor()
        recorder = open_pool(probe, executor)
        submit(recorder, clock)
        probe._read_last()
        assert recorder.arrivals
        tick(probe)
        assert sought[0].tags() == ["pool_opened", "pool_batch"]


class TestStacks:
    class Frame:
        lines = (("app.py", 3, "task"),)
        f_code = compile("", "app.py", "exec")
        f_back = None
        f_globals: ClassVar[dict[str, object]] = {}
        f_lasti = -1

    def full_pool(self, probe, executor):
        executor._threads = {1}
        executor._max_workers = 1
        recorder = open_pool(probe, executor)
        Worker(recorder, probe.clock, ident=77).start(1, submit(recorder, probe.clock))
        submit(recorder, probe.clock)
        return recorder

    def test_sampled_while_full_and_heard(self, probe, record, monkeypatch):
        executor = FakeExecutor()
        monkeypatch.setattr(probe._reader.samplers.stacks, "_current_frames", lambda: {77: self.Frame})
        recorder = self.full_pool(probe, executor)
        started = probe.clock()
        tick(probe)
        tick(probe)
        at = probe.clock()
        seen = ["pool_batch", "waits", "stacks"]
        assert record.tags() == ["pool_opened", *seen, "held", *seen]  # who is held is asked less often
        assert record.of("stacks")[-1] == (
            "stacks",
            recorder.id,
            at,
            [[[("app.py", 3, "task")], 0, [1, 1, started], ""]],
        )
        # A scrape asks for numbers, not for stacks.
        record.clear()
        probe.flush()
        assert record.tags() == ["pool_batch"]

    def test_what_happened_is_told_before_the_workers_are_looked_at(self, probe, record, monkeypatch):
        """Reading files gives the GIL away each time: where tasks compute, that takes longer than a judge waits."""
        heard = []
        monkeypatch.setattr(probe._reader.samplers.stacks, "sample", lambda *_: heard.append(record.tags()) or [])  # type: ignore[func-returns-value]
        monkeypatch.setattr(probe._cpu, "allowed", lambda _: heard.append(record.tags()) or 2.0)  # type: ignore[func-returns-value]
        self.full_pool(probe, FakeExecutor())
        tick(probe)
        assert heard
        assert all(tags == ["pool_opened", "pool_batch"] for tags in heard)

    def test_not_for_nobody(self, probe, monkeypatch):
        executor = FakeExecutor()
        monkeypatch.setattr(probe._reader.samplers.stacks, "_current_frames", lambda: 1 / 0)
        self.full_pool(probe, executor)
        tick(probe)
        probe.add_sink(record := Record())
        probe.flush()
        assert record.of("fault") == []


class TestFork:
    """The hooks, called by hand; tests/threads forks for real."""

    def test_a_child_starts_anew(self, probe, record, clock):
        executor = FakeExecutor()
        recorder = open_pool(probe, executor)
        function = probe.functions.identify(tick)
        submit(recorder, clock, function)
        calls: list[Any] = []
        probe.add_job(0.1, calls.append)
        tick(probe)
        record.clear()
        probe.after_fork_in_child()
        submit(recorder, clock)
        tick(probe)
        assert record.messages == []
        assert len(calls) == 1
        assert probe.sinks == ()
        # And works: the same executor gets a new recorder, the same function is named again.
        probe.add_sink(record)
        assert probe.functions.identify(tick) == function
        submit(open_pool(probe, executor), clock, function)
        tick(probe)
        assert record.tags() == ["function", "pool_opened", "pool_batch"]

    def test_a_child_looks_for_its_sinks_with_its_first_event(self, probe, record, clock):
        made = []

        def factory(probe):
            made.append(Record())
            return made[-1]

        probe.after_fork += [factory, lambda probe: None, lambda probe: 1 / 0]
        probe.after_fork_in_child()
        probe.flush()
        tick(probe)
        assert made == []
        executor = FakeExecutor()
        submit(open_pool(probe, executor), clock)
        tick(probe)
        tick(probe)
        [sink] = made
        assert sink.tags() == ["fault", "pool_opened", "pool_batch", "pool_batch"]
        assert sink.of("fault")[0][1] == "fork"

    def test_a_flush_is_enough_to_find_them(self, probe, record):
        probe.after_fork.append(lambda probe: record)
        probe.after_fork_in_child()
        probe.functions.identify(tick)
        probe.flush()
        assert record.tags() == ["function"]

    def test_a_lock_that_was_held_at_the_fork_is_not_held_in_the_child(self, probe):
        assert probe._reader.enter(0)
        probe.after_fork_in_child()
        assert probe.flush()


def test_a_thread_that_cannot_be_started_is_told_of(probe, record, monkeypatch):
    errors = ["can't start new thread", "can't create new thread at interpreter shutdown"]

    @as_ours
    def start(function, args):
        raise RuntimeError(errors.pop(0))

    monkeypatch.setattr("poolscope.probe.interpreter.native_thread.start_new_thread", start)
    probe.wake()
    probe.wake()
    probe.flush()
    assert [fault[2].split(" (")[0] for fault in record.of("fault")] == ["RuntimeError: can't start new thread"]
    assert errors == []


def test_a_sink_that_is_added_during_a_delivery_gets_all_that_comes_after_it():
    """Here by another sink; a thread may do so at any point."""
    outlet = Dispatcher(lambda failure: pytest.fail(str(failure)))
    late: list[Any] = []
    outlet.push(("pool_opened", 1, "web"))
    outlet.deliver()

    def early(message):
        if message[0] == "pool_opened" and not late:
            outlet.add(late.append)
            outlet.push(("fault", "part", "after it"))

    outlet.add(early)
    outlet.deliver()
    outlet.deliver()
    assert late == [("pool_opened", 1, "web"), ("fault", "part", "after it")]
