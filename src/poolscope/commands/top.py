"""`poolscope top`: what a program does now, in the terminal."""

from __future__ import annotations

import argparse
import base64
import os
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from poolscope.commands.console import UsageError, tell
from poolscope.errors import PoolscopeError

if TYPE_CHECKING:
    from poolscope.live.board import Board

#: Seconds until a program counts as one that does not answer.
PATIENCE_SECONDS = 5.0
#: A board has no more bytes.
_MOST_BYTES = 32 << 20
_MOST_PORT = 65_535
#: So often a run that is just being started is asked within that patience.
_ATTEMPTS = 50
#: Before the path of the socket of a run.
DOOR = "unix:"


def do(options: argparse.Namespace) -> int:
    """Show it until somebody has seen enough; in one line where there is no terminal."""
    ask = source(options.target, options.bearer_token_file, options.ca)
    interactive = is_interactive()
    if interactive:
        check_extra()
    first = ask() if options.until is None else _first(ask)
    if not interactive:
        from poolscope.live.board import status
        from poolscope.rendering.text import Medium

        encoding = getattr(sys.stdout, "encoding", None)
        tell([status(first, Medium(width=160, encoding=encoding, cwd=""))])
        return 0
    from poolscope.live.screen import View, interrupt_parent

    followed = options.until is not None
    View(first, ask, interrupted=interrupt_parent if followed else None, ended=options.until).run()
    return 0


def _first(ask: Callable[[], Board]) -> Board:
    """Return the first board of a run that is just being started."""
    for _ in range(_ATTEMPTS):
        try:
            return ask()
        except PoolscopeError:
            time.sleep(PATIENCE_SECONDS / _ATTEMPTS)
    return ask()


def is_interactive() -> bool:
    """Whether there is a terminal to draw on and to read keys from."""
    try:
        terminals = sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()  # where textual draws
        return terminals and os.environ.get("TERM") not in (None, "", "dumb")
    except (AttributeError, ValueError):  # closed
        return False


def check_extra() -> None:
    """Raise PoolscopeError without textual."""
    from importlib.util import find_spec

    if find_spec("textual") is None:
        raise PoolscopeError("the live view needs textual: pip install 'poolscope[top]'")


def source(target: str | None, token_file: str | None = None, ca_file: str | None = None) -> Callable[[], Board]:
    """Return what asks a program for its board: a URL, a port, a process under `poolscope run`, or None for the usual
    port. What it returns raises PoolscopeError where there is no answer; so does this for a target that is none."""
    if target is None:
        from poolscope.config import DEFAULT_LISTEN

        target = f"http://{DEFAULT_LISTEN}"
    if target.startswith(DOOR):
        path = target.removeprefix(DOOR)
        return lambda: _by_door(path)
    if target.isascii() and target.isdigit():
        number = int(target[:10])
        door = _door_of(number)
        if door is not None:
            return lambda: _by_door(door)
        if not 0 < number <= _MOST_PORT:
            raise UsageError(f"{target} is no port, and no process under poolscope run that this user may look at")
        target = f"http://127.0.0.1:{number}"
    elif "://" not in target:
        target = f"http://{target}"
    request = _request(target, token_file)
    context = _trust(ca_file) if request.type == "https" else None
    return lambda: _by_url(request, context)


def _request(target: str, token_file: str | None) -> urllib.request.Request:
    try:
        parts = urlsplit(target)
        known = parts.scheme in ("http", "https") and parts.hostname and (parts.port or True)
    except ValueError:
        known = False
    if not known:
        raise UsageError(f"{target} is no URL of an endpoint, such as http://127.0.0.1:9464, no port and no process")
    path = parts.path.rstrip("/").removesuffix("/metrics").removesuffix("/live")
    place = parts.netloc.rpartition("@")[2]
    request = urllib.request.Request(f"{parts.scheme}://{place}{path}/live", headers={"Accept": "application/json"})
    if token_file is not None:
        try:
            with open(token_file, encoding="ascii") as file:
                words = file.readline().strip()
        except (OSError, UnicodeError) as error:
            raise PoolscopeError(f"--bearer-token-file {token_file} cannot be read: {error}") from error
        request.add_header("Authorization", f"Bearer {words}")
    elif parts.username is not None:
        from urllib.parse import unquote

        words = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_header("Authorization", f"Basic {base64.b64encode(words.encode()).decode()}")
    return request


def _trust(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise PoolscopeError(f"--ca {ca_file} cannot be used: {error}") from error


def _by_url(request: urllib.request.Request, context: ssl.SSLContext | None) -> Board:
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if context is not None:
        handlers.append(urllib.request.HTTPSHandler(context=context))
    try:
        with urllib.request.build_opener(*handlers).open(request, timeout=PATIENCE_SECONDS) as answer:
            return _board(answer.read(_MOST_BYTES), request.full_url)
    except urllib.error.HTTPError as error:
        error.close()
        reasons = {
            401: "credentials are needed: http://USER:PASSWORD@HOST:PORT, or --bearer-token-file",
            404: "it has no live view: it is no endpoint of poolscope, or one of an older version",
        }
        reason = reasons.get(error.code, f"it answers with status {error.code}")
        raise PoolscopeError(f"{request.full_url}: {reason}") from error
    except (OSError, ValueError) as error:
        reason = str(getattr(error, "reason", "") or error) or type(error).__name__
        raise PoolscopeError(
            f"nothing to see at {request.full_url}: {reason}; start the program with poolscope run --listen, or name "
            "its URL, port or process"
        ) from error


def _by_door(path: str) -> Board:
    try:
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as stream:
            stream.settimeout(PATIENCE_SECONDS)
            stream.connect(path)
            data = b"".join(_parts(stream))
    except OSError as error:
        raise PoolscopeError(f"the run does not answer: it has ended, or is about to ({error.strerror})") from error
    if not data:
        raise PoolscopeError("the run has nothing to show yet")
    return _board(data, "the run")


def _parts(stream: socket.socket) -> Iterator[bytes]:
    left = _MOST_BYTES
    while left > 0 and (part := stream.recv(1 << 16)):
        left -= len(part)
        yield part


def _board(data: bytes, whose: str) -> Board:
    import msgspec

    from poolscope.live.board import Board

    try:
        return msgspec.json.decode(data, type=Board)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise PoolscopeError(f"{whose} says something else than this version of poolscope knows: {error}") from error


def _door_of(pid: int) -> str | None:
    """Return the socket of the run that a process belongs to: the program, one that it started, or the run itself."""
    import psutil

    from poolscope.probe.startup.handover import VARIABLE, unpack
    from poolscope.supervisor.folder import live_beside

    try:
        process = psutil.Process(pid)
        below = process.children(recursive=True)
    except psutil.Error:
        return None
    for each in (process, *below):
        try:
            run, _, _ = unpack(each.environ()[VARIABLE])
        except (psutil.Error, OSError, KeyError, ValueError, EOFError, TypeError):
            continue
        return live_beside(run)
    return None
