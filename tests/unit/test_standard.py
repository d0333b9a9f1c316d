"""Modules of the standard library are found whatever the program has under their names, and left to it."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from poolscope.probe.interpreter import standard

NAMES = ("_socket", "array", "fcntl", "fnmatch", "resource")


def again() -> ModuleType:
    """The module as it is in a process that imports it now."""
    spec = importlib.util.spec_from_file_location("standard_again", standard.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def shadowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules of the program's with the names of the standard library's: one that has run says so in `sys.modules`."""
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(f"import sys\nsys.modules[__name__ + '_ran'] = {name!r}\n")
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.delitem(sys.modules, f"{name}_ran", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in NAMES:
        sys.modules.pop(f"{name}_ran", None)


def test_what_is_there_already_is_taken() -> None:
    for name in ("sys", "os", "re", "threading"):
        assert standard.standard(name) is sys.modules[name]


def test_past_the_programs_folder(shadowed: None) -> None:
    fresh = again()
    for name in NAMES:
        module = fresh.standard(name)
        assert getattr(module.__spec__, "origin", None) != str(Path(sys.path[0]) / f"{name}.py")
        assert name not in sys.modules
        assert f"{name}_ran" not in sys.modules
        assert fresh.standard(name) is module
    assert fresh.standard("array").array("q", [1]).tolist() == [1]
    assert fresh.standard("fnmatch").fnmatchcase("pool-7", "pool-*")


def test_the_programs_own_is_not_taken_for_it(shadowed: None) -> None:
    import fnmatch

    ran: Any = sys.modules["fnmatch_ran"]
    assert ran == "fnmatch"
    assert not hasattr(fnmatch, "fnmatchcase")
    assert again().standard("fnmatch").fnmatchcase("a", "a")
    assert sys.modules["fnmatch"] is fnmatch


def test_where_the_interpreter_has_looked_into_no_folder_yet(shadowed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that starts: nothing that it has imported by then need be compiled."""
    monkeypatch.setattr(sys, "path_importer_cache", {})
    fresh = again()
    for name in NAMES:
        fresh.standard(name)


def test_a_name_that_nothing_has() -> None:
    with pytest.raises(ImportError, match="no module no_such_module in the standard library"):
        standard.standard("no_such_module")
    with pytest.raises(ImportError):
        standard.standard("pytest")
