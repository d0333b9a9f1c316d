"""The words of deadlocks that go through a lock or semaphore: what holds it waits for what waits for it."""

from __future__ import annotations

from poolscope.rules.reason import Scene
from poolscope.rules.wording import at, counted, subject, workers
from poolscope.signals.deadlock import Deadlock

#: Kinds of limits whose holders can wait for each other.
GATES = ("lock", "semaphore")


def sentence(deadlock: Deadlock, scene: Scene) -> str:
    """Say what each of the two waits for, and where."""
    cycle, name = deadlock.cycle, deadlock.next_pool
    gate = scene.kind in GATES
    count = len(cycle.workers)
    its = f"{subject(scene.kind, scene.pool)} is deadlocked since {scene.since}: its "
    wait = "waits" if count == 1 else "wait"
    its += f"{counted(count, 'holder') if count > 1 else 'holder'} {wait}" if gate else f"{workers(count)} {wait}"
    if name is None:
        more = "for it again" if count == 1 else "for more of it, and nothing else gives it back"
        return f"{its} {more}{scene.place}. It lets nothing in that has it already."
    there = at(deadlock.next_lines)
    if deadlock.next_kind in GATES:
        back = "this one" if gate else "tasks of this pool"
        through = "" if cycle.pools == 2 else f" through {counted(cycle.pools - 2, 'other')}"
        other = f"{deadlock.next_kind} {name!r}" if name != scene.pool else f"another {deadlock.next_kind} made there"
        return f"{its} for {other}{scene.place}, whose holder waits{there} for {back}{through}."
    return f"{its} for tasks of pool {name!r}{scene.place}, which wait{there} for it."


def advice(deadlock: Deadlock, scene: Scene) -> str:
    """Return what to do against it."""
    name = deadlock.next_pool
    if name is None:
        return (
            f"Do not take {scene.pool!r} inside of itself: split what takes it into one part that does and one that "
            "expects it to be held, and call the latter from the inside."
        )
    if scene.kind in GATES and deadlock.next_kind in GATES:
        both = f"{scene.pool!r} and {name!r}" if name != scene.pool else f"the two of {scene.pool!r}"
        return (
            f"Take {both} in the same order everywhere, or put one lock in the place of both; or "
            "give the first one back before the second one is asked for."
        )
    limit, pool = (scene.pool, name) if scene.kind in GATES else (name, scene.pool)
    return (
        f"Do not wait for tasks of pool {pool!r} while {limit!r} is held, as these need it too: give it back first, or "
        "let those tasks expect that it is held. More workers only put it off."
    )
