"""The list of projects as values. Raises ValueError, in one line, for a file that does not fit."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

KINDS = ("pytest", "own", "django", "cpython")


@dataclass(frozen=True, slots=True)
class Note:
    """A test, or the beginning of its name, and why it is left out or differs."""

    test: str
    reason: str


@dataclass(frozen=True, slots=True)
class Project:
    """One suite: where it comes from, what it needs, and what of it is run."""

    name: str
    version: str = ""
    #: What runs it: `pytest` (`own`: tests of ours, where its source distribution has none), Django's own runner, or
    #: CPython's `python -m test`.
    kind: str = "pytest"
    #: Requirements of its tests, beside its own.
    requires: tuple[str, ...] = ()
    extras: str = ""
    #: Dependency groups of its own that its tests need.
    groups: tuple[str, ...] = ()
    #: Installed as a wheel: what is compiled takes minutes. The tests are the source distribution's all the same.
    wheel: bool = False
    #: Folders, files or test modules.
    tests: tuple[str, ...] = ("tests",)
    options: tuple[str, ...] = ()
    #: Environment variables.
    environment: dict[str, str] = field(default_factory=dict)
    #: What of the source is copied to a folder of its own, which it is run in: where a package that must be compiled
    #: lies beside its tests.
    apart: tuple[str, ...] = ()
    #: Where it is run, below the unpacked source.
    folder: str = "."
    deselect: tuple[Note, ...] = ()
    #: What differs, cannot be mended, and why.
    known: tuple[Note, ...] = ()
    #: Seconds for one run.
    limit: int = 300


def read(path: Path) -> list[Project]:
    """The projects of a TOML file, in its order."""
    try:
        entries = tomllib.loads(path.read_text("utf-8"))["project"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"cannot read {path}: {error}") from error
    return [_project(entry) for entry in entries]


def _project(entry: dict[str, Any]) -> Project:
    name = entry.get("name", "one without a name")
    unknown = entry.keys() - {each.name for each in fields(Project)}
    if unknown:
        raise ValueError(f"{name}: unknown keys: {', '.join(sorted(unknown))}")
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    for key in ("deselect", "known"):
        if key in values:
            values[key] = tuple(Note(**note) for note in values[key])
    project = Project(**values)
    if project.kind not in KINDS:
        raise ValueError(f"{name}: its kind is {project.kind!r}, and is one of {', '.join(KINDS)}")
    return project


def chosen(projects: list[Project], names: list[str]) -> list[Project]:
    """Those of the given names, in the list's order; all if there are no names."""
    unknown = [name for name in names if name not in {project.name for project in projects}]
    if unknown:
        raise ValueError(
            f"there is no project {', '.join(unknown)}: choose from {', '.join(project.name for project in projects)}"
        )
    return [project for project in projects if not names or project.name in names]
