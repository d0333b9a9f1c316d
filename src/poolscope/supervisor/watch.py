"""Everything about a run except the program itself: what listens to it, judges, serves, saves and reports.

A failure here costs the report, never the program.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from poolscope import probe
from poolscope.errors import PoolscopeError, ProgramError
from poolscope.supervisor.folder import Folder, sweep
from poolscope.supervisor.printer import Printer, say, say_failure

if TYPE_CHECKING:
    from poolscope.endpoint import Server
    from poolscope.engine import Engine
    from poolscope.live.feed import Feed
    from poolscope.model import Session
    from poolscope.snapshot import Snapshot
    from poolscope.supervisor.children import Children
    from poolscope.supervisor.collector import Collector
    from poolscope.supervisor.live_door import LiveDoor
    from poolscope.supervisor.live_view import LiveView
    from poolscope.supervisor.plan import Plan

#: How long processes that outlive the program are listened to.
PATIENCE_NS = 1_000_000_000

#: Seconds between two saves of the session while the program runs.
CHECKPOINT_SECONDS = 10.0

#: Seconds between two looks at the processes of the program.
CHILDREN_SECONDS = 0.25

#: Seconds between two looks for live views.
LIVE_SECONDS = 1.0

#: Seconds between two lines of `--live` where there is no terminal.
STATUS_SECONDS = 10.0

#: So many pools are named beside a name that none of them has.
NAMES_SHOWN = 10

#: So many processes that outlive the program are named.
PIDS_SHOWN = 5

_NOT_SEEN = "no Python process was seen: only Python 3.11 or later, started without -I, -E and -S, is watched"


class Watch:
    """Everything about the run but the program itself.

    `listen` may raise PoolscopeError, since nothing has started then; nothing else here raises.
    `_lock` is held around every call of the engine.
    """

    def __init__(self, plan: Plan, started_ns: int) -> None:
        self._plan = plan
        self._started_ns = started_ns
        self._started_at = time.time()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="poolscope-collector", daemon=True)
        self._folder: Folder | None = None
        self._collector: Collector | None = None
        self._engine: Engine | None = None
        self._server: Server | None = None
        self._printer: Printer | None = None
        #: What is done regularly: the session is saved, and the processes are looked at.
        self._repeated: list[_Repeated] = []
        self._children: Children | None = None
        #: What live views are shown, and where `poolscope top` asks for it.
        self._live: Feed | None = None
        self._door: LiveDoor | None = None
        self._shown = plan.live and _can_be_shown()
        self._program_pid = 0
        self._session_file = next((each for each in plan.outputs if each.is_session_file()), None)

    def listen(self) -> None:
        """Open the socket for the processes, and the endpoint where one is wanted."""
        from poolscope.supervisor.collector import Collector

        settings = self._plan.settings
        if settings is not None and settings.listen is not None:
            from poolscope.live.feed import pages
            from poolscope.metrics.families import serve_snapshots

            self._engine = self._make_engine()
            self._server = serve_snapshots(
                self._snapshot, settings, self._part_failed, detailed=self._detailed, pages=pages(self._feed())
            )
            if not self._plan.quiet:
                say(f"metrics at {self._server.url}/metrics")
                say(f"live view at {self._server.url}/")
        self._folder = Folder()
        self._collector = Collector(self._lock, self._folder.socket, time.perf_counter_ns)

    def view(self) -> LiveView | None:
        """Return the view that is to be shown while the program runs, if there is a terminal for it."""
        if not self._shown:
            return None
        from poolscope.supervisor.live_view import LiveView

        assert self._folder is not None
        try:
            return LiveView(self._folder.live)
        except (OSError, RuntimeError) as error:
            raise ProgramError(f"--live cannot be shown: {error}; leave it out") from error

    def environment(self, present: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of the program: its own, and the variables by which our part in it finds us."""
        from poolscope.probe.startup.handover import VARIABLE, pack

        assert self._folder is not None
        environment = dict(present)
        site = _site()
        # An empty entry means the working directory, an empty variable means none.
        paths = environment["PYTHONPATH"].split(os.pathsep) if environment.get("PYTHONPATH") else []
        environment["PYTHONPATH"] = os.pathsep.join([site, *[path for path in paths if path != site]])
        settings = self._plan.settings.for_probe() if self._plan.settings is not None else {}
        environment[VARIABLE] = pack(self._folder.socket, settings, self._served())
        return environment

    def _served(self) -> tuple[str, int, str] | None:
        """Host, port and URL of the endpoint, which a program that serves the same address is not to open itself."""
        if self._server is None or self._plan.settings is None or self._plan.settings.listen is None:
            return None
        from poolscope.config import listen_address

        address = listen_address(self._plan.settings.listen)
        return None if address is None else (address[0], self._server.port, self._server.url)

    def start(self, pid: int) -> None:
        """Begin to listen to the program and to judge it."""
        assert self._collector is not None
        self._program_pid = pid
        try:
            self._thread.start()
        except RuntimeError:  # the system gives us none
            self._broken()
            self._engine = None
            self._collector.close()

    def _run(self) -> None:
        assert self._collector is not None
        try:
            # Here, not before: the imports take longer than a program needs to start, and the main thread has
            # signals to forward meanwhile.
            if self._engine is None:
                self._engine = self._make_engine()
        except Exception:
            self._broken()
            self._collector.close()  # or the processes would wait for us to read what they send
            return
        sweep()
        try:
            if self._session_file is not None:
                # A kill of this process loses little then.
                self._repeated.append(_Repeated("checkpoint", CHECKPOINT_SECONDS, self._save_checkpoint))
            self._repeated.append(_Repeated("children", CHILDREN_SECONDS, self._look_at_children, self._part_failed))
            if self._server is not None or self._plan.live:
                # So that who looks later sees what was before.
                self._repeated.append(_Repeated("live", LIVE_SECONDS, self._feed().look, self._part_failed))
            if self._plan.live and self._printer is not None:
                self._repeated.append(_Repeated("status", STATUS_SECONDS, self._say_status, self._part_failed))
        except RuntimeError as error:  # no thread
            self._part_failed("checkpoint", error)
        self._open_door()
        try:
            self._collector.run(self._engine)
        except Exception as error:
            self._collector.close()
            self._part_failed("intake", error)
            self._engine.deliver()

    def _say_status(self) -> None:
        from poolscope.live.board import status
        from poolscope.rendering.text import Medium

        assert self._printer is not None
        medium = Medium(width=160, encoding=getattr(sys.stderr, "encoding", None), cwd="")
        self._printer.say(status(self._feed().board(), medium))

    def _open_door(self) -> None:
        from poolscope.supervisor.live_door import LiveDoor

        assert self._folder is not None
        try:
            self._door = LiveDoor(self._folder.live, lambda: self._feed().json(), self._part_failed)
        except (OSError, RuntimeError) as error:  # no descriptor, or no thread
            self._part_failed("live", error)

    def _part_failed(self, part: str, error: Exception) -> None:
        if self._engine is not None:
            with self._lock:
                self._engine.failed(part, f"{type(error).__name__}: {error}")

    def finish(self, pid: int, exit_code: int) -> Session | None:
        """End with the program; return what was recorded, or None where we failed and have said so."""
        assert self._collector is not None
        try:
            ended_ns = time.perf_counter_ns()
            if self._thread.ident is None:
                return None  # `start` said why
            self._collector.finish(PATIENCE_NS)
            self._thread.join()
            for repeated in self._repeated:
                repeated.stop()
            engine = self._engine
            if engine is None:
                return None  # `_run` said why
            with self._lock:
                engine.exited(pid, exit_code)
                if not self._collector.connections:
                    engine.notice(_NOT_SEEN)
                if outliving := self._collector.outliving():
                    engine.notice(_outlived(outliving))
                engine.finish(ended_ns)
                return self._missed(self._session(ended_ns, exit_code))
        except Exception:
            self._broken()
            return None

    def _missed(self, session: Session) -> Session:
        """Note each `--set` that no pool was there for, or pools of several kinds."""
        from msgspec.structs import replace

        from poolscope.addresses import means, several
        from poolscope.aggregation.top_functions import OTHER

        report, settings = session.report, self._plan.settings
        names = sorted({row.name for row in report.pools})
        known, missed = ", ".join(names[:NAMES_SHOWN]) or "none", []
        for wanted in self._plan.resized:
            # What the settings call a pool is its name in the report.
            rule = settings.rule_for(wanted) if settings is not None else None
            named = {wanted, rule.name if rule is not None else None, OTHER} & {*names}
            if not named and not any(means(wanted, row) for row in report.pools):
                missed.append(f"--set {wanted}: no pool has that name; the pools: {known}")
            if kinds := several(wanted, report.pools):
                missed.append(f"--set {wanted}: pools of several kinds have that name; one alone: {', '.join(kinds)}")
        if self._plan.quiet:
            for text in missed:
                say(text)
        return replace(session, report=replace(report, notices=(*report.notices, *missed))) if missed else session

    def save(self, session: Session) -> tuple[Session, bool]:
        """Write the files that were asked for; false if one cannot be written. A notice of the report says so, and a
        line where no report is printed."""
        from msgspec.structs import replace

        from poolscope.rendering.outputs import write

        written = True
        for output in self._plan.outputs:
            try:
                write(session, output)
            except Exception as error:
                text = str(error) if isinstance(error, PoolscopeError) else f"{type(error).__name__}: {error}"
                if self._plan.quiet:
                    say(text)
                written = False
                report = session.report
                session = replace(session, report=replace(report, notices=(*report.notices, text)))
        return session, written

    def show(self, session: Session) -> None:
        """Print the report."""
        if self._printer is not None:
            self._printer.close()
        if self._plan.quiet or sys.stderr is None:
            return
        try:
            from poolscope.rendering.terminal import render

            plan = self._plan
            render(session, sys.stderr, verbose=plan.verbose, width=plan.width, color=plan.color)
            sys.stderr.flush()
        except (OSError, KeyboardInterrupt):
            pass  # standard error is not read
        except Exception:
            self._broken()

    def close(self) -> None:
        """Let go of everything."""
        if self._printer is not None:
            self._printer.close()
        if self._server is not None:
            self._server.close()
        if self._door is not None:
            self._door.close()
        if self._collector is not None:
            self._collector.close()
        if self._folder is not None:
            self._folder.close()

    def _make_engine(self) -> Engine:
        from poolscope.config import Settings
        from poolscope.engine import Engine

        if not self._plan.quiet and not self._shown:  # else it would write into the view, which shows findings itself
            try:
                self._printer = Printer()
            except RuntimeError:
                pass  # no thread for it: findings are in the report all the same
        log = None if self._printer is None else self._printer.say
        return Engine(self._plan.settings or Settings(), started_ns=self._started_ns, log=log)

    def _snapshot(self, *, details: bool = False) -> Snapshot:
        assert self._engine is not None
        with self._lock:
            return self._engine.snapshot(time.perf_counter_ns(), details=details)

    def _detailed(self) -> Snapshot:
        return self._snapshot(details=True)

    def _feed(self) -> Feed:
        """Return what live views are shown: one for all of them."""
        from poolscope.live.feed import Feed

        if self._live is None:
            self._live = Feed(self._detailed, " ".join(map(_as_text, self._plan.program.command)))
        return self._live

    def _session(self, now_ns: int, exit_code: int | None) -> Session:
        from datetime import UTC, datetime

        assert self._engine is not None
        return self._engine.session(
            now_ns,
            command=[_as_text(part) for part in self._plan.program.command],
            started_at=datetime.fromtimestamp(self._started_at, UTC).isoformat(timespec="milliseconds"),
            exit_code=exit_code,
            own_cpu_seconds=time.process_time(),
        )

    def _look_at_children(self) -> None:
        from poolscope.probe.startup.handover import VARIABLE
        from poolscope.supervisor.children import Children, below, holds

        assert self._engine is not None
        collector = self._collector
        assert collector is not None
        if self._children is None:
            self._children = Children(
                VARIABLE, site=_site(), user=os.geteuid(), reaches=lambda pid: holds(pid, collector.doors)
            )
        # First the processes there, then those that have said hello: in between only more may have.
        processes = below(self._program_pid)
        with self._lock:
            for process, reason in self._children.look(processes, self._engine.watched_pids()):
                self._engine.unwatched(process, reason)

    def _save_checkpoint(self) -> None:
        with self._lock:
            session = self._session(time.perf_counter_ns(), None)
        from poolscope.rendering.outputs import write

        assert self._session_file is not None
        write(session, self._session_file)

    def _broken(self) -> None:
        say_failure("it failed, there is no report; the program is not affected:", traceback.format_exc().rstrip())


class _Repeated:
    """Calls a function regularly, on a thread of its own, until it fails."""

    def __init__(
        self,
        name: str,
        seconds: float,
        call: Callable[[], None],
        failed: Callable[[str, Exception], object] = lambda _, __: None,
    ) -> None:
        """`failed(name, error)` is called at its end. That of a session needs no report: the last one, which is not
        caught, says what is wrong."""
        self._name = name
        self._seconds = seconds
        self._call = call
        self._failed = failed
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"poolscope-{name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop, and return when the last call is complete."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._seconds):
            try:
                self._call()
            except Exception as error:
                self._failed(self._name, error)
                return


def _can_be_shown() -> bool:
    from poolscope.supervisor.live_view import can_be_shown

    return can_be_shown()


def _site() -> str:
    """Return the folder of the start hook."""
    return os.path.join(os.path.dirname(os.path.abspath(probe.__file__)), "site")


def _as_text(argument: str) -> str:
    # Arguments may be bytes that are no text; a report must be.
    return argument.encode("utf-8", "backslashreplace").decode()


def _outlived(pids: Sequence[int]) -> str:
    """Return what is said of processes that go on without the program."""
    shown = ", ".join(map(str, pids[:PIDS_SHOWN])) + (", ..." if len(pids) > PIDS_SHOWN else "")
    what = "a process" if len(pids) == 1 else f"{len(pids):,} processes"
    return f"{what} of the program went on after its end (pid {shown}): from then on nothing of it is seen"
