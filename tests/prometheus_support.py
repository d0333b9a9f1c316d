"""A real Prometheus server with the shipped configuration and rules, that scrapes what a test gives it."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from metrics_support import get

SHIPPED = Path(__file__).parents[1] / "config" / "prometheus" / "prometheus.yml"


def needed(program: str) -> str:
    """The path of a program of Prometheus. Without it these tests would prove nothing, so they fail."""
    path = shutil.which(program)
    if path is None:
        pytest.fail(
            f"no {program}: install Debian's package: apt-get install --no-install-recommends prometheus",
            pytrace=False,
        )
    return path


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


class Prometheus:
    """A real server on loopback that scrapes each port in `targets` (instance: port) at `interval`. Its data is in
    `folder`; the rules are the shipped ones."""

    def __init__(self, targets: Mapping[str, int], folder: Path, interval: str = "100ms", **job: Any) -> None:
        """`job`: more about the targets, as in the configuration."""
        config = yaml.safe_load(SHIPPED.read_text())
        config["scrape_configs"][0] |= job
        config["global"] |= {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": "1s"}
        config["rule_files"] = [str(SHIPPED.parent / name) for name in config["rule_files"]]
        config["scrape_configs"][0]["static_configs"] = [
            {"targets": [f"127.0.0.1:{port}"], "labels": {"instance": instance}} for instance, port in targets.items()
        ]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.url = f"http://127.0.0.1:{free_port()}"
        self.log = folder / "log"
        command = [needed("prometheus"), f"--config.file={folder / 'prometheus.yml'}"]
        command += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address={self.url[7:]}"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()

    def ask(self, path: str, **query: str) -> Any:
        """The `data` of an answer of the HTTP API, None while there is none."""
        assert self.process.poll() is None, self.log.read_text()
        try:
            status, _, body = get(f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}")
        except OSError:  # not listening yet
            return None
        return json.loads(body)["data"] if status == 200 else None

    def values(self, query: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series that a query gives now."""
        answer = self.ask("query", query=query)
        return [(item["metric"], float(item["value"][1])) for item in answer["result"]] if answer else []


def until(condition: Callable[[], Any]) -> Any:
    """What the condition gives once it is true. The time limit of the test ends a wait in vain."""
    while not (value := condition()):
        time.sleep(0.05)
    return value


def targets(prometheus: Prometheus) -> list[dict[str, Any]]:
    """What is scraped, and how that goes."""
    asked = prometheus.ask("targets")
    found: list[dict[str, Any]] = asked["activeTargets"] if asked else []
    return found


def answered(prometheus: Prometheus, query: str) -> list[tuple[dict[str, str], float]]:
    """As `values`, once there are any: what one scrape brought need not be there for all queries at once."""
    found: list[tuple[dict[str, str], float]] = until(lambda: prometheus.values(query))
    return found
