"""Cause `called_not_passed` of `not_concurrent`: what was submitted is no function, and each task fails at once."""

from __future__ import annotations

import msgspec

from poolscope.model import Advice, Severity
from poolscope.rules.wording import counted

PATTERN, CAUSE = "not_concurrent", "called_not_passed"
SEVERITY: Severity = "info"
#: What ends the name of what cannot be called (`probe/recording/function_table.py`).
NOT_CALLABLE = " (not callable)"
#: So few such tasks may be a slip.
TASKS_NEEDED = 5


class CalledNotPassed(msgspec.Struct, frozen=True):
    """The submitter has called the function, and passed on what that returned: of this type, so many times."""

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
