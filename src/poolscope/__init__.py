"""Says why an asynchronous Python program turned serial: which pool or event loop, since when, where, and what to do.

Importing this does nothing and starts nothing: each name is loaded when it is first used.
"""

from __future__ import annotations

from poolscope.probe.api import registered

__version__ = "0.2.0"

#: Public name -> module it lives in.
_HOMES = {
    "ThreadPoolExecutor": "executors.threads",
    "ProcessPoolExecutor": "executors.processes",
    "attach": "probe.startup.attach",
    "Installation": "probe.startup.install",
    "install": "probe.startup.install",
    "Profile": "profiler",
    "collector": "profiler",
    "findings": "profiler",
    "on_finding": "profiler",
    "profile": "profiler",
    "report": "profiler",
    "serve": "profiler",
    "Finding": "model",
    "Report": "model",
    "PoolscopeError": "errors",
    "load_ipython_extension": "notebook",
    "unload_ipython_extension": "notebook",
    "html_of": "rendering.inline",
    "text_of": "rendering.inline",
}

__all__ = [
    "Finding",
    "Installation",
    "PoolscopeError",
    "ProcessPoolExecutor",
    "Profile",
    "Report",
    "ThreadPoolExecutor",
    "__version__",
    "attach",
    "collector",
    "findings",
    "install",
    "on_finding",
    "profile",
    "report",
    "serve",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from poolscope.errors import PoolscopeError as PoolscopeError
    from poolscope.executors.processes import ProcessPoolExecutor as ProcessPoolExecutor
    from poolscope.executors.threads import ThreadPoolExecutor as ThreadPoolExecutor
    from poolscope.model import Finding as Finding
    from poolscope.model import Report as Report
    from poolscope.probe.startup.attach import attach as attach
    from poolscope.probe.startup.install import Installation as Installation
    from poolscope.probe.startup.install import install as install
    from poolscope.profiler import Profile as Profile
    from poolscope.profiler import collector as collector
    from poolscope.profiler import findings as findings
    from poolscope.profiler import on_finding as on_finding
    from poolscope.profiler import profile as profile
    from poolscope.profiler import report as report
    from poolscope.profiler import serve as serve


def _local_engine(probe: Any) -> None:
    # Imported late: under a parent the probe does with the standard library.
    from poolscope.profiler import local_sink

    local_sink(probe)


registered.local_engine = _local_engine


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'poolscope' has no attribute {name!r}")
    import importlib

    value: object = getattr(importlib.import_module(f"poolscope.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
