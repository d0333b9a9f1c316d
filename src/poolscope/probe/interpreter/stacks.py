"""Which line of a stack is the user's.

A line is (file, line number, qualified function name). The user's files are those that are neither the standard
library, nor an installed package, nor ours, nor made up by the interpreter.
"""

from __future__ import annotations

import os
import sys

from poolscope.probe.interpreter.stored import variable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, FrameType

    Line = tuple[str, int, str]
    #: Where a pool was made ("package/file.py:12"), the name that comes of it, and the variable that it is stored in,
    #: if any.
    Site = tuple[str, str, str]

#: Frames to look at, from the innermost outwards: a runaway recursion must not hold up the sampler.
DEPTH_LIMIT = 200

#: Pseudo files of what people type or pass on a command line; all other `<...>` is generated code.
_TYPED = ("<stdin>", "<string>", "<console>", "<input>", "<ipython-input", "<python-input", "<doctest ")
_INSTALLED = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")
#: Programs that come with us, and are watched like any other.
_SHIPPED = os.path.normcase(os.sep.join(("", "poolscope", "shipped", "examples", "")))
#: Modules that make pools on behalf of other code, and their functions whose result is the pool.
_MAKERS = ("poolscope", "concurrent.futures", "multiprocessing", "asyncio", "threading", "anyio")
_MAKING = ("__init__", "__new__", "Pool", "ThreadPool", "attach")

# One entry for each file on any stack so far. Single dict operations only: any thread may ask.
_known: dict[str, bool] = {}


def _foreign_directories() -> tuple[str, ...]:
    ours = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    scripts = os.path.join(sys.prefix, "Scripts" if os.name == "nt" else "bin")  # what installed packages start by
    directories = [os.path.dirname(os.__file__), ours, scripts]
    return tuple(os.path.normcase(directory) + os.sep for directory in directories)


_foreign = _foreign_directories()


def is_user_file(filename: str) -> bool:
    """Whether a code object's file name is the user's. Remembered per name; asks the system for nothing."""
    known = _known.get(filename)
    if known is None:
        known = _known[filename] = _is_user_file(filename)
    return known


def _is_user_file(filename: str) -> bool:
    if not filename:
        return False
    if filename.startswith("<"):
        return filename.startswith(_TYPED)
    # By the name alone: the system is not asked for the working folder, as this may be the thread of an event loop. The
    # interpreter names files by their whole path; generated code may have another name, and is the user's.
    path = os.path.normcase(os.path.normpath(filename))
    if _SHIPPED in path:
        return True
    return not path.startswith(_foreign) and not any(part in path for part in _INSTALLED)


def _line(code: CodeType, number: int | None) -> Line:
    # Code that belongs to no line of the source has no number.
    return (code.co_filename, number or 0, code.co_qualname)


def _is_generated(frame: FrameType) -> bool:
    # "<string>" is the program of `python -c`, which has no file, but also what dataclasses and the like write.
    return frame.f_code.co_filename == "<string>" and "__file__" in frame.f_globals


def user_lines(frame: FrameType | None, stop: int | None = None) -> list[Line]:
    """Return the lines of `user_place`."""
    return user_place(frame, stop)[0]


def user_place(frame: FrameType | None, stop: int | None = None) -> tuple[list[Line], int]:
    """Return the user's innermost line, then the line of the frame that it called, if any; and the instruction in the
    last one of these. Of a line that takes a lock and does something with it, the instruction tells a thread that waits
    from the one that has the lock.

    Without a line of the user: the innermost one only. `stop` is the `id` of a frame: it and what is outside of it
    do not count. Holds no frame after it returned.
    """
    innermost: tuple[list[Line], int] | None = None
    called: tuple[CodeType, int | None, int] | None = None
    for _ in range(DEPTH_LIMIT):
        if frame is None or id(frame) == stop:
            break
        code = frame.f_code
        number = frame.f_lineno
        if is_user_file(code.co_filename) and not _is_generated(frame):
            line = _line(code, number)
            if called is None:
                return [line], frame.f_lasti
            return [line, _line(*called[:2])], called[2]
        called = (code, number, frame.f_lasti)
        if innermost is None:
            innermost = [_line(code, number)], frame.f_lasti
        frame = frame.f_back
    return ([], 0) if innermost is None else innermost


def creation_site(depth: int = 0) -> Site:
    """Where a pool is being made: ("package/file.py:12", "module:function.variable", "variable").

    The name is that of the function, followed by the variable or attribute that it stores the pool in, if that can be
    read, else by the line if it is the user's: what a library makes keeps its name from one release to the next. Of the
    function: the first one outside of poolscope, anyio, and the standard library's pools and loops, from `depth`
    frames above the caller on. Of the line: where that is called from the user's code, if it is in a library. ("",
    "unknown", "") if there is none.
    """
    try:
        frame: FrameType | None = sys._getframe(depth + 1)
    except ValueError:
        return "", "unknown", ""
    called = "__init__"
    while frame is not None and _makes_for_others(frame.f_globals.get("__name__")):
        called, frame = frame.f_code.co_name, frame.f_back
    if frame is None:
        return "", "unknown", ""
    module, code = frame.f_globals.get("__name__"), frame.f_code
    name = f"{module if isinstance(module, str) else 'unknown'}:{code.co_qualname}"
    # A pool that is older than we are is opened by its first task, whose future may be stored.
    stored_in = variable(frame) if called in _MAKING else ""
    if stored_in:
        name = f"{name}.{stored_in}"
    elif is_user_file(code.co_filename) and not _is_generated(frame):
        name = f"{name}:{frame.f_lineno or 0}"
    return _place(_users(frame) or frame), name, stored_in


def _users(frame: FrameType | None) -> FrameType | None:
    """Return the innermost frame of the user's, from this one outwards."""
    for _ in range(DEPTH_LIMIT):
        if frame is None:
            break
        if is_user_file(frame.f_code.co_filename) and not _is_generated(frame):
            return frame
        frame = frame.f_back
    return None


def _place(frame: FrameType) -> str:
    return f"{_short(frame.f_code.co_filename)}:{frame.f_lineno or 0}"


def _makes_for_others(module: object) -> bool:
    if not isinstance(module, str):
        return False
    return any(module == maker or module.startswith(f"{maker}.") for maker in _MAKERS)


def _short(filename: str) -> str:
    return "/".join(filename.replace(os.sep, "/").split("/")[-2:])
