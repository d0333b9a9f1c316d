"""Whether what a loop does one after the other could go on at once: read from its source, by the syntax tree.

It could where a `for` loop over items waits, in each turn, for a call that uses the item and nothing that an earlier
turn has made. What cannot be told is not said (`Told`): a loop that waits for something else, that may be left early,
whose calls are made for their effect, or feed the next turn.

Pure: the text comes in. Raises SyntaxError where that cannot be parsed.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterable, Iterator, Sequence
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


#: What is waited for, where the turn itself has started it: it need not be a call whose result is used.
STARTED = ("future", "thread", "process", "batch", "end")
#: A thread that runs a coroutine to its end.
RUN = "run"
#: What threads wait for: they have no `await`.
_OF_THREADS = (*STARTED, RUN)

#: Calls that start what is waited for, and how many of their first arguments are no items (functions, pools).
_STARTS = {
    "submit": 1, "apply": 1, "apply_async": 1, "to_thread": 1, "run_in_executor": 2, "run_sync": 1, "Thread": 0,
    "Process": 0, "partial": 1, "map": 1, "map_async": 1, "starmap": 1, "imap": 1, "imap_unordered": 1,
    "ThreadPoolExecutor": 0, "ProcessPoolExecutor": 0, "Pool": 0, "ThreadPool": 0,
}  # fmt: skip
#: Methods of what was started before: where nothing else starts it, the loop only collects.
_COLLECTS = {"result", "exception", "join", "get", "wait"}
#: Functions that only pass on what they are given to wait for.
_PASS_ON = {"wait_for", "shield", "ensure_future", "create_task", "run", "run_until_complete"}
_KEYWORD_FUNCTIONS = {"target", "func", "fn", "function", "initializer", "key", "callback"}
#: Calls that change nothing of what they are given.
_HARMLESS = {
    "print", "len", "str", "int", "float", "bool", "repr", "list", "tuple", "set", "dict", "sorted", "sum", "min",
    "max", "range", "enumerate", "zip", "reversed", "isinstance", "abs", "round", "any", "all", "format", "type",
    "hash", "Path", "join", "info", "debug", "warning", "error", "exception", "log", "update_progress",
}  # fmt: skip
#: Calls that wait on purpose, or for a turn.
_PACES = re.compile(r"(^|_)(sleep|acquire|wait|throttle|limit|limiter|pause|tick|heartbeat|barrier)(_|$)", re.I)
#: Calls that change something elsewhere: their order may matter.
_EFFECTS = re.compile(
    r"(^|_)(write|writelines|send|sendall|put|post|patch|insert|update|upsert|delete|save|commit|append|push|publish"
    r"|execute|executemany|add|remove|move|rename|ack|set|store|emit|produce|apply|migrate|step|next|advance|login|train|fit|play)"
    r"(_|$)", re.I,
)  # fmt: skip
#: What gives one item after the other as they come, or without an end.
_STREAMS = re.compile(
    r"(^|_)(count|cycle|repeat|iter|consumer|stream|queue|events?|messages|stdin|stdout|sock|socket|subscription"
    r"|listener|feed|watch|poll|listen|reader|response|pubsub|cursor|ticker|clock|paginator|pages|paginate|tail)(_|$)",
    re.I,
)  # fmt: skip
#: What was started before, by its name.
_UNDER_WAY = re.compile(
    r"(^|_)(tasks?|futures?|futs?|threads?|workers?|jobs|pending|coros|coroutines|procs|processes)$"
)
#: Plain values, by their names.
_VALUES = re.compile(
    r"(^|_)(host|port|address|addr|url|uri|base|path|root|folder|directory|dir|prefix|suffix|name|id|key|token|user"
    r"|password|timeout|seconds|delay|size|width|height|count|limit|number|n|k|year|month|day|date|start|stop|end|since"
    r"|until|mode|format|fmt|encoding|headers|params|query|lang|language|version|verbose|debug|options|opts|args"
    r"|config|settings|threshold|scale|ratio|level|quality|kind|model_name|run|wait|duration)(_|s$|$)", re.I,
)  # fmt: skip

_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp)


def read(text: str, at: int, gate: str, *, imported: frozenset[str] = frozenset()) -> InTurn | InRow | Told:
    """Read line `at` (from 1) of a function's text, or of statements of a module, where a thread or task waits (`gate`,
    as `messages.Turn` has it). `imported` are names of modules."""
    tree = ast.parse(textwrap.dedent(text))
    scope = _scope(tree, at)
    path = _path(scope, at)
    if not path:
        return Told.NOTHING
    if gate == "await" and not isinstance(scope, ast.AsyncFunctionDef):
        gate = RUN  # `asyncio.run`, or what calls it
    found = _Loop.around(path, at, gate, imported)
    row = _row(scope, path, imported) if found is Told.NO_LOOP and gate == "await" else None
    return found if row is None else row


def _scope(tree: ast.Module, at: int) -> ast.AST:
    """Return the innermost function around a line, or the module."""
    found: ast.AST = tree
    for node in ast.walk(tree):
        inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.body[0].lineno <= at
        if inside and _covers(node, at):
            found = node  # an inner one comes later
    return found


def _covers(node: ast.AST, at: int) -> bool:
    begin, end = getattr(node, "lineno", None), getattr(node, "end_lineno", None)
    return begin is not None and begin <= at <= (end or begin)


def _suites(node: ast.AST) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        yield getattr(node, name, None) or []
    for part in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
        yield part.body


def _path(scope: ast.AST, at: int) -> list[tuple[ast.stmt, list[ast.stmt]]]:
    """Return the statements around a line, from the outermost to the innermost, each with those before it in its
    suite."""
    found: list[tuple[ast.stmt, list[ast.stmt]]] = []
    node = scope
    while True:
        for suite in _suites(node):
            place = next((place for place, each in enumerate(suite) if _covers(each, at)), None)
            if place is not None:
                node = suite[place]
                found.append((suite[place], suite[:place]))
                break
        else:
            return found
        if isinstance(node, _FUNCTIONS):
            return []  # a `def` itself


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Go through a node and what is in it, but for functions defined there."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, _FUNCTIONS):
            yield from _walk(child)


def _header(statement: ast.stmt) -> list[ast.expr]:
    """Return the expressions of a statement, but for the statements in it."""
    found: list[ast.expr] = []
    for _, value in ast.iter_fields(statement):
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, ast.withitem):
                found.append(each.context_expr)
            elif isinstance(each, ast.expr):
                found.append(each)
    return found


def _name(function: ast.expr) -> str:
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


def _calls(nodes: Iterable[ast.AST]) -> list[ast.Call]:
    return [each for node in nodes for each in _walk(node) if isinstance(each, ast.Call)]


def _bound(target: ast.AST) -> set[str]:
    """Return the names that a target binds, and the dotted ones that it changes."""
    found = set()
    for each in _walk(target):
        if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store | ast.Del):
            found.add(each.id)
        elif isinstance(each, ast.Attribute | ast.Subscript) and isinstance(each.ctx, ast.Store | ast.Del):
            found.add(dotted(each.value).partition(".")[0])
    return found - {""}


class _Dependent(Exception):
    """A turn uses what an earlier one made, or that cannot be told."""


class _Loop:
    """The turns of one loop, and what each of them uses."""

    def __init__(
        self,
        targets: list[ast.expr],
        iterated: list[ast.expr],
        body: list[ast.AST],
        path: list[tuple[ast.stmt, list[ast.stmt]]],
    ) -> None:
        """`path` are the statements in the loop around the wait, as `_path` has them."""
        self.items = set().union(*map(_bound, targets))
        self.iterated = iterated
        self.body = body
        self.path = path
        nodes = [each for part in body for each in _walk(part)]
        self.assigned = set().union(*map(_bound, (each for each in body))) - self.items
        self.changed = set(_changed(nodes))
        self.used_item = False
        self.shared: list[str] = []

    @classmethod
    def around(
        cls, path: Sequence[tuple[ast.stmt, list[ast.stmt]]], at: int, gate: str, imported: frozenset[str]
    ) -> InTurn | Told:
        """Read the innermost loop around the last of these statements."""
        statement = path[-1][0]
        if isinstance(statement, ast.AsyncFor | ast.While):
            return Told.NOTHING
        inner = [each for part in _header(statement) for each in _walk(part) if isinstance(each, _COMPREHENSIONS)]
        waiting = [each for each in inner if _covers(each, at) and _waits_in(each, gate)]
        if waiting:
            return cls._of_comprehension(waiting[-1], gate, imported)
        if any(isinstance(each, ast.GeneratorExp) and _waits_in(each, gate) for each in _walk(statement)):
            return Told.NOTHING
        for place in range(len(path) - 2, -1, -1):
            loop = path[place][0]
            if isinstance(loop, ast.While | ast.AsyncFor):
                return Told.NOTHING
            if isinstance(loop, ast.For):
                if path[place + 1][0] in loop.orelse:
                    continue
                body: list[ast.AST] = [*loop.body]
                found = cls([loop.target], [loop.iter], body, list(path[place + 1 :]))
                return found.read(statement, at, gate, imported)
        return Told.NO_LOOP

    @classmethod
    def _of_comprehension(cls, node: ast.AST, gate: str, imported: frozenset[str]) -> InTurn | Told:
        generators: list[ast.comprehension] = node.generators  # type: ignore[attr-defined]
        if any(each.is_async for each in generators):
            return Told.NOTHING
        parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]  # type: ignore[attr-defined]
        tests = [test for each in generators for test in each.ifs]
        found = cls([each.target for each in generators], [each.iter for each in generators], [*parts, *tests], [])
        return found._judge(_waits(parts, gate), tests, gate, imported)

    def read(self, statement: ast.stmt, at: int, gate: str, imported: frozenset[str]) -> InTurn | Told:
        """Read the turn in which this statement waits."""
        if any(_leaves(each) for each in self.body):
            return Told.NOTHING
        if any(isinstance(each, ast.ExceptHandler) and _covers(each, at) for part in self.body for each in _walk(part)):
            return Told.NOTHING
        if gate == "end" and isinstance(statement, ast.With):
            waits: list[ast.AST] = [call for call in _calls([statement]) if _name(call.func) in _STARTS]
        else:
            waits = [each for each in _waits(_header(statement), gate) if _covers(each, at)]
        if isinstance(statement, ast.AsyncWith) and gate not in STARTED:
            waits = [*_calls(_header(statement))]
            if any(item.optional_vars is None for item in statement.items):
                return Told.NOTHING
        elif gate not in STARTED and not self._is_used(statement, waits):
            return Told.NOTHING
        if any(self._for_effect(part, waits) for part in self.body):
            return Told.NOTHING
        tests = [each.test for each, _ in self.path if isinstance(each, ast.If)]
        for _, before in self.path:
            tests += [
                each.test
                for each in before
                if isinstance(each, ast.If) and any(isinstance(inner, ast.Continue) for inner in _walk(each))
            ]
        return self._judge(waits, tests, gate, imported)

    def _is_used(self, statement: ast.stmt, waits: Sequence[ast.AST]) -> bool:
        """Whether the result of what is awaited in a statement is used in the loop, or kept."""
        if isinstance(statement, ast.Expr):
            return statement.value not in waits or self._is_started(statement.value)
        if isinstance(statement, ast.Assign) and all(isinstance(each, ast.Name) for each in statement.targets):
            names = {each.id for each in statement.targets if isinstance(each, ast.Name)}
            loads = (each for part in self.body for each in _walk(part) if isinstance(each, ast.Name))
            return any(each.id in names and isinstance(each.ctx, ast.Load) for each in loads)
        return True

    def _is_started(self, wait: ast.AST) -> bool:
        """Whether a task of a pool, a thread or a process that this turn has started is what is awaited."""
        return _starts(wait) or (isinstance(wait, ast.Await) and _starts(self._made(wait.value)))

    def _for_effect(self, part: ast.AST, waits: Sequence[ast.AST]) -> bool:
        """Whether the turn awaits something for its effect, or paces itself."""
        for each in _walk(part):
            bare = each.value if isinstance(each, ast.Expr) else None
            if isinstance(bare, ast.Await) and bare not in waits and not _starts(bare):
                return True
            if isinstance(each, ast.AsyncWith) and any(item.optional_vars is None for item in each.items):
                return True
            name = _name(each.func) if isinstance(each, ast.Call) else ""
            if _PACES.search(name) and name not in _PASS_ON and not (name == "wait" and _starts_in(self.body)):
                return True
        return False

    def _judge(
        self, waits: Sequence[ast.AST], tests: Sequence[ast.expr], gate: str, imported: frozenset[str]
    ) -> InTurn | Told:
        calls = [call for each in waits if (call := self._call(each, gate)) is not None]
        if not calls or len(calls) != len(waits) or self._is_stream():
            return Told.NOTHING
        if gate not in STARTED and any(_EFFECTS.search(_name(call.func)) for call in calls if not _starts(call)):
            return Told.NOTHING
        try:
            for call in calls:
                self._use(call, frozenset(), imported)
            shared = list(dict.fromkeys(self.shared))
            for test in tests:
                self._use(test, frozenset(), imported)
            for each in self.iterated:
                self._unchanged(each)
        except _Dependent:
            return Told.NOTHING
        if not self.used_item:
            return Told.NOTHING
        return InTurn(ast.unparse(calls[0].func), shared[0] if shared else "")

    def _call(self, wait: ast.AST, gate: str) -> ast.Call | None:
        """Return the call whose result is waited for; None if that was made before, or cannot be told."""
        node = self._made(wait.value if isinstance(wait, ast.Await) else wait)
        if not isinstance(node, ast.Call):
            return None
        started = gate in STARTED
        if started and isinstance(node.func, ast.Attribute) and node.func.attr in _COLLECTS:
            # What it waits for has to have been started in this turn.
            source = node.func.value
            if node.func.attr == "join" and (node.args or node.keywords):
                return None  # the thread is there to be given up
            if isinstance(source, ast.Name):
                source = self._value(source.id) or source
            return node if _starts_in([source]) else None
        return node

    def _made(self, node: ast.AST) -> ast.AST:
        """Return what is passed on to be waited for: of a name, what this turn has given it."""
        names: set[str] = set()
        while True:
            if isinstance(node, ast.Call) and _name(node.func) in _PASS_ON and node.args:
                node = node.args[0]
            elif isinstance(node, ast.Name) and node.id not in names and (value := self._value(node.id)) is not None:
                names.add(node.id)
                node = value
            else:
                return node

    def _is_stream(self) -> bool:
        """Whether the loop gets its items as they come, or what was started before."""
        for each in self.iterated:
            last = dotted(each).rpartition(".")[2]
            called = [part for call in _calls([each]) for part in dotted(call.func).split(".")]
            if any(_STREAMS.search(name) for name in (*called, last)) or _UNDER_WAY.search(last):
                return True
        return False

    # -- what a turn uses ----------------------------------------------------------------------------------------

    def _value(self, name: str) -> ast.expr | None:
        """Return what a name was given in this turn, before it waits; None if that is not sure."""
        for statement, before in reversed(self.path):
            for each in (*reversed(before), statement):
                value = _gives(each, name, whole=each is not statement)
                if value is not None:
                    return value
        return None

    def _use(self, node: ast.AST, seen: frozenset[str], imported: frozenset[str], *, function: bool = False) -> None:
        """Note what a part of a turn uses. Raises _Dependent for what an earlier turn has made."""
        if isinstance(node, ast.Call):
            self._use_call(node, seen, imported)
            return
        if isinstance(node, ast.Subscript):
            self._use_part(node, seen, imported, function=function)
            return
        path = dotted(node) if isinstance(node, ast.Name | ast.Attribute) else ""
        if path:
            self._use_name(path, seen, imported, function=function)
            return
        local = {name for each in _walk(node) if isinstance(each, ast.comprehension) for name in _bound(each.target)}
        for child in ast.iter_child_nodes(node):
            self._use(child, seen | local, imported)

    def _use_part(self, node: ast.Subscript, seen: frozenset[str], imported: frozenset[str], *, function: bool) -> None:
        """Note what a part of something uses: each turn another one, where it is chosen by what is the turn's own."""
        shared = len(self.shared)
        self._use(node.value, seen, imported, function=function)
        own = self.items | self.assigned
        if any(isinstance(each, ast.Name) and each.id in own for each in _walk(node.slice)):
            del self.shared[shared:]
        self._use(node.slice, seen, imported)

    def _use_call(self, call: ast.Call, seen: frozenset[str], imported: frozenset[str]) -> None:
        name = _name(call.func)
        starts = name in _STARTS
        if isinstance(call.func, ast.Attribute):
            # The pool, or the loop, to which it is given does many things at once.
            self._use(call.func.value, seen, imported, function=starts)
        else:
            self._use(call.func, seen, imported, function=True)
        functions = _STARTS.get(name, 0)
        for place, each in enumerate(call.args):
            self._use(each, seen, imported, function=place < functions)
        for keyword in call.keywords:
            self._use(keyword.value, seen, imported, function=keyword.arg in _KEYWORD_FUNCTIONS)

    def _use_name(self, path: str, seen: frozenset[str], imported: frozenset[str], *, function: bool) -> None:
        root = path.partition(".")[0]
        if root in seen:
            return
        if root in self.items:
            self.used_item = True
            return
        if root in self.assigned:
            value = self._value(root)
            if value is None:
                raise _Dependent(root)
            self._use(value, seen | {root}, imported, function=function)
            return
        self._unchanged_name(path)
        receiver, _, last = path.rpartition(".")
        if function and receiver:
            # `client.get` as a function that is passed on: it is the client that all turns share.
            path, last, function = receiver, receiver.rpartition(".")[2], False
        if not (function or root in imported or root[:1].isupper() or path.isupper() or _VALUES.search(last)):
            self.shared.append(path)

    def _unchanged(self, node: ast.AST) -> None:
        """Raise _Dependent if a turn changes what the loop goes through."""
        for each in _walk(node):
            if isinstance(each, ast.Name | ast.Attribute) and (path := dotted(each)):
                if path.partition(".")[0] in self.assigned - self.items:
                    raise _Dependent(path)
                self._unchanged_name(path)

    def _unchanged_name(self, path: str) -> None:
        for changed in self.changed:
            if path == changed or path.startswith(f"{changed}."):
                raise _Dependent(path)


def _row(scope: ast.AST, path: Sequence[tuple[ast.stmt, list[ast.stmt]]], imported: frozenset[str]) -> InRow | None:
    """Return the statements around the last one of the path that could be awaited together with it."""
    statement = path[-1][0]
    parent = path[-2][0] if len(path) > 1 else scope
    suite = next((suite for suite in _suites(parent) if statement in suite), [])
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


#: One is no row.
_IN_ROW = 2


def _awaited(statement: ast.stmt) -> tuple[ast.Call | None, set[str]]:
    """Return the call that a statement awaits to give names its result, and these; None if it does anything else."""
    value = statement.value if isinstance(statement, ast.Assign) else None
    call = value.value if isinstance(value, ast.Await) else None
    if not isinstance(call, ast.Call) or any(_EFFECTS.search(name) or _PACES.search(name) for name in _names(call)):
        return None, set()
    assert isinstance(statement, ast.Assign)
    names = {each.id for target in statement.targets for each in _walk(target) if isinstance(each, ast.Name)}
    return (call, names) if names else (None, set())


def _names(call: ast.Call) -> list[str]:
    return [_name(each.func) for each in _calls([call])]


def _share(calls: Sequence[ast.Call], imported: frozenset[str]) -> bool:
    """Whether two of these calls use anything that may be able to do one thing at a time."""
    seen: set[str] = set()
    for call in calls:
        part = _Loop([], [], [], [])
        part._use(call, frozenset(), imported)
        shared = {path.partition(".")[0] for path in part.shared}
        if shared & seen:
            return True
        seen |= shared
    return False


def _changed(nodes: Sequence[ast.AST]) -> Iterator[str]:
    """Return what statements of a turn may change: of what they call methods as a statement, what they pass on to calls
    that may keep it, and what they assign to."""
    for each in nodes:
        if isinstance(each, ast.Attribute | ast.Subscript) and isinstance(each.ctx, ast.Store | ast.Del):
            path = dotted(each.value)
            if path:
                yield path.partition(".")[0]
        elif isinstance(each, ast.Expr) and isinstance(each.value, ast.Call):
            call = each.value
            if _starts(call):
                continue
            if isinstance(call.func, ast.Attribute) and (path := dotted(call.func.value)):
                yield path
            if _name(call.func) not in _HARMLESS:
                yield from (path for argument in call.args if (path := dotted(argument)))


def _gives(statement: ast.stmt, name: str, *, whole: bool) -> ast.expr | None:
    """Return the expression that a statement gives a name. Of one that is not over (`whole`), only a `with`."""
    if isinstance(statement, ast.With | ast.AsyncWith):
        for item in statement.items:
            if item.optional_vars is not None and name in _bound(item.optional_vars):
                return item.context_expr
    if whole and isinstance(statement, ast.Assign) and any(name in _bound(each) for each in statement.targets):
        return statement.value
    if whole and isinstance(statement, ast.AnnAssign) and name in _bound(statement.target):
        return statement.value
    return None


def _leaves(node: ast.AST, *, inner: bool = False) -> bool:
    """Whether a part of a loop's turn may leave the loop, or gives something to what goes through it."""
    if isinstance(node, ast.Return | ast.Yield | ast.YieldFrom) or (isinstance(node, ast.Break) and not inner):
        return True
    inner = inner or isinstance(node, ast.For | ast.AsyncFor | ast.While)
    return any(_leaves(child, inner=inner) for child in ast.iter_child_nodes(node) if not isinstance(child, _FUNCTIONS))


def _starts(node: ast.AST) -> bool:
    """Whether a call, or what awaits it, starts a task of a pool, a thread or a process."""
    return any(_name(call.func) in _STARTS for call in _calls([node]))


def _starts_in(nodes: Sequence[ast.AST]) -> bool:
    return any(_starts(node) for node in nodes)


def _waits(parts: Sequence[ast.AST], gate: str) -> list[ast.AST]:
    """Return what waits in these expressions: what is awaited, or calls of a thread that waits."""
    nodes = [each for part in parts for each in _walk(part)]
    if gate not in _OF_THREADS or any(isinstance(each, ast.Await) for each in nodes):
        return [each for each in nodes if isinstance(each, ast.Await)]
    calls = _calls(parts)
    collecting = [call for call in calls if _name(call.func) in (*_COLLECTS, *_PASS_ON)]
    if collecting:
        return [collecting[0]]
    # The innermost is called first.
    innermost = [call for call in calls if not _calls([*call.args, *(each.value for each in call.keywords)])]
    return [*innermost[-1:]]


def _waits_in(node: ast.AST, gate: str) -> bool:
    parts: list[ast.AST] = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]  # type: ignore[attr-defined]
    return bool(_waits(parts, gate))
