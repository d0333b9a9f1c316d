"""What is said of real services of other runtimes that are overloaded on purpose: the table of docs/fleet.md.

    python benchmarks/runtimes.py [--json FILE]

The services are those of the tests (tests/story_support.py), scraped by a real Prometheus, which is asked, and by us.
The knee is the interval that is given, as seconds from the moment when the overload began.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from common import headline, print_table, save, starting
from story_support import INTERVAL, STORIES, play


def verdict(found):
    if found.state != "finding":
        return found.state
    text = f"{found.pattern}, {found.cause}"
    return f"{text} (a note)" if found.severity == "info" else text


def knee(found, truth):
    if found.knee is None:
        return ""
    after = "before" if found.knee.after is None else f"{found.knee.after - truth:+.2f}"
    return f"{after} to {found.knee.by - truth:+.2f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    started = starting()
    with tempfile.TemporaryDirectory() as folder:
        told = play(Path(folder))
    headline(f"real services, a scrape every {INTERVAL} s")
    rows = []
    for story in STORIES:
        for (of, pool), found in sorted(told.verdicts["fleet"].items()):
            if of == story.name:
                ours = told.verdicts["observe"].get((of, pool))
                truth = told.overload[of]
                rows.append(
                    [
                        story.runtime,
                        "nothing" if pool == "twin" else story.built_in,
                        pool,
                        verdict(found),
                        knee(found, truth),
                        "" if ours is None else verdict(ours),
                        "" if ours is None else knee(ours, truth),
                    ]
                )
    head = ["runtime", "built in", "pool", "fleet says", "knee (s)", "observe says", "its knee (s)"]
    print_table(head, rows)
    if options.json:
        save(options.json, "runtimes", options, started, [dict(zip(head, row, strict=True)) for row in rows])


if __name__ == "__main__":
    main()
