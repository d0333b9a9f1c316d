import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolscope.aggregation.histogram import Histogram

nanoseconds = st.integers(min_value=0, max_value=10**15)


@given(st.lists(nanoseconds, min_size=1, max_size=300), st.lists(nanoseconds, max_size=50))
def test_percentiles_are_within_two_percent_of_the_exact_ones(first: list[int], second: list[int]) -> None:
    spread = Histogram()
    spread.add(first)
    spread.add(second)
    ordered = sorted(first + second)
    for share, found in zip((0.5, 0.95, 0.99), spread.quantiles((0.5, 0.95, 0.99)), strict=True):
        exact = ordered[max(1, -int(-share * len(ordered) // 1)) - 1]
        assert found == pytest.approx(exact, rel=0.02, abs=0.5)


@given(st.lists(nanoseconds, max_size=100))
def test_a_batch_counts_like_its_values_one_by_one(values: list[int]) -> None:
    bounds = (1_000, 1_000_000, 1_000_000_000)
    whole, single = Histogram(bounds), Histogram(bounds)
    whole.add(values)
    for value in values:
        single.add([value])
    assert (whole.counts, whole.buckets, whole.total, whole.maximum) == (
        single.counts,
        single.buckets,
        single.total,
        single.maximum,
    )


@given(st.lists(st.integers(-5, 10**15), max_size=50))
def test_one_by_one_and_along_with_another_count_the_same(values: list[int]) -> None:
    single, along, alone = Histogram(), Histogram(), Histogram()
    alone.add(values)
    Histogram((1_000, 10**9)).add(values, along)
    for value in values:
        single.put(value)
    expected = (alone.counts, alone.buckets, alone.count, alone.total, alone.maximum)
    for spread in (single, along):
        assert (spread.counts, spread.buckets, spread.count, spread.total, spread.maximum) == expected


def test_bucket_counts_are_exact_at_their_bounds() -> None:
    spread = Histogram((10, 20))
    spread.add([0, 10, 11, 20, 21, 10**12])
    assert spread.buckets == [2, 2, 2], "an upper bound belongs to its bucket, as in Prometheus"


def test_merging_is_like_adding_all() -> None:
    rng = random.Random(1)
    parts = [[rng.randrange(10**9) for _ in range(100)] for _ in range(3)]
    merged, together = Histogram((10**6,)), Histogram((10**6,))
    for part in parts:
        one = Histogram((10**6,))
        one.add(part)
        merged.merge(one)
        together.add(part)
    assert merged.distribution() == together.distribution()
    assert merged.buckets == together.buckets


def test_nothing_measured_is_null_not_zero() -> None:
    assert Histogram().distribution().p50 is None
    assert Histogram().quantiles((0.5,)) == []


def test_a_clock_that_steps_back_gives_zero() -> None:
    spread = Histogram()
    spread.add([-5, 3])
    assert spread.total == 3


@given(st.lists(nanoseconds, min_size=1, max_size=50), st.lists(nanoseconds, max_size=50))
def test_the_least_and_the_largest_are_exact(first: list[int], second: list[int]) -> None:
    """However the values come: in a batch, one by one, along with another, or merged."""
    batch, along, single, other = Histogram(), Histogram(), Histogram(), Histogram()
    batch.add(first, along)
    for value in first:
        single.put(value)
    other.add(second)
    for spread in (batch, along, single):
        assert (spread.minimum, spread.maximum) == (min(first), max(first))
        spread.merge(other)
        assert (spread.minimum, spread.maximum) == (min(first + second), max(first + second))


@given(st.lists(nanoseconds, min_size=1, max_size=50))
def test_no_percentile_lies_beyond_what_was_measured(values: list[int]) -> None:
    spread = Histogram()
    spread.add(values)
    for found in spread.quantiles((0.0, 0.5, 0.95, 0.99, 1.0)):
        assert min(values) <= found <= max(values)


def test_sleeps_of_200_ms_have_no_median_of_199() -> None:
    spread = Histogram()
    spread.add([200_050_000 + 1_000 * number for number in range(100)])
    shown = spread.distribution()
    assert shown.p50 == shown.p99 == 0.2000995, "the middle of what was measured"
    assert shown.max == 0.200149


def test_nothing_merged_into_something_changes_nothing() -> None:
    spread = Histogram()
    spread.add([7, 40])
    spread.merge(Histogram())
    assert (spread.minimum, spread.maximum) == (7, 40)
    assert (Histogram().minimum, Histogram().maximum) == (0, 0)


def test_other_bounds_for_what_was_counted() -> None:
    """As if it had been counted between them, but for values that share a log-linear bucket with a bound."""
    values = [0, 5, 63, 64, 1000, 10**6, 10**9, 10**9 + 10**7 * 5]
    spread, fresh = Histogram([7, 2000]), Histogram([10, 100, 2 * 10**9])
    spread.add(values)
    fresh.add(values)
    spread.rebound([10, 100, 2 * 10**9])
    assert spread.buckets == fresh.buckets
    spread.add([50])
    fresh.add([50])
    assert spread.buckets == fresh.buckets
    spread.merge(fresh)
    assert sum(spread.buckets) == spread.count == 18


@given(st.lists(nanoseconds, min_size=1, max_size=300), st.integers(1, 20))
def test_an_estimate_is_exact_in_count_and_sum(values: list[int], every: int) -> None:
    bounds = (1_000, 1_000_000, 1_000_000_000)
    exact, estimated, also = Histogram(bounds), Histogram(bounds), Histogram()
    exact.add(values)
    sample = sorted(values)[:: min(every, len(values))]
    estimated.estimate(len(values), sum(values), max(values), sample, also)
    for found in (estimated, also):
        assert (found.count, found.total, found.maximum) == (exact.count, exact.total, exact.maximum)
        assert sum(found.counts.values()) == sum(found.buckets) == exact.count
    if every == 1:
        assert (estimated.counts, estimated.buckets) == (exact.counts, exact.buckets)


def test_an_estimate_by_no_sample_takes_the_mean() -> None:
    spread, also = Histogram((1_000, 10_000)), Histogram()
    spread.estimate(3, 6_000, 5_000, [], also)
    assert (spread.count, spread.total, spread.maximum, spread.buckets) == (3, 6_000, 5_000, [0, 3, 0])
    assert spread.quantiles((0.5,)) == [pytest.approx(2_000, rel=0.02)]
