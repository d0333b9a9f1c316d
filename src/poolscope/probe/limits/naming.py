"""Where a limit was made, and how it is called after that."""

from __future__ import annotations

import os
import sys

from poolscope.probe.interpreter.stacks import DEPTH_LIMIT, is_user_file
from poolscope.probe.interpreter.stored import variable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import CodeType, FrameType
    from typing import Any

    from poolscope.probe.interpreter.stacks import Site

#: Modules that make limits on behalf of other code.
_MAKERS = ("asyncio", "threading", "anyio", "trio", "poolscope")
#: So many places are remembered. A program that makes code as it runs has no end of them.
_PLACES_KEPT = 10_000

# By code and instruction. Single dict operations only: any thread may ask. The code is kept, or its id might be given
# to another one.
_places: dict[tuple[int, int], tuple[CodeType, Site]] = {}


def created_at(frame: FrameType) -> tuple[str, str]:
    """Return the name of what is being made in this frame, and the variable or attribute that it is stored in: of a
    module `module:GATE`, else `module:function.variable`; by the line and with an empty one, if that cannot be read."""
    module, function = frame.f_globals.get("__name__"), frame.f_code.co_qualname
    name, stored_in = f"{module if isinstance(module, str) else 'unknown'}:", variable(frame)
    if not stored_in:
        return f"{name}{function}:{frame.f_lineno or 0}", ""
    return f"{name}{stored_in}" if function == "<module>" else f"{name}{function}.{stored_in}", stored_in


def site_of(frame: FrameType | None) -> Site:
    """Return the place ("package/file.py:12"), name and variable of a limit that is being made in this frame, or
    in one that called it. ("", "unknown", "") if there is none."""
    if frame is not None:
        known = _places.get((id(frame.f_code), frame.f_lasti))
        if known is not None:
            return known[1]
    while frame is not None and _makes_for_others(frame.f_globals.get("__name__")):
        frame = frame.f_back
    if frame is None:
        return "", "unknown", ""
    key = id(frame.f_code), frame.f_lasti
    known = _places.get(key)
    if known is not None:
        return known[1]
    site = (_place(frame), *created_at(frame))
    # Where a library makes it, the place is that of its caller, which is another one each time.
    if is_user_file(frame.f_code.co_filename) and len(_places) < _PLACES_KEPT:
        _places[key] = frame.f_code, site
    return site


def _place(frame: FrameType) -> str:
    users: FrameType | None = frame
    for _ in range(DEPTH_LIMIT):
        if users is None or is_user_file(users.f_code.co_filename):
            break
        users = users.f_back
    shown = users or frame
    file = "/".join(shown.f_code.co_filename.replace(os.sep, "/").split("/")[-2:])
    return f"{file}:{shown.f_lineno or 0}"


def _makes_for_others(module: object) -> bool:
    return isinstance(module, str) and module.partition(".")[0] in _MAKERS


def users_frame(frame: FrameType) -> FrameType:
    """Return the innermost frame of the user's, from this one outwards, through greenlets; else this one."""
    found: FrameType | None = frame
    greenlet: Any = None
    for _ in range(DEPTH_LIMIT):
        if found is None:
            greenlets = sys.modules.get("greenlet")
            greenlet = getattr(greenlet or (greenlets and greenlets.getcurrent()), "parent", None)
            found = getattr(greenlet, "gr_frame", None)
            if found is None:
                break
        if is_user_file(found.f_code.co_filename):
            return found
        found = found.f_back
    return frame


def made_by_user(frame: FrameType | None) -> bool:
    """Whether what is being made in this frame is so at a line of the user's, and not by a library for itself."""
    while frame is not None and (frame.f_code.co_name == "__init__" or _is_ours(frame)):
        frame = frame.f_back
    return frame is not None and is_user_file(frame.f_code.co_filename)


def _is_ours(frame: FrameType) -> bool:
    name = frame.f_globals.get("__name__")
    return isinstance(name, str) and name.startswith("poolscope.")


def place_of_user(frame: FrameType) -> str:
    """Return the user's innermost line, as a place ("package/file.py:12")."""
    return site_of(users_frame(frame))[0]
