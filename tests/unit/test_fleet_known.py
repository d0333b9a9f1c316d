"""The mappings: those that are shipped, a user's own, and what is wrong with one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fleet_support import MAPPINGS, THREAD_POOL, Scrape, judged, played, rising, shown

from poolscope import config
from poolscope.config import mappings
from poolscope.errors import ConfigError
from poolscope.fleet import known

OWN: dict[str, Any] = {
    "name": "ants",
    "title": "ants pool",
    "runtime": "Go",
    "source": "ours",
    "tier": "B",
    "identity": ["pool"],
    "roles": {
        "limit": "ants_capacity",
        "active": "ants_running",
        "queued": {"metric": "ants_waiting_thousands", "scale": 1000},
        "done": "ants_completed_total",
    },
}


def test_the_shipped_ones_have_names_of_their_own_and_say_what_they_rest_on() -> None:
    names = [mapping.name for mapping in MAPPINGS]
    assert len(set(names)) == len(names) >= 30
    assert all(mapping.source for mapping in MAPPINGS)
    # What carries no verdict, or less than one, says why.
    assert [it.name for it in MAPPINGS if it.tier == "none" and it.kind != "process" and not it.note] == []
    assert [it for it in MAPPINGS if not (it.identity or it.pool or it.prefix or it.kind == "process")] == []


def test_mappings_are_found_by_their_metrics() -> None:
    def found(*names: str) -> list[tuple[str, str]]:
        return [(mapping.name, prefix) for mapping, prefix in known.present(MAPPINGS, names)]

    assert found(*THREAD_POOL) == [("micrometer-thread-pool", "")]
    assert found(*(f"corda_tasks_{name}" for name in THREAD_POOL)) == [("micrometer-thread-pool", "corda_tasks_")]
    dropwizard = ("web_tasks_active", "web_tasks_queued", "web_pool_max", "web_pool_size", "web_completed_total")
    assert found(*dropwizard) == [("dropwizard", "web")]
    # Its name ends in the same way.
    assert found("celery_worker_tasks_active") == [("celery", "")]
    assert found("puma_max_threads", "puma_pool_capacity") == [("puma-metrics", "")]
    assert found("up", "node_load1") == []


def test_a_user_s_own_is_judged_like_ours() -> None:
    settings = config.from_mapping({"mappings": [OWN]})
    fills = played(rising(3.5, 17, at=1205))
    metrics = {
        "ants_capacity": lambda it: it.limit,
        "ants_running": lambda it: it.active,
        "ants_waiting_thousands": lambda it: it.queued / 1000,
        "ants_completed_total": lambda it: it.done,
    }

    def verdict(scrapes: list[Scrape]) -> str:
        return judged(shown(scrapes, metrics, pool="a"), own=settings.mappings)["a"].pattern

    assert verdict(fills) == "async_then_serial"
    assert verdict(played(rising(3.5, 14, at=1205))) == ""


def test_it_takes_the_place_of_ours() -> None:
    own = mappings.read({**OWN, "name": "tomcat"})
    both = known.together([own], MAPPINGS)
    assert [mapping.title for mapping in both if mapping.name == "tomcat"] == ["ants pool"]


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            {"roles": {"limit": 3}},
            "line 2: mappings[0].roles.limit: expected text or keys with values or nothing, found",
        ),
        ({"tier": "E"}, "line 2: mappings[0].tier: expected one of A, B, C, D, none, found 'E'"),
        ({"rolls": {}}, "line 2: mappings[0]: unknown key 'rolls'"),
        ({"title": None}, "line 2: mappings[0].title: expected text, found nothing"),
        ({"name": "Big Name"}, "mappings[0].name: expected text matching regex"),
        ({"roles": {"active": "a"}}, "mappings[0].roles: expected limit or size for tier B, found neither"),
        ({"roles": {"limit": "a b"}}, "mappings[0].roles.limit: expected text matching regex"),
        ({"roles": {"limit": {"metric": "a", "scale": 0}}}, "mappings[0].roles.limit.scale: expected a number > 0"),
        ({"traps": ["unheard-of"]}, "mappings[0].traps[0]: expected one of java_queue, "),
    ],
)
def test_what_is_wrong_with_one_is_said_by_key(changed: dict[str, Any], told: str) -> None:
    text = "mappings:\n" + "  - " + json.dumps({**OWN, **changed})
    with pytest.raises(ConfigError) as raised:
        config.parse(text, "own.yaml")
    assert told in str(raised.value)


def test_a_list_it_must_be() -> None:
    with pytest.raises(ConfigError, match=r"mappings: expected a list of mappings, found 'x'"):
        config.parse("mappings: x", "own.yaml")
    with pytest.raises(ConfigError, match=r"mappings\[0\]: expected keys with values, found 1"):
        config.parse("mappings: [1]", "own.yaml")
    assert config.parse("mappings:", "own.yaml").mappings == ()
