"""Django in one file, with plain and asynchronous views, under uvicorn and gunicorn: beyond its threads and back."""

from __future__ import annotations

import re
import signal
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cli_support import script
from service_support import Answer, Server, serving, tool

SITE = """
import asyncio, time
from asgiref.sync import sync_to_async
from django.conf import settings

settings.configure(
    SECRET_KEY="a secret", ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__,
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],
)
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import path

def item(request, number):
    time.sleep(0.15)
    return JsonResponse({"number": number})

def look_up(number):
    time.sleep(0.01)
    return number

async def rows(request, number):
    return JsonResponse({"rows": await asyncio.gather(*(sync_to_async(look_up)(number + row) for row in range(3)))})

class Plain:
    # Has no asynchronous side: all that is behind it comes back to its thread.
    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        return self.get_response(request)

urlpatterns = [path("items/<int:number>", item), path("rows/<int:number>", rows)]
django = get_asgi_application()
wsgi = get_wsgi_application()

def audit(path):
    time.sleep(0.02)

async def application(scope, receive, send):
    # Outside of the context that Django opens for a request: all of it in one thread.
    if scope["type"] == "http" and scope["path"].startswith("/audited"):
        await sync_to_async(audit)(scope["path"])
        scope = {**scope, "path": scope["path"].removeprefix("/audited")}
    await django(scope, receive, send)
"""
CONTEXTS, SINGLE, LOOPS = "asgiref.contexts", "asgiref.sync_to_async", "asgiref.async_to_sync"
CURRENT = "asgiref.current_thread"


def check(answers: list[Answer], path: str = "items") -> None:
    assert {answer.status for answer in answers} == {"HTTP/1.1 200 OK"}
    for number, answer in enumerate(answers):
        rows = f"{number}, {number + 1}, {number + 2}"
        assert answer.body == (f'{{"number": {number}}}' if path == "items" else f'{{"rows": [{rows}]}}').encode()


def drive(server: Server, clients: int, requests: int, prefix: str = "") -> list[Answer]:
    answers = server.drive(prefix + "/items/{}", clients=clients, requests=requests)
    check(answers)
    return answers


def names(row: dict[str, Any]) -> dict[str, int]:
    """The tasks of the site's own functions; Django has its own around them."""
    return {
        function["name"]: function["started"] for function in row["functions"] if function["name"].startswith("site_")
    }


def comparable(output: str) -> list[str]:
    return sorted(re.sub(r"\d+", "N", line) for line in output.splitlines())


def test_requests_have_threads_of_their_own_and_what_is_outside_of_them_shares_one(tmp_path: Path) -> None:
    script(tmp_path, SITE, "site_.py")
    command = (tool("uvicorn"), "site_:application", "--port", "{port}", "--no-access-log")
    with serving(*command, folder=tmp_path, watched=False) as server:
        plain = [drive(server, 2, 5), drive(server, 60, 5), drive(server, 2, 5, "/audited")]
        alone = server.stop()
    with serving(*command, folder=tmp_path) as server:
        watched = [drive(server, 2, 5), drive(server, 60, 5), drive(server, 2, 5, "/audited")]
        began = time.time()
        drive(server, 60, 2, "/audited")
        drive(server, 2, 5, "/audited")
        ended = server.stop()
    assert watched == plain
    assert ended.status == alone.status == ended.report["exit_code"]
    assert comparable(ended.out) == comparable(alone.out)
    assert comparable(ended.err) == comparable(alone.err)
    assert not ended.report["notices"]
    assert sorted(row["name"] for row in ended.report["pools"]) == [CONTEXTS, SINGLE]

    contexts = ended.pool(CONTEXTS)
    assert (contexts["kind"], contexts["findings"]) == ("asgiref", [])
    assert names(contexts) == {"site_.item": 10 + 300 + 10 + 120 + 10}
    assert 30 <= contexts["peak_active"] <= contexts["peak_workers"]

    single = ended.pool(SINGLE)
    assert names(single) == {"site_.audit": 10 + 120 + 10}
    assert single["max_workers"] == single["peak_active"] == 1
    assert ended.report["verdict"] == "serial"
    [finding] = ended.warnings()
    assert (finding["pattern"], finding["cause"]) == ("serial", "single_worker")
    assert finding["frames"][0]["function"] == "audit"
    assert "thread_sensitive=False" in finding["advice"]["text"]
    origin = datetime.fromisoformat(ended.report["started_at"]).timestamp()
    assert origin + finding["since_seconds"] > began - 0.05
    assert finding["until_seconds"] < ended.report["duration_seconds"] - 0.2


def test_asynchronous_views_have_one_thread_for_each_request(tmp_path: Path) -> None:
    script(tmp_path, SITE, "site_.py")
    command = (tool("uvicorn"), "site_:application", "--port", "{port}", "--no-access-log")
    with serving(*command, folder=tmp_path) as server:
        check(server.drive("/rows/{}", clients=20, requests=10), "rows")
        ended = server.stop()
    assert not ended.warnings()
    [row] = ended.report["pools"]
    assert row["name"] == CONTEXTS
    assert names(row) == {"site_.look_up": 600}
    # The three of a request run one after the other.
    look_up = next(function for function in row["functions"] if function["name"] == "site_.look_up")
    assert look_up["wait_seconds"]["max"] > 0.015


def test_views_behind_synchronous_middleware(tmp_path: Path) -> None:
    script(tmp_path, SITE.replace("django.middleware.common.CommonMiddleware", "site_.Plain"), "site_.py")
    command = (tool("uvicorn"), "site_:application", "--port", "{port}", "--no-access-log")
    with serving(*command, folder=tmp_path) as server:
        drive(server, 20, 5)
        ended = server.stop()
    assert ended.report["verdict"] == "concurrent"
    assert not [finding for row in ended.report["pools"] for finding in row["findings"]]
    assert names(ended.pool(CURRENT)) == {"site_.item": 100}
    # The thread of a request is in the middleware meanwhile.
    assert ended.pool(CONTEXTS)["busy_seconds"] > ended.pool(CURRENT)["busy_seconds"]


@pytest.mark.parametrize("worker", ["asgi", "uvicorn.workers.UvicornWorker"])
def test_workers_of_gunicorn(tmp_path: Path, worker: str) -> None:
    script(tmp_path, SITE, "site_.py")
    command = (tool("gunicorn"), "site_:application", "--bind", "127.0.0.1:{port}", "-w", "2", "-k", worker)
    with serving(*command, folder=tmp_path, watched=False) as server:
        plain = drive(server, 2, 5)
        alone = server.stop(signal.SIGTERM)
    with serving(*command, folder=tmp_path) as server:
        assert drive(server, 2, 5) == plain
        drive(server, 60, 5)
        ended = server.stop(signal.SIGTERM)
    assert ended.status == alone.status == ended.report["exit_code"]
    assert comparable(ended.err) == comparable(alone.err)
    assert ended.out == alone.out == ""
    assert not ended.warnings()
    assert not ended.report["notices"]
    rows = ended.report["pools"]
    assert {row["name"] for row in rows} == {CONTEXTS}
    assert sum(names(row)["site_.item"] for row in rows) == 310
    arbiter, *workers = (process["pid"] for process in ended.report["processes"])
    assert {row["pid"] for row in rows} <= set(workers)
    assert arbiter not in {row["pid"] for row in rows}


def test_synchronous_workers_of_gunicorn(tmp_path: Path) -> None:
    """They have no pool: one request at a time in each. An asynchronous view runs in a thread made for it."""
    script(tmp_path, SITE, "site_.py")
    command = (tool("gunicorn"), "site_:wsgi", "--bind", "127.0.0.1:{port}", "-w", "2")
    with serving(*command, folder=tmp_path) as server:
        drive(server, 10, 2)
        check(server.drive("/rows/{}", clients=5, requests=3), "rows")
        ended = server.stop(signal.SIGTERM)
    assert (ended.status, ended.out) == (0, "")
    assert not ended.warnings()
    rows = ended.report["pools"]
    assert {row["name"] for row in rows} == {LOOPS, CURRENT}
    assert sum(row["tasks"]["succeeded"] for row in rows if row["name"] == LOOPS) == 15
    # What such a view calls synchronously runs in the worker's own thread, which waits for the view.
    assert sum(names(row).get("site_.look_up", 0) for row in rows if row["name"] == CURRENT) == 45
    assert len(ended.report["processes"]) == 3
