"""What each key of the settings may hold: checked, said in English, and said in JSON Schema, side by side.

By name of the key: a key means the same in each section that has it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

MAX_BUCKETS = 200
MAX_SECONDS = 1e6
MAX_COUNT = 10**9
MAX_MAPPINGS = 200

_LISTEN = re.compile(r"(?:(?P<host>[0-9A-Za-z_.-]*|\[[0-9A-Za-z:.%_-]+\]):)?(?P<port>[0-9]{1,5})", re.ASCII)
_PORT_IN_SCHEMA = "(6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[0-5]?[0-9]{1,4})"
_LISTEN_IN_SCHEMA = rf"^(([0-9A-Za-z_.-]*|\[[0-9A-Za-z:.%_-]+\]):)?{_PORT_IN_SCHEMA}$"


class Expect(NamedTuple):
    """One key."""

    text: str
    """Completes "expected ..."."""
    accepts: Callable[[Any], bool]
    schema: dict[str, Any]
    """The same for an editor, as far as JSON Schema can say it."""
    about: str
    """What the key does, in one line."""
    optional: bool = False
    """Whether null is a value too."""


def listen_address(text: str) -> tuple[str, int] | None:
    """(host, port) of "HOST:PORT", ":PORT" or "PORT"; loopback without a host; None for anything else."""
    found = _LISTEN.fullmatch(text)
    if found is None or int(found["port"]) > 65535:
        return None
    return (found["host"] or "127.0.0.1").strip("[]"), int(found["port"])


def is_number(value: object) -> bool:
    """Whether YAML means a number by it."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _text(value: Any) -> bool:
    return isinstance(value, str) and value != "" and "\0" not in value


def _pattern(value: Any) -> bool:
    if not _text(value):
        return False
    try:
        fnmatchcase("", value)
    except re.error:
        return False
    return True


def _seconds(about: str) -> Expect:
    return Expect(
        f"a number of seconds from 0.001 to {MAX_SECONDS:.0f}",
        lambda value: is_number(value) and 0.001 <= value <= MAX_SECONDS,  # false for NaN
        {"type": "number", "minimum": 0.001, "maximum": MAX_SECONDS},
        about,
    )


def _whole(low: int, about: str, *, optional: bool = False) -> Expect:
    return Expect(
        f"a whole number from {low} to {MAX_COUNT}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= MAX_COUNT,
        {"type": "integer", "minimum": low, "maximum": MAX_COUNT},
        about,
        optional,
    )


def _flag(about: str) -> Expect:
    return Expect("true or false", lambda value: isinstance(value, bool), {"type": "boolean"}, about)


def _path(about: str) -> Expect:
    return Expect("the path of a file, or null", _text, {"type": "string", "minLength": 1}, about, True)


EXPECTED: dict[str, Expect] = {
    "limits": _flag("False: semaphores, locks and queues are not watched."),
    "connections": _flag("False: clients' pools of connections are not watched."),
    "listen": Expect(
        'HOST:PORT or PORT, such as "127.0.0.1:9464" (an IPv6 address in brackets)',
        lambda value: isinstance(value, str) and listen_address(value) is not None,
        {
            "anyOf": [
                {"type": "string", "pattern": _LISTEN_IN_SCHEMA},
                {"type": "integer", "minimum": 0, "maximum": 65535},
            ]
        },
        'Where Prometheus finds the metrics: "HOST:PORT", or "PORT" for loopback. Null: no endpoint.',
        True,
    ),
    "insecure": _flag("True: serve beyond loopback without TLS and authentication."),
    "certificate": _path("PEM file of the certificate and its chain."),
    "key": _path("PEM file of the private key. Null: it is in the certificate's file."),
    "bearer_token_file": _path("File with the bearer token; several, one a line, while one takes over from another."),
    "basic_auth_file": _path("File of users, a line each, as python -m poolscope.endpoint.passwords USER prints it."),
    "per_process": _flag("True: each series has a label pid. False: the series of several processes add up."),
    "sample_interval": _seconds("Seconds between two looks of the background thread. No task is missed in between."),
    "keep_tasks": _whole(0, "Tasks remembered per pool for the sizing advice. 0: none, and no advice."),
    "match": Expect(
        "a shell pattern of pool names",
        _pattern,
        {"type": "string", "minLength": 1},
        "Shell pattern on the pool's name. The first rule that matches wins.",
    ),
    "kind": Expect(
        "a kind of pool as the report names it, such as thread or process, or null",
        _text,
        {"type": "string", "minLength": 1},
        "Only pools of this kind.",
        True,
    ),
    "name": Expect("a name, or null", _text, {"type": "string", "minLength": 1}, "Show it under this name.", True),
    "max_workers": _whole(1, "Another size, without touching the code.", optional=True),
    "ignore": _flag("True: not watched at all."),
    "ordered": _flag("True: one at a time on purpose, no single_worker and no not_concurrent; of a loop, too."),
    "intended": _flag("True: a limit on purpose, its findings are notes."),
    "long_running": _flag("True: consumers that hold their workers, no stuck_workers or stalled."),
    "sustain_seconds": _seconds("Seconds that a pool must be saturated before it is called serial."),
    "min_amplification": Expect(
        "a number from 1 to 1000000",
        lambda value: is_number(value) and 1 <= value <= 1e6,
        {"type": "number", "minimum": 1, "maximum": 1e6},
        "(wait + run) / run, of medians, from which the waiting is called trouble.",
    ),
    "stall_seconds": _seconds("Seconds without any finished task while saturated: stalled."),
    "stuck_task_seconds": _seconds("Seconds in one task, and ten times its usual longest run: stuck."),
    "loop_blocked_seconds": _seconds("Seconds that one callback may hold an event loop."),
    "functions": _flag("One pair of counters per submitted function."),
    "max_functions": _whole(1, "The label task is bounded to so many of the busiest functions of each pool."),
}

#: Lists of upper bounds: what a bound may be, and how many.
BUCKETS: dict[str, str] = {
    "wait_buckets": "Upper bounds in seconds, strictly increasing; +Inf is added. Loop lag uses them too.",
    "run_buckets": "Upper bounds in seconds, strictly increasing; +Inf is added.",
}

MAPPINGS = "Metrics of other runtimes for `poolscope fleet` and `observe`; one takes the place of ours of its name."

BUCKETS_SCHEMA: dict[str, Any] = {
    "type": "array",
    "minItems": 1,
    "maxItems": MAX_BUCKETS,
    "uniqueItems": True,
    "items": {"type": "number", "exclusiveMinimum": 0, "maximum": MAX_SECONDS},
}
