"""Files that a run leaves behind."""

import os
from pathlib import Path

from poolscope.rendering import files


def test_what_a_killed_run_left_is_in_nobodys_way(tmp_path: Path) -> None:
    """In a container each run has the same pid."""
    target = tmp_path / "report.json"
    (tmp_path / f".report.json.{os.getpid()}").touch()
    assert files.check(str(target), "--json") == str(target)
    files.write(str(target), b"first")
    files.write(str(target), b"second")
    assert target.read_bytes() == b"second"
    assert sorted(path.name for path in tmp_path.iterdir()) == [f".report.json.{os.getpid()}", "report.json"]
