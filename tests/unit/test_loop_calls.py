"""What to do about a line that blocked a loop, by what it calls."""

from __future__ import annotations

import pytest

from poolscope.model import Frame
from poolscope.rules.loop_calls import BLOCKING, blocking_call, computing_call

LIB = "/usr/lib/python3.13"
BASE = f"{LIB}/concurrent/futures/_base.py"


def frames(source: str | None, file: str = "", function: str = "") -> list[Frame]:
    """The user's line, and the library's below it where there is one."""
    own = [Frame("/app/main.py", 7, "handle", source)]
    return own + ([Frame(file, 1, function, "pass")] if file else [])


@pytest.mark.parametrize(
    ("found", "gate", "expected"),
    [
        (
            frames("ticket.result(timeout=4)", BASE, "Future.result"),
            "own_coroutine",
            "own_coroutine",
        ),
        (frames("ticket.result()", BASE, "Future.result"), "future", "future"),
        (frames("ticket.result()", BASE, "Future.result"), "", "future"),
        (
            frames("with Pool() as pool:", BASE, "Executor.__exit__"),
            "",
            "executor_end",
        ),
        (
            frames("with Pool() as pool:", BASE, "Executor.__exit__"),
            "executor_end",
            "executor_end",
        ),
        (frames("pool.map(f, rows)", f"{LIB}/multiprocessing/pool.py", "Pool.map"), "event", "pool_result"),
        (frames("pool.map(f, rows)", f"{LIB}/multiprocessing/pool.py", "Pool.map"), "", "pool_result"),
        (frames("with self.lock:"), "lock", "lock"),
        (frames("self._lock.acquire()"), "", "lock"),
        (frames("await self._lock.acquire()"), "", None),
        (frames("thread.join()", f"{LIB}/threading.py", "Thread.join"), "", "thread_end"),
        (frames("done.wait()", f"{LIB}/threading.py", "Event.wait"), "event", "signal"),
        (frames("items.get()", f"{LIB}/queue.py", "Queue.get"), "", "queue"),
        (frames("subprocess.run(command)", f"{LIB}/subprocess.py", "run"), "child", "subprocess"),
        (frames("os.system(command)"), "", "subprocess"),
        (frames("time.sleep(2)"), "", "sleep"),
        (frames("sleep(2)"), "", "sleep"),
        (frames("await asyncio.sleep(2)"), "", None),
        (frames("requests.get(url)", "/venv/lib/python3.13/site-packages/requests/api.py", "get"), "", "client"),
        (frames("urlopen(url)", f"{LIB}/urllib/request.py", "urlopen"), "", "client"),
        (frames("client.get(url)", "/venv/lib/python3.13/site-packages/httpx/_client.py", "Client.get"), "", "client"),
        (
            frames("session.execute(query)", "/venv/lib/python3.13/site-packages/sqlalchemy/orm/session.py", "execute"),
            "",
            "client",
        ),
        (frames("socket.getaddrinfo(host, 443)", f"{LIB}/socket.py", "getaddrinfo"), "", "name"),
        (frames("socket.gethostbyname(host)"), "", "name"),
        (frames("await loop.getnameinfo(address)"), "", None),
        (frames("socket.create_connection(address)", f"{LIB}/socket.py", "create_connection"), "", "connection"),
        (frames("path.read_text()", f"{LIB}/pathlib/_local.py", "Path.read_text"), "", "file"),
        (frames("with open(path) as file:"), "", "file"),
        (frames("os.fsync(file.fileno())"), "", "file"),
        (frames("webbrowser.open(url)"), "", None),
        # a handler of a log, at whatever it waits
        (frames("log.info('did it')", f"{LIB}/logging/__init__.py", "Logger.info"), "", "log"),
        (frames("log.info('did it')", f"{LIB}/logging/__init__.py", "Logger.info"), "lock", "log"),
        # the line of a function of the program's that has gone on into a library says nothing by its text
        (frames("self.sleep(fetch())", "/venv/lib/python3.13/site-packages/other/api.py", "get"), "", None),
        (frames(None), "", None),
        (frames("rows = connection.execute(query)"), "", None),
        ([], "", None),
    ],
)
def test_a_call_is_told_by_what_was_seen(found: list[Frame], gate: str, expected: str | None) -> None:
    call = blocking_call(found, gate)
    assert (call.name if call is not None else None) == expected


@pytest.mark.parametrize(
    ("found", "held", "thread_is_enough"),
    [
        (frames("digest = hashlib.pbkdf2_hmac('sha256', password, salt, rounds)"), 0.0, True),
        (frames("zlib.compress(body)"), 0.0, True),
        (frames("zlib.compress(body)"), 0.9, False),
        (frames("gzip.compress(body)", f"{LIB}/gzip.py", "compress"), 0.1, True),
        (frames("total = sum(squares)"), 0.0, False),
        (frames("self.compressor_settings = parse(text)"), 0.0, False),
        (frames(None), 0.0, False),
    ],
)
def test_a_thread_is_enough_for_what_lets_go_of_the_gil(
    found: list[Frame], held: float, thread_is_enough: bool
) -> None:
    call = computing_call(found, held)
    assert (call is not None) == thread_is_enough
    assert call is None or call.action == "move_to_thread"


@pytest.mark.parametrize(
    ("found", "encodes"),
    [
        (frames("rows = json.loads(body)", f"{LIB}/json/__init__.py", "loads"), True),
        (frames("rows = orjson.loads(body)"), True),
        (frames("return page.model_dump()", "/venv/lib/python3.13/site-packages/pydantic/main.py", "model_dump"), True),
        (frames("return sum(json.values())"), False),
        (frames("render(page)", "/venv/lib/python3.13/site-packages/jinja2/environment.py", "render"), False),
    ],
)
def test_what_encodes_is_told_to_do_less_at_a_time(found: list[Frame], encodes: bool) -> None:
    call = computing_call(found, 0.0)
    assert (call is not None) == encodes
    assert call is None or (call.action == "use_process_pool" and call.text.startswith("Have less of it at a time"))


def test_each_kind_of_call_says_what_it_is_and_what_to_do() -> None:
    assert len({call.name for call in BLOCKING}) == len(BLOCKING)
    for call in BLOCKING:
        assert call.action in ("await_instead", "move_to_thread")
        assert call.text.endswith(".")
        assert call.gates or call.files or call.source
