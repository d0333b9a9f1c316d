"""Secrets in files, password hashes, and who counts as this machine: no socket needed."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from email.message import Message
from pathlib import Path

import pytest
from endpoint_support import PASSWORD, basic, cheap_hash, secret

from poolscope.config import EndpointSettings
from poolscope.endpoint import passwords
from poolscope.endpoint.access import Access, Verdict, is_local
from poolscope.endpoint.passwords import make, read_hash, read_users
from poolscope.errors import ListenError

# --- hashes


def test_a_hash_matches_its_password_alone() -> None:
    made = make(PASSWORD)
    assert read_hash(made.text()) == made
    assert made.matches(PASSWORD.encode())
    assert not made.matches(PASSWORD.upper().encode())
    assert make(PASSWORD).salt != made.salt


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected user:scrypt"),
        ("secret", "expected user:scrypt"),
        ("scrypt$16384$8$1$c2FsdHNhbHQ=", "expected user:scrypt"),
        ("scrypt$x$8$1$c2FsdHNhbHQ=$a2V5a2V5a2V5a2V5", "expected user:scrypt"),
        ("scrypt$16384$8$1$***$***", "expected user:scrypt"),
        ("scrypt$16383$8$1$c2FsdHNhbHQ=$a2V5a2V5a2V5a2V5", "a power of two"),
        ("scrypt$16384$0$1$c2FsdHNhbHQ=$a2V5a2V5a2V5a2V5", "R from 1"),
        ("scrypt$16384$8$99$c2FsdHNhbHQ=$a2V5a2V5a2V5a2V5", "P from 1 to 4"),
        ("scrypt$1048576$8$1$c2FsdHNhbHQ=$a2V5a2V5a2V5a2V5", "at most 64 MiB"),
        ("scrypt$16384$8$1$c2E=$a2V5a2V5a2V5a2V5", "at least 8 bytes of salt"),
        ("scrypt$16384$8$1$c2FsdHNhbHQ=$a2V5", "16 to 64 bytes of key"),
        ("$2y$05$abcdefghijklmnopqrstuv", "htpasswd or crypt cannot be verified with the standard library"),
        ("$apr1$abc$def", "cannot be verified"),
        ("{SHA}abc", "cannot be verified"),
    ],
)
def test_what_is_no_hash_is_refused_without_repeating_it(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)) as caught:
        read_hash(text)
    assert not text or text not in str(caught.value)


def test_users_a_line_each() -> None:
    one, two = cheap_hash("a"), cheap_hash("b")
    users = read_users(f"# scrapers\n\nprometheus:{one}\n  ops:{two}  \n")
    assert {user: found.text() for user, found in users.items()} == {"prometheus": one, "ops": two}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "it names no user"),
        ("# nobody\n", "it names no user"),
        ("prometheus\n", "line 1: expected user:scrypt"),
        (f":{cheap_hash('a')}", "line 1: expected user:scrypt"),
        (f"a:{cheap_hash('a')}\na:{cheap_hash('b')}", "line 2: expected each user once"),
        (f"a:{cheap_hash('a')}\nb:plain", "line 2: expected user:scrypt"),
    ],
)
def test_a_file_of_users_that_is_none(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=f"^{expected}"):
        read_users(text)


def test_the_command_prints_a_line_that_works(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(PASSWORD + "\n"))
    assert passwords.main(["prometheus"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert read_users(line)["prometheus"].matches(PASSWORD.encode())


def test_the_command_says_nothing_but_the_line() -> None:
    command = [sys.executable, "-m", "poolscope.endpoint.passwords", "prometheus"]
    made = subprocess.run(command, input=PASSWORD + "\n", capture_output=True, text=True, timeout=60, check=True)
    assert made.stderr == ""
    assert read_users(made.stdout)["prometheus"].matches(PASSWORD.encode())


@pytest.mark.parametrize(("arguments", "typed"), [([], "x"), (["a:b"], "x"), (["a", "b"], "x"), (["a"], "\n")])
def test_the_command_refuses_what_cannot_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], typed: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    assert passwords.main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1


def test_a_python_without_scrypt_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = secret(tmp_path, "users", f"prometheus:{cheap_hash(PASSWORD)}")
    monkeypatch.delattr("hashlib.scrypt")
    with pytest.raises(ListenError, match=r"this Python has no hashlib\.scrypt"):
        Access(EndpointSettings(basic_auth_file=path))
    assert passwords.main(["prometheus"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


# --- files


def settings_for(kind: str, path: str) -> EndpointSettings:
    return EndpointSettings(bearer_token_file=path) if kind == "token" else EndpointSettings(basic_auth_file=path)


@pytest.mark.parametrize("kind", ["token", "users"])
@pytest.mark.parametrize(
    ("text", "mode", "expected"),
    [
        (None, 0, "there is no such file"),
        ("", 0o600, "it "),
        ("\n \n", 0o600, "it "),
        ("ok", 0o604, "every user of this machine can read or change it; chmod o-rwx it"),
        ("ok", 0o602, "every user of this machine can read or change it"),
        ("x" * 300_000, 0o600, "it has more than 262144 bytes"),
        ("\udcff", 0o600, "it is no text in UTF-8"),
        ("größe ß", 0o600, "expected "),
    ],
)
def test_a_file_that_is_no_good_is_one_clear_line(
    tmp_path: Path, kind: str, text: str | None, mode: int, expected: str
) -> None:
    path = tmp_path / "secret\nfile"
    if text is not None:
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        path.chmod(mode)
    with pytest.raises(ListenError) as caught:
        Access(settings_for(kind, str(path)))
    message = str(caught.value)
    assert message.isprintable()
    assert message.startswith(f"endpoint.{'bearer_token_file' if kind == 'token' else 'basic_auth_file'}: ")
    assert "secret\\nfile cannot be used: " in message
    assert expected in message or kind == "users"


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ListenError, match="cannot be used: Is a directory"):
        Access(EndpointSettings(bearer_token_file=str(tmp_path)))


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not by its mode: the tests may run as root, who may read anything.
    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(ListenError, match="cannot be used: this user may not read it"):
        Access(EndpointSettings(bearer_token_file=str(tmp_path / "token")))


# --- credentials


@pytest.fixture
def access(tmp_path: Path) -> Access:
    token = secret(tmp_path, "token", "new-token\nold-token\n")
    users = secret(tmp_path, "users", f"prometheus:{cheap_hash(PASSWORD)}\nother:{cheap_hash('other')}\n")
    return Access(EndpointSettings(bearer_token_file=token, basic_auth_file=users), pause_seconds=0.0)


@pytest.mark.parametrize(
    "header",
    ["Bearer new-token", "bearer old-token", "Bearer  new-token ", basic("prometheus", PASSWORD)],
)
def test_right_credentials(access: Access, header: str) -> None:
    # Twice: the second time a password is known.
    assert [access.judge([header]), access.judge([header])] == [Verdict.ALLOWED] * 2


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [""],
        ["Bearer"],
        ["Bearer "],
        ["Bearer new-toke"],
        ["Bearer new-tokenn"],
        ["Bearer \xff\udcff"],
        ["new-token"],
        ["Digest new-token"],
        ["Bearer new-token", "Bearer new-token"],
        ["Bearer " + "x" * 5000],
        ["Basic"],
        ["Basic !"],
        ["Basic " + "A" * 10],
        ["Basic /////w=="],
        ["Basic cHJvbWV0aGV1cw=="],
        [basic("prometheus", "")],
        [basic("prometheus", "other")],
        [basic("nobody", PASSWORD)],
        [basic("", "")],
    ],
)
def test_wrong_credentials(access: Access, headers: list[str]) -> None:
    assert access.judge([basic("prometheus", PASSWORD)]) is Verdict.ALLOWED
    assert access.judge(headers) is Verdict.REFUSED


def test_without_settings_nothing_is_asked_for() -> None:
    access = Access(EndpointSettings())
    assert not access.required
    assert access.challenges == ()
    assert access.judge([]) is Verdict.ALLOWED


def test_what_is_offered(access: Access, tmp_path: Path) -> None:
    assert access.challenges == ('Basic realm="poolscope", charset="UTF-8"', 'Bearer realm="poolscope"')
    token = Access(EndpointSettings(bearer_token_file=str(tmp_path / "token")))
    assert token.challenges == ('Bearer realm="poolscope"',)


def test_a_changed_file_counts_from_the_next_request_on(tmp_path: Path) -> None:
    path = secret(tmp_path, "token", "first")
    access = Access(EndpointSettings(bearer_token_file=path))
    os.replace(secret(tmp_path, "next", "second"), path)
    assert access.judge(["Bearer first"]) is Verdict.REFUSED
    assert access.judge(["Bearer second"]) is Verdict.ALLOWED


def test_a_password_that_was_changed_is_known_no_more(tmp_path: Path) -> None:
    path = secret(tmp_path, "users", f"a:{cheap_hash('first')}")
    access = Access(EndpointSettings(basic_auth_file=path), pause_seconds=0.0)
    assert access.judge([basic("a", "first")]) is Verdict.ALLOWED
    os.replace(secret(tmp_path, "next", f"a:{cheap_hash('second')}"), path)
    assert access.judge([basic("a", "first")]) is Verdict.REFUSED
    assert access.judge([basic("a", "second")]) is Verdict.ALLOWED
    os.replace(secret(tmp_path, "next", f"b:{cheap_hash('second')}"), path)
    assert access.judge([basic("a", "second")]) is Verdict.REFUSED


@pytest.mark.parametrize("change", ["gone", "empty", "open"])
def test_a_file_that_went_bad_lets_nobody_in_until_it_is_good_again(tmp_path: Path, change: str) -> None:
    path = Path(secret(tmp_path, "token", "first"))
    access = Access(EndpointSettings(bearer_token_file=str(path)))
    if change == "gone":
        path.unlink()
    elif change == "empty":
        path.write_text("")
    else:
        path.chmod(0o644)
    for _ in range(2):
        with pytest.raises(ListenError, match="cannot be used"):
            access.judge(["Bearer first"])
    path.unlink(missing_ok=True)
    secret(tmp_path, "token", "first")
    assert access.judge(["Bearer first"]) is Verdict.ALLOWED


def test_a_relative_path_stays_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret(tmp_path, "token", "first")
    monkeypatch.chdir(tmp_path)
    access = Access(EndpointSettings(bearer_token_file="token"))
    monkeypatch.chdir("/")
    assert access.judge(["Bearer first"]) is Verdict.ALLOWED


# --- this machine


def headers(*lines: tuple[str, str]) -> Message:
    found = Message()
    for name, value in lines:
        found[name] = value
    return found


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize(
    "host", ["localhost", "localhost:9464", "LOCALHOST.", "127.0.0.1", "127.0.0.1:9464", "[::1]", "[::1]:9464"]
)
def test_this_machine(peer: str, host: str) -> None:
    assert is_local(peer, headers(("Host", host), ("Accept", "*/*")))


@pytest.mark.parametrize(
    ("peer", "lines"),
    [
        ("192.0.2.7", [("Host", "localhost")]),
        ("fe80::1%eth0", [("Host", "localhost")]),
        ("127.0.0.1", []),
        ("127.0.0.1", [("Host", "")]),
        ("127.0.0.1", [("Host", "evil.example")]),
        ("127.0.0.1", [("Host", "evil.example:9464")]),
        ("127.0.0.1", [("Host", "localhost.evil.example")]),
        ("127.0.0.1", [("Host", "127.0.0.1.evil.example")]),
        ("127.0.0.1", [("Host", "localhost@evil.example")]),
        ("127.0.0.1", [("Host", "localhost:80@evil.example")]),
        ("127.0.0.1", [("Host", "[::1].evil.example")]),
        ("127.0.0.1", [("Host", "[::1")]),
        ("127.0.0.1", [("Host", "0.0.0.0")]),
        ("127.0.0.1", [("Host", "192.0.2.7:9464")]),
        ("127.0.0.1", [("Host", "localhost"), ("Host", "evil.example")]),
        ("127.0.0.1", [("Host", "localhost"), ("X-Forwarded-For", "192.0.2.7")]),
        ("127.0.0.1", [("Host", "localhost"), ("x-forwarded-proto", "https")]),
        ("127.0.0.1", [("Host", "localhost"), ("FORWARDED", "for=192.0.2.7")]),
        ("127.0.0.1", [("Host", "localhost"), ("Via", "1.1 proxy")]),
        ("127.0.0.1", [("Host", "localhost"), ("X-Real-IP", "192.0.2.7")]),
        ("127.0.0.1", [("Host", "localhost"), ("Via", "")]),
    ],
)
def test_not_this_machine(peer: str, lines: list[tuple[str, str]]) -> None:
    assert not is_local(peer, headers(*lines))
