"""The files that come with poolscope, for Grafana, for Prometheus and as settings, written to where they are used."""

from __future__ import annotations

import argparse
import os

from poolscope.commands.console import tell
from poolscope.errors import PoolscopeError

#: What can be written, and where it is kept: folders, whose content goes to the top of the target, and files with their
#: place in it.
SHIPPED: dict[str, dict[str, str]] = {
    "dashboards": {"dashboards/grafana": "."},
    # The alerts name docs/runbook.md.
    "rules": {"config/prometheus": ".", "docs/runbook.md": "docs"},
    # The settings name the schema, for editors.
    "config": {"config/poolscope.yaml": ".", "config/poolscope.schema.json": "."},
}
#: The rules that are made of mappings.
_FLEET = "fleet.yml"


class ExportError(PoolscopeError):
    """Shipped files that cannot be found or written."""


def do(options: argparse.Namespace) -> int:
    """Write what was asked for, and say so."""
    export(options.what, options.folder, force=options.force, config=options.config)
    tell([f"{options.what} written to {options.folder}"])
    return 0


def export(what: str, folder: str, *, force: bool = False, config: str | None = None) -> list[str]:
    """Write what `SHIPPED` has under that name into `folder`, made if need be; the paths of all its files.

    Files that are there already and differ are kept, unless `force`: then nothing is written. `config` is a settings
    file whose own mappings are to have rules. Raises ExportError, ConfigError.
    """
    content = _content(what)
    if config is not None:
        content |= _own_rules(what, config)
    targets = {os.path.normpath(os.path.join(folder, name)): data for name, data in content.items()}
    try:
        if os.path.exists(folder) and not os.path.isdir(folder):
            raise ExportError(f"cannot write to {folder}: it is not a directory; name another one")
        changed = [path for path, data in targets.items() if _differs(path, data)]
        if changed and not force:
            more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
            raise ExportError(
                f"{changed[0]}{more} would be overwritten, and differs from what is shipped: name another directory, "
                "or give --force"
            )
        for path, data in targets.items():
            os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
            with open(path, "wb") as file:
                file.write(data)
    except OSError as error:
        raise ExportError(f"cannot write to {folder}: {error.strerror}; name another directory") from error
    return list(targets)


def _own_rules(what: str, config: str) -> dict[str, bytes]:
    from poolscope.commands.fleet import settings_of
    from poolscope.fleet import known, recording

    if what != "rules":
        raise ExportError(f"--config is of no use to {what}: only rules are made of settings")
    mappings = known.together(settings_of(config).mappings, known.shipped())
    return {os.path.join(".", _FLEET): recording.text(mappings).encode()}


def shipped(path: str) -> str | None:
    """Return a file or directory that comes with poolscope: in the package, or in the checkout it runs from."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    checkout = os.path.dirname(os.path.dirname(package))
    homes = [os.path.join(package, "shipped")]
    if os.path.exists(os.path.join(checkout, "pyproject.toml")):
        homes.append(checkout)
    for home in homes:
        found = os.path.join(home, path)
        if os.path.isfile(found) or (os.path.isdir(found) and os.listdir(found)):
            return found
    return None


def _content(what: str) -> dict[str, bytes]:
    """Path below the target -> content."""
    content = {}
    for kept, place in SHIPPED[what].items():
        source = shipped(kept)
        if source is None:
            raise ExportError(f"{kept} is not part of this installation: install poolscope again")
        for path in _files(source):
            name = os.path.relpath(path, source) if path != source else os.path.basename(source)
            with open(path, "rb") as file:
                content[os.path.join(place, name)] = file.read()
    return content


def _files(source: str) -> list[str]:
    if os.path.isfile(source):
        return [source]
    return sorted(os.path.join(folder, name) for folder, _, names in os.walk(source) for name in names)


def _differs(path: str, data: bytes) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read() != data
    except FileNotFoundError:
        return False
