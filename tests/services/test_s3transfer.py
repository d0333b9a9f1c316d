"""s3transfer's bounded executors: gated by events, and in a program that uploads to an S3 of its own on loopback."""

from __future__ import annotations

import sys
import threading
import traceback
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import s3transfer.futures
import s3transfer.manager
from cli_support import await_true, python, script, watched
from probe_support import FakeProbe, Ledger, waits
from s3transfer.futures import BoundedExecutor, NonThreadedExecutor
from s3transfer.manager import TransferConfig, TransferManager
from s3transfer.utils import NoResourcesAvailable, SlidingWindowSemaphore

from poolscope.probe import adapters
from poolscope.probe.adapters import s3transfer as adapter
from poolscope.probe.executors import threadpool

LIMIT = 30  # seconds for what is sure to come


class Task:
    """One task; it lasts until it may end."""

    def __init__(self):
        self.transfer_id = 1
        self.started, self.go = threading.Event(), threading.Event()

    def __call__(self, context=None):
        self.started.set()
        assert self.go.wait(LIMIT)


@pytest.fixture
def probe():
    made = FakeProbe()
    threadpool.patch(made)
    adapter.patch(made)
    yield made
    adapter.unpatch()
    threadpool.unpatch()
    assert not made.faults


@pytest.fixture
def bounded():
    made = []

    def make(*args, **kwargs):
        made.append(BoundedExecutor(*args, **kwargs))
        return made[-1]

    yield make
    for executor in made:
        executor.shutdown()


#: What a manager asks of a client before the first transfer.
CLIENT = SimpleNamespace(
    meta=SimpleNamespace(
        events=SimpleNamespace(register_first=lambda *_, **__: None, register_last=lambda *_, **__: None)
    )
)


def submitter(executor, task):
    thread = threading.Thread(target=executor.submit, args=(task,))
    thread.start()
    return thread


def test_callers_that_are_held_up_are_queued(probe, bounded):
    executor = bounded(3, 1)
    tasks = [Task() for _ in range(5)]
    for task in tasks[:3]:
        executor.submit(task)
    assert tasks[0].started.wait(LIMIT)
    [recorder] = probe.recorders
    ledger = Ledger(recorder, probe)
    held_up = [submitter(executor, task) for task in tasks[3:]]
    await_true(lambda: ledger.read().submitted == 5, "they do not come")
    ledger.only(submitted=5, queued=4, running=1)
    for task in tasks:
        task.go.set()
    for thread in held_up:
        thread.join(LIMIT)
    executor.shutdown()
    ledger.only(submitted=5, succeeded=5)
    # Each waited from its submission on, whoever held it up.
    *_, submissions, starts, ends = map(sorted, zip(*ledger.finished, strict=True))
    assert all(started > ended for started, ended in zip(starts[1:], ends, strict=False))
    assert submissions[-1] < ends[0]
    assert set(probe.function_names().values()) == {f"{__name__}.Task"}


def test_one_that_would_have_to_wait_and_may_not_is_rejected(probe, bounded):
    executor = bounded(1, 1)
    task = Task()
    executor.submit(task)
    ledger = Ledger(probe.recorders[0], probe)
    with pytest.raises(NoResourcesAvailable):
        executor.submit(Task(), block=False)
    task.go.set()
    executor.shutdown()
    ledger.only(submitted=1, succeeded=1, rejected=1)


def test_one_that_comes_too_late_is_rejected_once(probe, bounded):
    executor = bounded(3, 1)
    task = Task()
    task.go.set()
    executor.submit(task)
    executor.shutdown()
    ledger = Ledger(probe.recorders[0], probe)
    for number in range(1, 3):
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(task)
        ledger.only(submitted=1, succeeded=1, rejected=number)


class Interrupted:
    def acquire(self, *_):
        raise KeyboardInterrupt


def test_one_whose_caller_is_interrupted_was_cancelled(probe, bounded):
    def interrupt():
        executor = bounded(3, 1, tag_semaphores={"tag": Interrupted()})
        try:
            executor.submit(Task(), tag="tag")
        except KeyboardInterrupt as exc:
            return [frame.name for frame in traceback.extract_tb(exc.__traceback__)]

    frames = interrupt()
    assert frames == ["interrupt", "submit", "acquire"]
    Ledger(probe.recorders[0], probe).only(submitted=1, cancelled=1)
    adapter.unpatch()
    assert interrupt() == frames


@pytest.mark.parametrize("tag", [None, "tag"])
def test_who_is_held_up_waits_for_the_pool(probe, bounded, tag):
    requests = bounded(1, 1, tag_semaphores={"tag": SlidingWindowSemaphore(1)})
    submissions = bounded(10, 1)
    held = Task()
    requests.submit(held, tag=tag)
    assert held.started.wait(LIMIT)
    done = Task()
    done.go.set()

    class Submission(Task):
        def __call__(self, context=None):
            requests.submit(done, tag=tag)

    submissions.submit(Submission())
    # Others may make room as well behind a semaphore that the program has given.
    await_true(lambda: waits(probe) == [(2, 1, True, {(1, 0), (0, 0)} if tag else {(1, 0)})], "it does not wait")
    held.go.set()
    assert done.started.wait(LIMIT)
    submissions.shutdown()
    assert waits(probe) == []


def test_one_that_waits_for_room_in_its_own_pool_never_gets_it(probe, bounded):
    executor = bounded(2, 1)
    inner = [Task(), Task()]

    class Nested(Task):
        def __call__(self, context=None):
            for task in inner:
                task.go.set()
                executor.submit(task)

    executor.submit(Nested())
    await_true(lambda: waits(probe) == [(1, 1, True, {(1, 0)})], "it does not wait")
    assert not inner[0].started.is_set()
    executor._semaphore.release(1, None)
    assert inner[1].started.wait(LIMIT)


def test_one_pool_for_each_role(probe):
    manager = TransferManager(client=CLIENT, config=TransferConfig(max_request_concurrency=4))
    assert not probe.recorders  # with its first task
    tasks = [Task() for _ in range(3)]
    executors = [manager._request_executor, manager._submission_executor, manager._io_executor]
    for executor, task in zip(executors, tasks, strict=True):
        task.go.set()
        executor.submit(task)
    for executor in executors:
        executor.shutdown()
    names = ["s3transfer.request", "s3transfer.submission", "s3transfer.io"]
    assert [recorder.name for recorder in probe.recorders] == names
    assert [recorder.size()[1] for recorder in probe.recorders] == [4, 5, 1]
    for recorder in probe.recorders:
        Ledger(recorder, probe).only(submitted=1, succeeded=1)


def test_the_settings_may_say_how_many(probe):
    probe.add_rule("s3transfer.request", 7)
    manager = TransferManager(client=CLIENT)
    task = Task()
    task.go.set()
    manager._request_executor.submit(task)
    assert manager._request_executor._executor._max_workers == 7
    manager.shutdown()


def test_without_threads_nothing_is_recorded(probe, bounded):
    executor = bounded(3, 1, executor_cls=NonThreadedExecutor)
    task = Task()
    task.go.set()
    executor.submit(task)
    assert task.started.is_set()
    assert not probe.recorders


def test_one_that_is_older_goes_on_as_the_same_pool(bounded):
    executor, probe = bounded(3, 1), FakeProbe()
    first, second, third = Task(), Task(), Task()
    executor.submit(first)
    threadpool.patch(probe)
    try:
        executor.submit(second)  # recorded as a standard executor
        adapter.patch(probe)
        held_up = submitter(executor, third)
        executor_ledger = Ledger(probe.recorders[0], probe)
        await_true(lambda: executor_ledger.read().submitted == 2, "it does not come")
        adapter.unpatch()
        for task in (first, second, third):
            task.go.set()
        held_up.join(LIMIT)
        executor.shutdown()
        executor_ledger.only(submitted=2, succeeded=2)
        assert len(probe.recorders) == 1
    finally:
        adapter.unpatch()
        threadpool.unpatch()
    assert not probe.faults


def test_it_goes_off_as_it_came():
    probe = FakeProbe()
    classes = (s3transfer.futures.BoundedExecutor, s3transfer.manager.TransferManager)
    before = [dict(vars(cls)) for cls in classes]
    for _ in range(2):
        adapter.patch(probe)
        adapter.patch(probe)
        assert [dict(vars(cls)) for cls in classes] != before
        adapter.unpatch()
        adapter.unpatch()
        assert [dict(vars(cls)) for cls in classes] == before


@pytest.mark.parametrize("hidden", ["submit", "__init__", None])
def test_another_version_is_shown_as_standard_executors(monkeypatch, hidden):
    fake: Any = ModuleType("s3transfer.futures")
    methods = dict(vars(BoundedExecutor))
    if hidden is not None:
        methods[hidden] = lambda self: None
        fake.BoundedExecutor = type("BoundedExecutor", (), methods)
    monkeypatch.setitem(sys.modules, "s3transfer.futures", fake)
    monkeypatch.setitem(sys.modules, "s3transfer.manager", ModuleType("s3transfer.manager"))
    probe = FakeProbe()
    threadpool.patch(probe)
    adapter.patch(probe)
    try:
        texts = [text for kind, text in probe.messages if kind == "notice"]
        line = f"s3transfer {adapters._version('s3transfer')}: waits to submit are not seen: no "
        assert len(texts) == 2
        assert all(text.startswith(line) for text in texts)
        executor = BoundedExecutor(3, 1)
        task = Task()
        task.go.set()
        executor.submit(task)
        executor.shutdown()
        Ledger(probe.recorders[0], probe).only(submitted=1, succeeded=1)
    finally:
        adapter.unpatch()
        threadpool.unpatch()
    assert not probe.faults


PROGRAM = """
import http.server, io, threading, time
import boto3
from botocore.config import Config
from s3transfer.manager import TransferConfig, TransferManager

class Storage(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(0.05)
        self.send_response(200)
        self.send_header("ETag", '"etag"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass

def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Storage)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = boto3.client(
        "s3", endpoint_url=f"http://127.0.0.1:{server.server_port}", region_name="us-east-1",
        aws_access_key_id="id", aws_secret_access_key="key",
        config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
    )
    # As many requests may go in as run at once: it is the threads that submit them which wait.
    config = TransferConfig(
        max_request_concurrency=3, max_request_queue_size=3, max_in_memory_upload_chunks=3, max_submission_concurrency=2
    )
    with TransferManager(client, config) as manager:

        def upload(number):
            return manager.upload(io.BytesIO(b"content"), "bucket", f"key-{number}")

        for number in range(10):
            upload(number).result()
        print(len([future.result() for future in [upload(number) for number in range(180)]]))
        for number in range(10):
            upload(number).result()
    server.shutdown()

main()
"""


def test_a_program_that_uploads_faster_than_it_may(tmp_path: Path) -> None:
    program = script(tmp_path, PROGRAM)
    plain = python(program, cwd=tmp_path)
    outcome, report = watched(program, cwd=tmp_path)
    assert outcome == plain
    assert outcome.out == "180\n"
    # The program's own server has a thread for each connection.
    assert all("that socketserver started" in notice for notice in report["notices"])
    rows = {pool["name"]: pool for pool in report["pools"]}
    assert rows.keys() == {"s3transfer.request", "s3transfer.submission"}
    for row in rows.values():
        assert row["created_at"].rpartition(":")[0] == f"{tmp_path.name}/program.py"
        assert row["tasks"]["succeeded"] == row["tasks"]["submitted"] == 200
    assert [function["name"] for function in rows["s3transfer.request"]["functions"]] == [
        "s3transfer.upload.PutObjectTask"
    ]
    request = rows["s3transfer.request"]
    assert (request["max_workers"], request["peak_active"]) == (3, 3)
    # What is queued for long are the two that are held up before their requests may go in.
    assert request["queued_seconds"] > 1.0
    [finding] = [finding for finding in rows["s3transfer.submission"]["findings"] if finding["severity"] != "info"]
    assert finding["pattern"] in ("serial", "async_then_serial")
    assert "'s3transfer.submission'" in finding["summary"]
    assert (finding["cause"], finding["advice"]["pool"]) == ("downstream_pool", "s3transfer.request")
    # Where the machine is busy the tasks of the full pool wait long, too, which is then told of it.
    assert {
        (finding["pattern"], finding["cause"]) for finding in request["findings"] if finding["severity"] != "info"
    } <= {("async_then_serial", "blocking_io")}
