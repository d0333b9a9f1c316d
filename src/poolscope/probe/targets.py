"""What is watched where: families of pools and event loops, the modules with which they come, and our part for each.

Only what loads a part imports it: a watched process reads this as it starts, and most never have a pool.
"""

from __future__ import annotations

from poolscope.probe.interpreter.blame import is_ours

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from poolscope.probe.api import ProbeApi

    #: Loads one of our modules.
    Loader = Callable[[], Any]
    #: Family -> our module with `patch(probe)` and `unpatch()`, and the modules that it patches. Each of those
    #: is enough: `patch` is called when the first is imported, and again with each that follows.
    Families = dict[str, tuple[Loader, tuple[str, ...]]]


def _threadpool() -> Any:
    from poolscope.probe.executors import threadpool

    return threadpool


def _unknown_executors() -> Any:
    from poolscope.probe.executors import unknown

    return unknown


def _processpool() -> Any:
    from poolscope.probe.processes import processpool

    return processpool


def _multiprocessing_pool() -> Any:
    from poolscope.probe.processes import multiprocessing_pool

    return multiprocessing_pool


def _s3transfer() -> Any:
    from poolscope.probe.adapters import s3transfer

    return s3transfer


def _waitress() -> Any:
    from poolscope.probe.adapters import waitress

    return waitress


def _twisted() -> Any:
    from poolscope.probe.adapters import twisted

    return twisted


def _dask() -> Any:
    from poolscope.probe.adapters import dask

    return dask


def _celery_prefork() -> Any:
    from poolscope.probe.adapters import celery_prefork

    return celery_prefork


def _anyio() -> Any:
    from poolscope.probe.adapters import anyio

    return anyio


def _aiosqlite() -> Any:
    from poolscope.probe.adapters import aiosqlite

    return aiosqlite


def _loky() -> Any:
    from poolscope.probe.adapters import loky

    return loky


def _trio() -> Any:
    from poolscope.probe.adapters import trio

    return trio


def _asgiref() -> Any:
    from poolscope.probe.adapters import asgiref

    return asgiref


def _asyncio_limits() -> Any:
    from poolscope.probe.limits import asyncio_locks

    return asyncio_locks


def _anyio_limits() -> Any:
    from poolscope.probe.limits import anyio_locks

    return anyio_locks


def _threading_limits() -> Any:
    from poolscope.probe.limits import threading_semaphores

    return threading_semaphores


def own_starts() -> Any:
    """Return the part that counts what no pool starts."""
    from poolscope.probe.recording import own_starts

    own_starts.exclude(WATCHED)
    return own_starts


def _sqlalchemy() -> Any:
    from poolscope.probe.adapters import sqlalchemy

    return sqlalchemy


def _aiohttp() -> Any:
    from poolscope.probe.adapters import aiohttp

    return aiohttp


def _asyncpg() -> Any:
    from poolscope.probe.adapters import asyncpg

    return asyncpg


def _httpcore() -> Any:
    from poolscope.probe.adapters import httpcore

    return httpcore


def _psycopg_pool() -> Any:
    from poolscope.probe.adapters import psycopg_pool

    return psycopg_pool


def _pymongo() -> Any:
    from poolscope.probe.adapters import pymongo

    return pymongo


def _redis() -> Any:
    from poolscope.probe.adapters import redis

    return redis


def _urllib3() -> Any:
    from poolscope.probe.adapters import urllib3

    return urllib3


def _asyncio_queues() -> Any:
    from poolscope.probe.limits import asyncio_queues

    return asyncio_queues


def _trio_limits() -> Any:
    from poolscope.probe.limits import trio

    return trio


def _threading_queues() -> Any:
    from poolscope.probe.limits import threading_queues

    return threading_queues


def _loops() -> Any:
    from poolscope.probe.loops import patch

    return patch


def _apscheduler() -> Any:
    from poolscope.probe.adapters import apscheduler

    return apscheduler


def _celery() -> Any:
    from poolscope.probe.adapters import celery

    return celery


def _cheroot() -> Any:
    from poolscope.probe.adapters import cheroot

    return cheroot


def _dask_threads() -> Any:
    from poolscope.probe.adapters import dask_threads

    return dask_threads


def _grpc() -> Any:
    from poolscope.probe.adapters import grpc

    return grpc


def _gunicorn() -> Any:
    from poolscope.probe.adapters import gunicorn

    return gunicorn


def _joblib() -> Any:
    from poolscope.probe.adapters import joblib

    return joblib


#: Modules by which a program starts threads and processes itself. Nearly every program has the first one, with pools or
#: without.
STARTING = ("threading", "multiprocessing.process")

POOLS: Families = {
    "threads": (_threadpool, ("concurrent.futures.thread",)),
    "processes": (_processpool, ("concurrent.futures.process",)),
    "multiprocessing": (_multiprocessing_pool, ("multiprocessing.pool",)),
    "other executors": (_unknown_executors, ("concurrent.futures._base",)),
    "s3transfer": (_s3transfer, ("s3transfer.futures", "s3transfer.manager")),
    "waitress": (_waitress, ("waitress.task",)),
    "twisted": (_twisted, ("twisted.python.threadpool", "twisted.internet.base")),
    "dask": (_dask, ("distributed.worker",)),
    "celery prefork": (_celery_prefork, ("celery.worker.worker", "celery.concurrency.prefork")),
    "anyio": (_anyio, ("anyio._backends._asyncio", "anyio._backends._trio")),
    "aiosqlite": (_aiosqlite, ("aiosqlite.core",)),
    "cheroot": (_cheroot, ("cheroot.server",)),
    "loky": (_loky, ("loky.process_executor", "joblib.externals.loky.process_executor")),
    "trio": (_trio, ("trio._threads", "trio.to_thread", "trio._path")),
    # The package comes first: its module makes an executor as it is imported.
    "asgiref": (_asgiref, ("asgiref", "asgiref.sync")),
    "asyncio limits": (_asyncio_limits, ("asyncio.locks",)),
    "anyio limits": (_anyio_limits, ("anyio._backends._asyncio",)),
    "trio limits": (_trio_limits, ("trio._sync",)),
    "threading limits": (_threading_limits, ("threading",)),
    "own starts": (own_starts, STARTING),
    "sqlalchemy": (_sqlalchemy, ("sqlalchemy.pool.impl",)),
    "psycopg_pool": (_psycopg_pool, ("psycopg_pool.pool", "psycopg_pool.pool_async")),
    "redis": (_redis, ("redis.connection", "redis.asyncio.connection")),
    "urllib3": (_urllib3, ("urllib3.connectionpool",)),
    "httpcore": (_httpcore, ("httpcore._sync.connection_pool", "httpcore._async.connection_pool")),
    "aiohttp": (_aiohttp, ("aiohttp.connector",)),
    "asyncpg": (_asyncpg, ("asyncpg.pool",)),
    "pymongo": (_pymongo, ("pymongo.synchronous.pool", "pymongo.asynchronous.pool")),
    "asyncio queues": (_asyncio_queues, ("asyncio.queues",)),
    "threading queues": (_threading_queues, ("queue",)),
}

#: Families whose parts are loaded before the program has a pool. Greenlets may replace threads until then; if they do,
#: these are not watched.
LIMITS = (
    *("asyncio limits", "anyio limits", "trio limits", "threading limits", "asyncio queues", "threading queues"),
    "other executors",
    *("sqlalchemy", "psycopg_pool", "redis", "urllib3", "httpcore", "aiohttp", "asyncpg", "pymongo"),
)
GREENLETS = ("eventlet", "gevent")

LOOPS: Families = {"loops": (_loops, ("asyncio.base_events", "uvloop", "trio._core._run"))}

#: Module of a library with what stands around its users' functions -> our module with `meet(probe, module)`, which says
#: how to look through. Called when the first task of such a module is named, so nothing is awaited for it.
WRAPPING: dict[str, Loader] = {
    "apscheduler.executors.base": _apscheduler,
    "celery.concurrency.base": _celery,
    "dask.local": _dask_threads,
    "grpc._server": _grpc,
    "gunicorn.workers.gthread": _gunicorn,
    "joblib._utils": _joblib,
    "joblib.parallel": _joblib,
}

#: Without one of these modules there is neither a pool nor a loop.
MODULES = tuple(
    module for _, modules in (*POOLS.values(), *LOOPS.values()) for module in modules if module not in STARTING
)


#: Packages with pools or loops that are watched, their own or those that they are given: what these start is theirs.
WATCHED = frozenset(("poolscope", *(module.partition(".")[0] for module in (*MODULES, *WRAPPING))))


def meet(probe: ProbeApi, module: str) -> None:
    """Meet a function or class of this module as a task for the first time: if it is a library's that stands
    around its users' functions, its adapter says how to look through (see `recording.function_table`). Raises what is
    the program's (see `blame`), and nothing else.
    """
    load = WRAPPING.get(module)
    if load is not None:
        try:
            load().meet(probe, module)
        except Exception as exc:
            if not is_ours(exc):
                raise
            probe.fail("names", exc)
