"""Loops whose turns could go on at once, as the source says, and those of which nothing is said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from poolscope.engine.source_turns import SourceTurns, statement_around
from poolscope.signals.in_turn import InRow, InTurn, Told, read

BETWEEN = "---\n"
NO_ONE, NOTHING = Told.NO_LOOP, Told.NOTHING


def each(texts: str) -> list[str]:
    return [text.strip("\n") for text in texts.split(BETWEEN)]


def at(text: str) -> int:
    return next(number for number, line in enumerate(text.splitlines(), 1) if "# here" in line)


def said(text: str, gate: str = "await") -> InTurn | InRow | Told:
    return read(text, at(text), gate, imported=frozenset({"asyncio", "threading"}))


APART = """
async def main(port, count):
    for number in range(count):
        pictures.append(await download(port, number))  # here
---
async def main():
    return [await fetch(each) for each in items]  # here
---
async def main():
    return {each: await fetch(each) for each in items if each.wanted}  # here
---
async def main():
    for path in paths:
        name = path.stem
        size = await measure(name)  # here
        total += size
---
async def main():
    for path in paths:
        await asyncio.to_thread(resize, path)  # here
---
async def main():
    for item in items:
        try:
            found[item] = await asyncio.wait_for(fetch(item), 5)  # here
        except TimeoutError:
            continue
---
async def main():
    for item in items:
        task = asyncio.create_task(fetch(item))
        found.append(await task)  # here
---
async def main():
    for item in items:
        task = asyncio.ensure_future(fetch(item))
        found.append(await asyncio.wait_for(task, 5))  # here
---
async def main():
    for path in paths:
        done = loop.run_in_executor(None, resize, path)
        await done  # here
---
def main():
    for url in urls:
        pages.append(asyncio.run(fetch(url)))  # here
---
async def main():
    for item in items:
        a = await first(item)
        b = await second(a)  # here
        out.append(b)
"""


@pytest.mark.parametrize("text", each(APART))
def test_turns_that_need_nothing_of_each_other(text: str) -> None:
    found = said(text)
    assert isinstance(found, InTurn)
    assert not found.shared


SHARING = """
async def main():
    for url in urls:
        pages.append(await session.get(url))  # here
---
async def main():
    for url in urls:
        async with session.get(url) as response:
            pages.append(await response.json())  # here
---
async def main():
    for url in urls:
        async with session.get(url) as response:  # here
            pages.append(response)
---
async def main():
    for key in keys:
        rows.append(await fetch(session, key))  # here
---
async def main():
    for key in keys:
        rows.append(await asyncio.to_thread(session.get, key))  # here
"""


@pytest.mark.parametrize("text", each(SHARING))
def test_what_all_turns_share_is_named(text: str) -> None:
    found = said(text)
    assert isinstance(found, InTurn)
    assert found.shared == "session"


PARTS = """
async def main():
    for number in range(len(urls)):
        pages.append(await fetch(urls[number]))  # here
---
async def main():
    for key in keys:
        pages.append(await sessions[key].get(key))  # here
"""


@pytest.mark.parametrize("text", each(PARTS))
def test_a_part_of_something_is_the_turns_own(text: str) -> None:
    found = said(text)
    assert isinstance(found, InTurn)
    assert not found.shared


SILENT = """
async def main():
    for page in range(10):
        answer = await fetch(cursor, page)  # here
        cursor = answer.next
---
async def main():
    for number in range(10):
        state = await advance_from(state, number)  # here
---
async def main():
    for page in range(10):
        rows = await fetch(page)  # here
        if not rows:
            break
---
async def main():
    for url in urls:
        found = await fetch(url)  # here
        if found:
            return found
---
async def main():
    while True:
        item = await fetch(url)  # here
        items.append(item)
---
async def main():
    async for item in source:
        items.append(await fetch(item))  # here
---
async def main():
    async for item in source:  # here
        items.append(item)
---
async def main():
    for item in items:
        await fetch(item)  # here
---
async def main():
    for item in items:
        status = await fetch(item)  # here
---
async def main():
    for item in items:
        answers.append(await log.append(item))  # here
---
async def main():
    for item in items:
        answers.append(await fetch(item))  # here
        await asyncio.sleep(1)
---
async def main():
    for item in items:
        async with limiter:
            answers.append(await fetch(item))  # here
---
async def main():
    for item in items:
        answers.append(await fetch(item))  # here
        await tell(item)
---
async def main():
    for task in tasks:
        answers.append(await task)  # here
---
async def main():
    task = asyncio.create_task(load(0))
    for number in range(60):
        data = await task  # here
        task = asyncio.create_task(load(number + 1))
        work(data)
---
async def main():
    for item in items:
        task = asyncio.create_task(fetch(item))
        await task  # here
---
async def main():
    for item in items:
        task = asyncio.shield(task)
        found.append(await task)  # here
---
async def main():
    for each in asyncio.as_completed(tasks):
        answers.append(await each)  # here
---
async def main():
    for task in tasks:
        answers.append(await asyncio.wait_for(task, 5))  # here
---
async def main():
    for _ in range(10):
        answers.append(await ask())  # here
---
async def main():
    for url in urls:
        if url in seen:
            continue
        page = await fetch(url)  # here
        seen.update(page.links)
---
async def main():
    for url in urls:
        page = await fetch(url)  # here
        urls.extend(page.links)
---
async def main():
    for message in consumer:
        answers.append(await fetch(message))  # here
---
async def main():
    for number, row in enumerate(cursor.all()):
        answers.append(await fetch(number, row))  # here
---
async def main():
    for attempt in range(3):
        try:
            return await fetch(attempt)  # here
        except OSError:
            pass
---
async def main():
    for item in items:
        if ready:
            last = item
        answers.append(await fetch(last, item))  # here
---
async def rows():
    for item in items:
        yield await fetch(item)  # here
---
async def main():
    return sum(await fetch(item) for item in items)  # here
---
async def main():
    for item in items:
        self.last = await self.fetch(item)  # here
"""


@pytest.mark.parametrize("text", each(SILENT))
def test_nothing_is_said_of_turns_that_may_need_each_other(text: str) -> None:
    assert said(text) is NOTHING


OF_THREADS = """
future
def main():
    for number in range(60):
        done.append(pool.submit(thumbnail, number).result())  # here
---
future
def main():
    for number in range(60):
        future = pool.submit(thumbnail, number)
        done.append(future.result())  # here
---
future
def main():
    for number in range(60):
        pool.apply(thumbnail, (number,))  # here
---
thread
def main():
    for source in sources:
        thread = threading.Thread(target=ask, args=(source,))
        thread.start()
        thread.join()  # here
---
end
def main():
    for batch in batches:
        with ThreadPoolExecutor(4) as pool:  # here
            pool.map(work, batch)
---
batch
def main():
    for start in range(0, len(files), 8):
        with ThreadPoolExecutor(8) as pool:
            found += list(pool.map(fetch, files[start : start + 8]))  # here
---
batch
def main():
    for chunk in chunks:
        futures = [pool.submit(fetch, item) for item in chunk]
        for future in as_completed(futures):  # here
            found.append(future.result())
---
batch
def main():
    for chunk in chunks:
        wait({pool.submit(fetch, item) for item in chunk})  # here
---
batch
async def main():
    for batch in batches:
        found += await asyncio.gather(*[fetch(item) for item in batch])  # here
---
future
for number in range(60):
    handle(number)  # here
"""


@pytest.mark.parametrize("text", each(OF_THREADS))
def test_what_a_turn_has_started_need_not_be_used(text: str) -> None:
    gate, _, text = text.partition("\n")
    found = said(text, gate)
    assert isinstance(found, InTurn)
    assert not found.shared


COLLECTING = """
future
def main():
    for future in futures:
        done.append(future.result())  # here
---
thread
def main():
    for thread in threads:
        thread.join()  # here
---
thread
def main():
    for source in sources:
        thread = threading.Thread(target=ask, args=(source,))
        thread.start()
        thread.join(5)  # here
---
future
def main():
    future = pool.submit(load, 0)
    for number in range(60):
        data = future.result()  # here
        future = pool.submit(load, number + 1)
        work(data)
---
batch
def main():
    for number in todo:
        running.add(pool.submit(fetch, number))
        if len(running) >= 8:
            done, running = wait(running, return_when=FIRST_COMPLETED)  # here
---
batch
def main():
    for page in pool.map(fetch, urls):  # here
        show(page)
"""


@pytest.mark.parametrize("text", each(COLLECTING))
def test_collecting_what_was_started_before_is_none(text: str) -> None:
    gate, _, text = text.partition("\n")
    assert said(text, gate) in (NOTHING, NO_ONE)


def test_a_line_in_no_loop_leaves_it_to_its_caller() -> None:
    assert said("async def fetch(url):\n    return await get(url)  # here") is NO_ONE
    assert said("async def main():\n    for item in await load():  # here\n        print(item)") is NO_ONE


def test_a_loop_of_a_module_is_read_without_the_rest_of_it(tmp_path: Path) -> None:
    lines = ["import asyncio", "", "for url in urls:", "    pages.append(asyncio.run(fetch(url)))", "", "print(", ")"]
    assert statement_around(lines, 4) == (3, "for url in urls:\n    pages.append(asyncio.run(fetch(url)))\n")
    file = tmp_path / "program.py"
    file.write_text("\n".join(lines))
    os.utime(file, (1, 1))
    assert isinstance(SourceTurns()((str(file), 4, "<module>"), "await"), InTurn)


@pytest.mark.parametrize("text", ["def f(:\n    x  # here\n", "\0", "x = '", ""])
def test_what_cannot_be_read_says_nothing(tmp_path: Path, text: str) -> None:
    file = tmp_path / "program.py"
    file.write_text(text)
    os.utime(file, (1, 1))
    source = SourceTurns()
    assert source((str(file), 2, "f"), "await") is NOTHING
    assert source((str(file) + ".gone", 2, "f"), "await") is NOTHING
    assert source((str(file), 99, "f"), "await") is NOTHING


def test_a_file_that_changes_while_we_look_says_nothing(tmp_path: Path) -> None:
    source = SourceTurns()
    file = tmp_path / "program.py"
    file.write_text("for url in urls:\n    pages.append(asyncio.run(fetch(url)))\n")
    os.utime(file, (2_000_000_000_000, 2_000_000_000_000))
    assert source((str(file), 2, "<module>"), "await") is NOTHING


ROWS = """
async def page(number):
    user = await users.get_user(number)
    orders = await orders_of(number)  # here
    return user, orders
---
async def page(number):
    session = await enter(number)
    user = await get_user(session)
    orders = await orders_of(number)  # here
    return user, orders, session
"""


@pytest.mark.parametrize("text", each(ROWS))
def test_awaits_in_a_row_that_do_not_use_each_other(text: str) -> None:
    found = said(text)
    assert isinstance(found, InRow)
    assert (found.last, found.calls[-1]) == (at(text), "orders_of")
    assert found.first == at(text) - 1, "what needs the one before begins another row"


NO_ROWS = """
async def page(number):
    user = await get_user(number)
    orders = await orders_of(user)  # here
    return user, orders
---
async def page(db, number):
    user = await db.get_user(number)
    orders = await db.get_orders(number)  # here
    return user, orders
---
async def page(number):
    user = await get_user(number)
    await log(number)
    orders = await orders_of(number)  # here
    return user, orders
---
async def page(number):
    token = await login(number)
    orders = await orders_of(number)  # here
    return token, orders
---
async def page(number):
    user = await get_user(number)
    orders = await orders_of(number)  # here
    return user
"""


@pytest.mark.parametrize("text", each(NO_ROWS))
def test_awaits_in_a_row_that_may_need_each_other(text: str) -> None:
    assert said(text) is NO_ONE
