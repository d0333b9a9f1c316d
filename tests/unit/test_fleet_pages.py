"""Pages of other runtimes, scraped by us, with a clock of the test's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from fleet_support import BEGIN, THREAD_POOL, Scrape, played, rising

from poolscope.commands.observe import observe
from poolscope.config.settings import Settings
from poolscope.fleet.client import Access, EngineError
from poolscope.fleet.layout import Clock
from poolscope.fleet.pages import Watch

CLOCK = Clock(BEGIN, UTC)
#: In the middle of 5 minutes a pool of eight gets more than it bears.
FILLS = played(rising(3.5, 17, at=101, until=200), seconds=300, interval=5)


def text_of(scrape: Scrape) -> str:
    lines = ["# HELP other_metric is not read", "# TYPE other_metric gauge", 'other_metric{a="b"} nonsense']
    lines += [f'{name}{{name="db"}} {of(scrape)}' for name, of in THREAD_POOL.items()]
    return "\n".join(lines) + "\n"


class Time:
    """A clock that only goes on where somebody pauses."""

    def __init__(self) -> None:
        self.now = BEGIN

    def pause(self, seconds: float) -> None:
        self.now += seconds


@contextmanager
def page_that(shows: Callable[[], tuple[int, str]]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, text = shows()
            body = text.encode()
            self.send_response(status if self.path == "/metrics" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def observed(url: str, time: Time, seconds: float = 300.0) -> tuple[Watch, list[str]]:
    watch = Watch([url], Access(), Settings())
    told: list[str] = []
    observe(watch, seconds, 5.0, CLOCK, tell=told.append, now=lambda: time.now, pause=time.pause)
    return watch, told


def test_a_pool_that_fills_is_told_while_it_lasts() -> None:
    time = Time()
    with page_that(lambda: (200, text_of(FILLS[round(time.now - BEGIN) // 5]))) as url:
        watch, told = observed(url, time)
    assert told == [
        "1 of 1 instance of observed: 'db' async_then_serial, since 14:01:40 to 14:01:45",
    ]
    verdicts, met = watch.judge(CLOCK, 20)
    assert met == {"micrometer-thread-pool": 1}
    (verdict,) = verdicts
    assert max(point.queued for point in verdict.drawn) > 8
    assert (verdict.pattern, verdict.severity, verdict.lasting) == ("async_then_serial", "warning", False)
    assert (watch.scrapes, watch.interval) == (61, 5.0)


def test_a_page_that_does_not_answer_for_a_time_has_a_gap() -> None:
    time = Time()

    def shows() -> tuple[int, str]:
        at = round(time.now - BEGIN)
        return (500, "") if 150 < at < 190 else (200, text_of(FILLS[at // 5]))

    with page_that(shows) as url:
        watch, _ = observed(url, time)
    (verdict,), _ = watch.judge(CLOCK)
    assert "It was not scraped from 14:02:30 to 14:03:10, while it was full." in verdict.summary
    assert watch.notices() == []


def test_a_page_that_is_none_is_one_line() -> None:
    for status, text, told in (
        (200, "<!DOCTYPE html>", "is no page of metrics: it begins with '<!DOCTYPE html>'"),
        (404, "", "answers with status 404"),
        (200, 'executor_active_threads{name="db"} many', "is no page of metrics"),
    ):
        with page_that(lambda answer=(status, text): answer) as url, pytest.raises(EngineError, match=told) as raised:  # type: ignore[misc]
            observed(url, Time())
        assert "\n" not in str(raised.value)


def test_a_page_without_pools_is_not_judged() -> None:
    with page_that(lambda: (200, "up 1\n")) as url:
        watch, told = observed(url, Time(), 20.0)
    assert (watch.judge(CLOCK), told) == (([], {}), [])


def test_that_scraping_takes_values_away_is_said_first() -> None:
    with page_that(lambda: (200, "nodejs_eventloop_lag_max_seconds 0.011\n")) as url:
        _, told = observed(url, Time(), 20.0)
    assert told == [
        "Node.js event loop (prom-client): each scrape resets its values, so what we scrape is missing in the "
        "Prometheus that scrapes it too"
    ]


@pytest.mark.parametrize("url", ["ftp://a", "http://me:pw@a", "a b:1/\n", "http://a:99999"])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(EngineError) as raised:
        Watch([url], Access(), Settings())
    assert "\n" not in str(raised.value)
    assert "pw" not in str(raised.value)


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("poolscope.fleet.pages.KEPT", 10)
    time = Time()
    with page_that(lambda: (200, text_of(FILLS[round(time.now - BEGIN) // 5]))) as url:
        watch, _ = observed(url, time)
    assert {len(each.at) for series in watch._series.values() for each in series.values()} <= set(range(10, 21))
