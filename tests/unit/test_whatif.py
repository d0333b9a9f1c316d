"""`poolscope whatif`: the curve of a session, and where it warns that the curve is not to be believed."""

import struct

import msgspec
import pytest
from report_support import hard_limit

from poolscope.aggregation.replay import Task
from poolscope.commands import whatif
from poolscope.errors import PoolscopeError
from poolscope.model import PoolTrace, Session

SECOND = 1_000_000_000


def packed(*tasks: tuple[int, int, int, int]) -> PoolTrace:
    flat = [number for task in tasks for number in task]
    return PoolTrace(functions=("quick", "slow", "new"), tasks=struct.pack(f"<{len(flat)}q", *flat), timeline=())


def test_tasks_that_did_not_end_get_the_run_of_their_function_or_what_they_had() -> None:
    quick, slow, new = 0, 1, 2
    trace = packed(
        (quick, 0, 0, 10),
        (quick, 1, 1, 21),
        (quick, 2, 2, 32),
        (slow, 3, 3, 503),
        (quick, 4, -1, -1),  # cancelled, or still queued
        (slow, 5, 100, -1),  # runs on, as long as usual
        (slow, 6, 200, -1),  # runs on, longer already
        (new, 7, -1, -1),
    )
    assert whatif.tasks(trace, 1000) == [
        Task(0, 10),
        Task(1, 20),
        Task(2, 30),
        Task(3, 500),
        Task(4, 20),
        Task(5, 900),
        Task(6, 800),
        Task(7, 20),
    ]
    assert whatif.tasks(packed((quick, 4, -1, -1)), 1000) == [Task(4, 0)]
    assert whatif.tasks(packed(), 1000) == []


def judged(**changed: object) -> Session:
    """The session of the story, its pool with one finding changed like this."""
    session = hard_limit()
    (row,) = session.report.pools
    found = msgspec.structs.replace(row.findings[0], **changed)
    report = msgspec.structs.replace(
        session.report, pools=(msgspec.structs.replace(row, findings=(found,)),), findings=(found,)
    )
    return Session(report, session.traces)


def shown(session: Session) -> str:
    return "\n".join(whatif.lines(session, None, [4, 8, 16]))


def test_the_sizes_in_order_with_the_present_one_marked() -> None:
    _, _, four, eight, sixteen, assumption, *rest = whatif.lines(hard_limit(), None, [4, 8, 16])
    assert [row.split()[0] for row in (four, eight, sixteen)] == ["4", "8", "16"]
    assert four.endswith("as it is")
    assert not eight.endswith("as it is")
    assert "Run times are taken as recorded" in assumption
    assert rest == [""]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"evidence": {"closed_population": 24.0}}, "waits for results before it submits more, 24 tasks at a time"),
        (
            {"evidence": {}, "cause": "shared_resource", "severity": "warning"},
            "says shared_resource: more workers would wait for that too",
        ),
        ({"evidence": {"worker_cpu_share": 0.1, "cpu_limit_cores": 1.0}}, "About 8 busy workers use up the CPU"),
    ],
)
def test_a_curve_that_is_not_to_be_believed_says_so(changed: dict[str, object], said: str) -> None:
    assert said in shown(judged(**changed))


def test_sizes_that_change_nothing_more_are_one_row() -> None:
    rows = [row.split() for row in whatif.lines(hard_limit(), None, [4, *range(16, 65)])]
    assert [row[0] for row in rows[2:4]] == ["4", "16-64"]
    assert rows[4][0] == "Run"


def test_sizes_beyond_the_cpu_are_marked() -> None:
    session = judged(evidence={"worker_cpu_share": 0.1, "cpu_limit_cores": 1.0})
    marked = [row.split()[0] for row in shown(session).splitlines() if row.endswith("beyond the CPU")]
    assert marked == ["16"]


def test_one_of_two_pools_of_one_name_is_chosen_by_its_kind() -> None:
    threads = hard_limit()
    (row,), (trace,) = threads.report.pools, threads.traces
    processes = msgspec.structs.replace(row, kind="process", max_workers=2)
    both = Session(msgspec.structs.replace(threads.report, pools=(row, processes)), (trace, trace))
    titles = [line for line in whatif.lines(both, row.name, [4]) if line.startswith("pool ")]
    assert [title.split()[1] for title in titles] == [f"{row.name}:thread", f"{row.name}:process"]
    (title,) = (line for line in whatif.lines(both, f"{row.name}:process", [4]) if line.startswith("pool "))
    assert "2 workers" in title
    with pytest.raises(PoolscopeError, match=f"{row.name}:process, {row.name}:thread"):
        list(whatif.lines(both, "none", [4]))
