"""From a line of source to what is read of it."""

from __future__ import annotations

import ast
import textwrap

from poolscope.signals.in_turn.calls import RUN
from poolscope.signals.in_turn.results import InRow, InTurn, Told
from poolscope.signals.in_turn.row import row_around
from poolscope.signals.in_turn.syntax import path_to, scope_of
from poolscope.signals.in_turn.turns import Loop


def read(text: str, at: int, gate: str, *, imported: frozenset[str] = frozenset()) -> InTurn | InRow | Told:
    """Read line `at` (from 1) of a function's text, or of statements of a module, where a thread or task waits (`gate`,
    as `messages.Turn` has it). `imported` are names of modules."""
    tree = ast.parse(textwrap.dedent(text))
    scope = scope_of(tree, at)
    path = path_to(scope, at)
    if not path:
        return Told.NOTHING
    if gate == "await" and not isinstance(scope, ast.AsyncFunctionDef):
        gate = RUN  # `asyncio.run`, or what calls it
    found = Loop.around(path, at, gate, imported)
    row = row_around(scope, path, imported) if found is Told.NO_LOOP and gate == "await" else None
    return found if row is None else row
