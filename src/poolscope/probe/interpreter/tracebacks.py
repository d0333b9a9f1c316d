"""What the program sees of our frames: nothing, in tracebacks and where frames are counted.

Where ours stands in the place of a library's function, or around it, three things would show it, and each has its
answer here:

- The traceback of an exception that passes through: `leave_out`.
- A warning or a log record whose `stacklevel` counts frames outwards, and would name our file instead of the caller's
  line: `unseen`. Both leave out the frames of the import machinery, which they know by their file.
- The frame in which a worker runs a task, where a frame is counted and not left out: `in_place_of`.
"""

from __future__ import annotations

from types import FunctionType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType
    from typing import Any, TypeVar

    F = TypeVar("F")

#: What `warnings` and `logging` look for in the file of a frame that does not count ("importlib", "_bootstrap"). The
#: file itself follows.
UNSEEN = "<frozen importlib._bootstrap> "
#: Code that is on one line, in the table of lines (see "Locations table" in the interpreter's own documents): for up to
#: eight instructions, an entry without columns, on the same line as the one before.
_SAME_LINE, _MOST = 0x80 | 13 << 3, 8

#: The slot of `BaseException` itself: a class of the program's, such as a frozen dataclass, may refuse to be written.
_slot: Any = BaseException.__dict__["__traceback__"]
_get, _set = _slot.__get__, _slot.__set__

#: By the code as it was compiled: as `unseen` and as `in_place_of` have it. Single dict operations only: any thread may
#: patch.
copies: dict[CodeType, CodeType] = {}
placed: dict[CodeType, CodeType] = {}


def leave_out(exc: BaseException, *, read: Any = _get, write: Any = _set) -> None:
    """Take the frame that has caught `exc` out of its traceback. A bare `raise` does not add it again."""
    # The names of this module are gone before the program's last threads are, as the interpreter shuts down.
    traceback = read(exc)
    if traceback is not None:
        write(exc, traceback.tb_next)


def leave_out_ours(exc: BaseException) -> None:
    """Take the outermost frames out of its traceback that are ours, up to the first one that is not."""
    traceback = _get(exc)
    while traceback is not None and _is_ours(traceback.tb_frame.f_globals):
        traceback = traceback.tb_next
    _set(exc, traceback)


def unseen(function: F) -> F:
    """Have the frames of a function of ours left out where frames are counted. Returns it; all else as it is."""
    plain: Any = getattr(function, "__func__", function)
    if type(plain) is FunctionType and _is_ours(plain.__globals__):
        plain.__code__ = unseen_code(plain.__code__)
    return function


def unseen_code(code: CodeType) -> CodeType:
    """Return the code of a function of ours as `unseen` has it."""
    if code.co_filename.startswith(UNSEEN):
        return code
    copy = copies.get(code)
    if copy is None:
        copy = copies[code] = code.replace(co_filename=UNSEEN + code.co_filename)
    return copy


def in_place_of(function: Any, file: str, line: int) -> None:
    """Have all of a function of ours be on that line of that file: it stands in the place of the one there."""
    code = function.__code__
    copy = placed.get(code)
    if copy is None:
        whole, rest = divmod(len(code.co_code) // 2, _MOST)
        table = bytes((_SAME_LINE | _MOST - 1, 0)) * whole + (bytes((_SAME_LINE | rest - 1, 0)) if rest else b"")
        copy = code.replace(co_filename=file, co_firstlineno=line, co_linetable=table)
        # On an interpreter with another table it stays where it is.
        if {found for *_, found in copy.co_lines()} != {line}:
            return
        placed[code] = copy
    function.__code__ = copy


def _is_ours(names: dict[str, Any]) -> bool:
    module = names.get("__name__")
    return type(module) is str and module.startswith("poolscope.")
