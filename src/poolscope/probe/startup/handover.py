"""What the parent hands to each process of the program, in one variable of the environment.

The text is `HEX:PATH`: plain values in the oldest format of `marshal` that all interpreters read, then the path of the
parent's socket. `marshal` is built in: to read it imports nothing, neither the milliseconds of `json` nor a module of
that name that lies beside the program.
"""

from __future__ import annotations

import marshal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VARIABLE = "POOLSCOPE_RUN"

#: Written and read alike by every CPython 3.
_FORMAT = 2


def pack(socket: str, settings: dict[str, Any], served: tuple[str, int, str] | None) -> str:
    """Return the variable's value: the parent's socket, the probe's settings (plain values), and host, port and URL of
    the parent's endpoint, if it has one."""
    return marshal.dumps((settings, served), _FORMAT).hex() + ":" + socket


def unpack(text: str) -> tuple[str, dict[str, Any], tuple[str, int, str] | None]:
    """Return what `pack` was given. Raises ValueError, EOFError or TypeError for another text."""
    values, separator, socket = text.partition(":")
    if not separator:
        raise ValueError("no path of a socket")
    settings, served = marshal.loads(bytes.fromhex(values))
    return socket, settings, served
