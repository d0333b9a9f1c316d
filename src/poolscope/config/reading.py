"""YAML or plain values in, one `Settings` out, or a line for each thing that is wrong.

A file is refused as a whole: nothing starts half-configured. A `ConfigError` says in one line what is wrong first: the
file, the line and the key path, what was expected and what was found.
"""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from poolscope.config import mappings
from poolscope.config.keys import BUCKETS, EXPECTED, MAX_BUCKETS, MAX_MAPPINGS, MAX_SECONDS, is_number
from poolscope.config.settings import EndpointSettings, MetricsSettings, PoolSettings, Settings, TlsSettings
from poolscope.config.wording import joined, one_line, shown
from poolscope.config.yamltree import MAX_CHARACTERS, MISTAKEN, read
from poolscope.errors import ConfigError
from poolscope.model import Thresholds


def load(path: str | os.PathLike[str]) -> Settings:
    """Return the settings in a file; an empty file holds the defaults.

    Raises ConfigError, in one line, for a file that cannot be read or used.
    """
    where = one_line(os.fspath(path))
    try:
        with open(path, "rb") as file:
            data = file.read(4 * MAX_CHARACTERS + 1)
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(f"{where}: this settings file cannot be read: {one_line(reason)}") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        found = f"byte 0x{data[error.start]:02x}"
        raise ConfigError(f"{where}, line {line}: expected text in UTF-8, found {found}") from error
    return parse(text, where)


def parse(text: str, where: str) -> Settings:
    """Return the settings in a YAML text; `where` is what an error calls it.

    Raises ConfigError, and nothing else, whatever the text.
    """
    where = one_line(where)
    tree = read(text, where)
    return _Reader(where, tree.lines, tree.problems).settings(tree.value)


def from_mapping(values: Mapping[str, Any], where: str = "settings") -> Settings:
    """Return the settings in Python values of the same keys.

    Raises ConfigError for what a file could not hold either.
    """
    return _Reader(one_line(where), {}, []).settings(values)


def environment_settings(environ: Mapping[str, str]) -> Settings:
    """Return the settings that POOLSCOPE_CONFIG (a file) and POOLSCOPE_LISTEN (an address) name; empty: not set.

    Raises ConfigError as `load` does.
    """
    path = environ.get("POOLSCOPE_CONFIG")
    settings = load(path) if path else Settings()
    listen = environ.get("POOLSCOPE_LISTEN")
    return settings.with_listen(listen, "POOLSCOPE_LISTEN") if listen else settings


_SECTIONS: dict[str, type[msgspec.Struct]] = {
    "endpoint": EndpointSettings,
    "tls": TlsSettings,
    "detection": Thresholds,
    "metrics": MetricsSettings,
}
#: More problems of one file are not reported.
_MAX_PROBLEMS = 100

#: In place of a value that cannot be used, and has been reported.
_REFUSED = MISTAKEN


class _Reader:
    """Plain values to `Settings`. All mistakes are reported, in reading order."""

    def __init__(self, where: str, lines: Mapping[str, int], problems: Sequence[tuple[int, str]]) -> None:
        self._where = where
        self._lines = lines
        self._problems = list(problems)

    def settings(self, value: Any) -> Settings:
        content = self._section(value, Settings, "")
        if self._problems:
            # Stable: those without a line stay in the order of the keys.
            told = [text for _, text in sorted(self._problems, key=lambda problem: problem[0])]
            more = len(told) - _MAX_PROBLEMS
            raise ConfigError(*told[:_MAX_PROBLEMS], *([f"{self._where}: and {more} more"] if more > 0 else ()))
        return msgspec.convert(content, Settings)

    def _section(self, value: Any, kind: type[msgspec.Struct], path: str) -> dict[str, Any]:
        if value is None or value is _REFUSED:  # `detection:` with every key below it commented out
            return {}
        if not isinstance(value, Mapping):
            self._wrong(path, "keys with values (key: value)", value)
            return {}
        read = {key: self._value(key, item, kind, path) for key, item in value.items()}
        if kind is TlsSettings and isinstance(read.get("key"), str) and read.get("certificate") is None:
            self._wrong(joined(path, "key"), "the certificate that it belongs to beside it", None)
        return {key: item for key, item in read.items() if item is not _REFUSED}

    def _value(self, key: Any, value: Any, kind: type[msgspec.Struct], section: str) -> Any:
        path = joined(section, key)
        if key not in kind.__struct_fields__:
            return self._unknown(path, key, kind.__struct_fields__)
        if value is _REFUSED:
            return _REFUSED
        if key in _SECTIONS:
            return self._section(value, _SECTIONS[key], path)
        if key == "pools":
            rules = enumerate(self._list(value, path, "rules"))
            return [rule for at, item in rules if (rule := self._rule(item, f"{path}[{at}]")) is not _REFUSED]
        if key in BUCKETS:
            return self._buckets(value, path)
        if key == "mappings":
            return self._mappings(value, path)
        expected = EXPECTED[key]
        if key == "listen" and isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 65535:
            value = str(value)  # a port alone
        inherits = kind is PoolSettings and key in Thresholds.__struct_fields__
        if value is None and (expected.optional or inherits):
            return None
        return value if expected.accepts(value) else self._wrong(path, expected.text, value)

    def _rule(self, value: Any, path: str) -> Any:
        if value is _REFUSED:
            return _REFUSED
        if not isinstance(value, Mapping):
            return self._wrong(path, "a rule (match: PATTERN, and what differs)", value)
        rule = self._section(value, PoolSettings, path)
        if "match" not in value:
            return self._wrong(path, "the key match (a shell pattern of pool names)", value)
        return rule

    def _mappings(self, value: Any, path: str) -> Any:
        found = self._list(value, path, "mappings")
        if len(found) > MAX_MAPPINGS:
            return self._wrong(path, f"a list of at most {MAX_MAPPINGS} mappings", value)
        for at, item in enumerate(found):
            try:
                mappings.read(item)
            except mappings.MappingError as error:
                inner = error.path and (error.path if error.path.startswith("[") else f".{error.path}")
                self._tell(f"{path}[{at}]{inner}", error.what)
        return list(found)

    def _buckets(self, value: Any, path: str) -> Any:
        bounds = self._list(value, path, "numbers")
        if bounds is _NO_LIST:
            return _REFUSED
        if not 1 <= len(bounds) <= MAX_BUCKETS:
            return self._wrong(path, f"a list of 1 to {MAX_BUCKETS} numbers", value)
        before = 0.0
        for at, bound in enumerate(bounds):
            if bound is _REFUSED:
                return _REFUSED
            if not is_number(bound) or not before < bound <= MAX_SECONDS or not math.isfinite(bound):
                after = f"above {before:g} (the one before)" if at else "above 0"
                # The next ones are compared with it: one problem for the whole list.
                return self._wrong(f"{path}[{at}]", f"a number of seconds {after} and up to {MAX_SECONDS:.0f}", bound)
            before = bound
        return [float(bound) for bound in bounds]

    def _list(self, value: Any, path: str, what: str) -> Sequence[Any]:
        if value is None and what in ("rules", "mappings"):
            return []
        if isinstance(value, (list, tuple)):
            return value
        self._wrong(path, f"a list of {what}", value)
        return _NO_LIST

    def _unknown(self, path: str, key: Any, known: Sequence[str]) -> object:
        if len(self._problems) > _MAX_PROBLEMS:  # not reported any more, and looking for what is meant takes time
            return self._tell(path, "unknown key")
        # A key in the wrong section is likelier than a mistyped one.
        homes = {"detection": Thresholds, "metrics": MetricsSettings, "endpoint": EndpointSettings}
        near = [f"{home}.{key}" for home, kind in homes.items() if key in kind.__struct_fields__]
        near = near or difflib.get_close_matches(str(key)[:60], known, n=1, cutoff=0.5)
        hint = f'did you mean "{near[0]}"?' if near else f"known here: {', '.join(known)}"
        return self._tell(path, f"unknown key {shown(key)}; {hint}")

    def _wrong(self, path: str, expected: str, found: object) -> object:
        return self._tell(path, f"expected {expected}, found {shown(found)}")

    def _tell(self, path: str, what: str) -> object:
        line = self._lines.get(path)
        place = self._where if line is None else f"{self._where}, line {line}"
        self._problems.append((line or 0, f"{place}: {one_line(path)}: {what}" if path else f"{place}: {what}"))
        return _REFUSED


#: What is no list, and was reported. Not (), which is the same object everywhere.
_NO_LIST: Sequence[Any] = []
