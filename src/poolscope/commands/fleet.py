"""`poolscope fleet`: the pools of a whole fleet, judged from what a Prometheus has."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from poolscope.commands.console import Parser, UsageError, complain
from poolscope.rendering import outputs

if TYPE_CHECKING:
    from poolscope.config import Settings
    from poolscope.fleet.client import Engine
    from poolscope.fleet.layout import Clock
    from poolscope.fleet.report import Outcome
    from poolscope.fleet.survey import Survey, Surveyor

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
#: Progress is told from here on, and so often (s).
_TELL_AFTER = 3.0
#: Clocks that differ by less (s) are as good as equal.
_CLOCK_SECONDS = 30.0
#: As in `model.SEVERITIES`.
_SEVERITIES = ("info", "warning", "critical")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what both commands on metrics take."""
    outputs.add_options(parser, ["--json", "--html", "--markdown"])
    parser.add_argument("--config", metavar="FILE", help="settings: thresholds, pools on purpose, own mappings")
    parser.add_argument(
        "--fail-on",
        metavar="SEVERITY",
        choices=_SEVERITIES,
        help="status 3 if a finding is this severe or worse: " + ", ".join(_SEVERITIES),
    )
    parser.add_argument("--quiet", action="store_true", help="no progress on standard error")
    parser.add_argument("--bearer-token-file", metavar="FILE", help="a file with a bearer token")
    parser.add_argument("--basic-auth-file", metavar="FILE", help="a file with USER:PASSWORD")
    parser.add_argument(
        "--header-file", metavar="FILE", help="a file with headers (NAME: VALUE), such as X-Scope-OrgID"
    )
    parser.add_argument("--ca", metavar="FILE", help="the certificate authority of its certificate (PEM)")
    parser.add_argument("--timeout", metavar="SECONDS", type=float, default=60.0, help="for each request (60)")


def parser_into(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "fleet", help="judge the pools of any runtime from what a Prometheus has", allow_abbrev=False
    )
    parser.add_argument("url", metavar="URL", help="the engine, with its prefix if it has one")
    parser.add_argument("--last", metavar="TIME", help="the time up to now to look at: 30m, 6h, 2d (1h)")
    parser.add_argument(
        "--from", dest="begin", metavar="TIME", help="or from this time on (2026-12-01T14:00, RFC 3339)"
    )
    parser.add_argument("--to", dest="end", metavar="TIME", help="up to this time (now)")
    parser.add_argument("--match", metavar="SELECTOR", help="series with these labels only, such as '{job=\"orders\"}'")
    parser.add_argument("--yes", action="store_true", help="read however many series match")
    parser.add_argument("--concurrency", metavar="N", type=int, default=2, help="requests at a time (2)")
    parser.add_argument(
        "--samples", metavar="N", type=int, default=400_000, help="about so many samples a request (400000)"
    )
    add_options(parser)


def do(options: argparse.Namespace) -> int:
    """Look at a fleet and say what is wrong; the exit status."""
    from poolscope.fleet import client, survey
    from poolscope.fleet.judging import Range
    from poolscope.fleet.layout import Clock
    from poolscope.fleet.report import Cost, outcome

    wanted = outputs.check(options)
    for name, least in (("concurrency", 1), ("samples", 1000), ("timeout", 0.001)):
        if not getattr(options, name) >= least:
            raise UsageError(f"--{name} {getattr(options, name)}: expected at least {least}")
    begin, end = moments(options.last, options.begin, options.end, time.time())
    started = time.monotonic()
    settings = settings_of(options.config)
    login = client.access(options.bearer_token_file, options.basic_auth_file, options.header_file, options.ca)
    engine = client.Engine(options.url, login, timeout=options.timeout)
    clock = Clock(end)
    surveyor = survey.Surveyor(
        engine,
        Range(begin, end, clock, points=points(wanted)),
        settings,
        match=matchers(options.match),
        budget=options.samples,
        concurrency=options.concurrency,
        progress=progress(options.quiet, time.monotonic),
    )
    found = _asked(surveyor, yes=options.yes)
    load = engine.load
    result = outcome(
        found.verdicts,
        found.met,
        surveyor.mappings,
        source=engine.url,
        begin=begin,
        end=end,
        interval=found.interval,
        notices=[*found.notices, *_notices(engine)],
        cost=Cost(load.requests, load.samples, load.bytes, time.monotonic() - started),
    )
    return give(result, clock, wanted, options.fail_on)


def _notices(engine: Engine) -> list[str]:
    """Return what the engine says of its answers, and of the time."""
    found = [f"{engine.url} warns: {text}" for text in engine.warnings]
    if abs(engine.ahead) >= _CLOCK_SECONDS:
        how = "ahead of" if engine.ahead > 0 else "behind"
        found.append(
            f"{engine.url} has a clock that is {abs(engine.ahead):.0f} s {how} this machine's, by which the time that "
            "is looked at is meant: name it with --from and --to"
        )
    return found


def _asked(surveyor: Surveyor, *, yes: bool) -> Survey:
    """Survey; a fleet that is larger than is read unasked after a question, where somebody is there to answer."""
    from poolscope.fleet.survey import TooMany

    if yes:
        return surveyor.run(None)
    try:
        return surveyor.run()
    except TooMany as error:
        if not (sys.stdin is not None and sys.stdin.isatty() and sys.stderr is not None and sys.stderr.isatty()):
            raise
        print(f"poolscope: {error.count:,} series match. Read them? [y/N] ", end="", file=sys.stderr, flush=True)
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise
    return surveyor.run(None)


def give(result: Outcome, clock: Clock, wanted: tuple[outputs.Output, ...], fail_on: str | None) -> int:
    """Show a report, or write what was asked for; the exit status."""
    from poolscope.commands.console import output
    from poolscope.fleet import layout
    from poolscope.model import SEVERITIES
    from poolscope.rendering.terminal import write
    from poolscope.supervisor.supervisor import FAILED_STATUS

    for each in wanted:
        outputs.put(each, _made(result, clock, each.option))
    if not wanted:
        output(lambda file: write(lambda medium: layout.lines(result, medium, clock), file))
    worst = result.groups[0].first if result.groups else None
    if fail_on is None or worst is None or SEVERITIES.index(worst.severity) < SEVERITIES.index(fail_on):
        return 0
    complain(f"exit status {FAILED_STATUS}, as --fail-on {fail_on} wants it: {result.groups[0].headline(clock)}")
    return FAILED_STATUS


def _made(result: Outcome, clock: Clock, option: str) -> bytes:
    from poolscope.fleet import layout, page

    if option == "--json":
        return result.report.to_json()
    if option == "--html":
        return page.encode(result, clock)
    return layout.markdown(result, clock).encode("utf-8", "backslashreplace")


def points(wanted: Iterable[outputs.Output]) -> int:
    """Return how many points of a finding are kept for pictures: none where none are wanted."""
    from poolscope.fleet import page

    return page.MOST_POINTS if any(each.option == "--html" for each in wanted) else 0


def settings_of(path: str | None) -> Settings:
    """Return the settings that the command line or the environment names. Raises ConfigError."""
    from poolscope import config

    environment = {name: os.environ[name] for name in ("POOLSCOPE_CONFIG",) if name in os.environ}
    if path is not None:
        environment["POOLSCOPE_CONFIG"] = path
    return config.environment_settings(environment)


def moments(last: str | None, begin: str | None, end: str | None, now: float) -> tuple[float, float]:
    """Return the time that is looked at (s since the epoch). Raises UsageError."""
    if last is not None and begin is not None:
        raise UsageError("--last and --from both say where it begins: name one")
    until = now if end is None else min(now, _moment("--to", end))
    since = until - _duration(last or "1h") if begin is None else _moment("--from", begin)
    if not since < until:
        raise UsageError("--from is not before --to, or lies in the future")
    return since, until


def _duration(text: str) -> float:
    found = re.fullmatch(r"([0-9]{1,6}(?:\.[0-9]+)?)([smhdw])", text)
    if found is None or not float(found[1]):
        raise UsageError(f"--last {text}: expected a time such as 30m, 6h or 2d")
    return float(found[1]) * _UNITS[found[2]]


def _moment(option: str, text: str) -> float:
    """Return a moment; one without a time zone is of this machine's."""
    try:
        if re.fullmatch(r"[0-9]{9,11}(\.[0-9]+)?", text):
            return float(text)
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(
            f"{option} {text}: expected a time such as 2026-12-01T14:00 or 2026-12-01T14:00:00Z"
        ) from error


def matchers(selector: str | None) -> str | None:
    """Return what stands between the braces of a selector. Raises UsageError for one of a metric."""
    if selector is None:
        return None
    found = re.fullmatch(r"\s*\{(.*)\}\s*", selector, re.DOTALL)
    inner = (found[1] if found else selector).strip().rstrip(",").strip()
    if not re.match(r"[a-zA-Z_][a-zA-Z0-9_]*\s*(=|!)", inner):
        raise UsageError(f"--match {selector}: expected labels, such as '{{job=\"orders\"}}'")
    return inner


def progress(quiet: bool, clock: Callable[[], float]) -> Callable[[str], None]:
    """Return what tells how far it is, once it takes longer than a moment."""
    told = [clock()]

    def tell(text: str) -> None:
        if not quiet and clock() - told[0] >= _TELL_AFTER:
            told[0] = clock()
            complain(text)

    return tell
