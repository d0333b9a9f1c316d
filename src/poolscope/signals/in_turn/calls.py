"""What the names of calls and values say: which calls start something, wait, change something or only pass on."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

from poolscope.signals.in_turn.syntax import calls_in, name_of, walk

#: What is waited for, where the turn itself has started it: it need not be a call whose result is used.
STARTED = ("future", "thread", "process", "batch", "end")
#: A thread that runs a coroutine to its end.
RUN = "run"
#: What threads wait for: they have no `await`.
_OF_THREADS = (*STARTED, RUN)
#: Calls that start what is waited for, and how many of their first arguments are no items (functions, pools).
STARTS = {
    "submit": 1, "apply": 1, "apply_async": 1, "to_thread": 1, "run_in_executor": 2, "run_sync": 1, "Thread": 0,
    "Process": 0, "partial": 1, "map": 1, "map_async": 1, "starmap": 1, "imap": 1, "imap_unordered": 1,
    "ThreadPoolExecutor": 0, "ProcessPoolExecutor": 0, "Pool": 0, "ThreadPool": 0,
}  # fmt: skip
#: Methods of what was started before: where nothing else starts it, the loop only collects.
COLLECTS = {"result", "exception", "join", "get", "wait"}
#: Functions that only pass on what they are given to wait for.
PASS_ON = {"wait_for", "shield", "ensure_future", "create_task", "run", "run_until_complete"}
#: Keywords of what is a function, and no item.
KEYWORD_FUNCTIONS = {"target", "func", "fn", "function", "initializer", "key", "callback"}
#: Calls that change nothing of what they are given.
HARMLESS = {
    "print", "len", "str", "int", "float", "bool", "repr", "list", "tuple", "set", "dict", "sorted", "sum", "min",
    "max", "range", "enumerate", "zip", "reversed", "isinstance", "abs", "round", "any", "all", "format", "type",
    "hash", "Path", "join", "info", "debug", "warning", "error", "exception", "log", "update_progress",
}  # fmt: skip
#: Calls that wait on purpose, or for a turn.
PACES = re.compile(r"(^|_)(sleep|acquire|wait|throttle|limit|limiter|pause|tick|heartbeat|barrier)(_|$)", re.I)
#: Calls that change something elsewhere: their order may matter.
EFFECTS = re.compile(
    r"(^|_)(write|writelines|send|sendall|put|post|patch|insert|update|upsert|delete|save|commit|append|push|publish"
    r"|execute|executemany|add|remove|move|rename|ack|set|store|emit|produce|apply|migrate|step|next|advance|login|train|fit|play)"
    r"(_|$)", re.I,
)  # fmt: skip
#: What gives one item after the other as they come, or without an end.
STREAMS = re.compile(
    r"(^|_)(count|cycle|repeat|iter|consumer|stream|queue|events?|messages|stdin|stdout|sock|socket|subscription"
    r"|listener|feed|watch|poll|listen|reader|response|pubsub|cursor|ticker|clock|paginator|pages|paginate|tail)(_|$)",
    re.I,
)  # fmt: skip
#: What was started before, by its name.
UNDER_WAY = re.compile(r"(^|_)(tasks?|futures?|futs?|threads?|workers?|jobs|pending|coros|coroutines|procs|processes)$")
#: Plain values, by their names.
VALUES = re.compile(
    r"(^|_)(host|port|address|addr|url|uri|base|path|root|folder|directory|dir|prefix|suffix|name|id|key|token|user"
    r"|password|timeout|seconds|delay|size|width|height|count|limit|number|n|k|year|month|day|date|start|stop|end|since"
    r"|until|mode|format|fmt|encoding|headers|params|query|lang|language|version|verbose|debug|options|opts|args"
    r"|config|settings|threshold|scale|ratio|level|quality|kind|model_name|run|wait|duration)(_|s$|$)", re.I,
)  # fmt: skip


def starts_work(node: ast.AST) -> bool:
    """Whether a call, or what awaits it, starts a task of a pool, a thread or a process."""
    return any(name_of(call.func) in STARTS for call in calls_in([node]))


def any_starts(nodes: Sequence[ast.AST]) -> bool:
    """Whether one of these starts a task of a pool, a thread or a process."""
    return any(starts_work(node) for node in nodes)


def waits_in(parts: Sequence[ast.AST], gate: str) -> list[ast.AST]:
    """Return what waits in these expressions: what is awaited, or calls of a thread that waits."""
    nodes = [each for part in parts for each in walk(part)]
    if gate not in _OF_THREADS or any(isinstance(each, ast.Await) for each in nodes):
        return [each for each in nodes if isinstance(each, ast.Await)]
    calls = calls_in(parts)
    collecting = [call for call in calls if name_of(call.func) in (*COLLECTS, *PASS_ON)]
    if collecting:
        return [collecting[0]]
    # The innermost is called first.
    innermost = [call for call in calls if not calls_in([*call.args, *(each.value for each in call.keywords)])]
    return [*innermost[-1:]]


def comprehension_waits(node: ast.AST, gate: str) -> bool:
    """Whether each turn of a comprehension or generator waits."""
    parts: list[ast.AST] = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]  # type: ignore[attr-defined]
    return bool(waits_in(parts, gate))
