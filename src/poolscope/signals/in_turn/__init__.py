"""Whether what a loop does one after the other could go on at once: read from its source, by the syntax tree.

It could where a `for` loop over items waits, in each turn, for a call that uses the item and nothing that an earlier
turn has made. What cannot be told is not said (`Told`): a loop that waits for something else, that may be left early,
whose calls are made for their effect, or feed the next turn.

Pure: the text comes in. Raises SyntaxError where that cannot be parsed.
"""

from __future__ import annotations

from poolscope.signals.in_turn.reading import read
from poolscope.signals.in_turn.results import InRow, InTurn, Told

__all__ = ["InRow", "InTurn", "Told", "read"]
