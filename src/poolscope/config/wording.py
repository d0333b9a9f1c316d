"""How keys and values are put into the one line of an error."""

from __future__ import annotations

from collections.abc import Mapping

from poolscope.plain import escaped

#: Characters of a text that are shown.
_LONGEST = 200


def joined(path: str, key: object) -> str:
    """Return the path of a key below a path."""
    return f"{path}.{key}" if path else str(key)


def one_line(text: str) -> str:
    """Printable text on one line: a file's name or a key can hold anything."""
    safe = escaped(text[:_LONGEST])
    return safe if len(text) <= _LONGEST else f"{safe}..."


def shown(value: object) -> str:
    """Return a value for an error: short, on one line, and cheap even for a list that contains itself."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return repr(value) if len(value) <= 60 else f"{value[:60]!r}..."
    if isinstance(value, Mapping):
        return "keys with values"
    if isinstance(value, (list, tuple)):
        return "an empty list" if not value else f"a list of {len(value)}"
    if isinstance(value, float) or (isinstance(value, int) and abs(value) < 10**20):
        return repr(value)
    return "a huge number" if isinstance(value, int) else f"a {type(value).__name__}"
