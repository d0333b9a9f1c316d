"""The interface of the probe for its parts. `runtime` implements it; nothing below imports that."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from poolscope.probe.interpreter.stacks import Site
    from poolscope.probe.settings import PoolRule, ProbeSettings

    class ProbeApi(Protocol):
        """The probe of a process, for its parts. Any thread may call any method; none raises because of a failure of
        ours. See `runtime.Probe`."""

        #: Whether a parent judges this process.
        supervised: bool
        #: Nanoseconds, as `time.perf_counter_ns`.
        clock: Callable[[], int]
        #: Called before each reading on demand.
        before_flush: list[Callable[[], object]]

        @property
        def functions(self) -> Any:
            """The numbers of functions: a `FunctionTable`."""

        @property
        def overslept_ns(self) -> int:
            """How late our thread has woken up, in total (ns)."""

        def wake(self) -> None:
            """Start our thread if it does not run. Called before the first event; cheap after that."""

        def open_pool(
            self,
            executor: object,
            *,
            name: str | None,
            prefix: str,
            kind: str,
            size: Callable[[], tuple[int, int] | None] | None = None,
            site: Site | None = None,
            recorder: Any = None,
        ) -> Any:
            """Return a `PoolRecorder` for a new pool, or None if it is not to be watched."""

        def new_recorder(self, owner: object, kind: str) -> Any:
            """Return a recorder for what may come to be a pool, to be given to `open_pool` then; None: none."""

        @property
        def settings(self) -> ProbeSettings:
            """Replaced as a whole."""

        def pool_rule(self, label: str, kind: str) -> PoolRule | None:
            """Return what the settings say about a pool of this name and kind."""

        def add_job(self, period_seconds: float, job: Callable[[int], object]) -> Callable[[], None]:
            """Have our thread call `job(now_ns)` at this interval; return a function that ends that."""

        def emit(self, message: tuple[Any, ...]) -> None:
            """Queue a message (see `poolscope.messages`)."""

        def notice(self, text: str) -> None:
            """Report once what could not be seen, or was switched off."""

        def warn(self, text: str) -> None:
            """Do the same, and log it, unless a parent does."""

        def incident(self, text: str) -> None:
            """Report once what has happened to the program."""

        def fail(self, part: str, exc: BaseException) -> None:
            """Report a failure of ours."""


class _Registered:
    """Holds what upper layers register, as nothing here imports them."""

    #: Returns the probe of this process: `runtime.current`.
    current: Callable[[], Any]
    #: Gives a process that nothing else watches its own engine.
    local_engine: Callable[[Any], object] | None = None


registered = _Registered()


def current() -> ProbeApi:
    """Return the probe of this process, which is made on first use. After a fork, parts that were given a probe may get
    another one."""
    probe: ProbeApi = registered.current()
    return probe
