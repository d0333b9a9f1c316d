"""Text on its way to a terminal or a log: in one line, with nothing in it that they obey.

Names of pools, functions, files and arguments may hold anything: escape sequences that clear a screen, carriage returns
and line breaks that forge a line of ours, marks that turn the direction of the text after them. Each place that prints
or logs text passes it through here, once. JSON and metrics have escapes of their own, and keep the names as they are.
"""

from __future__ import annotations

#: The most characters of one line.
LONGEST = 2_000


def escaped(text: str) -> str:
    """Return the text with controls, line breaks, direction marks and surrogates as backslash escapes."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def one_line(text: str, most: int = LONGEST) -> str:
    """Return the text as one printable line of at most `most` characters: of a longer one the begin and the end."""
    if len(text) > 2 * most:  # before the work: a name may have megabytes
        text = text[:most] + text[-most:]
    line = escaped(text)
    if len(line) <= most:
        return line
    tail = (most - 3) // 2
    return f"{line[: most - 3 - tail]}...{line[len(line) - tail :]}"


def lines(text: str) -> str:
    """Return the same of a text with several lines, such as a traceback: all but the first are indented, so that none
    of them can be taken for a line of ours."""
    return "\n  ".join(one_line(line) for line in text.split("\n"))


def fitting(text: str, encoding: str | None) -> str:
    """Return the text with what `encoding` (None: any character) cannot hold as backslash escapes."""
    encoding = encoding or "utf-8"
    try:
        return text.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:  # an encoding that this Python does not know
        return text.encode("ascii", "backslashreplace").decode("ascii")
