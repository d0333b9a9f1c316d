"""Executors and loops of kinds that are not known: told once, and the program runs as without us."""

from __future__ import annotations

from pathlib import Path

from cli_support import poolscope, python, script, watched

INLINE = """
    from concurrent.futures import Executor, Future

    class Inline(Executor):
        def submit(self, fn, /, *args, **kwargs):
            future = Future()
            future.set_result(fn(*args, **kwargs))
            return future

    class Behind(Executor):
        def __init__(self, inner):
            self.inner = inner

        def submit(self, fn, /, *args, **kwargs):
            return self.inner.submit(fn, *args, **kwargs)

    print(list(Behind(Inline()).map(abs, range(-3, 3))))
"""


def test_an_executor_that_runs_what_it_is_given_at_once(tmp_path: Path) -> None:
    program = script(tmp_path, INLINE)
    plain = python(program, cwd=tmp_path)
    outcome, report = watched(program, cwd=tmp_path)
    assert outcome == plain
    assert report["verdict"] == "insufficient_data"
    assert report["notices"] == [
        f"__main__.Inline ({tmp_path.name}/program.py:5) is an executor of a kind that is not known: what it runs is "
        "not seen"
    ]
    told = " ".join(poolscope("run", program, cwd=tmp_path).err.split())
    assert "nothing here could run two things at once" in told


OVERRIDDEN = """
    import queue, threading
    from concurrent.futures import Future, ThreadPoolExecutor

    class Ours(ThreadPoolExecutor):
        def __init__(self, workers):
            super().__init__(workers)
            self.waiting = queue.SimpleQueue()
            self.threads = [threading.Thread(target=self.work) for _ in range(workers)]
            for thread in self.threads:
                thread.start()

        def work(self):
            while (task := self.waiting.get()) is not None:
                task[0].set_result(task[1](*task[2]))

        def submit(self, fn, /, *args):
            future = Future()
            self.waiting.put((future, fn, args))
            return future

        def shutdown(self, wait=True, **others):
            for _ in self.threads:
                self.waiting.put(None)
            super().shutdown(wait=wait, **others)

    with Ours(3) as pool:
        print(list(pool.map(abs, range(-20, 20))))
"""


def test_a_standard_executor_whose_submit_is_overridden(tmp_path: Path) -> None:
    program = script(tmp_path, OVERRIDDEN)
    plain = python(program, cwd=tmp_path)
    outcome, report = watched(program, cwd=tmp_path)
    assert outcome == plain
    (notice,) = [notice for notice in report["notices"] if "Ours" in notice]
    assert notice.startswith("3 threads that the program started itself at ")
    assert "(__main__.Ours, an executor of a kind that is not known)" in notice


#: As Qt's and wx's bridges do: a `run_forever` of its own.
OWN_LOOP = """
    import asyncio, time

    class Bridge(asyncio.SelectorEventLoop):
        def run_forever(self):
            self._running_here = True
            asyncio.events._set_running_loop(self)
            try:
                while not self._stopping:
                    self._run_once()
            finally:
                self._stopping = self._running_here = False
                asyncio.events._set_running_loop(None)

        def is_running(self):
            return getattr(self, "_running_here", False)

    async def main():
        await asyncio.sleep(0.1)
        time.sleep(0.4)
        await asyncio.sleep(0.1)
        return "done"

    loop = Bridge()
    print(loop.run_until_complete(main()))
    loop.close()
"""


def test_a_loop_that_runs_in_a_way_of_its_own_is_watched(tmp_path: Path) -> None:
    program = script(tmp_path, OWN_LOOP)
    plain = python(program, cwd=tmp_path)
    outcome, report = watched(program, cwd=tmp_path)
    assert outcome == plain
    (loop,) = report["event_loops"]
    (finding,) = [finding for finding in loop["findings"] if finding["severity"] == "warning"]
    assert finding["frames"][0]["function"] == "main"


FOREIGN_LOOP = """
    import asyncio

    class Tiny:
        def run(self, coroutine):
            asyncio.events._set_running_loop(self)
            try:
                coroutine.send(None)
            except StopIteration as ended:
                return ended.value
            finally:
                asyncio.events._set_running_loop(None)

    async def main():
        return asyncio.get_running_loop().__class__.__name__

    for _ in range(3):
        print(Tiny().run(main()))
"""


def test_a_loop_that_is_not_like_asyncios_is_told_once(tmp_path: Path) -> None:
    program = script(tmp_path, FOREIGN_LOOP)
    plain = python(program, cwd=tmp_path)
    outcome, report = watched(program, cwd=tmp_path)
    assert outcome == plain
    assert [notice.partition(", and")[0] for notice in report["notices"]] == [
        "an event loop of class __main__.Tiny is of a kind that is not known"
    ]
