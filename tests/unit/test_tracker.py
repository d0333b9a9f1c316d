from poolscope.engine.tracker import Tracker

WARN = ("async_then_serial", "blocking_io", "warning")
OTHER = ("async_then_serial", "cpu_bound", "warning")


def tracker() -> Tracker[str]:
    return Tracker(hold_ns=10, settle_ns=5)


def test_a_finding_begins_at_once_and_ends_after_the_hold() -> None:
    one = tracker()
    assert one.offer(WARN, "a", 0, 3)
    assert not one.offer(WARN, "b", 0, 4)
    assert one.absent(5, 6) is None
    ended = one.absent(5, 15)
    assert ended is not None
    assert (ended.item, ended.since_ns, ended.until_ns, ended.detected_ns) == ("b", 0, 5, 3)
    assert one.active is None


def test_what_comes_back_within_the_hold_goes_on() -> None:
    one = tracker()
    one.offer(WARN, "a", 0, 3)
    one.absent(5, 6)
    assert not one.offer(WARN, "b", 8, 9)
    assert one.active is not None
    assert one.active.since_ns == 0
    assert one.active.until_ns is None


def test_another_cause_takes_over_only_once_it_has_stood() -> None:
    one = tracker()
    one.offer(WARN, "a", 0, 0)
    assert not one.offer(OTHER, "b", 0, 1)
    assert not one.offer(WARN, "a", 0, 2)
    assert not one.offer(OTHER, "b", 0, 3)
    assert not one.offer(OTHER, "b", 0, 7)
    assert one.offer(OTHER, "b", 0, 8)
    assert one.active is not None
    assert one.active.key == OTHER


def test_a_cause_takes_over_at_once_where_none_was_known() -> None:
    one = tracker()
    one.offer(("async_then_serial", "unknown", "warning"), "a", 0, 0)
    assert one.offer(OTHER, "b", 0, 1, refined=True)
    assert one.active is not None
    assert (one.active.key, one.active.item) == (OTHER, "b")


def test_nothing_ends_twice() -> None:
    one = tracker()
    assert one.absent(1, 100) is None
    assert one.close() is None
