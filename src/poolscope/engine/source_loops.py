"""Whether a line of source is in a loop that waits and comes back, read as findings need it, in a bounded number.

Of a file that is missing, that changed since we started, that is huge or not UTF-8, nothing is said.
"""

from __future__ import annotations

import ast
import os
import stat
import textwrap
import time

from poolscope.messages import Line

#: Lines that are remembered, the largest file that is read for one (bytes), and the longest function that is parsed:
#: that keeps the GIL.
_LINES_KEPT = 1_000
_MOST_BYTES = 1 << 20
MOST_LINES = 400
#: A wait that ends by itself once something comes, by the name of the method or function.
_RECEIVES = {"accept", "recv", "recv_into", "recvfrom", "recvmsg", "recv_bytes", "recv_multipart", "poll", "select"}
#: How an endless `for` is made.
_ENDLESS = {"count", "cycle", "repeat", "iter"}


class SourceLoops:
    """Knows by file and line whether there is such a loop. Not thread-safe: the engine's owner guards it."""

    def __init__(self) -> None:
        self._began = time.time()
        self._lines: dict[tuple[str, int], bool] = {}

    def __call__(self, line: Line) -> bool:
        """Whether the line is in a loop around a timed wait, a get, an accept or a recv; False if not, or not known."""
        file, number, _ = line
        key = (file, number)
        if key not in self._lines:
            if len(self._lines) >= _LINES_KEPT:
                del self._lines[next(iter(self._lines))]
            try:
                self._lines[key] = waits_in_loop(source_lines(file, self._began), number)
            except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
                self._lines[key] = False
        return self._lines[key]


def source_lines(file: str, began: float) -> list[str]:
    """Return the lines of a file that has not changed since then. Raises OSError or ValueError."""
    status = os.stat(file)
    if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES or status.st_mtime > began:
        raise ValueError(file)
    with open(file, encoding="utf-8") as source:
        return source.read(_MOST_BYTES).splitlines()


def waits_in_loop(lines: list[str], number: int) -> bool:
    """Whether line `number` (from 1) waits in a loop of its function. Raises SyntaxError if that cannot be parsed."""
    first, text = function_around(lines, number)
    at = number - first + 1
    for node in ast.walk(ast.parse(textwrap.dedent(text))):
        if isinstance(node, ast.While) and _covers(node, at) and any(_waits(call) for call in _calls(node, at)):
            return True
        if isinstance(node, ast.For) and _covers(node, at) and _is_endless(node.iter):
            source = _covers(node.iter, at) and _takes(node.iter)
            if source or any(_waits(call) for call in _calls(node, at)):
                return True
    return False


def function_around(lines: list[str], number: int) -> tuple[int, str]:
    """Return the number of the first line of the innermost function around a line, and its text, as indentation tells;
    ("", 1) if there is none that is of sane size."""
    if not 0 < number <= len(lines):
        return 1, ""
    indent = _indent(lines[number - 1])
    for first in range(number - 1, max(0, number - MOST_LINES) - 1, -1):
        line = lines[first]
        if not line.strip() or _indent(line) >= indent:
            continue
        indent = _indent(line)
        if line.lstrip().startswith(("def ", "async def ")):
            end = first + 1
            while end < len(lines) and (not lines[end].strip() or _indent(lines[end]) > indent):
                end += 1
            return (first + 1, "\n".join(lines[first:end])) if end - first <= MOST_LINES else (1, "")
    return 1, ""


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _covers(node: ast.stmt | ast.expr, at: int) -> bool:
    return node.lineno <= at <= (node.end_lineno or node.lineno)


def _calls(node: ast.AST, at: int) -> list[ast.Call]:
    return [each for each in ast.walk(node) if isinstance(each, ast.Call) and _covers(each, at)]


def _name(function: ast.expr) -> str:
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _is_endless(source: ast.expr) -> bool:
    return isinstance(source, ast.Call) and _name(source.func) in _ENDLESS


def _takes(source: ast.expr) -> bool:
    """Whether it is `iter(queue.get, end)`."""
    first = source.args[0] if isinstance(source, ast.Call) and source.args else None
    return isinstance(first, ast.Attribute) and first.attr in ("get", *_RECEIVES)


def _waits(call: ast.Call) -> bool:
    name, count = _name(call.func), len(call.args) + len(call.keywords)
    if name in ("wait", "sleep"):
        return count > 0
    if name == "wait_for":
        return count > 1
    if name == "get":
        # Of a queue: that of a client takes an address, that of a dictionary a key.
        numbers = all(isinstance(each, ast.Constant) and isinstance(each.value, int | float) for each in call.args)
        return numbers and all(each.arg in ("block", "timeout") for each in call.keywords)
    return name in _RECEIVES
