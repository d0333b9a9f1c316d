"""Processes that serve one address together: the directory they share, and one of them by itself."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
import threading
import types
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cli_support import await_true, python, script
from endpoint_support import certificate, protected
from metrics_support import BOUNDS, Scrape, pool, snapshot
from msgspec.structs import replace

from poolscope.config import MetricsSettings, Settings
from poolscope.errors import ListenError
from poolscope.live.board import Board
from poolscope.multiprocess import peer, peer_client, processes, runtime_dir
from poolscope.multiprocess.peer import Peer
from poolscope.multiprocess.runtime_dir import open_folder
from poolscope.multiprocess.serving import open_endpoint
from poolscope.multiprocess.spool_dir import SpoolDir, SpoolError
from poolscope.multiprocess.wire import VERSION, Told, encoded
from poolscope.snapshot import Snapshot

METRICS = MetricsSettings(wait_buckets=tuple(BOUNDS), run_buckets=tuple(BOUNDS))


class Others:
    """Other processes, as the system sees them: they live until they are killed."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self) -> tuple[str, Callable[[], None]]:
        """The name of a new one, and how to kill it."""
        process = subprocess.Popen(["sleep", "600"])
        self._running.append(process)

        def kill() -> None:
            process.kill()
            process.wait()

        return processes.name(process.pid), kill

    def end(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()


@pytest.fixture
def others() -> Iterator[Others]:
    made = Others()
    yield made
    made.end()


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where the directories are made: with a path short enough for sockets."""
    path = Path(f"/tmp/ps-test-{os.urandom(3).hex()}")
    path.mkdir(0o700)
    monkeypatch.setattr(runtime_dir, "candidates", lambda: [str(path)])
    monkeypatch.setattr(peer, "PERIOD_SECONDS", 0.05)
    yield path
    assert list(path.iterdir()) == [], "something was left behind"
    path.rmdir()


@pytest.fixture
def shared(home: Path) -> Iterator[SpoolDir]:
    folder = open_folder("127.0.0.1", 1, lambda: [str(home)])
    yield folder
    for entry in os.listdir(folder.path):
        os.unlink(os.path.join(folder.path, entry))
    os.rmdir(folder.path)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


#: What stands for the bounds of these tests.
ALIKE = (zlib.crc32(repr(METRICS.wait_buckets).encode()), zlib.crc32(repr(METRICS.run_buckets).encode()))


def said(submitted: int, *, family: str = "", bounds: tuple[int, int] = ALIKE) -> bytes:
    return encoded(Told(VERSION, family, bounds, snapshot(pool("web", submitted=submitted))))


def total(folder: SpoolDir) -> int:
    dead = folder.dead()
    return 0 if dead is None else sum(row.submitted for row in dead.snapshot.pools)


def scrape(port: int) -> Scrape:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        return Scrape(answer.read().decode())


def failures() -> tuple[list[str], Callable[[str, Exception], None]]:
    heard: list[str] = []
    return heard, lambda part, error: heard.append(f"{part}: {error}")


# -- the directory -----------------------------------------------------------------------------------------


def test_only_we_can_look_into_it(shared: SpoolDir) -> None:
    shared.tell("1.1", said(1))
    with shared.lock(1) as locked:
        assert locked
        modes = {stat.S_IMODE(os.stat(os.path.join(shared.path, entry)).st_mode) for entry in os.listdir(shared.path)}
    assert stat.S_IMODE(os.stat(shared.path).st_mode) == 0o700
    assert modes == {0o600}


def test_a_directory_that_others_may_look_into_is_not_used(home: Path) -> None:
    path = Path(open_folder("127.0.0.1", 1, lambda: [str(home)]).path)
    path.chmod(0o755)
    try:
        with pytest.raises(SpoolError, match="others may look into it"):
            open_folder("127.0.0.1", 1, lambda: [str(home)])
    finally:
        path.rmdir()


def test_a_link_is_not_used(home: Path) -> None:
    path = Path(open_folder("127.0.0.1", 1, lambda: [str(home)]).path)
    path.rmdir()
    elsewhere = home / "elsewhere"
    elsewhere.mkdir(0o700)
    path.symlink_to(elsewhere)
    try:
        with pytest.raises(SpoolError, match="no directory"):
            open_folder("127.0.0.1", 1, lambda: [str(home)])
    finally:
        path.unlink()
        elsewhere.rmdir()


def test_a_directory_of_somebody_else_is_not_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Only root could make one: so it is we who become somebody else.
    uid = os.geteuid()
    path = Path(open_folder("127.0.0.1", 1, lambda: [str(home)]).path)
    monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    path.rename(path.with_name(path.name.replace(f"-{uid}-", f"-{uid + 1}-", 1)))
    try:
        with pytest.raises(SpoolError, match="belongs to"):
            open_folder("127.0.0.1", 1, lambda: [str(home)])
    finally:
        for left in home.iterdir():
            left.rmdir()


def test_a_base_where_anybody_may_replace_it_is_not_used(home: Path) -> None:
    home.chmod(0o777)
    try:
        with pytest.raises(SpoolError, match="anybody may replace"):
            open_folder("127.0.0.1", 1, lambda: [str(home)])
    finally:
        home.chmod(0o700)


def test_each_address_and_program_has_its_own(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = [open_folder("127.0.0.1", port, lambda: [str(home)]).path for port in (1, 2, 1)]
    main = sys.modules["__main__"]
    monkeypatch.setattr(main, "__file__", "/another.py")
    opened.append(open_folder("127.0.0.1", 1, lambda: [str(home)]).path)
    monkeypatch.setitem(sys.modules, "__mp_main__", main)
    monkeypatch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))  # of a spawned child, or a fork server
    assert open_folder("127.0.0.1", 1, lambda: [str(home)]).path == opened[-1]
    monkeypatch.delitem(sys.modules, "__mp_main__")
    for words in (["-c"], ["-"]):  # without a file
        monkeypatch.setattr(sys, "argv", words)
        opened.append(open_folder("127.0.0.1", 1, lambda: [str(home)]).path)
    assert opened[0] == opened[2]
    assert len(set(opened)) == 5
    for path in set(opened):
        assert not os.path.exists(path) or os.rmdir(path) is None


def test_the_next_base_is_taken_where_one_cannot_be_written(home: Path) -> None:
    folder = open_folder("127.0.0.1", 1, lambda: ["/proc", str(home)])
    assert os.path.dirname(folder.path) == str(home)
    os.rmdir(folder.path)
    with pytest.raises(SpoolError, match="TMPDIR"):
        open_folder("127.0.0.1", 1, lambda: ["/proc"])


# -- the totals of the dead --------------------------------------------------------------------------------


def test_what_a_dead_one_left_is_added_once(shared: SpoolDir, others: Others) -> None:
    name, kill = others.start()
    shared.tell(name, said(5))
    with shared.lock(1):
        shared.bury()
        assert (total(shared), shared.told()) == (0, [name])
        kill()
        shared.bury()
        assert (total(shared), shared.told()) == (5, [])
        shared.bury()
        assert total(shared) == 5


def test_a_fold_that_was_interrupted_is_not_repeated(
    shared: SpoolDir, others: Others, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between writing the totals and removing what went into them."""
    name, kill = others.start()
    shared.tell(name, said(5))
    kill()

    def killed(entry: str) -> None:
        raise KeyboardInterrupt

    with shared.lock(1):
        with monkeypatch.context() as patch:
            patch.setattr(shared, "_remove", killed)
            with pytest.raises(KeyboardInterrupt):
                shared.bury()
        assert shared.told() == [name]
        shared.bury()
        assert (total(shared), shared.told()) == (5, [])
        other, kill = others.start()
        shared.tell(other, said(7))
        kill()
        shared.bury()
        assert total(shared) == 12


def test_one_that_has_not_been_waited_for_is_dead(shared: SpoolDir) -> None:
    process = subprocess.Popen(["true"])
    name = processes.name(process.pid)
    await_true(lambda: not processes.lives(name), "it lives on")
    process.wait()
    assert not processes.lives(name)
    assert processes.lives(processes.name(os.getpid()))


def test_another_process_of_that_number_is_another(shared: SpoolDir) -> None:
    assert not processes.lives(f"{os.getpid()}.1")


def test_days_of_restarts_leave_one_file(shared: SpoolDir) -> None:
    for number in range(1, 300):
        shared.tell(f"{10_000_000 + number}.1", said(1))
        with shared.lock(1):
            shared.bury()
    assert total(shared) == 299
    assert set(os.listdir(shared.path)) <= {"dead", "lock"}
    assert os.path.getsize(os.path.join(shared.path, "dead")) < 2000


def test_who_comes_after_all_were_killed_starts_anew(shared: SpoolDir) -> None:
    shared.tell("10000001.1", said(5))
    (Path(shared.path) / "10000001.1.sock").touch()
    (Path(shared.path) / "10000001.1.told.10000001.new").touch()
    with shared.lock(1):
        shared.enter("1.1", "", again=False)
    assert os.listdir(shared.path) == ["lock"]


def test_who_replaces_the_only_worker_of_a_server_goes_on(shared: SpoolDir) -> None:
    shared.tell("10000001.1", said(5, family="7.7"))
    with shared.lock(1):
        shared.enter("1.1", "7.7", again=False)
        assert total(shared) == 5
        shared.enter("2.1", "7.7", again=False)
        assert total(shared) == 5
        shared.enter("3.1", "8.8", again=False)
        assert total(shared) == 0


def test_a_program_that_became_another_counts_anew(shared: SpoolDir, others: Others) -> None:
    """Its process is the same one, and so is its name; another member lives."""
    name, _ = others.start()
    other, _ = others.start()
    (Path(shared.path) / f"{other}.sock").touch()
    shared.tell(name, said(5))
    with shared.lock(1):
        shared.enter(name, "", again=False)
        assert (total(shared), shared.told()) == (5, [])


def test_what_cannot_be_understood_is_left_out(shared: SpoolDir, others: Others) -> None:
    later = encoded(replace(msgspec.msgpack.decode(said(5), type=Told), version=VERSION + 1))
    for data in (b"", b"\xc1", b"[" * 100_000, later, said(5)[:-9]):
        shared.tell("10000001.1", data)
        assert shared.last("10000001.1") is None
        with shared.lock(1):
            shared.bury()
        assert (total(shared), shared.told()) == (0, [])


def test_the_lock_is_for_one_at_a_time(shared: SpoolDir) -> None:
    """Also among processes; and a forked child of who has it does not have it."""
    text = f"""
import sys
import types
from poolscope.multiprocess.spool_dir import SpoolDir
with SpoolDir({shared.path!r}).lock(5) as locked:
    print(locked, flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == b"True\n"
        with shared.lock(0.05) as locked:
            assert not locked
        other.stdin.close()
        with shared.lock(30) as locked:
            assert locked
            with shared.lock(0.01) as twice:
                assert not twice


# -- one process -------------------------------------------------------------------------------------------


def settings(port: int) -> Settings:
    return Settings(listen=f"127.0.0.1:{port}", metrics=METRICS)


def opened(port: int, submitted: Callable[[], int], failed: Any = None, *, unasked: bool = False) -> Peer:
    def source() -> Snapshot:
        return snapshot(pool("web", pid=os.getpid(), submitted=submitted()))

    served = open_endpoint(source, settings(port), failed or failures()[1], unasked=unasked)
    assert isinstance(served, Peer)
    return served


WORKER = """
import os, socket
from poolscope.multiprocess.processes import Post

with socket.create_server(("127.0.0.1", 0)) as server:
    near = socket.create_connection(server.getsockname())
    far, _ = server.accept()
shared = SHARED
if child := os.fork():
    os.waitpid(child, 0)
else:
    post = Post()
    LISTEN
    for each in (near, far, shared):
        each.close()
    print(post.will_be_filled(), flush=True)
    os._exit(0)
"""


@pytest.mark.parametrize(
    ("shared", "listen", "filled"),
    [
        ("socket.create_server(('127.0.0.1', 0))", "", True),
        # uvicorn and hypercorn bind it in the parent, and listen in the worker, when its loop has begun
        ("socket.socket(); shared.bind(('127.0.0.1', 0))", "shared.listen()", True),
        ("socket.socket(socket.AF_UNIX); shared.bind('there')", "shared.listen()", True),
        ("socket.socket()", "", False),
        ("socket.socket(socket.AF_INET, socket.SOCK_DGRAM); shared.bind(('127.0.0.1', 0))", "", False),
    ],
)
def test_a_worker_knows_whether_another_one_will_follow(tmp_path: Path, shared: str, listen: str, filled: bool) -> None:
    program = script(tmp_path, WORKER.replace("SHARED", shared).replace("LISTEN", listen))
    assert python(program, cwd=tmp_path) == (0, f"{filled}\n", "")


def test_a_single_process_is_served_and_leaves_nothing(home: Path) -> None:
    port = free_port()
    with opened(port, lambda: 3) as member:
        assert member.url == f"http://127.0.0.1:{port}"
        assert member.holds_port
        assert scrape(port).value("poolscope_pool_tasks_submitted_total", pool="web") == 3
        with pytest.raises(ListenError, match="serves it already"):
            opened(port, lambda: 3)
    member.close()
    with opened(port, lambda: 3):
        assert scrape(port).value("poolscope_pool_tasks_submitted_total", pool="web") == 3


def test_a_program_that_asks_for_what_the_environment_has_served_already(home: Path) -> None:
    port = free_port()
    with opened(port, lambda: 3, unasked=True) as first:
        assert opened(port, lambda: 3, unasked=True) is first
        assert scrape(port).value("poolscope_pool_tasks_submitted_total", pool="web") == 3
        with opened(port, lambda: 4) as member:
            assert first.closed
            assert scrape(port).value("poolscope_pool_tasks_submitted_total", pool="web") == 4
            assert opened(port, lambda: 4, unasked=True) is member
            with pytest.raises(ListenError, match="serves it already"):
                opened(port, lambda: 4)
            assert not member.closed


def test_the_url_says_whether_it_takes_tls(home: Path, tmp_path: Path) -> None:
    crt, key = certificate(tmp_path)
    port = free_port()
    secured = protected(f"127.0.0.1:{port}", tls={"certificate": crt, "key": key})
    with open_endpoint(snapshot, secured, failures()[1]) as member:
        assert isinstance(member, Peer)
        assert member.url == f"https://127.0.0.1:{port}"


def test_a_port_of_another_program_is_refused(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ListenError, match="taken"):
        opened(taken.getsockname()[1], int)


def test_port_0_is_for_one_process(home: Path) -> None:
    with open_endpoint(snapshot, settings(0), failures()[1]) as server:
        assert not isinstance(server, Peer)
        assert scrape(server.port)


def test_without_a_directory_a_process_is_served_alone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime_dir, "candidates", lambda: ["/proc"])
    heard, failed = failures()
    with open_endpoint(snapshot, settings(port := free_port()), failed) as server:
        assert not isinstance(server, Peer)
        assert scrape(port)
    assert len(heard) == 1
    assert "TMPDIR" in heard[0]


def test_a_directory_that_was_cleaned_away_is_made_again(home: Path) -> None:
    port = free_port()
    with opened(port, lambda: 3) as member:
        (path,) = home.iterdir()
        for entry in path.iterdir():
            entry.unlink()
        path.rmdir()
        await_true(lambda: any(entry.suffix == ".sock" for entry in home.glob("*/*")), "it was not made again")
        assert member.holds_port
        assert scrape(port).value("poolscope_pool_tasks_submitted_total", pool="web") == 3


def test_a_silent_member_does_not_hold_up_a_scrape(home: Path, others: Others, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_client, "ANSWER_SECONDS", 0.1)
    heard, failed = failures()
    port = free_port()
    with opened(port, lambda: 3, failed):
        (path,) = home.iterdir()
        name, kill = others.start()
        SpoolDir(str(path)).tell(name, said(4))
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(str(path / f"{name}.sock"))
            silent.listen(1)
            shown = scrape(port)
            assert shown.value("poolscope_pool_tasks_submitted_total", pool="web") == 7
            assert shown.value("poolscope_pool_max_workers", pool="web") == 4
        assert [line for line in heard if f"no answer from process {name.partition('.')[0]}" in line]
        kill()
        assert scrape(port).value("poolscope_pool_tasks_submitted_total", pool="web") == 7
        assert not (path / f"{name}.told").exists()


def test_the_live_page_shows_what_all_have_together(home: Path, others: Others) -> None:
    port = free_port()
    with opened(port, lambda: 3):
        (path,) = home.iterdir()
        name, _ = others.start()
        told = Told(VERSION, "", ALIKE, snapshot(pool("mail", submitted=4)))
        SpoolDir(str(path)).tell(name, encoded(told))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
            assert b"<title>poolscope: live</title>" in answer.read()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/live", timeout=30) as answer:
            board = msgspec.json.decode(answer.read(), type=Board)
        assert [line.name for line in board.pools] == ["web"]
        assert board.word == "insufficient data"


def test_a_scrape_that_has_begun_is_complete_although_its_process_ends(home: Path, others: Others) -> None:
    """Without the part of the others, all their counters would go down in it."""
    port = free_port()
    inside, go_on = threading.Event(), threading.Event()
    slow = [False]

    def submitted() -> int:
        if slow[0]:
            slow[0] = False
            inside.set()
            assert go_on.wait(30)
        return 3

    member = opened(port, submitted)
    (path,) = home.iterdir()
    name, _ = others.start()
    SpoolDir(str(path)).tell(name, said(4))
    slow[0] = True
    shown: list[float | None] = []
    scraping = threading.Thread(
        target=lambda: shown.append(scrape(port).value("poolscope_pool_tasks_submitted_total", pool="web"))
    )
    scraping.start()
    assert inside.wait(30)
    closing = threading.Thread(target=member.close)
    closing.start()
    await_true(lambda: member.closed, "it does not end")
    go_on.set()
    scraping.join()
    closing.join()
    assert shown == [7]


def test_a_member_with_other_buckets_is_left_out(home: Path, others: Others) -> None:
    port = free_port()
    with opened(port, lambda: 3):
        (path,) = home.iterdir()
        name, kill = others.start()
        SpoolDir(str(path)).tell(name, said(4, bounds=(1, 1)))
        assert scrape(port).value("poolscope_pool_tasks_submitted_total", pool="web") == 3
        kill()
        assert scrape(port).value("poolscope_pool_tasks_submitted_total", pool="web") == 3


def test_a_disk_that_is_full_ends_nothing(home: Path, others: Others, monkeypatch: pytest.MonkeyPatch) -> None:
    heard, failed = failures()
    port = free_port()
    with opened(port, lambda: 3, failed):
        (path,) = home.iterdir()
        name, kill = others.start()
        SpoolDir(str(path)).tell(name, said(4))
        replace_file = SpoolDir._replace

        def full(self: SpoolDir, entry: str, data: bytes) -> None:
            raise OSError(28, "No space left on device")

        # Before the end of the other one: the next look may add up its counts at once.
        monkeypatch.setattr(SpoolDir, "_replace", full)
        kill()
        heard.clear()
        await_true(lambda: any("No space left" in line for line in heard), "it was not noticed")
        assert scrape(port).value("poolscope_pool_tasks_submitted_total", pool="web") == 7
        monkeypatch.setattr(SpoolDir, "_replace", replace_file)
        assert scrape(port).value("poolscope_pool_tasks_submitted_total", pool="web") == 7


def test_a_member_that_says_nonsense_is_left_out(home: Path, others: Others) -> None:
    port = free_port()
    with opened(port, lambda: 3):
        (path,) = home.iterdir()
        name, kill = others.start()
        with socket.socket(socket.AF_UNIX) as liar:
            liar.bind(str(path / f"{name}.sock"))
            liar.listen(1)

            def lie() -> None:
                connection, _ = liar.accept()
                with connection:
                    connection.recv(1)
                    connection.sendall(b"\xff\xff\xff\xffnonsense")

            thread = threading.Thread(target=lie)
            thread.start()
            assert scrape(port).value("poolscope_pool_tasks_submitted_total", pool="web") == 3
            thread.join()
        kill()


def test_two_hundred_members(home: Path, others: Others) -> None:
    """Answers, and the dead, of as many as a large server has workers."""
    port = free_port()
    with opened(port, lambda: 1):
        (path,) = home.iterdir()
        folder = SpoolDir(str(path))
        for number in range(200):
            folder.tell(f"{10_000_000 + number}.1", said(1))
            (path / f"{10_000_000 + number}.1.sock").touch()
        assert scrape(port).value("poolscope_pool_tasks_submitted_total", pool="web") == 201
        await_true(lambda: len(list(path.iterdir())) < 10, "the dead were not removed")
