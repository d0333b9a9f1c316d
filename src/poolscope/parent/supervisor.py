"""Starts the program, forwards signals to it, waits for it, and ends as it ended."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from poolscope.errors import ProgramError
from poolscope.parent.watch import Watch

if TYPE_CHECKING:
    from poolscope.model import Session, Severity
    from poolscope.parent.plan import Plan
    from poolscope.parent.programs import Program

#: Exit status where `--fail-on` found something.
FAILED_STATUS = 3

#: Linux: `si_code` of a signal that the kernel itself sent, such as Ctrl-C in a terminal: to the whole group.
_SI_KERNEL = 0x80

#: Left to their default action: those that stop and continue us together with the program, and those that are
#: about ourselves.
_NOT_FORWARDED = {
    "SIGKILL", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGCONT", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL",
    "SIGTRAP", "SIGABRT", "SIGSYS", "SIGPIPE", "SIGXFSZ", "SIGXCPU",
}  # fmt: skip


def supervise(plan: Plan) -> int:
    """Runs the program and reports; the exit status, or the negative number of the signal to end by.

    Raises PoolscopeError if the program was not started.
    """
    started_ns = time.perf_counter_ns()
    forwarded = _forwarded_signals()
    # Blocked in all threads from here on: they wait until the main thread asks for them.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, forwarded)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    watch = Watch(plan, started_ns)
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


def _is_awaited(plan: Plan) -> bool:
    return plan.json_path is not None or plan.session_path is not None or plan.fail_on is not None


def _is_severe(session: Session, fail_on: Severity | None) -> bool:
    from poolscope.model import SEVERITIES

    if fail_on is None:
        return False
    least = SEVERITIES.index(fail_on)
    return any(SEVERITIES.index(finding.severity) >= least for finding in session.report.findings)
