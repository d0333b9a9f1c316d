"""The client of an engine, against one that fails in every way that is known of engines and what stands before them."""

from __future__ import annotations

import base64
import json
import math
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from endpoint_support import certificate, secret
from fleet_engine_support import NAMES, Answer, Request, Script, Server, engine_that, json_of

from poolscope.errors import ListenError
from poolscope.fleet.client import Access, Engine, EngineError, Refused, access, checked


def error_of(script: Script, **options: Any) -> str:
    """The one line that an engine gets for its first answer."""
    with engine_that(script, **options) as (engine, _, _), pytest.raises(EngineError) as raised:
        engine.names(0, 1, None)
    text = str(raised.value)
    assert "\n" not in text
    return text


def always(*answer: Any, **more: Any) -> Script:
    return lambda _n, _request: Answer(*answer, **more)


def test_it_asks_below_the_prefix_and_shows_its_headers() -> None:
    with engine_that(always(200, NAMES), prefix="/prometheus/", access=Access({"X-Scope-OrgID": "team"})) as (
        engine,
        asked,
        _,
    ):
        assert engine.names(1, 2, 'job="x"') == ["a", "b"]
    (request,) = asked
    assert request.path.startswith("/prometheus/api/v1/label/__name__/values?start=1.000&end=2.000&match%5B%5D=job")
    assert request.headers["x-scope-orgid"] == "team"


def test_samples_with_nan_and_infinity() -> None:
    values = [[1.5, "2"], [3, "NaN"], [4.25, "+Inf"], [5, "1e+06"]]
    data = {
        "resultType": "matrix",
        "result": [{"metric": {"a": 'b"[]'}, "values": values}, {"metric": {}, "values": []}],
    }
    with engine_that(always(200, json_of(data))) as (engine, asked, _):
        series, empty = engine.raw("{}", 0, 60)
    assert dict(series.labels) == {"a": 'b"[]'}
    assert list(series.at) == [1.5, 3, 4.25, 5]
    assert series.values[0] == 2
    assert math.isnan(series.values[1])
    assert list(series.values[2:]) == [math.inf, 1e6]
    assert len(empty.at) == 0
    assert engine.load.samples == 4
    assert asked[0].body == "query=%7B%7D%5B60s%5D&time=60.000"


def test_passing_failures_are_tried_again() -> None:
    def script(n: int, _request: Request) -> Answer:
        return Answer(503) if n == 1 else Answer(200, NAMES[:10], missing=20) if n == 2 else Answer(200, NAMES)

    with engine_that(script) as (engine, asked, slept):
        assert engine.names(0, 1, None) == ["a", "b"]
    assert (len(asked), slept) == (3, [0.5, 1.0])


def test_what_does_not_pass_is_asked_once() -> None:
    body = json.dumps({"status": "error", "errorType": "bad_data", "error": "parse error: unexpected\n}"}).encode()
    with engine_that(always(400, body)) as (engine, asked, slept), pytest.raises(Refused) as raised:
        list(engine.raw("{", 0, 60))
    assert "parse error: unexpected\\n}" in str(raised.value)
    assert (len(asked), slept) == (1, [])


def test_an_engine_that_is_down() -> None:
    with engine_that(always(200)) as (engine, _, _):
        pass
    with pytest.raises(EngineError, match="cannot be reached: Connection refused"):
        engine.names(0, 1, None)


def test_one_that_is_slow() -> None:
    gate = threading.Event()

    def script(_n: int, _request: Request) -> Answer:
        gate.wait()
        return Answer(200, NAMES)

    with engine_that(script, timeout=0.05, retries=0) as (engine, _, _):
        try:
            with pytest.raises(EngineError, match=r"does not answer within 0\.05 s: raise --timeout"):
                engine.names(0, 1, None)
        finally:
            gate.set()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Answer(401), "wants a login: status 401 (--bearer-token-file, --basic-auth-file or --header-file)"),
        (Answer(403), "does not let this login in: status 403"),
        (Answer(404, b"404 page not found"), "answers with status 404: does its address need a prefix, such as /prom"),
        (Answer(302, headers={"Location": "https://elsewhere/\x1b[2J"}), "redirects to https://elsewhere/"),
        (Answer(200, b"<!DOCTYPE html><title>Grafana"), "but with '<!DOCTYPE html><title>Grafana': does its address"),
        (Answer(200, b""), "but with ''"),
        (Answer(200, b'{"status":"success","data":["a'), "answers with half of its JSON"),
        (Answer(200, b'{"status":"success","data":{"a":1}}'), "does not answer as Prometheus's API does"),
        (Answer(200, b"[]"), "does not answer as Prometheus's API does"),
        (Answer(200, NAMES[:10], missing=10), "answers with half of its JSON"),
        (Answer(502, b"<html>bad gateway"), "answers with status 502"),
        (Answer(200, b"\xff\xfe"), "does not answer as"),
    ],
)
def test_what_goes_wrong_is_one_line(answer: Answer, told: str) -> None:
    assert told in error_of(lambda _n, _request: answer)


def test_secrets_do_not_follow_a_redirect() -> None:
    with engine_that(always(200, NAMES)) as (other, seen, _):
        error_of(always(307, headers={"Location": f"{other.url}/"}), access=Access({"Authorization": "Bearer x"}))
    assert seen == []


def test_warnings_are_kept_once() -> None:
    with engine_that(always(200, json_of([], warnings=["partial response"]))) as (engine, _, _):
        engine.names(0, 1, None)
        engine.names(0, 1, None)
    assert list(engine.warnings) == ["partial response"]


def test_a_certificate_that_is_not_known(tmp_path: Path) -> None:
    import ssl

    crt, key = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(crt, key)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(NAMES)))
            self.end_headers()
            self.wfile.write(NAMES)

        def log_message(self, *_: Any) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        url = f"https://localhost:{server.server_port}"
        with pytest.raises(EngineError, match=r"its certificate is not trusted .*: name its --ca"):
            Engine(url, retries=0).names(0, 1, None)
        assert Engine(url, Access(ca=crt)).names(0, 1, None) == ["a", "b"]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("ca", ["missing.pem", "empty.pem"])
def test_a_ca_that_is_none(tmp_path: Path, ca: str) -> None:
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(EngineError, match=r"--ca: .* cannot be used: "):
        Engine("https://localhost:1", Access(ca=str(tmp_path / ca)))


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("localhost:9090", "http://localhost:9090"),
        ("http://h:1/prometheus/", "http://h:1/prometheus"),
        ("https://h/select/0/prometheus/api/v1", "https://h/select/0/prometheus"),
        ("http://[::1]:9090", "http://[::1]:9090"),
    ],
)
def test_addresses(url: str, address: str) -> None:
    assert checked(url) == address


@pytest.mark.parametrize(
    "url", ["", "ftp://h", "http://", "http://h:0", "http://h:99999", "http://h?a=b", "http://h\n"]
)
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(EngineError) as raised:
        checked(url)
    assert "\n" not in str(raised.value)


def test_a_login_in_an_address_is_refused_and_not_shown() -> None:
    with pytest.raises(EngineError) as raised:
        checked("http://me:secret@h")
    assert "secret" not in str(raised.value)
    assert "--basic-auth-file" in str(raised.value)


def test_secrets_come_from_files_of_their_owner(tmp_path: Path) -> None:
    token = secret(tmp_path, "token", "abc\n")
    login = secret(tmp_path, "login", "me:pass word\n")
    headers = secret(tmp_path, "headers", "# ours\nX-Scope-OrgID: team a\n\n")
    assert access(token, None, headers, None).headers == {
        "X-Scope-OrgID": "team a",
        "Authorization": "Bearer abc",
    }
    encoded = base64.b64encode(b"me:pass word").decode()
    assert access(None, login, None, None).headers == {"Authorization": f"Basic {encoded}"}
    with pytest.raises(EngineError, match="two logins"):
        access(token, login, None, None)
    for name, text, mode in (("open", "abc", 0o644), ("two", "a\nb", 0o600), ("nothing", "", 0o600)):
        with pytest.raises(ListenError, match=r"--bearer-token-file: .* cannot be used"):
            access(secret(tmp_path, name, text, mode), None, None, None)
    with pytest.raises(ListenError, match="line 1: expected NAME: VALUE"):
        access(None, None, secret(tmp_path, "wrong", "no header"), None)
