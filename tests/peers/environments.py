"""An environment for each project, with its tests from its source distribution on PyPI, and this checkout of poolscope.

All of it lies below one folder, which may be kept: what is there already is not fetched or made again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from projects import Project

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent.parent
#: Of pytest, that are put into each environment.
PLUGINS = ("outcomes", "installs")
LIMIT = 900  # seconds for one command of pip
#: What is set in the shell of a caller would hide what an environment lacks.
FOREIGN = (
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONDONTWRITEBYTECODE",
    "POOLSCOPE_CONFIG",
    "POOLSCOPE_LISTEN",
)


class CannotInstall(Exception):
    """A project, or an environment, that cannot be had here; its text is one line."""


@dataclass(frozen=True, slots=True)
class Environment:
    """Where a suite is run, and by what."""

    python: Path
    poolscope: Path
    folder: Path


class Cache:
    """The folder, and the pip in it that installs into all the other environments."""

    def __init__(self, folder: Path, interpreter: Path) -> None:
        self._folder = folder
        self._interpreter = interpreter
        try:
            self.minor = _output([str(interpreter), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).strip()
            self.version = _output(
                [str(interpreter), "-c", "import platform; print(platform.python_version())"]
            ).strip()
        except (CannotInstall, OSError) as error:
            raise CannotInstall(f"cannot run {interpreter}: {error}") from error
        tools = folder / f"tools-{self.minor}"
        self._pip = [str(tools / "bin/python"), "-m", "pip", "--disable-pip-version-check", "-q"]
        if not (tools / "ready").exists():
            shutil.rmtree(tools, ignore_errors=True)
            _output([str(interpreter), "-m", "venv", str(tools)])
            # Those that come with an interpreter are too old for `--python`, or for the newest CPython.
            _output([*self._pip, "install", "--upgrade", "pip"])
            (tools / "ready").touch()

    def environment(self, project: Project) -> Environment:
        """Makes what the project's suite is run by and in; raises CannotInstall."""
        source = self._source(project) if project.version else self._folder / "empty"
        folder = self._apart(project, source) if project.apart else source
        folder.mkdir(parents=True, exist_ok=True)
        place = self._folder / f"{project.name}-{project.version or self.version}-{self.minor}"
        python = place / "bin/python"
        stamp = place / "stamp"
        wanted = repr((project.version, project.requires, project.extras, project.groups, project.wheel, str(CHECKOUT)))
        if not stamp.exists() or stamp.read_text() != wanted:
            shutil.rmtree(place, ignore_errors=True)
            _output([str(self._interpreter), "-m", "venv", "--without-pip", str(place)])
            requirements = []
            if project.version:
                extras = f"[{project.extras}]" if project.extras else ""
                own = f"{project.name}{extras}=={project.version}" if project.wheel else f"{source}{extras}"
                requirements = [own, *(["pytest"] if project.kind in ("pytest", "own") else []), *project.requires]
                for group in project.groups:
                    requirements += ["--group", f"{source}/pyproject.toml:{group}"]
            # Ours last, in one call with theirs: what both need is one version.
            _output([*self._pip, "--python", str(python), "install", *requirements, "-e", f"{CHECKOUT}[cli]"])
            stamp.write_text(wanted)
        packages = next(place.glob("lib/python*/site-packages"))
        for plugin in PLUGINS:
            shutil.copy(HERE / f"{plugin}.py", packages / f"poolscope_peers_{plugin}.py")
        return Environment(
            python, place / "bin/poolscope", HERE / "own" if project.kind == "own" else folder / project.folder
        )

    def _source(self, project: Project) -> Path:
        """The unpacked source distribution."""
        place = self._folder / "sources" / f"{project.name}-{project.version}"
        if not (place / "ready").exists():
            shutil.rmtree(place, ignore_errors=True)
            downloads = place / "download"
            downloads.mkdir(parents=True)
            wanted = f"{project.name}=={project.version}"
            _output([*self._pip, "download", "--no-deps", "--no-binary", project.name, "-d", str(downloads), wanted])
            (archive,) = downloads.iterdir()
            if archive.suffix == ".zip":
                with zipfile.ZipFile(archive) as packed:
                    packed.extractall(place / "unpacked")
            else:
                with tarfile.open(archive) as packed:
                    packed.extractall(place / "unpacked", filter="data")
            (place / "ready").touch()
        (folder,) = (place / "unpacked").iterdir()
        missing = [test for test in project.tests if not _there(folder / project.folder, test)]
        if missing and project.kind == "pytest" and "--pyargs" not in project.options:
            raise CannotInstall(f"its source distribution has no {', '.join(missing)}")
        return folder

    def _apart(self, project: Project, source: Path) -> Path:
        folder = self._folder / "sources" / f"{project.name}-{project.version}" / "apart"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in project.apart:
            if (source / name).is_dir():
                shutil.copytree(source / name, folder / name)
            elif (source / name).exists():
                shutil.copy(source / name, folder / name)
        return folder


def _there(folder: Path, test: str) -> bool:
    return (folder / test.partition("::")[0]).exists()


def interpreters() -> list[tuple[int, Path]]:
    """(minor version, path) of each CPython that tests/run would use, newest first."""
    command = "source .ci/machine.sh && pythons"
    told = subprocess.run(["bash", "-c", command], cwd=CHECKOUT, capture_output=True, text=True, timeout=120).stdout
    pairs = [line.split(" ", 1) for line in told.splitlines()]
    return [(int(minor), Path(path)) for minor, path in pairs]


def environment_variables() -> dict[str, str]:
    """Those of the caller but for what would change what is found."""
    kept = {key: value for key, value in os.environ.items() if key not in FOREIGN}
    return {**kept, "PIP_USER": "0", "PYTHONHASHSEED": "0"}


def _output(command: list[str]) -> str:
    """What a command prints; raises CannotInstall with its last line if it fails."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            stdin=subprocess.DEVNULL,
            env=environment_variables(),
        )
    except subprocess.TimeoutExpired as error:
        raise CannotInstall(f"{Path(command[0]).name} took more than {LIMIT} s") from error
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).strip().splitlines() if line.strip()]
        told = next(
            (line for line in lines if line.lower().startswith("error")), lines[-1] if lines else "it says nothing"
        )
        raise CannotInstall(told.strip()[:200])
    return done.stdout
