"""What threads and tasks wait for, and at which lines: code that waits for each thing before it asks for the next one
appears at one line, again and again.

Read from frames and coroutines at the pace of the readings, at no cost to any task. Whether the work could overlap is
not judged here: that takes the source (`poolscope.signals.in_turn`).

Our thread reads the tasks of event loops. That is safe under the GIL, which is not given away meanwhile: no task ends
while we hold it. Without the GIL nothing is read. Frames, tasks and futures are dropped before `read` returns; weak
references stay, to tell one turn from the next.
"""

from __future__ import annotations

import sys
from itertools import count, islice
from types import AsyncGeneratorType, CoroutineType, GeneratorType
from weakref import ref

from poolscope.probe.interpreter import shapes
from poolscope.probe.interpreter.gil import gil_enabled
from poolscope.probe.interpreter.imports import in_flight
from poolscope.probe.interpreter.stacks import is_user_file
from poolscope.probe.interpreter.unpatched import current_frames, get_ident
from poolscope.probe.recording.pool_watch import ATTRIBUTE, FUTURES
from poolscope.probe.recording.registry import instance_dict
from poolscope.probe.sampling.coroutines import LOOPS
from poolscope.probe.sampling.tasks import CHAINED, behind, unfinished
from poolscope.probe.sampling.waits import pool_of, running_in, self_of, traced

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType
    from typing import Any

    from poolscope.probe.interpreter.cpu import CpuClocks
    from poolscope.probe.recording.registry import PoolWatch
    from poolscope.probe.transport.dispatcher import Message

    Line = tuple[str, int, str]
    #: The user's lines from the outermost caller to the innermost, and what each of them waits for.
    Levels = tuple[list[Line], list[Any]]

#: What is waited for.
AWAIT, FUTURE, THREAD, PROCESS, BATCH, END, LIMIT = "await", "future", "thread", "process", "batch", "end", "limit"
_LOOP = "loop"

#: Looking may take one part in so many of a core.
COST_FACTOR = 100
#: The most frames or coroutines of one thread or task to look at, and the most lines to report.
DEPTH_LIMIT = 100
LEVELS_TOLD = 12
#: The most threads and tasks to look at in one reading. A loop with more tasks than that does not work in turn.
THREADS_LIMIT = 32
TASKS_LIMIT = 32
#: Of several futures that are waited for, so many are asked for their pool.
FUTURES_LIMIT = 16
#: Where tasks wait for each other.
_LIMITS = ("asyncio.locks", "asyncio.queues", "asyncio.timeouts")
#: Where the classes of pools are.
_POOLS = ("concurrent.futures._base", "multiprocessing.pool")
#: Functions between the wait and the user's line that are a part of the wait.
_PASS_ON = ("join", "wait", "_wait_for_tstate_lock", "get", "result", "apply", "map", "starmap", "result_iterator")


class TurnReader:
    """Reads what threads and tasks wait for. One reader at a time; rests to keep to its part of a core."""

    def __init__(
        self,
        clocks: CpuClocks,
        current_frames: Callable[[], dict[int, FrameType]] = current_frames,
        tell: Callable[[str], object] = lambda _: None,
    ) -> None:
        """`tell` gets a line about an unknown asyncio: then its tasks are not read."""
        self._clocks = clocks
        self._current_frames = current_frames
        self._tell = tell
        self._gil = gil_enabled()
        self._rested_ns = 0
        self._turn = 0
        self._next_number = count(1).__next__
        # By thread or task: what it is, its number, and what each of its lines waited for, with the number of that.
        self._known: dict[int, tuple[Any, int, list[tuple[Any, int]]]] = {}
        self._modules: tuple[Any, ...] = ()
        # Code of what waits -> what for, and the local name of that.
        self._waiting: dict[CodeType, tuple[str, str]] = {}
        self._asyncio: Any = None
        self._register = ""
        # Codes and classes of asyncio that wait for several things at once.
        self._several: frozenset[CodeType] = frozenset()
        self._gathering: Any = None

    def read(self, watches: list[PoolWatch], now_ns: int) -> list[Message]:
        """Return a `turns` message if anything is under way."""
        busy = [watch for watch in watches if not watch.quiet]
        if now_ns < self._rested_ns or not self._gil or traced():
            return []
        before = self._clocks.own()
        self._turn += 1
        self._learn()
        told: list[list[Any]] = []
        known, self._known = self._known, {}
        frames = self._current_frames()
        try:
            outer = self._threads(frames, busy, known, told)
            tasks = self._tasks(outer, known, told)
        finally:
            # Frames that we held would keep the locals of the program's functions alive.
            frames.clear()
            outer = {}
        self._rested_ns = now_ns + COST_FACTOR * (self._clocks.own() - before)
        return [("turns", now_ns, told)] if busy or tasks or told else []

    # -- what is known of the standard library -----------------------------------------------------------------

    def _learn(self) -> None:
        """Find the codes of what waits, in the modules that are in use now."""
        names = ("concurrent.futures._base", "threading", "multiprocessing.process", "multiprocessing.pool")
        modules = tuple(map(sys.modules.get, (*names, "asyncio.base_events", "asyncio.runners", "asyncio.tasks")))
        if modules == self._modules or any(each is not None and in_flight(each) for each in modules):
            return
        self._modules = modules
        base, threading, processes, pools, loops, runners, tasks = modules
        self._waiting = {}
        for module, owner, methods, gate, local in (
            (base, "Future", ["result", "exception"], FUTURE, "self"),
            (base, "", ["_result_or_cancel"], BATCH, ""),
            (base, "", ["wait", "as_completed"], BATCH, "fs"),
            (threading, "Thread", ["join"], THREAD, "self"),
            (processes, "BaseProcess", ["join"], PROCESS, "self"),
            (pools, "ApplyResult", ["get"], FUTURE, "self"),
            (pools, "IMapIterator", ["next"], BATCH, "self"),
            (loops, "BaseEventLoop", ["run_until_complete"], _LOOP, "future"),
            (runners, "Runner", ["run"], _LOOP, "task"),
        ):
            found = getattr(module, owner, None) if owner else module
            for code in () if found is None else shapes.codes(found, methods):
                self._waiting[code] = gate, local
        self._learn_tasks(tasks)

    def _learn_tasks(self, tasks: Any) -> None:
        self._asyncio, self._register = None, ""
        if tasks is None:
            return
        try:
            shapes.chains(tasks, sys.modules.get("asyncio.futures"))
            self._register = shapes.task_register(tasks)
            self._asyncio = tasks
        except shapes.Unfamiliar as reason:
            self._tell(shapes.missed("what event loops do in turn is not seen", reason))
            return
        groups = getattr(sys.modules.get("asyncio.taskgroups"), "TaskGroup", None)
        codes = shapes.codes(tasks, ["_wait", "wait", "as_completed", "_wait_for_one"])
        self._several = frozenset(codes + shapes.codes(groups, ["__aexit__", "_aexit"]))
        self._gathering = getattr(tasks, "_GatheringFuture", None)

    # -- threads -----------------------------------------------------------------------------------------------

    def _threads(
        self, frames: dict[int, FrameType], busy: list[PoolWatch], known: dict[Any, Any], told: list[list[Any]]
    ) -> dict[int, tuple[int, Levels]]:
        """Add threads that wait; return those that run the task of a loop, by its `id`."""
        outer: dict[int, tuple[int, Levels]] = {}
        running: dict[int, tuple[int, int]] | None = None
        for ident in list(frames)[-THREADS_LIMIT:]:  # the oldest thread comes last
            if ident == get_ident():
                continue
            gate, awaited, lines = self._waits(frames[ident])
            if not lines or awaited is None:
                continue
            levels = lines, [awaited] * len(lines)
            if gate == _LOOP:
                outer[id(awaited)] = ident, levels
                continue
            pool = _of_multiprocessing(awaited) or (_number_of(awaited) if gate == END else 0)
            futures = [] if pool or gate not in (FUTURE, BATCH) else self._futures_in(awaited)
            if futures:
                pool = next((found for future in futures if (found := pool_of(future))), 0)
                if not pool:
                    running = running_in(busy, frames) if running is None else running
                    pool = next((running[id(future)][0] for future in futures if id(future) in running), 0)
            futures.clear()
            others = _running(busy, pool) - 1
            told.append(self._told(known, (0, pool, ident, gate, max(0, others)), None, levels))
        return outer

    def _waits(self, frame: FrameType | None) -> tuple[str, Any, list[Line]]:
        """Return what a thread waits for, as a word and itself, and the user's lines."""
        gate, awaited = "", None
        lines: list[Line] = []
        for _ in range(DEPTH_LIMIT):
            if frame is None:
                break
            code = frame.f_code
            if is_user_file(code.co_filename):
                if not gate:
                    return "", None, []  # it is at a line of its own
                lines.append((code.co_filename, frame.f_lineno or 0, code.co_qualname))
            elif not lines and code in self._waiting:
                # The outermost wait that the user has called: waiting for a result is a part of it.
                gate, name = self._waiting[code]
                found = self_of(frame) if name == "self" else frame.f_locals.get(name) if name else None
                awaited = found if found is not None else awaited
            elif not lines and gate in (FUTURE, THREAD, PROCESS, END):
                owner = self_of(frame) if gate != FUTURE and code.co_varnames[:1] == ("self",) else None
                if _number_of(owner):
                    gate, awaited = END, owner  # a pool waits for its workers as it ends
                elif code.co_name not in _PASS_ON:
                    gate = END  # as any library that waits
                del owner
            frame = frame.f_back
        lines.reverse()
        if type(awaited).__name__ in ("MapResult", "IMapIterator", "IMapUnorderedIterator"):
            gate = BATCH
        return gate, awaited, lines[-LEVELS_TOLD:]

    def _futures_in(self, awaited: Any) -> list[Any]:
        """Return the futures that are waited for: one, or some of several."""
        base = self._modules[0]
        kinds = tuple(FUTURES) if base is None else (base.Future, *FUTURES)
        # Copying from a set is one step, which nothing can come between.
        several = list(islice(awaited, FUTURES_LIMIT)) if type(awaited) in (set, frozenset, list, tuple) else [awaited]
        return [each for each in several if type(each) in kinds]

    # -- tasks -------------------------------------------------------------------------------------------------

    def _tasks(self, outer: dict[int, tuple[int, Levels]], known: dict[Any, Any], told: list[list[Any]]) -> int:
        """Add tasks that wait; return how many there are in all loops."""
        if self._asyncio is None or not LOOPS:
            return 0
        found = 0
        for loop, tasks in unfinished(self._asyncio, self._register).items():
            found += len(tasks)
            first = self._turn * TASKS_LIMIT % len(tasks) if len(tasks) > TASKS_LIMIT else 0
            for task in (tasks[first:] + tasks[:first])[:TASKS_LIMIT]:
                waiter = task._fut_waiter
                if waiter is None:
                    continue  # it runs, or is about to
                who, (lines, awaited) = outer.get(id(task), (id(task), ([], [])))
                gate, own_lines, own_awaited = self._levels(task, waiter)
                if not own_lines:
                    continue
                levels = (lines + own_lines)[-LEVELS_TOLD:], (awaited + own_awaited)[-LEVELS_TOLD:]
                # What it waits for goes on for it, and not beside it.
                others = max(0, len(tasks) - 1 - _tasks_behind(waiter, type(task)))
                told.append(self._told(known, (loop, 0, who, gate, others), task, levels))
        return found

    def _levels(self, task: Any, waiter: Any) -> tuple[str, list[Line], list[Any]]:
        """Return what a task waits for, as a word, the user's lines, and what each of these waits for."""
        lines: list[Line] = []
        awaited: list[Any] = []
        gate = BATCH if self._gathering is not None and type(waiter) is self._gathering else AWAIT
        current = behind(task.get_coro())
        frame: FrameType | None = None
        for _ in range(DEPTH_LIMIT):
            frame, following = _step(current)
            if frame is None:
                break
            code = frame.f_code
            if code in self._several:
                gate = BATCH
            elif following is None or type(following) not in CHAINED:
                gate = LIMIT if frame.f_globals.get("__name__") in _LIMITS else gate
            if is_user_file(code.co_filename):
                lines.append((code.co_filename, frame.f_lineno or 0, code.co_qualname))
                awaited.append(following if type(following) in CHAINED else waiter)
            current = following
        return gate, lines, awaited

    # -- turns -------------------------------------------------------------------------------------------------

    def _told(self, known: dict[Any, Any], head: tuple[Any, ...], owner: Any, levels: Levels) -> list[Any]:
        """Return the report of one thread or task, with a number for each line that changes with each turn."""
        lines, awaited = levels
        key = head[2]
        former, who, before = known.get(key, (None, 0, []))
        if owner is not None and (former is None or former() is not owner):
            who, before = self._next_number(), []  # another task at its address
        now: list[tuple[Any, int]] = []
        for place, each in enumerate(awaited):
            same = place < len(before) and before[place][0]() is each
            now.append(before[place] if same else (_weak(each), self._next_number()))
        self._known[key] = None if owner is None else ref(owner), who, now
        return [*head[:2], who or key, *head[3:], lines, [number for _, number in now]]


def _weak(awaited: Any) -> Callable[[], Any]:
    try:
        return ref(awaited)
    except TypeError:
        return lambda: None


def _step(awaited: Any) -> tuple[FrameType | None, Any]:
    """Return the frame of a coroutine, or of what stands for one, and what that awaits."""
    kind = type(awaited)
    if kind is CoroutineType:
        return awaited.cr_frame, behind(awaited.cr_await)
    if kind is GeneratorType:
        return awaited.gi_frame, behind(awaited.gi_yieldfrom)
    if kind is AsyncGeneratorType:
        return awaited.ag_frame, behind(awaited.ag_await)
    return None, None


def _tasks_behind(waiter: Any, kind: type[Any]) -> int:
    """How many tasks there are in a row that a task waits for: each waits for the next one."""
    each, count = waiter, 0
    while type(each) is kind and count < DEPTH_LIMIT:
        following: Any = each._fut_waiter
        each, count = following, count + 1
    return count


def _number_of(pool: Any) -> int:
    """Return the number of a pool by its executor, 0 for anything else."""
    if not any(base.__module__ in _POOLS for base in type(pool).__mro__):
        return 0
    recorder = getattr(instance_dict(pool).get(ATTRIBUTE), "recorder", None)
    return 0 if recorder is None else recorder.id


def _of_multiprocessing(awaited: Any) -> int:
    """Return the number of the pool of `multiprocessing` whose result a thread waits for, 0 for anything else."""
    pool = getattr(awaited, "_pool", None) if type(awaited).__module__ == "multiprocessing.pool" else None
    watch = instance_dict(pool).get(ATTRIBUTE)
    return 0 if not watch else watch.recorder.id


def _running(busy: list[PoolWatch], pool: int) -> int:
    """Return how many tasks of a pool run."""
    for watch in busy:
        if watch.recorder.id == pool:
            return sum(log.running is not None for log in list(watch.recorder.workers))
    return 0
