"""The settings that the probe needs, as plain values: it reads no YAML and validates nothing.

The user's settings were checked by `poolscope.config` before they come here.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class PoolRule:
    """What the settings say about the pools whose name matches the shell pattern `match`, of one kind or any."""

    __slots__ = ("ignore", "kind", "match", "max_workers", "name")

    def __init__(
        self,
        match: str,
        name: str | None = None,
        max_workers: int | None = None,
        ignore: bool = False,
        kind: str | None = None,
    ) -> None:
        self.match = match
        self.name = name
        self.max_workers = max_workers
        self.ignore = ignore
        self.kind = kind


class ProbeSettings:
    """Not changed after construction: a probe gets other settings as a whole. Intervals are seconds."""

    __slots__ = ("connections", "limits", "loop_blocked_seconds", "pools", "sample_interval")

    def __init__(
        self,
        sample_interval: float = 0.1,
        loop_blocked_seconds: float = 0.1,
        pools: Iterable[PoolRule] = (),
        limits: bool = True,
        connections: bool = True,
    ) -> None:
        self.sample_interval = sample_interval
        self.loop_blocked_seconds = loop_blocked_seconds
        self.pools = tuple(pools)
        self.limits = limits
        self.connections = connections

    def rule_for(self, name: str, kind: str | None = None) -> PoolRule | None:
        """Return the first rule whose pattern matches the pool's name, and that is not for another kind."""
        if not self.pools:
            return None
        from poolscope.probe.interpreter.standard import standard

        fnmatchcase = standard("fnmatch").fnmatchcase
        for rule in self.pools:
            if rule.kind in (None, kind) and fnmatchcase(name, rule.match):
                return rule
        return None

    @classmethod
    def from_values(cls, content: object) -> ProbeSettings:
        """Return settings from a mapping with any of our fields, as `Settings.for_probe` makes it; other keys are left
        alone.

        Raises ValueError if it is not that.
        """
        if not isinstance(content, dict):
            raise ValueError(f"settings must be a mapping, not {type(content).__name__}")
        default = cls()
        try:
            return cls(
                float(content.get("sample_interval", default.sample_interval)),
                float(content.get("loop_blocked_seconds", default.loop_blocked_seconds)),
                [
                    PoolRule(
                        rule["match"],
                        rule.get("name"),
                        rule.get("max_workers"),
                        bool(rule.get("ignore", False)),
                        rule.get("kind"),
                    )
                    for rule in content.get("pools", ())
                ],
                bool(content.get("limits", default.limits)),
                bool(content.get("connections", default.connections)),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"settings that the probe cannot read: {error!r}") from error
