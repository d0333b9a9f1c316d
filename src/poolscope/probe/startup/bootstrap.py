"""Turns a Python process into a watched one under `poolscope run`; `sitecustomize` calls it as it starts.

The program must not notice: a process without a parent stays as it is, and one that loses its parent goes on without
us.
"""

from __future__ import annotations

import atexit
import os
import sys
import time

from poolscope.probe.interpreter.blame import is_ours
from poolscope.probe.interpreter.gil import gil_enabled
from poolscope.probe.interpreter.imports import ImportWatch
from poolscope.probe.interpreter.standard import standard
from poolscope.probe.interpreter.unpatched import allocate_lock
from poolscope.probe.startup.handover import VARIABLE, unpack
from poolscope.probe.targets import GREENLETS, MODULES, STARTING, own_starts
from poolscope.probe.transport.channel import Channel, ChannelClosed, Door

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.runtime import Probe
    from poolscope.probe.startup.install import Installation
    from poolscope.probe.transport.thinning import Thinning

#: As in `poolscope.messages`, which the program may be unable to import.
PROTOCOL = 4

#: How much a process keeps for a stopped or slow parent, in bytes of frames: about 150,000 tasks.
MOST_WAITING = 1 << 23

#: Messages of one moment, which may be left out: others follow.
_SAMPLES = ("stacks", "held", "waits", "pool_ready", "handover", "turns")

#: How long (seconds) a process that ends waits for a reading that is under way.
EXIT_PATIENCE = 5.0

#: Where the supervisor of this process serves metrics: host, port and URL.
served: tuple[str, int, str] | None = None


class Link:
    """The sink that sends to the parent. Each process makes its own.

    Messages come one at a time (the probe delivers under its lock), and go out together with a delivery's last one;
    `bye` is for the end, when none come any more. Raises OSError if there is no parent.

    It never waits for the parent, and never keeps much more than `MOST_WAITING` bytes for it. Beyond that it adds up
    the batches of pools and leaves out samples, until all that was kept is out; beyond twice as much it leaves out all
    other messages too.
    """

    def __init__(self, path: str, lost: Callable[[], None], door: Door | None = None) -> None:
        self._lost = lost
        self._channel = Channel(path, door)
        self._behind = False
        self._thinning: Thinning | None = None
        self._unsent = 0
        hello = (
            "hello",
            PROTOCOL,
            os.getpid(),
            os.getppid(),
            sys.orig_argv,
            sys.version.split()[0],
            time.perf_counter_ns(),
            gil_enabled(),
        )
        self._try(self._channel.put, hello)
        self._try(self._channel.finish)  # a long command may be more than there is room for at once

    def __call__(self, message: tuple[Any, ...]) -> None:
        """Send one message; call `lost` once when the parent is gone."""
        self.put(message)
        self.flush()

    def put(self, message: tuple[Any, ...]) -> None:
        """Send the same, with the next `flush` at the latest."""
        self._try(self._put, message)

    def flush(self) -> bool:
        """Send what waits, as far as there is room for it; return whether something is left."""
        self._try(self._flush)
        return self._channel.waiting > 0

    def _put(self, message: tuple[Any, ...]) -> None:
        tag, channel = message[0], self._channel
        if channel.closed:
            return  # else it would be held back for ever
        if tag == "pool_batch":
            self._put_batch(message)
        elif tag == "pool_closed" and self._thinning is not None:
            for part in self._thinning.take(message[1]):
                channel.put(part)
            channel.put(message)
        elif self._behind and (tag in _SAMPLES or channel.waiting > 2 * MOST_WAITING):
            self._unsent += tag not in _SAMPLES
        else:
            channel.put(message)
        self._behind = self._behind or channel.waiting > MOST_WAITING

    def _put_batch(self, batch: tuple[Any, ...]) -> None:
        from poolscope.probe.transport.thinning import Thinning, split_batch

        thinning = self._thinning
        if thinning is None:
            thinning = self._thinning = Thinning()
        if self._behind or thinning.holds(batch[1]):
            thinning.add(batch)
            return
        thinning.passed(batch)
        for part in split_batch(batch):
            self._channel.put(part)

    def _flush(self) -> None:
        self._channel.flush()
        if self._behind and not self._channel.waiting and not self._channel.closed:
            self._behind = False
            self._put_rest()
            self._channel.flush()
            self._behind = self._channel.waiting > MOST_WAITING

    def _put_rest(self) -> None:
        """Send what was held back."""
        for part in self._thinning.take() if self._thinning is not None else ():
            self._channel.put(part)
        if self._unsent:
            text = f"process {os.getpid()} had more messages than could be sent: some pools or event loops are missing"
            self._channel.put(("notice", text))
            self._unsent = 0

    def _try(self, call: Callable[..., object], *message: tuple[Any, ...]) -> None:
        try:
            call(*message)
        except ChannelClosed:
            self._lost()
        except Exception as error:
            # A failure of ours. The parent must not take its messages for all that there were.
            try:
                self._channel.put(("fault", "channel", f"{type(error).__name__}: {error}"))
                self._channel.flush()
            except Exception:
                pass  # it will see that no bye comes
            self._lost()

    def bye(self) -> None:
        """Send the last message, and wait as long as the parent goes on taking."""
        self._try(self._put_rest)
        self._try(self._channel.put, ("bye", time.perf_counter_ns(), _alone()))
        self._try(self._channel.finish)
        self._channel.close()

    def leave_to_parent(self) -> None:
        """In a forked child: close our copy, or the supervisor would not see the end of its process."""
        self._channel.close()


class Watched:
    """This process as one that is watched. In a forked child the same object starts anew.

    At first it only waits for a pool or a loop to become possible, or for a thread that the program starts itself: most
    Python processes use none of these, and the probe takes longer to import than they should pay.
    """

    def __init__(self, path: str, settings: dict[str, Any]) -> None:
        self._path = path
        self._settings = settings
        self._link: Link | None = Link(path, self._disable)
        self._door = _door(path)
        self._probe: Probe | None = None
        self._installation: Installation | None = None
        self._lost = False
        self._over = False
        self._equipping = allocate_lock()
        self._imports = ImportWatch((*MODULES, *STARTING), self._imported)
        # First in, so last out: the pools and loops of other exit handlers are seen.
        atexit.register(self.finish)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork_in_child)
        if _imported_now():
            self._equip()
        else:
            self._imports.start()
            if any(name in sys.modules for name in STARTING):
                own_starts().await_first(self._started)

    def finish(self) -> None:
        """End with the process: send what is left, then bye. Does nothing the second time."""
        if self._over:
            return
        self._over = True
        try:
            if self._probe is not None:
                self._probe.stop(EXIT_PATIENCE)
                # In a forked child this connects, if there are messages and it has not connected yet.
                if not self._probe.flush(EXIT_PATIENCE) and self._link is not None:
                    text = f"process {os.getpid()} ended before it was read: what it did last is missing"
                    self._link(("notice", text))
            elif self._link is not None:
                self._link(_process_tick())
            if self._link is not None:
                self._link.bye()
        except Exception:
            pass  # the parent sees the end of the connection all the same

    def _imported(self, name: str) -> None:
        # Inside an import of the program's.
        try:
            if self._probe is None and name in STARTING:
                own_starts().await_first(self._started)
            elif self._probe is None:
                self._equip(name)
            elif not self._over:
                from poolscope.probe.startup import install

                install.finished(name)
        except Exception as error:
            self._tell(error)

    def _started(self) -> None:
        # Behind the start of a thread of the program's.
        try:
            if not self._over:
                self._equip()
        except Exception as error:
            if not is_ours(error):
                raise
            self._tell(error)

    def _tell(self, error: Exception) -> None:
        # As where a child has become a user that may not read our code.
        link = self._link or self._link_of_child()
        if link is not None:
            link(("fault", "bootstrap", f"{type(error).__name__}: {error}"))

    def _equip(self, ran: str | None = None) -> None:
        """Start the probe, once. `ran` is the module that has just run, if that is why."""
        # Not waiting: the thread that has the lock may be waiting for the import that the calling thread is in.
        if self._over or self._probe is not None or not self._equipping.acquire(blocking=False):
            return
        from poolscope.probe import runtime
        from poolscope.probe.startup import install

        if self._link is None and self._link_of_child() is None:
            return
        assert self._link is not None
        self._probe = probe = runtime.current()
        if self._settings:
            from poolscope.probe.settings import ProbeSettings

            probe.settings = ProbeSettings.from_values(self._settings)
        probe.supervised = True
        probe.add_sink(self._link)
        probe.after_fork.append(self._link_of_child)
        before = _imported_now()
        self._installation = install.install(ran=ran)
        # A module that imports another one of these is in the midst of its import, past the finder of `install`.
        self._imports.stop(install.in_flight((*MODULES, *STARTING), ran))
        if _imported_now() != before:
            # Another thread was in the midst of importing the second of them, likewise.
            self._installation.uninstall()
            self._installation = install.install(ran=ran)
        from poolscope.probe.startup import exit_hooks

        exit_hooks.register(self.finish)

    def _disable(self) -> None:
        """Go on without the parent, and remove everything of ours from the program's way."""
        self._lost = self._over = True
        self._link = None
        self._imports.stop()
        if self._probe is not None:
            self._probe.after_fork.clear()
        else:
            own_starts().unpatch()
        if self._installation is not None:
            self._installation.uninstall()
            from poolscope.probe.startup import exit_hooks

            exit_hooks.unregister(self.finish)

    def _link_of_child(self, _: Probe | None = None) -> Link | None:
        """Return the sink of a forked child, made with its first event: most children have none, they call exec."""
        try:
            self._link = Link(self._path, self._disable, self._door)
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
    """Watch this process if a supervisor listens. Raises what goes wrong before anything is changed."""
    global served
    socket, settings, served = unpack(os.environ[VARIABLE])
    Watched(socket, settings)


def _door(path: str) -> Door | None:
    """Return how children that become another user find the parent. Only children of the superuser can."""
    if not hasattr(os, "geteuid") or 0 not in (os.getuid(), os.geteuid()):
        return None
    try:
        return Door(path)
    except OSError:
        return None


def _alone() -> bool:
    """Whether this process had one thread, no child process and nothing like threads, as far as is known."""
    counted = sys.modules.get("poolscope.probe.recording.own_starts")
    if counted is None and any(name in sys.modules for name in STARTING):
        return False
    if any(name in sys.modules for name in (*GREENLETS, "greenlet", "trio", "curio")):
        return False
    try:
        # A child that was waited for has taken pages.
        children = standard("resource").getrusage(standard("resource").RUSAGE_CHILDREN)
        lone = len(os.listdir("/proc/self/task")) == 1 and children.ru_minflt == 0
    except Exception:
        return False  # not this system
    return lone and (counted is None or counted.started() == 0)


def _imported_now() -> set[str]:
    return {name for name in MODULES if name in sys.modules}


def _process_tick() -> tuple[Any, ...]:
    """Return what the probe would send about a process that never had a pool or a loop."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ("process_tick", time.perf_counter_ns(), time.process_time_ns(), 0, float(cpus))
