"""Metrics pages of any runtime, scraped by us: the same pools and rules without a Prometheus."""

from __future__ import annotations

import http.client
import re
import urllib.error
import urllib.parse
import urllib.request
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from poolscope import plain
from poolscope.config.mappings import Mapping as PoolMapping
from poolscope.config.settings import Settings
from poolscope.fleet import known
from poolscope.fleet.client import Access, EngineError, opener, why_not
from poolscope.fleet.judging import LEAST_SAMPLES, Instance, Range
from poolscope.fleet.samples import Assembly, PoolKey, Samples, Series, Target
from poolscope.fleet.verdicts import Verdict

#: No page of metrics is larger.
MOST_BYTES = 64 * 1024 * 1024
#: Pages that are scraped at a time.
CONCURRENCY = 8
#: So many samples of a series are kept at least.
KEPT = 2_000
#: The least time between two scrapes (s): each costs the process something.
LEAST_INTERVAL = 5.0
_NAME = re.compile(rb"[a-zA-Z_:][a-zA-Z0-9_:]*")

Moment = Callable[[float], str]


class Scraped(NamedTuple):
    """What came of a scrape: the samples of a page by labels, or why there are none."""

    values: Mapping[frozenset[tuple[str, str]], float]
    error: str = ""


class Watch:
    """Some pages, scraped again and again by one thread."""

    def __init__(self, urls: Sequence[str], access: Access, settings: Settings, *, timeout: float = 10.0) -> None:
        """`urls` are addresses of pages. Raises EngineError for one that is none."""
        self._pages = {url: _address(url) for url in dict.fromkeys(urls)}
        self._openers = {url: opener(address, access) for url, address in self._pages.items()}
        self._access, self._settings, self._timeout = access, settings, timeout
        self._known = known.together(settings.mappings, known.shipped())
        self._names = frozenset(metric for mapping in self._known for metric in _metrics(mapping))
        self._suffixes = tuple(metric for mapping in self._known if mapping.prefix for metric in _metrics(mapping))
        self._series: dict[str, dict[frozenset[tuple[str, str]], Series]] = defaultdict(dict)
        self._times: list[float] = []
        #: What went wrong last, of pages that do not answer.
        self.errors: dict[str, str] = {}
        self.scrapes = self.samples = 0

    @property
    def mappings(self) -> dict[str, PoolMapping]:
        """Return all mappings by name."""
        return {mapping.name: mapping for mapping in self._known}

    @property
    def interval(self) -> float | None:
        """Return the mean time between two scrapes; None before the second."""
        return (self._times[-1] - self._times[0]) / (len(self._times) - 1) if len(self._times) > 1 else None

    def scrape(self, now: float) -> None:
        """Scrape each page once. Raises EngineError if none of them has ever answered."""
        with ThreadPoolExecutor(min(CONCURRENCY, len(self._pages))) as workers:
            found = list(workers.map(self._scraped, self._pages))
        self._times = [*self._times[-2 * KEPT :], now]
        for url, scraped in zip(self._pages, found, strict=True):
            self.scrapes += 1
            self.errors.pop(url, None)
            if scraped.error:
                self.errors[url] = scraped.error
            self._keep(url, now, scraped)
        if not any(self._series.values()) and self.errors:
            raise EngineError(next(iter(self.errors.values())))

    def _keep(self, url: str, now: float, scraped: Scraped) -> None:
        instance = self._pages[url].partition("://")[2]
        series = self._series[url]
        for labels, value in scraped.values.items():
            one = series.get(labels)
            if one is None:
                whole = {"job": "observed", **dict(labels), "instance": instance}
                one = series[labels] = Series(whole, array("d"), array("d"))
            one.at.append(now)
            one.values.append(value)
            if len(one.at) > 2 * KEPT:
                del one.at[:KEPT], one.values[:KEPT]
            self.samples += 1

    def _scraped(self, url: str) -> Scraped:
        address = self._pages[url]
        request = urllib.request.Request(address, headers=self._access.headers)
        try:
            with self._openers[url].open(request, timeout=self._timeout) as answer:
                body: bytes = answer.read(MOST_BYTES + 1)
        except urllib.error.HTTPError as error:
            error.close()
            return Scraped({}, f"{address} answers with status {error.code}")
        except (OSError, http.client.HTTPException) as error:
            return Scraped({}, why_not(address, error, self._timeout))
        if len(body) > MOST_BYTES:
            return Scraped({}, f"{address} answers with more than {MOST_BYTES >> 20} MiB")
        try:
            return Scraped(dict(self._parsed(body)))
        except (ValueError, KeyError, IndexError) as error:
            begin = plain.one_line(body[:60].decode("utf-8", "replace").strip(), 60)
            reason = plain.one_line(str(error), 100)
            return Scraped({}, f"{address} is no page of metrics: it begins with {begin!r} ({reason})")

    def _parsed(self, body: bytes) -> Iterator[tuple[frozenset[tuple[str, str]], float]]:
        """Return the samples of metrics that mappings name; the others are not even read."""
        from prometheus_client.parser import text_string_to_metric_families

        lines = [line for line in body.splitlines() if self._is_wanted(line)]
        if not lines and body.lstrip()[:1] == b"<":
            raise ValueError("it looks like HTML")
        text = b"\n".join([*lines, b""]).decode("utf-8")
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                yield frozenset({"__name__": sample.name, **sample.labels}.items()), sample.value

    def _is_wanted(self, line: bytes) -> bool:
        found = _NAME.match(line)
        if found is None:
            return False
        name = found[0].decode()
        return name in self._names or name.endswith(self._suffixes)

    def judge(self, show: Moment, points: int = 0) -> tuple[list[Verdict], dict[str, int]]:
        """Return the verdicts so far, and how many pools of each mapping there are; findings keep so many points for
        a picture."""
        verdicts: list[Verdict] = []
        met: dict[str, int] = defaultdict(int)
        interval = self.interval or LEAST_INTERVAL
        least = (LEAST_SAMPLES - 1) * min(interval, LEAST_INTERVAL)
        when = Range(self._times[0], self._times[-1], show, least, points)
        for series in self._series.values():
            names = {each.labels["__name__"] for each in series.values()}
            assembly = Assembly(known.present(self._known, names))
            for each in series.values():
                assembly.add(each)
            by_target: dict[Target, list[tuple[PoolKey, Samples]]] = defaultdict(list)
            for key, samples in assembly.pools():
                by_target[key.target].append((key, samples))
                if self.mappings[key.mapping].kind != "process":
                    met[key.mapping] += 1
            for found in by_target.values():
                verdicts += Instance(found, self.mappings).judge(when, self._settings, {})
        return verdicts, dict(met)

    def notices(self) -> list[str]:
        """Return what scraping does to others, and pages that do not answer."""
        names = {each.labels["__name__"] for series in self._series.values() for each in series.values()}
        taken = sorted(
            mapping.title for mapping, _ in known.present(self._known, names) if "reset_by_scrape" in mapping.traps
        )
        missing = "each scrape resets its values, so what we scrape is missing in the Prometheus that scrapes it too"
        found = [f"{title}: {missing}" for title in taken]
        return [*found, *self.errors.values()]


def _metrics(mapping: PoolMapping) -> Iterator[str]:
    for source in mapping.roles.sources().values():
        yield from source.metrics


def _address(url: str) -> str:
    """Return the address of a page; without a path it is /metrics. Raises EngineError."""
    text = f"127.0.0.1:{url}" if url.isdigit() else url
    text = text if "://" in text else f"http://{text}"
    shown = plain.one_line(url, 200)
    try:
        parts = urllib.parse.urlsplit(text)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError as error:
        raise EngineError(f"{shown} is no address: {error}") from error
    if not fine or not url.isprintable():
        raise EngineError(f"{shown} is no address of a page: expected http://HOST:PORT/metrics, HOST:PORT or PORT")
    if parts.username is not None or parts.password is not None:
        raise EngineError("a login in the address is seen by every user of this machine: use --basic-auth-file")
    return urllib.parse.urlunsplit(parts._replace(path=parts.path if parts.path not in ("", "/") else "/metrics"))
