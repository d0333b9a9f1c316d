"""What all messages have in common."""

from __future__ import annotations

import msgspec

PROTOCOL = 4
#: What is understood: a probe of protocol 3 establishes the cause of a loop's block itself.
UNDERSTOOD = (3, PROTOCOL)
#: A line of code as (file, line, function).
Line = tuple[str, int, str]


class BaseMessage(msgspec.Struct, frozen=True, array_like=True):
    """Comes as a plain tuple: its tag, then its fields in order."""
