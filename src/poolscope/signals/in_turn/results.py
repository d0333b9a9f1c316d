"""What is read of a line that waits."""

from __future__ import annotations

from enum import Enum

import msgspec


class Told(Enum):
    """What is read of a line that waits, where that is not a `Turn`."""

    #: It is in no loop: its caller may be in one.
    NO_LOOP = "no loop"
    #: It is in a loop of which nothing is said.
    NOTHING = "nothing"


class InTurn(msgspec.Struct, frozen=True):
    """A loop whose turns could go on at once.

    `call` is what is called in each turn. `shared` is what all turns use that may be able to do one thing at a time (a
    session, a connection, a file); empty if there is nothing of that kind.
    """

    call: str
    shared: str = ""


class InRow(msgspec.Struct, frozen=True):
    """Statements one after the other that each await a call, of which none uses what another one gives: their lines,
    first and last, and what they call."""

    first: int
    last: int
    calls: tuple[str, ...]
