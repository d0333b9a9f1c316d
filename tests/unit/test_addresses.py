"""How a command names one pool, where pools of several kinds have one name."""

import msgspec
from report_support import hard_limit

from poolscope.addresses import addresses, means, several, split

(POOL,) = hard_limit().report.pools
PROCESSES = msgspec.structs.replace(POOL, kind="process")
OTHER = msgspec.structs.replace(POOL, name="other")


def test_a_name_is_enough_where_all_of_it_are_of_one_kind() -> None:
    assert addresses([POOL, msgspec.structs.replace(POOL, pid=2), OTHER]) == [POOL.name, POOL.name, "other"]
    assert several(POOL.name, [POOL, OTHER]) == []


def test_of_several_kinds_each_is_named_by_its_own() -> None:
    named = [f"{POOL.name}:thread", f"{POOL.name}:process", "other"]
    assert addresses([POOL, PROCESSES, OTHER]) == named
    assert several(POOL.name, [POOL, PROCESSES, OTHER]) == sorted(named[:2])
    assert [means(text, PROCESSES) for text in (POOL.name, *named)] == [True, False, True, False]


def test_a_kind_is_a_word_behind_the_last_colon() -> None:
    assert split("app:main.pool:process") == ("app:main.pool", "process")
    assert [split(text) for text in ("pool", ":process", "app:main.pool", "app:<lambda>", "pool:")] == [None] * 5
