"""What `poolscope run` is asked to run: found before anything starts, or refused in one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from typing import NamedTuple

from poolscope.errors import ProgramError


class Program(NamedTuple):
    """`argv` is what is started; `command` what the user wrote, for the report."""

    argv: tuple[str, ...]
    command: tuple[str, ...]


def script(path: str, arguments: Sequence[str]) -> Program:
    """As `python path`. Raises ProgramError if there is nothing to run at `path`."""
    if path != "-":  # standard input, as for python
        if not os.path.exists(path):
            raise ProgramError(f"there is no script {path}: check the path (a module is run with -m {path})")
        if not os.access(path, os.R_OK):
            raise ProgramError(f"the script {path} cannot be read: permission denied, check its mode")
        if os.path.isdir(path) and not _has_main(path):
            raise ProgramError(f"the directory {path} has no __main__.py: name the script in it")
    return Program((_interpreter(), path, *arguments), (path, *arguments))


def module(name: str, arguments: Sequence[str]) -> Program:
    """As `python -m name`. Raises ProgramError if there is surely no such module."""
    _check_module(name)
    return Program((_interpreter(), "-m", name, *arguments), ("-m", name, *arguments))


def code(text: str, arguments: Sequence[str]) -> Program:
    """As `python -c text`."""
    return Program((_interpreter(), "-c", text, *arguments), ("-c", text, *arguments))


def command(argv: Sequence[str]) -> Program:
    """Any command that starts Python. Whether there is one shows when it is started."""
    return Program(tuple(argv), tuple(argv))


def _interpreter() -> str:
    if not sys.executable:
        raise ProgramError("this Python does not know its own path: run your program with -- COMMAND")
    return sys.executable


def _has_main(path: str) -> bool:
    return any(os.path.exists(os.path.join(path, name)) for name in ("__main__.py", "__main__.pyc"))


def _check_module(name: str) -> None:
    """Look for the module without importing its packages, whose code must run in the program alone.

    Raises ProgramError if it is surely missing; doubtful cases are left to the interpreter.
    """
    parts = name.split(".")
    if not all(parts):
        raise ProgramError(f"{name!r} is no name of a module: write it as in an import statement")
    # As in the child: `python -m` puts the working directory first.
    here = [] if os.environ.get("PYTHONSAFEPATH") else [""]
    path: list[str] | None = [*here, *sys.path]
    for end in range(1, len(parts) + 1):
        part = ".".join(parts[:end])
        spec = _find(part, path or [])
        if spec is None:
            raise ProgramError(
                f"there is no module {part} for {sys.executable}: check the name, the working directory and PYTHONPATH"
            )
        if _decides_itself(spec):
            return
        path = _locations(spec, path or [])
        if path is None and end < len(parts):
            raise ProgramError(f"there is no module {name}: {part} is not a package, check the name")
    if path is not None and _find(f"{name}.__main__", path) is None:
        raise ProgramError(f"the package {name} has no __main__ module: name a module in it to run")


def _find(name: str, path: list[str]) -> ModuleSpec | None:
    """Return the spec of a module that is to be in `path`, by all finders of this interpreter."""
    top = "." not in name
    before = sys.path[:]
    if top:
        sys.path[:] = path  # some finders (editable installs) look there themselves
    try:
        for finder in sys.meta_path:
            spec = finder.find_spec(name, None if top else path)
            if spec is not None:
                return spec
    except (KeyError, ModuleNotFoundError):  # the latter from 3.15 on
        # A namespace package in a namespace package, whose spec wants the parent to be imported.
        return ModuleSpec(name, None, is_package=True)
    finally:
        sys.path[:] = before
    return None


def _locations(spec: ModuleSpec, path: list[str]) -> list[str] | None:
    """Return where the modules of a package are; None for a module that is not a package."""
    if spec.submodule_search_locations is None:
        return None
    if spec.origin is None:
        # A namespace package: asked for its locations, the spec would look for its parent among what is imported.
        folders = [os.path.join(entry, spec.name.rpartition(".")[2]) for entry in path]
        return [folder for folder in folders if os.path.isdir(folder)]
    return list(spec.submodule_search_locations)


def _decides_itself(spec: ModuleSpec) -> bool:
    """Whether the package may change where its modules are found when it is imported."""
    if spec.submodule_search_locations is None or not spec.origin or not spec.origin.endswith(".py"):
        return False
    try:
        with open(spec.origin, "rb") as file:
            return b"__path__" in file.read()
    except OSError:
        return True  # in an archive, for example
