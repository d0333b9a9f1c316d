"""The closer looks: where the workers of full pools are, what goes on between tasks, which workers are held, and what
threads and tasks wait for in turn.

A look that fails is reported and not repeated; the others go on. For one reader at a time.
"""

from __future__ import annotations

from poolscope.probe.forks import others_run
from poolscope.probe.sampling.coroutines import LOOPS
from poolscope.probe.sampling.handover import HandoverSampler
from poolscope.probe.sampling.sampler import StackSampler

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from poolscope.probe.interpreter.cpu import CpuClocks
    from poolscope.probe.recording.registry import PoolWatch
    from poolscope.probe.sampling.held import HeldReader
    from poolscope.probe.sampling.turns import TurnReader
    from poolscope.probe.transport.dispatcher import Message

#: How often to look for held workers.
HELD_INTERVAL_NS = 250_000_000
_NEVER_NS = 1 << 62


class Samplers:
    """Each method looks at some pools and emits what it saw."""

    def __init__(
        self,
        clock: Callable[[], int],
        cpu: CpuClocks,
        emit: Callable[[Message], object],
        fail: Callable[[str, BaseException], object],
        tell: Callable[[str], object],
    ) -> None:
        """`tell` takes notices for the user."""
        self._clock = clock
        self._cpu = cpu
        self._emit = emit
        self._fail = fail
        self._tell = tell
        #: None once it has failed.
        self.stacks: StackSampler | None = StackSampler(cpu)
        self.between: HandoverSampler | None = HandoverSampler(cpu)
        self._held: HeldReader | None = None  # made when a worker is held for the first time
        self._held_due_ns = 0
        self._turns: TurnReader | None = None  # made when something is under way for the first time
        self._turns_failed = False

    def look_at_lines(self, watches: list[PoolWatch], everyone: list[PoolWatch] | None = None) -> None:
        """Emit where the workers of these pools are; see `StackSampler.sample`."""
        if self.stacks is None:
            return
        try:
            for message in self.stacks.sample(watches, self._clock(), everyone):
                self._emit(message)
        except Exception as exc:
            self.stacks = None
            self._fail("stacks", exc)

    def look_between(self, watches: list[PoolWatch]) -> None:
        """Emit what goes on between the tasks of pools with queued tasks."""
        if not watches or self.between is None:
            return
        try:
            for message in self.between.sample(watches, self._clock()):
                self._emit(message)
        except Exception as exc:
            self.between = None
            self._fail("stacks", exc)

    def look_at_held(self, everyone: Sequence[PoolWatch], now_ns: int) -> None:
        """Emit the workers that have been in one task for long, if it is time to look; see `HeldReader`."""
        if now_ns < self._held_due_ns:
            return
        watches = [watch for watch in everyone if watch.held or watch.full]
        self._held_due_ns = now_ns + HELD_INTERVAL_NS
        if not watches:
            return
        try:
            if self._held is None:
                from poolscope.probe.sampling.held import HeldReader

                self._held = HeldReader(self._cpu)
            for message in self._held.sample(watches, self._clock()):
                self._emit(message)
        except Exception as exc:
            self._held_due_ns = _NEVER_NS
            self._fail("held", exc)

    def look_at_turns(self, everyone: list[PoolWatch]) -> None:
        """Emit what threads and tasks wait for, if anything is under way; see `TurnReader`."""
        if self._turns_failed or not (LOOPS or any(not watch.quiet for watch in everyone) or others_run()):
            return
        try:
            if self._turns is None:
                from poolscope.probe.sampling.turns import TurnReader

                self._turns = TurnReader(self._cpu, tell=self._tell)
            for message in self._turns.read(everyone, self._clock()):
                self._emit(message)
        except Exception as exc:
            self._turns, self._turns_failed = None, True
            self._fail("turns", exc)
