"""What is waited for in turn: from samples to findings, and to what is none."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from poolscope.aggregation.turns import LINES_KEPT, Turns
from poolscope.config import Settings
from poolscope.engine.engine import Engine
from poolscope.engine.turn_case import MOST_NS, TurnCase, TurnFindings
from poolscope.messages import Line, Turn, TurnSample
from poolscope.model import Finding
from poolscope.rules.in_turn import Row
from poolscope.signals.in_turn import InRow, InTurn, Told

SECOND = 1_000_000_000
TICK = SECOND // 10
OUTER, INNER = ("app.py", 40, "main"), ("app.py", 31, "download")
APART = InTurn("download")
LOOP, POOL = Row(kind="loop", name="MainThread"), Row(kind="pool", name="db", workers=8)


def turn(number: int, **changed: Any) -> Turn:
    values: dict[str, Any] = {"loop": 1, "pool": 0, "who": 1, "gate": "await", "others": 0}
    values |= {"lines": [OUTER, INNER], "turns": [number, 1000 + number]} | changed
    return Turn(**values)


class Process:
    """A process whose loop is seen at each tick, and what the source says of its lines."""

    def __init__(self, said: dict[Line, InTurn | InRow | Told] | None = None) -> None:
        known: dict[Line, InTurn | InRow | Told] = {OUTER: APART, INNER: Told.NO_LOOP} if said is None else said
        self.case = TurnCase(lambda line, _gate: known[line])
        self.found = TurnFindings(origin_ns=0, source_of=lambda _file, _line: "text", sustain_seconds=1.0)
        self.at_ns = SECOND

    def see(self, seconds: float, *, each: int = 2, others: int = 0, **changed: Any) -> Process:
        """See it for so long; each turn takes so many ticks."""
        for tick in range(round(seconds * 10)):
            self.look([turn(tick // each, others=others, **changed)])
        return self

    def look(self, turns: list[Turn]) -> None:
        self.at_ns += TICK
        self.case.note(TurnSample(self.at_ns, turns), lambda _: self.found.turns)

    def findings(self, row: Row = LOOP) -> list[Finding]:
        return self.found.findings(row)


def test_the_sentence_has_the_arithmetic() -> None:
    process = Process().see(8)
    (finding,) = process.findings()
    assert (finding.pattern, finding.cause, finding.severity) == ("not_concurrent", "awaited_in_turn", "info")
    assert "app.py:40 (main): 40 \N{MULTIPLICATION SIGN} 198 ms one after another" in finding.summary
    assert [(frame.line, frame.function) for frame in finding.frames] == [(40, "main"), (31, "download")]
    assert finding.advice.action == "overlap"
    assert finding.evidence["turns"] == 40
    assert process.found.covered_ns(LOOP) == process.case.under_way_ns == 79 * TICK


def test_turns_that_are_shorter_than_a_look_are_at_least_so_many() -> None:
    (finding,) = Process().see(8, each=1).findings()
    assert "at least 79 of them, each shorter than 100 ms" in finding.summary


@pytest.mark.parametrize("seconds", [4.9, 1.0])
def test_for_a_short_time_nothing_is_said(seconds: float) -> None:
    assert Process().see(seconds).findings() == []


def test_of_few_turns_nothing_is_said() -> None:
    assert Process().see(8, each=20).findings() == []


def test_what_all_turns_share_is_a_note_and_no_verdict() -> None:
    process = Process({OUTER: InTurn("session.get", "session"), INNER: Told.NO_LOOP}).see(8)
    (finding,) = process.findings()
    assert finding.advice.text.startswith("If session can do several things at once: ")
    assert process.found.covered_ns(LOOP) == 0


def test_beside_other_tasks_it_is_a_note_where_most_of_their_time_goes() -> None:
    process = Process().see(8, others=3)
    (finding,) = process.findings()
    assert "1 task spent 100 % of its waiting" in finding.summary
    assert process.found.covered_ns(LOOP) == 0
    process = Process()
    elsewhere = ("app.py", 7, "other")
    said: dict[Line, InTurn | InRow | Told] = {OUTER: APART, elsewhere: Told.NOTHING}
    process.case = TurnCase(lambda line, _: said.get(line, Told.NO_LOOP))
    for tick in range(80):
        others = [turn(tick, who=2 + n, others=3, lines=[elsewhere], turns=[tick]) for n in range(3)]
        process.look([turn(tick // 2, others=3), *others])
    assert process.findings() == []


def at_once(process: Process, count: int, *, lasting: int) -> None:
    """So many tasks in the loop at a time, each for so many looks."""
    for tick in range(80):
        process.look([turn(tick, who=n + count * (tick // lasting), others=count - 1) for n in range(count)])


def test_requests_that_come_and_go_are_told_and_workers_side_by_side_are_not() -> None:
    at_once(requests := Process(), 10, lasting=5)
    (finding,) = requests.findings()
    assert "160 tasks spent 100 % of their waiting" in finding.summary
    at_once(workers := Process(), 10, lasting=80)
    assert workers.findings() == []


def test_loops_of_several_threads_at_one_line_go_on_beside_each_other() -> None:
    """Each handler of a server runs a loop of its own."""
    process = Process()
    for tick in range(80):
        process.look([turn(tick // 2, loop=loop, who=loop) for loop in (1, 2, 3)])
    assert process.found.covered_ns(LOOP) == 0
    apart = Process({OUTER: APART, INNER: Told.NO_LOOP, ("app.py", 7, "other"): Told.NOTHING})
    for tick in range(80):  # one that waits for what another one does is no sign of that
        apart.look([turn(tick // 2), turn(tick, loop=2, who=2, lines=[("app.py", 7, "other")], turns=[tick])])
    assert apart.found.covered_ns(LOOP) == apart.case.under_way_ns


def test_requests_that_await_in_a_row_are_a_note() -> None:
    process = Process({OUTER: Told.NOTHING, INNER: InRow(30, 32, ("get_user", "get_orders"))})
    at_once(process, 4, lasting=5)
    (finding,) = process.findings()
    assert "64 tasks spent 100 % of their waiting from app.py:30 (download) on" in finding.summary
    assert finding.summary.endswith("none uses what came before: get_user, get_orders.")
    assert [frame.line for frame in finding.frames] == [30]
    assert process.found.covered_ns(LOOP) == 0
    alone = Process({OUTER: Told.NO_LOOP, INNER: InRow(30, 32, ("get_user", "get_orders"))}).see(8)
    assert alone.found.covered_ns(LOOP) == 0
    loop = Process({OUTER: APART, INNER: InRow(30, 32, ("get_user", "get_orders"))}).see(8)
    assert [finding.frames[0].line for finding in loop.findings()] == [40], "a loop around it says more"


def test_the_innermost_loop_decides() -> None:
    assert Process({OUTER: APART, INNER: Told.NOTHING}).see(8).findings() == []


@pytest.mark.parametrize(("others", "found"), [(0, 1), (1, 1), (2, 0)])
def test_a_pool_with_more_than_a_quarter_at_work_is_concurrent(others: int, found: int) -> None:
    process = Process().see(8, gate="future", loop=0, pool=1, others=others)
    assert len(process.findings(POOL)) == found


def test_a_pool_of_one_is_not_told() -> None:
    process = Process().see(8, gate="future", loop=0, pool=1)
    assert process.findings(Row(kind="pool", name="db", workers=1)) == []


def test_the_tasks_of_a_pool_are_its_turns() -> None:
    process = Process().see(8, gate="future", loop=0, pool=1)
    row = Row(kind="pool", name="db", workers=8, finished=400, busy_seconds=7.9)
    (finding,) = process.findings(row)
    assert "400 \N{MULTIPLICATION SIGN} 20 ms one after another; together about 988 ms on its 8" in finding.summary


def test_rounds_that_wait_for_their_slowest() -> None:
    process = Process()
    for tick in range(200):
        process.look([turn(tick // 20, gate="batch", others=8 if tick % 20 < 2 else 1)])
    (finding,) = process.findings()
    assert (finding.cause, finding.advice.action) == ("waits_for_slowest", "one_pool")
    assert Process().see(8, gate="batch", others=8).findings() == [], "rounds of which much is left"
    assert Process().see(8, gate="batch", others=1).findings() == [], "one thing at a time is no round"


def test_pools_of_processes_that_mostly_start() -> None:
    process = Process()
    for tick in range(80):
        gate = "end" if tick % 10 >= 5 else "batch"
        process.look([turn(tick // 10, gate=gate, loop=0, pool=1 + tick // 10)])
    row = Row(kind="pool", name="pool", workers=2, finished=64, busy_seconds=1.6, process_pools=8, occupied_seconds=6)
    (finding,) = process.findings(row)
    assert (finding.cause, finding.advice.action) == ("waits_for_slowest", "one_pool")
    assert "made anew 8 times at app.py:40 (main): in 7.9 s" in finding.summary
    assert process.found.covered_ns(row) == process.found.turns.waited_ns
    for changed in ({"process_pools": 1}, {"busy_seconds": 5.0}, {"process_pools": 0}):
        assert process.findings(msgspec.structs.replace(row, **changed)) == []


def test_small_rounds_of_a_large_pool_are_none() -> None:
    process = Process().see(8, gate="end", loop=0, pool=1, others=3)
    assert process.findings(Row(kind="pool", name="db", workers=32)) == []


def test_a_pause_counts_for_no_more_than_a_look() -> None:
    process = Process()
    process.look([turn(1)])
    process.at_ns += 3600 * SECOND
    process.look([turn(1)])
    assert process.case.under_way_ns == MOST_NS


def test_lines_are_bounded_and_the_longer_one_stays() -> None:
    turns = Turns()
    for number in range(2 * LINES_KEPT):
        turns.line(("app.py", number, "main"), "await", "f", "", 0)
    assert len(turns.lines) == LINES_KEPT
    one, two = Process().see(8), Process().see(2)
    two.found.turns.merge(one.found.turns)
    assert len(two.findings()) == 1


def engine(settings: Settings) -> Engine:
    made = Engine(settings, started_ns=0)
    made.feed(1, ("hello", 4, 10, 1, ["python"], "3.13.0", SECOND, True))
    return made


def told(made: Engine) -> tuple[str, list[str]]:
    report = made.session(12 * SECOND, command=["python"], started_at="", exit_code=0).report
    return report.verdict, [finding.cause for finding in report.findings]


def threads(made: Engine, lines: list[Line]) -> None:
    for tick in range(100):
        turns = [[0, 0, 1, "thread", 0, lines, [tick // 2] * len(lines)]]
        made.feed(1, ("turns", SECOND + tick * TICK, turns))


def test_threads_of_the_program_are_told_in_the_list_of_all(tmp_path: Any) -> None:
    program = tmp_path / "app.py"
    lines = ["for item in items:", "    thread = Thread(target=ask, args=(item,))", "    thread.start()"]
    program.write_text("\n".join([*lines, "    thread.join()"]))
    made = engine(Settings())
    threads(made, [(str(program), 4, "<module>")])
    assert told(made) == ("not_concurrent", ["awaited_in_turn"])
    made.finish(12 * SECOND)
    assert told(made) == ("not_concurrent", ["awaited_in_turn"]), "and when the process has ended"


def test_a_scrape_counts_what_is_of_the_program(tmp_path: Any) -> None:
    program = tmp_path / "app.py"
    lines = ["for item in items:", "    thread = Thread(target=ask, args=(item,))", "    thread.start()"]
    program.write_text("\n".join([*lines, "    thread.join()"]))
    made = engine(Settings())
    threads(made, [(str(program), 4, "<module>")])

    def counts(now_ns: int) -> list[tuple[str, str, str, str, bool, int]]:
        found = made.snapshot(now_ns).findings
        return [(each.kind, each.name, each.cause, each.severity, each.active, each.total) for each in found]

    assert counts(10 * SECOND) == [("program", "program", "awaited_in_turn", "info", True, 1)]
    assert counts(60 * SECOND) == [("program", "program", "awaited_in_turn", "info", False, 1)], "it is over by then"


def test_a_source_that_is_not_there_says_nothing() -> None:
    made = engine(Settings())
    threads(made, [("/nowhere/app.py", 4, "<module>")])
    assert told(made) == ("insufficient_data", [])


def chunked(**changed: Any) -> Row:
    values: dict[str, Any] = {"kind": "pool", "name": "db", "workers": 4, "finished": 1, "chunks": 1, "items": 24}
    return Row(**values | {"busy_seconds": 7.2, "occupied_seconds": 7.2, "until_ns": 8 * SECOND} | changed)


def test_all_items_in_one_chunk() -> None:
    process = Process({("app.py", 23, "main"): Told.NO_LOOP})
    process.look([turn(1, gate="batch", loop=0, pool=1, lines=[("app.py", 23, "main")], turns=[1])])
    process.look([turn(1, gate="batch", loop=0, pool=1, lines=[("app.py", 23, "main")], turns=[1])])
    (finding,) = process.findings(chunked())
    assert (finding.cause, finding.advice.action) == ("one_chunk", "smaller_chunks")
    assert "24 items in 1 chunk at app.py:23 (main)" in finding.summary
    assert [frame.line for frame in finding.frames] == [23]
    assert process.found.covered_ns(chunked()) == 7.2 * SECOND


@pytest.mark.parametrize(
    "changed",
    [
        {"items": 4},
        {"items": 5, "workers": 8},
        {"workers": 1},
        {"occupied_seconds": 4.9, "busy_seconds": 4.9},
        {"busy_seconds": 14.0},
        {"finished": 3},
        {"chunks": 4, "finished": 4},
        {"chunks": 0, "items": 0, "finished": 24},
    ],
)
def test_no_single_chunk(changed: dict[str, Any]) -> None:
    assert Process().findings(chunked(**changed)) == []
