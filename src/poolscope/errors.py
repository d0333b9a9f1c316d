"""The one base error. Each message says what is wrong, where, and what to do about it."""


class PoolscopeError(Exception):
    """Something the user can mend; the command line prints it in one line and ends with status 2."""


class ConfigError(PoolscopeError):
    """A settings file or value that cannot be used: its text is the first problem, `problems` are all of them."""

    def __init__(self, *problems: str) -> None:
        super().__init__(problems[0])
        self.problems = problems


class SessionError(PoolscopeError):
    """A session file that cannot be read or written."""


class ListenError(PoolscopeError):
    """An endpoint that cannot be opened."""


class ProgramError(PoolscopeError):
    """A program that cannot be started."""
