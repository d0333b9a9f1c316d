"""Runs first in each Python process under `poolscope run`, whose PYTHONPATH leads here.

Whatever interpreter that is: this must parse, start nothing it cannot, fail silently, and leave the process
as it would have been without it.
"""

import os
import sys


def _start():
    if sys.version_info < (3, 11) or "POOLSCOPE_RUN" not in os.environ:
        return
    if "poolscope" not in sys.modules:
        # By path, and not by a longer sys.path: the program may live in another environment than poolscope,
        # and must find none of our neighbours. The frozen modules are what importlib.util hands out, without
        # the milliseconds of importing that.
        from _frozen_importlib import module_from_spec
        from _frozen_importlib_external import spec_from_file_location

        package = os.path.dirname(os.path.dirname(_here))
        spec = spec_from_file_location(
            "poolscope", os.path.join(package, "__init__.py"), submodule_search_locations=[package]
        )
        module = module_from_spec(spec)
        sys.modules["poolscope"] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules["poolscope"]
            raise
    from poolscope.probe.bootstrap import start

    start()


_here = os.path.dirname(os.path.abspath(__file__))
# The environment keeps us, for the processes that this one starts.
sys.path[:] = [entry for entry in sys.path if entry != _here]
sys.path_importer_cache.pop(_here, None)
try:
    _start()
except Exception:
    pass  # whatever fails of ours, the program starts as without us

# Now the one that would have run without us. If there is none, the ImportError below is what `site` expects,
# and leaves no trace of this module.
_self = sys.modules.pop("sitecustomize", None)  # held: old interpreters empty a module that nobody holds
import sitecustomize  # noqa: E402, F401
