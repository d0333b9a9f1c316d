"""The pytest plugin: a test that saturates a pool or blocks an event loop fails with the finding and its line.

    pytest --poolscope[=SEVERITY]                    every test fails at that severity (default: warning)
    poolscope = warning                              the same in the ini file
    @pytest.mark.poolscope(fail_on="warning", loop_blocked_seconds=0.05)    this test, with settings of its own
    def test(poolscope): ... poolscope.findings      this test is watched and judges for itself

Pools and loops are patched once, before the first test that is watched. What a test does is kept as it comes, and
judged only if the test lasted long enough for a finding: the others cost next to nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import pytest

if TYPE_CHECKING:
    from poolscope.config import Settings
    from poolscope.engine import Engine
    from poolscope.model import Finding, Report
    from poolscope.probe.runtime import Probe
    from poolscope.probe.startup.install import Installation

_SEVERITIES = ("info", "warning", "critical")
#: In `user_properties` of a test's report: so it reaches the one who prints, in another process with xdist, and JUnit.
_PROPERTY = "poolscope"
_MOST_SHOWN = 50
_HELP = "fail tests that saturate a pool or block an event loop: " + ", ".join(_SEVERITIES)


class _Severity(argparse.Action):
    """A severity, or none: in `--poolscope tests/` what follows is a path, which is handed back."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """See `argparse`."""
        severity = values
        if values not in _SEVERITIES:
            if not os.path.exists(str(values).partition("::")[0]):
                expected = f"expected one of {', '.join(_SEVERITIES)}, or a path that exists"
                parser.error(f"argument {option_string}: {expected}, found {values!r}")
            # The arguments are parsed several times.
            namespace.poolscope_paths = list(dict.fromkeys([*getattr(namespace, "poolscope_paths", []), values]))
            severity = self.const
        setattr(namespace, self.dest, severity)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--poolscope`, and `poolscope` of the ini file."""
    group = parser.getgroup("poolscope")
    group.addoption("--poolscope", nargs="?", const="warning", action=_Severity, metavar="SEVERITY", help=_HELP)
    parser.addini("poolscope", _HELP, default="")


def pytest_configure(config: pytest.Config) -> None:
    """Watch all tests, if that is asked for."""
    config.addinivalue_line(
        "markers",
        "poolscope(fail_on='warning', **settings): fail the test if it saturates a pool or blocks an event loop",
    )
    paths = getattr(config.option, "poolscope_paths", [])
    if paths:
        given = config.args if config.args_source is pytest.Config.ArgsSource.ARGS else []
        config.args = list(dict.fromkeys([*paths, *given]))
    fail_on = config.getoption("--poolscope") or config.getini("poolscope")
    if fail_on and fail_on not in _SEVERITIES:
        raise pytest.UsageError(f"poolscope = {fail_on}: expected one of {', '.join(_SEVERITIES)}")
    watcher = _Watcher(fail_on)
    config.pluginmanager.register(watcher, "poolscope-watcher")
    if fail_on:
        watcher.install()


@pytest.fixture
def poolscope(request: pytest.FixtureRequest) -> Judge:
    """See what poolscope sees of this test: `.report` and `.findings`, as of now."""
    judge = request.node.stash.get(_JUDGE, None)
    if judge is None:
        pytest.skip("poolscope has failed, and sees nothing of this test")
    return cast("Judge", judge)


class Judge:
    """What one test does, and what is wrong with it."""

    def __init__(self, probe: Probe, settings: Settings) -> None:
        from poolscope.probe.interpreter.unpatched import RLock
        from poolscope.probe.transport.thinning import Thinned

        self._probe = probe
        self._settings = settings
        self._lock = RLock()
        self._engine: Engine | None = None
        self._kept: list[Sequence[Any]] | None = []
        # What was done before this test is told to those who were there.
        probe.flush(process=False)
        self._began_at = datetime.now(UTC)
        self._began_ns = probe.clock()
        self._last: Report | None = None
        detection = settings.detection
        #: In less time than this there is no finding above info.
        self._least_ns = int(min(detection.sustain_seconds, detection.loop_blocked_seconds) * 1e9)
        self._detach = [probe.add_sink(Thinned(self._take)), probe.add_job(settings.sample_interval, self._tick)]

    @property
    def report(self) -> Report:
        """The report up to now. What it says of the command and the process is of the whole test run."""
        if self._last is not None:
            return self._last
        self._probe.flush()
        now = self._probe.clock()
        with self._lock:
            engine = self._judged()
            engine.tick(now)
            return self._report(engine, now)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All findings up to now, the most severe first."""
        return self.report.findings

    def finish(self) -> tuple[Finding, ...]:
        """End with the test; return what was found. The second time nothing happens."""
        if not self._detach:
            return () if self._last is None else self._last.findings
        long_enough = self._engine is not None or self._probe.clock() - self._began_ns >= self._least_ns
        if long_enough:
            self._probe.flush()
        now = self._probe.clock()
        while self._detach:
            self._detach.pop()()
        with self._lock:
            if long_enough:
                engine = self._judged()
                engine.finish(now)
                self._last = self._report(engine, now)
            self._engine = self._kept = None
        return () if self._last is None else self._last.findings

    def _take(self, message: Sequence[Any]) -> None:
        with self._lock:
            if self._engine is not None:
                self._engine.feed(0, message)
            elif self._kept is not None:
                self._kept.append(message)

    def _tick(self, now_ns: int) -> None:
        with self._lock:
            if self._detach and now_ns - self._began_ns >= self._least_ns:
                self._judged().tick(now_ns)

    def _judged(self) -> Engine:
        if self._engine is None:
            from poolscope.engine import Engine
            from poolscope.messages import PROTOCOL

            self._engine = engine = Engine(self._settings, started_ns=self._began_ns)
            version = ".".join(map(str, sys.version_info[:3]))
            gil = bool(getattr(sys, "_is_gil_enabled", lambda: True)())
            hello = ("hello", PROTOCOL, os.getpid(), os.getppid(), list(sys.argv), version, self._began_ns, gil)
            for message in (hello, *(self._kept or ())):
                engine.feed(0, message)
            self._kept = None
        return self._engine

    def _report(self, engine: Engine, now_ns: int) -> Report:
        return engine.session(
            now_ns, command=sys.argv, started_at=self._began_at.isoformat(timespec="milliseconds"), exit_code=None
        ).report


_JUDGE = pytest.StashKey[Judge]()
#: The settings of the probe before the test.
_BEFORE = pytest.StashKey[Any]()
#: How a test is to be judged, None if not at all, and the severity at which it fails, "" for none.
_PLAN = pytest.StashKey[tuple["Settings | None", str]]()


class _Watcher:
    """Watches the tests of one session, and says at its end what was found in them."""

    def __init__(self, fail_on: str) -> None:
        self._fail_on = fail_on
        self._installation: Installation | None = None
        self._found: list[tuple[str, list[str]]] = []
        self._settings: Settings | None = None
        #: Set when a part of ours has failed: no further test is watched, and none fails for it.
        self._given_up = False

    def install(self) -> None:
        """Patch what there is. The second time nothing happens."""
        if self._installation is None:
            # What judges is imported here: in the probe's thread it would keep that from looking at the first loop.
            from poolscope import engine, install  # noqa: F401
            from poolscope.probe.runtime import current

            self._installation = install()
            # Between two tests there is one who takes the messages, too: or the process would begin to judge itself.
            self._leave = current().add_sink(lambda _: None)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Read the marks, and refuse those that mean nothing before the first test runs."""
        for item in items:
            item.stash[_PLAN] = self._plan(item)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Make the judge of a test before its fixtures, which may want to see it."""
        settings, _ = item.stash.get(_PLAN, (None, ""))
        if settings is None or self._given_up:
            return (yield)
        with self._bearing(item):
            self._begin(item, settings)
        try:
            return (yield)
        finally:
            self._finish(item)

    def _begin(self, item: pytest.Item, settings: Settings) -> None:
        self.install()
        from poolscope.probe.runtime import current
        from poolscope.probe.settings import ProbeSettings

        probe = current()
        item.stash[_BEFORE] = probe.settings
        if not probe.supervised:
            probe.settings = ProbeSettings.from_values(settings.for_probe())
        item.stash[_JUDGE] = Judge(probe, settings)

    def _finish(self, item: pytest.Item) -> tuple[Finding, ...]:
        """End the judge of a test, and put the settings back; return what was found."""
        found: tuple[Finding, ...] = ()
        with self._bearing(item):
            if (judge := item.stash.get(_JUDGE, None)) is not None:
                found = judge.finish()
            if (before := item.stash.get(_BEFORE, None)) is not None:
                from poolscope.probe.runtime import current

                current().settings = before
        return found

    @contextmanager
    def _bearing(self, item: pytest.Item) -> Iterator[None]:
        """Keep a failure of ours from the test, say it in the summary, and watch no more tests."""
        try:
            yield
        except Exception as exc:
            from poolscope.probe.interpreter.blame import is_ours

            if not is_ours(exc):
                raise  # a signal handler's: a time limit of the test
            self._given_up = True
            told = _clean(f"poolscope has failed and watches no more tests: {type(exc).__name__}: {exc}")
            item.user_properties.append((_PROPERTY, told))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Fail a test that passed, if something was found."""
        result = yield
        settings, fail_on = item.stash.get(_PLAN, (None, ""))
        if settings is None or not fail_on:
            return result
        findings = self._finish(item)
        least = _SEVERITIES.index(fail_on)
        failing = [finding for finding in findings if _SEVERITIES.index(finding.severity) >= least]
        if failing:
            told = [line for finding in failing for line in _told(finding, str(item.config.rootpath))]
            item.user_properties += [(_PROPERTY, _clean(f"{each.severity}: {each.summary}")) for each in failing]
            pytest.fail("\n".join(told), pytrace=False)
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep what was found in a test, here or in a process of xdist."""
        if report.when == "call":
            found = [str(value) for name, value in report.user_properties if name == _PROPERTY]
            if found:
                self._found.append((report.nodeid, found))

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        """Say what was found, a line each."""
        if not self._found:
            return
        terminalreporter.section("poolscope")
        for nodeid, found in self._found[:_MOST_SHOWN]:
            terminalreporter.line(nodeid)
            for line in found:
                terminalreporter.line(f"  {line}")
        if len(self._found) > _MOST_SHOWN:
            terminalreporter.line(f"and {len(self._found) - _MOST_SHOWN} more tests")

    def pytest_unconfigure(self) -> None:
        """Put back what was patched."""
        if self._installation is not None:
            self._leave()
            self._installation.uninstall()

    def _plan(self, item: pytest.Item) -> tuple[Settings | None, str]:
        mark = item.get_closest_marker("poolscope")
        fixture = "poolscope" in getattr(item, "fixturenames", ())
        if mark is None:
            return (self._usual() if self._fail_on or fixture else None), self._fail_on
        values = dict(mark.kwargs)
        fail_on = values.pop("fail_on", self._fail_on or "warning")
        if mark.args or fail_on not in _SEVERITIES:
            raise pytest.UsageError(
                f"{item.nodeid}: @pytest.mark.poolscope: expected fail_on ({', '.join(_SEVERITIES)}) and settings"
            )
        try:
            return _settings(values), fail_on
        except ValueError as error:
            raise pytest.UsageError(f"{item.nodeid}: @pytest.mark.poolscope: {error}") from error

    def _usual(self) -> Settings:
        """Return the settings of the environment, which may be in a file."""
        if self._settings is None:
            try:
                self._settings = _settings({})
            except ValueError as error:
                raise pytest.UsageError(str(error)) from error
        return self._settings


def _settings(values: dict[str, Any]) -> Settings:
    """Return the settings of a mark, where keys of `detection` need no section. Raises ValueError."""
    from poolscope import config
    from poolscope.errors import ConfigError
    from poolscope.model import Thresholds

    detection = {key: values[key] for key in values if key in Thresholds.__struct_fields__}
    others = {key: values[key] for key in values if key not in detection}
    if detection:
        others["detection"] = {**others.get("detection", {}), **detection}
    try:
        if others:
            return config.from_mapping(others, "settings")
        return config.environment_settings(os.environ)
    except ConfigError as error:
        raise ValueError(str(error)) from error


def _told(finding: Finding, root: str) -> Iterator[str]:
    """Return a finding as the failure of a test."""
    from poolscope.rendering.text import Medium

    medium = Medium(width=100, encoding=None, cwd=root)
    yield f"poolscope: {finding.severity}: {finding.pattern} ({finding.cause})"
    yield f"  {medium.clean(finding.summary)}"
    for frame in finding.frames[:3]:
        line = f":{frame.line}" if frame.line > 0 else ""
        yield f"  {medium.path(frame.file, 100)}{line} in {medium.clean(frame.function, 60)}"
        if frame.source:
            yield f"      {medium.clean(frame.source.strip(), 100)}"
    if finding.advice.text:
        yield f"  {medium.clean(finding.advice.text, 800)}"


def _clean(text: str) -> str:
    from poolscope.plain import one_line

    return one_line(text)
