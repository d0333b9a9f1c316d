"""The parent of `poolscope run`: starts the program, listens to it, and ends as it ended.

Two things that do not depend on each other. The main thread supervises: it starts the program, forwards
signals and waits. Everything else watches, and whatever fails there costs the report, never the program.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from poolscope.errors import PoolscopeError, ProgramError

if TYPE_CHECKING:
    from queue import SimpleQueue

    from poolscope.children import Children
    from poolscope.config import Settings
    from poolscope.endpoint import Server
    from poolscope.intake import Collector
    from poolscope.judge import Judge
    from poolscope.model import Session, Severity, Snapshot
    from poolscope.programs import Program

#: How long processes that outlive the program are listened to.
PATIENCE_NS = 1_000_000_000

#: Seconds between two saves of the session while the program runs.
CHECKPOINT_SECONDS = 10.0

#: Seconds between two looks at the processes of the program.
CHILDREN_SECONDS = 0.25

#: Exit status where `--fail-on` found something.
FAILED_STATUS = 3

_NOT_SEEN = "no Python process was seen: only Python 3.11 or later, started without -I, -E and -S, is watched"

#: Linux: `si_code` of a signal that the kernel itself sent, such as Ctrl-C in a terminal: to the whole group.
_SI_KERNEL = 0x80

#: Left to their default action: those that stop and continue us together with the program, and those that are
#: about ourselves.
_NOT_FORWARDED = {
    "SIGKILL", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGCONT", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL",
    "SIGTRAP", "SIGABRT", "SIGSYS", "SIGPIPE", "SIGXFSZ", "SIGXCPU",
}  # fmt: skip

#: The longest path of a UNIX socket, in bytes, that all systems take.
_MAX_SOCKET_PATH = 100


class Plan(NamedTuple):
    """What to run and what to make of it. Paths are absolute and were checked; no settings: the defaults."""

    program: Program
    settings: Settings | None = None
    json_path: str | None = None
    session_path: str | None = None
    fail_on: Severity | None = None
    quiet: bool = False


def supervise(plan: Plan) -> int:
    """Runs the program and reports; the exit status, or the negative number of the signal to end by.

    Raises PoolscopeError if the program was not started.
    """
    started_ns = time.perf_counter_ns()
    forwarded = _forwarded_signals()
    # Blocked in all threads from here on: they wait until the main thread asks for them.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, forwarded)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    watch = _Watch(plan, started_ns)
    try:
        watch.listen()
        pid = _start(plan.program, watch.environment(os.environ), mask)
        watch.start(pid)
        exit_code = os.waitstatus_to_exitcode(_wait(pid, forwarded))
        session = watch.finish(pid, exit_code)
        # Whoever asked for a file or a verdict must not take its absence for a success.
        saved = not _is_awaited(plan)
        if session is not None:
            session, saved = watch.save(session)
        _release(forwarded, mask)
        if session is not None:
            watch.show(session)
    finally:
        watch.close()
        _release(forwarded, mask)
    if exit_code != 0:
        return exit_code
    if not saved:
        return 2
    return FAILED_STATUS if session is not None and _is_severe(session, plan.fail_on) else 0


def end_by(status: int) -> int:
    """The exit status to end with; does not return where a signal ended the program: then so are we."""
    if status >= 0:
        return status
    number = -status
    # The program has written a core file if one was wanted: ours would replace it.
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})
    os.kill(os.getpid(), number)
    # Still here: as the first process of a container, which signals cannot end.
    return 128 + number


def _forwarded_signals() -> set[int]:
    return {
        int(number)
        for number in signal.valid_signals()
        if not (isinstance(number, signal.Signals) and number.name in _NOT_FORWARDED)
    }


def _start(program: Program, environment: Mapping[str, str], mask: set[int]) -> int:
    # Python ignores these two; whatever we start must find them as its shell left them (as `subprocess`
    # does).
    restored = [signal.SIGPIPE, signal.SIGXFSZ]
    try:
        return os.posix_spawnp(program.argv[0], program.argv, environment, setsigmask=mask, setsigdef=restored)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ProgramError(f"cannot start {program.argv[0]}: {reason}; check the command") from error


def _wait(pid: int, forwarded: set[int]) -> int:
    """The wait status of the program; forwards what we are sent while it runs."""
    while True:
        received = signal.sigwaitinfo(forwarded)
        if received.si_signo == signal.SIGCHLD:
            # All that have ended: the first process of a container inherits the orphans, and nobody else waits for
            # them.
            ended = -1
            while ended:
                ended, status = os.waitpid(-1, os.WNOHANG)
                if ended == pid:
                    return status
        elif received.si_code != _SI_KERNEL:
            # Sent to us alone, as far as one can tell. The process is there still: we have not waited for it.
            try:
                os.kill(pid, received.si_signo)
            except PermissionError:
                pass  # it runs as somebody else by now


def _release(forwarded: set[int], mask: set[int]) -> None:
    # What came too late for the program must not end us either: our status is the program's.
    while signal.sigtimedwait(forwarded, 0) is not None:
        pass
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class _Watch:
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
        self._printer: _Printer | None = None
        #: What is done every now and then: the session is saved, and the processes are looked at.
        self._repeated: list[_Repeated] = []
        self._children: Children | None = None
        self._program_pid = 0

    def listen(self) -> None:
        """Open the socket for the processes, and the endpoint where one is wanted."""
        from poolscope.intake import Collector

        settings = self._plan.settings
        if settings is not None and settings.listen is not None:
            from poolscope.prometheus import serve_snapshots

            self._judge = self._make_judge()
            self._server = serve_snapshots(
                self._snapshot, settings, self._part_failed, detailed=lambda: self._snapshot(details=True)
            )
            if not self._plan.quiet:
                _say(f"metrics at {self._server.url}/metrics")
        self._folder = _private_folder()
        self._collector = Collector(self._lock, self._socket_path(), time.perf_counter_ns)

    def environment(self, present: Mapping[str, str]) -> dict[str, str]:
        """What the program gets: its own, and how our part in it finds us."""
        from poolscope.probe.channel import dumps

        environment = dict(present)
        site = os.path.join(os.path.dirname(os.path.abspath(__file__)), "probe", "site")
        # An empty entry means the working directory, an empty variable means none.
        paths = environment["PYTHONPATH"].split(os.pathsep) if environment.get("PYTHONPATH") else []
        environment["PYTHONPATH"] = os.pathsep.join([site, *[path for path in paths if path != site]])
        settings = self._plan.settings.probe_json() if self._plan.settings is not None else "{}"
        environment["POOLSCOPE_RUN"] = f'{{"socket":{dumps(self._socket_path())},"settings":{settings}}}'
        return environment

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
                _say(text)
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
                self._printer = _Printer()
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
        from poolscope.children import Children, below
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
        _say("it failed, there is no report; the program is not affected:\n" + traceback.format_exc().rstrip())

    def _socket_path(self) -> str:
        assert self._folder is not None
        return os.path.join(self._folder, "socket")


class _Printer:
    """Writes lines to standard error from a thread of its own: whoever says one holds the judge's lock."""

    def __init__(self) -> None:
        from queue import SimpleQueue

        self._lines: SimpleQueue[str | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="poolscope-printer", daemon=True)
        self._thread.start()

    def say(self, line: str) -> None:
        """Print the line, soon."""
        self._lines.put(line)

    def close(self) -> None:
        """Print what is left; not for longer than a second, should nobody read it."""
        self._lines.put(None)
        self._thread.join(1.0)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            _say(line)


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


def _say(line: str) -> None:
    if sys.stderr is None:
        return  # it was closed when we started; `print` would take standard output, which is the program's
    try:
        print(f"poolscope: {line}", file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass  # nobody reads it


def _as_text(argument: str) -> str:
    # Arguments may be bytes that are no text; a report must be.
    return argument.encode("utf-8", "backslashreplace").decode()


def _is_awaited(plan: Plan) -> bool:
    return plan.json_path is not None or plan.session_path is not None or plan.fail_on is not None


def _is_severe(session: Session, fail_on: Severity | None) -> bool:
    from poolscope.model import SEVERITIES

    if fail_on is None:
        return False
    least = SEVERITIES.index(fail_on)
    return any(SEVERITIES.index(finding.severity) >= least for finding in session.report.findings)


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
