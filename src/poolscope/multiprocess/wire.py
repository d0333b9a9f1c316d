"""What peers send each other, at their sockets and in the files of their directory: msgpack."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from poolscope.model import storable
from poolscope.snapshot import Snapshot

#: Messages of peers of another version are dropped.
VERSION = 1

#: The most bytes of a file or an answer that are believed.
MAX_BYTES = 1 << 26

_Content = TypeVar("_Content", "Told", "Dead")


class Told(msgspec.Struct, frozen=True, array_like=True):
    """The counts of a peer. `bounds` stand for its wait and run buckets, `family` as `processes.family` says."""

    version: int
    family: str
    bounds: tuple[int, int]
    snapshot: Snapshot


class Dead(msgspec.Struct, frozen=True, array_like=True):
    """The totals of the dead. `included` are those whose files may be there still."""

    version: int
    family: str
    bounds: tuple[int, int]
    included: tuple[str, ...]
    snapshot: Snapshot


def encoded(value: Told | Dead) -> bytes:
    """As msgpack."""
    try:
        return msgspec.msgpack.encode(value)
    except UnicodeEncodeError:  # names with lone surrogates
        return msgspec.msgpack.encode(storable(msgspec.to_builtins(value)))


def decoded(data: bytes | None, kind: type[_Content]) -> _Content | None:
    """Return what `encoded` made; None for nothing, and for what another version made."""
    if data is None:
        return None
    try:
        value = msgspec.msgpack.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return value if value.version == VERSION else None
