"""Writes the rules on the pools of any runtime that are committed: python config/build.py [FILE]"""

from __future__ import annotations

import sys
from pathlib import Path

from poolscope.fleet import known, recording

COMMITTED = Path(__file__).parent / "prometheus" / "fleet.yml"


def main() -> None:
    """Write the file."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else COMMITTED
    path.write_text(recording.text(known.shipped()))


if __name__ == "__main__":
    main()
