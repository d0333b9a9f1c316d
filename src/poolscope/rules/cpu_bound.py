"""Cause `cpu_bound`: the workers, or the child processes that they wait for, use up the available CPU."""

from __future__ import annotations

from typing import ClassVar

from poolscope.model import Advice
from poolscope.rules import cpu, handing_over
from poolscope.rules.cpu import Starved
from poolscope.rules.handing_over import COUNT_SECONDS, HandingOver
from poolscope.rules.reason import Cause, Pattern, Scene
from poolscope.rules.wording import costs, seconds, workers
from poolscope.signals.pool_signals import PoolSignals

#: Handing a task to another process takes longer than this (s).
TINY_SECONDS = 0.0002


class CpuBound(Cause, frozen=True, kw_only=True):
    """Work that computes."""

    name: ClassVar[str] = "cpu_bound"
    telling: ClassVar[tuple[str, ...]] = ("worker_cpu_share", "process_cores_used", "cpu_limit_cores")

    #: Whether the whole machine is in use: then nothing is wrong.
    machine: bool
    #: Whether child processes compute, and not the workers.
    children: bool
    #: The CPU that other programs take.
    starved: Starved | None
    #: The cost of handing tasks over, where that is more than the tasks take.
    handing: HandingOver | None = None

    @classmethod
    def match(cls, signals: PoolSignals, _pattern: Pattern) -> CpuBound | None:
        """Match if the workers use up the CPU that the process can have, or their child processes the machine."""
        handing = _handing_over(signals)
        if handing is not None:
            return cls(
                signals=signals, action="larger_tasks", machine=False, children=False, starved=None, handing=handing
            )
        machine, children = cpu.use_the_machine(signals), signals.child_cores is not None
        if not cpu.compute(signals) and not (children and machine):
            return None
        tiny = signals.run_p50_seconds is not None and signals.run_p50_seconds < TINY_SECONDS
        action = "none" if machine else "larger_tasks" if tiny else "use_process_pool"
        return cls(signals=signals, action=action, machine=machine, children=children, starved=cpu.starved(signals))

    @property
    def harmless(self) -> bool:
        """Return whether the machine has no more to give."""
        return self.machine

    def head(self, scene: Scene) -> str | None:
        """Begin with the machine where it is fully used."""
        if not self.machine:
            return None
        return f"Pool {scene.pool!r} reached the limit of the machine at {scene.since}"

    def sentence(self, scene: Scene) -> str:
        """Say what computes, and how much CPU it gets."""
        if self.handing is not None:
            run, cost = seconds(self.signals.run_p50_seconds), seconds(self.handing.task_seconds)
            waits = seconds(self.signals.wait_p50_seconds)
            return (
                f"the CPU is used up by handing tasks over: one runs for {run}{scene.place}, to hand it over takes "
                f"{cost} of CPU time, and it waits {waits}"
            )
        compute = "wait for child processes, which compute" if self.machine and self.children else "compute"
        its = f"its {workers(self.signals.max_workers)} {compute}"
        if self.signals.full_seconds:
            return f"{its}{scene.place} and {self._cpu()}, so {costs(self.signals)}"
        return f"{its} and {self._cpu()}, so {costs(self.signals)}{scene.place}"

    def _cpu(self) -> str:
        if self.starved is None:
            return "have used up the CPU"
        cores = "one core" if self.starved.limit == 1 else f"{self.starved.limit:g} cores"
        return f"get {self.starved.used:.1f} of the {cores} that they could use, as other programs take the rest"

    def advice(self, _scene: Scene) -> Advice:
        """Advise processes, where there are CPUs for them, or larger tasks."""
        if self.action == "larger_tasks":
            return Advice(
                self.action,
                "More workers cannot help, nor processes, as a task is shorter than handing it over: put more work "
                "into each (many items or lines in one call; chunksize for a map over processes).",
            )
        if not self.machine:
            return cpu.to_processes()
        if self.starved is not None:
            return Advice(
                "none",
                "The work could use every CPU, and other programs take part of them: look at what else runs on this "
                "machine, or give the work one of its own.",
            )
        return Advice("none", "The work uses every CPU it may use: only more CPUs or less work make it faster.")


def _handing_over(signals: PoolSignals) -> HandingOver | None:
    """Return the cost of handing tasks over, if it is more than the tasks take."""
    handing = handing_over.between_threads(signals) or handing_over.between_processes(signals)
    run = signals.run_p50_seconds
    if handing is None or run is None or run >= min(handing.task_seconds, COUNT_SECONDS):
        return None
    return handing
