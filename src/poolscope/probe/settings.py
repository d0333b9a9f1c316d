"""What the probe must know of the settings, as plain values: it reads no YAML and validates nothing.

Whoever reads the user's settings (`poolscope.config`) has checked them before they come here, as JSON.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class PoolRule:
    """What the settings say about the pools whose name matches the shell pattern `match`."""

    __slots__ = ("ignore", "match", "max_workers", "name")

    def __init__(
        self, match: str, name: str | None = None, max_workers: int | None = None, ignore: bool = False
    ) -> None:
        self.match = match
        self.name = name
        self.max_workers = max_workers
        self.ignore = ignore


class ProbeSettings:
    """Not changed after construction: a probe gets other settings as a whole. Intervals are seconds."""

    __slots__ = ("loop_blocked_seconds", "pools", "sample_interval")

    def __init__(
        self,
        sample_interval: float = 0.1,
        loop_blocked_seconds: float = 0.1,
        pools: Iterable[PoolRule] = (),
    ) -> None:
        self.sample_interval = sample_interval
        self.loop_blocked_seconds = loop_blocked_seconds
        self.pools = tuple(pools)

    def rule_for(self, name: str) -> PoolRule | None:
        """The first rule whose pattern matches the pool's name."""
        if not self.pools:
            return None
        from fnmatch import fnmatchcase

        for rule in self.pools:
            if fnmatchcase(name, rule.match):
                return rule
        return None

    def to_json(self) -> str:
        """The text that `from_json` reads."""
        import json

        pools = [{key: getattr(rule, key) for key in ("match", "name", "max_workers", "ignore")} for rule in self.pools]
        return json.dumps(
            {
                "sample_interval": self.sample_interval,
                "loop_blocked_seconds": self.loop_blocked_seconds,
                "pools": pools,
            }
        )

    @classmethod
    def from_json(cls, text: str) -> ProbeSettings:
        """Settings from a JSON object with any of our fields; others are left alone.

        Raises ValueError if it is not that.
        """
        # The scanner of `channel` spares a starting program the milliseconds of importing `json`.
        from poolscope.probe.channel import loads

        return cls.from_mapping(loads(text))

    @classmethod
    def from_mapping(cls, content: object) -> ProbeSettings:
        """The same from a JSON object that has been read already."""
        if not isinstance(content, dict):
            raise ValueError(f"settings must be a JSON object, not {type(content).__name__}")
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
                    )
                    for rule in content.get("pools", ())
                ],
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"settings that the probe cannot read: {error!r}") from error
