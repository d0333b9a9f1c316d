"""An engine that is none: a server on loopback that answers as a test wants it."""

from __future__ import annotations

import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from poolscope.fleet.client import Engine
from poolscope.fleet.samples import Series


class Request(NamedTuple):
    path: str
    body: str
    headers: dict[str, str]


class Answer(NamedTuple):
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = {}
    #: Bytes that are promised and do not come.
    missing: int = 0


class Server(ThreadingHTTPServer):
    """One that says nothing of clients that go away."""

    def handle_error(self, *_: Any) -> None:
        pass


Script = Callable[[int, Request], Answer]


def json_of(data: Any, **more: Any) -> bytes:
    return json.dumps({"status": "success", "data": data, **more}).encode()


NAMES = json_of(["a", "b"])


@contextmanager
def engine_that(script: Script, **options: Any) -> Iterator[tuple[Engine, list[Request], list[float]]]:
    """A client of a server that answers the n-th request as the script says; what it was asked, and its pauses."""
    asked: list[Request] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            request = Request(
                self.path,
                self.rfile.read(length).decode(),
                {name.lower(): value for name, value in self.headers.items()},
            )
            asked.append(request)
            answer = script(len(asked), request)
            (self.send_response_only if "Date" in answer.headers else self.send_response)(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body) + answer.missing))
            self.end_headers()
            self.wfile.write(answer.body)

        do_POST = do_GET  # noqa: N815  # as the base class has it

        def log_message(self, *_: Any) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    slept: list[float] = []
    try:
        url = f"http://127.0.0.1:{server.server_port}{options.pop('prefix', '')}"
        yield Engine(url, sleep=slept.append, **options), asked, slept
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


#: What a query makes of the samples of each series; `raw` has none.
FUNCTIONS: dict[str, Callable[[Sequence[float]], float]] = {
    "count_over_time": len,
    "max_over_time": max,
    "min_over_time": min,
    "increase": lambda values: values[-1] - values[0],
}


def having(found: Sequence[Series], *, many: int | None = None) -> Script:
    """The script of an engine that has these series, and says that there are so `many` when it is asked for their
    number. Of a selector it reads the names of metrics."""

    def script(_n: int, request: Request) -> Answer:
        if "/label/" in request.path:
            return Answer(200, json_of(sorted({each.labels["__name__"] for each in found})))
        query = urllib.parse.parse_qs(request.body)["query"][0]
        names = re.compile(re.search(r'__name__=~"([^"]*)"', query)[1])  # type: ignore[index]
        wanted = [each for each in found if names.fullmatch(each.labels["__name__"])]
        if query.startswith("count({"):
            counted = len(wanted) if many is None else many
            return Answer(200, json_of({"result": [{"metric": {}, "value": [0, str(counted)]}] if counted else []}))
        function = FUNCTIONS.get(query.partition("(")[0])
        result: list[dict[str, Any]] = []
        for each in wanted:
            values = [value for value in each.values if value == value]
            if function is None:
                samples = [[at, str(value)] for at, value in zip(each.at, each.values, strict=True)]
                result.append({"metric": each.labels, "values": samples})
            elif values:
                result.append({"metric": each.labels, "value": [0, str(function(values))]})
        return Answer(200, json_of({"result": result}))

    return script
