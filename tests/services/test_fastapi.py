"""FastAPI with plain functions as endpoints, under uvicorn: driven beyond its 40 threads and back."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cli_support import await_true, environment, script
from service_support import Answer, Ended, Server, serving, tool

APP = """
import os, time
from contextlib import asynccontextmanager
from anyio import to_thread
from fastapi import BackgroundTasks, Depends, FastAPI
from fastapi.responses import StreamingResponse

@asynccontextmanager
async def lifespan(app):
    if "TOKENS" in os.environ:
        to_thread.current_default_thread_limiter().total_tokens = int(os.environ["TOKENS"])
    yield

app = FastAPI(lifespan=lifespan)

def connection():
    yield "connection"

@app.get("/items/{number}")
def item(number: int):
    time.sleep(0.2)
    return {"number": number}

def note(number):
    pass

@app.get("/rows/{number}")
def rows(number: int, later: BackgroundTasks, database=Depends(connection)):
    later.add_task(note, number)
    def lines():
        for line in range(3):
            yield f"{database} {number} {line}"
    return StreamingResponse(lines())
"""
POOL = "anyio.to_thread"
SLEEP = "time.sleep(0.2)"


@cache
def expected(path: str, number: int) -> bytes:
    if path == "items":
        return b'{"number":%d}' % number
    return b"".join(b"connection %d %d" % (number, line) for line in range(3))


def check(answers: list[Answer], path: str = "items") -> None:
    assert {answer.status for answer in answers} == {"HTTP/1.1 200 OK"}
    assert [answer.body for answer in answers] == [expected(path, number) for number in range(len(answers))]


def light(server: Server) -> list[Answer]:
    return server.drive("/items/{}", clients=3, requests=5)


def uvicorn(*options: str) -> tuple[str, ...]:
    return (tool("uvicorn"), "app:app", "--port", "{port}", *options)


def check_verdict(ended: Ended, began: float, tokens: int) -> list[dict[str, Any]]:
    """The pool turned serial, not before the overload, and is concurrent again; returns its rows."""
    report = ended.report
    assert report["verdict"] == "async_then_serial", report["findings"]
    origin = datetime.fromisoformat(report["started_at"]).timestamp()
    assert ended.warnings()
    for finding in ended.warnings():
        assert (finding["pattern"], finding["cause"]) == ("async_then_serial", "blocking_io")
        assert repr(POOL) in finding["summary"]
        assert "current_default_thread_limiter()" in finding["advice"]["text"]
        frame = finding["frames"][0]
        assert (Path(frame["file"]).name, frame["function"], frame["source"]) == ("app.py", "item", SLEEP)
        assert origin + finding["since_seconds"] > began - 0.05
        assert finding["until_seconds"] < report["duration_seconds"] - 0.5
    rows = [row for row in report["pools"] if row["name"] == POOL]
    for row in rows:
        assert row["kind"] == "anyio"
        assert row["max_workers"] == tokens
        if any(finding["severity"] != "info" for finding in row["findings"]):
            assert row["peak_workers"] == row["peak_active"] == tokens
        assert [function["name"] for function in row["functions"]] == ["app.item"]
        assert row["tasks"]["started"] == row["tasks"]["succeeded"] == row["tasks"]["submitted"]
    assert not report["notices"]
    return rows


def comparable(output: str) -> list[str]:
    """Lines of a log without process and port numbers, in an order of their own."""
    return sorted(re.sub(r"(\[|127\.0\.0\.1:)\d+", r"\1", line) for line in output.splitlines())


@pytest.mark.parametrize(("number", "loop"), [(signal.SIGINT, "asyncio"), (signal.SIGTERM, "uvloop")])
def test_two_hundred_clients(tmp_path: Path, number: int, loop: str) -> None:
    script(tmp_path, APP, "app.py")
    command = uvicorn("--loop", loop)
    with serving(*command, folder=tmp_path, watched=False) as server:
        plain = [light(server), server.drive("/items/{}", clients=40, requests=3), light(server)]
        alone = server.stop(number)
    with serving(*command, folder=tmp_path) as server:
        watched = [light(server)]
        began = time.time()
        overload = server.drive("/items/{}", clients=200, requests=3)
        watched += [overload[:120], light(server)]
        ended = server.stop(number)
    check(overload)
    assert watched == plain
    assert ended.status == alone.status == ended.report["exit_code"]
    assert set(comparable(ended.out)) >= set(comparable(alone.out))
    assert comparable(ended.err) == comparable(alone.err)
    [row] = check_verdict(ended, began, 40)
    assert row["tasks"]["submitted"] == 15 + 600 + 15
    assert row["peak_queue_depth"] > 100
    [loop_row] = ended.report["event_loops"]
    assert loop_row["kind"] == loop
    assert len(ended.report["processes"]) == 1


def test_sixty_clients_of_forty_threads_are_a_note(tmp_path: Path) -> None:
    """A third of them waits, for half the time that a request takes: less than what is warned of."""
    script(tmp_path, APP, "app.py")
    with serving(*uvicorn(), folder=tmp_path) as server:
        check(server.drive("/items/{}", clients=60, requests=9))
        ended = server.stop()
    assert ended.report["verdict"] == "concurrent"
    [finding] = ended.pool(POOL)["findings"]
    assert (finding["pattern"], finding["severity"]) == ("burst", "info")
    # In one piece, unless the clients are held up themselves.
    assert finding["evidence"]["saturated_seconds"] > 1


def test_a_light_load_is_concurrent(tmp_path: Path) -> None:
    script(tmp_path, APP, "app.py")
    with serving(*uvicorn(), folder=tmp_path) as server:
        check(light(server))
        check(server.drive("/rows/{}", clients=5, requests=20), "rows")
        ended = server.stop()
    assert ended.report["verdict"] == "concurrent"
    assert not [finding for row in ended.report["pools"] for finding in row["findings"]]
    # What FastAPI and Starlette put around them is none of the user's.
    functions = {function["name"]: function["started"] for function in ended.pool(POOL)["functions"]}
    assert functions.pop("app.connection") == 100
    assert functions.pop("app.rows.<locals>.lines") == 400
    assert functions == {"app.item": 15, "app.rows": 100, "app.note": 100}
    # FastAPI makes a limiter for each end of a dependency, so that it need not wait: they are one row.
    ends = ended.pool("fastapi.concurrency:contextmanager_in_threadpool")
    assert [function["name"] for function in ends["functions"]] == ["app.connection"]
    assert ends["tasks"]["succeeded"] == 100
    assert len(ended.report["pools"]) == 2


def test_another_size_can_be_tried_without_touching_the_code(tmp_path: Path) -> None:
    script(tmp_path, APP, "app.py")
    options = ("--set", f"{POOL}.max_workers=200")
    with serving(*uvicorn(), folder=tmp_path, options=options) as server:
        check(light(server))
        check(server.drive("/items/{}", clients=200, requests=2))
        ended = server.stop()
    assert not ended.warnings()
    row = ended.pool(POOL)
    assert row["max_workers"] == 200
    assert row["peak_active"] > 100


def test_several_workers(tmp_path: Path) -> None:
    script(tmp_path, APP, "app.py")
    command = uvicorn("--workers", "2")
    env = environment(PYTHONPATH=str(tmp_path), TOKENS="4")
    with serving(*command, folder=tmp_path, watched=False, env=env) as server:
        check(light(server))
        alone = server.stop(signal.SIGTERM)
    with serving(*command, folder=tmp_path, env=env) as server:
        check(light(server))
        began = time.time()
        check(server.drive("/items/{}", clients=60, requests=2))
        check(light(server))
        ended = server.stop(signal.SIGTERM)
    assert ended.status == alone.status
    rows = check_verdict(ended, began, 4)
    supervisor, *others = ended.report["processes"]
    workers = [process["pid"] for process in others if "spawn_main" in " ".join(process["command"])]
    # Which of them gets how many of the connections is the kernel's choice.
    assert {row["pid"] for row in rows} <= set(workers)
    assert len(workers) == 2
    assert all(process["parent"] == supervisor["pid"] for process in others)
    assert sum(row["tasks"]["submitted"] for row in rows) == 15 + 120 + 15


def changed(server: Server) -> bool:
    """Whether the new worker answers."""
    try:
        return server.get("/rows/1").body.startswith(b"changed")
    except (ConnectionError, asyncio.IncompleteReadError):
        return False  # the old one ended before it had answered


def test_reload(tmp_path: Path) -> None:
    app = script(tmp_path, APP, "app.py")
    env = environment(PYTHONPATH=str(tmp_path), TOKENS="6", WATCHFILES_FORCE_POLLING="1", WATCHFILES_POLL_DELAY_MS="50")
    with serving(*uvicorn("--reload"), folder=tmp_path, env=env) as server:
        check(light(server))
        app.write_text(APP.replace('"connection"', '"changed"'))
        await_true(lambda: changed(server), "it did not reload")
        began = time.time()
        check(server.drive("/items/{}", clients=60, requests=2))
        check(light(server))
        ended = server.stop()
    before, after = sorted(
        (row for row in ended.report["pools"] if row["name"] == POOL), key=lambda row: row["first_submit_seconds"]
    )
    assert before["tasks"]["submitted"] >= 15
    assert not before["findings"]
    [finding] = after["findings"]
    assert finding["pattern"] == "async_then_serial"
    assert finding["frames"][0]["source"] == SLEEP
    origin = datetime.fromisoformat(ended.report["started_at"]).timestamp()
    assert origin + finding["since_seconds"] > began - 0.05
    assert {before["pid"], after["pid"]} < {process["pid"] for process in ended.report["processes"]}
