"""Finds the variable or attribute in which a frame stores the result of its present call, from its bytecode.

`dis` tells of each instruction its name, its argument and its effect on the stack; the version does not matter. For an
unknown shape there is no answer: the caller then names the place by its line.
"""

from __future__ import annotations

from poolscope.probe.interpreter.standard import found_first, standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import CodeType, FrameType
    from typing import Any

#: What `dis` imports. If one of them is the program's own, we must not run it.
_NEEDED = ("collections", "io", "opcode", "types", "_opcode", "_opcode_metadata")
#: Code longer than this (bytes) takes too long to read; so many instructions after the call tell where it is stored.
LONGEST_CODE = 32_768
MOST_INSTRUCTIONS = 30
#: The most answers to remember: a program may make a pool for each request.
REMEMBERED = 256

_IDLE = ("CACHE", "EXTENDED_ARG", "NOP", "NOT_TAKEN", "RESUME")
_NAMES = ("STORE_FAST", "STORE_NAME", "STORE_GLOBAL", "STORE_DEREF")
#: What is put on the stack beside what was returned: the owner of an attribute.
_LOADS = ("LOAD_CLASSDEREF", "LOAD_CONST", "LOAD_DEREF", "LOAD_FAST", "LOAD_FROM_DICT", "LOAD_GLOBAL", "LOAD_NAME")
_ENTERS = ("BEFORE_WITH", "LOAD_SPECIAL")
#: What stands between the begin of a `with` and the name that it is given.
_ENTERING = (*_ENTERS, "CALL", "COPY", "PRECALL", "PUSH_NULL", "SWAP")

# By code and instruction. Single dict operations only: any thread may make pools.
_known: dict[tuple[CodeType, int], str] = {}


def variable(frame: FrameType) -> str:
    """Return the name that the frame gives to what it calls now: of a variable, or of an attribute; empty if it gives
    it none, or that cannot be read. Never raises."""
    try:
        key = frame.f_code, frame.f_lasti
        found = _known.get(key)
        if found is None:
            found = _read(*key)
            if len(_known) >= REMEMBERED:
                _known.clear()
            _known[key] = found
        return found
    except Exception:
        return ""


def _read(code: CodeType, at: int) -> str:
    if len(code.co_code) > LONGEST_CODE:
        return ""
    dis = _dis()
    if dis is None:
        return ""
    instructions = iter(dis.get_instructions(code))
    # The instruction that is under way may have room behind it, where the interpreter keeps what it has learned.
    after: list[Any] = []
    for instruction in instructions:
        if instruction.offset > at:
            after.append(instruction)
            if len(after) >= MOST_INSTRUCTIONS:
                break
    return _stored(after, dis.stack_effect)


def _stored(instructions: Iterable[Any], effect: Any) -> str:
    """Return the name under which these instructions store what is on top of the stack as they begin."""
    above = 0  # what lies on the stack above what was returned, or above the copy of it that is stored
    entering = False
    jump: int | None = None
    for instruction in instructions:
        name = instruction.opname
        if jump is not None and instruction.offset < jump:
            continue
        jump = None
        if name in _IDLE:
            continue
        if name.startswith(_NAMES):
            return _text(instruction.argval) if not above else ""
        if name == "STORE_ATTR":
            return _text(instruction.argval) if above == 1 else ""
        if name in _ENTERS:
            entering, above = True, 0
        elif name == "JUMP_FORWARD":
            jump = instruction.argval
        elif entering and name in _ENTERING:
            continue
        elif name == "COPY" and instruction.arg == 1 and not above:
            continue  # the copy is what is stored first
        elif name.startswith(_LOADS) or (above and name == "LOAD_ATTR"):
            above += effect(instruction.opcode, instruction.arg)
        else:
            return ""
    return ""


def _text(about: Any) -> str:
    """Return the name that an instruction is about: the first of those that are stored or loaded together."""
    name = about[0] if isinstance(about, tuple) and about else about
    return name if isinstance(name, str) else ""


def _dis() -> Any:
    """Return the module, unless the program has one of its own where `dis` imports another one."""
    return standard("dis") if all(map(found_first, _NEEDED)) else None
