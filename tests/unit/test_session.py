from __future__ import annotations

import errno
import os
import stat
import struct
import zlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
import report_support
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poolscope import session as sessions
from poolscope.errors import SessionError
from poolscope.model import LoopTrace, Session, TaskCounts
from poolscope.session import load, save

MAGIC = b"poolscope session 1\n"
HEADER = len(MAGIC) + 12


def small() -> Session:
    return report_support.insufficient_data()


def refusal(path: str | os.PathLike[str]) -> str:
    with pytest.raises(SessionError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.isprintable()
    return message


def write(path: Path, plain: bytes) -> Path:
    """A file that is whole, with `plain` inside."""
    payload = zlib.compress(plain)
    path.write_bytes(MAGIC + struct.pack(">IQ", zlib.crc32(payload), len(payload)) + payload)
    return path


def write_value(path: Path, value: Any) -> Path:
    return write(path, msgspec.msgpack.encode(value))


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("name", sorted(set(report_support.SESSIONS) - {"hostile", "nulls"}))
def test_what_was_saved_is_loaded(name: str, tmp_path: Path) -> None:
    session = report_support.SESSIONS[name]()
    save(session, tmp_path / "run.session")
    assert load(tmp_path / "run.session") == session


def test_text_that_is_not_unicode_is_saved_in_a_readable_form(tmp_path: Path) -> None:
    session = msgspec.structs.replace(
        small(), report=msgspec.structs.replace(small().report, command=("python", "caf\udce9.py", "日本"))
    )
    save(session, tmp_path / "run.session")
    loaded = load(tmp_path / "run.session")
    assert loaded.report.command == ("python", "caf\\udce9.py", "日本")
    assert loaded.traces == session.traces
    assert loaded.report.pools == session.report.pools


def test_tasks_survive_beside_text_that_is_not_unicode(tmp_path: Path) -> None:
    session = report_support.hostile()
    save(session, tmp_path / "run.session")
    assert load(tmp_path / "run.session").traces[0].tasks == session.traces[0].tasks


def test_the_file_starts_with_its_kind_and_version(tmp_path: Path) -> None:
    save(small(), tmp_path / "run.session")
    assert (tmp_path / "run.session").read_bytes().startswith(MAGIC)


def test_a_new_file_is_for_its_owner_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        save(small(), tmp_path / "run.session")
    finally:
        os.umask(before)
    assert mode(tmp_path / "run.session") == 0o600


def test_a_replaced_file_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "run.session"
    path.write_text("old")
    path.chmod(0o640)
    save(small(), path)
    assert mode(path) == 0o640
    assert load(path) == small()


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    save(small(), link)
    assert link.is_symlink()
    assert load(target) == small()


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.session"
    save(small(), path)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(SessionError, match=r"cannot write the session .*run\.session: No space left on device"):
        save(report_support.overlap(), path)
    assert load(path) == small()
    assert os.listdir(tmp_path) == ["run.session"]


class TestPlacesThatCannotBeWritten:
    def test_no_directory(self, tmp_path: Path) -> None:
        with pytest.raises(SessionError, match=r"cannot write .*there is no directory .*missing, create it"):
            save(small(), tmp_path / "missing" / "run.session")

    def test_a_directory(self, tmp_path: Path) -> None:
        with pytest.raises(SessionError, match="it is a directory, name a file in it"):
            save(small(), tmp_path)

    def test_a_null_byte(self) -> None:
        with pytest.raises(SessionError, match="null"):
            save(small(), "a\0b")

    def test_permission_denied(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(*_: object) -> None:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr(os, "open", refuse)
        with pytest.raises(SessionError, match="permission denied, name another place"):
            save(small(), tmp_path / "run.session")

    def test_a_hostile_name_stays_in_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(SessionError) as caught:
            save(small(), tmp_path / "a\n\x1b[31m" / "run.session")
        assert str(caught.value).isprintable()


def test_a_device_or_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)  # so that no writer has to wait for one
    try:
        save(small(), pipe)
        data = os.read(reader, 1 << 20)
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    (tmp_path / "run.session").write_bytes(data)
    assert load(tmp_path / "run.session") == small()


def test_a_session_that_could_not_be_loaded_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_BYTES", 100)
    with pytest.raises(SessionError, match="smaller keep_tasks"):
        save(small(), tmp_path / "run.session")
    assert os.listdir(tmp_path) == []


def test_no_file(tmp_path: Path) -> None:
    assert "there is no session" in refusal(tmp_path / "run.session")


def test_a_directory(tmp_path: Path) -> None:
    assert "is a directory" in refusal(tmp_path)


def test_a_null_byte_in_the_path() -> None:
    assert "null" in refusal("a\0b")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"{}",
        b"poolscope session\n",
        b"poolscope session x\n",
        b"poolscope session 0\n" + b"x" * 40,
    ],
)
def test_something_else_than_a_session(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(data)
    assert "notes.txt is not a poolscope session" in refusal(tmp_path / "notes.txt")


@pytest.mark.parametrize("version", [2, 10, 999_999_999])
def test_a_later_version(version: int, tmp_path: Path) -> None:
    (tmp_path / "run.session").write_bytes(b"poolscope session %d\nanything" % version)
    message = refusal(tmp_path / "run.session")
    assert f"(version {version}) was written by a later poolscope; this one reads version 1" in message


def test_a_truncated_file_at_any_length(tmp_path: Path) -> None:
    path = tmp_path / "run.session"
    save(small(), path)
    whole = path.read_bytes()
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        assert "run.session is truncated" in refusal(path)


def test_a_file_with_something_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "run.session"
    save(small(), path)
    path.write_bytes(path.read_bytes() + b"x")
    assert "is damaged (something follows its end)" in refusal(path)


def test_a_pipe_is_read_like_a_file(tmp_path: Path) -> None:
    save(small(), tmp_path / "run.session")
    data = (tmp_path / "run.session").read_bytes()
    for content, end in ((data, None), (data[:-1], "truncated"), (data + b"x", "damaged")):
        reader, writer = os.pipe()
        os.write(writer, content)  # fits into the pipe's buffer
        os.close(writer)
        try:
            if end is None:
                assert load(f"/dev/fd/{reader}") == small()
            else:
                assert end in refusal(f"/dev/fd/{reader}")
        finally:
            os.close(reader)


def test_an_impossible_length_costs_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "run.session"
    path.write_bytes(MAGIC + struct.pack(">IQ", 0, 2**63) + b"x")
    assert "its length is impossible" in refusal(path)


def test_a_decompression_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "MAX_BYTES", 1 << 20)
    message = refusal(write(tmp_path / "run.session", bytes(100 << 20)))
    assert "unpacks to more than 1 MiB" in message


def test_the_largest_session_is_no_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(small(), tmp_path / "run.session")
    payload = (tmp_path / "run.session").read_bytes()[HEADER:]
    monkeypatch.setattr(sessions, "MAX_BYTES", len(zlib.decompress(payload)))
    assert load(tmp_path / "run.session") == small()


@pytest.mark.parametrize("payload", [b"", b"not zlib", zlib.compress(b"abc")[:-1], zlib.compress(b"abc") + b"x"])
def test_a_payload_that_does_not_decompress(payload: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.session"
    path.write_bytes(MAGIC + struct.pack(">IQ", zlib.crc32(payload), len(payload)) + payload)
    assert "it cannot be decompressed" in refusal(path)


def test_wrong_types_are_named_by_their_path(tmp_path: Path) -> None:
    value = msgspec.to_builtins(small(), builtin_types=(bytes,))
    value["report"]["pools"][0]["max_workers"] = "four"
    message = refusal(write_value(tmp_path / "run.session", value))
    assert "is damaged (unexpected content: Expected `int`, got `str`" in message
    assert "max_workers" in message


@pytest.mark.parametrize(
    "plain",
    [
        b"",
        b"\xc1",
        b"\x82\xa6report\x80",
        b"\x81\xa6traces\xdd\xff\xff\xff\xff",
        b"\x81\xa1x" + b"\x91" * 100_000 + b"\xc0",
        b"\x81\xa6report\x81\xa6schema\xa1\xff",
    ],
    ids=["empty", "no msgpack", "cut off", "huge array", "deep", "no utf-8"],
)
def test_content_that_is_no_session(plain: bytes, tmp_path: Path) -> None:
    assert "run.session is damaged" in refusal(write(tmp_path / "run.session", plain))


def test_traces_that_do_not_fit_the_pools(tmp_path: Path) -> None:
    session = msgspec.structs.replace(small(), traces=())
    assert "1 pools but 0 traces" in refusal(write_value(tmp_path / "run.session", session))


def test_half_a_task(tmp_path: Path) -> None:
    traces = (msgspec.structs.replace(small().traces[0], tasks=b"x" * 40),)
    session = msgspec.structs.replace(small(), traces=traces)
    assert "tasks of pool fetch are cut off" in refusal(write_value(tmp_path / "run.session", session))


def test_workers_of_other_tasks(tmp_path: Path) -> None:
    traces = (msgspec.structs.replace(small().traces[0], workers=b"x" * 4),)
    session = msgspec.structs.replace(small(), traces=traces)
    assert "tasks of pool fetch are cut off" in refusal(write_value(tmp_path / "run.session", session))


def test_loops_that_do_not_fit_the_report(tmp_path: Path) -> None:
    session = msgspec.structs.replace(small(), loops=(LoopTrace((), ()),))
    assert "0 event loops but 1 traces of these" in refusal(write_value(tmp_path / "run.session", session))


def test_a_refusal_names_a_hostile_path_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a\n\x1b[31m"
    path.write_bytes(b"x")
    assert r"a\n\x1b[31m is not a poolscope session" in refusal(path)


# One file for all examples is enough: each writes it anew.
@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=300)
@given(data=st.data())
def test_any_damage_is_refused_by_name(data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "run.session"
    session = msgspec.structs.replace(report_support.overlap())
    save(session, path)
    whole = bytearray(path.read_bytes())
    if data.draw(st.booleans()):
        position = data.draw(st.integers(0, len(whole) - 1))
        whole[position] ^= data.draw(st.integers(1, 255))
    else:
        del whole[data.draw(st.integers(0, len(whole) - 1)) :]
    path.write_bytes(whole)
    assert "run.session" in refusal(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(content=st.binary(max_size=200), whole=st.booleans())
def test_any_bytes_are_refused_by_name(content: bytes, whole: bool, tmp_path: Path) -> None:
    path = tmp_path / "run.session"
    if whole:
        write(path, content)
    else:
        path.write_bytes(content)
    assert "run.session" in refusal(path)


# Numbers that msgpack and the model can hold: 64 bits.
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    counts=st.builds(TaskCounts, *[st.integers(0, 2**63 - 1)] * 6),
    seconds=st.floats(allow_nan=False),
    name=st.text(st.characters(exclude_categories=["Cs"])),
)
def test_any_values_come_back(counts: TaskCounts, seconds: float, name: str, tmp_path: Path) -> None:
    session = small()
    pool = msgspec.structs.replace(session.report.pools[0], tasks=counts, busy_seconds=seconds, name=name)
    session = msgspec.structs.replace(session, report=msgspec.structs.replace(session.report, pools=(pool,)))
    save(session, tmp_path / "run.session")
    assert load(tmp_path / "run.session") == session
