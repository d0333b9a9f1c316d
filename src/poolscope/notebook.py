"""`%load_ext poolscope`: the magic `%%poolscope` runs a cell with everything on, and shows what was seen.

IPython is not imported here before it loads us.
"""

from __future__ import annotations

import ast
import asyncio
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from msgspec.structs import replace

from poolscope.model import TASKS_NEEDED, Finding, Session
from poolscope.profiler import profile

_NAME = "poolscope"


def load_ipython_extension(shell: Any) -> None:
    """Add the magic."""

    def magic(line: str, cell: str) -> object:
        """Run the cell with all pools and event loops watched, and show what was seen.

        %%poolscope [NAME]: with a NAME, a variable of that name gets the session.
        """
        return _watched(shell, line.strip(), cell)

    shell.register_magic_function(magic, "cell", _NAME)


def unload_ipython_extension(shell: Any) -> None:
    """Take it away again."""
    shell.magics_manager.magics["cell"].pop(_NAME, None)


def _watched(shell: Any, name: str, cell: str) -> object:
    from IPython.core.error import UsageError
    from IPython.display import display

    if name and not name.isidentifier():
        raise UsageError(f"%%poolscope {name}: expected the name of a variable, or nothing")
    source = "\n" + shell.transform_cell(cell)  # its lines count from that of the magic
    if shell.should_run_async(cell, transformed_cell=source):
        raise UsageError(
            "%%poolscope cannot run a cell that awaits: write `with poolscope.profile() as seen:` around it, and "
            "`seen.session` below it"
        )
    own_loop = threading.current_thread().name if asyncio._get_running_loop() is not None else None
    run = _Cell(shell, source, cell)
    seen = profile()
    try:
        with _told_below(), seen:
            return run()
    finally:
        # Also of a cell that fails: its traceback comes after it.
        session = with_cells(without_loop(seen.session, own_loop), _cells(shell), run.number)
        if name:
            shell.user_ns[name] = session
        display(session)  # type: ignore[no-untyped-call]  # IPython's


@contextmanager
def _told_below() -> Iterator[None]:
    """Log no findings: they are shown."""
    log = logging.getLogger("poolscope")

    def is_news(record: logging.LogRecord) -> bool:
        return record.levelno > logging.WARNING

    log.addFilter(is_news)
    try:
        yield
    finally:
        log.removeFilter(is_news)


def _cells(shell: Any) -> Mapping[str, int]:
    """Return the file of each cell that was compiled, and the number of its execution."""
    known: Mapping[str, int] = getattr(shell.compile, "_filename_map", {})
    return known


class _Cell:
    """The code of a cell; called, it runs as IPython would run it, and returns the value of its last expression."""

    def __init__(self, shell: Any, source: str, raw: str) -> None:
        self._names = shell.user_ns
        # That of the cell with the magic, which was compiled last: by now the shell may count the next one.
        self.number = number = max(_cells(shell).values(), default=shell.execution_count)
        self._file = shell.compile.cache(source, number, raw_code=raw)
        self._compile = shell.compile
        self._tree: ast.Module = shell.transform_ast(shell.compile.ast_parse(source, filename=self._file))

    def __call__(self) -> object:
        body = self._tree.body
        last = body[-1] if body else None
        if not isinstance(last, ast.Expr):
            exec(self._compile(self._tree, self._file, "exec"), self._names)
            return None
        body.pop()
        exec(self._compile(self._tree, self._file, "exec"), self._names)
        return eval(self._compile(ast.Expression(last.value), self._file, "eval"), self._names)


def without_loop(session: Session, name: str | None) -> Session:
    """Return the session without the event loops of that name, the kernel's own, and without what was found of them."""
    report = session.report
    own = [loop for loop in report.event_loops if loop.name == name]
    if not own:
        return session
    others = tuple(loop for loop in report.event_loops if loop.name != name)
    theirs = [finding for loop in own for finding in loop.findings]
    findings = tuple(finding for finding in report.findings if finding not in theirs)
    verdict = report.verdict
    if findings != report.findings and findings[:1] and findings[0].severity != "info":
        verdict = findings[0].pattern
    elif verdict in {finding.pattern for finding in theirs} or (verdict == "concurrent" and not others):
        finished = sum(pool.tasks.succeeded + pool.tasks.failed for pool in report.pools)
        verdict = "concurrent" if finished >= TASKS_NEEDED or others else "insufficient_data"
    return replace(session, report=replace(report, event_loops=others, findings=findings, verdict=verdict))


def with_cells(session: Session, cells: Mapping[str, int], ran: int) -> Session:
    """Return the session of the cell that `ran`; each cell's file, whose name says nothing, is named by its number."""
    names = {file: f"cell {number}" for file, number in cells.items()}

    def named(text: str) -> str:
        for file, name in names.items():
            text = text.replace(f"{os.path.basename(file)}:", f"{name}:")
        return text

    def found(findings: Sequence[Finding]) -> tuple[Finding, ...]:
        return tuple(
            replace(
                finding,
                summary=named(finding.summary),
                advice=replace(finding.advice, text=named(finding.advice.text)),
                frames=tuple(replace(frame, file=names.get(frame.file, frame.file)) for frame in finding.frames),
            )
            for finding in findings
        )

    report = session.report
    report = replace(
        report,
        command=(f"cell {ran}",),
        pools=tuple(replace(pool, findings=found(pool.findings)) for pool in report.pools),
        event_loops=tuple(replace(loop, findings=found(loop.findings)) for loop in report.event_loops),
        findings=found(report.findings),
    )
    return replace(session, report=report)
