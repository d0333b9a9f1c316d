"""Who may read the endpoint, and who may see lines of code."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import os
import threading
import time
from collections.abc import Sequence
from email.message import Message
from enum import Enum
from typing import TYPE_CHECKING

from poolscope.config import EndpointSettings
from poolscope.endpoint.secret_files import SecretFile

if TYPE_CHECKING:
    from poolscope.endpoint.passwords import PasswordHash

#: Passwords being tried or waiting for it; more get 503. A password that was right is not tried again.
MAX_TRIES = 3
#: Seconds between a wrong password and the next try of any: guessing must not take the program's CPU.
PAUSE_SECONDS = 0.25
#: Longer credentials are wrong, whatever they are.
_MAX_CREDENTIALS = 4096

_FORWARDING = ("Forwarded", "Via", "X-Real-IP")
_FORWARDING_PREFIX = "x-forwarded-"


class Verdict(Enum):
    """What becomes of a request."""

    ALLOWED = "allowed"
    REFUSED = "refused"
    BUSY = "busy"


class Access:
    """Judges the credentials of requests. Thread-safe.

    A password costs its hash once: what was right is remembered as a digest under a key of this process, until the
    file changes. Wrong ones are tried one at a time.
    """

    def __init__(self, endpoint: EndpointSettings, *, pause_seconds: float = PAUSE_SECONDS) -> None:
        """Raise ListenError for a file that cannot be used."""
        self._tokens: SecretFile[tuple[bytes, ...]] | None = None
        self._users: SecretFile[dict[str, PasswordHash]] | None = None
        self._nobody: PasswordHash | None = None
        if endpoint.bearer_token_file is not None:
            self._tokens = SecretFile("endpoint.bearer_token_file", endpoint.bearer_token_file, _read_tokens)
        if endpoint.basic_auth_file is not None:
            # Not with this module: it is run as a program too, and Python warns of one that is there before it runs.
            from poolscope.endpoint.passwords import make, read_users

            self._users = SecretFile("endpoint.basic_auth_file", endpoint.basic_auth_file, read_users)
            # For a user that is not there: it must take as long as a wrong password.
            self._nobody = make("")
        self._pause_seconds = pause_seconds
        self._places = threading.BoundedSemaphore(MAX_TRIES)
        self._trying = threading.Lock()
        self._key = os.urandom(32)
        self._known: dict[str, tuple[PasswordHash, bytes]] = {}

    @property
    def required(self) -> bool:
        """Whether credentials are asked for at all."""
        return self._tokens is not None or self._users is not None

    @property
    def challenges(self) -> tuple[str, ...]:
        """What `WWW-Authenticate` says."""
        basic = ('Basic realm="poolscope", charset="UTF-8"',) if self._users is not None else ()
        return (*basic, *(('Bearer realm="poolscope"',) if self._tokens is not None else ()))

    def judge(self, authorization: Sequence[str]) -> Verdict:
        """Return what the `Authorization` headers of a request are worth.

        Raises ListenError if a file of secrets is no good any more: then all requests are refused.
        """
        if not self.required:
            return Verdict.ALLOWED
        # Read first: the answer for a broken file says nothing about what was sent.
        tokens = self._tokens.current() if self._tokens is not None else ()
        users = self._users.current() if self._users is not None else {}
        if len(authorization) != 1 or len(authorization[0]) > _MAX_CREDENTIALS:
            return Verdict.REFUSED
        scheme, _, credentials = authorization[0].strip().partition(" ")
        if scheme.lower() == "bearer" and tokens:
            given = credentials.strip().encode("utf-8", "surrogateescape")
            # All of them, found or not: the time must not say which.
            matches = [hmac.compare_digest(given, token) for token in tokens]
            return Verdict.ALLOWED if any(matches) else Verdict.REFUSED
        if scheme.lower() == "basic" and users:
            return self._judge_password(users, credentials.strip())
        return Verdict.REFUSED

    def _judge_password(self, users: dict[str, PasswordHash], credentials: str) -> Verdict:
        try:
            user, separator, password = base64.b64decode(credentials, validate=True).decode("utf-8").partition(":")
        except (binascii.Error, ValueError):
            return Verdict.REFUSED
        if not separator:
            return Verdict.REFUSED
        secret = password.encode("utf-8")
        digest = hmac.digest(self._key, secret, "sha256")
        expected = users.get(user)
        known = self._known.get(user)
        if known is not None and known[0] == expected and hmac.compare_digest(known[1], digest):
            return Verdict.ALLOWED
        if not self._places.acquire(blocking=False):
            return Verdict.BUSY
        try:
            with self._trying:
                asked = expected or self._nobody
                if asked is not None and asked.matches(secret) and expected is not None:
                    # Only users of the file get here, so there are never more entries than users; those that left
                    # it stay without effect.
                    self._known = {name: entry for name, entry in self._known.items() if name in users}
                    self._known[user] = (expected, digest)
                    return Verdict.ALLOWED
                time.sleep(self._pause_seconds)
                return Verdict.REFUSED
        finally:
            self._places.release()


def _read_tokens(text: str) -> tuple[bytes, ...]:
    """Return the tokens of a file, a line each, so that an old one may overlap with a new one."""
    tokens = [line.strip() for line in text.splitlines() if line.strip()]
    if not tokens:
        raise ValueError("it is empty; expected a token")
    if any(not token.isascii() or not token.isprintable() or " " in token for token in tokens):
        raise ValueError("expected tokens of visible ASCII characters, one a line")
    return tuple(token.encode("ascii") for token in tokens)


def is_local(peer: str, headers: Message) -> bool:
    """Whether a request comes from this machine, was meant for it, and was not passed on by a proxy.

    A page in a browser can have its name resolve to 127.0.0.1 (DNS rebinding): its requests come from loopback, but
    name another host. A proxy on this machine says that it forwards.
    """
    if not _is_loopback(peer):
        return False
    names = [name.lower() for name in headers]
    if any(name.startswith(_FORWARDING_PREFIX) for name in names):
        return False
    if any(name.lower() in names for name in _FORWARDING):
        return False
    hosts = headers.get_all("Host", [])
    return len(hosts) == 1 and _is_loopback_host(hosts[0])


def _is_loopback_host(host: str) -> bool:
    text = host.strip().lower()
    if text.startswith("["):
        name, bracket, rest = text[1:].partition("]")
        if not bracket:
            return False
    else:
        name, colon, port = text.partition(":")
        rest = colon + port
    if rest and not (rest[0] == ":" and rest[1:].isascii() and rest[1:].isdigit()):
        return False
    return name in ("localhost", "localhost.") or _is_loopback(name)


def _is_loopback(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)  # an IPv6 socket may serve IPv4 too
    return bool((mapped or found).is_loopback)
