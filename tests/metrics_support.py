"""Snapshots by hand, and what an endpoint says about them, read back by Prometheus' own parsers."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from collections.abc import Mapping
from email.message import Message
from typing import Any

from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families as text_families

from poolscope.snapshot import FindingCount, LoopSnapshot, PoolSnapshot, Snapshot

#: Two bounds, so three buckets.
BOUNDS = [0.1, 1.0]


#: What docs/metrics.md promises: name -> type, labels beyond those of every sample of its kind.
CONTRACT = {
    "poolscope_build_info": ("info", {"version", "python"}),
    "poolscope_pool_info": ("info", {"pool", "kind", "executor"}),
    "poolscope_pool_max_workers": ("gauge", {"pool"}),
    "poolscope_pool_workers": ("gauge", {"pool"}),
    "poolscope_pool_active_workers": ("gauge", {"pool"}),
    "poolscope_pool_queue_depth": ("gauge", {"pool"}),
    "poolscope_pool_oldest_queued_seconds": ("gauge", {"pool"}),
    "poolscope_pool_longest_running_seconds": ("gauge", {"pool"}),
    "poolscope_pool_tasks_submitted_total": ("counter", {"pool"}),
    "poolscope_pool_tasks_rejected_total": ("counter", {"pool"}),
    "poolscope_pool_tasks_finished_total": ("counter", {"pool", "outcome"}),
    "poolscope_pool_busy_seconds_total": ("counter", {"pool"}),
    "poolscope_pool_queued_seconds_total": ("counter", {"pool"}),
    "poolscope_pool_saturated_seconds_total": ("counter", {"pool"}),
    "poolscope_pool_occupied_seconds_total": ("counter", {"pool"}),
    "poolscope_pool_cpu_seconds_total": ("counter", {"pool"}),
    "poolscope_task_wait_seconds": ("histogram", {"pool"}),
    "poolscope_task_run_seconds": ("histogram", {"pool"}),
    "poolscope_function_started_total": ("counter", {"pool", "task"}),
    "poolscope_function_busy_seconds_total": ("counter", {"pool", "task"}),
    "poolscope_pool_suggested_max_workers": ("gauge", {"pool"}),
    "poolscope_finding": ("gauge", {"kind", "name", "pattern", "cause", "severity"}),
    "poolscope_findings_total": ("counter", {"kind", "name", "pattern", "cause", "severity"}),
    "poolscope_loop_lag_seconds": ("histogram", {"loop"}),
    "poolscope_loop_blocked_seconds_total": ("counter", {"loop"}),
    "poolscope_loop_busy_seconds_total": ("counter", {"loop"}),
    "poolscope_loop_tasks": ("gauge", {"loop"}),
    "poolscope_overhead_cpu_seconds_total": ("counter", set()),
    "poolscope_errors_total": ("counter", {"part"}),
}


def pool(name: str = "pool", **values: Any) -> PoolSnapshot:
    """A living pool of which everything not given is zero."""
    fields: dict[str, Any] = dict.fromkeys(PoolSnapshot.__struct_fields__, 0)
    fields |= {
        "name": name,
        "kind": "thread",
        "executor": "concurrent.futures.thread.ThreadPoolExecutor",
        "pid": 100,
        "alive": True,
        "max_workers": 4,
        "wait_buckets": (0, 0, 0),
        "run_buckets": (0, 0, 0),
        "functions": (),
        "former_functions": (),
        "suggested_max_workers": None,
    }
    return PoolSnapshot(**(fields | values))


def loop(name: str = "loop", **values: Any) -> LoopSnapshot:
    fields: dict[str, Any] = {"kind": "asyncio", "pid": 100, "alive": True, "lag_buckets": (0, 0, 0)}
    fields |= {"lag_sum_seconds": 0.0, "blocked_seconds": 0.0, "tasks": 0}
    return LoopSnapshot(name=name, **(fields | values))


def finding(name: str = "pool", **values: Any) -> FindingCount:
    fields: dict[str, Any] = {
        "kind": "pool",
        "pid": 100,
        "pattern": "async_then_serial",
        "cause": "blocking_io",
        "severity": "warning",
        "active": True,
        "total": 1,
    }
    return FindingCount(name=name, **(fields | values))


def snapshot(*rows: PoolSnapshot | LoopSnapshot | FindingCount, errors: Mapping[str, int] | None = None) -> Snapshot:
    return Snapshot(
        python="3.13.0",
        pools=tuple(row for row in rows if isinstance(row, PoolSnapshot)),
        loops=tuple(row for row in rows if isinstance(row, LoopSnapshot)),
        findings=tuple(row for row in rows if isinstance(row, FindingCount)),
        overhead_cpu_seconds=0.25,
        errors=dict(errors or {}),
    )


class Scrape:
    """The samples of an exposition, by name and labels."""

    def __init__(self, text: str, *, openmetrics: bool = False) -> None:
        self.text = text
        parse = openmetrics_families if openmetrics else text_families
        self.families: dict[str, Metric] = {}
        self.samples: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        for family in parse(text):
            assert family.name not in self.families, f"{family.name} twice"
            self.families[family.name] = family
            for sample in family.samples:
                key = (sample.name, frozenset(sample.labels.items()))
                assert key not in self.samples, f"{key} twice"
                self.samples[key] = sample.value

    def value(self, name: str, /, **labels: str) -> float | None:
        """The value of one series, None if there is none."""
        return self.samples.get((name, frozenset(labels.items())))

    def series(self, name: str) -> dict[tuple[str, ...], float]:
        """Values by the label values, in the order of the labels' names."""
        found = {}
        for (sample, labels), value in self.samples.items():
            if sample == name:
                found[tuple(value for _, value in sorted(labels))] = value
        return found


def get(url: str, *, method: str = "GET", **headers: str) -> tuple[int, Message, bytes]:
    """Status, headers and body, also of an error. Redirects are followed."""
    request = urllib.request.Request(url, method=method, headers=headers)
    # No proxy of the environment: the endpoint is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


def converse(port: int, data: bytes) -> bytes:
    """What a raw client gets for what it sends, up to the end of the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(data)
        answer = b""
        while part := client.recv(65536):
            answer += part
        return answer
