"""Frames between a watched process and its parent, and a connection that never hurts the program."""

from __future__ import annotations

import json
import os
import socket
from array import array
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poolscope.probe.transport import channel
from poolscope.probe.transport.channel import Channel, ChannelClosed, Decoder, FrameError, dumps, encode

INTS = st.integers(-(2**63), 2**63 - 1)
BATCH = ("pool_batch", 3, 10**12, 4, 4, 55, 0)

HELLO = ("hello", 1, 42, 41, ["python", "a b.py"], "3.13.0", 123456789012345, True)


def plain(messages: list[list[Any]]) -> list[list[Any]]:
    """With lists in the place of arrays."""
    return [[list(item) if isinstance(item, array) else item for item in message] for message in messages]


def decoded(data: bytes) -> list[list[Any]]:
    return plain(Decoder().feed(data))


def test_a_message_comes_back() -> None:
    assert decoded(encode(HELLO)) == [list(HELLO)]


@given(st.lists(st.lists(INTS, max_size=20), min_size=5, max_size=5))
def test_a_batch_comes_back_with_its_integers(lists: list[list[int]]) -> None:
    assert decoded(encode((*BATCH, *lists))) == [[*BATCH, *lists]]


def test_the_integers_of_a_batch_are_little_endian_behind_the_json() -> None:
    frame = encode((*BATCH, [1, -1], [], [], [], [258]))
    assert frame.endswith(b"\x01" + 7 * b"\0" + 8 * b"\xff" + b"\x02\x01" + 6 * b"\0")
    assert int.from_bytes(frame[4:8], "big") == 24
    length = int.from_bytes(frame[:4], "big")
    assert json.loads(frame[8 : 8 + length]) == [*BATCH, 2, 0, 0, 0, 1]


@given(st.data())
def test_frames_may_come_in_any_pieces(data: st.DataObject) -> None:
    messages = [HELLO, (*BATCH, [1, 2, 3, 4, 5], [], [], [], [7, 8]), ("bye", 5)]
    stream = b"".join(encode(message) for message in messages)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    decoder = Decoder()
    found: list[list[Any]] = []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += plain(decoder.feed(stream[begin:end]))
    assert [message[0] for message in found] == ["hello", "pool_batch", "bye"]
    assert found[1][-1] == [7, 8]


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 8,
        b"\0\0\0\x02\0\0\0\0{}",
        b"\0\0\0\x02\0\0\0\0[]",
        b"\0\0\0\x02\0\0\0\0[1",
        b"\0\0\0\x03\0\0\0\0[1\xff",
        b"\0\0\0\x03\0\0\0\x08[1]" + bytes(8),
        b"\0\0\x40\0\0\0\0\0" + b"[" * 0x4000,
        b"\0\0\0\x04\0\0\0\0[1]x",
    ],
)
def test_what_is_no_frame_is_refused(data: bytes) -> None:
    with pytest.raises(FrameError):
        decoded(data)


@pytest.mark.parametrize("lengths", [[1, 0, 0, 0, 0], [-1, 1, 0, 0, 0], [True, 0, 0, 0, 0], ["1"], [0.5]])
def test_a_batch_with_impossible_lengths_is_refused(lengths: list[Any]) -> None:
    text = json.dumps([*BATCH, *lengths]).encode()
    with pytest.raises(FrameError):
        decoded(len(text).to_bytes(4, "big") + (16).to_bytes(4, "big") + text + bytes(16))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_our_json_is_json(value: Any) -> None:
    text = dumps(value)
    assert text.isascii()
    assert json.loads(text) == value


def test_what_json_cannot_hold_is_replaced() -> None:
    assert json.loads(dumps(["caf\udce9", float("nan"), float("inf")])) == ["caf\\udce9", None, None]


def test_a_string_of_the_program_cannot_run_its_code() -> None:
    class Odd(str):
        def encode(self, *args: Any) -> bytes:
            raise RuntimeError

        def __str__(self) -> str:
            raise RuntimeError

    assert json.loads(dumps([Odd("x")])) == ["x"]


def test_other_objects_are_refused() -> None:
    with pytest.raises(TypeError, match="cannot hold a object"):
        dumps([object()])


@pytest.fixture
def listener(tmp_path: Path) -> Any:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        server.settimeout(5)
        yield server


@pytest.fixture
def pair(listener: socket.socket) -> Any:
    sender = Channel(listener.getsockname())
    receiver, _ = listener.accept()
    with receiver:
        yield sender, receiver
        sender.close()


def descriptors() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/fd")}


def test_a_message_arrives_and_the_end_shows(pair: tuple[Channel, socket.socket]) -> None:
    sender, receiver = pair
    sender.send(("bye", 7))
    assert decoded(receiver.recv(1000)) == [["bye", 7]]
    sender.close()
    assert receiver.recv(1000) == b""


def test_messages_that_may_wait_arrive_together_and_in_order(pair: tuple[Channel, socket.socket]) -> None:
    sender, receiver = pair
    receiver.setblocking(False)
    sender.put(("bye", 1))
    sender.put((*BATCH, [1], [], [], [], []))
    with pytest.raises(BlockingIOError):
        receiver.recv(1000)
    sender.flush()
    assert decoded(receiver.recv(1000)) == [["bye", 1], [*BATCH, [1], [], [], [], []]]
    sender.flush()
    sender.put(("bye", 2))
    sender.send(("bye", 3))
    assert decoded(receiver.recv(1000)) == [["bye", 2], ["bye", 3]]
    with pytest.raises(BlockingIOError):
        receiver.recv(1000)
    for number in range(4000):
        sender.put(("bye", number))
    assert len(receiver.recv(1 << 20)) > 30_000  # it is not kept without end


def test_what_waits_for_a_parent_that_is_gone_is_told_once(pair: tuple[Channel, socket.socket]) -> None:
    sender, receiver = pair
    receiver.close()
    sender.put(("bye", 1))
    with pytest.raises(ChannelClosed):
        sender.flush()
    sender.put(("bye", 2))
    sender.flush()
    assert not sender.waiting


def test_the_descriptor_is_out_of_the_programs_way(listener: socket.socket) -> None:
    before = descriptors()
    sender = Channel(listener.getsockname())
    added = descriptors() - before
    assert len(added) == 1
    assert min(added) >= min(4096, os.sysconf("SC_OPEN_MAX")) - 24
    assert not os.get_inheritable(min(added))
    sender.close()
    assert descriptors() == before


def test_no_parent_is_an_os_error_that_leaves_nothing(tmp_path: Path) -> None:
    before = descriptors()
    with pytest.raises(OSError, match="No such file"):
        Channel(str(tmp_path / "none"))
    assert descriptors() == before


def test_a_parent_that_is_gone_is_told_once(pair: tuple[Channel, socket.socket]) -> None:
    sender, receiver = pair
    receiver.close()
    with pytest.raises(ChannelClosed):
        sender.send(("bye", 1))
    sender.send(("bye", 2))  # nothing, quietly


class Slow:
    """A socket that takes a byte each so many times, and is full at the others."""

    def __init__(self, descriptor: int, every: int) -> None:
        self._descriptor = descriptor
        self._every = every
        self.timeout: float | None = None
        self.attempts = 0
        self.taken = b""

    def fileno(self) -> int:
        return self._descriptor

    detach = fileno

    def settimeout(self, seconds: float) -> None:
        self.timeout = seconds

    def sendmsg(self, buffers: list[Any], control: list[Any], flags: int) -> int:
        self.attempts += 1
        if self._every == 0 or self.attempts % self._every:
            if self.timeout == 0:
                raise BlockingIOError
            raise TimeoutError("timed out")
        self.taken += bytes(buffers[0][:1])
        return 1


def slow(sender: Channel, monkeypatch: pytest.MonkeyPatch, every: int) -> Slow:
    assert sender._socket is not None
    made = Slow(sender._socket.detach(), every)
    made.settimeout(0)
    monkeypatch.setattr(sender, "_socket", made)
    return made


def test_a_parent_that_does_not_read_is_not_waited_for(
    pair: tuple[Channel, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, _ = pair
    full = slow(sender, monkeypatch, every=0)
    for number in range(10):
        sender.put(("bye", number))
        sender.flush()
    assert full.attempts == 10
    assert full.timeout == 0
    assert sender.waiting == 10 * len(encode(("bye", 1)))


def test_in_the_end_it_is_waited_for_while_it_reads(
    pair: tuple[Channel, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, _ = pair
    busy = slow(sender, monkeypatch, every=channel._ATTEMPTS)
    sender.put(("bye", 1))
    sender.put(("bye", 2))
    assert sender.finish()
    assert decoded(busy.taken) == [["bye", 1], ["bye", 2]]
    assert sender.waiting == 0


def test_in_the_end_a_parent_that_does_not_read_is_given_up(
    pair: tuple[Channel, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, _ = pair
    full = slow(sender, monkeypatch, every=0)
    sender.put(("bye", 1))
    assert not sender.finish()
    assert full.attempts == channel._ATTEMPTS


def test_frames_of_any_size_arrive_as_there_is_room(pair: tuple[Channel, socket.socket]) -> None:
    sender, receiver = pair
    messages: list[tuple[Any, ...]] = [
        (*BATCH, list(range(size)), [], [], [], []) for size in (0, 30_000, 1, 30_000, 2, 30_000)
    ] * 5
    for message in messages:
        sender.put(message)
    sender.flush()
    assert sender.waiting > 1_000_000
    receiver.setblocking(False)
    decoder, found = Decoder(), []
    while sender.waiting:
        found += decoder.feed(receiver.recv(50_000))
        sender.flush()
    while len(found) < len(messages):
        found += decoder.feed(receiver.recv(50_000))
    assert plain(found) == [list(message) for message in messages]


def test_nothing_is_written_into_a_descriptor_that_the_program_reused(
    pair: tuple[Channel, socket.socket], tmp_path: Path
) -> None:
    sender, receiver = pair
    assert sender._socket is not None
    number = sender._socket.fileno()
    os.close(number)
    file = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    os.dup2(file, number)
    try:
        with pytest.raises(ChannelClosed):
            sender.send(("bye", 1))
        os.fstat(number)  # still open: it is not ours to close
        assert (tmp_path / "file").read_bytes() == b""
    finally:
        os.close(number)
        os.close(file)
    assert receiver.recv(10) == b""


def test_a_program_that_closed_our_descriptor_is_left_alone(pair: tuple[Channel, socket.socket]) -> None:
    sender, _ = pair
    assert sender._socket is not None
    os.close(sender._socket.fileno())
    with pytest.raises(ChannelClosed):
        sender.send(("bye", 1))
    sender.close()
