"""Whole loads in virtual time, tick by tick as the judge does it, against what each load is by construction."""

import random
from heapq import heappop, heappush

import msgspec
import pytest
from pool_support import ORIGIN, SECOND, TICK, VirtualPool, batches, poisson, simulate

import poolscope
from poolscope import profiler
from poolscope.analysis.detection import Rules
from poolscope.analysis.findings import bursts_together, frames_of
from poolscope.analysis.loop_case import LoopCase
from poolscope.analysis.loop_history import LoopHistory
from poolscope.analysis.pool_case import PoolCase
from poolscope.analysis.rows import PoolRow
from poolscope.analysis.signals import ProcessSignals
from poolscope.executors import futures
from poolscope.messages import LoopBlock, LoopOpened, Stack, StackSample
from poolscope.model import Thresholds

GENTLE = [(number * 0.25, 0.2, 1) for number in range(24)]
FAST = [(6 + number * 0.02, 0.2, 1) for number in range(150)]
#: The fourth worker of four is taken at 6.06 s, so the task of 6.08 s is the first that waits.
KNEE = 6.08


def test_a_pool_that_fills_turns_serial_and_is_told_at_once() -> None:
    pool = VirtualPool(4).run(GENTLE + FAST)
    (finding,) = pool.case.findings()
    assert (finding.pattern, finding.cause, finding.severity) == (
        "async_then_serial",
        "blocking_io",
        "warning",
    )
    assert finding.since_seconds == pytest.approx(KNEE, abs=0.001)
    assert finding.detected_after_seconds <= Thresholds().sustain_seconds + 1
    assert finding.until_seconds == pytest.approx(13.42, abs=0.02)
    assert finding.evidence["effective_parallelism"] == pytest.approx(4, rel=0.05)
    assert [began for _, _, began in pool.events] == [True, False]


def test_the_suggested_size_ends_the_finding_and_one_less_does_not() -> None:
    (finding,) = VirtualPool(4).run(GENTLE + FAST).case.findings()
    suggested = finding.advice.suggested_max_workers
    assert suggested is not None
    assert str(suggested) in finding.advice.text
    assert not VirtualPool(suggested).run(GENTLE + FAST).events
    curve = VirtualPool(4).run(GENTLE + FAST).case.curve()
    assert curve is not None
    assert suggested in [point.workers for point in curve]
    less = VirtualPool(suggested - 1).run(GENTLE + FAST)
    assert max(finding.evidence["longest_seconds"] for finding in less.case.findings()) >= 1.0


#: As the event loop's own executor has them: names that are looked up before each of many connections.
LOOKUPS = [(number * 0.1 + 0.06, 0.001, 2) for number in range(60)]


def test_short_tasks_of_another_kind_do_not_make_the_work_look_hindered() -> None:
    crowd = FAST + [(at, 0.001, 2) for at, _, _ in FAST]
    for before in (LOOKUPS, LOOKUPS + GENTLE):  # the work was never seen alone, or it was
        (finding,) = VirtualPool(4).run(before + crowd).case.findings()
        assert finding.cause == "blocking_io"


def test_work_that_is_hindered_is_told_among_short_tasks_of_another_kind() -> None:
    alone = [(at, 0.05, 1) for at, _, _ in GENTLE]
    in_pairs = [(at + 0.01, 0.1, 1) for at, _, _ in GENTLE[::4]]
    crowd = FAST + [(at, 0.001, 2) for at, _, _ in FAST]
    (finding,) = VirtualPool(4).run(LOOKUPS + alone + in_pairs + crowd).case.findings()
    assert (finding.pattern, finding.cause) == ("serial", "shared_resource")
    assert "the longer each takes: now 4.0 times as long as alone" in finding.summary


def test_work_that_takes_longer_than_alone_is_not_known_to_be_hindered() -> None:
    (finding,) = VirtualPool(4).run([(at, 0.05, 1) for at, _, _ in GENTLE] + FAST).case.findings()
    assert (finding.pattern, finding.cause, finding.advice.action) == ("serial", "unknown", "none")
    assert "its tasks take 4.0 times as long as alone, and why is not established" in finding.summary
    assert "whether what they wait for at the line shown has become slower" in finding.advice.text


def test_more_of_the_longer_work_is_no_hindrance() -> None:
    calm = [(0.1 + number * 0.05, 0.02 if number % 4 else 0.2, 1 if number % 4 else 2) for number in range(120)]
    crowd = [
        (6.2 + number * 0.02, 0.02 if number % 4 == 0 else 0.2, 1 if number % 4 == 0 else 2) for number in range(200)
    ]
    (finding,) = VirtualPool(4).run(calm + crowd).case.findings()
    assert (finding.cause, finding.advice.action) == ("blocking_io", "raise_max_workers")


def test_runs_that_are_nothing_alike_say_nothing_of_a_hindrance() -> None:
    """In a calm most turns of a server's threads find that the client has gone."""
    calm = [(0.1 + number * 0.05, 0.00004 if number % 4 else 0.03, 1) for number in range(120)]
    crowd = [(6.2 + number * 0.005, 0.03, 1) for number in range(600)]
    (finding,) = VirtualPool(4).run(calm + crowd).case.findings()
    assert (finding.pattern, finding.cause) == ("async_then_serial", "blocking_io")


def test_while_it_lasts_a_finding_has_no_end() -> None:
    pool = VirtualPool(4).run(GENTLE + FAST + [(9 + n * 0.02, 0.2, 1) for n in range(100)], finish=False)
    # The last batch is three ticks after the last task; the hold of two seconds has not passed.
    assert pool.case.active is not None
    assert pool.case.suggested == pool.case.active.advice.suggested_max_workers


def test_what_a_scrape_asks_of_a_finding_is_not_put_into_words(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = VirtualPool(4).run(GENTLE + FAST, finish=False)
    finding = pool.case.active
    assert finding is not None
    row = PoolRow(pool.history, lambda function: None, 50)
    row.add(pool.case)
    row.tally.began(finding)
    monkeypatch.setattr(PoolCase, "_finding", None)
    (count,) = row.finding_counts()
    assert (count.pattern, count.cause, count.severity) == (finding.pattern, finding.cause, finding.severity)
    assert count.active
    assert pool.case.warned
    assert row.snapshot(pool.history.last_batch_ns).submitted == len(GENTLE + FAST)


def test_a_pool_has_warned_if_a_finding_lasts_or_did() -> None:
    assert not VirtualPool(4).run(GENTLE).case.warned
    over = VirtualPool(4).run(GENTLE + FAST)
    assert over.case.active_sort is None
    assert over.case.warned


def test_a_batch_by_map_saturates_its_pool_and_is_told_what_size_would_have_done() -> None:
    (finding,) = VirtualPool(4).run([(0.5, 0.1, 1)] * 200).case.findings()
    assert (finding.pattern, finding.cause) == ("async_then_serial", "blocking_io")
    assert finding.advice.suggested_max_workers == 20


def test_a_flood_that_no_size_holds_is_to_be_bounded() -> None:
    (finding,) = VirtualPool(4).run([(0.5, 1.0, 1)] * 3000).case.findings()
    assert finding.advice.action == "bound_submission"
    assert finding.advice.suggested_max_workers is None


def closed_load(clients: int, workers: int) -> list[tuple[float, float, int]]:
    """Clients that submit a task, wait for its result, and submit the next."""
    rng = random.Random(clients)
    free, coming, load = [0.0] * workers, [0.0001 * client for client in range(clients)], []
    while (at := heappop(coming)) < 10:
        run = rng.expovariate(10)
        end = max(at, heappop(free)) + run
        heappush(free, end)
        heappush(coming, end + 0.001)
        load.append((at, run, 1))
    return load


def fed_by_itself(workers: int) -> list[tuple[float, float, int]]:
    """A crawl: each task submits four more as it ends, down to a depth."""
    rng = random.Random(workers)
    free, coming, load = [0.0] * workers, [(0.5, 5)], []
    while coming:
        at, depth = heappop(coming)
        run = rng.uniform(0.03, 0.09)
        end = max(at, heappop(free)) + run
        heappush(free, end)
        for place in range(4 if depth else 0):
            heappush(coming, (end - 0.0001 + place * 0.00001, depth - 1))
        load.append((at, run, 1))
    return load


def test_a_pool_whose_workers_submit_its_tasks_gets_no_number() -> None:
    """On a larger pool they would submit sooner; and to wait for room in their own pool, they must not be told."""
    pool = VirtualPool(4).run(fed_by_itself(4))
    finding = pool.case.findings()[0]
    assert (finding.cause, finding.advice.action) == ("blocking_io", "raise_max_workers")
    assert (finding.advice.suggested_max_workers, finding.advice.pool) == (None, "pool")
    assert "The workers of 'pool' submit these tasks themselves" in finding.advice.text
    assert pool.case.curve() is None


def test_clients_that_wait_for_their_results_get_no_number_but_are_told_their_own() -> None:
    pool = VirtualPool(4).run(closed_load(40, 4))
    finding = pool.case.findings()[0]
    assert (finding.pattern, finding.cause) == ("async_then_serial", "blocking_io")
    assert (finding.advice.action, finding.advice.suggested_max_workers) == ("bound_submission", None)
    assert finding.evidence["closed_population"] == 40
    assert "What submits to 'pool' has 40 tasks in it at a time" in finding.advice.text
    assert "40 tasks are submitted at a time, and a task now waits" in finding.summary
    assert pool.case.curve() is None
    single = VirtualPool(1).run(closed_load(20, 1)).case.findings()[0]
    assert (single.cause, single.advice.action, single.advice.suggested_max_workers) == (
        "single_worker",
        "raise_max_workers",
        None,
    )


def test_a_size_beyond_what_the_cpu_takes_comes_with_a_warning() -> None:
    load = [(0.5, 0.1, 1)] * 200
    process = ProcessSignals(cores_used=0.4, cores_allowed=2.0, gil=True)
    (finding,) = VirtualPool(4, process=process).run(load, cpu_share=0.1).case.findings()
    assert finding.advice.suggested_max_workers == 20
    assert "a busy worker uses 10 % of a core, so about 8 of them use up the 1 they can have" in finding.advice.text
    (idle,) = VirtualPool(4, process=process).run(load, cpu_share=0.01).case.findings()
    assert "CPU" not in idle.advice.text


def test_runs_that_have_grown_a_little_warn_of_what_is_behind_the_pool() -> None:
    load = GENTLE + [(at, 0.26, 1) for at, _, _ in FAST]
    (finding,) = VirtualPool(4).run(load).case.findings()
    assert finding.cause == "blocking_io"
    assert "a task already runs 260 ms, and 200 ms with the pool nearly idle" in finding.advice.text


def test_few_tasks_beyond_all_measure_leave_the_cause_unknown() -> None:
    """Three of four workers starve in a call that takes 5 ms otherwise: nobody knows whether more would as well."""
    load = [(0.1, 5.0, 1)] * 3 + [(0.2, 0.005, 1)] * 900
    (finding,) = VirtualPool(4).run(load).case.findings()
    assert (finding.pattern, finding.cause, finding.advice.action) == ("async_then_serial", "unknown", "none")
    several = [(0.1, 5.0, 2)] * 3 + [(0.2, 0.005, 1)] * 900
    (finding,) = VirtualPool(4).run(several).case.findings()
    assert finding.cause == "slow_tasks"


def test_one_worker() -> None:
    (finding,) = VirtualPool(1).run([(0.5, 0.1, 1)] * 50).case.findings()
    assert (finding.pattern, finding.cause) == ("serial", "single_worker")
    (noted,) = VirtualPool(1, rules=Rules(ordered=True)).run([(0.5, 0.1, 1)] * 50).case.findings()
    assert (noted.pattern, noted.severity) == ("burst", "info")


def test_computing_workers_get_no_number() -> None:
    process = ProcessSignals(cores_used=1.0, cores_allowed=4.0, gil=True)
    (finding,) = VirtualPool(4, process=process).run([(0.5, 0.1, 1)] * 200, cpu_share=0.25).case.findings()
    assert (finding.cause, finding.advice.action) == ("cpu_bound", "use_process_pool")
    assert finding.advice.suggested_max_workers is None


def test_short_bursts_are_one_note() -> None:
    load = [(at + 0.001 * n, 0.05, 1) for at in range(10) for n in range(20)]
    pool = VirtualPool(4).run(load)
    (finding,) = pool.case.findings()
    assert (finding.pattern, finding.severity) == ("burst", "info")
    assert finding.evidence["bursts"] == 10
    assert not pool.events, "a note is nobody's alarm"


def test_the_bursts_of_pools_of_one_name_are_one_note() -> None:
    """A program that makes a pool for each batch."""
    findings = [
        finding for load in (3, 5) for finding in VirtualPool(4).run([(0.5, 0.1, 1)] * 4 * load).case.findings()
    ]
    other = msgspec.structs.replace(findings[0], pattern="serial")
    kept, burst = bursts_together("batch", [findings[0], other, findings[1]])
    assert kept is other
    assert (burst.evidence["bursts"], burst.since_seconds, burst.until_seconds) == (2, 0.5, pytest.approx(0.9))
    assert burst.evidence["saturated_seconds"] == pytest.approx(0.6)
    assert burst.evidence["longest_seconds"] == pytest.approx(0.4)
    assert burst.summary.startswith("Pool 'batch' was full with tasks queued 2 times, 600 ms in all (longest 400 ms)")
    assert bursts_together("batch", [findings[0], other]) == [other, findings[0]]


def test_flapping_load_is_one_finding_and_not_a_page_of_them() -> None:
    load = [(at + 0.001 * n, 0.1, 1) for at in (0.0, 2.9, 5.8) for n in range(80)]
    pool = VirtualPool(4).run(load)
    assert [began for _, _, began in pool.events] == [True, False]


def test_two_overloads_far_apart_are_two_findings() -> None:
    load = [(at + 0.001 * n, 0.1, 1) for at in (0.0, 20.0) for n in range(80)]
    assert [finding.pattern for finding in VirtualPool(4).run(load).case.findings()] == ["async_then_serial"] * 2


def test_consumers_that_hold_a_pool_on_purpose_are_no_finding() -> None:
    assert VirtualPool(4).run([(0.0, 600.0, 1)] * 4).case.findings() == ()


@pytest.mark.parametrize("load", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("workers", [4, 8])
@pytest.mark.parametrize("exponential", [True, False])
def test_healthy_random_load_raises_no_alarm(load: float, workers: int, exponential: bool) -> None:
    rng = random.Random(workers)
    arrivals = poisson(load * workers / 0.05, 180, seed=int(load * 100) + workers)
    tasks = [(at, rng.expovariate(20) if exponential else 0.05, 1) for at in arrivals]
    assert VirtualPool(workers).run(tasks).events == []


def test_the_line_where_the_workers_are_comes_first_with_its_share() -> None:
    pool = VirtualPool(4)
    mine, below = ("/app/db.py", 88, "load"), ("/lib/driver.py", 5, "execute")
    for tenth in range(60, 140):
        stacks = [
            Stack([mine, below], 0, [1, 1, 0, 2, 1, 0, 3, 1, 0]),
            Stack([("/app/other.py", 2, "parse")], 0, [4, 1, 0]),
        ]
        pool.history.sample(StackSample(1, ORIGIN + tenth * SECOND // 10, stacks))
    (finding,) = pool.run(GENTLE + FAST).case.findings()
    assert [(frame.file, frame.line, frame.share) for frame in finding.frames] == [
        ("/app/db.py", 88, 0.75),
        ("/lib/driver.py", 5, 0.75),
        ("/app/other.py", 2, 0.25),
    ]
    assert "db.py:88" in finding.summary


def test_samples_of_one_line_with_different_library_lines_count_together() -> None:
    mine = ("/app/db.py", 88, "load")
    groups = [((mine, ("/lib/a.py", 1, "a")), 3), ((mine, ("/lib/b.py", 1, "b")), 2)]
    frames = frames_of(groups, 5, lambda file, line: f"{file}:{line}")
    assert [(frame.file, frame.share) for frame in frames] == [("/app/db.py", 1.0), ("/lib/a.py", 1.0)]


# -- event loops -------------------------------------------------------------------------------------------

SLEEP = [("/app/main.py", 7, "fetch")]


def loop_case() -> LoopCase:
    history = LoopHistory("MainThread", "asyncio", 1, (100_000_000,))
    history.opened(LoopOpened(1, "MainThread", "asyncio", ORIGIN))
    return LoopCase(history, origin_ns=ORIGIN, source_of=lambda file, line: "time.sleep(1)")


def block(number: int, begin: float, end: float | None, cause: str = "blocking_call") -> LoopBlock:
    ended = 0 if end is None else ORIGIN + int(end * SECOND)
    return LoopBlock(1, number, ORIGIN + int(begin * SECOND), ended, cause, SLEEP, 0.01)


def test_a_long_block_is_told_while_it_lasts() -> None:
    case = loop_case()
    case.history.block(block(1, 1.0, None))
    assert case.judge(ORIGIN + int(1.5 * SECOND)) == []
    ((finding, began),) = case.judge(ORIGIN + int(2.1 * SECOND))
    assert began
    assert (finding.pattern, finding.cause, finding.until_seconds) == ("loop_blocked", "blocking_call", None)
    assert finding.since_seconds == 1.0
    case.history.block(block(1, 1.0, 3.0))
    assert case.judge(ORIGIN + 4 * SECOND) == []
    ((finding, began),) = case.judge(ORIGIN + 14 * SECOND)
    assert not began
    assert finding.until_seconds == 3.0
    assert case.history.blocked_ns == 2 * SECOND
    assert case.judge(ORIGIN + 15 * SECOND) == [], "what was told is not told again"


def test_blocks_of_one_line_are_one_finding() -> None:
    case = loop_case()
    for number, (begin, end) in enumerate([(0, 2), (2, 3), (3, 6)]):
        case.history.block(block(number, begin, end))
    case.finish(ORIGIN + 6 * SECOND)
    (finding,) = case.findings(ORIGIN + 6 * SECOND)
    assert (finding.evidence["blocks"], finding.evidence["blocked_seconds"]) == (3, 6.0)
    assert finding.frames[0].line == 7
    assert "6.0 s" in finding.summary


def test_a_block_whose_cause_was_established_later_is_none_of_the_first_one() -> None:
    case = loop_case()
    case.history.block(block(1, 1.0, None, "unknown"))
    case.judge(ORIGIN + int(1.5 * SECOND))
    case.history.block(block(1, 1.0, 1.6, "cpu_bound"))
    case.judge(ORIGIN + 2 * SECOND)
    assert [finding.cause for finding in case.findings(ORIGIN + 2 * SECOND)] == ["cpu_bound"]


def test_a_finding_ends_at_once_when_its_block_turns_out_to_be_anothers() -> None:
    case = loop_case()
    case.history.block(block(1, 1.0, None, "unknown"))
    ((told, began),) = case.judge(ORIGIN + int(2.5 * SECOND))
    assert (told.cause, began) == ("unknown", True)
    case.history.block(block(1, 1.0, 2.6, "cpu_bound"))
    events = case.judge(ORIGIN + 3 * SECOND)
    assert {(finding.cause, began) for finding, began in events} == {("unknown", False), ("cpu_bound", True)}
    case.finish(ORIGIN + 4 * SECOND)
    (finding,) = case.findings(ORIGIN + 4 * SECOND)
    assert (finding.cause, finding.evidence["blocks"]) == ("cpu_bound", 1)


def test_a_small_block_is_a_note_and_garbage_collection_never_more() -> None:
    case = loop_case()
    case.history.block(block(1, 1.0, 1.2))
    case.history.block(block(2, 50.0, 55.0, "gc"))
    case.judge(ORIGIN + 60 * SECOND)
    assert {finding.severity for finding in case.findings(ORIGIN + 60 * SECOND)} == {"info"}


def test_a_block_whose_line_was_not_seen_goes_with_the_one_that_is_known() -> None:
    history = LoopHistory("MainThread", "asyncio", 1, (100_000_000,))
    history.opened(LoopOpened(1, "MainThread", "asyncio", ORIGIN))
    held, other = ("/app/a.py", 3, "hold"), ("/app/b.py", 3, "hold")

    def block(at: int, *lines: tuple[str, int, str], cause: str = "gil_contention") -> None:
        begin = ORIGIN + at * SECOND
        history.block(LoopBlock(1, at, begin, begin + SECOND, cause, list(lines), 0.0))

    block(1)
    block(2, cause="gc")
    block(3, held)
    block(4)
    (line,) = [line for line in history.lines.values() if line.cause == "gil_contention"]
    assert (line.blocks, line.lines, line.first_ns) == (3, (held,), ORIGIN + SECOND)
    block(5, other)
    block(6)  # it may have been either
    counts = {line.lines: line.blocks for line in history.lines.values() if line.cause == "gil_contention"}
    assert counts == {(held,): 3, (other,): 1, (): 1}
    assert ("gc", None) in history.lines


@pytest.mark.parametrize(
    ("called", "severity"), [("<frozen importlib._bootstrap>", "info"), ("/lib/model.py", "warning")]
)
def test_the_imports_of_a_program_that_is_loaded_in_its_loop_are_a_note(called: str, severity: str) -> None:
    case = loop_case()
    lines = [("/app/main.py", 3, "<module>"), (called, 1360, "load")]
    case.history.block(LoopBlock(1, 1, ORIGIN, ORIGIN + 2 * SECOND, "cpu_bound", lines, 0.9))
    case.finish(ORIGIN + 4 * SECOND)
    (finding,) = case.findings(ORIGIN + 4 * SECOND)
    assert finding.severity == severity
    assert finding.frames[0].function == "<module>"


@pytest.mark.parametrize(
    ("called", "severity"),
    [
        ((poolscope.__file__, "__getattr__"), "info"),  # imports what serves
        ((profiler.__file__, "serve"), "info"),
        ((profiler.__file__, "report"), "warning"),
        ((futures.__file__, "Future.result"), "warning"),
    ],
)
def test_what_it_takes_to_serve_is_a_note(called: tuple[str, str], severity: str) -> None:
    """`poolscope.serve()` where servers have their start-up: in the loop, before there is anybody to wait."""
    case = loop_case()
    file, function = called
    lines = [("/app/main.py", 3, "lifespan"), (file, 71, function)]
    case.history.block(LoopBlock(1, 1, ORIGIN, ORIGIN + 2 * SECOND, "cpu_bound", lines, 0.9))
    case.finish(ORIGIN + 4 * SECOND)
    (finding,) = case.findings(ORIGIN + 4 * SECOND)
    assert finding.severity == severity


def test_a_loop_that_ends_in_a_block_counts_it() -> None:
    case = loop_case()
    case.history.block(block(1, 1.0, None))
    case.history.closed(1, ORIGIN + 4 * SECOND)
    assert case.history.blocked_ns == 3 * SECOND
    assert not case.history.alive


def test_a_busy_pool_is_judged_less_often_and_told_all_the_same() -> None:
    pool = VirtualPool(4)
    looked: list[int] = []
    judge = pool.case._diagnose
    pool.case._diagnose = lambda stretch, raised: looked.append(1) or judge(stretch, raised)  # type: ignore[method-assign, func-returns-value]
    pool.run([(0.5 + number * 1e-4, 0.001, 1) for number in range(60_000)])
    assert [finding.pattern for finding in pool.case.findings()] == ["async_then_serial"]
    assert len(looked) < 15 * 10 / 2, "ten looks a second would be twice as many"


def test_settings_that_change_hold_for_what_is_judged_next() -> None:
    pool = VirtualPool(4)
    pool.case.rules = Rules(thresholds=Thresholds(sustain_seconds=30.0))
    (noted,) = pool.run([(0.5, 0.1, 1)] * 200).case.findings()
    assert noted.severity == "info"


def test_what_a_stall_leaves_in_the_queue_is_no_other_story() -> None:
    """Both workers hang for five seconds, and then work off what has come meanwhile."""
    rules = Rules(Thresholds(stall_seconds=2.0))
    load = [(n * 0.1, 0.05, 1) for n in range(30)] + [(3.0, 5.0, 2)] * 2
    load += [(3.05 + n * 0.1, 0.05, 1) for n in range(80)]
    pool = VirtualPool(2, rules=rules).run(load)
    raised = [finding for finding in pool.case.findings() if finding.severity != "info"]
    assert [(finding.pattern, finding.cause) for finding in raised] == [("stalled", "stuck_tasks")]
    assert raised[0].until_seconds == pytest.approx(8.0, abs=0.5)


def test_an_overload_after_a_stall_is_one() -> None:
    rules = Rules(Thresholds(stall_seconds=2.0))
    load = [(n * 0.1, 0.05, 1) for n in range(30)] + [(3.0, 5.0, 2)] * 2
    load += [(3.05 + n * 0.1, 0.05, 1) for n in range(60)] + [(9.5 + n * 0.01, 0.05, 1) for n in range(300)]
    pool = VirtualPool(2, rules=rules).run(load)
    raised = [finding for finding in pool.case.findings() if finding.severity != "info"]
    assert [finding.pattern for finding in raised] == ["stalled", "async_then_serial"]
    assert raised[1].since_seconds >= 8.0


def test_a_cause_is_told_once_the_lines_of_the_workers_are_known() -> None:
    """One worker of four is past the lock. Until ten samples have shown that, nothing else is blamed."""
    lock, held = ("/app/db.py", 8, "save"), ("/app/db.py", 9, "save")
    # The first task finds the lock free.
    load = [(0.1, 0.1, 1)] + [(0.5 + 0.1 * min(number, 3), 0.4, 1) for number in range(200)]
    tasks = simulate(load, 4)
    pool = VirtualPool(4)
    for batch in batches(tasks, 4):
        at = batch.at_ns
        pool.history.fold(batch)
        pool.history.settle(at - 2 * TICK)
        running = sorted(zip(batch.running[3::4], batch.running[::4], strict=True))
        if len(running) == 4 and (at // TICK) % 2:
            (first, worker), *others = running
            waiting = [number for started, other in others for number in (other, 1, started)]
            stacks = [Stack([held], 0, [worker, 1, first]), Stack([lock], 0, waiting)]
            pool.history.sample(StackSample(1, at, stacks))
        for finding, began in pool.case.judge(at):
            if began:
                assert finding.cause in ("shared_resource", "blocking_io")
                assert pool.case.active is not None
                pool.events.append((finding.detected_after_seconds, finding.cause, began))
    # Ten samples take two seconds here, and patience has an end.
    assert pool.events[0][0] == pytest.approx(1.0 + 0.6 + 0.2, abs=0.15)
    assert pool.events[-1][1] == "shared_resource"


@pytest.mark.parametrize(("known_at", "causes"), [(1.45, ["cpu_bound"]), (2.3, ["unknown", "cpu_bound"])])
def test_a_cause_waits_for_the_cpu_to_be_read_and_takes_its_place_at_once(known_at: float, causes: list[str]) -> None:
    """Four workers compute under the GIL from the begin on, and our thread gets at it late."""
    unread = ProcessSignals(cores_used=None, cores_allowed=4.0, gil=True)
    known = ProcessSignals(cores_used=1.0, cores_allowed=4.0, gil=True)
    pool = VirtualPool(4)
    pool.case._process_of = lambda begin, end: known if end - ORIGIN >= known_at * SECOND else unread
    told: list[tuple[str, float]] = []
    for batch in batches(simulate([(0.0, 0.2, 1)] * 100, 4), 4, cpu_share=0.25):
        pool.history.fold(batch)
        pool.history.settle(batch.at_ns - 2 * TICK)
        told += [(finding.cause, finding.detected_after_seconds) for finding, _ in pool.case.judge(batch.at_ns)]
    assert [cause for cause, _ in told] == causes
    # Told while it lasts; patience has an end.
    assert told[0][1] == pytest.approx(min(known_at, 1.6) + 0.2, abs=0.11)
