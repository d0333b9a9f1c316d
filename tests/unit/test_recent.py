"""The tasks that finished last, as a deque of them would have it."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolscope.aggregation.recent import Recent, RecentTask


@given(st.lists(st.integers(0, 30), max_size=12), st.integers(1, 20))
def test_it_keeps_what_a_deque_keeps(batches: list[int], most: int) -> None:
    subject = Recent(most)
    expected: deque[RecentTask] = deque(maxlen=most)
    number = 0
    for size in batches:
        tasks = [(at % 3, at, at + 1, at + 2, at % 2 == 0) for at in range(number, number + size)]
        number += size
        expected.extend(tasks)
        columns: Any = ([task[place] for task in tasks] for place in range(5))
        subject.extend(*columns)
        assert list(subject) == list(expected)
        assert list(reversed(subject)) == list(reversed(expected))
        assert len(subject) == len(expected)
        assert subject.full is (len(expected) == most)
        if expected:
            assert subject.oldest == expected[0]
    assert len(subject._columns[0]) <= most + most // 4


def test_there_is_no_oldest_of_none() -> None:
    with pytest.raises(IndexError):
        Recent(3).oldest  # noqa: B018 - to be read is what fails
