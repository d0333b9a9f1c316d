"""What is patched where: the families of pools and event loops, and the modules with which they come.

No imports: a watched process reads this as it starts, and most never have a pool.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    #: Family -> our module with `patch(probe)` and `unpatch()`, and the modules that it patches. Each of those
    #: is enough: `patch` is called when the first is imported, and again with each that follows.
    Families = dict[str, tuple[str, tuple[str, ...]]]

POOLS: Families = {
    "threads": ("poolscope.probe.pools.threadpool", ("concurrent.futures.thread",)),
    "processes": ("poolscope.probe.pools.processpool", ("concurrent.futures.process",)),
    "multiprocessing": ("poolscope.probe.pools.multiprocessing_pool", ("multiprocessing.pool",)),
    "s3transfer": ("poolscope.probe.adapters.s3transfer", ("s3transfer.futures", "s3transfer.manager")),
    "waitress": ("poolscope.probe.adapters.waitress", ("waitress.task",)),
    "anyio": ("poolscope.probe.adapters.anyio", ("anyio._backends._asyncio", "anyio._backends._trio")),
    # The package comes first: its module makes an executor as it is imported.
    "asgiref": ("poolscope.probe.adapters.asgiref", ("asgiref", "asgiref.sync")),
}

LOOPS: Families = {
    "loops": ("poolscope.probe.loops.patch", ("asyncio.base_events", "uvloop")),
}

#: Module of a library with what stands around its users' functions -> our module with `meet(probe, module)`, which says
#: how to look through. Called when the first task of such a module is named, so nothing is awaited for it.
WRAPPING = {
    "apscheduler.executors.base": "poolscope.probe.adapters.apscheduler",
    "celery.concurrency.base": "poolscope.probe.adapters.celery",
    "grpc._server": "poolscope.probe.adapters.grpc",
    "gunicorn.workers.gthread": "poolscope.probe.adapters.gunicorn",
    "joblib._utils": "poolscope.probe.adapters.joblib",
    "joblib.parallel": "poolscope.probe.adapters.joblib",
}

#: Without one of these modules there is neither a pool nor a loop.
MODULES = tuple(module for _, modules in (*POOLS.values(), *LOOPS.values()) for module in modules)
