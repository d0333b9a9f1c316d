"""Lines of source that wait in a loop, and those that only look like it."""

import os
from pathlib import Path

import pytest

from poolscope.engine.source_loops import SourceLoops

BETWEEN = "---\n"

LOOPS = """
while not stop.is_set():
    stop.wait(60)  # here
---
while True:
    item = inbox.get()  # here
---
while True:
    item = inbox.get(timeout=0.5)  # here
---
while True:
    item = inbox.get(True, 0.5)  # here
---
while True:
    connection, _ = server.accept()  # here
    handle(connection)
---
while context.is_active():
    yield b"serving"
    with news:
        news.wait(
            0.5)  # here
---
for item in iter(inbox.get, None):  # here
    handle(item)
---
for number in itertools.count():
    data = connection.recv(4096)  # here
---
while True:
    time.sleep(5)  # here
""".split(BETWEEN)

NONE = """
answered.wait(3)  # here
---
while True:
    done.wait()  # here
---
while True:
    page = session.get("http://localhost/")  # here
---
while True:
    value = settings.get(key)  # here
---
for number in range(3):
    answered.wait(10)  # here
---
while waiting():
    prepare()
answered.wait(3)  # here
---
while True:
    def call():
        answered.wait(3)  # here
    call()
---
while True
    stop.wait(60)  # here
""".split(BETWEEN)


def written(folder: Path, body: str, *, old: bool = True) -> tuple[str, int, str]:
    text = "import time\n\n\nclass App:\n    def run(self):\n" + "".join(
        f"        {line}\n" for line in body.strip("\n").split("\n")
    )
    file = folder / "app.py"
    file.write_text(text + "\n    def other(self):\n        pass\n")
    if old:
        os.utime(file, (1, 1))
    number = next(number for number, line in enumerate(text.splitlines(), 1) if "# here" in line)
    return str(file), number, "App.run"


@pytest.mark.parametrize("body", LOOPS)
def test_a_wait_in_a_loop(body: str, tmp_path: Path) -> None:
    assert SourceLoops()(written(tmp_path, body))


@pytest.mark.parametrize("body", NONE)
def test_no_wait_in_a_loop(body: str, tmp_path: Path) -> None:
    assert not SourceLoops()(written(tmp_path, body))


def test_of_a_source_that_changed_since_the_start_nothing_is_said(tmp_path: Path) -> None:
    line = written(tmp_path, LOOPS[0], old=False)
    loops = SourceLoops()
    os.utime(line[0], (1 << 33, 1 << 33))
    assert not loops(line)


def test_of_sources_that_cannot_be_read_nothing_is_said(tmp_path: Path) -> None:
    loops = SourceLoops()
    binary, huge, module = tmp_path / "binary.py", tmp_path / "huge.py", tmp_path / "module.py"
    binary.write_bytes(b"while True:\n    queue.get()  # \xff\n")
    huge.write_bytes(b"def run():\n    while True:\n        queue.get()\n" + b"#" * (1 << 20))
    module.write_bytes(b"while True:\n    queue.get()\n")
    for file in (binary, huge, module):
        os.utime(file, (1, 1))
    lines = [
        (str(binary), 2),
        (str(huge), 3),
        (str(module), 2),
        (str(module), 99),
        ("<string>", 1),
        ("", 0),
        ("a\0b", 1),
    ]
    assert [loops((file, number, "run")) for file, number in [*lines, (str(tmp_path), 1)]] == [False] * 8
