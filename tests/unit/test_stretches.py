from poolscope.aggregation.stretches import Stretch, StretchTracker

MS = 1_000_000


def test_a_short_gap_is_bridged_and_does_not_count_as_saturated() -> None:
    tracker = StretchTracker()
    tracker.turn(True, 0)
    tracker.turn(False, 100 * MS)
    tracker.turn(True, 119 * MS)
    tracker.turn(False, 200 * MS)
    assert tracker.current == Stretch(0, 200 * MS, open=False, bridged_ns=19 * MS)
    assert tracker.current.saturated_ns == tracker.saturated_ns == 181 * MS


def test_a_longer_gap_ends_the_stretch() -> None:
    tracker = StretchTracker()
    tracker.turn(True, 0)
    tracker.turn(False, 100 * MS)
    tracker.turn(True, 121 * MS)
    assert tracker.closed == [Stretch(0, 100 * MS, open=False)]
    assert tracker.current == Stretch(121 * MS, 121 * MS, open=True)
    tracker.turn(False, 130 * MS)
    tracker.turn(True, 140 * MS)
    assert tracker.current == Stretch(121 * MS, 140 * MS, open=True, bridged_ns=10 * MS)


def test_the_bridge_grows_with_the_stretch() -> None:
    tracker = StretchTracker()
    tracker.turn(True, 0)
    tracker.turn(False, 10_000 * MS)
    tracker.turn(True, 10_190 * MS)  # under 2 % of 10 s
    assert tracker.closed == []
    assert tracker.current == Stretch(0, 10_190 * MS, open=True, bridged_ns=190 * MS)


def test_time_ends_what_nothing_continues() -> None:
    tracker = StretchTracker()
    tracker.turn(True, 0)
    tracker.turn(False, 100 * MS)
    tracker.advance(119 * MS)
    assert tracker.current is not None
    tracker.advance(121 * MS)
    assert tracker.current is None
    assert tracker.closed == [Stretch(0, 100 * MS, open=False)]


def test_time_prolongs_what_lasts() -> None:
    tracker = StretchTracker()
    tracker.turn(True, 0)
    tracker.advance(1_000 * MS)
    tracker.turn(True, 1_500 * MS)  # said twice
    assert tracker.current == Stretch(0, 1_000 * MS, open=True)
    tracker.finish()
    assert tracker.closed == [Stretch(0, 1_000 * MS, open=False)]
    assert tracker.current is None


def test_a_cut_begins_another_stretch() -> None:
    tracker = StretchTracker()
    tracker.turn(True, 0)
    tracker.cut(500 * MS)
    assert tracker.closed == [Stretch(0, 500 * MS, open=False)]
    assert tracker.current == Stretch(500 * MS, 500 * MS, open=True)
    tracker.turn(False, 700 * MS)
    tracker.cut(705 * MS)  # within the gap that would be bridged
    assert tracker.closed[1:] == [Stretch(500 * MS, 700 * MS, open=False)]
    assert tracker.current is None
    tracker.cut(800 * MS)
    assert len(tracker.closed) == 2
