"""What the line calls that blocked an event loop, and what to do instead: one entry per kind of call. Pure.

A kind is recognised by what the loop's thread was stopped at (`LoopBlock.gate`), by the library's line below the
user's, and last by the text of the user's line, as a function in C has no line of its own. A call that is not
recognised gets the advice of its cause.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from poolscope.model import Frame


class Call(msgspec.Struct, frozen=True):
    """A kind of call: half a sentence, an action, and what to do."""

    name: str
    why: str
    action: str
    text: str
    #: What the thread was stopped at.
    gates: tuple[str, ...] = ()
    #: How the library's file name ends, and which of its functions; no functions: all.
    files: tuple[str, ...] = ()
    functions: tuple[str, ...] = ()
    #: In the text of the user's line.
    source: str = ""

    def matches(self, frames: Sequence[Frame], gate: str) -> bool:
        """Whether the innermost lines are of such a call."""
        if gate in self.gates:
            return True
        if gate and gate != "event":
            return False  # a sample says more than any text; but many things wait at an event
        if len(frames) > 1:
            # A line that calls something written in Python is not stopped at another call in it.
            return self.is_called(frames)
        text = frames[0].source if frames else None
        return bool(self.source and text and "await " not in text and re.search(self.source, text))

    def is_called(self, frames: Sequence[Frame]) -> bool:
        """Whether the user's line calls such a function of a library."""
        below = frames[1] if len(frames) > 1 else None
        if below is None or not below.file.replace("\\", "/").endswith(self.files):
            return False
        return not self.functions or below.function in self.functions


_WAITS = (
    "Future.result",
    "Future.exception",
    "wait",
    "as_completed",
    "_result_or_cancel",
    "Executor.map.<locals>.result_iterator",
)
_POOL_WAITS = (
    *("Pool.map", "Pool.starmap", "Pool.apply", "ApplyResult.get", "ApplyResult.wait"),
    *("IMapIterator.next", "IMapIterator.__next__"),
)

#: Calls that wait off the CPU; the first that matches.
BLOCKING: tuple[Call, ...] = (
    Call(
        name="own_coroutine",
        why="it waited for a coroutine that only it can run",
        action="await_instead",
        text="Await the coroutine there: this loop cannot run it while this line waits for its result. A wait without "
        "a timeout never ends.",
        gates=("own_coroutine",),
    ),
    Call(
        name="executor_end",
        why="it waited for all tasks of an executor that is shut down",
        action="await_instead",
        text="Leaving the `with` of an executor waits for its tasks: await them before, keep one executor for all "
        "calls, or call shutdown() in asyncio.to_thread().",
        gates=("executor_end",),
        files=("concurrent/futures/_base.py", "concurrent/futures/thread.py", "concurrent/futures/process.py"),
        functions=("Executor.__exit__", "ThreadPoolExecutor.shutdown", "ProcessPoolExecutor.shutdown"),
    ),
    Call(
        name="future",
        why="it waited for the result of a future",
        action="await_instead",
        text="Await it there: `await asyncio.wrap_future(future)`, or loop.run_in_executor() in place of submit().",
        gates=("future",),
        files=("concurrent/futures/_base.py",),
        functions=_WAITS,
    ),
    Call(
        name="pool_result",
        why="it waited for the results of a pool",
        action="move_to_thread",
        text="Wait for the pool in asyncio.to_thread(), or use a ProcessPoolExecutor and await loop.run_in_executor().",
        files=("multiprocessing/pool.py",),
        functions=_POOL_WAITS,
    ),
    Call(
        name="thread_end",
        why="it waited for a thread to end",
        action="move_to_thread",
        text="Join the thread in asyncio.to_thread(), or run its work there and await that.",
        gates=("thread_end",),
        files=("threading.py",),
        functions=("Thread.join", "Thread._wait_for_tstate_lock"),
    ),
    Call(
        name="lock",
        why="it waited for a lock",
        action="move_to_thread",
        text="If only coroutines take the lock, make it an asyncio.Lock; else take it in asyncio.to_thread(), with "
        "what it guards, and hold it for less long where other threads have it.",
        gates=("lock",),
        source=r"[Ll]ock\w*\.acquire\(",
    ),
    Call(
        name="semaphore",
        why="it waited at a semaphore of threads",
        action="await_instead",
        text="Use an asyncio.Semaphore there, or take this one in asyncio.to_thread().",
        gates=("semaphore",),
        files=("threading.py",),
        functions=("Semaphore.acquire", "BoundedSemaphore.acquire"),
    ),
    Call(
        name="queue",
        why="it waited at a queue of threads",
        action="await_instead",
        text="Use an asyncio.Queue there, or put() and get() in asyncio.to_thread().",
        gates=("queue",),
        files=("/queue.py", "multiprocessing/queues.py"),
    ),
    Call(
        name="signal",
        why="it waited for another thread to set an event",
        action="await_instead",
        text="Use an asyncio.Event there, set by loop.call_soon_threadsafe(), or wait in asyncio.to_thread().",
        gates=("event",),
        files=("threading.py",),
        functions=("Event.wait", "Condition.wait", "Condition.wait_for", "Barrier.wait"),
    ),
    Call(
        name="subprocess",
        why="it waited for a child process",
        action="await_instead",
        text="Await asyncio.create_subprocess_exec() and its communicate(), or run the call in asyncio.to_thread().",
        gates=("child",),
        files=("/subprocess.py",),
        source=r"\bos\.(system|wait\w*)\(",
    ),
    Call(
        name="name",
        why="it waited for a name to be looked up",
        action="await_instead",
        text="Await loop.getaddrinfo() there, which looks names up in a thread.",
        files=("/socket.py",),
        functions=("getaddrinfo", "getfqdn"),
        source=r"\b(gethostbyname(_ex)?|gethostbyaddr|getnameinfo)\(",
    ),
    Call(
        name="connection",
        why="it waited for a connection",
        action="await_instead",
        text="Await asyncio.open_connection() there, or connect in asyncio.to_thread().",
        files=("/socket.py",),
        functions=("create_connection",),
    ),
    Call(
        name="file",
        why="it waited for a file",
        action="move_to_thread",
        text="Open, read and write files in asyncio.to_thread(): in one call for all of it, as each costs a turn of "
        "the loop.",
        files=("/pathlib.py", "/pathlib/_local.py", "/pathlib/__init__.py", "/shutil.py", "/tempfile.py"),
        source=r"(?<![\w.])open\(|\bos\.(fsync|fdatasync|replace|rename|scandir|listdir|walk|sendfile)\(",
    ),
    Call(
        name="sleep",
        why="a blocking call held it",
        action="await_instead",
        text="Await asyncio.sleep() in its place; where the function that sleeps is no coroutine, call it in "
        "asyncio.to_thread().",
        source=r"\bsleep\(",
    ),
)

#: Whatever the handler of a log waits for: a lock, a file, a server.
LOGGING = Call(
    name="log",
    why="a handler of its log waited",
    action="move_to_thread",
    text="Give the logger a logging.handlers.QueueHandler, and the handler that waits to a QueueListener, which calls "
    "it in a thread of its own.",
    files=("/logging/__init__.py",),
)

#: Packages whose calls wait in the thread that makes them, and what to use instead.
_CLIENTS: dict[str, str] = {
    "requests": "httpx or aiohttp",
    "urllib3": "httpx or aiohttp",
    "httpx": "httpx.AsyncClient",
    "grpc": "grpc.aio",
    "sqlalchemy": "sqlalchemy.ext.asyncio with an asynchronous driver",
    "psycopg": "psycopg.AsyncConnection",
    "psycopg2": "psycopg 3 or asyncpg",
    "mysql": "mysql.connector.aio",
    "pymysql": "aiomysql or asyncmy",
    "MySQLdb": "aiomysql or asyncmy",
    "elasticsearch": "its AsyncElasticsearch",
    "kafka": "aiokafka",
    "pika": "aio-pika",
    "openai": "its AsyncOpenAI",
    "docker": "aiodocker",
    "sqlite3": "aiosqlite",
    "botocore": "aioboto3",
    "pymongo": "its asynchronous API",
    "redis": "redis.asyncio",
    "paramiko": "asyncssh",
    "ldap3": "bonsai",
    "smtplib.py": "aiosmtplib",
    "urllib/request.py": "httpx or aiohttp",
    "http/client.py": "httpx or aiohttp",
    "ftplib.py": "aioftp",
}

#: Packages that release the GIL while they compute, so that a thread is enough.
_RELEASING = (
    r"\b(hashlib|zlib|gzip|bz2|lzma|zstd|bcrypt|argon2|scrypt|pbkdf2_hmac|sha1|sha224|sha256|sha384|sha512|md5"
    r"|blake2[bs]|sha3_\d+|compress|decompress|hashpw|checkpw)\b"
)
_RELEASING_FILES = (
    "/gzip.py",
    "/bz2.py",
    "/lzma.py",
    "/zipfile.py",
    "/zipfile/__init__.py",
    "/tarfile.py",
    "/hashlib.py",
)

ENCODING = Call(
    name="encoding",
    why="encoding or decoding data held it",
    action="use_process_pool",
    text="Have less of it at a time: smaller pages, fewer fields, a stream, or bytes that are made once and kept. A "
    "faster encoder helps too. A thread helps little, as this keeps the interpreter's lock; a process can do it "
    "(loop.run_in_executor() with a ProcessPoolExecutor) where what it gets and gives back is small or bytes.",
    files=(
        *("/fastapi/encoders.py", "/starlette/responses.py", "/pydantic/main.py", "/pydantic/type_adapter.py"),
        *("/json/__init__.py", "/json/encoder.py", "/json/decoder.py"),
    ),
    source=r"\b(json|orjson|ujson|simplejson|pickle|yaml|msgpack)\.(loads?|safe_load|dumps?|packb|unpackb)\(",
)

RELEASES_THE_GIL = Call(
    name="releasing",
    why="computing held it",
    action="move_to_thread",
    text="Hashing and compressing let go of the interpreter's lock: asyncio.to_thread() is enough.",
    files=_RELEASING_FILES,
    source=_RELEASING,
)


def blocking_call(frames: Sequence[Frame], gate: str) -> Call | None:
    """Return the kind of call that waited at these lines (the user's first); None if it is not recognised."""
    if LOGGING.is_called(frames):
        return LOGGING
    for call in BLOCKING:
        if call.matches(frames, gate):
            return call
    return _client(frames) if gate in ("", "event") else None


def computing_call(frames: Sequence[Frame], gil_held: float) -> Call | None:
    """Return the kind of call that computed; None if it is not recognised. `gil_held` is the part of the time in which
    one call kept the GIL."""
    if gil_held < 0.5 and RELEASES_THE_GIL.matches(frames, ""):
        return RELEASES_THE_GIL
    return ENCODING if ENCODING.matches(frames, "") else None


def _client(frames: Sequence[Frame]) -> Call | None:
    if len(frames) < 2:
        return None
    path = frames[1].file.replace("\\", "/")
    for package, instead in _CLIENTS.items():
        if path.endswith(f"/{package}") if package.endswith(".py") else f"-packages/{package}/" in path:
            name = package.removesuffix(".py").replace("/", ".")
            return Call(
                name="client",
                why=f"a call of {name} waited for its answer",
                action="move_to_thread",
                text=f"{name} waits in the thread that calls it: run it in asyncio.to_thread(), or use {instead}.",
            )
    return None
