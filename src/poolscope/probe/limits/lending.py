"""How a library's methods lend connections and take them back: replaced, so that each loan is noted."""

from __future__ import annotations

import functools
import sys

from poolscope.probe.interpreter.tracebacks import leave_out
from poolscope.probe.limits.connections import ATTRIBUTE, Connections, failed, remember
from poolscope.probe.limits.naming import site_of, users_frame
from poolscope.probe.recording.pool_watch import report

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.executors.patching import Patch
    from poolscope.probe.interpreter.stacks import Site
    from poolscope.probe.limits.connections import Loan

_getframe = sys._getframe


class Lender:
    """How a library's class lends connections.

    `capacity` gives the most connections that a pool has (None: no limit), and `full` whether one that asks now has to
    wait; both are read from the pool as it is. `key` is what stands for a connection that is out. `tasks`: those that
    ask are tasks of asyncio. `libraries` are the packages whose frames, below the user's line, use the connection.
    """

    def __init__(
        self,
        libraries: tuple[str, ...],
        *,
        full: Callable[[Any], bool],
        capacity: Callable[[Any], int | None],
        key: Callable[[Any], Any] = id,
        tasks: bool = False,
    ) -> None:
        self.libraries = libraries
        self.full = full
        self.capacity = capacity
        self.key = key
        self.tasks = tasks

    def record(self, owner: Any, patch: Patch) -> Connections:
        """Return the record of a pool, which may be older than the patch."""
        found: Connections | None = owner.__dict__.get(ATTRIBUTE)
        if found is None or found.patch is not patch:
            new = self.new(owner, patch, None if found is None else found.site)
            if found is not None:
                owner.__dict__[ATTRIBUTE] = found = new
            else:
                # Of two threads that meet it for the first time, one makes it.
                found = owner.__dict__.setdefault(ATTRIBUTE, new)
        return found

    def new(self, owner: Any, patch: Patch, site: Site | None) -> Connections:
        """Return a record that stands beside that of the pool."""
        record = Connections(owner, patch, site, capacity=self.capacity, tasks=self.tasks, libraries=self.libraries)
        remember(record)
        return record

    def made(self, owner: Any, patch: Patch, site: Site | None = None) -> None:
        """Note that a pool was made just now, at `site` if that is known. Never raises because of a failure of ours."""
        if not patch.active or sys.is_finalizing():
            return
        try:
            site = site or site_of(users_frame(_getframe(1)))
            owner.__dict__[ATTRIBUTE] = record = self.new(owner, patch, site)
            record.older = False
        except Exception as exc:
            report(patch.probe, exc)

    def asks(self, owner: Any, patch: Patch) -> Loan | None:
        """Note that a pool is asked for a connection; None: nothing is recorded."""
        if not patch.active or sys.is_finalizing():
            return None
        record = None
        try:
            record = self.record(owner, patch)
            return None if record.closed else record.asks(self.full(owner))
        except BaseException as exc:
            failed(record, patch, exc)
            return None

    def took(self, loan: Loan, connection: Any) -> None:
        """Note that a loan is out."""
        try:
            loan.pool.took(loan, self.key(connection), connection)
        except BaseException as exc:
            failed(loan.pool, loan.pool.patch, exc)

    def gave_up(self, loan: Loan) -> None:
        """Note that a loan was asked for in vain."""
        try:
            loan.pool.gave_up(loan)
        except BaseException as exc:
            failed(loan.pool, loan.pool.patch, exc)

    def gave_back(self, owner: Any, patch: Patch, connection: Any) -> None:
        """Note that a connection is given back."""
        if not patch.active or sys.is_finalizing():
            return
        record = None
        try:
            record = owner.__dict__.get(ATTRIBUTE)
            if record is not None:
                record.gave_back(self.key(connection))
        except BaseException as exc:
            failed(record, patch, exc)

    # -- replacements ------------------------------------------------------------------------------------------

    def put_constructor(self, patch: Patch, cls: Any) -> None:
        """Replace `__init__`, to know where a pool is made."""
        patch.put_constructor(cls, "", lambda _: None, lambda owner: self.made(owner, patch))

    def put_lend(self, patch: Patch, cls: Any, name: str) -> None:
        """Replace the method that lends a connection."""
        original = getattr(cls, name)
        code = getattr(original, "__code__", None)

        @functools.wraps(original)
        def lend(owner: Any, /, *args: Any, **kwargs: Any) -> Any:
            loan = None
            try:
                # It may try again by calling itself.
                loan = None if _getframe(1).f_code is code else self.asks(owner, patch)
                connection = original(owner, *args, **kwargs)
            except BaseException as exc:
                if loan is not None:
                    self.gave_up(loan)
                # A bare `raise` adds no line for this frame: the traceback is the one without us.
                leave_out(exc)
                raise
            if loan is not None:
                self.took(loan, connection)
            return connection

        patch.put(cls, name, lend)

    def put_async_lend(self, patch: Patch, cls: Any, name: str) -> None:
        """Replace the coroutine function that lends a connection."""
        original = getattr(cls, name)

        @functools.wraps(original)
        async def lend(owner: Any, /, *args: Any, **kwargs: Any) -> Any:
            loan = None
            try:
                loan = self.asks(owner, patch)
                connection = await original(owner, *args, **kwargs)
            except BaseException as exc:
                if loan is not None:
                    self.gave_up(loan)
                leave_out(exc)  # likewise
                raise
            if loan is not None:
                self.took(loan, connection)
            return connection

        patch.put(cls, name, lend)

    def put_take_back(self, patch: Patch, cls: Any, name: str) -> None:
        """Replace the method that takes a connection back, which is its first argument."""
        original = getattr(cls, name)

        @functools.wraps(original)
        def take_back(owner: Any, /, *args: Any, **kwargs: Any) -> Any:
            # Before the original, which may hand it to what waits.
            try:
                self.gave_back(owner, patch, _first(args, kwargs))
            except BaseException:
                original(owner, *args, **kwargs)  # whatever comes up here
                raise
            try:
                return original(owner, *args, **kwargs)
            except BaseException as exc:
                leave_out(exc)  # likewise
                raise

        patch.put(cls, name, take_back)

    def put_async_take_back(self, patch: Patch, cls: Any, name: str) -> None:
        """Replace the coroutine function that takes a connection back."""
        original = getattr(cls, name)

        @functools.wraps(original)
        async def take_back(owner: Any, /, *args: Any, **kwargs: Any) -> Any:
            try:
                self.gave_back(owner, patch, _first(args, kwargs))
            except BaseException:
                await original(owner, *args, **kwargs)  # likewise
                raise
            try:
                return await original(owner, *args, **kwargs)
            except BaseException as exc:
                leave_out(exc)  # likewise
                raise

        patch.put(cls, name, take_back)


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else next(iter(kwargs.values()), None)
