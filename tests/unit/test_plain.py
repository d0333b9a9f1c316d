"""Text that leaves for a terminal or a log: one line, nothing in it that they obey, and bounded."""

from __future__ import annotations

import logging
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolscope import profiler
from poolscope.plain import LONGEST, escaped, fitting, lines, one_line
from poolscope.supervisor import printer

EVIL = "\x1b[2J\x07\rforged\nforged\x9b31m\u202e\u2066\u2028\udce9\0"


def test_what_a_terminal_obeys_is_escaped_and_the_rest_stays() -> None:
    assert one_line(EVIL) == r"\x1b[2J\x07\rforged\nforged\x9b31m\u202e\u2066\u2028\udce9\x00"
    assert one_line("pool 'größe' 日本 \\n") == "pool 'größe' 日本 \\n"


@given(st.text(), st.integers(3, 60))
def test_any_text_is_one_printable_line_of_bounded_length(text: str, most: int) -> None:
    line = one_line(text, most)
    assert line.isprintable()
    assert len(line) <= most
    assert escaped(text).isprintable()


def test_of_a_long_text_the_begin_and_the_end_are_kept() -> None:
    assert one_line("a" * 50 + "b" * 50, 11) == "aaaa...bbbb"
    line = one_line("begin" + "\x1b" * 10_000_000 + "end")
    assert line.startswith("begin\\x1b")
    assert line.endswith("\\x1bend")
    assert len(line) <= LONGEST


def test_no_line_of_several_can_be_taken_for_one_of_ours() -> None:
    text = lines("it failed:\npoolscope: warning: forged\r\x1b[2J\n\nValueError: poolscope:")
    assert text.split("\n") == [
        "it failed:",
        r"  poolscope: warning: forged\r\x1b[2J",
        "  ",
        "  ValueError: poolscope:",
    ]


@given(st.text(), st.sampled_from(["ascii", "latin-1", "utf-8", "klingon", None]))
def test_any_text_fits_any_encoding(text: str, encoding: str | None) -> None:
    known = encoding if encoding in ("ascii", "latin-1") else "utf-8"
    assert fitting(text, encoding).encode(known).decode(known) == fitting(text, encoding)
    assert fitting("é", "klingon") == "\\xe9"


def test_a_line_of_the_parent(capsys: pytest.CaptureFixture[str]) -> None:
    printer.say(EVIL)
    printer.say_failure("it failed:", "Traceback\nValueError: \x1b[2J")
    assert capsys.readouterr().err.split("\n") == [
        f"poolscope: {one_line(EVIL)}",
        "poolscope: it failed:",
        "  Traceback",
        r"  ValueError: \x1b[2J",
        "",
    ]


def test_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "poolscope"):
        profiler._log(f"warning: {EVIL}")
    assert caplog.messages == [f"warning: {one_line(EVIL)}"]


def test_lines_that_nobody_takes_are_bounded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(printer, "MOST_WAITING", 10)
    taken, go_on, written = threading.Event(), threading.Event(), []

    def write(line: str) -> None:
        taken.set()
        assert go_on.wait(60)
        written.append(line)

    made = printer.Printer(write, now=lambda: "03:12:44")
    made.say("first")
    assert taken.wait(60)
    for number in range(10_000):
        made.say(f"line {number}")
    assert made._lines.qsize() == 10
    go_on.set()
    while made._lines.qsize():
        made._thread.join(0.001)
    made.say("last")
    made.close()
    assert written == [
        "03:12:44 first",
        *(f"03:12:44 line {number}" for number in range(10)),
        "03:12:44 9990 lines were left out here: standard error did not take them",
        "03:12:44 last",
    ]
