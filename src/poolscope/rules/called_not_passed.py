"""Cause `called_not_passed` of `not_concurrent`: no function was submitted, and each task fails at once."""

from __future__ import annotations

import msgspec

from poolscope.model import Advice, Severity
from poolscope.rules.wording import counted

PATTERN, CAUSE = "not_concurrent", "called_not_passed"
SEVERITY: Severity = "info"
#: Ends the name of something that cannot be called (`probe/recording/function_table.py`).
NOT_CALLABLE = " (not callable)"
#: Fewer such tasks may be a slip.
TASKS_NEEDED = 5


class CalledNotPassed(msgspec.Struct, frozen=True):
    """The submitter called the function itself, and passed its result of this type, in this many tasks."""

    type: str
    tasks: int

    @classmethod
    def match(cls, function: str, finished: int) -> CalledNotPassed | None:
        """Match by the name of a function of the pool, and how many tasks of it have ended."""
        if finished < TASKS_NEEDED or not function.endswith(NOT_CALLABLE):
            return None
        return cls(function.removesuffix(NOT_CALLABLE).rpartition(".")[2], finished)

    def sentence(self, pool: str, place: str) -> str:
        """Say what the pool got in place of functions, and where."""
        return (
            f"Pool {pool!r} was given {self.type} in place of a function{place}: {counted(self.tasks, 'task')} failed "
            "at once, and the work was done by what submits, one call after the other."
        )

    def advice(self) -> Advice:
        """Advise to pass the function."""
        return Advice(
            "pass_the_function",
            "Pass the function and its arguments, as in submit(work, item), rather than what it returns, as in "
            "submit(work(item)).",
        )
