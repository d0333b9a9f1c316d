"""The directory of a run: of nobody else, gone with the run, and swept by a later one where the run was killed."""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from poolscope.errors import PoolscopeError
from poolscope.supervisor import folder as folders
from poolscope.supervisor.folder import Folder, sweep


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # A path that is short enough for a socket, whatever pytest's is.
    short = Path(f"/tmp/ps-{os.urandom(4).hex()}")
    short.symlink_to(tmp_path)
    monkeypatch.setattr(folders, "_bases", lambda: [str(short)])
    yield tmp_path
    short.unlink()


def left(base: Path, name: str = "poolscope-0123456789ab", *, lock: bool = True, listens: bool = True) -> Path:
    """What a killed run leaves."""
    path = base / name
    path.mkdir(mode=0o700)
    if lock:
        (path / "lock").touch(0o600)
    if listens:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{(descriptor := os.open(path, os.O_RDONLY))}/socket")
            os.close(descriptor)
    return path


def test_a_run_leaves_nothing(base: Path) -> None:
    made = Folder()
    (path,) = base.iterdir()
    assert path.stat().st_mode & 0o777 == 0o700
    assert made.socket.endswith(f"{path.name}/socket")
    made.close()
    assert os.listdir(base) == []
    made.close()


def test_of_a_run_that_lives_nothing_is_swept(base: Path) -> None:
    made = Folder()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(made.socket)
    sweep()
    assert sorted(os.listdir(made.path)) == ["lock", "socket"]
    made.close()


@pytest.mark.parametrize("listens", [True, False])
def test_what_a_killed_run_left_is_swept(base: Path, listens: bool) -> None:
    left(base, listens=listens)
    sweep()
    assert os.listdir(base) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda path: (path / "precious").touch(),
        lambda path: (path / "lock").unlink(),
        lambda path: ((path / "lock").unlink(), (path / "lock").symlink_to("/etc/passwd")),
        lambda path: ((path / "lock").unlink(), os.mkfifo(path / "lock")),  # type: ignore[func-returns-value]
        lambda path: ((path / "lock").unlink(), (path / "lock").mkdir()),
        lambda path: ((path / "socket").unlink(), (path / "socket").write_text("precious")),
        lambda path: ((path / "socket").unlink(), (path / "socket").symlink_to("/etc/passwd")),
        lambda path: path.chmod(0o777),
        lambda path: path.rename(path.with_name("poolscope-0123456789abc")),
        lambda path: path.rename(path.with_name("poolscope-0123456789AB")),
        lambda path: path.rename(path.with_name("xpoolscope-0123456789ab")),
    ],
    ids=range(11),
)
def test_what_is_not_surely_ours_stays(base: Path, change: object) -> None:
    change(left(base))  # type: ignore[operator]
    before = sorted(base.rglob("*"))
    sweep()
    assert sorted(base.rglob("*")) == before


def test_a_link_is_not_followed(base: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    target = left(elsewhere)
    (base / target.name).symlink_to(target)
    sweep()
    assert sorted(os.listdir(target)) == ["lock", "socket"]
    assert os.listdir(base) == [target.name]


def test_another_users_is_left_alone(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = left(base)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    sweep()
    assert path.exists()


def test_a_run_that_is_swept_as_it_begins_takes_another_directory(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep that comes between the making of the lock and its locking."""
    lock = fcntl.flock
    swept: list[str] = []

    def locking(descriptor: int, how: int) -> None:
        if not swept:
            swept.extend(os.listdir(base))
            sweep()
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", locking)
    bases = folders._bases() * 2
    monkeypatch.setattr(folders, "_bases", lambda: bases)
    made = Folder()
    assert len(swept) == 1
    assert os.listdir(base) == [os.path.basename(made.path)]
    assert os.listdir(base) != swept
    made.close()


def test_a_file_system_without_locks_is_never_swept(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, how: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refuse)
    made = Folder()
    sweep()
    assert os.listdir(made.path) == []
    made.close()
    assert os.listdir(base) == []


def test_nowhere_to_make_one(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_bases", lambda: ["/proc/nowhere", "/tmp/" + "x" * 100])
    with pytest.raises(PoolscopeError, match="set TMPDIR to a short, writable path"):
        Folder()
    sweep()
