"""A recorded run in one file: save it, load it, refuse what it is not.

The file: the line `poolscope session 1`, a big-endian CRC-32 of the payload (4 bytes), the payload's length
(8 bytes), and the payload, which is `model.Session` as msgpack, compressed with zlib.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
import zlib
from typing import BinaryIO

import msgspec

from poolscope.atomic_file import replace
from poolscope.errors import SessionError
from poolscope.model import Session, storable
from poolscope.plain import one_line

VERSION = 1

#: The most bytes a session may take, packed or unpacked; a damaged or hostile file must not fill the memory.
MAX_BYTES = 1 << 30

#: What is packed may unpack to so many times as much, and these bytes more. Recorded tasks take a third when they are
#: packed, timelines a tenth; what takes less than that is packed in another way.
MOST_TIMES = 20
ROOM_BYTES = 2 << 20

#: Seconds that no run has lasted.
_FOREVER = 1e10

_MAGIC = b"poolscope session "
_FIRST_LINE = re.compile(rb"poolscope session ([1-9][0-9]{0,8})\n")
_HEADER = struct.Struct(">IQ")

#: Bytes of one task in `PoolTrace.tasks`.
_TASK_BYTES = 4 * 8

Path = str | os.PathLike[str]


def save(session: Session, path: Path) -> None:
    """Write the session to `path`, whole or not at all; a device or a pipe gets it as it comes.

    A new file can be read by its owner only (it holds lines of source code); one that is replaced keeps its
    permissions. Raises SessionError where it cannot be written.
    """
    data = pack(session, path)
    try:
        target = os.path.realpath(path)  # behind links, so that they stay
        if os.path.isdir(target):
            raise IsADirectoryError(errno.EISDIR, "it is a directory, name a file in it")
        # Replacing /dev/null by a file would be the end of many other programs.
        if os.path.exists(target) and not os.path.isfile(target):
            with open(target, "wb") as file:
                file.write(data)
        else:
            replace(target, data, mode=0o600, sync=True)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise _unwritable(path, error) from error


def load(path: Path) -> Session:
    """Return the session in the file `path`.

    Raises SessionError, which names the file, for anything else than a whole session of a version that this
    poolscope reads. Of one that is whole, the numbers may still be anything but the duration: a reader must not
    rely on more than their types.
    """
    try:
        with open(path, "rb") as file:
            return _read(file, _named(path))
    except IsADirectoryError as error:
        raise SessionError(f"{_named(path)} is a directory: name a session file") from error
    except FileNotFoundError as error:
        raise SessionError(
            f"there is no session {_named(path)}: write one with poolscope run --session PATH"
        ) from error
    except MemoryError as error:
        raise _too_large(_named(path)) from error
    except (OSError, ValueError) as error:
        raise SessionError(f"cannot read the session {_named(path)}: {_reason(error)}") from error


def unusable(path: Path, error: Exception) -> SessionError:
    """Return what is said of a session whose content made its reader fail."""
    if isinstance(error, MemoryError):
        return _too_large(_named(path))
    return _damaged(_named(path), f"its numbers fit no run: {type(error).__name__}: {one_line(str(error), 200)}")


def pack(session: Session, path: Path) -> bytes:
    """Return the bytes of the file. `path` is for the SessionError that a session beyond MAX_BYTES raises."""
    try:
        plain = msgspec.msgpack.encode(session)
    except UnicodeEncodeError:
        # Arguments and file names that are not UTF-8 reach us with lone surrogates: msgpack cannot hold them.
        plain = msgspec.msgpack.encode(storable(msgspec.to_builtins(session, builtin_types=(bytes,))))
    if len(plain) > MAX_BYTES:
        raise SessionError(
            f"the session {_named(path)} would take {len(plain) >> 20} MiB, the most is {MAX_BYTES >> 20}: "
            "record less with a smaller keep_tasks"
        )
    payload = zlib.compress(plain, level=3)
    if len(plain) > _most_unpacked(len(payload)):
        payload = zlib.compress(plain, level=0)
    header = _HEADER.pack(zlib.crc32(payload), len(payload))
    return _MAGIC + str(VERSION).encode() + b"\n" + header + payload


def _read(file: BinaryIO, name: str) -> Session:
    first = file.readline(64)
    _check_version(first, name)
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise _truncated(name)
    crc, length = _HEADER.unpack(header)
    if length > MAX_BYTES:
        raise _damaged(name, "its length is impossible")
    status = os.fstat(file.fileno())
    if stat.S_ISREG(status.st_mode):  # before reading: a wrong length must not cost memory
        _check_length(status.st_size - len(first) - len(header), length, name)
    payload = file.read(length + 1)
    _check_length(len(payload), length, name)
    if zlib.crc32(payload) != crc:
        raise _damaged(name, "its checksum does not match")
    return _decode(_decompress(payload, name), name)


def _check_version(first: bytes, name: str) -> None:
    match = _FIRST_LINE.fullmatch(first)
    if match is None:
        if first and (_MAGIC + str(VERSION).encode() + b"\n").startswith(first):
            raise _truncated(name)
        raise SessionError(f"{name} is not a poolscope session: name a file that poolscope run --session has written")
    version = int(match[1])
    if version > VERSION:
        raise SessionError(
            f"the session {name} (version {version}) was written by a later poolscope; "
            f"this one reads version {VERSION}: update poolscope"
        )


def _check_length(found: int, expected: int, name: str) -> None:
    if found < expected:
        raise _truncated(name)
    if found > expected:
        raise _damaged(name, "something follows its end")


def _most_unpacked(packed: int) -> int:
    """Return the most bytes that so many packed ones may become."""
    return min(MAX_BYTES, ROOM_BYTES + MOST_TIMES * packed)


def _decompress(payload: bytes, name: str) -> bytes:
    decompressor = zlib.decompressobj()
    most = _most_unpacked(len(payload))
    try:
        plain = decompressor.decompress(payload, most)
    except zlib.error as error:
        raise _damaged(name, "it cannot be decompressed") from error
    if decompressor.unconsumed_tail:
        raise SessionError(
            f"the session {name} unpacks to more than {most >> 20} MiB, which no poolscope writes: do not use it"
        )
    if not decompressor.eof or decompressor.unused_data:
        raise _damaged(name, "it cannot be decompressed")
    return plain


def _decode(plain: bytes, name: str) -> Session:
    try:
        session = msgspec.msgpack.decode(plain, type=Session)
    except msgspec.ValidationError as error:
        raise _damaged(name, f"unexpected content: {one_line(str(error))}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(name, "it cannot be decoded") from error
    duration = session.report.duration_seconds
    if not 0 <= duration < _FOREVER:  # nor if it is not a number
        raise _damaged(name, f"it lasted {duration} seconds")
    if len(session.traces) != len(session.report.pools):
        raise _damaged(name, f"{len(session.report.pools)} pools but {len(session.traces)} traces")
    for pool, trace in zip(session.report.pools, session.traces, strict=True):
        if len(trace.tasks) % _TASK_BYTES or len(trace.workers) not in (0, len(trace.tasks) // 4):
            raise _damaged(name, f"the tasks of pool {one_line(pool.name)} are cut off")
    if len(session.loops) not in (0, len(session.report.event_loops)):
        raise _damaged(name, f"{len(session.report.event_loops)} event loops but {len(session.loops)} traces of these")
    return session


def _unwritable(path: Path, error: Exception) -> SessionError:
    reason = _reason(error)
    if isinstance(error, FileNotFoundError):
        reason = f"there is no directory {_named(os.path.dirname(os.path.realpath(path)))}, create it"
    elif isinstance(error, PermissionError):
        reason = "permission denied, name another place"
    return SessionError(f"cannot write the session {_named(path)}: {reason}")


def _truncated(name: str) -> SessionError:
    return SessionError(f"the session {name} is truncated: copy it again or record it again")


def _too_large(name: str) -> SessionError:
    return SessionError(
        f"the session {name} does not fit into memory: record less of it, by keep_tasks in the settings"
    )


def _damaged(name: str, why: str) -> SessionError:
    return SessionError(f"the session {name} is damaged ({why}): copy it again or record it again")


def _reason(error: Exception) -> str:
    return one_line((error.strerror if isinstance(error, OSError) else None) or str(error))


def _named(path: Path) -> str:
    return one_line(os.fspath(path))
