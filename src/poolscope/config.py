"""Settings: YAML in, one frozen `Settings` out, or one line that says what is wrong.

A file is refused as a whole: nothing starts half-configured. Each `ConfigError` is one line with the file,
the line and the key path, what was expected and what was found.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import msgspec

from poolscope.errors import ConfigError
from poolscope.model import Thresholds
from poolscope.yamltree import MAX_CHARACTERS, joined, one_line, read, shown

#: Where `serve()` and the settings listen unless told otherwise.
DEFAULT_LISTEN = "127.0.0.1:9464"

#: Seconds; up to 10 s like everybody's, and on to where saturation lives.
DEFAULT_BUCKETS: tuple[float, ...] = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
    0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip

_MAX_BUCKETS = 200
_MAX_SECONDS = 1e6
_MAX_COUNT = 10**9

_LISTEN = re.compile(r"(?:(?P<host>[0-9A-Za-z_.-]*|\[[0-9A-Za-z:.%_-]+\]):)?(?P<port>[0-9]{1,5})", re.ASCII)


class TlsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Paths of PEM files."""

    certificate: str | None = None
    key: str | None = None


class EndpointSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who may read the endpoint. `insecure`: serve beyond loopback without TLS and authentication."""

    insecure: bool = False
    tls: TlsSettings = msgspec.field(default_factory=TlsSettings)
    bearer_token_file: str | None = None
    basic_auth_file: str | None = None

    def missing_protection(self) -> str | None:
        """What is missing to be served beyond loopback, as half a sentence; None: nothing is."""
        if self.tls.certificate is None:
            return "TLS is not set (endpoint.tls.certificate)"
        if self.bearer_token_file is None and self.basic_auth_file is None:
            return "no authentication is set (endpoint.bearer_token_file or endpoint.basic_auth_file)"
        return None


class PoolSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What differs for the pools whose name matches the shell pattern `match`. Null: as everywhere else."""

    match: str
    name: str | None = None
    max_workers: int | None = None
    ignore: bool = False
    ordered: bool = False
    long_running: bool = False
    sustain_seconds: float | None = None
    min_amplification: float | None = None
    stall_seconds: float | None = None
    stuck_task_seconds: float | None = None
    loop_blocked_seconds: float | None = None


class MetricsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the endpoint shows. Buckets are upper bounds in seconds; +Inf is added to them."""

    wait_buckets: tuple[float, ...] = DEFAULT_BUCKETS
    run_buckets: tuple[float, ...] = DEFAULT_BUCKETS
    functions: bool = True
    max_functions: int = 50


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All settings, checked. `sample_interval` in seconds, `keep_tasks` per pool."""

    listen: str | None = None
    endpoint: EndpointSettings = msgspec.field(default_factory=EndpointSettings)
    per_process: bool = False
    sample_interval: float = 0.1
    keep_tasks: int = 200_000
    pools: tuple[PoolSettings, ...] = ()
    detection: Thresholds = msgspec.field(default_factory=Thresholds)
    metrics: MetricsSettings = msgspec.field(default_factory=MetricsSettings)

    def rule_for(self, pool_name: str) -> PoolSettings | None:
        """The first rule that matches the pool's name, or that gave it this name."""
        # In one pass: a rule "*" further down must not win over the one that renamed the pool.
        for rule in self.pools:
            if fnmatchcase(pool_name, rule.match) or rule.name == pool_name:
                return rule
        return None

    def detection_for(self, pool_name: str) -> Thresholds:
        """The thresholds of one pool: the general ones, and what its rule overrides."""
        rule = self.rule_for(pool_name)
        if rule is None:
            return self.detection
        keys = Thresholds.__struct_fields__
        overrides = {key: value for key in keys if (value := getattr(rule, key)) is not None}
        return msgspec.structs.replace(self.detection, **overrides)

    def probe_json(self) -> str:
        """What the part inside a watched process needs to know, as JSON."""
        keys = ("match", "name", "max_workers", "ignore")
        content = {
            "sample_interval": self.sample_interval,
            "loop_blocked_seconds": self.detection.loop_blocked_seconds,
            "pools": [{key: getattr(rule, key) for key in keys} for rule in self.pools],
        }
        return msgspec.json.encode(content).decode()

    def with_max_workers(self, pool: str, workers: int, where: str = "settings") -> Settings:
        """These settings with another size of one pool, named as in the report or as in the code.

        Raises ConfigError for an impossible number.
        """
        expected = _EXPECTED["max_workers"]
        if not pool or not expected.accepts(workers):
            raise _refusal(where, f"{one_line(pool)}.max_workers", expected.text, workers)
        present = self.rule_for(pool) or PoolSettings(match="*")
        exact = re.sub(r"[*?\[]", r"[\g<0>]", pool)
        first = msgspec.structs.replace(present, match=exact, max_workers=workers)
        # A pool that a rule renames is matched by the name it has in the code: that rule has to change too.
        others = (
            msgspec.structs.replace(rule, max_workers=workers) if rule.name == pool else rule for rule in self.pools
        )
        return msgspec.structs.replace(self, pools=(first, *others))

    def with_listen(self, text: str, where: str = "settings") -> Settings:
        """These settings with an endpoint at `text`, HOST:PORT or PORT.

        Raises ConfigError if it is neither.
        """
        expected = _EXPECTED["listen"]
        if not expected.accepts(text):
            raise _refusal(where, "listen", expected.text, text)
        return msgspec.structs.replace(self, listen=text)


def listen_address(text: str) -> tuple[str, int] | None:
    """(host, port) of "HOST:PORT", ":PORT" or "PORT"; loopback without a host; None for anything else."""
    found = _LISTEN.fullmatch(text)
    if found is None or int(found["port"]) > 65535:
        return None
    return (found["host"] or "127.0.0.1").strip("[]"), int(found["port"])


def load(path: str | os.PathLike[str]) -> Settings:
    """The settings in a file; an empty file holds the defaults.

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
    """The settings in a YAML text; `where` is what an error calls it.

    Raises ConfigError, and nothing else, whatever the text.
    """
    where = one_line(where)
    value, lines = read(text, where)
    return _Reader(where, lines).settings(value)


def from_mapping(values: Mapping[str, Any], where: str = "settings") -> Settings:
    """The settings in Python values of the same keys.

    Raises ConfigError for what a file could not hold either.
    """
    return _Reader(one_line(where), {}).settings(values)


def environment_settings(environ: Mapping[str, str]) -> Settings:
    """The settings that POOLSCOPE_CONFIG (a file) and POOLSCOPE_LISTEN (an address) name; empty: not set.

    Raises ConfigError as `load` does.
    """
    path = environ.get("POOLSCOPE_CONFIG")
    settings = load(path) if path else Settings()
    listen = environ.get("POOLSCOPE_LISTEN")
    return settings.with_listen(listen, "POOLSCOPE_LISTEN") if listen else settings


class _Expect(NamedTuple):
    text: str
    """Completes "expected ..."."""
    accepts: Callable[[Any], bool]
    optional: bool = False
    """Whether null is a value too."""


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _seconds(value: Any) -> bool:
    return _is_number(value) and 0.001 <= value <= _MAX_SECONDS  # false for NaN


def _whole(low: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= _MAX_COUNT


def _pattern(value: Any) -> bool:
    if not _text(value):
        return False
    try:
        fnmatchcase("", value)
    except re.error:
        return False
    return True


def _text(value: Any) -> bool:
    return isinstance(value, str) and value != "" and "\0" not in value


_SECONDS = _Expect(f"a number of seconds from 0.001 to {_MAX_SECONDS:.0f}", _seconds)
_FLAG = _Expect("true or false", lambda value: isinstance(value, bool))
_PATH = _Expect("the path of a file, or null", _text, optional=True)

# By name of the key: a key means the same in each section that has it.
_EXPECTED: dict[str, _Expect] = {
    "listen": _Expect(
        f'HOST:PORT or PORT, such as "{DEFAULT_LISTEN}" (an IPv6 address in brackets)',
        lambda value: isinstance(value, str) and listen_address(value) is not None,
        optional=True,
    ),
    "insecure": _FLAG,
    "certificate": _PATH,
    "key": _PATH,
    "bearer_token_file": _PATH,
    "basic_auth_file": _PATH,
    "per_process": _FLAG,
    "sample_interval": _SECONDS,
    "keep_tasks": _Expect(f"a whole number from 0 to {_MAX_COUNT}", _whole(0)),
    "match": _Expect("a shell pattern of pool names", _pattern),
    "name": _Expect("a name, or null", _text, optional=True),
    "max_workers": _Expect(f"a whole number from 1 to {_MAX_COUNT}", _whole(1), optional=True),
    "ignore": _FLAG,
    "ordered": _FLAG,
    "long_running": _FLAG,
    "sustain_seconds": _SECONDS,
    "min_amplification": _Expect("a number from 1 to 1000000", lambda value: _is_number(value) and 1 <= value <= 1e6),
    "stall_seconds": _SECONDS,
    "stuck_task_seconds": _SECONDS,
    "loop_blocked_seconds": _SECONDS,
    "functions": _FLAG,
    "max_functions": _Expect(f"a whole number from 1 to {_MAX_COUNT}", _whole(1)),
}
_SECTIONS: dict[str, type[msgspec.Struct]] = {
    "endpoint": EndpointSettings,
    "tls": TlsSettings,
    "detection": Thresholds,
    "metrics": MetricsSettings,
}
_BUCKETS = ("wait_buckets", "run_buckets")


class _Reader:
    """Plain values to `Settings`. The first mistake in reading order is the one that is told."""

    def __init__(self, where: str, lines: Mapping[str, int]) -> None:
        self._where = where
        self._lines = lines

    def settings(self, value: Any) -> Settings:
        return msgspec.convert(self._section(value, Settings, ""), Settings)

    def _section(self, value: Any, kind: type[msgspec.Struct], path: str) -> dict[str, Any]:
        if value is None:  # `detection:` with every key below it commented out
            return {}
        if not isinstance(value, Mapping):
            raise self._error(path, "keys with values (key: value)", value)
        return {key: self._value(key, item, kind, path) for key, item in value.items()}

    def _value(self, key: Any, value: Any, kind: type[msgspec.Struct], section: str) -> Any:
        path = joined(section, key)
        if key not in kind.__struct_fields__:
            raise self._unknown(path, key, kind.__struct_fields__)
        if key in _SECTIONS:
            return self._section(value, _SECTIONS[key], path)
        if key == "pools":
            rules = self._list(value, path, "rules")
            return [self._rule(item, f"{path}[{at}]") for at, item in enumerate(rules)]
        if key in _BUCKETS:
            return self._buckets(value, path)
        expected = _EXPECTED[key]
        if key == "listen" and isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 65535:
            value = str(value)  # a port alone
        inherits = kind is PoolSettings and key in Thresholds.__struct_fields__
        if value is None and (expected.optional or inherits):
            return None
        if not expected.accepts(value):
            raise self._error(path, expected.text, value)
        return value

    def _rule(self, value: Any, path: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise self._error(path, "a rule (match: PATTERN, and what differs)", value)
        rule = self._section(value, PoolSettings, path)
        if "match" not in rule:
            raise self._error(path, "the key match (a shell pattern of pool names)", value)
        return rule

    def _buckets(self, value: Any, path: str) -> list[float]:
        bounds = self._list(value, path, "numbers")
        if not 1 <= len(bounds) <= _MAX_BUCKETS:
            raise self._error(path, f"a list of 1 to {_MAX_BUCKETS} numbers", value)
        before = 0.0
        for at, bound in enumerate(bounds):
            if not _is_number(bound) or not before < bound <= _MAX_SECONDS or not math.isfinite(bound):
                after = f"above {before:g} (the one before)" if at else "above 0"
                expected = f"a number of seconds {after} and up to {_MAX_SECONDS:.0f}"
                raise self._error(f"{path}[{at}]", expected, bound)
            before = bound
        return [float(bound) for bound in bounds]

    def _list(self, value: Any, path: str, what: str) -> Sequence[Any]:
        if value is None:
            if what == "rules":
                return []
        elif isinstance(value, (list, tuple)):
            return value
        raise self._error(path, f"a list of {what}", value)

    def _unknown(self, path: str, key: Any, known: Sequence[str]) -> ConfigError:
        # A key in the wrong section is likelier than a mistyped one.
        homes = {"detection": Thresholds, "metrics": MetricsSettings, "endpoint": EndpointSettings}
        near = [f"{home}.{key}" for home, kind in homes.items() if key in kind.__struct_fields__]
        near = near or difflib.get_close_matches(str(key)[:60], known, n=1, cutoff=0.5)
        hint = f'did you mean "{near[0]}"?' if near else f"known here: {', '.join(known)}"
        return ConfigError(f"{self._place(path)}: unknown key {shown(key)}; {hint}")

    def _error(self, path: str, expected: str, found: object) -> ConfigError:
        return ConfigError(f"{self._place(path)}: expected {expected}, found {shown(found)}")

    def _place(self, path: str) -> str:
        line = f", line {self._lines[path]}" if path in self._lines else ""
        return f"{self._where}{line}: {one_line(path)}" if path else f"{self._where}{line}"


def _refusal(where: str, path: str, expected: str, found: object) -> ConfigError:
    return ConfigError(f"{one_line(where)}: {path}: expected {expected}, found {shown(found)}")
