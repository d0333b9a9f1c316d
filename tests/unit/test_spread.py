import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolscope.analysis.spread import Spread

nanoseconds = st.integers(min_value=0, max_value=10**15)


@given(st.lists(nanoseconds, min_size=1, max_size=300), st.lists(nanoseconds, max_size=50))
def test_percentiles_are_within_two_percent_of_the_exact_ones(first: list[int], second: list[int]) -> None:
    spread = Spread()
    spread.add(first)
    spread.add(second)
    ordered = sorted(first + second)
    for share, found in zip((0.5, 0.95, 0.99), spread.quantiles((0.5, 0.95, 0.99)), strict=True):
        exact = ordered[max(1, -int(-share * len(ordered) // 1)) - 1]
        assert found == pytest.approx(exact, rel=0.02, abs=0.5)


@given(st.lists(nanoseconds, max_size=100))
def test_a_batch_counts_like_its_values_one_by_one(values: list[int]) -> None:
    bounds = (1_000, 1_000_000, 1_000_000_000)
    whole, single = Spread(bounds), Spread(bounds)
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
    single, along, alone = Spread(), Spread(), Spread()
    alone.add(values)
    Spread((1_000, 10**9)).add(values, along)
    for value in values:
        single.put(value)
    expected = (alone.counts, alone.buckets, alone.count, alone.total, alone.maximum)
    for spread in (single, along):
        assert (spread.counts, spread.buckets, spread.count, spread.total, spread.maximum) == expected


def test_bucket_counts_are_exact_at_their_bounds() -> None:
    spread = Spread((10, 20))
    spread.add([0, 10, 11, 20, 21, 10**12])
    assert spread.buckets == [2, 2, 2], "an upper bound belongs to its bucket, as in Prometheus"


def test_merging_is_like_adding_all() -> None:
    rng = random.Random(1)
    parts = [[rng.randrange(10**9) for _ in range(100)] for _ in range(3)]
    merged, together = Spread((10**6,)), Spread((10**6,))
    for part in parts:
        one = Spread((10**6,))
        one.add(part)
        merged.merge(one)
        together.add(part)
    assert merged.distribution() == together.distribution()
    assert merged.buckets == together.buckets


def test_nothing_measured_is_null_not_zero() -> None:
    assert Spread().distribution().p50 is None
    assert Spread().quantiles((0.5,)) == []


def test_a_clock_that_steps_back_gives_zero() -> None:
    spread = Spread()
    spread.add([-5, 3])
    assert spread.total == 3


def test_the_fastest_is_within_its_bucket() -> None:
    spread = Spread()
    assert spread.fastest == 0
    spread.add([40, 7])
    assert spread.fastest == 7
    spread = Spread()
    spread.add([10_000, 20_000])
    assert spread.fastest == pytest.approx(10_000, rel=0.016)


def test_other_bounds_for_what_was_counted() -> None:
    """As if it had been counted between them, but for values that share a log-linear bucket with a bound."""
    values = [0, 5, 63, 64, 1000, 10**6, 10**9, 10**9 + 10**7 * 5]
    spread, fresh = Spread([7, 2000]), Spread([10, 100, 2 * 10**9])
    spread.add(values)
    fresh.add(values)
    spread.rebound([10, 100, 2 * 10**9])
    assert spread.buckets == fresh.buckets
    spread.add([50])
    fresh.add([50])
    assert spread.buckets == fresh.buckets
    spread.merge(fresh)
    assert sum(spread.buckets) == spread.count == 18
