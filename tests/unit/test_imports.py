import importlib
import importlib.util
import pickle
import subprocess
import sys
import traceback
import zipfile
from importlib.machinery import BuiltinImporter
from typing import Any, cast

import pytest

from poolscope.probe.interpreter import imports
from poolscope.probe.interpreter.imports import ImportWatch


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Modules that can be imported, and are forgotten after the test."""
    directory = tmp_path / "library"
    directory.mkdir()
    (directory / "watched_one.py").write_text("value = 1\nseen = dict(vars(__loader__)).keys()\n")
    (directory / "watched_two.py").write_text("import watched_one\nvalue = 2\n")
    (directory / "watched_broken.py").write_text("raise ValueError('in the module')\n")
    (directory / "watched_package").mkdir()
    (directory / "watched_package" / "__init__.py").write_text("from watched_package import inner\n")
    (directory / "watched_package" / "inner.py").write_text("value = 3\n")
    (directory / "watched_namespace").mkdir()
    (directory / "watched_namespace" / "inner.py").write_text("value = 4\n")
    monkeypatch.syspath_prepend(directory)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield directory
    for name in list(sys.modules):
        if name.startswith("watched_"):
            del sys.modules[name]


@pytest.fixture
def watch():
    watches = []

    def make(*names):
        calls = []
        made = ImportWatch(names, lambda name: calls.append((name, vars(sys.modules[name]).get("value"))))
        watches.append(made)
        made.start()
        return made, calls

    yield make
    for made in watches:
        made.stop()


def test_hears_of_a_module_that_has_run(library, watch):
    finder, calls = watch("watched_one", "watched_two")
    import watched_two

    assert calls == [("watched_one", 1), ("watched_two", 2)]
    assert watched_two.value == 2
    assert finder not in sys.meta_path


def test_stays_until_all_were_seen(library, watch):
    finder, calls = watch("watched_one", "watched_never")
    import watched_one

    assert finder in sys.meta_path
    assert calls == [("watched_one", 1)]
    # A tool that imports it anew gives us a new module to hear of.
    importlib.reload(watched_one)
    assert len(calls) == 2
    finder.stop()
    finder.stop()
    assert finder not in sys.meta_path
    assert importlib.reload(watched_one) is watched_one
    assert len(calls) == 2


def test_leaves_no_trace_in_the_module(library, watch):
    watch("watched_one", "watched_never")
    import watched_one

    loader = watched_one.__loader__
    assert watched_one.__spec__.loader is loader
    assert type(loader) is importlib.machinery.SourceFileLoader
    assert "exec_module" not in vars(loader)
    # Not even for the module while it runs.
    assert "exec_module" not in watched_one.seen
    assert watched_one.__spec__ == importlib.util.spec_from_file_location("watched_one", watched_one.__file__)


def test_stopped_between_the_find_and_the_run(library, watch):
    finder, calls = watch("watched_one")
    spec: Any = importlib.util.find_spec("watched_one")
    finder.stop()
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.value == 1
    assert calls == []
    assert "exec_module" not in vars(spec.loader)


def test_stopped_in_the_midst_of_an_import_that_it_is_still_to_hear_of(library):
    calls = []

    def imported(name):
        calls.append(name)
        if name == "watched_one":
            finder.stop(["watched_two"])

    finder = ImportWatch(["watched_one", "watched_two"], imported)
    finder.start()
    import watched_two  # which imports the other one first

    assert calls == ["watched_one", "watched_two"]
    assert finder not in sys.meta_path
    importlib.reload(watched_two)
    assert calls == ["watched_one", "watched_two"]


def test_a_spec_that_is_only_looked_up(library, watch):
    _, calls = watch("watched_one")
    spec: Any = importlib.util.find_spec("watched_one")
    assert spec.origin.endswith("watched_one.py")
    assert calls == []
    copy = pickle.loads(pickle.dumps(spec))
    module = importlib.util.module_from_spec(copy)
    copy.loader.exec_module(module)
    assert module.value == 1
    assert calls == []


def test_a_module_that_fails(library, watch):
    finder, calls = watch("watched_broken")
    with pytest.raises(ValueError, match="in the module") as caught:
        import watched_broken
    # As without us.
    files = [frame.filename for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert files == [__file__, str(library / "watched_broken.py")]
    assert "watched_broken" not in sys.modules
    assert calls == []
    assert finder in sys.meta_path
    (library / "watched_broken.py").write_text("value = 5\n")
    importlib.invalidate_caches()
    import watched_broken

    assert calls == [("watched_broken", watched_broken.value)]


def test_packages(library, watch):
    _, calls = watch("watched_package", "watched_package.inner")
    import watched_package

    assert [name for name, _ in calls] == ["watched_package.inner", "watched_package"]
    assert watched_package.inner.value == 3


def test_a_namespace_package_is_imported_all_the_same(library, watch):
    watch("watched_namespace")
    from watched_namespace import inner

    assert inner.value == 4


def test_a_module_that_does_not_exist(library, watch):
    watch("watched_absent")
    assert importlib.util.find_spec("watched_absent") is None
    with pytest.raises(ModuleNotFoundError, match="watched_absent"):
        importlib.import_module("watched_absent")


def test_a_loader_of_several_modules(tmp_path, library, watch, monkeypatch):
    archive = tmp_path / "archive.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("watched_zip_a.py", "import watched_zip_b, watched_zip_c\nvalue = 1\n")
        file.writestr("watched_zip_b.py", "value = 2\n")
        file.writestr("watched_zip_c.py", "value = 3\n")
    monkeypatch.syspath_prepend(archive)
    _, calls = watch("watched_zip_a", "watched_zip_c")
    import watched_zip_a

    assert calls == [("watched_zip_c", 3), ("watched_zip_a", 1)]
    assert watched_zip_a.watched_zip_b.value == 2
    assert "exec_module" not in vars(watched_zip_a.__loader__)


def test_finders_in_front_of_ours_keep_their_say(library, watch):
    _, calls = watch("watched_one")

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "watched_one":
                return importlib.util.spec_from_file_location(name, library / "watched_package" / "inner.py")
            return None

    sys.meta_path.insert(0, Finder)
    try:
        import watched_one
    finally:
        sys.meta_path.remove(Finder)
    assert watched_one.value == 3
    assert calls == []


def test_a_loader_without_attributes_is_left_alone(library, watch):
    class Loader:
        __slots__ = ()

        def create_module(self, spec):
            return None

        def exec_module(self, module):
            module.value = 6

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            return importlib.util.spec_from_loader(name, cast(Any, Loader())) if name == "watched_odd" else None

    watch("watched_odd", "sys")
    sys.meta_path.append(Finder)
    try:
        import watched_odd
    finally:
        sys.meta_path.remove(Finder)
    assert watched_odd.value == 6
    # A class serves as the loader of builtin modules: hooking that would hook them all.
    importlib.util.find_spec("sys")
    assert not hasattr(vars(BuiltinImporter)["exec_module"], "covers")


needs_lazy_imports = pytest.mark.skipif(not hasattr(sys, "lazy_modules"), reason="from 3.15 on imports may be lazy")


@needs_lazy_imports
def test_a_lazy_import_is_heard_of_when_the_module_runs(library, watch):
    finder, calls = watch("watched_one", "watched_two")
    (library / "watched_lazy.py").write_text("lazy import watched_one\nlazy from watched_two import value\n")
    import watched_lazy

    assert calls == []
    assert finder in sys.meta_path
    assert watched_lazy.watched_one.value == 1
    assert calls == [("watched_one", 1)]
    assert watched_lazy.value == 2
    assert calls == [("watched_one", 1), ("watched_two", 2)]
    assert finder not in sys.meta_path


def lazily_loaded(name):
    spec: Any = importlib.util.find_spec(name)
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_a_module_of_a_lazy_loader_is_heard_of_when_it_runs(library, watch):
    _, calls = watch("watched_one")
    module = lazily_loaded("watched_one")
    assert calls == []
    assert imports.imported("watched_one") is None
    assert not imports.in_flight(module)
    assert calls == []
    assert module.value == 1
    assert calls == [("watched_one", 1)]
    assert imports.imported("watched_one") is module


def test_what_is_imported(library):
    assert imports.imported("watched_one") is None
    import watched_one

    assert imports.imported("watched_one") is watched_one
    assert not imports.in_flight(watched_one)
    assert not imports.in_flight(None)
    assert not imports.in_flight(object())


@needs_lazy_imports
def test_where_all_imports_are_lazy_ours_are_bound_before_the_program_goes_on(tmp_path):
    program = """if True:
        import sys
        from poolscope.probe.startup.install import install
        import asyncio.base_events, concurrent.futures.thread, json
        asyncio.base_events, concurrent.futures.thread

        def unbound(module):
            return [name for name, value in list(vars(module).items()) if type(value).__name__ == "lazy_import"]

        with install():
            ours = [name for name in list(sys.modules) if name.startswith("poolscope.probe.")]
            assert "poolscope.probe.loops.monitor" in ours, ours
            assert not [name for name in ours if unbound(sys.modules[name])]
        print(unbound(sys.modules["__main__"]), "json" in sys.modules)
        """
    ended = subprocess.run(
        [sys.executable, "-X", "lazy_imports=all", "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ended.stdout, ended.stderr) == ("['json'] False\n", "")
