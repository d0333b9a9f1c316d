"""Runs a suite in one mode: plain, under `poolscope run`, or after `poolscope.install()`; tells what became of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import parsing
from compare import Outcome, lines_of
from environments import HERE, Environment, environment_variables
from projects import Project

MODES = ("plain", "run", "installed")
GRACE = 5  # seconds for what is left when the time is up


def run(project: Project, environment: Environment, mode: str) -> Outcome:
    """Runs it once, within its limit; raises OSError if it cannot be started."""
    # Short, as sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="peer", ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)
        temporary = scratch / "t"
        temporary.mkdir()
        command = _command(project, environment, mode, scratch)
        variables = {**environment_variables(), "TMPDIR": str(temporary), **project.environment}
        start = time.monotonic()
        with open(scratch / "stdout", "wb") as output, open(scratch / "stderr", "wb") as errors:
            process = subprocess.Popen(
                command,
                cwd=environment.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=variables,
                start_new_session=True,
            )
            status = _ended(process, project.limit)
        seconds = time.monotonic() - start
        keep = os.environ.get("PEERS_KEEP")
        if keep:
            place = Path(keep) / f"{project.name}-{mode}-{time.time_ns()}"
            shutil.copytree(scratch, place, ignore=shutil.ignore_patterns("t"))
        output_text = (scratch / "stdout").read_text("utf-8", "replace")
        errors_text = (scratch / "stderr").read_text("utf-8", "replace")
        return Outcome(
            tests=_tests(project, scratch, output_text, errors_text),
            status=status,
            errors=lines_of(parsing.without_tests(errors_text) if project.kind == "django" else errors_text, [folder]),
            seconds=seconds,
            tasks=_tasks(mode, scratch),
        )


def _command(project: Project, environment: Environment, mode: str, scratch: Path) -> list[str]:
    if project.kind in ("pytest", "own"):
        suite = ["-m", "pytest", "-p", "poolscope_peers_outcomes", "--peers-outcomes", str(scratch / "outcomes")]
        suite += ["-p", "no:cacheprovider", "-q", "-o", "addopts=", *project.options]
        # A plugin that is missing, or that warns of its settings, is no reason to run nothing.
        suite += ["--continue-on-collection-errors"]
        suite += ["-W", "ignore::pytest.PytestUnknownMarkWarning", "-W", "ignore::pytest.PytestDeprecationWarning"]
        suite += [f"--deselect={note.test}" for note in project.deselect]
    elif project.kind == "django":
        suite = ["runtests.py", "--parallel=1", "--verbosity=2", "--noinput", *project.options]
    else:
        # In processes of their own, which are watched too: most of their time the tests sleep.
        suite = ["-m", "test", "-j4", "--junit-xml", str(scratch / "outcomes"), *project.options]
        suite += [word for note in project.deselect for word in ("-i", note.test)]
    suite += project.tests
    if mode == "run":
        return [str(environment.poolscope), "run", "--quiet", "--json", str(scratch / "report.json"), *suite]
    if mode == "installed" and project.kind in ("pytest", "own"):
        # Not before pytest: it has a way of its own to import what comes with its plugins, which would pass ours.
        plugin = ["-p", "poolscope_peers_installs", "--peers-tasks", str(scratch / "tasks")]
        return [str(environment.python), *suite, *plugin]
    if mode == "installed":
        return [str(environment.python), str(HERE / "installed.py"), str(scratch / "tasks"), *suite]
    return [str(environment.python), *suite]


def _ended(process: subprocess.Popen[bytes], limit: float) -> int | None:
    """Its status; None if it had to be killed, with all of its group."""
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
                process.wait(GRACE)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
        process.wait()
        return None


def _tests(project: Project, scratch: Path, output: str, errors: str) -> dict[str, str]:
    if project.kind == "django":
        return parsing.verbose(errors)
    path = scratch / "outcomes"
    if not path.exists():
        return {}
    if project.kind == "cpython":
        return {**parsing.junit(path.read_text("utf-8")), **parsing.environments(output)}
    return parsing.told(path.read_text("utf-8"))


def _tasks(mode: str, scratch: Path) -> int | None:
    """How many tasks were recorded, if it was told."""
    try:
        if mode == "run":
            report = json.loads((scratch / "report.json").read_text("utf-8"))
            return sum(pool["tasks"]["submitted"] for pool in report["pools"])
        if mode == "installed":
            return int((scratch / "tasks").read_text())
    except (OSError, ValueError, LookupError, TypeError):
        pass
    return None
