"""Counters of one row that never go down."""

from __future__ import annotations

from poolscope.aggregation.floor import Floor


def test_each_value_keeps_its_highest() -> None:
    floor = Floor()
    assert floor.hold((2.0, 5.0)) == (2.0, 5.0)
    assert floor.hold((3.0, 4.0)) == (3.0, 5.0)
    assert floor.hold((1.0, 6.0)) == (3.0, 6.0)


def test_floors_are_independent() -> None:
    Floor().hold((2.0,))
    assert Floor().hold((1.0,)) == (1.0,)


def test_no_values_are_none() -> None:
    floor = Floor()
    assert floor.hold(()) == ()
    assert floor.hold(()) == ()
