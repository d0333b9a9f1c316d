"""The turns of a loop: what each of them waits for and uses, and whether an earlier one has made it."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence

from poolscope.signals.in_turn.calls import (
    COLLECTS,
    EFFECTS,
    HARMLESS,
    KEYWORD_FUNCTIONS,
    PACES,
    PASS_ON,
    STARTED,
    STARTS,
    STREAMS,
    UNDER_WAY,
    VALUES,
    any_starts,
    comprehension_waits,
    starts_work,
    waits_in,
)
from poolscope.signals.in_turn.results import InTurn, Told
from poolscope.signals.in_turn.syntax import (
    COMPREHENSIONS,
    FUNCTIONS,
    bound_by,
    calls_in,
    covers,
    dotted,
    header_of,
    name_of,
    walk,
)


class _Dependent(Exception):
    """A turn uses what an earlier one made, or that cannot be told."""


class Loop:
    """The turns of one loop, and what each of them uses."""

    def __init__(
        self,
        targets: list[ast.expr],
        iterated: list[ast.expr],
        body: list[ast.AST],
        path: list[tuple[ast.stmt, list[ast.stmt]]],
    ) -> None:
        """`path` are the statements in the loop around the wait, as `path_to` has them."""
        self.items = set().union(*map(bound_by, targets))
        self.iterated = iterated
        self.body = body
        self.path = path
        nodes = [each for part in body for each in walk(part)]
        self.assigned = set().union(*map(bound_by, (each for each in body))) - self.items
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
        inner = [each for part in header_of(statement) for each in walk(part) if isinstance(each, COMPREHENSIONS)]
        waiting = [each for each in inner if covers(each, at) and comprehension_waits(each, gate)]
        if waiting:
            return cls._of_comprehension(waiting[-1], gate, imported)
        if any(isinstance(each, ast.GeneratorExp) and comprehension_waits(each, gate) for each in walk(statement)):
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
        return found._judge(waits_in(parts, gate), tests, gate, imported)

    def read(self, statement: ast.stmt, at: int, gate: str, imported: frozenset[str]) -> InTurn | Told:
        """Read the turn in which this statement waits."""
        if any(_leaves(each) for each in self.body):
            return Told.NOTHING
        if any(isinstance(each, ast.ExceptHandler) and covers(each, at) for part in self.body for each in walk(part)):
            return Told.NOTHING
        if gate == "end" and isinstance(statement, ast.With):
            waits: list[ast.AST] = [call for call in calls_in([statement]) if name_of(call.func) in STARTS]
        else:
            waits = [each for each in waits_in(header_of(statement), gate) if covers(each, at)]
        if isinstance(statement, ast.AsyncWith) and gate not in STARTED:
            waits = [*calls_in(header_of(statement))]
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
                if isinstance(each, ast.If) and any(isinstance(inner, ast.Continue) for inner in walk(each))
            ]
        return self._judge(waits, tests, gate, imported)

    def _is_used(self, statement: ast.stmt, waits: Sequence[ast.AST]) -> bool:
        """Whether the result of what is awaited in a statement is used in the loop, or kept."""
        if isinstance(statement, ast.Expr):
            return statement.value not in waits or self._is_started(statement.value)
        if isinstance(statement, ast.Assign) and all(isinstance(each, ast.Name) for each in statement.targets):
            names = {each.id for each in statement.targets if isinstance(each, ast.Name)}
            loads = (each for part in self.body for each in walk(part) if isinstance(each, ast.Name))
            return any(each.id in names and isinstance(each.ctx, ast.Load) for each in loads)
        return True

    def _is_started(self, wait: ast.AST) -> bool:
        """Whether a task of a pool, a thread or a process that this turn has started is what is awaited."""
        return starts_work(wait) or (isinstance(wait, ast.Await) and starts_work(self._made(wait.value)))

    def _for_effect(self, part: ast.AST, waits: Sequence[ast.AST]) -> bool:
        """Whether the turn awaits something for its effect, or paces itself."""
        for each in walk(part):
            bare = each.value if isinstance(each, ast.Expr) else None
            if isinstance(bare, ast.Await) and bare not in waits and not starts_work(bare):
                return True
            if isinstance(each, ast.AsyncWith) and any(item.optional_vars is None for item in each.items):
                return True
            name = name_of(each.func) if isinstance(each, ast.Call) else ""
            if PACES.search(name) and name not in PASS_ON and not (name == "wait" and any_starts(self.body)):
                return True
        return False

    def _judge(
        self, waits: Sequence[ast.AST], tests: Sequence[ast.expr], gate: str, imported: frozenset[str]
    ) -> InTurn | Told:
        calls = [call for each in waits if (call := self._call(each, gate)) is not None]
        if not calls or len(calls) != len(waits) or self._is_stream():
            return Told.NOTHING
        if gate not in STARTED and any(EFFECTS.search(name_of(call.func)) for call in calls if not starts_work(call)):
            return Told.NOTHING
        try:
            for call in calls:
                self.use(call, frozenset(), imported)
            shared = list(dict.fromkeys(self.shared))
            for test in tests:
                self.use(test, frozenset(), imported)
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
        if started and isinstance(node.func, ast.Attribute) and node.func.attr in COLLECTS:
            # What it waits for has to have been started in this turn.
            source = node.func.value
            if node.func.attr == "join" and (node.args or node.keywords):
                return None  # the thread is there to be given up
            if isinstance(source, ast.Name):
                source = self._value(source.id) or source
            return node if any_starts([source]) else None
        return node

    def _made(self, node: ast.AST) -> ast.AST:
        """Return what is passed on to be waited for: of a name, what this turn has given it."""
        names: set[str] = set()
        while True:
            if isinstance(node, ast.Call) and name_of(node.func) in PASS_ON and node.args:
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
            called = [part for call in calls_in([each]) for part in dotted(call.func).split(".")]
            if any(STREAMS.search(name) for name in (*called, last)) or UNDER_WAY.search(last):
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

    def use(self, node: ast.AST, seen: frozenset[str], imported: frozenset[str], *, function: bool = False) -> None:
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
        local = {name for each in walk(node) if isinstance(each, ast.comprehension) for name in bound_by(each.target)}
        for child in ast.iter_child_nodes(node):
            self.use(child, seen | local, imported)

    def _use_part(self, node: ast.Subscript, seen: frozenset[str], imported: frozenset[str], *, function: bool) -> None:
        """Note what a part of something uses: each turn another one, where it is chosen by what is the turn's own."""
        shared = len(self.shared)
        self.use(node.value, seen, imported, function=function)
        own = self.items | self.assigned
        if any(isinstance(each, ast.Name) and each.id in own for each in walk(node.slice)):
            del self.shared[shared:]
        self.use(node.slice, seen, imported)

    def _use_call(self, call: ast.Call, seen: frozenset[str], imported: frozenset[str]) -> None:
        name = name_of(call.func)
        starts = name in STARTS
        if isinstance(call.func, ast.Attribute):
            # The pool, or the loop, to which it is given does many things at once.
            self.use(call.func.value, seen, imported, function=starts)
        else:
            self.use(call.func, seen, imported, function=True)
        functions = STARTS.get(name, 0)
        for place, each in enumerate(call.args):
            self.use(each, seen, imported, function=place < functions)
        for keyword in call.keywords:
            self.use(keyword.value, seen, imported, function=keyword.arg in KEYWORD_FUNCTIONS)

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
            self.use(value, seen | {root}, imported, function=function)
            return
        self._unchanged_name(path)
        receiver, _, last = path.rpartition(".")
        if function and receiver:
            # `client.get` as a function that is passed on: it is the client that all turns share.
            path, last, function = receiver, receiver.rpartition(".")[2], False
        if not (function or root in imported or root[:1].isupper() or path.isupper() or VALUES.search(last)):
            self.shared.append(path)

    def _unchanged(self, node: ast.AST) -> None:
        """Raise _Dependent if a turn changes what the loop goes through."""
        for each in walk(node):
            if isinstance(each, ast.Name | ast.Attribute) and (path := dotted(each)):
                if path.partition(".")[0] in self.assigned - self.items:
                    raise _Dependent(path)
                self._unchanged_name(path)

    def _unchanged_name(self, path: str) -> None:
        for changed in self.changed:
            if path == changed or path.startswith(f"{changed}."):
                raise _Dependent(path)


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
            if starts_work(call):
                continue
            if isinstance(call.func, ast.Attribute) and (path := dotted(call.func.value)):
                yield path
            if name_of(call.func) not in HARMLESS:
                yield from (path for argument in call.args if (path := dotted(argument)))


def _gives(statement: ast.stmt, name: str, *, whole: bool) -> ast.expr | None:
    """Return the expression that a statement gives a name. Of one that is not over (`whole`), only a `with`."""
    if isinstance(statement, ast.With | ast.AsyncWith):
        for item in statement.items:
            if item.optional_vars is not None and name in bound_by(item.optional_vars):
                return item.context_expr
    if whole and isinstance(statement, ast.Assign) and any(name in bound_by(each) for each in statement.targets):
        return statement.value
    if whole and isinstance(statement, ast.AnnAssign) and name in bound_by(statement.target):
        return statement.value
    return None


def _leaves(node: ast.AST, *, inner: bool = False) -> bool:
    """Whether a part of a loop's turn may leave the loop, or gives something to what goes through it."""
    if isinstance(node, ast.Return | ast.Yield | ast.YieldFrom) or (isinstance(node, ast.Break) and not inner):
        return True
    inner = inner or isinstance(node, ast.For | ast.AsyncFor | ast.While)
    return any(_leaves(child, inner=inner) for child in ast.iter_child_nodes(node) if not isinstance(child, FUNCTIONS))
