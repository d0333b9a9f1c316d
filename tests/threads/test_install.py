import asyncio
import asyncio.base_events
import concurrent.futures.process
import concurrent.futures.thread
import gc
import multiprocessing.pool
import subprocess
import sys
import textwrap
import threading
import types

import pytest

from poolscope.probe.startup import install as module
from poolscope.probe.startup.install import install
from poolscope.probe.targets import LOOPS, POOLS

EXECUTOR = concurrent.futures.thread.ThreadPoolExecutor
LOOP = asyncio.base_events.BaseEventLoop
PATCHED = (EXECUTOR, LOOP, concurrent.futures.process.ProcessPoolExecutor, multiprocessing.pool.Pool)


def patched():
    """Which of the two is patched now: (pools, loops)."""
    return (
        EXECUTOR.submit.__globals__["__name__"] == "poolscope.probe.executors.threadpool",
        LOOP.run_forever.__globals__["__name__"] == "poolscope.probe.loops.patch",
    )


@pytest.fixture(autouse=True)
def clean():
    finders = list(sys.meta_path)
    before = [vars(owner).copy() for owner in PATCHED]
    assert patched() == (False, False)
    yield
    assert patched() == (False, False)
    assert [vars(owner).copy() for owner in PATCHED] == before
    assert sys.meta_path == finders


def test_on_and_off():
    installation = install()
    assert patched() == (True, True)
    installation.uninstall()
    assert patched() == (False, False)
    installation.uninstall()


def test_as_a_context_manager():
    with install() as installation:
        assert patched() == (True, True)
        assert isinstance(installation, module.Installation)
    with pytest.raises(KeyError), install():
        raise KeyError


@pytest.mark.parametrize("pools", [False, True])
@pytest.mark.parametrize("loops", [False, True])
def test_parts(pools, loops):
    with install(pools=pools, loops=loops):
        assert patched() == (pools, loops)


def test_the_last_one_takes_it_off():
    everything, pools, again = install(), install(loops=False), install()
    everything.uninstall()
    everything.uninstall()
    assert patched() == (True, True)
    again.uninstall()
    assert patched() == (True, False)
    with install(pools=False):
        assert patched() == (True, True)
    pools.uninstall()


def test_the_finder_leaves_when_nothing_is_missing_or_wanted():
    def missing(families):
        return sum(any(module not in sys.modules for module in modules) for _, modules in families.values())

    finders = list(sys.meta_path)
    with install(loops=False):
        assert len(sys.meta_path) == len(finders) + missing(POOLS)
    with install(pools=False):
        assert len(sys.meta_path) == len(finders) + missing(LOOPS)
    assert sys.meta_path == finders


def test_from_many_threads():
    gate = threading.Barrier(6)
    failures = []

    def work():
        gate.wait()
        for _ in range(30):
            with install():
                if patched() != (True, True):
                    failures.append(patched())

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_our_failure_is_not_the_programs(monkeypatch, caplog):
    def fail(probe=None):
        raise LookupError("unfamiliar")

    broken = types.ModuleType("poolscope.probe.executors.threadpool")
    broken.patch = broken.unpatch = fail
    monkeypatch.setitem(module._FAMILIES, "threads", (lambda: broken, ("concurrent.futures.thread",)))
    monkeypatch.setattr(module.current()._report, "_failed_parts", set())
    with install():
        assert patched() == (False, True)
    assert ["unfamiliar" in record.getMessage() for record in caplog.records] == [True]


def test_an_import_under_way_in_another_thread_is_waited_for(tmp_path, monkeypatch):
    """The module is there, but its class is not: patching it now would miss."""
    (tmp_path / "half_imported.py").write_text("import builtins\nbuiltins.half_imported_gate()\nready = True\n")
    calls = []
    patcher = types.ModuleType("half_patcher")
    patcher.patch = lambda probe: calls.append(hasattr(sys.modules["half_imported"], "ready"))
    patcher.unpatch = lambda: None
    reached, go_on = threading.Event(), threading.Event()

    def gate():
        reached.set()
        go_on.wait(30)

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("builtins.half_imported_gate", gate, raising=False)
    monkeypatch.setitem(module._FAMILIES, "threads", (lambda: patcher, ("half_imported",)))
    importer = threading.Thread(target=__import__, args=("half_imported",))
    importer.start()
    assert reached.wait(30)
    installations = []
    installer = threading.Thread(target=lambda: installations.append(install(loops=False)))
    installer.start()
    # It may be waiting for the import by now, or not have come that far: neither may patch what is not there.
    installer.join(0.05)
    assert calls == []
    go_on.set()
    importer.join()
    installer.join()
    installations[0].uninstall()
    del sys.modules["half_imported"]
    assert calls == [True]


def test_an_uninstall_during_an_import_wins(tmp_path, monkeypatch):
    (tmp_path / "imported_late.py").write_text("")
    calls = []
    patcher = types.ModuleType("late_patcher")

    def patch(probe):
        calls.append("patch")
        installation.uninstall()  # as another thread might, at this very moment

    patcher.patch = patch
    patcher.unpatch = lambda: calls.append("unpatch")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(module._FAMILIES, "threads", (lambda: patcher, ("imported_late",)))
    installation = install(loops=False)
    assert calls == []
    import imported_late  # noqa: F401

    del sys.modules["imported_late"]
    assert calls[0] == "patch"
    assert calls[-1] == "unpatch"


def test_tasks_and_loops_go_on_through_it():
    with EXECUTOR(2) as executor:
        before = executor.submit(int, "1")
        with install():
            during = [executor.submit(int, "2") for _ in range(50)]

            async def main():
                return await asyncio.get_running_loop().run_in_executor(executor, int, "3")

            assert asyncio.run(main()) == 3
        after = executor.submit(int, "4")
        assert before.result() == 1
        assert {future.result() for future in during} == {2}
        assert after.result() == 4
    gc.collect()


def run(program, *options):
    """Runs a program of its own; its output. Nothing may be written to standard error."""
    done = subprocess.run(
        [sys.executable, *options, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout.split()


def test_imports_nothing_of_the_program_and_starts_nothing():
    output = run(
        """
        import os, sys
        from poolscope.probe.startup.install import install
        installation = install()
        avoided = {"concurrent.futures", "multiprocessing", "asyncio", "uvloop", "json", "typing"}
        print(sorted(avoided & set(sys.modules)))
        print(len(os.listdir("/proc/self/task")))
        installation.uninstall()
        """
    )
    assert output == ["[]", "1"]


def test_patches_upon_import_and_leaves_the_modules_as_they_are():
    output = run(
        """
        import sys
        from poolscope.probe import runtime
        from poolscope.probe import targets
        for family in set(targets.POOLS) - {"threads", "processes", "multiprocessing"}:
            del targets.POOLS[family]  # of libraries that are awaited for good
        load, modules = targets.LOOPS["loops"]
        targets.LOOPS["loops"] = load, modules[:2]
        from poolscope.probe.startup.install import install
        runtime.current().supervised = True
        finders = list(sys.meta_path)
        installation = install()

        import concurrent.futures
        executor = concurrent.futures.ThreadPoolExecutor
        print(executor.submit.__globals__["__name__"])
        import asyncio
        print(asyncio.BaseEventLoop.run_forever.__globals__["__name__"])
        import multiprocessing.pool
        print(multiprocessing.pool.ThreadPool._check_running.__globals__["__name__"])
        print(concurrent.futures.ProcessPoolExecutor.submit.__globals__["__name__"])
        names = ("concurrent.futures.thread", "concurrent.futures.process", "multiprocessing.pool")
        for module in (*map(sys.modules.get, names), asyncio.base_events):
            assert type(module.__loader__).__name__ == "SourceFileLoader"
            assert module.__spec__.loader is module.__loader__
            assert "exec_module" not in vars(module.__loader__)
        try:
            import uvloop
        except ImportError:
            print("poolscope.probe.loops.patch")
        else:
            print(uvloop.Loop.run_forever.__globals__["__name__"])
            assert sys.meta_path == finders
        installation.uninstall()
        assert sys.meta_path == finders
        print(executor.submit.__globals__["__name__"], asyncio.BaseEventLoop.run_forever.__globals__["__name__"])
        """
    )
    assert output == [
        "poolscope.probe.executors.threadpool",
        "poolscope.probe.loops.patch",
        "poolscope.probe.processes.multiprocessing_pool",
        "poolscope.probe.processes.processpool",
        "poolscope.probe.loops.patch",
        "concurrent.futures.thread",
        "asyncio.base_events",
    ]


def test_what_a_program_does_is_told():
    output = run(
        """
        from poolscope.probe import runtime
        from poolscope.probe.startup.install import install
        probe = runtime.current()
        probe.supervised = True
        told = []
        probe.add_sink(told.append)
        install()
        import asyncio

        async def main():
            return await asyncio.to_thread(sum, [1, 2])

        print(asyncio.run(main()))
        probe.flush()
        tags = {message[0] for message in told}
        assert {"function", "pool_opened", "pool_batch", "loop_opened", "loop_closed", "process_tick"} <= tags, told
        assert "fault" not in tags, told
        batches = [message for message in told if message[0] == "pool_batch"]
        print(sum(len(batch[7]) // 5 for batch in batches), sum(len(batch[11]) // 2 for batch in batches))
        [opened] = [message for message in told if message[0] == "pool_opened"]
        print(opened[2])
        """,
        "-Werror",
    )
    assert output == ["3", "1", "1", "asyncio"]
