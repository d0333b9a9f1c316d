"""Modules of the standard library, even if the program has files of the same names.

A program's folder comes first on `sys.path`, so an import of ours would run its `array.py`. Most modules that the probe
needs were imported before any program, or come with the pools and loops that it watches. The few others are loaded here
from the folder of the standard library, and kept here: the program's own import of such a name is as without us.

Works for modules written in C, and for those that only import what is loaded already.
"""

from __future__ import annotations

import os
import sys
from _frozen_importlib import BuiltinImporter, FrozenImporter, module_from_spec
from _frozen_importlib_external import PathFinder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from typing import Any


def _folders() -> list[str]:
    library = os.path.dirname(os.__file__)
    name = os.path.basename(library)
    compiled = (
        os.path.join(library, "lib-dynload"),
        os.path.join(sys.base_exec_prefix, sys.platlibdir, name, "lib-dynload"),
        os.path.join(sys.base_exec_prefix, "DLLs"),
    )
    # Only those that the interpreter uses itself. It may have looked into none of them yet.
    used = {*sys.path, *sys.path_importer_cache}
    return [library, *dict.fromkeys(folder for folder in compiled if folder in used)]


# As they are when the first module of ours is imported. Single dict operations only: any thread may ask.
_where = _folders()
_kept: dict[str, Any] = {}


def standard(name: str) -> Any:
    """Return the module of this name. Raises ImportError if there is none."""
    module = sys.modules.get(name)
    if module is not None and _is_standard(getattr(module, "__spec__", None)):
        return module
    module = _kept.get(name)
    if module is None:
        spec = _spec(name)
        if spec is None or spec.loader is None:
            raise ImportError(f"no module {name} in the standard library", name=name)
        present = name in sys.modules
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        # Those written in C that are made in one step, as some of 3.11 are, put themselves there.
        if not present and sys.modules.get(name) is module:
            sys.modules.pop(name, None)
        module = _kept.setdefault(name, module)
    return module


def _spec(name: str) -> ModuleSpec | None:
    for finder in (BuiltinImporter, FrozenImporter):
        found = finder.find_spec(name)
        if found is not None:
            return found
    return PathFinder.find_spec(name, _where)


def found_first(name: str) -> bool:
    """Whether an import of this name finds the standard library's module, not one of the program's."""
    module = sys.modules.get(name)
    if module is not None:
        return _is_standard(getattr(module, "__spec__", None))
    if BuiltinImporter.find_spec(name) is not None or FrozenImporter.find_spec(name) is not None:
        return True
    spec = PathFinder.find_spec(name)
    return spec is None or _is_from_there(spec)


def _is_standard(spec: Any) -> bool:
    if getattr(spec, "_initializing", True):  # another thread is importing it, or it is no module
        return False
    return _is_from_there(spec)


def _is_from_there(spec: Any) -> bool:
    origin = getattr(spec, "origin", None)
    if not isinstance(origin, str):
        return False
    folder = os.path.dirname(origin)
    if spec.submodule_search_locations is not None:  # a package
        folder = os.path.dirname(folder)
    return origin in ("built-in", "frozen") or folder in _where
