"""Advice in the words of the library whose loop it is about. Pure.

The texts of causes and calls are asyncio's; trio has other names for the same things, and none of asyncio's clients.
"""

from __future__ import annotations

import re

from poolscope.model import Advice

_THREAD = "trio.to_thread.run_sync()"
#: In order: the longer ones first.
_TRIO: tuple[tuple[str, str], ...] = (
    (
        "Await it there: `await asyncio.wrap_future(future)`, or loop.run_in_executor() in place of submit().",
        f"Wait for it in {_THREAD}, or run the call there in place of submit().",
    ),
    (", or use a ProcessPoolExecutor and await loop.run_in_executor()", ""),
    ("loop.run_in_executor() with a ProcessPoolExecutor", "anyio.to_process.run_sync()"),
    ("an asyncio.Queue", "a memory channel"),
    ("loop.getaddrinfo()", "trio.socket.getaddrinfo()"),
    ("loop.call_soon_threadsafe()", "TrioToken.run_sync_soon()"),
    ("asyncio.create_subprocess_exec() and its communicate()", "trio.run_process()"),
    ("asyncio.to_thread()", _THREAD),
    ("asyncio.sleep()", "trio.sleep()"),
    ("an asyncio.", "a trio."),
    ("asyncio.", "trio."),
)
_CLIENT = re.compile(rf"(?<={re.escape(_THREAD)}), or use .*\.$")


def in_words_of(kind: str, advice: Advice) -> Advice:
    """Return the same advice for a loop of this kind."""
    if kind != "trio":
        return advice
    text = advice.text
    for asyncios, trios in _TRIO:
        text = text.replace(asyncios, trios)
    return Advice(advice.action, _CLIENT.sub(".", text), advice.suggested_max_workers, advice.pool)
