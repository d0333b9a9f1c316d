"""Everything about a run but the program itself: what listens to it, judges, serves, saves and reports.

Whatever fails here costs the report, never the program.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from poolscope import probe
from poolscope.errors import PoolscopeError
from poolscope.parent.printer import Printer, say

if TYPE_CHECKING:
    from poolscope.endpoint import Server
    from poolscope.judge import Judge
    from poolscope.model import Session, Snapshot
    from poolscope.parent.children import Children
    from poolscope.parent.intake import Collector
    from poolscope.parent.plan import Plan

#: How long processes that outlive the program are listened to.
PATIENCE_NS = 1_000_000_000

#: Seconds between two saves of the session while the program runs.
CHECKPOINT_SECONDS = 10.0

#: Seconds between two looks at the processes of the program.
CHILDREN_SECONDS = 0.25

_NOT_SEEN = "no Python process was seen: only Python 3.11 or later, started without -I, -E and -S, is watched"

#: The longest path of a UNIX socket, in bytes, that all systems take.
_MAX_SOCKET_PATH = 100


class Watch:
    """Everything about the run but the program itself.

    `listen` may raise PoolscopeError, since nothing has started then; nothing else here raises.
    `_lock` is held around every call of the judge.
    """

    def __init__(self, plan: Plan, started_ns: int) -> None:
        self._plan = plan
        self._started_ns = started_ns
        self._started_at = time.time()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="poolscope-collector", daemon=True)
        self._folder: str | None = None
        self._collector: Collector | None = None
        self._judge: Judge | None = None
        self._server: Server | None = None
        self._printer: Printer | None = None
        #: What is done every now and then: the session is saved, and the processes are looked at.
        self._repeated: list[_Repeated] = []
        self._children: Children | None = None
        self._program_pid = 0

    def listen(self) -> None:
        """Open the socket for the processes, and the endpoint where one is wanted."""
        from poolscope.parent.intake import Collector

        settings = self._plan.settings
        if settings is not None and settings.listen is not None:
            from poolscope.prometheus import serve_snapshots

            self._judge = self._make_judge()
            self._server = serve_snapshots(
                self._snapshot, settings, self._part_failed, detailed=lambda: self._snapshot(details=True)
            )
            if not self._plan.quiet:
                say(f"metrics at {self._server.url}/metrics")
        self._folder = _private_folder()
        self._collector = Collector(self._lock, self._socket_path(), time.perf_counter_ns)

    def environment(self, present: Mapping[str, str]) -> dict[str, str]:
        """What the program gets: its own, and how our part in it finds us."""
        from poolscope.probe.channel import dumps

        environment = dict(present)
        site = os.path.join(os.path.dirname(os.path.abspath(probe.__file__)), "site")
        # An empty entry means the working directory, an empty variable means none.
        paths = environment["PYTHONPATH"].split(os.pathsep) if environment.get("PYTHONPATH") else []
        environment["PYTHONPATH"] = os.pathsep.join([site, *[path for path in paths if path != site]])
        settings = self._plan.settings.probe_json() if self._plan.settings is not None else "{}"
        served = dumps(self._served())
        environment["POOLSCOPE_RUN"] = (
            f'{{"socket":{dumps(self._socket_path())},"settings":{settings},"served":{served}}}'
        )
        return environment

    def _served(self) -> tuple[str, int, str] | None:
        """Host, port and URL of the endpoint, which a program that serves the same address is not to open itself."""
        if self._server is None or self._plan.settings is None or self._plan.settings.listen is None:
            return None
        from poolscope.config import listen_address

        address = listen_address(self._plan.settings.listen)
        return None if address is None else (address[0], self._server.port, self._server.url)

    def start(self, pid: int) -> None:
        """Begin to listen to the program and to judge."""
        assert self._collector is not None
        self._program_pid = pid
        try:
            self._thread.start()
        except RuntimeError:  # the system gives us none
            self._broken()
            self._judge = None
            self._collector.close()

    def _run(self) -> None:
        assert self._collector is not None
        try:
            # Here, not before: the imports take longer than a program needs to start, and the main thread has
            # signals to forward meanwhile.
            if self._judge is None:
                self._judge = self._make_judge()
        except Exception:
            self._broken()
            self._collector.close()  # or the processes would wait for us to read what they send
            return
        try:
            if self._plan.session_path is not None:
                # A kill of this process loses little then.
                self._repeated.append(_Repeated("checkpoint", CHECKPOINT_SECONDS, self._save_checkpoint))
            self._repeated.append(_Repeated("children", CHILDREN_SECONDS, self._look_at_children))
        except RuntimeError as error:  # no thread
            self._part_failed("checkpoint", error)
        try:
            self._collector.run(self._judge)
        except Exception as error:
            self._collector.close()
            self._part_failed("intake", error)
            self._judge.deliver()

    def _part_failed(self, part: str, error: Exception) -> None:
        if self._judge is not None:
            with self._lock:
                self._judge.failed(part, f"{type(error).__name__}: {error}")

    def finish(self, pid: int, exit_code: int) -> Session | None:
        """The program ended: what was recorded, or None where we failed and have said so."""
        assert self._collector is not None
        try:
            ended_ns = time.perf_counter_ns()
            if self._thread.ident is None:
                return None  # `start` said why
            self._collector.finish(PATIENCE_NS)
            self._thread.join()
            for repeated in self._repeated:
                repeated.stop()
            judge = self._judge
            if judge is None:
                return None  # `_run` said why
            with self._lock:
                judge.exited(pid, exit_code)
                if not self._collector.connections:
                    judge.notice(_NOT_SEEN)
                judge.finish(ended_ns)
                return self._session(ended_ns, exit_code)
        except Exception:
            self._broken()
            return None

    def save(self, session: Session) -> tuple[Session, bool]:
        """Write the files that were asked for; false, with a line and a notice for each, if one cannot be written."""
        from msgspec.structs import replace

        written = True
        for write in (self._write_session, self._write_json):
            try:
                write(session)
            except Exception as error:
                text = str(error) if isinstance(error, PoolscopeError) else f"{type(error).__name__}: {error}"
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

            render(session, sys.stderr)
            sys.stderr.flush()
        except (OSError, KeyboardInterrupt):
            pass  # nobody wants to read it
        except Exception:
            self._broken()

    def close(self) -> None:
        """Let go of everything."""
        if self._printer is not None:
            self._printer.close()
        if self._server is not None:
            self._server.close()
        if self._collector is not None:
            self._collector.close()
        if self._folder is not None:
            for remove, path in ((os.unlink, self._socket_path()), (os.rmdir, self._folder)):
                try:
                    remove(path)
                except OSError:
                    pass  # the program may have cleaned up the temporary directory

    def _write_session(self, session: Session) -> None:
        if self._plan.session_path is not None:
            from poolscope.session import save

            save(session, self._plan.session_path)

    def _write_json(self, session: Session) -> None:
        if self._plan.json_path is not None:
            from poolscope.outputs import write

            write(self._plan.json_path, session.report.to_json())

    def _make_judge(self) -> Judge:
        from poolscope.config import Settings
        from poolscope.judge import Judge

        if not self._plan.quiet:
            try:
                self._printer = Printer()
            except RuntimeError:
                pass  # no thread for it: findings are in the report all the same
        log = None if self._printer is None else self._printer.say
        return Judge(self._plan.settings or Settings(), started_ns=self._started_ns, log=log)

    def _snapshot(self, *, details: bool = False) -> Snapshot:
        assert self._judge is not None
        with self._lock:
            return self._judge.snapshot(time.perf_counter_ns(), details=details)

    def _session(self, now_ns: int, exit_code: int | None) -> Session:
        from datetime import UTC, datetime

        assert self._judge is not None
        return self._judge.session(
            now_ns,
            command=[_as_text(part) for part in self._plan.program.command],
            started_at=datetime.fromtimestamp(self._started_at, UTC).isoformat(timespec="milliseconds"),
            exit_code=exit_code,
            own_cpu_seconds=time.process_time(),
        )

    def _look_at_children(self) -> None:
        from poolscope.parent.children import Children, below
        from poolscope.probe.bootstrap import VARIABLE

        assert self._judge is not None
        if self._children is None:
            self._children = Children(VARIABLE)
        # First who is there, then who has said hello: in between only more may have.
        processes = below(self._program_pid)
        with self._lock:
            for notice in self._children.look(processes, self._judge.watched_pids()):
                self._judge.notice(notice)

    def _save_checkpoint(self) -> None:
        with self._lock:
            session = self._session(time.perf_counter_ns(), None)
        self._write_session(session)

    def _broken(self) -> None:
        say("it failed, there is no report; the program is not affected:\n" + traceback.format_exc().rstrip())

    def _socket_path(self) -> str:
        assert self._folder is not None
        return os.path.join(self._folder, "socket")


class _Repeated:
    """Calls something every now and then, on a thread of its own, until it fails."""

    def __init__(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        self._seconds = seconds
        self._call = call
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"poolscope-{name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """No more; returns when the last call is complete."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(self._seconds):
            try:
                self._call()
            except Exception:
                return  # a session: the last one, which is not caught, says what is wrong


def _as_text(argument: str) -> str:
    # Arguments may be bytes that are no text; a report must be.
    return argument.encode("utf-8", "backslashreplace").decode()


def _private_folder() -> str:
    """A new directory that only we can enter, with a path short enough for a socket in it."""
    # The last two are there in a container whose root is read-only.
    for base in (os.environ.get("TMPDIR"), "/tmp", "/var/tmp", "/dev/shm", os.environ.get("XDG_RUNTIME_DIR")):
        if not base:
            continue
        folder = os.path.join(os.path.abspath(base), f"poolscope-{os.urandom(6).hex()}")
        try:
            if len(folder.encode()) + len("/socket") > _MAX_SOCKET_PATH:
                continue
            os.mkdir(folder, 0o700)
        except (OSError, UnicodeEncodeError):
            continue
        return folder
    raise PoolscopeError("no directory for a socket can be made: set TMPDIR to a short, writable path")
