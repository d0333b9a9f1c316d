"""Parts of a syntax tree: what is around a line, and what a part calls and binds."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp)


def scope_of(tree: ast.Module, at: int) -> ast.AST:
    """Return the innermost function around a line, or the module."""
    found: ast.AST = tree
    for node in ast.walk(tree):
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.body[0].lineno <= at
        if inside and covers(node, at):
            found = node  # an inner one comes later
    return found


def covers(node: ast.AST, at: int) -> bool:
    """Whether a line is in a part of the source."""
    begin, end = getattr(node, "lineno", None), getattr(node, "end_lineno", None)
    return begin is not None and begin <= at <= (end or begin)


def suites(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """Yield the lists of statements in a statement."""
    for name in ("body", "orelse", "finalbody"):
        yield getattr(node, name, None) or []
    for part in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
        yield part.body


def path_to(scope: ast.AST, at: int) -> list[tuple[ast.stmt, list[ast.stmt]]]:
    """Return the statements around a line, from the outermost to the innermost, each with those before it in its
    suite."""
    found: list[tuple[ast.stmt, list[ast.stmt]]] = []
    node = scope
    while True:
        for suite in suites(node):
            place = next((place for place, each in enumerate(suite) if covers(each, at)), None)
            if place is not None:
                node = suite[place]
                found.append((suite[place], suite[:place]))
                break
        else:
            return found
        if isinstance(node, FUNCTIONS):
            return []  # a `def` itself


def walk(node: ast.AST) -> Iterator[ast.AST]:
    """Go through a node and what is in it, but for functions defined there."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, FUNCTIONS):
            yield from walk(child)


def header_of(statement: ast.stmt) -> list[ast.expr]:
    """Return the expressions of a statement, but for the statements in it."""
    found: list[ast.expr] = []
    for _, value in ast.iter_fields(statement):
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, ast.withitem):
                found.append(each.context_expr)
            elif isinstance(each, ast.expr):
                found.append(each)
    return found


def name_of(function: ast.expr) -> str:
    """Return the last name of what is called; empty if it has none."""
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def dotted(node: ast.expr) -> str:
    """Return `a.b.c` of a name and its attributes; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""


def calls_in(nodes: Iterable[ast.AST]) -> list[ast.Call]:
    """Return the calls in these parts, but for those of functions defined there."""
    return [each for node in nodes for each in walk(node) if isinstance(each, ast.Call)]


def bound_by(target: ast.AST) -> set[str]:
    """Return the names that a target binds, and the dotted ones that it changes."""
    found = set()
    for each in walk(target):
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store | ast.Del):
            found.add(each.id)
        elif isinstance(each, ast.Attribute | ast.Subscript) and isinstance(each.ctx, ast.Store | ast.Del):
            found.add(dotted(each.value).partition(".")[0])
    return found - {""}
