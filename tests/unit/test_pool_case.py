"""Whole loads in virtual time, tick by tick as the judge does it, against what each load is by construction."""

import random
from heapq import heapify, heappop, heappush
from itertools import islice
from typing import Any

import msgspec
import pytest
from pool_support import ORIGIN, SECOND, TICK, VirtualPool, batches, poisson, simulate

from poolscope.engine.finding_builder import FindingBuilder, frames_of, ordered
from poolscope.engine.finding_list import bursts_together
from poolscope.engine.judgement import Judgement
from poolscope.engine.pool_row import PoolRow
from poolscope.messages import HeldSample, PoolBatch, Stack, StackSample
from poolscope.model import Thresholds
from poolscope.rules.reason import Criteria
from poolscope.signals.pool_signals import ProcessSignals

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
    row = PoolRow(pool.history, 50)
    row.add(pool.case)
    row.tally.began(finding)
    monkeypatch.setattr(FindingBuilder, "finding", None)
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


def test_a_batch_by_map_is_a_note_with_how_long_it_takes_on_other_sizes() -> None:
    case = VirtualPool(4).run([(0.5, 0.1, 1)] * 200).case
    (finding,) = case.findings()
    assert (finding.pattern, finding.cause, finding.severity) == ("batch", "blocking_io", "info")
    assert finding.summary == (
        "Pool 'pool' works off a batch of 200 tasks since 0.5 s: 4 workers 5.0 s, 8: 2.5 s, 16: 1.3 s; beyond 200 more "
        "help little."
    )
    assert (finding.advice.action, finding.advice.suggested_max_workers) == ("none", None)
    assert [point.workers for point in case.curve() or ()] == [2, 4, 8, 16]
    assert not case.warned


def test_a_batch_with_a_long_task_says_from_where_on_more_workers_help_little() -> None:
    (finding,) = VirtualPool(4).run([(0.49, 2.0, 1)] + [(0.5, 0.1, 1)] * 60).case.findings()
    assert finding.summary == (
        "Pool 'pool' works off a batch of 61 tasks since 0.5 s: 4 workers 2.0 s, 8: 2.0 s; more workers help little."
    )


def test_a_batch_stays_a_note_when_its_long_tasks_are_over_and_the_short_ones_behind_them_show() -> None:
    load = [(0.5, 1.6, 1)] * 8 + [(0.5, 0.018, 2)] * 240
    pool = VirtualPool(4).run(load)
    (finding,) = pool.case.findings()
    assert (finding.pattern, finding.cause, finding.severity) == ("batch", "slow_tasks", "info")
    assert [pattern for _, pattern, began in pool.events if began][-1] == "batch"
    assert not pool.case.warned


def test_while_it_lasts_a_batch_is_told_by_what_is_known_of_it() -> None:
    pool = VirtualPool(4)
    tasks = simulate([(0.5, 0.1, 1)] * 200, 4)
    for batch in islice(batches(tasks, 4), 25):
        pool.history.fold(batch)
        pool.history.settle(batch.at_ns - 2 * TICK)
        pool.case.judge(batch.at_ns)
    finding = pool.case.active
    assert finding is not None
    assert "of 200 tasks since 0.5 s: 4 workers 5.0 s, 8: 2.5 s" in finding.summary
    assert (pool.case.suggested, finding.until_seconds) == (None, None)


def test_a_load_that_goes_on_is_no_batch_however_it_begins() -> None:
    load = [(0.5, 0.1, 1)] * 60 + [(0.5 + number * 0.02, 0.1, 1) for number in range(200)]
    (finding,) = VirtualPool(4).run(load).case.findings()
    assert (finding.pattern, finding.severity) == ("async_then_serial", "warning")


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_batch_and_an_overload_soon_after_it_are_two_stories(batch_first: bool) -> None:
    batch = [(0.0, 0.1, 1)] * 80  # 2 s
    overload = [(number * 0.02, 0.2, 1) for number in range(100)]  # 5 s
    first, second, begin = (batch, overload, 4.0) if batch_first else (overload, batch, 7.0)
    found = VirtualPool(4).run([*first, *((at + begin, run, 1) for at, run, _ in second)]).case.findings()
    assert [finding.pattern for finding in found] == (
        ["batch", "async_then_serial"] if batch_first else ["async_then_serial", "batch"]
    )


def test_a_batch_of_which_part_is_forgotten_has_no_curve() -> None:
    case = VirtualPool(4, keep_tasks=50).run([(0.5, 0.1, 1)] * 200).case
    (finding,) = case.findings()
    assert finding.pattern == "batch"
    assert "each waits for its turn on 4 workers, 2.5 s in the middle" in finding.summary
    assert case.curve() is None


@pytest.mark.slow
def test_a_flood_that_no_size_holds_is_to_be_bounded() -> None:
    load = [(0.5 + number * 0.0005, 1.0, 1) for number in range(6000)]
    (finding,) = VirtualPool(400).run(load).case.findings()
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


def test_a_timer_whose_beat_divides_the_runs_is_not_taken_for_the_workers() -> None:
    """Each task ends, and the next one starts, at a beat at which others are submitted."""
    rng = random.Random(1)
    late = [rng.uniform(0, 0.001) for _ in range(40)]
    load = [
        (0.1 * beat + late[beat] + 0.00005 * number, 0.5001 + rng.expovariate(10_000), 1)
        for beat in range(40)
        for number in range(3)
    ]
    finding = VirtualPool(10).run(load).case.findings()[0]
    assert (finding.cause, finding.advice.action) == ("blocking_io", "raise_max_workers")
    assert finding.advice.pool is None
    assert finding.advice.suggested_max_workers == 15


def test_clients_that_wait_for_their_results_get_no_number_but_are_told_their_own() -> None:
    pool = VirtualPool(4).run(closed_load(40, 4))
    finding = pool.case.findings()[0]
    assert (finding.pattern, finding.cause) == ("async_then_serial", "blocking_io")
    assert (finding.advice.action, finding.advice.suggested_max_workers) == ("bound_submission", None)
    assert finding.evidence["closed_population"] == 40
    assert "What submits to 'pool' has 40 tasks in it at a time" in finding.advice.text
    assert "40 tasks are submitted at a time, and a task now waits" in finding.summary
    assert "on 4 workers" in finding.advice.text
    assert "and none waits on 40" in finding.advice.text
    curve = pool.case.curve()
    assert curve is not None
    waits = {point.workers: point.wait_p50_seconds for point in curve}
    assert list(waits) == [2, 4, 8, 16, 39, 40]
    assert waits[4] == pytest.approx(finding.evidence["wait_p50_seconds"], rel=0.2)
    assert waits[40] == 0
    single = VirtualPool(1).run(closed_load(20, 1)).case.findings()[0]
    assert (single.cause, single.advice.action, single.advice.suggested_max_workers) == (
        "single_worker",
        "raise_max_workers",
        None,
    )


def test_a_size_beyond_what_the_cpu_takes_comes_with_a_warning() -> None:
    load = [(0.5 + number * 0.01, 0.1, 1) for number in range(200)]
    process = ProcessSignals(cores_used=0.4, cores_allowed=2.0, gil=True)
    (finding,) = VirtualPool(4, process=process).run(load, cpu_share=0.1).case.findings()
    assert finding.advice.suggested_max_workers == 10
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
    (noted,) = VirtualPool(1, criteria=Criteria(ordered=True)).run([(0.5, 0.1, 1)] * 50).case.findings()
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


def test_the_longest_burst_is_in_the_total() -> None:
    """A stretch bridges the gap between two moments of saturation: neither number counts it."""
    pool = VirtualPool(1).run([(at, 0.0002, 1) for at in (0.5, 0.5, 0.51, 0.51, 2.0, 2.0)])
    (finding,) = pool.case.findings()
    evidence = finding.evidence
    assert evidence["bursts"] == 2
    assert evidence["saturated_seconds"] == pytest.approx(0.0006)
    assert evidence["longest_seconds"] == pytest.approx(0.0004)
    assert "queued 2 times, 600 µs in all (longest 400 µs): too short for a finding" in finding.summary
    assert list(evidence)[:3] == ["bursts", "saturated_seconds", "longest_seconds"]


def test_the_numbers_that_say_most_come_first() -> None:
    (finding,) = VirtualPool(4).run([(0.5, 0.1, 1)] * 200).case.findings()
    names = list(finding.evidence)
    assert names[:3] == ["wait_p50_seconds", "run_p50_seconds", "amplification"]
    assert names[-1] == "window_seconds"
    values = {"run_p50_seconds": 1.0, "of_a_new_cause": 2.0, "window_seconds": 3.0, "told": 4.0}
    assert list(ordered(values, ("told",))) == ["told", "of_a_new_cause", "run_p50_seconds", "window_seconds"]


def test_the_bursts_of_pools_of_one_name_are_one_note() -> None:
    """A program that makes a pool for each batch."""
    findings = [
        finding for load in (3, 5) for finding in VirtualPool(4).run([(0.5, 0.1, 1)] * 4 * load).case.findings()
    ]
    other = msgspec.structs.replace(findings[0], pattern="serial")
    kept, burst = bursts_together("thread", "batch", [findings[0], other, findings[1]])
    assert kept is other
    assert [burst.evidence["bursts"], burst.since_seconds, burst.until_seconds] == [2, 0.5, pytest.approx(0.9)]
    assert burst.evidence["saturated_seconds"] == pytest.approx(0.6)
    assert burst.evidence["longest_seconds"] == pytest.approx(0.4)
    assert burst.summary.startswith("Pool 'batch' was full with tasks queued 2 times, 600 ms in all (longest 400 ms)")
    assert bursts_together("thread", "batch", [findings[0], other]) == [other, findings[0]]


def test_flapping_load_is_one_finding_and_not_a_page_of_them() -> None:
    load = [(at + 0.001 * n, 0.1, 1) for at in (0.0, 2.9, 5.8) for n in range(80)]
    pool = VirtualPool(4).run(load)
    assert [began for _, _, began in pool.events] == [True, False]


def test_two_overloads_far_apart_are_two_findings() -> None:
    load = [(at + 0.02 * n, 0.2, 1) for at in (0.0, 20.0) for n in range(80)]
    assert [finding.pattern for finding in VirtualPool(4).run(load).case.findings()] == ["async_then_serial"] * 2


def test_consumers_that_hold_a_pool_on_purpose_are_no_finding() -> None:
    assert VirtualPool(4).run([(0.0, 600.0, 1)] * 4).case.findings() == ()


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_busy_pool_is_judged_less_often_and_told_all_the_same() -> None:
    pool = VirtualPool(4)
    looked: list[int] = []
    judge = pool.case._diagnose

    def diagnose(*given: Any, **how: Any) -> Judgement:
        looked.append(1)
        return judge(*given, **how)

    pool.case._diagnose = diagnose  # type: ignore[method-assign]
    pool.run([(0.5 + number * 1e-4, 0.001, 1) for number in range(60_000)])
    assert [finding.pattern for finding in pool.case.findings()] == ["async_then_serial"]
    assert len(looked) < 15 * 10 / 2, "ten looks a second would be twice as many"


def test_settings_that_change_hold_for_what_is_judged_next() -> None:
    pool = VirtualPool(4)
    pool.case.criteria = Criteria(thresholds=Thresholds(sustain_seconds=30.0))
    (noted,) = pool.run([(0.5, 0.1, 1)] * 200).case.findings()
    assert noted.severity == "info"


def test_what_was_found_stays_as_it_was_found_when_settings_change() -> None:
    """One of two workers does not come back. What counts as stuck afterwards changes nothing of that."""
    pool = VirtualPool(2, criteria=Criteria(Thresholds(stuck_task_seconds=3.0)))
    stuck, other = ("/app/db.py", 8, "save"), ("/app/web.py", 3, "get")
    for tenth in range(10, 60):
        at = ORIGIN + tenth * TICK
        stacks = [Stack([stuck], 0, [2, 2, ORIGIN]), Stack([other], 0, [1, 1, at])]
        pool.history.sample(StackSample(1, at, stacks))
    others = [(n * 0.1, 0.05, 1) for n in range(60)] + [(n + 0.06, 0.03, 2) for n in range(1, 5)]
    pool.run([(0.0, 10.0, 2), *others], finish=False)
    before = pool.case.active
    assert before is not None
    assert (before.pattern, [frame.line for frame in before.frames]) == ("stuck_workers", [8])
    pool.case.criteria = Criteria(Thresholds(stuck_task_seconds=30.0))
    assert pool.case.active == before


def test_what_a_stall_leaves_in_the_queue_is_no_other_story() -> None:
    """Both workers hang for five seconds, and then work off what has come meanwhile."""
    criteria = Criteria(Thresholds(stall_seconds=2.0))
    load = [(n * 0.1, 0.05, 1) for n in range(30)] + [(3.0, 5.0, 2)] * 2
    load += [(3.05 + n * 0.1, 0.05, 1) for n in range(80)]
    pool = VirtualPool(2, criteria=criteria).run(load)
    raised = [finding for finding in pool.case.findings() if finding.severity != "info"]
    assert [(finding.pattern, finding.cause) for finding in raised] == [("stalled", "stuck_tasks")]
    assert raised[0].until_seconds == pytest.approx(8.0, abs=0.5)


def test_an_overload_after_a_stall_is_one() -> None:
    criteria = Criteria(Thresholds(stall_seconds=2.0))
    load = [(n * 0.1, 0.05, 1) for n in range(30)] + [(3.0, 5.0, 2)] * 2
    load += [(3.05 + n * 0.1, 0.05, 1) for n in range(60)] + [(9.5 + n * 0.01, 0.05, 1) for n in range(300)]
    pool = VirtualPool(2, criteria=criteria).run(load)
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


def keep_full(workers: int, run: float, seconds: float) -> list[tuple[float, float, int]]:
    """A task is submitted as another one ends, so that none is ever queued; the workers take turns at that."""
    return [(number * run / workers, run, 1) for number in range(int(workers * seconds / run))]


def run_full(
    load: list[tuple[float, float, int]], at_lock: int, *, cpu_share: float = 0.0, cores: float = 0.1
) -> VirtualPool:
    """Four workers, so many of which are at a lock each time that they are looked at."""
    host = ProcessSignals(cores_used=cores, cores_allowed=4.0, gil=True)
    pool = VirtualPool(4, process=host)
    for batch in batches(simulate(load, 4), 4, cpu_share):
        pool.history.fold(batch)
        pool.history.settle(batch.at_ns - 2 * TICK)
        tasks = [number for worker, function, _, started in zip(*[iter(batch.running)] * 4, strict=True)
                 for number in (worker, function, started)]  # fmt: skip
        stacks = [
            Stack([("/app/db.py", 8, "save")], 0, tasks[: 3 * at_lock], "lock"),
            Stack([("/app/db.py", 9, "save")], 0, tasks[3 * at_lock :]),
        ]
        pool.history.sample(StackSample(1, batch.at_ns, stacks))
        pool._note(batch.at_ns, pool.case.judge(batch.at_ns))
    pool._note(batch.at_ns, pool.case.finish(batch.at_ns))
    return pool


def test_a_pool_that_is_full_without_a_queue_and_takes_turns_only_looks_busy() -> None:
    pool = run_full(keep_full(4, 0.23, 9.0), at_lock=3)
    (finding,) = [finding for finding in pool.case.findings() if finding.severity != "info"]
    assert (finding.pattern, finding.cause, finding.severity) == ("serial", "shared_resource", "warning")
    assert finding.advice.action == "relieve_shared_resource"
    assert finding.advice.suggested_max_workers is None
    assert finding.since_seconds == pytest.approx(0.0575, abs=0.01)  # half of them are taken
    assert finding.detected_after_seconds == pytest.approx(5.0, abs=0.8)
    assert "only looks busy" in finding.summary
    assert finding.evidence["effective_parallelism"] == pytest.approx(1.0, abs=0.1)


def test_a_full_pool_under_the_gil_only_looks_busy() -> None:
    pool = run_full(keep_full(4, 0.23, 9.0), at_lock=0, cpu_share=0.25, cores=1.0)
    (finding,) = [finding for finding in pool.case.findings() if finding.severity != "info"]
    assert (finding.pattern, finding.cause, finding.severity) == ("serial", "cpu_bound", "warning")


def test_a_pool_under_the_gil_that_its_submitter_cannot_keep_full_only_looks_busy() -> None:
    """What submits waits for the GIL that the workers hold: now two of the four are at work, now all of them."""
    load = [(0.25 * number + late, 0.2, 1) for number in range(40) for late in (0.0, 0.0, 0.08, 0.12)]
    load = [(at, run + (0.06 if not place % 4 else 0.0), 1) for place, (at, run, _) in enumerate(load)]
    pool = run_full(load, at_lock=0, cpu_share=0.3, cores=1.0)
    (finding,) = [finding for finding in pool.case.findings() if finding.severity != "info"]
    assert (finding.pattern, finding.cause, finding.severity) == ("serial", "cpu_bound", "warning")


@pytest.mark.parametrize(
    ("load", "at_lock"),
    [
        (keep_full(4, 0.23, 9.0), 0),  # at work
        (keep_full(4, 0.23, 9.0), 2),  # two at a time
        (keep_full(4, 0.23, 4.0), 3),  # not for long
        (keep_full(4, 2.5, 9.0), 3),  # hardly a task ends
        ([(number * 0.3, 0.23, 1) for number in range(40) for _ in range(4)], 3),  # and rests in between
        (keep_full(3, 0.23, 9.0), 0),  # a worker to spare
        (keep_full(3, 0.23, 9.0), 3),  # the same, and they take turns
    ],
)
def test_a_full_pool_that_is_no_finding(load: list[tuple[float, float, int]], at_lock: int) -> None:
    assert all(finding.severity == "info" for finding in run_full(load, at_lock).case.findings())


def test_a_finding_goes_on_while_its_victims_are_only_queued() -> None:
    """Calls of a minute have taken all workers. The short ones that came wait, and no more of them come."""
    load = [(number * 0.05, 0.02, 1) for number in range(100)] + [(3.0 + number / 10, 30.0, 2) for number in range(8)]
    load += [(5.0 + number * 0.05, 0.02, 1) for number in range(60)]
    pool = VirtualPool(4, criteria=Criteria(Thresholds(stall_seconds=300.0))).run(load)
    (finding,) = [finding for finding in pool.case.findings() if finding.severity != "info"]
    assert (finding.pattern, finding.cause) == ("async_then_serial", "slow_tasks")
    assert finding.since_seconds < 5.5
    assert finding.detected_after_seconds < 4
    assert finding.until_seconds is not None
    assert finding.until_seconds > 60


def test_a_pool_that_stands_still_is_told_and_gets_no_number() -> None:
    """What all calls wait for hangs for a while: nothing ends that would say how long one takes now."""
    load = [(number * 0.05, 0.02, 1) for number in range(100)] + [(5.0, 8.0, 1)] * 4
    load += [(5.1 + number * 0.05, 0.02, 1) for number in range(100)]
    pool = VirtualPool(4).run(load, finish=False)
    raised = [finding for finding in pool.case.findings() if finding.severity != "info"]
    assert [finding.pattern for finding in raised] == ["async_then_serial"]
    assert raised[0].cause == "unknown"
    assert raised[0].detected_after_seconds < 4


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


STOOD = Criteria(Thresholds(stall_seconds=2.0))


def hanging_from_the_first(gate: str, *, still: bool = True) -> VirtualPool:
    """Both workers are at one line from their first task on, for five seconds."""
    pool = VirtualPool(2, criteria=STOOD)
    for tenth in range(60):
        at = ORIGIN + tenth * TICK
        pool.history.sample(
            StackSample(1, at, [Stack([("/app/db.py", 8, "save")], 0, [1, 1, ORIGIN, 2, 1, ORIGIN], gate)])
        )
        pool.history.held.append(HeldSample(1, at, [], still))
    return pool.run([(0.0, 5.0, 1)] * 8, finish=False)


@pytest.mark.parametrize(("gate", "still", "raised"), [("lock", True, True), ("lock", False, False), ("", True, False)])
def test_a_stall_from_the_first_task_on_is_one_where_all_stand(gate: str, still: bool, raised: bool) -> None:
    events = hanging_from_the_first(gate, still=still).events
    assert [event[1:] for event in events if event[1] == "stalled"][:1] == [("stalled", True)] * raised


def test_a_lock_that_a_fork_left_behind_is_named_as_such() -> None:
    pool = hanging_from_the_first("inherited", still=False)
    assert [pattern for _, pattern, began in pool.events if began and pattern == "stalled"] == ["stalled"]
    [found] = [finding for finding in pool.case.findings() if finding.pattern == "stalled"]
    assert (found.cause, found.severity) == ("stuck_tasks", "critical")
    assert "as they were forked" in found.summary
    assert "spawn or forkserver" in found.advice.text


@pytest.mark.parametrize(("kind", "raised"), [("process", True), ("thread", True), ("anyio", False)])
def test_tasks_without_a_worker_that_could_take_them_are_a_stall(kind: str, raised: bool) -> None:
    pool = VirtualPool(2, criteria=STOOD)
    opened = msgspec.structs.replace(pool.history.opened, kind=kind)
    pool.history.opened = opened
    events = []
    for tenth in range(60):
        at = ORIGIN + tenth * TICK
        arrivals = [1, ORIGIN] * 3 if not tenth else []
        pool.history.fold(PoolBatch(1, at, 0, 2, 0, 0, [], [], [], [], arrivals))
        pool.history.settle(at)
        events += pool.case.judge(at)
    assert [(finding.pattern, finding.cause, finding.severity, finding.advice.action) for finding, _ in events] == [
        ("stalled", "workers_gone", "critical", "restart_pool")
    ] * raised


def test_time_between_the_tasks_leaves_no_number_and_is_said() -> None:
    """The workers come back from each task of 0.1 s after 0.2 s: callbacks, or results that are handed over."""
    pool = VirtualPool(4)
    load = [(number * 0.02, 0.3, 1) for number in range(150)]
    tasks = [(worker, 1, at, start, end - SECOND // 5) for worker, _, at, start, end in simulate(load, 4)]
    for batch in batches(tasks, 4):
        pool.history.fold(batch)
        pool.history.settle(batch.at_ns - 2 * TICK)
        pool.case.judge(batch.at_ns)
    pool.case.finish(ORIGIN + 20 * SECOND)
    findings = [finding for finding in pool.case.findings() if finding.severity != "info"]
    assert findings
    for finding in findings:
        assert (finding.advice.action, finding.advice.suggested_max_workers) == ("none", None)
        assert "something between the tasks takes the time" in finding.advice.text
    assert pool.case.curve() is None


def test_a_large_step_is_told_as_a_range() -> None:
    rng = random.Random(1)
    load = [(at, rng.expovariate(1), 1) for at in poisson(100.0, 10.0, seed=1)]
    case = VirtualPool(20).run(load).case
    (finding,) = case.findings()
    assert finding.advice.suggested_max_workers == 64
    assert "in steps, from max_workers=64 (now 20) to " in finding.advice.text
    assert 64 in [point.workers for point in case.curve() or ()]


def prefetch(workers: int, ahead: int) -> list[tuple[float, float, int]]:
    """As joblib hands out: so many tasks beside those that run, the next one as one ends."""
    rng = random.Random(workers)
    free, coming, load = [0.0] * workers, [0.0001 * number for number in range(workers + ahead)], []
    for _ in range(60 * workers):
        at, run = heappop(coming), rng.uniform(0.08, 0.12)
        end = max(at, heappop(free)) + run
        heappush(free, end)
        heappush(coming, end + 0.0001)
        load.append((at, run, 1))
    return load


@pytest.mark.parametrize("workers", [2, 4, 8])
def test_what_is_kept_ready_for_each_worker_is_a_note(workers: int) -> None:
    """A task waits exactly as long as it runs, and nothing is wrong."""
    (finding,) = VirtualPool(workers).run(prefetch(workers, workers)).case.findings()
    assert (finding.pattern, finding.severity) == ("burst", "info")
    (deeper,) = VirtualPool(workers).run(prefetch(workers, 2 * workers)).case.findings()
    assert deeper.severity == "warning"


def test_clients_beside_the_tasks_of_others_are_told_and_get_no_number() -> None:
    rng = random.Random(1)
    others = [(at, 0.005, 2) for at in poisson(3.0, 10.0, seed=2)]
    free, coming, load = [0.0] * 3, [(at, run, function, -1) for at, run, function in others], []
    coming += [(0.001 * client, 0.0, 1, client) for client in range(12)]
    heapify(coming)
    while coming and (task := heappop(coming))[0] < 10:
        at, run, function, client = task
        run = run or rng.uniform(0.12, 0.18)
        end = max(at, heappop(free)) + run
        heappush(free, end)
        if client >= 0:
            heappush(coming, (end + 0.0005, 0.0, 1, client))
        load.append((at, run, function))
    pool = VirtualPool(3).run(load)
    (finding,) = [finding for finding in pool.case.findings() if finding.severity != "info"]
    assert finding.pattern == "async_then_serial"
    assert finding.advice.suggested_max_workers is None
    assert pool.case.curve() is None


def test_consumers_leave_the_others_fewer_workers() -> None:
    """Two of three workers never come back: for the one that is left, the load is no chance."""
    consumers = [(0.0, 40.0, 2), (0.0, 40.0, 2)]
    gentle = [(number / 3, 0.2, 1) for number in range(9)]
    fast = [(3 + number / 6.5, 0.2, 1) for number in range(52)]
    pool = VirtualPool(3).run(consumers + gentle + fast)
    assert [(pattern, began) for _, pattern, began in pool.events][:1] == [("async_then_serial", True)]
    # With the stretch, as holds that are out when a limit is first waited for.
    late = [(3.05, 40.0, 2), (3.05, 40.0, 2)]
    pool = VirtualPool(3).run([*gentle, (3.0, 0.2, 1), *late, (3.06, 0.2, 1), *fast])
    assert [(pattern, began) for _, pattern, began in pool.events][:1] == [("async_then_serial", True)]
    few = VirtualPool(3).run(consumers + [(number / 3, 0.2, 1) for number in range(30)])
    assert not few.events
