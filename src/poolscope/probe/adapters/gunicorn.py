"""gunicorn's threaded workers: their pool runs `ThreadWorker.handle(connection)`, and a task goes by the name of the
application.

A task is not a request: it is one turn that a thread takes at a connection, which may be a wait of up to 5 s for the
first request, and under HTTP/2 lasts as long as the connection. The pool is a standard executor, recorded like any
other; nothing is replaced here.
"""

from __future__ import annotations

from poolscope.probe.adapters import look_through

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def meet(probe: Any, module: str) -> None:
    """Look through what `gunicorn.workers.gthread` hands to the pool of a worker."""
    look_through(probe, "gunicorn", module, {"ThreadWorker.handle": (("self", "conn"), _application)})


def _application(args: tuple[Any, ...], _: dict[str, Any]) -> Any:
    # Loaded after the pool was made, and before the first connection is accepted.
    return vars(args[0])["wsgi"]
