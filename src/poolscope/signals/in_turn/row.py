"""Statements one after the other that could be awaited together."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from poolscope.signals.in_turn.calls import EFFECTS, PACES
from poolscope.signals.in_turn.results import InRow
from poolscope.signals.in_turn.syntax import calls_in, name_of, suites, walk
from poolscope.signals.in_turn.turns import Loop

#: One is no row.
_IN_ROW = 2


def row_around(
    scope: ast.AST, path: Sequence[tuple[ast.stmt, list[ast.stmt]]], imported: frozenset[str]
) -> InRow | None:
    """Return the statements around the last one of the path that could be awaited together with it."""
    statement = path[-1][0]
    parent = path[-2][0] if len(path) > 1 else scope
    suite = next((suite for suite in suites(parent) if statement in suite), [])
    used = {each.id for each in ast.walk(scope) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load)}
    row: list[ast.stmt] = []
    given: set[str] = set()
    for each in suite:
        call, names = _awaited(each)
        kept = call is not None and names <= used
        if not kept or any(isinstance(part, ast.Name) and part.id in given for part in ast.walk(each)):
            if statement in row:
                break
            row, given = [], set()
        if kept:
            row.append(each)
            given |= names
    calls = [call for each in row if (call := _awaited(each)[0]) is not None]
    if statement not in row or len(calls) < _IN_ROW or _share(calls, imported):
        return None
    return InRow(row[0].lineno, row[-1].end_lineno or row[-1].lineno, tuple(ast.unparse(call.func) for call in calls))


def _awaited(statement: ast.stmt) -> tuple[ast.Call | None, set[str]]:
    """Return the call that a statement awaits to give names its result, and these; None if it does anything else."""
    value = statement.value if isinstance(statement, ast.Assign) else None
    call = value.value if isinstance(value, ast.Await) else None
    if not isinstance(call, ast.Call) or any(EFFECTS.search(name) or PACES.search(name) for name in _names(call)):
        return None, set()
    assert isinstance(statement, ast.Assign)
    names = {each.id for target in statement.targets for each in walk(target) if isinstance(each, ast.Name)}
    return (call, names) if names else (None, set())


def _names(call: ast.Call) -> list[str]:
    return [name_of(each.func) for each in calls_in([call])]


def _share(calls: Sequence[ast.Call], imported: frozenset[str]) -> bool:
    """Whether two of these calls use anything that may be able to do one thing at a time."""
    seen: set[str] = set()
    for call in calls:
        part = Loop([], [], [], [])
        part.use(call, frozenset(), imported)
        shared = {path.partition(".")[0] for path in part.shared}
        if shared & seen:
            return True
        seen |= shared
    return False
