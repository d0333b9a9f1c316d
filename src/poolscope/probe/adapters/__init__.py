"""Libraries that bring pools, or run their users' functions in pools: one small file for each.

Some are patched, when they are imported (`families.POOLS`); of some it is only known what they put around their users'
functions (`families.WRAPPING`).
"""

from __future__ import annotations

import sys

from poolscope.probe.families import WRAPPING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    from poolscope.probe.pools.names import Wrapper
    from poolscope.probe.pools.patching import Patch

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


def fresh_modules(
    state: Patch, library: str, otherwise: str, modules: Mapping[str, str], missing: Callable[[str, Any], str | None]
) -> Iterator[tuple[str, Any]]:
    """Those modules of a library that are imported and not patched by `state` yet, by name. They count as patched
    from here on.

    `modules` gives what each defines last of what we need. `missing(name, module)` says what one has not of that:
    then it is left alone, and the probe hears of it and of what follows, `otherwise`.
    """
    for name, defines in modules.items():
        module: Any = sys.modules.get(name)
        if module is None or module in state.modules:
            continue
        if not hasattr(module, defines) and getattr(module.__spec__, "_initializing", False):
            continue  # another thread is in the midst of importing it, and we hear of its end
        lacks = missing(name, module)
        if lacks:
            unfamiliar(state.probe, library, f"{otherwise}: no {lacks} in {name}")
            continue
        state.modules.append(module)
        yield name, module


def meet(probe: Any, module: str) -> None:
    """A function or class of this module is met as a task for the first time: if it is a library's that stands around
    its users' functions, its adapter says how to look through (see `pools.names`). Never raises.
    """
    ours = WRAPPING.get(module)
    if ours is not None:
        try:
            # Imported here: most programs have no such library.
            __import__(ours, fromlist=["meet"]).meet(probe, module)
        except Exception as exc:
            probe.fail("names", exc)


def look_through(
    probe: Any, library: str, module: str, wrappers: Mapping[str, tuple[tuple[str, ...], Wrapper]]
) -> None:
    """Has tasks of a module named after what is inside: name of a wrapper -> its first parameters, and what it calls.

    If one is not there as expected, the probe hears of it (see `unfamiliar`), and its tasks keep its name.
    """
    from poolscope.probe.pools import names

    for name, (parameters, wrapper) in wrappers.items():
        found: Any = sys.modules.get(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        if isinstance(found, type):
            found = found.__dict__.get("__init__")
        code = getattr(found, "__code__", None)
        if code is not None and code.co_varnames[: len(parameters)] == parameters:
            names.WRAPPERS[f"{module}.{name}"] = wrapper
        else:
            wanted = f"{name}({', '.join(parameters)})"
            unfamiliar(probe, library, f"its tasks are not named after your functions: no {wanted} in {module}")


def _version(library: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "(unknown version)"
