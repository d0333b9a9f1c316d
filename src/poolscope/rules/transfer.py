"""Cause `transfer`: a pool of processes whose arguments or results are the work."""

from __future__ import annotations

from typing import ClassVar

from poolscope.model import Advice
from poolscope.rules import handing_over
from poolscope.rules.handing_over import COUNT_SECONDS, HandingOver
from poolscope.rules.reason import Cause, Pattern, Scene
from poolscope.rules.wording import costs, percent, workers
from poolscope.signals.pool_signals import PoolSignals

_WHO = {
    "sender": "the one thread that pickles the arguments is on a CPU, or ready for one, {} of the time",
    "receiver": "the one thread that unpickles the results is on a CPU, or ready for one, {} of the time",
    "workers": "they unpickle arguments and pickle results for {} of it",
}


class Transfer(Cause, frozen=True, kw_only=True):
    """Most of the time goes into handing over arguments and results."""

    name: ClassVar[str] = "transfer"

    action: str = "send_less"
    handing: HandingOver

    @classmethod
    def match(cls, signals: PoolSignals, _pattern: Pattern) -> Transfer | None:
        """Match if the workers have little to do while the sending or receiving thread is busy, or while they unpickle;
        and if the size of what is handed over is the reason, not the number of tasks."""
        handing = handing_over.between_processes(signals)
        if handing is None or handing.task_seconds < COUNT_SECONDS:
            return None
        return cls(signals=signals, handing=handing)

    def sentence(self, scene: Scene) -> str:
        """Say what is busy handing over."""
        its = f"its {workers(self.signals.max_workers)} spend {percent(self.signals.task_share or 0.0)} of their time"
        who = _WHO[self.handing.whose].format(percent(self.handing.share))
        why = f"as arguments and results take longer to hand over: {who}"
        return f"{its} in tasks{scene.place}, {why}; {costs(self.signals)}"

    def advice(self, scene: Scene) -> Advice:
        """Advise to send less."""
        return Advice(
            self.action,
            "Send less with each task: give the workers once what all tasks need (an initializer, a global from before "
            "a fork, a file or shared memory), and return only what is needed. More workers in "
            f"{scene.pool!r} would only wait for it too.",
        )
