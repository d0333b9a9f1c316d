"""Runs the test suites of other projects, and CPython's own, with and without poolscope, and says what differs.

    python tests/peers/run.py [PROJECT ...] [--python PYTHON] [--modes plain,run,installed] [--json FILE]
                              [--cache DIR] [--list]

Each project of `projects.toml` is installed from its source distribution on PyPI into an environment of its own. Its
selection of tests is run plain, under `poolscope run`, and after `poolscope.install()`. What differs is run twice more,
plain and watched, and what does not differ in the same way each time is called flaky. PYTHON is a path or a version, as
3.13, and may be given more than once; by default projects run on 3.13, and CPython's own tests on each interpreter
that is found and has them. The environments stay in DIR, if it is given.

Exit status: 0 if nothing differs but what `projects.toml` says differs and why, 1 if something does or a suite could
not be run, 2 if what was asked for makes no sense. It takes hours: for a nightly run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from compare import Difference, differences, is_known, settled
from environments import CHECKOUT, Cache, CannotInstall, Environment, interpreters
from projects import Project, chosen, read
from suites import MODES, run

LIST = Path(__file__).with_name("projects.toml")
#: How often what differs is run again.
AGAIN = 2
#: The version that most of the projects support.
PREFERRED = 13
HEADER = ("suite", "version", "Python", "plain", "run", "install()", "differs", "time run", "time install()")


@dataclass(slots=True)
class Result:
    """What became of one suite on one interpreter."""

    name: str
    version: str
    python: str
    #: Mode -> outcome -> tests.
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    tasks: dict[str, int | None] = field(default_factory=dict)
    differences: dict[str, Difference] = field(default_factory=dict)
    #: Modes whose time was up before the end.
    cut_off: list[str] = field(default_factory=list)
    #: Why there is nothing of it.
    trouble: str = ""

    def is_clean(self) -> bool:
        return not (self.trouble or self.cut_off) and not any(told.certain for told in self.differences.values())


class _Parser(argparse.ArgumentParser):
    """One that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def main() -> int:
    """Runs what the arguments name; returns the exit status."""
    parser = _Parser(
        prog="run.py", description="Other projects' suites with and without poolscope.", allow_abbrev=False
    )
    parser.add_argument("projects", nargs="*", metavar="PROJECT")
    parser.add_argument("--python", action="append", default=[], metavar="PYTHON", help="a path, or a version: 3.13")
    parser.add_argument("--modes", default=",".join(MODES), metavar="MODES", help="some of " + ",".join(MODES))
    parser.add_argument("--json", type=Path, metavar="FILE", help="all of it as JSON, after each suite")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="where environments stay for the next call")
    parser.add_argument("--list", action="store_true", help="name the projects, and run nothing")
    options = parser.parse_args()
    modes = options.modes.split(",")
    try:
        projects = chosen(read(LIST), options.projects)
        pythons = _pythons(options.python)
    except ValueError as error:
        parser.error(str(error))
    if "plain" not in modes or not set(modes) <= set(MODES) or len(modes) < 2:
        parser.error(f"--modes {options.modes}: expected plain and at least one of run and installed")
    if options.json is not None and not options.json.absolute().parent.is_dir():
        parser.error(f"--json {options.json}: there is no such folder")
    if options.list:
        print("\n".join(f"{project.name} {project.version}".strip() for project in projects))
        return 0
    with tempfile.TemporaryDirectory(prefix="poolscope-peers-") as temporary:
        folder = (options.cache or Path(temporary)).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        results = []
        for project, python in _pairs(projects, pythons, chosen_by_hand=bool(options.python)):
            # The processes of CPython's runner do not inherit an `install()`; tests/cpython has that.
            wanted = [mode for mode in MODES if mode in modes and (mode != "installed" or project.kind != "cpython")]
            result = _result(project, python, folder, wanted)
            results.append(result)
            _say(result)
            if options.json is not None:
                options.json.write_text(json.dumps(_record(results, modes), indent=1))
    _print_table(results, modes)
    return 0 if all(result.is_clean() for result in results) else 1


def _pythons(wanted: list[str]) -> list[tuple[int, Path]]:
    """(minor version, path) of the interpreters to use, the one for projects first; raises ValueError."""
    found = interpreters() if not wanted or any("/" not in word for word in wanted) else []
    if not wanted:
        if not found:
            raise ValueError("no CPython of 3.11 or later is found: name one with --python")
        return sorted(found, key=lambda pair: (pair[0] != PREFERRED, -pair[0]))
    pythons = []
    for word in wanted:
        if "/" in word:
            pythons.append((_minor(Path(word)), Path(word).absolute()))
            continue
        matching = [pair for pair in found if f"3.{pair[0]}" == word]
        if not matching:
            raise ValueError(f"--python {word}: there is {', '.join(f'3.{minor}' for minor, _ in found) or 'none'}")
        pythons += matching
    return pythons


def _minor(python: Path) -> int:
    command = [str(python), "-c", "import sys; print(sys.version_info[1])"]
    try:
        return int(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise ValueError(f"--python {python}: it does not run") from error


def _pairs(
    projects: list[Project], pythons: list[tuple[int, Path]], *, chosen_by_hand: bool
) -> Iterator[tuple[Project, Path]]:
    """Which suite on which interpreter: projects on the first, CPython's own on each that has them."""
    for project in projects:
        if project.kind != "cpython":
            yield project, pythons[0][1]
            continue
        for _, python in sorted(pythons):
            if chosen_by_hand or _has_tests(python):
                yield project, python


def _has_tests(python: Path) -> bool:
    command = [str(python), "-c", "import test.test_asyncio"]
    return subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0


def _result(project: Project, python: Path, folder: Path, modes: list[str]) -> Result:
    """Runs one suite in each mode; what goes wrong is part of the result."""
    result = Result(project.name, project.version, str(python))
    try:
        cache = Cache(folder, python)
        result.python = cache.version
        environment = cache.environment(project)
        _run(project, environment, modes, result)
    except (CannotInstall, OSError) as error:
        result.trouble = " ".join(str(error).split())[:200] or type(error).__name__
    return result


def _run(project: Project, environment: Environment, modes: list[str], result: Result) -> None:
    firsts = {}
    for mode in modes:
        _progress(f"{project.name} on {result.python}: {mode}")
        firsts[mode] = first = run(project, environment, mode)
        result.counts[mode] = dict(first.counts())
        result.seconds[mode] = round(first.seconds, 2)
        result.tasks[mode] = first.tasks
        if first.status is None:
            result.cut_off.append(mode)
        if mode == "plain" and not first.counts()["passed"]:
            result.trouble = f"no test passes without poolscope (exit status {first.status})"
            return
    found = {mode: differences(firsts["plain"], firsts[mode]) for mode in modes if mode != "plain"}
    known = [note.test for note in project.known]
    for mode, differing in found.items():
        repeated = {name: pair for name, pair in differing.items() if not is_known(name, known)}
        for _ in range(AGAIN):
            if not repeated:
                break
            _progress(f"{project.name} on {result.python}: {len(repeated)} differ: plain and {mode} once more")
            plain, watched = run(project, environment, "plain"), run(project, environment, mode)
            now = differences(plain, watched)
            repeated = {name: pair for name, pair in repeated.items() if now.get(name) == pair}
        result.differences[mode] = settled(differing, repeated, known)


def _progress(text: str) -> None:
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", file=sys.stderr, flush=True)


def _say(result: Result) -> None:
    """One suite, as soon as it is done: a row, and the names of what differs."""
    print("| " + " | ".join(_row(result)) + " |", flush=True)
    for mode, told in result.differences.items():
        for kind in ("certain", "flaky", "known"):
            for name, (plain, watched) in getattr(told, kind).items():
                word = {"certain": "differs", "known": "known"}.get(kind, kind)
                print(f"    {word}: {mode}: {name[:200]}: {plain or 'not'} -> {watched or 'not'}", flush=True)


def _row(result: Result) -> list[str]:
    first = [result.name, result.version or "its own", result.python]
    if result.trouble:
        return [*first, result.trouble]
    told = result.differences.values()
    totals = {
        kind: len({name for each in told for name in getattr(each, kind)}) for kind in ("certain", "flaky", "known")
    }
    words = {"certain": "differ", "flaky": "flaky", "known": "known"}
    differs = ", ".join(f"{count} {words[kind]}" for kind, count in totals.items() if count) or "none"
    if result.cut_off:
        differs += f"; time was up: {', '.join(result.cut_off)}"
    counts = [_counts(result.counts.get(mode)) for mode in MODES]
    if "plain" in result.counts:
        counts[1:] = ["the same" if count == counts[0] else count for count in counts[1:]]
    return [*first, *counts, differs, _ratio(result, "run"), _ratio(result, "installed")]


def _counts(counts: dict[str, int] | None) -> str:
    if counts is None:
        return "-"
    return ", ".join(f"{count:,} {outcome}" for outcome, count in sorted(counts.items(), key=lambda pair: -pair[1]))


def _ratio(result: Result, mode: str) -> str:
    if mode not in result.seconds:
        return "-"
    return f"{result.seconds[mode] / result.seconds['plain']:.2f}"


def _print_table(results: list[Result], modes: list[str]) -> None:
    print(f"\n{_headline(modes)}\n")
    print("| " + " | ".join(HEADER) + " |")
    print("|" + "---|" * len(HEADER))
    for result in results:
        cells = _row(result)
        print("| " + " | ".join([*cells, *[""] * (len(HEADER) - len(cells))]) + " |")
    clean = sum(result.is_clean() for result in results)
    print(f"\n{clean} of {len(results)} suites unchanged")


def _headline(modes: list[str]) -> str:
    command = ["git", "-C", str(CHECKOUT), "rev-parse", "--short", "HEAD"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        commit = ""
    return (
        f"{datetime.now(UTC):%d %B %Y}, poolscope {commit or 'of no commit'}, modes {', '.join(modes)}, "
        f"{platform.system()}, {os.cpu_count()} cores"
    )


def _record(results: list[Result], modes: list[str]) -> dict:
    return {"about": _headline(modes), "suites": [asdict(result) for result in results]}


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
