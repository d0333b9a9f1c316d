"""Says how tests/run went: `tally.py FOLDER ARGUMENTS`, and exits with 1 if anything failed.

FOLDER has for each thing that was run `3.MINOR WHAT.ended` (exit status, seconds, seconds of CPU), and of pytest, if it
came to its end, `3.MINOR WHAT.xml`. Its tests that failed may have been run again alone, as `3.MINOR WHAT, once more`.
ARGUMENTS is how many the tests were chosen by: with any, none found is no failure.
"""

import sys
from collections import Counter, defaultdict
from pathlib import Path
from xml.etree import ElementTree

NO_TESTS = 5  # pytest's exit status for that
OUTCOMES = ("passed", "failed", "skipped")
AGAIN = ", once more"  # tests/run knows it
MOST_AGAIN = 4  # tests that may pass in their second try only, of all interpreters: more is no chance
UNCOUNTED = {"interpreter": "was not found and could not be fetched", "environment": "could not be installed"}


def main(folder: str, arguments: str) -> int:
    """Print what was run for how long, what failed, and a line for each interpreter; return the exit status."""
    tests: dict[str, dict[str, dict[str, str]]] = defaultdict(dict)
    others: dict[str, list[str]] = defaultdict(list)
    for ended in sorted(Path(folder).glob("*.ended"), key=lambda path: path.stat().st_mtime_ns):
        version, _, what = ended.stem.partition(" ")
        status, took, cpu = map(int, ended.read_text().split())
        print(f"{version}: {took // 60}:{took % 60:02}, {cpu // 60}:{cpu % 60:02} of CPU: {what}")
        report = ended.with_suffix(".xml")
        seen = tests[version][what] = outcomes(report) if report.exists() else {}
        chosen_none = status == NO_TESTS and int(arguments)
        if status and "failed" not in seen.values() and not chosen_none and not what.endswith(AGAIN):
            others[version].append(f"{what} {UNCOUNTED.get(what, f'ended with {status}')}")
    second = [passed for version, parts in tests.items() for passed in take_second_tries(version, parts)]
    bearable = len(second) <= MOST_AGAIN
    for passed in second:
        print(f"{'FAILED AT FIRST' if bearable else 'FAILED'}, passed when it was run again alone: {passed}")
    newest_first = sorted(tests, key=lambda version: -int(version.removeprefix("3.")))
    failed = 0 if bearable else len(second)
    for version in newest_first:
        lines = [f"{what}: {test}" for what, seen in tests[version].items() for test in seen if seen[test] == "failed"]
        failed += len(lines) + len(others[version])
        for line in sorted(lines + others[version]):
            print(f"{version}: FAILED {line}")
    for version in newest_first:
        total = Counter(outcome for seen in tests[version].values() for outcome in seen.values())
        counts = [f"{total[outcome]:,} {outcome}" for outcome in OUTCOMES if total[outcome]] or ["nothing was tested"]
        counts += [f"other failures: {len(others[version])}"] if others[version] else []
        print(f"{version}: {', '.join(counts)}")
    return int(failed > 0)


def outcomes(report: Path) -> dict[str, str]:
    """Return what became of each test: passed, failed or skipped."""
    seen: dict[str, str] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        test = f"{case.get('file') or case.get('classname')}::{case.get('name')}"
        if seen.get(test) != "failed":  # a test may fail in its body, and then in its end
            seen[test] = outcome
    return seen


def take_second_tries(version: str, parts: dict[str, dict[str, str]]) -> list[str]:
    """Take the second tries out of what an interpreter ran; return those that passed then and count as passed now."""
    passed = []
    for what in [what for what in parts if what.endswith(AGAIN)]:
        seen = parts.pop(what)
        first = parts[what.removesuffix(AGAIN)]
        for test, outcome in seen.items():
            if outcome == "passed" and first.get(test) == "failed":
                first[test] = "passed"
                passed.append(f"{version} {what.removesuffix(AGAIN)}: {test}")
    return passed


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
