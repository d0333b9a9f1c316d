"""Whether threads run Python code one at a time. A file of its own: each watched process loads it as it starts."""

from __future__ import annotations

import sys


def gil_enabled() -> bool:
    """Whether the GIL is on. Only free-threaded builds can turn it off, and only they and newer ones can tell."""
    enabled: bool = getattr(sys, "_is_gil_enabled", lambda: True)()
    return enabled
