"""The engine inside the process: what `report()`, `findings()`, `serve()`, `collector()` and `profile()` stand on.

One `Observer` per process owns a `Engine` and the lock around it. It is made when it is first asked for, or by the
background thread on the first events of a drop-in pool, so that findings are logged without a line of set-up.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from poolscope import config
from poolscope.config import DEFAULT_LISTEN, Settings, listen_address, load
from poolscope.engine import Engine
from poolscope.errors import ConfigError, PoolscopeError
from poolscope.messages import PROTOCOL
from poolscope.model import Finding, Report, Session
from poolscope.plain import one_line
from poolscope.probe import runtime
from poolscope.probe.interpreter.gil import gil_enabled
from poolscope.probe.interpreter.unpatched import RLock, allocate_lock
from poolscope.probe.settings import ProbeSettings
from poolscope.probe.startup import bootstrap
from poolscope.probe.startup.install import Installation, install
from poolscope.probe.transport.thinning import Thinned
from poolscope.snapshot import Snapshot

if TYPE_CHECKING:
    from poolscope.endpoint import Endpoint
    from poolscope.metrics.families import SnapshotCollector
    from poolscope.probe.runtime import Probe

#: The one source of messages that this engine has.
_OWN = 0

T = TypeVar("T")


def _log(line: str) -> None:
    import logging

    level = logging.INFO if line.startswith(("over", "also", "info")) else logging.WARNING
    logging.getLogger("poolscope").log(level, "%s", one_line(line))


class Observer:
    """Judges this process from inside.

    Thread-safe: one re-entrant lock goes around the engine, so that a callback or a log handler may ask for a report.
    """

    def __init__(self, probe: Probe, settings: Settings, *, age_ns: int = 0) -> None:
        """`age_ns`: how long ago the report's time began."""
        self._probe = probe
        self._lock = RLock()
        self._clock = probe.clock
        self._fetched_ns = probe.clock()
        self._started_ns = self._fetched_ns - age_ns
        self._started_at = datetime.now(UTC) - timedelta(microseconds=age_ns // 1000)
        self._given_up = False
        self.pid = os.getpid()
        self.settings = settings
        self._engine = Engine(settings, started_ns=self._started_ns, log=_log)
        version = ".".join(map(str, sys.version_info[:3]))
        command = [sys.executable, *sys.argv]
        hello = ("hello", PROTOCOL, self.pid, os.getppid(), command, version, self._started_ns, gil_enabled())
        self._engine.feed(_OWN, hello)
        self._detach = [probe.add_sink(Thinned(self._take)), probe.add_job(settings.sample_interval, self._tick)]
        self._closed = False

    def _take(self, message: Sequence[Any]) -> None:
        with self._lock:
            try:
                self._engine.feed(_OWN, message)
            except Exception as error:
                self._give_up(error)

    def _tick(self, now_ns: int) -> None:
        with self._lock:
            self._advance(now_ns)
        self._engine.deliver()

    def _advance(self, now_ns: int) -> None:
        try:
            if not self._given_up:
                self._engine.tick(now_ns)
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Give up as judging has failed: take nothing more in, but still report what was seen before."""
        self._given_up = True
        self.close()
        self._engine.fault("judge", f"{type(error).__name__}: {error}")
        self._probe.fail("judge", error)

    def _read(self, read: Callable[[Engine], T]) -> T:
        try:
            return read(self._engine)
        except Exception as error:
            self._give_up(error)
            self._engine = self._engine.emptied()
            return read(self._engine)

    def failed(self, part: str, error: Exception) -> None:
        """Note that an endpoint or collector of this process has failed."""
        self._probe.fail(part, error)

    def close(self) -> None:
        """Take nothing more in; what was seen can still be read."""
        self._closed = True
        for detach in self._detach:
            detach()

    def configure(self, settings: Settings) -> None:
        """Judge by other settings from now on."""
        with self._lock:
            before, self.settings = self.settings, settings
            self._engine.configure(settings)
        if settings.sample_interval != before.sample_interval and not self._closed:
            self._detach.pop()()
            self._detach.append(self._probe.add_job(settings.sample_interval, self._tick))

    def _fetch(self, *, process: bool = True) -> int:
        # Not under our lock: the flush takes the probe's, which its thread holds while it waits for ours.
        self._probe.flush(process=process)
        try:
            self._fetched_ns = self._clock()
        except Exception as error:
            self._probe.fail("clock", error)  # the report is as of the last time that was known
        return self._fetched_ns

    def _session(self, now_ns: int) -> Session:
        started_at = self._started_at.isoformat()
        command = [sys.executable, *sys.argv]
        return self._read(lambda engine: engine.session(now_ns, command=command, started_at=started_at, exit_code=None))

    def report(self) -> Report:
        """Everything up to now."""
        return self.session().report

    def session(self) -> Session:
        """Return the same, and what it was made from."""
        now = self._fetch()
        with self._lock:
            self._advance(now)
            return self._session(now)

    def findings(self) -> tuple[Finding, ...]:
        """All findings up to now, the most severe first."""
        now = self._fetch()
        with self._lock:
            self._advance(now)
            return self._read(lambda engine: engine.findings(now))

    def finish(self) -> Session:
        """Judge what still lasts as ended, take nothing more in, and return all that was seen."""
        now = self._fetch()
        self.close()
        with self._lock:
            self._read(lambda engine: engine.finish(now))
            session = self._session(now)
        self._engine.deliver()
        return session

    def snapshot(self, *, details: bool = False) -> Snapshot:
        """Return what a scrape shows; with `details` also all findings in full."""
        now = self._fetch(process=False)
        with self._lock:
            return self._read(lambda engine: engine.snapshot(now, details=details))

    def detailed(self) -> Snapshot:
        """Return what /findings shows, and a scrape does not need."""
        return self.snapshot(details=True)

    def serve(self, listen: str, *, unasked: bool = False) -> Endpoint:
        """Serve the metrics of this process and of the others that serve this address. `unasked`: the program did not
        call for it. Raises ListenError."""
        from poolscope.multiprocess.peer import Peer
        from poolscope.multiprocess.serving import open_endpoint

        settings = self.settings.with_listen(listen)
        served = open_endpoint(self.snapshot, settings, self.failed, self.detailed, unasked=unasked)
        if isinstance(served, Peer):
            # After a fork that found no thread but ours, the next event of a pool lets it go on.
            self._detach.append(self._probe.add_job(1.0, lambda _: served.wake()))
            if _in_child not in self._probe.after_fork:
                self._probe.after_fork.append(_in_child)
        return served

    def subscribe(self, callback: Callable[[Finding, bool], None]) -> Callable[[], None]:
        """See `on_finding`."""
        with self._lock:
            cancel = self._engine.subscribe(callback)

        def unsubscribe() -> None:
            with self._lock:
                cancel()

        return unsubscribe


def _process_age_ns() -> int:
    """Return how long this process has existed."""
    import psutil

    try:
        created = psutil.Process().create_time()
        if sys.platform == "linux":
            # It is the time of the boot, which is known to a second, and the exact time since.
            age = time.clock_gettime(time.CLOCK_BOOTTIME) - (created - psutil.boot_time())
        else:
            age = time.time() - created
        return max(0, int(age * 1e9))
    except psutil.Error:
        return 0


_making = allocate_lock()
_observer: Observer | None = None


def _make(settings: Settings | None, probe: Probe | None = None) -> Observer:
    global _observer
    with _making:
        if _observer is None or _observer.pid != os.getpid():
            probe = probe or runtime.current()
            if settings is None and _observer is not None:
                settings = _observer.settings  # of the process that forked this one
            if settings is None:
                settings = config.environment_settings(os.environ)
            _apply(settings, probe)
            _observer = Observer(probe, settings, age_ns=_process_age_ns())
        elif settings is not None:
            _apply(settings, probe or runtime.current())
            _observer.configure(settings)
        return _observer


def _apply(settings: Settings, probe: Probe) -> None:
    # Under `poolscope run` its settings are those of the whole run.
    if not probe.supervised:
        probe.settings = ProbeSettings.from_values(settings.for_probe())


def local_sink(probe: Probe) -> None:
    """Give a process that nothing else watches its own engine; called by the probe's thread.

    Settings of the environment that cannot be used are logged once, and the defaults are used: a pool of the user must
    not fail because of them.
    """
    try:
        observer = _make(None, probe)
    except ConfigError as error:
        _log(f"warning: {error}; the default settings are used")
        observer = _make(Settings(), probe)
    _serve_inherited(probe)
    listen = observer.settings.listen
    if listen is not None and not _is_served(listen):
        try:
            observer.serve(listen, unasked=True)
        except PoolscopeError as error:
            _unserved(probe, error)


def _in_child(probe: Probe) -> None:
    """In a forked child of a process that serves, with its first event."""
    if probe.supervised:
        _serve_inherited(probe)
    else:
        local_sink(probe)


def _serve_inherited(probe: Probe) -> None:
    """Serve here too what the program gave to `serve` before it forked this process."""
    serving = sys.modules.get("poolscope.multiprocess.serving")
    for listen in [] if serving is None else serving.inherited():
        try:
            _make(None, probe).serve(listen, unasked=True)
        except PoolscopeError as error:
            _unserved(probe, error)


def _unserved(probe: Probe, error: PoolscopeError) -> None:
    """Report an address that cannot be used: no failure of ours, and it costs the metrics, not the program."""
    probe.emit(("fault", "endpoint", str(error)))
    if not probe.supervised:
        _log(f"warning: {error}; no metrics are served")


def _is_served(listen: str) -> bool:
    serving = sys.modules.get("poolscope.multiprocess.serving")
    return serving is not None and serving.is_served(listen)


def report() -> Report:
    """Return what this process's pools and loops have done so far, and what is wrong with them."""
    return _make(None).report()


def findings() -> tuple[Finding, ...]:
    """All findings of this process so far, the most severe first; those that last have no `until_seconds`."""
    return _make(None).findings()


def on_finding(callback: Callable[[Finding, bool], None]) -> Callable[[], None]:
    """Call `callback(finding, began)` when a finding begins (True) or ends (False), on poolscope's own thread.

    Returns a function that stops it. A callback that raises is removed, and counted in `poolscope_errors_total`.
    """
    return _make(None).subscribe(callback)


def collector() -> SnapshotCollector:
    """Return a prometheus_client collector of this process's pools and loops, for a registry of one's own."""
    from poolscope.metrics.families import SnapshotCollector

    observer = _make(None)
    return SnapshotCollector(observer.snapshot, observer.settings, observer.failed)


def serve(listen: str | None = None, *, config: str | os.PathLike[str] | None = None) -> Endpoint:
    """Serve Prometheus metrics of this process from a thread of its own; `.url`, `.close()`, context manager.

    Processes of one program that serve the same address share one endpoint: one of them answers for all; another takes
    over when it ends. With port 0 each has its own. Under `poolscope run --listen` with the same address the endpoint
    of the run answers.

    `listen` is "HOST:PORT" or a port, by default what the settings say, else 127.0.0.1:9464; `config` a settings file.
    Raises ConfigError for settings, and ListenError for an address, a certificate or a file of secrets, that cannot be
    used.
    """
    settings = load(config) if config is not None else None
    observer = _make(settings)
    listen = listen or observer.settings.listen or DEFAULT_LISTEN
    return _served_by_parent(listen) or observer.serve(listen)


def _served_by_parent(listen: str) -> Endpoint | None:
    """Return the endpoint of `poolscope run`, if that is the address: it answers for this process too."""
    from poolscope.endpoint.base import Elsewhere

    if bootstrap.served is None:
        return None
    host, port, url = bootstrap.served
    return Elsewhere(port, url) if listen_address(listen) == (host, port) else None


class Profile:
    """Everything on for a block of code. `report` is what was seen, complete once the block has ended."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._before: tuple[Probe, ProbeSettings] | None = None
        self._installation: Installation | None = None
        self._observer: Observer | None = None
        self._last: Session | None = None

    def __enter__(self) -> Self:
        probe = runtime.current()
        self._before = probe, probe.settings
        _apply(self._settings, probe)
        self._observer = Observer(probe, self._settings)
        self._installation = install()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._observer is not None:
            self._last = self._observer.finish()
            self._observer = None
        if self._installation is not None:
            self._installation.uninstall()
            self._installation = None
        if self._before is not None:
            probe, settings = self._before
            probe.settings = settings
            self._before = None

    @property
    def report(self) -> Report:
        """What has been seen so far. Raises RuntimeError before the block was entered."""
        return self.session.report

    @property
    def session(self) -> Session:
        """The same with what it was made from: each pool over time, and its tasks. Raises RuntimeError likewise."""
        if self._last is not None:
            return self._last
        if self._observer is None:
            raise RuntimeError("profile() has nothing to report yet: enter its block first")
        return self._observer.session()


def profile(**settings: Any) -> Profile:
    """Watch all pools and loops for a block of code: `with profile() as p: ...; print(p.report.verdict)`.

    Keywords are the settings (docs/settings.md), sections as dicts. Raises ConfigError for one that cannot be used.
    """
    return Profile(config.from_mapping(settings, "profile()"))


__all__ = [
    "Observer",
    "Profile",
    "collector",
    "findings",
    "install",
    "local_sink",
    "on_finding",
    "profile",
    "report",
    "serve",
]
