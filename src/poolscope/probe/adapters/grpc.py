"""gRPC servers: their pools run `_unary_response_in_pool` or `_stream_response_in_pool`, in the context of the
call, and a task goes by the name of the servicer's method in it.

The pool is the executor that the program gives to `grpc.server`, recorded like any other; nothing is replaced here.
"""

from __future__ import annotations

from poolscope.probe.adapters import look_through

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def meet(probe: Any, module: str) -> None:
    """Look through what `grpc._server` hands to the pool of a server."""
    for name in ("_unary_response_in_pool", "_stream_response_in_pool"):
        look_through(probe, "grpcio", module, {name: (("rpc_event", "state", "behavior"), _behavior)})


def _behavior(args: tuple[Any, ...], _: dict[str, Any]) -> Any:
    return args[2]
