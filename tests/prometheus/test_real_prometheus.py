"""What Prometheus itself makes of the endpoint: promtool's rules, and a real server that scrapes it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from endpoint_support import PASSWORD, certificate, protected, secret
from metrics_support import CONTRACT, Scrape, finding, get, loop, pool, snapshot
from prometheus_support import SHIPPED, Prometheus, answered, needed, targets, until

from poolscope.config import from_mapping
from poolscope.endpoint.passwords import make
from poolscope.metrics.families import serve_snapshots
from poolscope.snapshot import Snapshot

HOSTILE = 'quo"te\nline\\slash\0 größe ☃' + "x" * 150
#: Too long for a label: cut.
ENDLESS = "endless" + "ß\n" * 5_000
SETTINGS = from_mapping({"listen": "127.0.0.1:0", "metrics": {"wait_buckets": [0.1, 1], "run_buckets": [0.1, 1]}})


def everything(queue_depth: int = 7) -> Snapshot:
    return snapshot(
        pool(
            "db",
            queue_depth=queue_depth,
            submitted=10,
            wait_buckets=(1, 2, 3),
            wait_sum_seconds=4.5,
            functions=(("app.load", 3, 1.5),),
            suggested_max_workers=9,
        ),
        pool(HOSTILE, queue_depth=3, functions=((HOSTILE, 1, 1.0),)),
        pool(ENDLESS + "\udcff", alive=False, functions=((ENDLESS, 1, 1.0),)),
        loop("main", tasks=2, lag_buckets=(1, 0, 0), lag_sum_seconds=0.01),
        finding("db"),
        errors={"stacks": 1},
    )


@pytest.mark.parametrize("per_process", [False, True])
def test_promtool_finds_nothing_to_say(per_process: bool) -> None:
    promtool = needed("promtool")
    settings = msgspec.structs.replace(SETTINGS, per_process=per_process)
    with serve_snapshots(everything, settings) as server:
        _, _, body = get(f"{server.url}/metrics")
    checked = subprocess.run([promtool, "check", "metrics"], input=body, capture_output=True, timeout=60, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
    families = Scrape(body.decode()).families.values()
    assert {family.name + "_total" if family.type == "counter" else family.name for family in families} == set(CONTRACT)
    assert all(family.samples for family in families)


def test_the_shipped_configuration_is_valid() -> None:
    promtool = needed("promtool")
    checked = subprocess.run([promtool, "check", "config", str(SHIPPED)], capture_output=True, timeout=60, check=False)
    assert checked.returncode == 0, checked.stderr.decode()


@pytest.fixture
def depth() -> list[int]:
    """The queue depth that the endpoint shows: one number, to be changed."""
    return [7]


@pytest.fixture
def prometheus(tmp_path: Path, depth: list[int]) -> Iterator[Prometheus]:
    with serve_snapshots(lambda: everything(depth[0]), SETTINGS) as server:
        running = Prometheus({"here": server.port}, tmp_path)
        try:
            yield running
        finally:
            running.close()


def test_a_real_prometheus_scrapes_and_answers(prometheus: Prometheus, depth: list[int]) -> None:
    until(lambda: prometheus.values('up{job="poolscope"} == 1'))
    # A scrape that ran into its time limit on a busy machine is not the one looked for.
    until(lambda: [(it["health"], it["lastError"]) for it in targets(prometheus)] == [("up", "")])
    shown = {"db": 7, HOSTILE: 3}
    until(lambda: {of["pool"]: depth for of, depth in prometheus.values("poolscope_pool_queue_depth")} == shown)
    started = answered(prometheus, "poolscope_function_started_total")
    tasks = {labels["task"] for labels, _ in started}
    assert len(tasks) == 3
    assert {"app.load", HOSTILE} < tasks
    ((_, quantile),) = answered(prometheus, 'histogram_quantile(0.25, poolscope_task_wait_seconds_bucket{pool="db"})')
    assert 0.1 < quantile <= 1
    ((labels, value),) = answered(prometheus, "poolscope_finding")
    assert (labels["pattern"], labels["cause"], value) == ("async_then_serial", "blocking_io", 1)
    known = until(lambda: prometheus.ask("metadata"))
    assert known["poolscope_pool_queue_depth"][0]["type"] == "gauge"
    assert known["poolscope_task_wait_seconds"][0]["type"] == "histogram"
    depth[0] = 1234
    until(lambda: prometheus.values('poolscope_pool_queue_depth{pool="db"} == 1234'))


def test_a_real_prometheus_with_a_password_over_tls(tmp_path: Path) -> None:
    """As docs/endpoint.md says it: the certificate is known, the password in a file."""
    crt, key = certificate(tmp_path)
    users = secret(tmp_path, "users", f"prometheus:{make(PASSWORD).text()}\n")
    job = {
        "scheme": "https",
        "tls_config": {"ca_file": crt},
        "basic_auth": {"username": "prometheus", "password_file": secret(tmp_path, "password", PASSWORD)},
    }
    settings = protected(tls={"certificate": crt, "key": key}, basic_auth_file=users)
    with serve_snapshots(everything, settings) as server:
        running = Prometheus({"here": server.port}, tmp_path, **job)
        try:
            until(lambda: running.values('poolscope_pool_queue_depth{pool="db"} == 7'))
        finally:
            running.close()
