"""A client of Prometheus's HTTP API, which asks for a bounded amount at a time and says in one line what goes wrong."""

from __future__ import annotations

import base64
import contextlib
import http.client
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from array import array
from collections.abc import Callable, Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn

import msgspec

from poolscope import plain
from poolscope.endpoint.secret_files import SecretFile
from poolscope.errors import PoolscopeError
from poolscope.fleet.samples import Numbers, Series

#: An answer larger than this is none that was asked for.
MOST_BYTES = 512 * 1024 * 1024
#: Answers of an engine, or of a proxy before it, after which asking again may help.
_PASSING = frozenset({429, 500, 502, 503, 504})
#: So much of an answer that is none is shown.
_SHOWN = 60


class EngineError(PoolscopeError):
    """An engine that cannot be asked, or does not answer."""


class Refused(EngineError):
    """A query that the engine understands and does not answer: it would load too much, or take too long."""


class Access(msgspec.Struct, frozen=True):
    """How to get in: headers, and the file of a certificate authority (None: those of the system)."""

    headers: dict[str, str] = {}
    ca: str | None = None


class _Answer(msgspec.Struct):
    status: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")
    error: str = ""
    warnings: tuple[str, ...] = ()


class _Item(msgspec.Struct):
    metric: dict[str, str]
    values: msgspec.Raw = msgspec.Raw(b"[]")
    value: tuple[float, str] | None = None


class _Result(msgspec.Struct):
    result: tuple[_Item, ...] = ()


class Load(msgspec.Struct):
    """What was asked of the engine so far."""

    requests: int = 0
    samples: int = 0
    bytes: int = 0


class Engine:
    """An engine at a URL. Thread-safe: requests share nothing but their counts, which a lock guards."""

    def __init__(
        self,
        url: str,
        access: Access = Access(),  # noqa: B008  # frozen
        *,
        timeout: float = 60.0,
        retries: int = 3,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.time,
    ) -> None:
        """`url` is where the engine is, with the prefix before `/api/v1`. Raises EngineError for one that is none."""
        self.url = checked(url)
        self.load = Load()
        self.warnings: dict[str, None] = {}
        #: By how much its clock is ahead of ours (s), as far as its answers tell.
        self.ahead = 0.0
        self._access, self._timeout, self._retries, self._sleep, self._now = access, timeout, retries, sleep, now
        self._lock = threading.Lock()
        self._opener = opener(self.url, access)

    def names(self, begin: float, end: float, match: str | None) -> list[str]:
        """Return the names of all metrics that there were. Raises EngineError."""
        query = {"start": _time(begin), "end": _time(end)} | ({"match[]": match} if match else {})
        found: list[str] = self._decoded("label/__name__/values", query, list[str])
        return found

    def series(self, selector: str, begin: float, end: float) -> list[dict[str, str]]:
        """Return the labels of each series. Raises EngineError."""
        query = {"match[]": selector, "start": _time(begin), "end": _time(end)}
        found: list[dict[str, str]] = self._decoded("series", query, list[dict[str, str]])
        return found

    def instant(self, query: str, at: float) -> Iterator[tuple[dict[str, str], float]]:
        """Return labels and value of each series that a query gives at a moment. Raises EngineError."""
        for item in self._decoded("query", {"query": query, "time": _time(at)}, _Result).result:
            if item.value is not None:
                yield item.metric, float(item.value[1])

    def raw(self, selector: str, begin: float, end: float) -> Iterator[Series]:
        """Return the samples of each series as they were scraped, those at `begin` left out. Raises EngineError."""
        seconds = max(1, round(end - begin))
        query = {"query": f"{selector}[{seconds}s]", "time": _time(end)}
        return self._matrix("query", query)

    def stepped(self, query: str, begin: float, end: float, step: float) -> Iterator[Series]:
        """Return what a query gives at each step. Raises EngineError."""
        asked = {"query": query, "start": _time(begin), "end": _time(end), "step": f"{step:g}"}
        return self._matrix("query_range", asked)

    def _matrix(self, path: str, query: Mapping[str, str]) -> Iterator[Series]:
        for item in self._decoded(path, query, _Result).result:
            at, values = _numbers(item.values)
            with self._lock:
                self.load.samples += len(at)
            yield Series(item.metric, at, values)

    def _decoded(self, path: str, query: Mapping[str, str], kind: Any) -> Any:
        """Ask, again where that may help, and return what was answered as that kind."""
        for attempt in range(self._retries + 1):
            try:
                return self._once(path, query, kind)
            except _Passing as error:
                if attempt == self._retries:
                    raise EngineError(str(error)) from error
                self._sleep(min(10.0, 0.5 * 2**attempt))
        raise AssertionError("the last attempt returns or raises")

    def _once(self, path: str, query: Mapping[str, str], kind: Any) -> Any:
        body = self._asked(path, query)
        try:
            answer = msgspec.json.decode(body, type=_Answer)
            if answer.status == "success":
                self._note(answer.warnings)
                return msgspec.json.decode(answer.data, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._no_json(body, error) from error
        if answer.status == "error":
            raise Refused(f"{self.url} refuses a query: {plain.one_line(answer.error, 300)}")
        raise self._no_json(body, None)

    def _note(self, warnings: tuple[str, ...]) -> None:
        with self._lock:
            self.warnings.update(dict.fromkeys(warnings))

    def _asked(self, path: str, query: Mapping[str, str]) -> bytes:
        encoded = urllib.parse.urlencode(query)
        url = f"{self.url}/api/v1/{path}"
        # What has many names does not fit into a URL; the values of a label are had by GET only, from older engines.
        data = encoded.encode() if path in ("query", "query_range", "series") else None
        request = urllib.request.Request(url if data else f"{url}?{encoded}", data, self._access.headers)
        with self._lock:
            self.load.requests += 1
        try:
            with self._opener.open(request, timeout=self._timeout) as answer:
                self._compare(answer.headers.get("Date", ""))
                body: bytes = answer.read(MOST_BYTES + 1)
        except urllib.error.HTTPError as error:
            with error:
                self._fail_of_status(error)
        except (OSError, http.client.HTTPException) as error:
            raise _Passing(why_not(self.url, error, self._timeout)) from error
        if len(body) > MOST_BYTES:
            raise Refused(f"{self.url} answers with more than {MOST_BYTES >> 20} MiB: narrow it with --match or --last")
        with self._lock:
            self.load.bytes += len(body)
        return body

    def _compare(self, date: str) -> None:
        """Take note of the engine's clock, which a header shows by the second."""
        with contextlib.suppress(ValueError, OverflowError):
            self.ahead = parsedate_to_datetime(date).timestamp() - self._now()

    def _fail_of_status(self, error: urllib.error.HTTPError) -> NoReturn:
        status = error.code
        try:
            body = error.read(65536)
        except (OSError, http.client.HTTPException):
            body = b""
        if status in (401, 403):
            way = "" if self._access.headers else " (--bearer-token-file, --basic-auth-file or --header-file)"
            what = "wants a login" if status == 401 else "does not let this login in"
            raise EngineError(f"{self.url} {what}: status {status}{way}") from error
        if 300 <= status < 400:
            to = plain.one_line(error.headers.get("Location", "nowhere"), 200)
            raise EngineError(f"{self.url} redirects to {to}: name that address if you trust it") from error
        try:
            answer = msgspec.json.decode(body, type=_Answer)
        except msgspec.DecodeError:
            answer = _Answer()
        if answer.status == "error" and status not in _PASSING:
            raise Refused(f"{self.url} refuses a query: {plain.one_line(answer.error, 300)}") from error
        told = f": {plain.one_line(answer.error, 200)}" if answer.error else ""
        if status in _PASSING:
            raise _Passing(f"{self.url} answers with status {status}{told}") from error
        raise EngineError(
            f"{self.url} answers with status {status}{told}: does its address need a prefix, such as /prometheus?"
        ) from error

    def _no_json(self, body: bytes, error: Exception | None) -> EngineError:
        begin = plain.one_line(body[:_SHOWN].decode("utf-8", "replace").strip(), _SHOWN)
        if body.lstrip()[:1] == b"{" and error is not None and "truncated" in str(error):
            return _Passing(f"{self.url} answers with half of its JSON")
        return EngineError(
            f"{self.url} does not answer as Prometheus's API does, but with {begin!r}: does its address need a prefix, "
            "such as /prometheus?"
        )


def opener(url: str, access: Access) -> urllib.request.OpenerDirector:
    """Return what opens an address and follows no redirect. Raises EngineError for a bad certificate authority."""
    handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
    if url.startswith("https:"):
        handlers.append(urllib.request.HTTPSHandler(context=_context(access.ca)))
    return urllib.request.build_opener(*handlers)


class _Passing(EngineError):
    """A failure that may be over at the next attempt."""


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Secrets are for the address that the user has named."""

    def redirect_request(self, *_: Any) -> None:
        """Refuse: the status becomes an error."""


def why_not(url: str, error: Exception, timeout: float) -> str:
    """Return in one line why an address did not answer."""
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, TimeoutError):
        return f"{url} does not answer within {timeout:g} s: raise --timeout, or ask for less"
    if isinstance(reason, ssl.SSLError):
        return f"{url}: its certificate is not trusted ({plain.one_line(str(reason), 200)}): name its --ca"
    text = (isinstance(reason, OSError) and reason.strerror) or str(reason) or type(reason).__name__
    return f"{url} cannot be reached: {plain.one_line(text, 200)}"


def checked(url: str) -> str:
    """Return the address of an engine without what follows its prefix. Raises EngineError for what is none."""
    shown = plain.one_line(url, 200)
    text = url if "://" in url else f"http://{url}"
    try:
        parts = urllib.parse.urlsplit(text)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError as error:
        raise EngineError(f"{shown} is no address: {error}") from error
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_fine or not url.isprintable():
        raise EngineError(f"{shown} is no address of an engine: expected http://HOST:PORT or https://HOST/PREFIX")
    if parts.username is not None or parts.password is not None:
        raise EngineError("a login in the address is seen by every user of this machine: use --basic-auth-file")
    if parts.query or parts.fragment:
        raise EngineError(f"{shown} has a query: expected the address and its prefix only")
    path = parts.path.rstrip("/").removesuffix("/api/v1").rstrip("/")
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def access(bearer: str | None, basic: str | None, headers: str | None, ca: str | None) -> Access:
    """Return how to get in, from files that only their owner may read. Raises PoolscopeError for what is no good."""
    found: dict[str, str] = {}
    if bearer is not None and basic is not None:
        raise EngineError("--bearer-token-file and --basic-auth-file are two logins: name one")
    if headers is not None:
        found |= SecretFile("--header-file", headers, _headers).current()
    if bearer is not None:
        found["Authorization"] = f"Bearer {SecretFile('--bearer-token-file', bearer, _line).current()}"
    if basic is not None:
        login = SecretFile("--basic-auth-file", basic, _login).current()
        found["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    return Access(found, ca)


def _line(text: str) -> str:
    line = text.strip()
    if not line or not line.isprintable() or not line.isascii():
        raise ValueError("expected one line of text")
    return line


def _login(text: str) -> str:
    line = text.strip("\r\n")
    if ":" not in line or not line.isprintable():
        raise ValueError("expected one line, USER:PASSWORD")
    return line


def _headers(text: str) -> dict[str, str]:
    found = {}
    for at, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, value = line.partition(":")
        if not colon or not name.strip().replace("-", "").isalnum() or not value.strip().isprintable():
            raise ValueError(f"line {at}: expected NAME: VALUE")
        found[name.strip()] = value.strip()
    return found


def _context(ca: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:  # ssl's own is one
        why = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise EngineError(f"--ca: {plain.one_line(ca or '', 200)} cannot be used: {why}") from error


def _time(at: float) -> str:
    return f"{at:.3f}"


_BRACKETS = b'[]"'


def _numbers(raw: msgspec.Raw) -> tuple[Numbers[float], Numbers[float]]:
    """Return times and values of `[[1700000000.5, "1"], ...]`.

    Decoding them as pairs makes four objects of each sample: as one list of numbers it takes a quarter of the time.
    """
    text = bytes(raw).translate(None, _BRACKETS)
    try:
        flat = msgspec.json.decode(b"[" + text + b"]", type=list[float])
    except msgspec.DecodeError:  # NaN and Inf are no JSON
        flat = list(map(float, text.split(b",")))
    return array("d", flat[0::2]), array("d", flat[1::2])
