"""What of a finding is for everyone: not the lines of code, which are for those who may see the program's source."""

from __future__ import annotations

import re

import msgspec

from poolscope.model import Finding

#: How the texts of findings name a line: "at file.py:12 (function)".
_PLACE = re.compile(r"\b(at|in) \S+:\d+ \([^)]*\)")


def without_lines(finding: Finding) -> Finding:
    """Return it without frames, and without the lines of code that its texts name."""
    summary = _PLACE.sub(r"\1 a line that is not shown here", finding.summary)
    text = _PLACE.sub(r"\1 a line that is not shown here", finding.advice.text)
    for frame in finding.frames:
        file = frame.file.rsplit("/", 1)[-1]
        for place in (f"{file}:{frame.line} ({frame.function})", f"{file}:{frame.line}"):
            summary = summary.replace(place, "a line that is not shown here")
            text = text.replace(place, "that line")
    advice = msgspec.structs.replace(finding.advice, text=text)
    return msgspec.structs.replace(finding, summary=summary, advice=advice, frames=())
