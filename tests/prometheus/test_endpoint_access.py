"""Who gets what over real sockets: TLS, credentials, and findings with and without lines of code."""

from __future__ import annotations

import http.client
import json
import logging
import os
import shutil
import ssl
from pathlib import Path
from typing import Any

import msgspec
import pytest
from endpoint_support import FINDING, PASSWORD, ask, basic, certificate, cheap_hash, protected, secret, status, trusting
from metrics_support import pool, snapshot

from poolscope.endpoint import Server
from poolscope.errors import ListenError
from poolscope.metrics.families import serve_snapshots
from poolscope.model import Finding
from poolscope.snapshot import Snapshot

ONE = snapshot(pool("db", queue_depth=4))
DETAILED = msgspec.structs.replace(ONE, details=(FINDING,))
ALL = ["/metrics", "/findings", "/", "/nowhere"]


def serve(listen: str = "127.0.0.1:0", **endpoint: Any) -> Server:
    return serve_snapshots(lambda: ONE, protected(listen, **endpoint), detailed=lambda: DETAILED)


def get(server: Server, path: str, context: ssl.SSLContext | None = None, **headers: str) -> bytes:
    lines = {"Host": f"localhost:{server.port}"} | {name.replace("_", "-"): value for name, value in headers.items()}
    words = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return ask(server.port, f"GET {path} HTTP/1.1\r\n{words}\r\n".encode(), context)


def body(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return certificate(tmp_path_factory.mktemp("pem"))


@pytest.fixture
def token(tmp_path: Path) -> str:
    return secret(tmp_path, "token", "s3cret\n")


@pytest.fixture
def users(tmp_path: Path) -> str:
    return secret(tmp_path, "users", f"prometheus:{cheap_hash(PASSWORD)}\n")


# --- /findings


def test_findings_are_those_of_the_contract() -> None:
    with serve() as server:
        answer = get(server, "/findings")
    assert status(answer) == 200
    assert b"\r\nContent-Type: application/json\r\n" in answer
    assert b"\r\nCache-Control: no-store\r\n" in answer
    assert json.loads(body(answer)) == [json.loads(msgspec.json.encode(FINDING))]
    assert msgspec.json.decode(body(answer), type=list[Finding]) == [FINDING]


def test_the_most_severe_comes_first() -> None:
    sorts = [("burst", "info"), ("serial", "warning"), ("stalled", "warning"), ("loop_blocked", "critical")]
    found = [msgspec.structs.replace(FINDING, pattern=pattern, severity=severity) for pattern, severity in sorts]
    source = msgspec.structs.replace(ONE, details=tuple(found))
    with serve_snapshots(lambda: ONE, protected(), detailed=lambda: source) as server:
        shown = json.loads(body(get(server, "/findings")))
    assert [item["pattern"] for item in shown] == ["loop_blocked", "stalled", "serial", "burst"]


def test_names_that_cannot_be_encoded_are_escaped() -> None:
    odd = msgspec.structs.replace(FINDING, summary="a\udcff", evidence={"x": float("nan")})
    source = msgspec.structs.replace(ONE, details=(odd,))
    with serve_snapshots(lambda: ONE, protected(), detailed=lambda: source) as server:
        (shown,) = json.loads(body(get(server, "/findings")))
    assert (shown["summary"], shown["evidence"]) == ("a\\udcff", {"x": None})


def test_a_scrape_does_not_ask_for_findings() -> None:
    asked: list[str] = []

    def plain() -> Snapshot:
        asked.append("plain")
        return ONE

    def detailed() -> Snapshot:
        asked.append("detailed")
        return DETAILED

    with serve_snapshots(plain, protected(), detailed=detailed) as server:
        get(server, "/metrics")
        assert asked == ["plain"]
        get(server, "/findings")
        assert asked == ["plain", "detailed"]


def test_where_nobody_knows_them_is_said() -> None:
    with serve_snapshots(lambda: ONE, protected()) as server:
        assert status(get(server, "/findings")) == 404


def test_a_source_of_findings_that_fails_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> Snapshot:
        raise RuntimeError("no\nluck")

    with serve_snapshots(lambda: ONE, protected(), detailed=fail) as server:
        answer = get(server, "/findings")
        assert body(answer) == b"500 The findings cannot be shown: RuntimeError: no luck\n"
        assert status(get(server, "/metrics")) == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:9464"},
        {"X_Forwarded_For": "192.0.2.7"},
        {"X_Forwarded_Host": "localhost"},
        {"Forwarded": "for=192.0.2.7"},
        {"Via": "1.1 proxy"},
    ],
)
def test_frames_are_not_for_those_who_came_by_another_way(headers: dict[str, str]) -> None:
    with serve() as server:
        answer = get(server, "/findings", **headers)
    (shown,) = json.loads(body(answer))
    assert shown["frames"] == []
    assert (shown["pattern"], shown["evidence"]) == ("async_then_serial", {"amplification": 12.4})
    for telling in (b"hard_limit.py", b"SECRET_SECONDS", b"/srv/app", b"(fetch)"):
        assert telling not in answer


def test_a_line_that_only_the_text_names_is_not_shown_either() -> None:
    text = "Event loop 'main' was blocked: other threads held the GIL at rows.py:7 (parse), and every task waited."
    source = msgspec.structs.replace(ONE, details=(msgspec.structs.replace(FINDING, frames=(), summary=text),))
    with serve_snapshots(lambda: ONE, protected(), detailed=lambda: source) as server:
        (shown,) = json.loads(body(get(server, "/findings", Host="evil.example")))
    assert shown["summary"] == text.replace("rows.py:7 (parse)", "a line that is not shown here")


def test_frames_are_not_for_a_request_without_host() -> None:
    with serve() as server:
        answer = ask(server.port, b"GET /findings HTTP/1.0\r\n\r\n")
    assert json.loads(body(answer))[0]["frames"] == []


def test_frames_are_for_callers_with_credentials_from_wherever(token: str) -> None:
    with serve(bearer_token_file=token) as server:
        answer = get(server, "/findings", Host="evil.example", Via="1.1 proxy", Authorization="Bearer s3cret")
    assert len(json.loads(body(answer))[0]["frames"]) == 1


# --- credentials


@pytest.mark.parametrize("path", ALL)
@pytest.mark.parametrize("authorization", [None, "Bearer wrong", basic("prometheus", "wrong"), "Bearer s3cret x"])
def test_nothing_but_health_without_credentials(token: str, users: str, path: str, authorization: str | None) -> None:
    with serve(bearer_token_file=token, basic_auth_file=users) as server:
        headers = {} if authorization is None else {"Authorization": authorization}
        answer = get(server, path, **headers)
        assert status(answer) == 401
        assert body(answer) == b"401 Credentials are needed\n"
        assert answer.count(b"WWW-Authenticate: ") == 2
        assert body(get(server, "/healthz", **headers)) == b"ok\n"


@pytest.mark.parametrize("authorization", ["Bearer s3cret", basic("prometheus", PASSWORD)])
def test_everything_with_credentials(token: str, users: str, authorization: str) -> None:
    with serve(bearer_token_file=token, basic_auth_file=users) as server:
        found = [status(get(server, path, Authorization=authorization)) for path in ALL]
    assert found == [200, 200, 302, 404]


def test_a_token_is_exchanged_while_it_runs(tmp_path: Path, token: str) -> None:
    with serve(bearer_token_file=token) as server:
        os.replace(secret(tmp_path, "next", "other"), token)
        assert status(get(server, "/metrics", Authorization="Bearer s3cret")) == 401
        assert status(get(server, "/metrics", Authorization="Bearer other")) == 200


def test_a_token_file_that_went_bad_is_logged_once_and_lets_nobody_in(
    token: str, caplog: pytest.LogCaptureFixture
) -> None:
    with serve(bearer_token_file=token) as server, caplog.at_level(logging.WARNING, "poolscope"):
        Path(token).unlink()
        for _ in range(2):
            answer = get(server, "/metrics", Authorization="Bearer s3cret")
            assert status(answer) == 503
            assert b"token" not in body(answer)
        assert status(get(server, "/healthz")) == 200
    (record,) = caplog.records
    assert "there is no such file" in record.getMessage()


# --- TLS


def test_over_tls(pem: tuple[str, str]) -> None:
    with serve(tls={"certificate": pem[0], "key": pem[1]}) as server:
        assert server.url == f"https://127.0.0.1:{server.port}"
        client = http.client.HTTPSConnection("localhost", server.port, context=trusting(pem[0]), timeout=60)
        client.request("GET", "/metrics")
        answer = client.getresponse()
        assert answer.status == 200
        assert b"poolscope_pool_queue_depth" in answer.read()
        client.close()
        # This machine, and nobody in between: as on plain loopback.
        assert len(json.loads(body(get(server, "/findings", trusting(pem[0]))))[0]["frames"]) == 1


def test_old_tls_is_refused(pem: tuple[str, str]) -> None:
    old = trusting(pem[0])
    with pytest.warns(DeprecationWarning, match="deprecated"):
        old.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="deprecated"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    with serve(tls={"certificate": pem[0], "key": pem[1]}) as server:
        with pytest.raises(OSError, match=r"(?i)ssl|reset"):
            get(server, "/healthz", old)
        assert status(get(server, "/healthz", trusting(pem[0]))) == 200


def test_a_certificate_and_its_key_in_one_file(tmp_path: Path, pem: tuple[str, str]) -> None:
    both = secret(tmp_path, "both.pem", Path(pem[0]).read_text() + Path(pem[1]).read_text())
    with serve(tls={"certificate": both}) as server:
        assert status(get(server, "/healthz", trusting(pem[0]))) == 200


def test_plain_http_to_the_tls_port_is_told_so(pem: tuple[str, str]) -> None:
    with serve(tls={"certificate": pem[0], "key": pem[1]}) as server:
        answer = get(server, "/metrics")
        assert answer.startswith(b"HTTP/1.0 400 ")
        assert body(answer) == b"400 This port speaks HTTPS: ask with https:// URLs\n"
        assert status(get(server, "/healthz", trusting(pem[0]))) == 200


def test_a_renewed_certificate_is_used_from_the_next_connection_on(tmp_path: Path) -> None:
    crt, key = certificate(tmp_path, "first")
    with serve(tls={"certificate": crt, "key": key}) as server:
        assert status(get(server, "/healthz", trusting(crt))) == 200
        other_crt, other_key = certificate(tmp_path, "second")
        os.replace(other_key, key)
        os.replace(other_crt, crt)
        assert status(get(server, "/healthz", trusting(crt))) == 200


def test_a_renewal_that_is_no_good_leaves_the_old_certificate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    crt, key = certificate(tmp_path, "first")
    kept = shutil.copy(crt, tmp_path / "kept.crt")
    with (
        serve(tls={"certificate": crt, "key": key}) as server,
        caplog.at_level(logging.WARNING, "poolscope"),
    ):
        Path(key).write_text("half a ke")
        assert status(get(server, "/healthz", trusting(str(kept)))) == 200
        Path(key).unlink()
        assert status(get(server, "/healthz", trusting(str(kept)))) == 200
    assert [record.getMessage().count("cannot be used") for record in caplog.records] == [1]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("no certificate", r"^endpoint\.tls\.certificate: .*server\.crt cannot be used: there is no such file"),
        ("no key", r"^endpoint\.tls\.key: .*server\.key cannot be used: there is no such file"),
        ("empty key", r"^endpoint\.tls\.key: .* cannot be used: it is empty"),
        ("open key", r"^endpoint\.tls\.key: .* cannot be used: every user of this machine can read"),
        ("other key", r"^endpoint\.tls\.key: .* cannot be used: it belongs to another certificate"),
        ("no PEM", r"^endpoint\.tls\.key: .* cannot be used: expected a certificate and its key in PEM"),
        ("certificate alone", r"^endpoint\.tls\.certificate: .* cannot be used: expected a certificate and its key"),
        ("pass phrase", r"^endpoint\.tls\.key: .* cannot be used: it has a pass phrase"),
    ],
)
def test_files_that_cannot_be_used_are_one_clear_line(tmp_path: Path, change: str, expected: str) -> None:
    crt, key = certificate(tmp_path)
    tls: dict[str, Any] = {"certificate": crt, "key": key}
    match change:
        case "no certificate":
            Path(crt).unlink()
        case "no key":
            Path(key).unlink()
        case "certificate alone":
            tls["key"] = None
            Path(crt).chmod(0o600)
        case "empty key":
            Path(key).write_text("")
        case "open key":
            Path(key).chmod(0o644)
        case "other key":
            tls["key"] = certificate(tmp_path, "other")[1]
        case "no PEM":
            Path(key).write_text("nonsense")
        case "pass phrase":
            import subprocess

            locked = tmp_path / "locked.key"
            command = ["openssl", "ec", "-in", key, "-aes256", "-passout", "pass:x", "-out", str(locked)]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
            tls["key"] = str(locked)
    with pytest.raises(ListenError, match=expected) as caught:
        serve(tls=tls)
    assert len(str(caught.value).splitlines()) == 1


# --- beyond loopback


def test_beyond_loopback_with_tls_and_credentials(pem: tuple[str, str], token: str) -> None:
    tls = {"certificate": pem[0], "key": pem[1]}
    with serve("0.0.0.0:0", tls=tls, bearer_token_file=token) as server:
        context = trusting(pem[0])
        assert status(get(server, "/metrics", context)) == 401
        assert status(get(server, "/metrics", context, Authorization="Bearer s3cret")) == 200


def test_half_a_protection_is_none(pem: tuple[str, str], token: str) -> None:
    tls = {"certificate": pem[0], "key": pem[1]}
    with pytest.raises(ListenError, match="no authentication is set"):
        serve("0.0.0.0:0", tls=tls)
    with pytest.raises(ListenError, match="TLS is not set"):
        serve("0.0.0.0:0", bearer_token_file=token)
    # Said explicitly, and what is set is still asked for.
    with serve("0.0.0.0:0", bearer_token_file=token, insecure=True) as server:
        assert status(get(server, "/metrics")) == 401


def test_beyond_loopback_without_credentials_lines_are_for_this_machine_alone() -> None:
    with serve("0.0.0.0:0", insecure=True) as server:
        assert len(json.loads(body(get(server, "/findings")))[0]["frames"]) == 1
        assert json.loads(body(get(server, "/findings", Host="192.0.2.7:9464")))[0]["frames"] == []
