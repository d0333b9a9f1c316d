"""The stack to try: the script runs, and the compose file names what is there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from cli_support import environment
from metrics_support import get
from prometheus_support import free_port, needed, until

ROOT = Path(__file__).parents[2]
HOME = ROOT / "examples" / "monitoring"
COMPOSE = yaml.safe_load((HOME / "compose.yaml").read_text())
#: (path here, path in the container) of what each service mounts.
MOUNTS = {
    name: [tuple(volume.split(":")[:2]) for volume in service.get("volumes", ())]
    for name, service in COMPOSE["services"].items()
}


def asked(url: str, query: str) -> Any:
    """What Prometheus answers; nothing while it is not ready."""
    try:
        status, _, body = get(f"{url}/api/v1/query?query={query}")
    except OSError:
        return None
    return json.loads(body)["data"]["result"] if status == 200 else None


def test_the_script_shows_the_finding_through_prometheus() -> None:
    needed("prometheus")
    app, port = str(free_port()), str(free_port())
    url = f"http://127.0.0.1:{port}"
    changes = {"PYTHON": sys.executable, "APP_PORT": app, "PROMETHEUS_PORT": port, "SCRAPE_INTERVAL": "1s"}
    stack = subprocess.Popen(
        [str(HOME / "run"), "--gentle", "1", "--busy", "600"],
        env=environment(**changes),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert stack.stdout is not None
        assert stack.stdout.readline().split()[-1] == f"http://127.0.0.1:{app}/metrics"
        until(lambda: asked(url, "poolscope_finding%7Bpattern=%22async_then_serial%22%7D==1") or stack.poll())
        assert stack.poll() is None
        groups = json.loads(get(f"{url}/api/v1/rules")[2])["data"]["groups"]
        # Those of the pools of any runtime are one for each mapping.
        assert len([group for group in groups if not group["name"].startswith("poolscope.fleet")]) == 7
        assert [group["name"] for group in groups].count("poolscope.fleet") == 1
    finally:
        stack.send_signal(signal.SIGTERM)
        try:
            assert stack.wait(timeout=30) == 0
        finally:
            if stack.poll() is None:
                os.killpg(stack.pid, signal.SIGKILL)
            stack.communicate()
    # Both are gone: nothing listens any more.
    for path in (f"http://127.0.0.1:{app}/healthz", f"{url}/-/ready"):
        with pytest.raises(OSError, match="refused"):
            get(path)


def test_compose_mounts_what_is_there_to_where_it_is_looked_for() -> None:
    assert set(COMPOSE["services"]) == {"app", "prometheus", "grafana"}
    for name, mounts in MOUNTS.items():
        for here, _ in mounts:
            assert (HOME / here).resolve().exists(), (name, here)
    inside = {there for _, there in MOUNTS["prometheus"]}
    assert set(yaml.safe_load((HOME / "prometheus.yml").read_text())["rule_files"]) < inside
    (boards,) = (there for here, there in MOUNTS["grafana"] if here.endswith("/dashboards"))
    provider = ROOT / "dashboards" / "grafana" / "provisioning" / "dashboards" / "poolscope.yaml"
    assert yaml.safe_load(provider.read_text())["providers"][0]["options"]["path"] == boards
    home = COMPOSE["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home.startswith(boards + "/")
    assert (ROOT / "dashboards" / "grafana" / "dashboards" / Path(home).name).exists()


def test_the_image_of_the_program_copies_what_is_there() -> None:
    build = COMPOSE["services"]["app"]["build"]
    context = (HOME / build["context"]).resolve()
    lines = (context / build["dockerfile"]).read_text().splitlines()
    copied = {word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]}
    assert all((context / path).exists() for path in copied)
    # What the build of a wheel reads.
    assert {"pyproject.toml", "README.md", "src", "config", "examples", "dashboards", "docs"} <= copied


def test_the_addresses_agree() -> None:
    (job,) = yaml.safe_load((HOME / "prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["app:9464"]}]
    source = yaml.safe_load((HOME / "datasource.yaml").read_text())["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    checked = subprocess.run(
        [needed("promtool"), "check", "config", "--syntax-only", str(HOME / "prometheus.yml")],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert checked.returncode == 0, checked.stderr
