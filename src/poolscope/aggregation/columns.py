"""Reads the flat lists of numbers that batches are. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Any


def told_apart(keys: list[int]) -> tuple[Sequence[int], int]:
    """Return the functions of finished tasks, and how many failed, from function * 2 + failed of each."""
    first = keys[0]
    if keys.count(first) == len(keys):
        return [first >> 1] * len(keys), (first & 1) * len(keys)
    return [key >> 1 for key in keys], sum([key & 1 for key in keys])


def listed(numbers: Sequence[int]) -> list[int]:
    """Return the same as a list, which is read faster than the arrays of a frame."""
    return numbers.tolist() if isinstance(numbers, array) else list(numbers)


def groups(flat: Sequence[int], size: int) -> Iterator[Any]:
    """So many numbers at a time."""
    items = iter(flat)
    return zip(*([items] * size), strict=True)
