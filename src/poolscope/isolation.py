"""Which modules the command itself imports: installed ones, not those that lie where it was started.

`python -m poolscope` puts the working directory first into `sys.path`, and a script the directory that it is in. A
`yaml.py` or `resource.py` of the program's would be run in our process, in the place of the one that we need. The
program is started as a process of its own and gets the path that Python gives it.
"""

from __future__ import annotations

import os
import sys


def isolate() -> None:
    """Take the first entry off `sys.path` and put those of PYTHONPATH last; to be called before other imports.

    An entry that poolscope itself was found in goes last too: what it needs may be there. Does nothing the second time,
    and where Python itself has left the directories out (`-P`, `-I`).
    """
    last = []
    if sys.path and not sys.flags.safe_path and _absolute(sys.path[0]) in _places_of_start():
        last.append(sys.path.pop(0))
    ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    last = [entry for entry in last if _absolute(entry) == ours]
    if not sys.flags.ignore_environment and os.environ.get("PYTHONPATH"):
        told = {_absolute(entry) for entry in os.environ["PYTHONPATH"].split(os.pathsep)}
        last += [entry for entry in sys.path if _absolute(entry) in told]
    sys.path[:] = [entry for entry in sys.path if entry not in last] + last


def _places_of_start() -> set[str]:
    """Return the directories that Python may have put first: the working directory, or that of the script."""
    return {_absolute(""), os.path.dirname(os.path.realpath(sys.argv[0]))}


def _absolute(entry: str) -> str:
    try:
        return os.path.abspath(entry)
    except OSError:  # the working directory was removed
        return entry
