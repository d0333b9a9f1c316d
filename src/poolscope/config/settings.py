"""The settings as frozen values, with their defaults, and what is asked of them."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from poolscope import addresses
from poolscope.config.keys import EXPECTED
from poolscope.config.mappings import Mapping
from poolscope.config.wording import one_line, shown
from poolscope.errors import ConfigError
from poolscope.model import Thresholds

#: Where `serve()` and the settings listen unless told otherwise.
DEFAULT_LISTEN = "127.0.0.1:9464"

#: Seconds; up to 10 s as is usual, and on to where saturation lives.
DEFAULT_BUCKETS: tuple[float, ...] = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1,
    0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
)  # fmt: skip


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

    def takes_tls(self) -> bool:
        """Whether it speaks HTTPS."""
        return self.tls.certificate is not None or self.tls.key is not None

    def missing_protection(self) -> str | None:
        """Return what is missing to be served beyond loopback, as half a sentence; None: nothing is."""
        if self.tls.certificate is None:
            return "TLS is not set (endpoint.tls.certificate)"
        if self.bearer_token_file is None and self.basic_auth_file is None:
            return "no authentication is set (endpoint.bearer_token_file or endpoint.basic_auth_file)"
        return None


class PoolSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What differs for pools whose name matches the shell pattern `match`. Null: as elsewhere, or of any kind."""

    match: str
    kind: str | None = None
    name: str | None = None
    max_workers: int | None = None
    ignore: bool = False
    ordered: bool = False
    intended: bool = False
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
    limits: bool = True
    connections: bool = True
    sample_interval: float = 0.1
    keep_tasks: int = 200_000
    pools: tuple[PoolSettings, ...] = ()
    detection: Thresholds = msgspec.field(default_factory=Thresholds)
    metrics: MetricsSettings = msgspec.field(default_factory=MetricsSettings)
    mappings: tuple[Mapping, ...] = ()

    def rule_for(self, pool_name: str, kind: str | None = None) -> PoolSettings | None:
        """Return the first rule that matches the pool's name, or that gave it this name; one for another kind of pool
        does not, nor one for any if the kind is not known."""
        # In one pass: a rule "*" further down must not win over the one that renamed the pool.
        for rule in self.pools:
            if rule.kind in (None, kind) and (fnmatchcase(pool_name, rule.match) or rule.name == pool_name):
                return rule
        return None

    def detection_for(self, pool_name: str, kind: str | None = None) -> Thresholds:
        """Return the thresholds of one pool: the general ones, and what its rule overrides."""
        rule = self.rule_for(pool_name, kind)
        if rule is None:
            return self.detection
        keys = Thresholds.__struct_fields__
        overrides = {key: value for key in keys if (value := getattr(rule, key)) is not None}
        return msgspec.structs.replace(self.detection, **overrides)

    def for_probe(self) -> dict[str, Any]:
        """Return what the part inside a watched process needs to know, as plain values."""
        keys = ("match", "name", "max_workers", "ignore", "kind")
        return {
            "limits": self.limits,
            "connections": self.connections,
            "sample_interval": self.sample_interval,
            "loop_blocked_seconds": self.detection.loop_blocked_seconds,
            "pools": [{key: getattr(rule, key) for key in keys} for rule in self.pools],
        }

    def with_max_workers(self, pool: str, workers: int, where: str = "settings") -> Settings:
        """Return these settings with another size of one pool, named as in the report or as in the code, and by its
        kind where others have that name (see `addresses`).

        Raises ConfigError for an impossible number.
        """
        expected = EXPECTED["max_workers"]
        if not pool or not expected.accepts(workers):
            raise _refusal(where, f"{one_line(pool)}.max_workers", expected.text, workers)
        changed, named = self._resized(pool, None, workers), addresses.split(pool)
        return changed if named is None else changed._resized(*named, workers)

    def _resized(self, pool: str, kind: str | None, workers: int) -> Settings:
        present = self.rule_for(pool, kind) or PoolSettings(match="*")
        exact = re.sub(r"[*?\[]", r"[\g<0>]", pool)
        first = msgspec.structs.replace(present, match=exact, kind=kind, max_workers=workers)
        others: list[PoolSettings] = []
        for rule in self.pools:
            # A pool that a rule renames is matched by the name it has in the code: that rule has to change too.
            renames = rule.name == pool and (kind is None or rule.kind in (None, kind))
            if renames:
                others.append(msgspec.structs.replace(rule, kind=rule.kind or kind, max_workers=workers))
            if not renames or (kind is not None and rule.kind is None):
                others.append(rule)
        return msgspec.structs.replace(self, pools=(first, *others))

    def with_listen(self, text: str, where: str = "settings") -> Settings:
        """Return these settings with an endpoint at `text`, HOST:PORT or PORT.

        Raises ConfigError if it is neither.
        """
        expected = EXPECTED["listen"]
        if not expected.accepts(text):
            raise _refusal(where, "listen", expected.text, text)
        return msgspec.structs.replace(self, listen=text)


def _refusal(where: str, path: str, expected: str, found: object) -> ConfigError:
    return ConfigError(f"{one_line(where)}: {path}: expected {expected}, found {shown(found)}")
