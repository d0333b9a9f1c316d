"""Files that are replaced in one step."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from poolscope.atomic_file import create_beside, replace


def test_a_new_file_has_the_mode_that_was_asked_for(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        replace(str(tmp_path / "report"), b"1")
        replace(str(tmp_path / "session"), b"2", mode=0o600, sync=True)
    finally:
        os.umask(before)
    assert {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {
        "report": 0o644,
        "session": 0o600,
    }


@pytest.mark.parametrize("sync", [True, False])
def test_a_replaced_file_keeps_its_permissions(sync: bool, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(0o640)
    replace(str(path), b"new", mode=0o600, sync=sync)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["file"]


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        replace(str(path), b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_name_of_many_characters_has_a_file_beside_it(tmp_path: Path) -> None:
    path, descriptor = create_beside(str(tmp_path / ("ü" * 120)))
    os.close(descriptor)
    assert os.path.dirname(path) == str(tmp_path)
