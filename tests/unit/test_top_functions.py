"""Counts by function against the same counts kept by hand."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from poolscope.aggregation.top_functions import OTHER, TopFunctions, Total


def take(busiest: TopFunctions, totals: dict[str, Total], among: list[str] | None = None) -> None:
    busiest.put(totals)
    busiest.count(among)


def test_the_busiest_go_by_their_names_and_the_rest_as_one() -> None:
    busiest = TopFunctions(2)
    take(busiest, {"a": (100, 1), "b": (2, 9), "c": (3, 4), OTHER: (4, 50)})
    assert dict(busiest.shown()) == {"b": (2, 9), "c": (3, 4), OTHER: (104, 51)}
    assert list(busiest.former()) == []


def test_no_rest_without_one() -> None:
    busiest = TopFunctions(2)
    assert list(busiest.shown()) == []
    take(busiest, {"a": (1, 1), "b": (0, 0)})
    assert dict(busiest.shown()) == {"a": (1, 1), "b": (0, 0)}


def test_what_was_counted_stays_where_it_was() -> None:
    busiest = TopFunctions(1)
    take(busiest, {"a": (10, 10), "b": (5, 5)})
    take(busiest, {"a": (11, 11), "b": (25, 25)})
    assert dict(busiest.shown()) == {"b": (20, 20), OTHER: (6, 6)}
    assert dict(busiest.former()) == {"a": (10, 10)}
    take(busiest, {"a": (40, 40)})
    assert dict(busiest.shown()) == {"a": (39, 39), OTHER: (6, 6)}


def test_one_that_overtakes_is_found_though_the_others_are_left_out() -> None:
    busiest = TopFunctions(50)
    take(busiest, {f"f{number}": (1, number) for number in range(10_000)})
    take(busiest, {"f7": (2, 10_007)})
    names = [name for name, _ in busiest.shown()]
    assert len(names) == 51
    assert "f7" in names
    assert "f9950" not in names
    assert dict(busiest.former()) == {"f9950": (1, 9950)}


def test_a_lower_total_takes_nothing_back_and_is_not_counted_twice() -> None:
    busiest = TopFunctions(1)
    take(busiest, {"a": (1, 10)})
    take(busiest, {"a": (1, 8)})
    assert dict(busiest.shown()) == {"a": (1, 10)}
    take(busiest, {"a": (2, 11)})
    assert dict(busiest.shown()) == {"a": (2, 11)}


def test_it_is_the_same_whether_all_is_told_or_what_is_new() -> None:
    busiest, again = TopFunctions(1), TopFunctions(1)
    for more in ([("a", 2, 5), ("b", 1, 3)], [("b", 1, 3), ("a", 0, 0)]):
        busiest.add(more)
        busiest.count()
    again.add(busiest.done())
    again.count()
    assert dict(busiest.shown()) == {"b": (1, 3), OTHER: (1, 3)}
    assert dict(busiest.former()) == {"a": (2, 5)}
    assert dict(again.shown()) == {"b": (2, 6), OTHER: (2, 5)}


def test_only_some_may_go_by_their_names() -> None:
    busiest = TopFunctions(5)
    totals = {"a": (1, 9), "b": (1, 8), "c": (1, 7)}
    take(busiest, totals, ["b", "c"])
    assert dict(busiest.shown()) == {"b": (1, 8), "c": (1, 7), OTHER: (1, 9)}
    take(busiest, totals, ["a", "c"])
    assert dict(busiest.shown()) == {"a": (0, 0), "c": (1, 7), OTHER: (1, 9)}


def test_another_limit_holds_from_then_on() -> None:
    busiest = TopFunctions(1)
    take(busiest, {"a": (1, 3), "b": (1, 2), "c": (1, 1)})
    busiest.resize(2)
    assert dict(busiest.shown()) == {"a": (1, 3), "b": (0, 0), OTHER: (2, 3)}
    take(busiest, {"b": (2, 4)})
    assert dict(busiest.shown()) == {"a": (1, 3), "b": (1, 2), OTHER: (2, 3)}
    busiest.resize(1)
    assert dict(busiest.shown()) == {"b": (1, 2), OTHER: (2, 3)}


GROWTH = st.dictionaries(st.sampled_from([*"abcdef", OTHER]), st.tuples(st.integers(0, 9), st.integers(0, 9)))


@given(st.lists(st.tuples(GROWTH, st.none() | st.integers(1, 4)), max_size=12), st.integers(1, 4))
@settings(deadline=None, derandomize=True, max_examples=200)
def test_it_is_all_there_never_less_and_the_busiest_by_name(
    steps: list[tuple[dict[str, Total], int | None]], limit: int
) -> None:
    busiest = TopFunctions(limit)
    totals: dict[str, Total] = {}
    before: dict[str, Total] = {}
    for growth, resized in steps:
        if resized is not None:
            limit = resized
            busiest.resize(limit)
        for name, (started, busy_ns) in growth.items():
            then = totals.get(name, (0, 0))
            totals[name] = (then[0] + started, then[1] + busy_ns)
        take(busiest, {name: totals[name] for name in growth})

        shown = dict(busiest.shown())
        ranking = sorted(totals.keys() - {OTHER}, key=lambda name: (-totals[name][1], -totals[name][0], name))
        assert shown.keys() - {OTHER} == set(ranking[:limit])
        counts = {**shown, **dict(busiest.former())}
        for column in (0, 1):
            assert sum(total[column] for total in counts.values()) == sum(total[column] for total in totals.values())
            assert all(counts.get(name, (0, 0))[column] >= total[column] for name, total in before.items())
        before = counts
