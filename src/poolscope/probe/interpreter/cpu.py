"""CPU time by thread and process, and how much of it the process may use.

On Linux the CPU clock of any thread of the process can be read by its thread id: the clock is
`(~tid << 3) | 6`, where 6 says "thread" and "time that the scheduler gave it"; that of any process, by its
id, is the same with 2, without the thread. (`pthread_getcpuclockid` takes the
pthread handle instead, and crashes the interpreter when the thread has ended.)
"""

from __future__ import annotations

import sys

from poolscope.probe.interpreter.unpatched import (
    clock_gettime_ns,
    cpu_count,
    process_time_ns,
    read_file,
    sched_getaffinity,
    thread_time_ns,
    times,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    T = TypeVar("T")

#: How long a reading of the limits is valid: they change when a container is resized.
_LIMITS_NS = 5_000_000_000

thread_clocks_readable = sys.platform == "linux"


class CpuClocks:
    """The CPU clocks of this process, as the system has them (ns). Any thread may ask; `allowed` one at a time."""

    def __init__(self) -> None:
        self._allowed = 0.0
        self._read_ns: int | None = None

    #: Whether `thread` can say anything on this system.
    readable = thread_clocks_readable

    def thread(self, native_id: int) -> int | None:
        """Return what the thread has used so far; None if it has ended (or on a system that does not tell)."""
        return thread_cpu_ns(native_id)

    def child(self, pid: int) -> int | None:
        """Return what all threads of another process have used so far; None as above."""
        return process_cpu_ns(pid)

    def delay(self, native_id: int) -> int | None:
        """How long the thread was ready to run so far, but on no CPU; None where the kernel does not tell."""
        return run_delay_ns(native_id)

    def process(self) -> int:
        """Return what all threads have used so far."""
        return process_time_ns()

    def children(self) -> int:
        """Return what child processes had used that have ended and been waited for, and theirs."""
        found = times()
        return round((found.children_user + found.children_system) * 1e9)

    def own(self) -> int:
        """Return what the calling thread has used so far."""
        return thread_time_ns()

    def allowed(self, now_ns: int) -> float:
        """How many CPUs the process may use at once: affinity and quota, read every 5 s at most."""
        if self._read_ns is None or now_ns - self._read_ns >= _LIMITS_NS:
            self._read_ns = now_ns
            self._allowed = allowed_cpus()
        return self._allowed


class GuardedClocks(CpuClocks):
    """`clocks` without their failures: after the first failure none is read any more, and nothing is known.

    Any thread may ask.
    """

    def __init__(self, clocks: CpuClocks, failed: Callable[[Exception], object]) -> None:
        """`failed` is called with the failure."""
        super().__init__()
        self.clocks = clocks
        self.readable = clocks.readable
        self._failed = failed
        self._broken = False

    def thread(self, native_id: int) -> int | None:
        """See `CpuClocks.thread`."""
        return self._ask(None, self.clocks.thread, native_id)

    def child(self, pid: int) -> int | None:
        """See `CpuClocks.child`."""
        return self._ask(None, self.clocks.child, pid)

    def delay(self, native_id: int) -> int | None:
        """See `CpuClocks.delay`."""
        return self._ask(None, self.clocks.delay, native_id)

    def process(self) -> int:
        """See `CpuClocks.process`."""
        return self._ask(0, self.clocks.process)

    def children(self) -> int:
        """See `CpuClocks.children`."""
        return self._ask(0, self.clocks.children)

    def own(self) -> int:
        """See `CpuClocks.own`."""
        return self._ask(0, self.clocks.own)

    def allowed(self, now_ns: int) -> float:
        """See `CpuClocks.allowed`."""
        # Asked only if nothing is known: to count the CPUs, the system reads a file.
        return self._ask(None, self.clocks.allowed, now_ns) or float(cpu_count() or 1)

    def _ask(self, otherwise: T, read: Callable[..., T], *args: int) -> T:
        if not self._broken:
            try:
                return read(*args)
            except Exception as exc:
                self._broken = True
                self._failed(exc)
        return otherwise


def thread_cpu_ns(native_id: int) -> int | None:
    """See `CpuClocks.thread`."""
    if not thread_clocks_readable:
        return None
    try:
        return clock_gettime_ns((~native_id << 3) | 6)
    except OSError:
        return None


def process_cpu_ns(pid: int) -> int | None:
    """See `CpuClocks.child`."""
    if not thread_clocks_readable:
        return None
    try:
        return clock_gettime_ns((~pid << 3) | 2)
    except OSError:
        return None


def run_delay_ns(native_id: int) -> int | None:
    """How long a thread, or the main thread of a process, was ready to run, but on no CPU; None where the kernel does
    not tell.

    Reading a file gives the GIL away: under contention for it, this takes its time.
    """
    text = read_kernel(native_id, "schedstat")
    try:
        return int(text.split()[1])
    except (IndexError, ValueError):
        return None


def read_kernel(native_id: int, name: str) -> str:
    """Return what the kernel says about a thread under this name; "" if it says nothing."""
    if sys.platform != "linux":
        return ""
    try:
        return read_file(f"/proc/{native_id}/{name}", 256).decode("ascii", "replace")
    except OSError:
        return ""


def allowed_cpus() -> float:
    """CPUs that this process may use at once: its affinity, or the quota of its cgroups if that is less."""
    cpus = 0
    if sched_getaffinity is not None:
        try:
            cpus = len(sched_getaffinity(0))
        except OSError:
            pass
    cpus = cpus or cpu_count() or 1
    quota = cgroup_quota(_read_text)
    return float(cpus) if quota is None else min(float(cpus), quota)


def cgroup_quota(read: Callable[[str], str | None]) -> float | None:
    """Return the least CPU quota of this process's cgroups up to the root that it can see; None where there is none.

    Version 2 (`cpu.max`) and version 1 (`cpu.cfs_quota_us`), also side by side. `read` gives the text of a
    file or None.
    """
    groups = _own_groups(read("/proc/self/cgroup") or "")
    quotas: list[float] = []
    for version, root, mount in _mounts(read("/proc/self/mountinfo") or ""):
        if version not in groups:
            continue
        quota_of = _quota_v2 if version == 2 else _quota_v1
        for directory in _upwards(groups[version], root, mount):
            quota = quota_of(directory, read)
            if quota is not None:
                quotas.append(quota)
    return min(quotas, default=None)


def _read_text(path: str) -> str | None:
    try:
        return read_file(path).decode("utf-8", "surrogateescape")
    except OSError:
        return None


def _own_groups(text: str) -> dict[int, str]:
    """Version -> path of our cgroup, from lines `number:controllers:path`."""
    groups = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            groups[2] = path
        elif "cpu" in controllers.split(","):
            groups[1] = path
    return groups


def _mounts(text: str) -> list[tuple[int, str, str]]:
    """(version, what of the hierarchy is mounted, where) of the file systems that hold CPU quotas."""
    mounts = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(" "), after.split(" ")
        if len(fields) < 5 or len(kind) < 3:
            continue
        if kind[0] == "cgroup2":
            mounts.append((2, fields[3], fields[4]))
        elif kind[0] == "cgroup" and "cpu" in kind[2].split(","):
            mounts.append((1, fields[3], fields[4]))
    return mounts


def _upwards(group: str, root: str, mount: str) -> list[str]:
    """Directories of the cgroup and of those around it, as far as they are mounted here."""
    root = root.rstrip("/")
    # A container may see its cgroup by its path on the host, which is not mounted here: then the mount is
    # ours.
    inside = group[len(root) :] if (group + "/").startswith(root + "/") else ""
    parts = [part for part in inside.split("/") if part]
    if ".." in parts:
        parts = []
    return ["/".join([mount.rstrip("/"), *parts[:count]]) for count in range(len(parts), -1, -1)]


def _quota_v2(directory: str, read: Callable[[str], str | None]) -> float | None:
    return _ratio((read(f"{directory}/cpu.max") or "").split())


def _quota_v1(directory: str, read: Callable[[str], str | None]) -> float | None:
    texts = [read(f"{directory}/cpu.cfs_quota_us"), read(f"{directory}/cpu.cfs_period_us")]
    return _ratio([(text or "").strip() for text in texts])


def _ratio(numbers: list[str]) -> float | None:
    """CPUs from quota and period in the same unit; "max" and -1 mean no limit."""
    try:
        quota, period = (int(number) for number in numbers)
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None
