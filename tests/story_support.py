"""Services of other runtimes that are told to be overloaded and calm again, scraped by us and by a real Prometheus."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from prometheus_support import Prometheus, free_port, until

from poolscope.config import mappings
from poolscope.config.settings import Settings
from poolscope.fleet.client import Access, Engine
from poolscope.fleet.judging import Range
from poolscope.fleet.layout import Clock
from poolscope.fleet.pages import Watch
from poolscope.fleet.survey import Surveyor
from poolscope.fleet.verdicts import Verdict

ROOT = Path(__file__).parents[1]
BUILT = ROOT / ".venvs"
NODE = ("node", f"{ROOT}/tests/services/node/story.js")
GO = (f"{BUILT}/go/story",)
PHP = (sys.executable, f"{ROOT}/tests/services/php/story.py")
#: Between two scrapes (s), and how many there are while all is calm, too much comes, and all is calm again.
INTERVAL = 0.5
CALM, OVERLOAD, AGAIN = 5, 12, 7

#: The pools of goroutines in story.go, as a user maps them.
WORKERS = mappings.read(
    {
        "name": "workers",
        "title": "pool of goroutines",
        "runtime": "Go",
        "source": "tests/services/go/story.go",
        "tier": "B",
        "identity": ["pool"],
        "roles": {
            "limit": "workers_limit",
            "active": "workers_active",
            "queued": "workers_queued",
            "done": "workers_done_total",
        },
    }
)


class Story(NamedTuple):
    """A program with one thing that goes wrong in it, which its first argument says."""

    name: str
    runtime: str
    command: Sequence[str]
    #: What that is.
    built_in: str
    #: Each scrape takes its values away, so whoever scrapes needs a process of its own.
    taken: bool = False


STORIES = (
    Story("overlap", "Node.js", NODE, "nothing: three at once overlap", taken=True),
    Story("blocked", "Node.js", NODE, "a call blocks the loop for 160 ms at a time", taken=True),
    Story("threads", "Node.js", NODE, "libuv's four threads wait for a pipe", taken=True),
    Story("database", "Go", GO, "goroutines share 2 connections of database/sql"),
    Story("waiting", "Go", GO, "4 goroutines that wait"),
    Story("computing", "Go", GO, "4 goroutines compute, GOMAXPROCS is 1"),
    Story("requests", "PHP-FPM", PHP, "3 workers, each request waits 20 ms"),
)


class Told(NamedTuple):
    """What is said of each pool of each story, by who was asked, and when they were overloaded and calm again."""

    verdicts: dict[str, dict[tuple[str, str], Verdict]]
    overload: dict[str, float]
    calm: float


def build() -> None:
    """Build what these services need, if it is not there; it is an error if that cannot be done."""
    made = subprocess.run([ROOT / ".ci" / "runtimes"], capture_output=True, text=True, timeout=110, check=False)
    assert made.returncode == 0, made.stderr


class Service:
    """A program that serves its metrics at a port, reads words from its standard input, and answers each with the
    time. Its last arguments are its name and the port."""

    def __init__(self, name: str, command: Sequence[str], **options: Any) -> None:
        self.name = name
        self.port = free_port()
        self.process: subprocess.Popen[str] = subprocess.Popen(
            [*command, name, str(self.port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options
        )

    def await_ready(self) -> None:
        assert int(self._line()) == self.port

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"{self.name} ended with {self.process.wait()}"
        return line

    def say(self, word: str) -> float:
        """When it did so (s since the epoch)."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return float(self._line())

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()
        self.process.kill()
        self.process.wait()


def play(folder: Path, stories: Sequence[Story] = STORIES) -> Told:
    """Drive the stories into saturation and back, all at once; `folder` is for the data of a Prometheus."""
    build()
    settings = Settings(mappings=(WORKERS,))
    environment = os.environ | {"NODE_PATH": f"{BUILT}/node/node_modules"}
    with ExitStack() as stack:
        ours: list[Service] = []
        theirs: list[Service] = []
        for story in stories:
            for scraped_by in ((ours,), (theirs,)) if story.taken else ((ours, theirs),):
                service = Service(story.name, story.command, env=environment)
                stack.callback(service.close)
                for each in scraped_by:
                    each.append(service)
        services = list({id(service): service for service in (*ours, *theirs)}.values())
        for service in services:
            service.await_ready()
        targets = {service.name: service.port for service in theirs}
        prometheus = Prometheus(targets, folder, f"{round(INTERVAL * 1000)}ms")
        stack.callback(prometheus.close)
        until(lambda: [value for _, value in prometheus.values("up")] == [1] * len(targets))

        watch = Watch([str(service.port) for service in ours], Access(), settings)
        begin = time.time()
        scrape(watch, CALM)
        overload = {service.name: service.say("overload") for service in services}
        scrape(watch, OVERLOAD)
        calm = max(service.say("calm") for service in services)
        scrape(watch, AGAIN)
        clock, end = Clock(begin), time.time()
        when = Range(begin, end, clock, CALM * INTERVAL)
        asked = Surveyor(Engine(prometheus.url), when, settings).run().verdicts
        names = {f"127.0.0.1:{service.port}/metrics": service.name for service in ours}
        return Told(
            {"observe": _by_pool(watch.judge(clock)[0], names), "fleet": _by_pool(asked, {})},
            overload,
            calm,
        )


def scrape(watch: Watch, times: int) -> None:
    """Scrape the pages so often; a page that answers late does not hold up the next time."""
    due = time.monotonic()
    for _ in range(times):
        watch.scrape(time.time())
        due += INTERVAL
        time.sleep(max(0.0, due - time.monotonic()))


def _by_pool(verdicts: Sequence[Verdict], names: Mapping[str, str]) -> dict[tuple[str, str], Verdict]:
    def story(verdict: Verdict) -> str:
        return names.get(verdict.key.target.instance, verdict.key.target.instance)

    return {(story(verdict), verdict.key.name): verdict for verdict in verdicts}
