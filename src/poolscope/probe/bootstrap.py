"""What makes a Python process a watched one under `poolscope run`; `sitecustomize` calls it as it starts.

Everything here has a program around it that must not notice: a process whose parent is gone stays as it is,
and one that loses its parent goes on without us.
"""

from __future__ import annotations

import atexit
import os
import sys
import time

from poolscope.probe.channel import Channel, ChannelClosed, loads
from poolscope.probe.families import MODULES
from poolscope.probe.imports import ImportWatch
from poolscope.probe.native import allocate_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.install import Installation
    from poolscope.probe.runtime import Probe

#: As in `poolscope.messages`, which the program may be unable to import.
PROTOCOL = 2

#: Where `poolscope run` leaves, as JSON, the path of its socket and the probe's settings.
VARIABLE = "POOLSCOPE_RUN"

#: Where the supervisor of this process serves metrics: host, port and URL.
served: tuple[str, int, str] | None = None


class Link:
    """The sink that sends to the parent. Made in the process that it speaks for.

    Messages come one at a time (the probe delivers under its lock), and go out together with a delivery's last one;
    `bye` is for the end, when none come any more. Raises OSError if there is no parent.
    """

    def __init__(self, path: str, lost: Callable[[], None]) -> None:
        self._lost = lost
        self._channel = Channel(path)
        self(
            (
                "hello",
                PROTOCOL,
                os.getpid(),
                os.getppid(),
                sys.orig_argv,
                sys.version.split()[0],
                time.perf_counter_ns(),
                _gil_enabled(),
            )
        )

    def __call__(self, message: tuple[Any, ...]) -> None:
        """Send one message; says once, to `lost`, that nobody hears us any more."""
        self._try(self._channel.send, message)

    def put(self, message: tuple[Any, ...]) -> None:
        """The same, with the next `flush` at the latest."""
        self._try(self._channel.put, message)

    def flush(self) -> None:
        """Send what waits."""
        self._try(self._channel.flush)

    def _try(self, call: Callable[..., None], *message: tuple[Any, ...]) -> None:
        try:
            call(*message)
        except ChannelClosed:
            self._lost()
        except Exception as error:
            # Of ours. The parent must not take what it has got for all that there was.
            try:
                self._channel.send(("fault", "channel", f"{type(error).__name__}: {error}"))
            except Exception:
                pass  # it will see that no bye comes
            self._lost()

    def bye(self) -> None:
        """The last message."""
        self(("bye", time.perf_counter_ns()))
        self._channel.close()

    def leave_to_parent(self) -> None:
        """In a forked child: close our copy, or the supervisor would not see the end of its process."""
        self._channel.close()


class Watched:
    """This process as one that is watched. In a forked child the same object starts anew.

    At first it only waits for a pool or a loop to become possible: most Python processes never use either,
    and the probe takes longer to import than they should pay.
    """

    def __init__(self, path: str, settings: dict[str, Any]) -> None:
        self._path = path
        self._settings = settings
        self._link: Link | None = Link(path, self._disable)
        self._probe: Probe | None = None
        self._installation: Installation | None = None
        self._lost = False
        self._over = False
        self._equipping = allocate_lock()
        self._imports = ImportWatch(MODULES, self._imported)
        # First in, so last out: the pools and loops of other exit handlers are seen.
        atexit.register(self.finish)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork_in_child)
        if _imported_now():
            self._equip()
        else:
            self._imports.start()

    def finish(self) -> None:
        """The end of the process: tell what is left, then bye. Does nothing the second time."""
        if self._over:
            return
        self._over = True
        try:
            if self._probe is not None:
                self._probe.stop()
                # In a forked child this is what connects, if it has something to tell and has not done so.
                self._probe.flush()
            elif self._link is not None:
                self._link(_process_tick())
            if self._link is not None:
                self._link.bye()
        except Exception:
            pass  # the parent sees the end of the connection all the same

    def _imported(self, name: str) -> None:
        # Inside an import of the program's.
        try:
            if self._probe is None:
                self._equip(name)
            elif not self._over:
                from poolscope.probe import install

                install.finished(name)
        except Exception as error:
            if self._link is not None:
                self._link(("fault", "bootstrap", f"{type(error).__name__}: {error}"))

    def _equip(self, ran: str | None = None) -> None:
        """Starts the probe, once. `ran` is the module that has just run, if that is why."""
        # Not waiting: whoever has the lock may be waiting for the import that the calling thread is in.
        if self._over or self._probe is not None or not self._equipping.acquire(blocking=False):
            return
        from poolscope.probe import install, runtime

        if self._link is None and self._link_of_child() is None:
            return
        assert self._link is not None
        self._probe = probe = runtime.current()
        if self._settings:
            from poolscope.probe.settings import ProbeSettings

            probe.settings = ProbeSettings.from_mapping(self._settings)
        probe.supervised = True
        probe.add_sink(self._link)
        probe.after_fork.append(self._link_of_child)
        before = _imported_now()
        self._installation = install.install(ran=ran)
        # A module that imports another one of these is in the midst of its import, past the finder of `install`.
        self._imports.stop(install.in_flight(MODULES, ran))
        if _imported_now() != before:
            # Another thread was in the midst of importing the second of them, likewise.
            self._installation.uninstall()
            self._installation = install.install(ran=ran)
        from poolscope.probe import ending

        ending.register(self.finish)

    def _disable(self) -> None:
        """The parent is gone: nothing of ours in the program's way from here on."""
        self._lost = self._over = True
        self._link = None
        self._imports.stop()
        if self._probe is not None:
            self._probe.after_fork.clear()
        if self._installation is not None:
            self._installation.uninstall()
            from poolscope.probe import ending

            ending.unregister(self.finish)

    def _link_of_child(self, _: Probe | None = None) -> Link | None:
        """The sink of a forked child, made with its first event: most children have none, they call exec."""
        try:
            self._link = Link(self._path, self._disable)
        except OSError:
            self._disable()
        return self._link

    def _after_fork_in_child(self) -> None:
        if self._lost:
            return
        if self._link is not None:
            self._link.leave_to_parent()
        self._link = None
        self._over = False
        self._equipping = allocate_lock()  # another thread of the parent may have held it
        # The children of multiprocessing end by `os._exit`, without `atexit`, but with the end of
        # `threading`. Its callbacks run from the last to the first: as the first, this one comes after pools
        # have joined.
        threading = sys.modules.get("threading")
        callbacks = getattr(threading, "_threading_atexits", None)
        if isinstance(callbacks, list) and self.finish not in callbacks:
            callbacks.insert(0, self.finish)


def start() -> None:
    """Watches this process if a supervisor listens. Raises what goes wrong before anything is changed."""
    global served
    told = loads(os.environ[VARIABLE])
    served = told.get("served")
    Watched(told["socket"], told["settings"])


def _imported_now() -> set[str]:
    return {name for name in MODULES if name in sys.modules}


def _process_tick() -> tuple[Any, ...]:
    """What the probe would tell of the process, for one that never had a pool or a loop."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ("process_tick", time.perf_counter_ns(), time.process_time_ns(), 0, float(cpus))


def _gil_enabled() -> bool:
    enabled: bool = getattr(sys, "_is_gil_enabled", lambda: True)()
    return enabled
