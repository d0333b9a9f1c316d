"""`poolscope observe`: metrics pages of any runtime, scraped by us and judged."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from poolscope.commands.console import Parser, UsageError, complain
from poolscope.commands.fleet import add_options, give, points, settings_of
from poolscope.rendering import outputs

if TYPE_CHECKING:
    from poolscope.fleet.layout import Clock
    from poolscope.fleet.pages import Watch


def parser_into(commands: argparse._SubParsersAction[Parser]) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "observe", help="scrape metrics pages of any runtime, and judge their pools", allow_abbrev=False
    )
    parser.add_argument("urls", metavar="URL", nargs="+", help="a page: http://HOST:PORT/metrics, HOST:PORT or PORT")
    parser.add_argument(
        "--seconds", metavar="N", type=float, default=60.0, help="for so long (60); 0: until Ctrl-C, which reports"
    )
    parser.add_argument("--interval", metavar="SECONDS", type=float, default=5.0, help="between two scrapes (5)")
    add_options(parser)


def do(options: argparse.Namespace) -> int:
    """Scrape, say what is found as it is found, and report; the exit status."""
    from poolscope.fleet import client, pages
    from poolscope.fleet.layout import Clock
    from poolscope.fleet.report import Cost, outcome

    wanted = outputs.check(options)
    if not options.interval >= pages.LEAST_INTERVAL:
        raise UsageError(f"--interval {options.interval:g}: expected at least {pages.LEAST_INTERVAL:g} s")
    if not options.seconds >= 0 or not options.timeout > 0:
        raise UsageError(f"--seconds {options.seconds:g}, --timeout {options.timeout:g}: expected a time")
    login = client.access(options.bearer_token_file, options.basic_auth_file, options.header_file, options.ca)
    watch = pages.Watch(options.urls, login, settings_of(options.config), timeout=options.timeout)
    begin = time.time()
    clock = Clock(begin)
    try:
        observe(
            watch,
            options.seconds,
            options.interval,
            clock,
            tell=(lambda _: None) if options.quiet else complain,
        )
    except KeyboardInterrupt:
        if not watch.scrapes:
            raise
    end = time.time()
    verdicts, met = watch.judge(clock, points(wanted))
    result = outcome(
        verdicts,
        met,
        watch.mappings,
        source=" ".join(options.urls),
        begin=begin,
        end=end,
        interval=watch.interval,
        notices=watch.notices(),
        cost=Cost(watch.scrapes, watch.samples, 0, end - begin),
    )
    return give(result, clock, wanted, options.fail_on)


def observe(
    watch: Watch,
    seconds: float,
    interval: float,
    clock: Clock,
    *,
    tell: Callable[[str], None],
    now: Callable[[], float] = time.time,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Scrape for so long (s; 0: for ever), and tell of each finding when it is first seen. Raises EngineError."""
    from poolscope.fleet.grouping import groups

    begin = due = now()
    told: set[object] = set()
    while True:
        watch.scrape(now())
        if not told:
            for notice in watch.notices():
                tell(notice)
            told.add("notices")
        for group in groups(watch.judge(clock)[0]):
            name = (group.first.key, group.first.pattern, group.first.cause)
            if group.first.severity != "info" and name not in told:
                told.add(name)
                tell(group.headline(clock))
        due += interval
        if seconds and due > begin + seconds:
            return
        pause(max(0.0, due - now()))
