"""PHP-FPM with three workers that bear their load until it grows: each request waits 20 ms.

The arguments are a word and a port, at which its status page is served; the port is printed then. It reads words,
"overload" and "calm", and answers each with the time (s since the epoch).
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

WORKERS, CALM, OVERLOAD = 3, 1, 150
CONFIG = """
[global]
error_log = /dev/stderr
daemonize = no
[shop]
{user}
listen = 127.0.0.1:{port}
pm = static
pm.max_children = {workers}
pm.status_path = /status
pm.status_listen = 127.0.0.1:{status}
"""
#: Of FastCGI: the role of one that answers, and kinds of records.
RESPONDER, BEGIN, PARAMS, STDIN, STDOUT = 1, 1, 4, 5, 6
#: A length of four bytes.
LONG = 1 << 31


def record(kind: int, content: bytes = b"") -> bytes:
    return struct.pack("!BBHHBB", 1, kind, 1, len(content), 0, 0) + content


def asked(port: int, **params: str) -> bytes:
    """What PHP-FPM answers to one request, its headers first."""
    encoded = [(name.encode(), value.encode()) for name, value in params.items()]
    pairs = b"".join(struct.pack("!II", len(a) | LONG, len(b) | LONG) + a + b for a, b in encoded)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        begin = record(BEGIN, struct.pack("!HB5x", RESPONDER, 0))
        connection.sendall(begin + record(PARAMS, pairs) + record(PARAMS) + record(STDIN))
        return b"".join(content for kind, content in records(connection.makefile("rb").read) if kind == STDOUT)


def records(read: Callable[[int], bytes]) -> Iterator[tuple[int, bytes]]:
    while head := read(8):
        _, kind, _, size, padding = struct.unpack("!BBHHBx", head)
        yield kind, read(size)
        read(padding)


def free_ports() -> tuple[int, int]:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        return one.getsockname()[1], other.getsockname()[1]


class Page(BaseHTTPRequestHandler):
    """The status page, as a server before PHP-FPM passes it on."""

    status = 0

    def do_GET(self) -> None:
        answer = asked(
            self.status,
            SCRIPT_NAME="/status",
            SCRIPT_FILENAME="/status",
            QUERY_STRING="openmetrics",
            REQUEST_METHOD="GET",
        )
        body = answer.partition(b"\r\n\r\n")[2]
        self.send_response(200)
        self.send_header("Content-Type", "application/openmetrics-text; version=1.0.0; charset=utf-8")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Clients:
    """Those that ask for the page, one after another each."""

    def __init__(self, port: int) -> None:
        self.wanted = CALM
        self._port = port
        for number in range(OVERLOAD):
            threading.Thread(target=self._ask, args=(number,), daemon=True).start()

    def _ask(self, number: int) -> None:
        page = str(Path(__file__).with_name("page.php"))
        while True:
            if number < self.wanted:
                asked(self._port, SCRIPT_NAME="/page", SCRIPT_FILENAME=page, REQUEST_METHOD="GET")
            time.sleep(0.005)


def main() -> None:
    port, Page.status = free_ports()
    with tempfile.TemporaryDirectory(prefix="story-") as folder:
        user = "user = root" if os.geteuid() == 0 else ""
        config = Path(folder) / "fpm.conf"
        config.write_text(CONFIG.format(user=user, port=port, workers=WORKERS, status=Page.status))
        server = shutil.which("php-fpm") or max(map(str, Path("/usr/sbin").glob("php-fpm*")))
        fpm = subprocess.Popen([server, "-n", "-R", "-F", "-y", config], stderr=subprocess.DEVNULL)
        try:
            for each in (port, Page.status):
                while not answers(each):
                    time.sleep(0.02)
            clients = Clients(port)
            page = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Page)
            threading.Thread(target=page.serve_forever, daemon=True).start()
            print(page.server_port, flush=True)
            for word in sys.stdin:
                clients.wanted = OVERLOAD if word.strip() == "overload" else CALM
                print(time.time(), flush=True)
        finally:
            fpm.terminate()
            fpm.wait()


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
