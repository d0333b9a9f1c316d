"""Pools that libraries bring: one small file for each, patched only when the library is imported."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What the log has heard of. Single set operations only: any thread may ask.
_logged: set[str] = set()


def unfamiliar(probe: Any, library: str, why: str) -> None:
    """Tells that a library is not as its adapter expects it: one line in the report's notices, and one in the log
    unless a parent reports. Never raises.

    `library` is the name it is installed by, `why` what follows from that, and what was missing: "its threads are not
    watched: no AsyncIOBackend.run_sync_in_worker_thread(func, args)".
    """
    try:
        text = f"{library} {_version(library)}: {why}"
        probe.notice(text)
        if not probe.supervised and text not in _logged:
            _logged.add(text)
            import logging

            logging.getLogger("poolscope").warning(text)
    except Exception as exc:
        probe.fail("install", exc)


def _version(library: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "(unknown version)"
