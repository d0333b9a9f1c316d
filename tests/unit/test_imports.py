import importlib
import importlib.util
import pickle
import sys
import zipfile
from importlib.machinery import BuiltinImporter

import pytest

from poolscope.probe.imports import ImportWatch


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
    spec = importlib.util.find_spec("watched_one")
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
    spec = importlib.util.find_spec("watched_one")
    assert spec.origin.endswith("watched_one.py")
    assert calls == []
    copy = pickle.loads(pickle.dumps(spec))
    module = importlib.util.module_from_spec(copy)
    copy.loader.exec_module(module)
    assert module.value == 1
    assert calls == []


def test_a_module_that_fails(library, watch):
    finder, calls = watch("watched_broken")
    with pytest.raises(ValueError, match="in the module"):
        import watched_broken
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
            return importlib.util.spec_from_loader(name, Loader()) if name == "watched_odd" else None

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
