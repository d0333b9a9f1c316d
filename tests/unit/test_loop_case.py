"""Blocks of event loops in virtual time, judged as the engine does it."""

import pytest
from pool_support import ORIGIN, SECOND

import poolscope
from poolscope import profiler
from poolscope.aggregation.loop_history import LoopHistory
from poolscope.engine.loop_case import LoopCase
from poolscope.executors import futures
from poolscope.messages import BlockEvidence, LoopBlock, LoopOpened, LoopTick
from poolscope.rules.loop_causes import judged
from poolscope.signals.loop_evidence import MEASURED

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


@pytest.mark.parametrize(
    ("begin", "end", "runs", "tasks", "severity"),
    [
        (0.2, 3.2, 20.0, 1, "info"),  # prepares something, and goes on
        (0.2, 3.2, 20.0, 9, "warning"),  # others were there already
        (0.2, 3.2, 5.0, 1, "warning"),  # hardly anything came after it
        (4.0, 7.0, 20.0, 1, "warning"),  # in between
        (15.0, 19.9, 20.0, 1, "info"),  # the last thing
        (15.0, 19.9, 20.0, 2, "info"),  # the main task waits for the one that does it, as a server for its lifespan
        (15.0, 19.9, 20.0, 3, "warning"),  # another task has waited
        (15.0, 18.0, 20.0, 1, "warning"),  # others came after it
        (2.0, 19.9, 20.0, 1, "warning"),  # most of its life
    ],
)
def test_what_is_done_once_as_a_program_starts_or_ends(
    begin: float, end: float, runs: float, tasks: int, severity: str
) -> None:
    case = loop_case()
    case.history.block(block(1, begin, end))
    case.judge(ORIGIN + int((end + 0.01) * SECOND))
    case.history.tick(LoopTick(1, ORIGIN + int((end + 0.02) * SECOND), [], tasks))
    case.judge(ORIGIN + int((runs - 0.01) * SECOND))
    case.history.closed(1, ORIGIN + int(runs * SECOND))
    case.finish(ORIGIN + int(runs * SECOND))
    (finding,) = case.findings(ORIGIN + int(runs * SECOND))
    assert finding.severity == severity
    assert (finding.advice.action == "none") == (severity == "info")


def test_one_line_is_one_finding_whatever_its_causes() -> None:
    case = loop_case()
    for number, (begin, end, cause) in enumerate([(1, 2, "unknown"), (3, 6, "blocking_call"), (7, 8, "cpu_bound")]):
        case.history.block(block(number, begin, end, cause))
    case.finish(ORIGIN + 9 * SECOND)
    (finding,) = case.findings(ORIGIN + 9 * SECOND)
    assert (finding.cause, finding.evidence["blocks"]) == ("blocking_call", 3)


def test_a_line_that_blocks_again_much_later_is_the_same_finding() -> None:
    case = loop_case()
    events = []
    for number, begin in enumerate((1.0, 31.0)):
        case.history.block(block(number, begin, begin + 3))
        events += [began for _, began in case.judge(ORIGIN + int((begin + 3.1) * SECOND))]
        assert len(case.findings(ORIGIN + int((begin + 3.2) * SECOND))) == 1
        events += [began for _, began in case.judge(ORIGIN + int((begin + 20) * SECOND))]
    assert events == [True, False, True, False], "each is told as it comes"
    case.finish(ORIGIN + 60 * SECOND)
    (finding,) = case.findings(ORIGIN + 60 * SECOND)
    assert (finding.evidence["blocks"], finding.since_seconds, finding.until_seconds) == (2, 1.0, 34.0)


@pytest.mark.parametrize(("tasks", "words"), [(1, "nothing else could run in it"), (4, "every other task waited")])
def test_a_loop_with_one_task_has_no_others_that_wait(tasks: int, words: str) -> None:
    case = loop_case()
    case.history.block(block(1, 1.0, 3.0))
    case.history.tick(LoopTick(1, ORIGIN + 3 * SECOND, [], tasks))
    case.finish(ORIGIN + 4 * SECOND)
    (finding,) = case.findings(ORIGIN + 4 * SECOND)
    assert words in finding.summary
    assert "asyncio.sleep()" in finding.advice.text


def test_loops_of_two_kinds_in_one_thread_are_told_apart() -> None:
    history = LoopHistory("MainThread", "uvloop", 1, (100_000_000,))
    history.opened(LoopOpened(1, "MainThread", "uvloop", ORIGIN))
    case = LoopCase(history, origin_ns=ORIGIN, source_of=lambda file, line: None)
    case.history.block(block(1, 1.0, 3.0))
    case.finish(ORIGIN + 4 * SECOND)
    (finding,) = case.findings(ORIGIN + 4 * SECOND)
    assert finding.summary.startswith("uvloop event loop 'MainThread' was blocked")


def test_a_loop_that_ends_in_a_block_counts_it() -> None:
    case = loop_case()
    case.history.block(block(1, 1.0, None))
    case.history.closed(1, ORIGIN + 4 * SECOND)
    assert case.history.blocked_ns == 3 * SECOND
    assert not case.history.alive


def test_a_finding_has_what_its_cause_was_told_by() -> None:
    case = loop_case()
    for number, (other, seen) in enumerate(((0.5, 1), (1.0, 3))):
        measured = BlockEvidence(10**9, 10**8, cpu=0.01, other=other, futex_seen=seen)
        begin = ORIGIN + 2 * number * SECOND
        told = LoopBlock(1, number, begin, begin + SECOND, "", SLEEP, 0.01, measured, [("/app/busy.py", 3, "burn")])
        case.history.block(judged(told))
    case.finish(ORIGIN + 6 * SECOND)
    (finding,) = case.findings(ORIGIN + 6 * SECOND)
    assert (finding.cause, finding.frames[0].function) == ("gil_contention", "burn")
    assert finding.evidence["other_threads_cores"] == pytest.approx(0.75)
    assert finding.evidence["futex_seen"] == 4
    assert set(finding.evidence) >= MEASURED


def test_a_finding_of_blocks_without_evidence_has_none() -> None:
    case = loop_case()
    case.history.block(block(1, 1.0, 3.0))
    case.finish(ORIGIN + 6 * SECOND)
    (finding,) = case.findings(ORIGIN + 6 * SECOND)
    assert not MEASURED & set(finding.evidence)
