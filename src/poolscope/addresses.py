"""How a command names one pool: NAME, and NAME:KIND where a pool of another kind has that name too."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from poolscope.model import PoolReport

_WITH_KIND = re.compile(r"(.+):([a-z]+)", re.DOTALL)


def split(text: str) -> tuple[str, str] | None:
    """Return name and kind of "NAME:KIND"; None if no kind can be meant. A pool may be called so all the same: a name
    ends in the function that made the pool."""
    found = _WITH_KIND.fullmatch(text)
    return (found[1], found[2]) if found is not None else None


def means(text: str, pool: PoolReport) -> bool:
    """Whether the pool is one of those that the text names."""
    return text in (pool.name, _full(pool))


def addresses(pools: Sequence[PoolReport]) -> list[str]:
    """Return the text that names each pool, and its like in other processes."""
    kinds = _kinds(pools)
    return [_full(pool) if len(kinds[pool.name]) > 1 else pool.name for pool in pools]


def several(text: str, pools: Sequence[PoolReport]) -> list[str]:
    """Return NAME:KIND for each kind of pool that has the name `text`, in order; nothing if there are not several."""
    kinds = _kinds(pools)[text]
    return [f"{text}:{kind}" for kind in sorted(kinds)] if len(kinds) > 1 else []


def _full(pool: PoolReport) -> str:
    return f"{pool.name}:{pool.kind}"


def _kinds(pools: Sequence[PoolReport]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for pool in pools:
        found[pool.name].add(pool.kind)
    return found
