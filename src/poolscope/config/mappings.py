"""What the metrics of a runtime mean, as data: which one is a pool's limit, which one its queue (docs/fleet.md).

A `Mapping` is read from YAML, shipped with poolscope or in a user's settings, and checked key by key like a setting.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

import msgspec

from poolscope.config.wording import shown

#: What a mapping can carry, see docs/fleet.md#tiers.
Tier = Literal["A", "B", "C", "D", "none"]
#: What it maps: a pool of workers, a client's connections, an event loop, or the process beside them.
Kind = Literal["workers", "connections", "loop", "process"]
#: What is special about the metrics; `fleet` knows what each of them means for a verdict.
Trap = Literal[
    "java_queue",
    "compensates",
    "zero_is_no_limit",
    "limit_not_shown",
    "reset_by_scrape",
    "holds_period",
    "grows_when_starved",
]

_Name = Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9-]*$", max_length=60)]
_Metric = Annotated[str, msgspec.Meta(pattern="^[a-zA-Z_:][a-zA-Z0-9_:]*$", max_length=200)]
_Label = Annotated[str, msgspec.Meta(pattern="^[a-zA-Z_][a-zA-Z0-9_]*$", max_length=100)]
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
_Scale = Annotated[float, msgspec.Meta(gt=0, le=1e12)]


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the number of a role comes from: a metric, in its base unit (seconds, or a count) after `scale`."""

    metric: _Metric
    #: Its names in other versions.
    also: tuple[_Metric, ...] = ()
    scale: _Scale = 1.0
    #: Only series with these labels.
    where: dict[_Label, str] = {}
    #: Metrics of the same pool to be added or taken away.
    plus: tuple[_Metric, ...] = ()
    minus: tuple[_Metric, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """All metrics that it may need."""
        return (self.metric, *self.also, *self.plus, *self.minus)


_Role = _Metric | Source | None


class Roles(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The numbers of a pool, a loop or a process; what is not there stays out."""

    #: Most that can go on at once; the least that is kept; the workers that there are.
    limit: _Role = None
    core: _Role = None
    size: _Role = None
    #: Workers in a task, tasks that wait, and room in their queue.
    active: _Role = None
    queued: _Role = None
    remaining: _Role = None
    #: Counters: seconds waited, tasks that waited, tasks done, seconds run, times that the limit was hit.
    waited: _Role = None
    waits: _Role = None
    done: _Role = None
    busy: _Role = None
    hits: _Role = None
    #: Age of the oldest task that waits.
    oldest: _Role = None
    #: Of an event loop: how late it was at most since the last scrape, its mean lateness, and its part of time at work.
    lag: _Role = None
    lag_mean: _Role = None
    utilization: _Role = None
    #: Of a process: CPU seconds used (a counter), the part of the machine in use, its CPUs, when it started, and
    #: seconds of garbage collection (a counter).
    cpu: _Role = None
    cpu_share: _Role = None
    cpus: _Role = None
    started: _Role = None
    collected: _Role = None

    def sources(self) -> dict[str, Source]:
        """Return each role that there is with its source."""
        found = {name: getattr(self, name) for name in self.__struct_fields__}
        return {
            name: Source(role) if isinstance(role, str) else role for name, role in found.items() if role is not None
        }


class Words(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Advice in the words of the runtime, a sentence each without its full stop; `{pool}` is the pool's name."""

    #: How it gets another size.
    size: _Text = "Give {pool} more workers"
    #: How less is let in at a time.
    bound: _Text = "Let less into {pool} at a time"
    #: Where to look for what metrics do not show.
    look: _Text = "Look at where its workers are with the runtime's own profiler while it is full"


class Mapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The metrics of one kind of pool."""

    name: _Name
    #: Completes "a ...": `Java thread pool (Micrometer)`.
    title: _Text
    runtime: _Text
    #: Where the names were read, with the version or date.
    source: _Text
    tier: Tier
    kind: Kind = "workers"
    #: Labels that name the pool, and a name for one without such a label.
    identity: tuple[_Label, ...] = ()
    pool: _Text | None = None
    #: Whether something may stand before the metrics' names.
    prefix: bool = False
    #: Whether only one worker at a time computes.
    gil: bool = False
    roles: Roles
    traps: tuple[Trap, ...] = ()
    words: Words = Words()
    #: What cannot be told from these metrics.
    note: _Text | None = None

    @property
    def anchor_role(self) -> str:
        """The role by which pools of this kind are found: one without it is of another kind."""
        sources = self.roles.sources()
        return next(name for name in _ANCHORS if name in sources)

    @property
    def anchor(self) -> Source:
        """Return the source of that role."""
        return self.roles.sources()[self.anchor_role]


_ANCHORS = ("active", "queued", "lag", "utilization", "cpu", "cpu_share", "waited", "done", *Roles.__struct_fields__)
#: What a mapping of a tier must have to carry its verdicts.
_NEEDED: dict[str, tuple[tuple[str, ...], ...]] = {
    "A": (("waited",), ("busy", "active")),
    "B": (("limit", "size"), ("active", "busy"), ("queued",)),
    "C": (("limit", "size", "core"), ("active",)),
    "D": (("queued", "waited", "utilization"),),
    "none": (Roles.__struct_fields__,),
}


class MappingError(ValueError):
    """A mapping that cannot be used: the path in it (empty: all of it), what was expected and what was found."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(f"{path}: {what}" if path else what)
        self.path, self.what = path, what


def read(value: Any) -> Mapping:
    """Return plain values as a mapping. Raises MappingError."""
    try:
        mapping = msgspec.convert(value, Mapping)
    except msgspec.ValidationError as error:
        raise _mistake(str(error), value) from error
    needed = (("lag", "utilization"),) if mapping.kind == "loop" else _NEEDED[mapping.tier]
    if mapping.kind == "process":
        needed = (Roles.__struct_fields__,)
    for choices in needed:
        if not any(getattr(mapping.roles, role) is not None for role in choices):
            raise MappingError("roles", f"expected {' or '.join(choices[:4])} for tier {mapping.tier}, found neither")
    return mapping


def schema() -> dict[str, Any]:
    """Return the definitions by which an editor knows a mapping, `Mapping` and what is in it."""
    _, components = msgspec.json.schema_components([Mapping], ref_template="#/$defs/{name}")
    return components


_PLACE = re.compile(r" - at `\$\.?(.*)`\Z", re.DOTALL)
_FOUND = re.compile(r", got `?[^`]*`?\Z")


def _mistake(text: str, value: Any) -> MappingError:
    """Put an error of msgspec as those of settings are."""
    found = _PLACE.search(text)
    path, what = found[1] if found else "", _PLACE.sub("", text)
    if what.startswith("Object contains unknown field"):
        key = what.removeprefix("Object contains unknown field ").strip("`")
        return MappingError(path, f"unknown key {shown(key)}")
    if what.startswith("Object missing required field"):
        key = what.removeprefix("Object missing required field ").strip("`")
        return MappingError(path, f"expected the key {key}, found nothing")
    told = f"e{_FOUND.sub('', what)[1:]}"
    if what.startswith("Invalid enum value"):
        key = re.sub(r"\[.*", "", path).rpartition(".")[2]
        told = f"expected one of {', '.join(_CHOICES[key])}"
    told = re.sub(r"`([^`]+)`", lambda types: " or ".join(_TYPES.get(it, it) for it in types[1].split(" | ")), told)
    return MappingError(path, f"{told}, found {shown(_at(value, path))}")


#: What may stand for a key that has a few values only, and types as the settings call them.
_CHOICES: dict[str, tuple[str, ...]] = {"tier": get_args(Tier), "kind": get_args(Kind), "traps": get_args(Trap)}
_TYPES = {
    "array": "a list",
    "bool": "true or false",
    "float": "a number",
    "null": "nothing",
    "object": "keys with values",
    "str": "text",
}


def _at(value: Any, path: str) -> Any:
    """Return what stands at a path of msgspec's; None where that does not say."""
    for key, index in re.findall(r"([^.\[\]]+)|\[(\d*|\.\.\.)\]", path):
        try:
            value = value[key] if key else value[int(index)]
        except (LookupError, TypeError, ValueError):
            return None
    return value
