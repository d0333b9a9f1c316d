"""Recording rules of Prometheus that give the pools of any runtime the same series, made of the mappings.

`active`, `limit` and `queued` are what `readings` makes of single samples, as far as PromQL can say it; the rules on
them ask for more than a verdict does, as they cannot look back at how a pool was before. Pure: no clock, no thread, no
I/O.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from poolscope.config.mappings import Mapping as PoolMapping
from poolscope.config.mappings import Source
from poolscope.fleet.readings import LARGE_POOL, SATURATED_SHARE, UNBOUNDED
from poolscope.fleet.samples import NAMESPACE

#: What tells pools apart, beside the labels of the rule.
BY = f"{NAMESPACE}, job, instance, pool"
ACTIVE, LIMIT, QUEUED = (f"pool:fleet_{role}:sum" for role in ("active", "limit", "queued"))
DONE = "pool:fleet_done:rate5m"
SATURATED = "pool:fleet_saturated:bool"
SERIAL = "pool:fleet_serial:bool"
#: Serial is what was saturated for so long, while so many tasks were done that chance is no reason (docs/fleet.md).
SERIAL_SECONDS = 1800
SERIAL_TASKS = 10_000
SERIAL_TIMES = 2
_RATE = "5m"
_HEAD = """\
# The pools of any runtime as the same series, one alert on them, and what the dashboard Fleet shows. Made of the
# mappings (`poolscope export rules`): change a mapping, not this file.
#
# pool:fleet_active:sum, pool:fleet_limit:sum, pool:fleet_queued:sum and pool:fleet_done:rate5m are there as far as a
# runtime shows them, with the labels namespace, job, instance, pool, mapping, runtime and kind. Metrics that have
# something before their names (a prefix of Micrometer, Dropwizard) are not among them; `poolscope fleet` finds them.
#
# pool:fleet_serial:bool and its alert need half an hour, and a counter of what is done: they say less than
# `poolscope fleet`, and say it later, so that chance is no reason for them. `keep_firing_for` needs Prometheus 2.42.
"""


def text(known: Iterable[PoolMapping]) -> str:
    """Return them as a file. An expression is one line, as a search finds it."""
    return _HEAD + yaml.safe_dump({"groups": groups(known)}, width=100_000, sort_keys=False)


def groups(known: Iterable[PoolMapping]) -> list[dict[str, Any]]:
    """Return a group for each mapping that has a limit or a queue, and the one of what is made of their series."""
    # What only ever has something before its names cannot be named here.
    mappings = [
        each
        for each in known
        if each.kind in ("workers", "connections") and each.tier != "none" and not each.anchor.metric.startswith("_")
    ]
    shared = Counter(
        metric
        for each in mappings
        for metric in {m for source in each.roles.sources().values() for m in source.metrics}
    )
    made = [
        {"name": f"poolscope.fleet.{each.name}", "rules": _normalised(each, shared)}
        for each in mappings
        if each.roles.sources().keys() & {"limit", "size", "queued", "waited"}
    ]
    compensating = "|".join(each.name for each in mappings if "compensates" in each.traps)
    return [*made, {"name": "poolscope.fleet", "rules": [*_derived(compensating), _alert()]}]


def _normalised(mapping: PoolMapping, shared: Mapping[str, int]) -> list[dict[str, Any]]:
    found = {
        ACTIVE: _gauge(mapping, "active") or _rate(mapping, "busy"),
        LIMIT: _limit(mapping),
        QUEUED: _queued(mapping),
        DONE: _rate(mapping, "done") or _rate(mapping, "waits"),
    }
    labels = {"mapping": mapping.name, "runtime": mapping.runtime, "kind": mapping.kind}
    anchor = _gauge(mapping, mapping.anchor_role)
    rules = []
    for record, expr in found.items():
        if expr is None:
            continue
        # Kinds share metrics: the threads of a ForkJoinPool have the name of those of a thread pool.
        if expr != anchor and anchor is not None and any(shared[name] > 1 for name in _names(mapping)):
            expr = f"{expr} and {anchor}"
        rules.append({"record": record, "expr": expr, "labels": dict(labels)})
    return rules


def _names(mapping: PoolMapping) -> list[str]:
    return [name for source in mapping.roles.sources().values() for name in source.metrics]


def _limit(mapping: PoolMapping) -> str | None:
    limit, size, core = (_gauge(mapping, role) for role in ("limit", "size", "core"))
    if "java_queue" in mapping.traps and size is not None and core is not None:
        # It is full when none of its workers is idle and no fewer than the core are there.
        return f"({size} >= {core} or {core})"
    if limit is not None and "zero_is_no_limit" in mapping.traps:
        return f"({limit} > 0)"
    return limit or size


def _queued(mapping: PoolMapping) -> str | None:
    queued = _gauge(mapping, "queued") or _rate(mapping, "waited")
    remaining = _gauge(mapping, "remaining")
    if queued is None or remaining is None or "java_queue" not in mapping.traps:
        return queued
    # That of a scheduler has unlimited room all the same: its tasks are not due.
    return f"({queued} unless ({queued} >= 1 and {remaining} == {UNBOUNDED:.0f}))"


def _gauge(mapping: PoolMapping, role: str) -> str | None:
    """Return the numbers of a role; below 0 stands for what is not there."""
    return _expr(mapping, role, "{} >= 0")


def _rate(mapping: PoolMapping, role: str) -> str | None:
    return _expr(mapping, role, f"rate({{}}[{_RATE}])")


def _expr(mapping: PoolMapping, role: str, of: str) -> str | None:
    source = mapping.roles.sources().get(role)
    if source is None:
        return None
    first = " or ".join(_summed(mapping, of.replace("{}", _selector(name, source.where))) for name in _versions(source))
    parts = [f"({first})" if source.also else first]
    parts += [f"+ {_summed(mapping, of.replace('{}', name))}" for name in source.plus]
    parts += [f"- {_summed(mapping, of.replace('{}', name))}" for name in source.minus]
    whole = " ".join(parts)
    whole = f"({whole})" if source.plus or source.minus else whole
    return whole if source.scale == 1.0 else f"({whole} * {source.scale:g})"


def _versions(source: Source) -> Sequence[str]:
    return source.metric, *source.also


def _selector(name: str, where: Mapping[str, str]) -> str:
    return f"{name}{{{', '.join(f'{label}={_quoted(value)}' for label, value in where.items())}}}" if where else name


def _summed(mapping: PoolMapping, expr: str) -> str:
    """Add up what is of one pool, named by the label `pool`."""
    if mapping.identity:
        named = f'label_join({expr}, "pool", ":", {", ".join(map(_quoted, mapping.identity))})'
    else:
        named = f'label_replace({expr}, "pool", {_quoted(mapping.pool or mapping.name)}, "", "")'
    return f"sum by ({BY}) ({named})"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _derived(compensating: str) -> list[dict[str, Any]]:
    """Return what is made of the normalised series. One worker of a large pool may be missing, as gauges are read one
    after another."""
    full = f"({ACTIVE} + ({LIMIT} >= bool {LARGE_POOL}) >= bool {LIMIT}) * ({LIMIT} > bool 0)"
    # Joins that wait are made up for by other workers.
    some = f'{{mapping=~"{compensating}"}}'
    backlog = f"({QUEUED}{some.replace('=~', '!~')} >= bool 1 or {QUEUED}{some} >= bool {LIMIT})"
    span = f"{SERIAL_SECONDS // 60}m"
    conditions = (
        f"(avg_over_time({SATURATED}[{span}]) >= bool {SATURATED_SHARE})",
        f"(1 + avg_over_time({QUEUED}[{span}]) / avg_over_time({ACTIVE}[{span}]) >= bool {SERIAL_TIMES})",
        # One kept ready for each worker is no backlog.
        f"(avg_over_time({QUEUED}[{span}]) > bool avg_over_time({LIMIT}[{span}]))",
        f"(avg_over_time({DONE}[{span}]) * {SERIAL_SECONDS} >= bool {SERIAL_TASKS})",
        f"({SATURATED} offset {span} >= bool 0)",
    )
    exprs = (
        (SATURATED, f"{full} * {backlog}"),
        (
            "pool:fleet_utilisation:ratio_avg5m",
            f"clamp_max(avg_over_time({ACTIVE}[5m]) / (avg_over_time({LIMIT}[5m]) > 0), 1)",
        ),
        ("pool:fleet_saturated:ratio_avg5m", f"avg_over_time({SATURATED}[5m])"),
        (
            "pool:fleet_amplification:ratio_avg5m",
            f"1 + avg_over_time({QUEUED}[5m]) / (avg_over_time({ACTIVE}[5m]) > 0)",
        ),
        # By Little's law.
        ("pool:fleet_wait_seconds:avg5m", f"avg_over_time({QUEUED}[5m]) / ({DONE} > 0)"),
        ("pool:fleet_run_seconds:avg5m", f"avg_over_time({ACTIVE}[5m]) / ({DONE} > 0)"),
        (SERIAL, " * ".join(conditions)),
    )
    return [{"record": record, "expr": expr} for record, expr in exprs]


def _alert() -> dict[str, Any]:
    return {
        "alert": "PoolscopeFleetSerial",
        "expr": f"{SERIAL} == 1",
        "for": "5m",
        "keep_firing_for": "10m",
        "labels": {"severity": "warning"},
        "annotations": {
            "summary": (
                "Pool '{{ $labels.pool }}' ({{ $labels.runtime }}) on {{ $labels.instance }} has been full for "
                f"{SERIAL_SECONDS // 60} minutes, and its tasks wait for longer than they run (cause: see the runbook)."
            ),
            "runbook_url": "docs/runbook.md#fleet",
        },
    }
