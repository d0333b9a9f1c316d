"""The place of a worker process, as it is shown in shared memory and read there."""

from __future__ import annotations

import threading
from array import array
from functools import partial
from typing import Any

import pytest

from poolscope.probe.processes import processchild
from poolscope.probe.processes.processchild import ENTRY, PLACE, SHOWN
from poolscope.probe.processes.worker_place import HELD_NS, INHERITED, Place, _Looker

LINES = [("/app/jobs.py", 8, "evaluate"), ("/usr/lib/python3/threading.py", 300, "wait")]


def memory(count: int = PLACE) -> memoryview[int]:
    return memoryview(array("q", bytes(8 * count)))


def test_what_is_written_is_read_for_the_same_call() -> None:
    place = Place(memory())
    assert place.read(1) is None
    place.write(1, LINES, 42, "lock")
    assert place.read(1) == (LINES, 42, "lock")
    assert place.read(2) is None
    place.write(2, LINES[:1], 7, "")
    assert (place.read(1), place.read(2)) == (None, (LINES[:1], 7, ""))


def test_what_has_no_room_is_not_shown() -> None:
    place = Place(memory())
    place.write(1, LINES, 42, "lock")
    place.write(2, [("/" + "a" * 8 * PLACE, 1, "evaluate")], 0, "")
    assert (place.read(1), place.read(2)) == (None, None)


@pytest.mark.parametrize("text", [b"[", b"[1, 2]", b"[[], 0]", b'[["a"], 0, ""]', b"\xff\xff"])
def test_what_is_no_place_is_none(text: bytes) -> None:
    shown = memory()
    shown.cast("B")[16 : 16 + len(text)] = text
    shown[1], shown[0] = len(text), 5
    assert Place(shown).read(5) is None


def calls(*, number: int, started: int, sent: int) -> memoryview[int]:
    shown = memory(SHOWN * ENTRY)
    at = number % SHOWN * ENTRY
    for place, item in enumerate((number, 99, started, sent)):
        shown[at + place] = item
    return shown


def test_a_call_that_lasts_is_looked_at() -> None:
    place = Place(memory())
    look = _Looker(calls(number=3, started=0, sent=0), place, forked=False)
    look(HELD_NS - 1)
    assert place.read(3) is None
    look(HELD_NS)
    found = place.read(3)
    assert found is not None
    assert found[0][0][0] == __file__


def test_one_whose_result_is_sent_is_not() -> None:
    place = Place(memory())
    _Looker(calls(number=3, started=0, sent=1), place, forked=False)(2 * HELD_NS)
    _Looker(memory(SHOWN * ENTRY), place, forked=True)(2 * HELD_NS)
    assert place.read(3) is None


@pytest.mark.parametrize(
    ("forked", "threads", "gate"),
    [(True, 1, INHERITED), (True, 3, "lock"), (False, 1, "lock")],
)
def test_a_lock_that_no_thread_of_a_forked_process_can_release(
    forked: bool, threads: int, gate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    frame = sys._getframe()
    frames = {threading.get_ident() + number: frame for number in range(threads)}
    monkeypatch.setattr("poolscope.probe.processes.worker_place.current_frames", lambda: dict(frames))
    place = Place(memory())
    look = _Looker(calls(number=1, started=0, sent=0), place, forked=forked)
    look._gate = lambda _: "lock"
    look(HELD_NS)
    found = place.read(1)
    assert found is not None
    assert found[2] == gate


def test_a_lock_that_processes_share_is_not_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = eval("__import__('sys')._getframe()", {"__name__": "multiprocessing.synchronize"})
    monkeypatch.setattr("poolscope.probe.processes.worker_place.current_frames", lambda: {threading.get_ident(): frame})
    place = Place(memory())
    look = _Looker(calls(number=1, started=0, sent=0), place, forked=True)
    look._gate = lambda _: "lock"
    look(HELD_NS)
    found = place.read(1)
    assert found is not None
    assert found[2] == "lock"


def seen_by(source: str) -> list[tuple[str, int, str]] | None:
    """The lines that are shown of a call, while a worker is at the end of this text, which is called `look` there."""
    shown: list[tuple[str, int, str]] = []
    place = Place(memory())
    looker = _Looker(calls(number=1, started=0, sent=0), place, forked=False)
    names: dict[str, Any] = {"look": partial(looker, HELD_NS)}
    exec(compile(source, processchild.__file__, "exec"), names)
    names["work"](lambda: names["look"]())
    found = place.read(1)
    shown += [] if found is None else found[0]
    return shown or None


def test_what_is_outside_of_the_worker_is_its_parents() -> None:
    inside, outside = seen_by("def work(task):\n    task()"), seen_by("def work(task):\n    look()")
    assert inside is not None
    assert inside[0][0] == __file__, "the task, in this file"
    assert outside is not None
    assert __file__ not in [file for file, _, _ in outside]


def test_between_two_calls_nothing_is_shown() -> None:
    assert seen_by("def noting_put():\n    look()\n\ndef work(task):\n    noting_put()") is None
