"""A small YAML text as plain values, with the line of each key path.

YAML is read as a tree of nodes, never as Python objects: tags construct nothing, aliases cannot blow up, keys
are unique, and every value knows its line. For settings, so strict where YAML is generous.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from poolscope.config.wording import joined, one_line, shown
from poolscope.errors import ConfigError

if TYPE_CHECKING:
    import yaml

# A settings file is a page or two. The bounds keep a hostile or mistaken file from costing seconds.
MAX_CHARACTERS = 64 * 1024
_MAX_NODES = 20_000
_MAX_DEPTH = 12


class Tree(NamedTuple):
    """A YAML text as plain values; `MISTAKEN` stands where one could not be read."""

    value: Any
    """None if the text is empty."""
    lines: dict[str, int]
    """The line of each key path such as `pools[0].match`."""
    problems: list[tuple[int, str]]
    """Line and text of what is wrong with single values; the rest was read."""


#: In place of a value that is one of the problems.
MISTAKEN = object()


def read(text: str, where: str) -> Tree:
    """Return the values in a YAML text.

    Raises ConfigError, and nothing else, for a text that cannot be read as a whole. `where` is what an error calls it.
    """
    import yaml  # here and below: most runs have no settings, and it is a tenth of their start

    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"{where}: expected at most {MAX_CHARACTERS} characters of settings, found more")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f", line {mark.line + 1}" if mark else ""
        raise _mistake(f"{where}{at}", error.problem or error.context or "it does not parse") from error
    except RecursionError as error:
        raise ConfigError(f"{where}: expected at most {_MAX_DEPTH} levels of nesting, found more") from error
    except Exception as error:
        # PyYAML has no error of its own for some texts: ValueError for "\UFFFFFFFF", or for a directive of
        # 5000 digits.
        raise _mistake(where, str(error)) from error
    tree = _Tree(where)
    value = None if root is None else tree.value(root, "", 0)
    return Tree(value, tree.lines, tree.problems)


def _mistake(place: str, problem: str) -> ConfigError:
    return ConfigError(f"{place}: expected YAML, found a mistake in it: {one_line(' '.join(problem.split()))}")


class _Tree:
    """A walk over the nodes, bounded in their number and depth."""

    def __init__(self, where: str) -> None:
        self.lines: dict[str, int] = {}
        self.problems: list[tuple[int, str]] = []
        self._where = where
        self._visits = 0

    def value(self, node: yaml.Node, path: str, depth: int) -> Any:
        import yaml

        self.lines.setdefault(path, node.start_mark.line + 1)
        # Aliases share nodes, so visits are counted: a small file can stand for a tree of any size, or for an
        # endless one.
        self._visits += 1
        if self._visits > _MAX_NODES or depth > _MAX_DEPTH:
            limit = f"{_MAX_NODES} values" if self._visits > _MAX_NODES else f"{_MAX_DEPTH} levels of nesting"
            # Not one problem among others: what is left is not worth reading.
            raise ConfigError(self._told(node, path, f"expected at most {limit}, found more"))
        tag = node.tag.removeprefix("tag:yaml.org,2002:")
        if isinstance(node, yaml.MappingNode) and tag == "map":
            return dict(self._pairs(node, path, depth))
        if isinstance(node, yaml.SequenceNode) and tag == "seq":
            return [self.value(item, f"{path}[{at}]", depth + 1) for at, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, tag, path)
        return self._mistake(node, path, f"expected a plain value, found the tag {shown(node.tag)}")

    def _pairs(self, node: yaml.MappingNode, path: str, depth: int) -> Iterator[tuple[str, Any]]:
        import yaml

        seen: set[str] = set()
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self._mistake(key_node, path, "expected a word as key, found a list or a mapping")
                continue
            if key_node.tag.endswith(":merge"):
                self._mistake(key_node, path, 'expected plain keys, found the merge key "<<"')
                continue
            key: str = key_node.value
            inner = joined(path, key)
            if key in seen:
                self._mistake(key_node, inner, "expected each key once, found it a second time")
                continue
            seen.add(key)
            self.lines[inner] = key_node.start_mark.line + 1
            yield key, self.value(value_node, inner, depth + 1)

    def _scalar(self, node: yaml.ScalarNode, tag: str, path: str) -> Any:
        import yaml

        text: str = node.value
        # YAML 1.1 makes a number of 10:30 and a date of 2030-01-02. Nothing here is either: they are names.
        if tag in ("timestamp", "value") or (tag in ("int", "float") and ":" in text):
            return text
        if tag == "str":  # and a text of 1e3
            bare = node.style is None and re.fullmatch(r"[-+]?[0-9]+[eE][-+]?[0-9]+", text)
            return float(text) if bare else text
        construct = yaml.constructor.SafeConstructor
        make = {
            "null": construct.construct_yaml_null,
            "bool": construct.construct_yaml_bool,
            "int": construct.construct_yaml_int,
            "float": construct.construct_yaml_float,
        }.get(tag)
        if make is None:
            return self._mistake(node, path, f"expected a plain value, found the tag {shown(node.tag)}")
        try:
            return make(construct(), node)
        except (ValueError, LookupError, OverflowError):  # !!int x, !!bool x, 5000 digits
            return self._mistake(node, path, f"expected a value, found {shown(text)}")

    def _mistake(self, node: yaml.Node, path: str, message: str) -> object:
        self.problems.append((node.start_mark.line + 1, self._told(node, path, message)))
        return MISTAKEN

    def _told(self, node: yaml.Node, path: str, message: str) -> str:
        at = f"{one_line(path)}: " if path else ""
        return f"{self._where}, line {node.start_mark.line + 1}: {at}{message}"
