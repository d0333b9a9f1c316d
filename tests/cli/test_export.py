"""`poolscope export`, from an installed wheel."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from cli_support import Outcome, environment, run

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an installation puts into site-packages, without the checkout around it."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=100)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def export(site: Path, *words: str | Path, cwd: Path) -> Outcome:
    changes = {"PYTHONPATH": str(site)}
    found = run(
        sys.executable, "-c", "import poolscope; print(poolscope.__file__)", cwd=cwd, env=environment(**changes)
    )
    assert Path(found.out.strip()).is_relative_to(site)
    return run(sys.executable, "-m", "poolscope", "export", *words, cwd=cwd, env=environment(**changes))


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("what", "kept"),
    [
        ("dashboards", {".": "dashboards/grafana"}),
        ("rules", {".": "config/prometheus", "docs/runbook.md": "docs/runbook.md"}),
        ("config", {name: f"config/{name}" for name in ("poolscope.yaml", "poolscope.schema.json")}),
    ],
)
def test_what_is_shipped_is_written(site: Path, tmp_path: Path, what: str, kept: dict[str, str]) -> None:
    assert export(site, what, "made/here", cwd=tmp_path) == (0, f"{what} written to made/here\n", "")
    expected: dict[str, bytes] = {}
    for name, path in kept.items():
        source = ROOT / path
        expected |= files(source) if source.is_dir() else {name: source.read_bytes()}
    assert files(tmp_path / "made" / "here") == expected


def test_what_differs_is_kept_unless_forced(site: Path, tmp_path: Path) -> None:
    assert export(site, "rules", ".", cwd=tmp_path).status == 0
    shipped = files(tmp_path)
    assert export(site, "rules", ".", cwd=tmp_path).status == 0, "the same again"
    (tmp_path / "alerts.yml").write_text("mine")
    (tmp_path / "recording.yml").unlink()
    refused = export(site, "rules", ".", cwd=tmp_path)
    assert (refused.status, refused.out, refused.err.count("\n")) == (2, "", 1)
    assert "poolscope: alerts.yml would be overwritten" in refused.err
    assert (tmp_path / "alerts.yml").read_text() == "mine"
    assert not (tmp_path / "recording.yml").exists(), "nothing is written"
    assert export(site, "rules", ".", "--force", cwd=tmp_path).status == 0
    assert files(tmp_path) == shipped
