"""What more-executors does with futures of its own: lazy ones, proxies, those that retry, poll, time out and throttle.

None of its releases on PyPI has its tests. Such futures answer to any attribute and any comparison, so that code which
asks them something by the way waits for them, or runs them.
"""

from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from threading import Event

import pytest
from more_executors import Executors, f_apply, f_map, f_proxy, f_return, f_return_error, f_sequence, f_timeout, f_zip
from more_executors.retry import ExceptionRetryPolicy

KINDS = {
    "thread pool": lambda: Executors.thread_pool(max_workers=2),
    "retry": lambda: Executors.thread_pool(max_workers=2).with_retry(),
    "map": lambda: Executors.thread_pool(max_workers=2).with_map(lambda value: value),
    "flat map": lambda: Executors.thread_pool(max_workers=2).with_flat_map(f_return),
    "throttle": lambda: Executors.thread_pool(max_workers=4).with_throttle(2),
    "timeout": lambda: Executors.thread_pool(max_workers=2).with_timeout(20),
    "cancel on shutdown": lambda: Executors.thread_pool(max_workers=2).with_cancel_on_shutdown(),
    "all": lambda: (
        Executors.thread_pool(max_workers=2)
        .with_map(lambda value: value)
        .with_retry()
        .with_throttle(2)
        .with_timeout(20)
    ),
    "sync": lambda: Executors.sync(),
}


@pytest.fixture(params=KINDS)
def executor(request):
    with KINDS[request.param]() as made:
        yield made


def double(value):
    return 2 * value


def test_results(executor):
    assert [future.result(20) for future in [executor.submit(double, n) for n in range(50)]] == [
        2 * n for n in range(50)
    ]


def test_map(executor):
    assert list(executor.map(double, range(20))) == [2 * n for n in range(20)]


def test_exceptions():
    with Executors.thread_pool(max_workers=2).with_map(double) as executor, pytest.raises(ZeroDivisionError):
        executor.submit(lambda: 1 / 0).result(20)


def test_retries():
    tries = []

    def fail_twice():
        tries.append(1)
        if len(tries) < 3:
            raise OSError(len(tries))
        return "done"

    policy = ExceptionRetryPolicy(max_attempts=5, sleep=0.01)
    with Executors.thread_pool(max_workers=2).with_retry(retry_policy=policy) as executor:
        assert executor.submit(fail_twice).result(20) == "done"
    assert len(tries) == 3


def test_callbacks(executor):
    called = Event()
    future = executor.submit(double, 1)
    future.add_done_callback(lambda done: called.set())
    assert called.wait(20)
    assert future.done()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "sync"])
def test_cancel_of_what_waits(kind):
    gate = Event()
    with KINDS[kind]() as executor:
        held = [executor.submit(gate.wait, 20) for _ in range(4)]
        waiting = executor.submit(double, 1)
        cancelled = waiting.cancel()
        gate.set()
        assert wait(held, 20).not_done == set()
        if cancelled:
            with pytest.raises(CancelledError):
                waiting.result(20)
        else:
            assert waiting.result(20) == 2


def test_cancel_of_a_proxy():
    gate = Event()
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(gate.wait, 20)
        proxy = f_proxy(pool.submit(double, 1))
        assert proxy.cancel()
        gate.set()
        assert held.result(20)
        assert proxy.cancelled()


def test_a_proxy_is_its_result():
    with ThreadPoolExecutor(1) as pool:
        proxy = f_proxy(pool.submit(dict, key="value"))
        assert proxy["key"] == "value"
        assert len(proxy) == 1
        assert list(proxy.keys()) == ["key"]


def test_a_proxy_that_never_ends_is_not_asked():
    source = Future()
    proxy = f_proxy(source, timeout=20)
    assert not proxy.done()
    assert proxy.cancel()
    assert source.cancelled()


def test_combined_futures():
    with Executors.thread_pool(max_workers=2) as executor:
        futures = [executor.submit(double, n) for n in range(5)]
        assert f_sequence(futures).result(20) == [0, 2, 4, 6, 8]
        assert f_zip(*futures[:2]).result(20) == (0, 2)
        assert f_map(futures[1], double).result(20) == 4
        assert f_apply(f_return(double), futures[2]).result(20) == 8
    with pytest.raises(KeyError):
        f_sequence([f_return(1), f_return_error(KeyError("x"))]).result(20)


def test_a_timeout_cancels_what_waits():
    gate = Event()
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(gate.wait, 20)
        timed = f_timeout(pool.submit(double, 1), 0.05)
        with pytest.raises(CancelledError):
            timed.result(20)
        gate.set()
        assert held.result(20)


def test_polled():
    def poll(descriptors):
        for descriptor in descriptors:
            descriptor.yield_result(descriptor.result * 10)

    with Executors.thread_pool(max_workers=2).with_poll(poll, default_interval=0.01) as executor:
        assert executor.submit(double, 1).result(20) == 20


def test_cancelled_at_shutdown():
    gate = Event()
    executor = Executors.thread_pool(max_workers=1).with_cancel_on_shutdown()
    held = executor.submit(gate.wait, 20)
    waiting = [executor.submit(double, n) for n in range(5)]
    executor.shutdown(wait=False)
    gate.set()
    assert held.result(20)
    assert all(future.cancelled() for future in waiting)


def test_asyncio():
    import asyncio

    async def main():
        with Executors.thread_pool(max_workers=2).with_asyncio() as executor:
            return await asyncio.gather(*(executor.submit(double, n) for n in range(10)))

    assert asyncio.run(main()) == [2 * n for n in range(10)]
