"""The mappings that come with poolscope, and which of them a list of metrics asks for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.resources import files

from poolscope.config import mappings, yamltree
from poolscope.config.mappings import Mapping, Source
from poolscope.errors import ConfigError

#: Roles without which a mapping is not meant, though its anchor is there.
_LEAST = ("limit", "size", "active", "queued")


def shipped() -> tuple[Mapping, ...]:
    """Return the mappings that come with poolscope. Raises ConfigError for a damaged installation."""
    folder = files("poolscope.fleet") / "mappings"
    found: list[Mapping] = []
    for file in sorted(folder.iterdir(), key=lambda each: each.name):
        if file.name.endswith(".yaml"):
            tree = yamltree.read(file.read_text("utf-8"), file.name)
            for at, value in enumerate(tree.value):
                try:
                    found.append(mappings.read(value))
                except mappings.MappingError as error:
                    raise ConfigError(f"{file.name}: [{at}]: {error}: install poolscope again") from error
    return tuple(found)


def together(own: Sequence[Mapping], others: Sequence[Mapping]) -> tuple[Mapping, ...]:
    """Return all of them; one of `own` takes the place of another of the same name."""
    names = {mapping.name for mapping in own}
    return (*own, *(mapping for mapping in others if mapping.name not in names))


def present(known: Iterable[Mapping], metrics: Iterable[str]) -> list[tuple[Mapping, str]]:
    """Return the mappings whose metrics are among these names, each with the prefix that they have there."""
    names = frozenset(metrics)
    found: list[tuple[Mapping, str]] = []
    for mapping in known:
        if mapping.kind == "process":  # any of it is of use
            sources = mapping.roles.sources().values()
            found += [(mapping, "")] if any(name in names for source in sources for name in source.metrics) else []
            continue
        anchors = (mapping.anchor.metric, *mapping.anchor.also)
        prefixes = {""} if any(name in names for name in anchors) else set()
        if mapping.prefix:
            prefixes |= {name.removesuffix(each) for each in anchors for name in names if name.endswith(each)}
        found += [(mapping, prefix) for prefix in sorted(prefixes) if _is_meant(mapping, prefix, names)]
    return found


def _is_meant(mapping: Mapping, prefix: str, names: frozenset[str]) -> bool:
    """Whether what tells pools of this kind from others is there: with a prefix, all of it."""
    sources = mapping.roles.sources()
    needed = [sources[role] for role in _LEAST if role in sources] if prefix else [mapping.anchor]
    return all(_is_there(source, prefix, names) for source in needed)


def _is_there(source: Source, prefix: str, names: frozenset[str]) -> bool:
    return any(prefix + each in names for each in (source.metric, *source.also)) and all(
        prefix + each in names for each in (*source.plus, *source.minus)
    )
