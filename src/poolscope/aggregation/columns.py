"""Reads the flat lists of numbers that batches are. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Any


def told_apart(keys: list[int]) -> tuple[Sequence[int], int]:
    """Split `function * 2 + failed` of each finished task into the functions and the number of failures."""
    first = keys[0]
    if keys.count(first) == len(keys):
        return [first >> 1] * len(keys), (first & 1) * len(keys)
    return [key >> 1 for key in keys], sum([key & 1 for key in keys])


def listed(numbers: Sequence[int]) -> list[int]:
    """Return the numbers as a list: it is read faster than the array of a frame."""
    return numbers.tolist() if isinstance(numbers, array) else list(numbers)


def groups(flat: Sequence[int], size: int) -> Iterator[Any]:
    """Yield so many numbers at a time."""
    items = iter(flat)
    return zip(*([items] * size), strict=True)
