"""Advice on a loop of trio's, which has none of asyncio's names."""

from __future__ import annotations

import re

import pytest

from poolscope.model import Advice, Frame
from poolscope.rules.loop_calls import BLOCKING, RELEASES_THE_GIL, blocking_call
from poolscope.rules.loop_causes import BY_NAME
from poolscope.rules.loop_full import COMPUTES
from poolscope.rules.loop_words import in_words_of


def client() -> str:
    below = Frame("/venv/lib/python3.13/site-packages/psycopg2/extras.py", 1, "execute", "pass")
    call = blocking_call([Frame("/app/main.py", 7, "handle", "cursor.execute(query)"), below], "")
    assert call is not None
    return call.text


TEXTS = [
    *(call.text for call in (*BLOCKING, RELEASES_THE_GIL)),
    *(cause.text for cause in BY_NAME.values()),
    *(cause.startup_text or "" for cause in BY_NAME.values()),
    COMPUTES,
    client(),
]


@pytest.mark.parametrize("text", TEXTS)
def test_no_word_of_asyncios_is_left(text: str) -> None:
    told = in_words_of("trio", Advice("await_instead", text))
    assert not re.search(r"asyncio|\bloop\.\w|asyncpg|aio|wrap_future|ProcessPoolExecutor", told.text), told.text
    assert " an trio" not in told.text
    assert told.action == "await_instead"
    assert told.text[-1:] in (".", "")
    assert in_words_of("asyncio", Advice("none", text)).text == text
    assert in_words_of("uvloop", Advice("none", text)).text == text


def test_what_is_advised() -> None:
    assert in_words_of("trio", Advice("move_to_thread", client())).text == (
        "psycopg2 waits in the thread that calls it: run it in trio.to_thread.run_sync()."
    )
    sleep = next(call for call in BLOCKING if call.name == "sleep")
    told = in_words_of("trio", Advice("await_instead", sleep.text)).text
    assert told.startswith("Await trio.sleep() in its place")
    future = next(call for call in BLOCKING if call.name == "future")
    assert in_words_of("trio", Advice("await_instead", future.text)).text == (
        "Wait for it in trio.to_thread.run_sync(), or run the call there in place of submit()."
    )
