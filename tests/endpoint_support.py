"""Certificates, secrets and clients for the endpoint."""

from __future__ import annotations

import base64
import contextlib
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from poolscope.config import Settings, from_mapping
from poolscope.endpoint.passwords import PasswordHash, _derived
from poolscope.model import Advice, Finding, Frame

BUCKETS = {"wait_buckets": [0.1, 1], "run_buckets": [0.1, 1]}
PASSWORD = "correct horse"

FINDING = Finding(
    pattern="async_then_serial",
    cause="blocking_io",
    severity="warning",
    since_seconds=6.2,
    until_seconds=None,
    detected_after_seconds=1.0,
    summary="Pool 'crawler' turned serial at 6.2 s: all 4 workers are waiting at hard_limit.py:31 (fetch).",
    evidence={"amplification": 12.4},
    frames=(Frame("/srv/app/hard_limit.py", 31, "fetch", "time.sleep(SECRET_SECONDS)", 1.0),),
    advice=Advice("raise_max_workers", "Give it 10, see hard_limit.py:31.", 10),
)


def protected(listen: str = "127.0.0.1:0", **endpoint: Any) -> Settings:
    return from_mapping({"listen": listen, "endpoint": endpoint, "metrics": BUCKETS})


def certificate(folder: Path, name: str = "server") -> tuple[str, str]:
    """Paths of a new certificate for localhost and of its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.fail("no openssl: install Debian's package: apt-get install openssl", pytrace=False)
    crt, key = folder / f"{name}.crt", folder / f"{name}.key"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "3650", "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-keyout", str(key), "-out", str(crt)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    key.chmod(0o600)
    return str(crt), str(key)


def secret(folder: Path, name: str, text: str, mode: int = 0o600) -> str:
    path = folder / name
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def cheap_hash(password: str) -> str:
    """A hash that costs nothing to try."""
    salt = b"12345678"
    return PasswordHash(2, 1, 1, salt, _derived(password.encode(), salt, 2, 1, 1)).text()


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def trusting(crt: str) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=crt)


def ask(port: int, request: bytes, context: ssl.SSLContext | None = None) -> bytes:
    """The answer to a raw request, over TLS with a context."""
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
        if context is not None:
            client = stack.enter_context(context.wrap_socket(client, server_hostname="localhost"))
        client.sendall(request)
        answer = b""
        while part := client.recv(65536):
            answer += part
        return answer


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def until(condition: Callable[[], Any]) -> Any:
    """What the condition gives once it is true; the time limit of the test ends a wait in vain."""
    while not (value := condition()):
        time.sleep(0.01)
    return value
