"""Starts the program, forwards signals to it, waits for it, and ends as it ended."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from poolscope.errors import ProgramError
from poolscope.supervisor.printer import say
from poolscope.supervisor.watch import Watch

if TYPE_CHECKING:
    from poolscope.model import Finding, Session, Severity
    from poolscope.supervisor.plan import Plan
    from poolscope.supervisor.programs import Program

#: Exit status where `--fail-on` found something.
FAILED_STATUS = 3

#: Linux: `si_code` of a signal that the kernel itself sent, such as Ctrl-C in a terminal: to the whole group.
_SI_KERNEL = 0x80

#: Left to their default action: signals that stop and continue us together with the program, and signals about
#: ourselves.
_NOT_FORWARDED = {
    "SIGKILL", "SIGSTOP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGCONT", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL",
    "SIGTRAP", "SIGABRT", "SIGSYS", "SIGPIPE", "SIGXFSZ", "SIGXCPU",
}  # fmt: skip


def supervise(plan: Plan) -> int:
    """Run the program and report; the exit status, or the negative number of the signal to end by.

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
        view = watch.view()
        pid = _start(plan.program, watch.environment(os.environ), mask, () if view is None else view.for_program)
        watch.start(pid)
        if view is not None:
            view.start(mask)
        exit_code = os.waitstatus_to_exitcode(_wait(pid, forwarded))
        if view is not None:
            view.finish()
        session = watch.finish(pid, exit_code)
        # The absence of a file or a verdict that was asked for must not look like success.
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
    failing = [] if session is None else _failing(session, plan.fail_on)
    if not failing:
        return 0
    others = f", and {len(failing) - 1} more" if len(failing) > 1 else ""
    say(f"exit status {FAILED_STATUS}, as --fail-on {plan.fail_on} wants it: {failing[0].summary}{others}")
    return FAILED_STATUS


def end_by(status: int) -> int:
    """Return the exit status to end with. If a signal ended the program, do not return: end by the same signal."""
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


def _start(
    program: Program, environment: Mapping[str, str], mask: set[int], descriptors: Sequence[tuple[Any, ...]] = ()
) -> int:
    # Python ignores these two; whatever we start must find them as its shell left them (as `subprocess`
    # does).
    restored = [signal.SIGPIPE, signal.SIGXFSZ]
    try:
        return os.posix_spawnp(
            program.argv[0], program.argv, environment, file_actions=descriptors, setsigmask=mask, setsigdef=restored
        )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ProgramError(f"cannot start {program.argv[0]}: {reason}; check the command") from error


def _wait(pid: int, forwarded: set[int]) -> int:
    """Return the wait status of the program; forward what we are sent while it runs."""
    while True:
        received = signal.sigwaitinfo(forwarded)
        if received.si_signo == signal.SIGCHLD:
            # All that have ended: the first process of a container inherits the orphans, and no other process waits for
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
                pass  # it runs as another user by now


def _release(forwarded: set[int], mask: set[int]) -> None:
    # What came too late for the program must not end us either: our status is the program's.
    while signal.sigtimedwait(forwarded, 0) is not None:
        pass
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _is_awaited(plan: Plan) -> bool:
    return bool(plan.outputs) or plan.fail_on is not None


def _failing(session: Session, fail_on: Severity | None) -> list[Finding]:
    """Return the findings that are as severe as that or worse, the worst first."""
    from poolscope.model import SEVERITIES
    from poolscope.ranking import importance

    if fail_on is None:
        return []
    least = SEVERITIES.index(fail_on)
    failing = [finding for finding in session.report.findings if SEVERITIES.index(finding.severity) >= least]
    return sorted(failing, key=importance)
