"""Generates the reference pages from the code when the site is built.

A page holds a line `<!-- generated: NAME -->`, which is replaced by what `GENERATORS[NAME]` returns (Markdown). So a
page is never older than the code, and no copy is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import entry_points
from typing import Any
from unittest import mock

import msgspec
from pygments.lexers.special import TextLexer  # type: ignore[import-untyped]  # no stubs here
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.pycode import ModuleAnalyzer

import poolscope
from poolscope import model
from poolscope.config.schema import schema

MARK = re.compile(r"^<!-- generated: (\S+) -->$", re.MULTILINE)
#: JSON's names of types.
JSON_TYPES: dict[object, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "true or false",
    type(None): "null",
}


def cell(text: object) -> str:
    """Text for a cell of a table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> Iterator[str]:
    """Return the lines of a table, with an empty one after it."""
    yield f"| {' | '.join(head)} |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield f"| {' | '.join(map(cell, row))} |"
    yield ""


# --- the command line


class _Shown(BaseException):
    """Carries a parser out of the command that is about to print its help."""


def parser_of(*words: str) -> argparse.ArgumentParser:
    """Return the parser that answers `poolscope WORDS --help`, taken from the installed command itself."""
    [script] = entry_points(group="console_scripts", name="poolscope")
    main = script.load()

    def show(self: argparse.ArgumentParser, _file: object = None) -> None:
        raise _Shown(self)

    try:
        with contextlib.suppress(SystemExit), mock.patch.object(argparse.ArgumentParser, "print_help", show):
            main([*words, "--help"])
    except _Shown as shown:
        found: argparse.ArgumentParser = shown.args[0]
        vars(found)["color"] = False  # from 3.14 on a terminal gets colours
        return found
    raise ExtensionError(f"poolscope {' '.join(words)} --help shows no help of argparse")


def command_line() -> Iterator[str]:
    """Each command: its usage, its arguments and options."""
    whole = parser_of()
    [commands] = [it for it in whole._actions if isinstance(it, argparse._SubParsersAction)]
    about = {it.dest: it.help for it in commands._choices_actions}
    yield from table(("command", "what it does"), ((f"[`{name}`](#{name})", text) for name, text in about.items()))
    for name in commands.choices:
        parser = parser_of(name)
        yield from (f"## {name}", "", f"{str(about[name])[:1].upper()}{str(about[name])[1:]}.", "", "```text")
        # As `poolscope NAME --help` has it, without its first word.
        yield from parser.format_usage().removeprefix("usage: ").rstrip().splitlines()
        yield from ("```", "")
        rows = []
        for action in parser._actions:
            if action.help == argparse.SUPPRESS:
                continue
            words = ", ".join(action.option_strings) or str(action.metavar or action.dest)
            value = f" {action.metavar or action.dest.upper()}" if action.option_strings and action.nargs != 0 else ""
            choices = ", ".join(f"`{it}`" for it in action.choices or ())
            rows.append((f"`{words}{value}`", action.help or f"one of {choices}"))
        yield from table(("argument", "what it does"), rows)


# --- the settings


def settings() -> Iterator[str]:
    """Each key of the settings, section by section, from the JSON Schema that editors use."""
    yield from _section("", schema())


def _section(path: str, section: dict[str, Any]) -> Iterator[str]:
    keys = section["properties"]
    inner = {name: it for name, it in keys.items() if "properties" in it or "properties" in it.get("items", {})}
    yield from (f"## {path or 'At the top'}", "")
    if path:
        yield from (section["description"], "")
    yield from table(
        ("key", "default", "accepts", "what it does"),
        (
            (f"`{name}`", _default(it), _accepts(it), it["description"])
            for name, it in keys.items()
            if name not in inner
        ),
    )
    for name, it in inner.items():
        below = f"{path}.{name}" if path else name
        if "items" in it:
            yield from _section(f"{below}[]", it["items"] | {"description": it["description"]})
        else:
            yield from _section(below, it)


def _default(key: dict[str, Any]) -> str:
    return f"`{json.dumps(key['default'])}`" if "default" in key else "required"


def _accepts(key: dict[str, Any]) -> str:
    if "anyOf" in key:
        return " or ".join(dict.fromkeys(_accepts(it) for it in key["anyOf"]))
    kinds = [key["type"]] if isinstance(key["type"], str) else key["type"]
    kinds = ["true or false" if it == "boolean" else it for it in kinds]
    if kinds[0] == "array":
        return f"list of 1 to {key['maxItems']}: {_accepts(key['items'])}"
    bounds = [("from", "minimum"), ("above", "exclusiveMinimum"), ("to", "maximum")]
    within = [f"{word} {_number(key[name])}" for word, name in bounds if name in key]
    return " or ".join([" ".join([kinds[0], *within]), *kinds[1:]])


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:g}"


# --- the metrics


def metrics() -> Iterator[str]:
    """Each family as the endpoint describes it."""
    families = sorted(poolscope.collector().describe(), key=lambda family: family.name)
    suffix = {"counter": "_total", "info": "_info"}
    yield from table(
        ("name", "type", "help"),
        ((f"`{it.name}{suffix.get(it.type, '')}`", it.type, it.documentation) for it in families),
    )


# --- the report


def report() -> Iterator[str]:
    """Each object of the JSON report: its fields, from the report itself downwards."""
    notes = ModuleAnalyzer.for_module(model.__name__).find_attr_docs()
    waiting: list[type[msgspec.Struct]] = [model.Report]
    seen = set(waiting)
    while waiting:
        kind = waiting.pop(0)
        hints = typing.get_type_hints(kind)
        below: list[type[msgspec.Struct]] = []
        rows = []
        for field in kind.__struct_fields__:
            note = notes.get((kind.__name__, field))
            if note is None:
                raise ExtensionError(f"{kind.__name__}.{field} says nothing: put a comment `#:` above it")
            rows.append((f"`{field}`", _type(hints[field], below), " ".join(note)))
        yield from (f"## {kind.__name__}", "", " ".join((kind.__doc__ or "").split()), "")
        yield from table(("field", "type", "what"), rows)
        fresh = [it for it in dict.fromkeys(below) if it not in seen]
        seen.update(fresh)
        waiting += fresh


def _type(hint: Any, structs: list[type[msgspec.Struct]]) -> str:
    """Return a type in the words of JSON. Appends the structs in it to `structs`."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        structs.append(hint)
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        inside = _type(arguments[0], structs)
        return f"list of {inside if inside.startswith('[') else inside + 's'}"
    if origin is dict:
        return f"object of {_type(arguments[1], structs)}s by name"
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type(it, structs) for it in arguments)
    if origin is typing.Literal:
        return " or ".join(f'`"{it}"`' for it in arguments)
    return JSON_TYPES[hint]


GENERATORS: dict[str, Callable[[], Iterator[str]]] = {
    "cli": command_line,
    "settings": settings,
    "metrics": metrics,
    "report": report,
}


def generate(_app: Sphinx, _page: str, source: list[str]) -> None:
    """Replace the marks of a page."""
    source[0] = MARK.sub(lambda mark: "\n".join(GENERATORS[mark[1]]()), source[0])


def readable(_app: Sphinx, _what: str, _name: str, _object: object, _options: object, lines: list[str]) -> None:
    """Turn Markdown's marks of code in a docstring into those of reStructuredText, which autodoc reads."""
    # What an executor adds to the standard docstring is indented as in the source, where CPython has taken that off.
    lines[:] = [re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", re.sub(r"^ {8}(?= {4})", "", line)) for line in lines]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx, which calls this."""
    # The picture of docs/architecture.md, which a test reads.
    app.add_lexer("layers", TextLexer)
    app.connect("source-read", generate)
    # Before napoleon.
    app.connect("autodoc-process-docstring", readable, priority=400)
    return {"parallel_read_safe": True}
