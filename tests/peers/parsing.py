"""Makes outcomes of what runners of tests print and write. Pure."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

#: A test of unittest's, as its verbose runner names it, and how it ended.
_NAMED = re.compile(r"^(\w+ \([\w.]+\))")
_ENDED = re.compile(r"\.\.\. (ok|FAIL|ERROR|skipped|expected failure|unexpected success)\b")
_WORDS = {
    "ok": "passed",
    "FAIL": "failed",
    "ERROR": "error",
    "skipped": "skipped",
    "expected failure": "xfailed",
    "unexpected success": "xpassed",
}
_CHANGED = re.compile(r"altered the execution environment.*?:\n((?:    .*\n)+)")


def told(lines: str) -> dict[str, str]:
    """Test -> outcome, by what our plugin for pytest writes; addresses in names are the same in each run."""
    tests = {}
    for name, outcome in map(json.loads, lines.splitlines()):
        tests[re.sub(r"0x[0-9a-f]+", "0xN", name)] = outcome
    return tests


def verbose(errors: str) -> dict[str, str]:
    """Test -> outcome, by what unittest's verbose runner prints, which may have other lines in between."""
    tests = {}
    name = None
    for line in errors.splitlines():
        named = _NAMED.match(line)
        if named:
            name = named.group(1)
        ended = _ENDED.search(line)
        if ended and name:
            tests[name] = _WORDS[ended.group(1)]
            name = None
    return tests


def without_tests(errors: str) -> str:
    """What else is printed there."""
    return "\n".join(line for line in errors.splitlines() if not (_NAMED.match(line) or _ENDED.search(line)))


def junit(text: str) -> dict[str, str]:
    """Test -> outcome, by a report in JUnit's format."""
    tests: dict[str, str] = {}
    for case in ElementTree.fromstring(text).iter("testcase"):
        kinds = {child.tag for child in case}
        outcome = "failed" if kinds & {"failure", "error"} else "skipped" if "skipped" in kinds else "passed"
        name = case.get("name", "")
        # Of a test with parts there is a case for each that failed.
        if tests.get(name) != "failed":
            tests[name] = outcome
    return tests


def environments(output: str) -> dict[str, str]:
    """What CPython's runner says of modules whose tests leave something behind: "changed" for each."""
    found = _CHANGED.search(output)
    names = found.group(1).split() if found else []
    return {f"{name} [environment]": "changed" for name in names}
