"""`poolscope run`: the arguments become a plan, which the parent carries out."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from poolscope.commands.console import Parser, UsageError, add_look, look
from poolscope.rendering import outputs

if TYPE_CHECKING:
    from poolscope.config import Settings
    from poolscope.supervisor.plan import Plan
    from poolscope.supervisor.programs import Program

#: As in `model.SEVERITIES`, whose import takes longer than all of this.
_SEVERITIES = ("info", "warning", "critical")


def do(arguments: list[str]) -> int:
    """Run a program; its exit status, negative for the signal that ended it. What follows the program is the program's,
    whatever it looks like: argparse must not see it."""
    from poolscope.supervisor.supervisor import supervise

    parser = run_parser("run")
    ours, rest = _split(arguments, parser)
    options = parser.parse_args(ours)
    return supervise(plan(_program(rest), options))


def run_parser(name: str) -> Parser:
    """Return the options of `run`, and of `demo`, which runs a story."""
    usage = {
        "run": "poolscope run [options] SCRIPT [ARGS...]\n"
        "       poolscope run [options] -m MODULE [ARGS...]\n"
        "       poolscope run [options] -c CODE [ARGS...]\n"
        "       poolscope run [options] -- COMMAND [ARGS...]",
        "demo": "poolscope demo [options] [STORY]",
    }
    parser = Parser(prog=f"poolscope {name}", usage=usage[name], allow_abbrev=False)
    outputs.add_options(parser)
    outputs.add_annotations(parser)
    parser.add_argument("--listen", metavar="[HOST:]PORT", help="a Prometheus endpoint while the program runs")
    parser.add_argument(
        "--insecure",
        action="store_true",
        help="allow --listen beyond loopback without TLS and authentication",
    )
    parser.add_argument("--config", metavar="FILE", help="settings")
    parser.add_argument(
        "--set",
        metavar="POOL.max_workers=N",
        action="append",
        default=[],
        help="run with another size of that pool, NAME or NAME:KIND",
    )
    parser.add_argument(
        "--fail-on",
        metavar="SEVERITY",
        choices=_SEVERITIES,
        help="status 3 if the program succeeded and a finding is this severe or worse: " + ", ".join(_SEVERITIES),
    )
    parser.add_argument("--verbose", action="store_true", help="every number of the evidence, and every notice")
    parser.add_argument("--quiet", action="store_true", help="no report on standard error")
    add_look(parser)
    parser.add_argument("--live", action="store_true", help="the view of top while it runs")
    return parser


def _split(arguments: list[str], parser: argparse.ArgumentParser) -> tuple[list[str], list[str]]:
    """(our options, the program and all that is its own): the program begins where no option of ours does."""
    takes_value = {option: action.nargs != 0 for action in parser._actions for option in action.option_strings}
    at = 0
    while at < len(arguments):
        word = arguments[at]
        if word.startswith(("-m", "-c")) or word in ("-", "--") or not word.startswith("-"):
            break
        at += 2 if takes_value.get(word) else 1
    return arguments[:at], arguments[at:]


def _program(rest: list[str]) -> Program:
    from poolscope.supervisor import programs

    if rest[:1] == ["--"]:
        if len(rest) == 1:
            raise UsageError("nothing to run: name a COMMAND after -- (see poolscope run --help)")
        return programs.command(rest[1:])
    if rest and rest[0].startswith("-m"):
        attached = [rest[0][2:]] if rest[0] != "-m" else []
        words = attached + rest[1:]
        if not words:
            raise UsageError("nothing to run: name a MODULE after -m (see poolscope run --help)")
        return programs.module(words[0], words[1:])
    if rest and rest[0].startswith("-c"):
        attached = [rest[0][2:]] if rest[0] != "-c" else []
        words = attached + rest[1:]
        if not words:
            raise UsageError("nothing to run: write CODE after -c (see poolscope run --help)")
        return programs.code(words[0], words[1:])
    if not rest:
        raise UsageError("nothing to run: name a SCRIPT, -m MODULE, -c CODE or -- COMMAND (see poolscope run --help)")
    return programs.script(rest[0], rest[1:])


def plan(program: Program, options: argparse.Namespace) -> Plan:
    """Return what is to be run and how. Raises PoolscopeError."""
    from poolscope.supervisor.plan import Plan

    shown = look(options)
    if options.live:
        from poolscope.commands.top import check_extra
        from poolscope.supervisor.live_view import can_be_shown

        if can_be_shown():
            check_extra()
    return Plan(
        program=program,
        settings=_settings(options),
        # The script itself, and whatever else is a file among the words of a command.
        outputs=outputs.check(options, untouchable=program.argv),
        fail_on=options.fail_on,
        quiet=options.quiet,
        resized=tuple(_override(text)[0] for text in options.set),
        verbose=options.verbose,
        color=shown.color,
        width=shown.width,
        live=options.live,
    )


def _settings(options: argparse.Namespace) -> Settings | None:
    """Return the settings of the command line over those of the environment; None if there are none."""
    from_environment = os.environ.get("POOLSCOPE_CONFIG") or os.environ.get("POOLSCOPE_LISTEN")
    if not (from_environment or options.config or options.set or options.listen or options.insecure):
        return None
    from poolscope import config

    environment = dict(os.environ)
    if options.config is not None:
        environment["POOLSCOPE_CONFIG"] = options.config
    settings = config.environment_settings(environment)
    if options.listen is not None:
        settings = settings.with_listen(options.listen, "--listen")
    if options.insecure:
        import msgspec

        endpoint = msgspec.structs.replace(settings.endpoint, insecure=True)
        settings = msgspec.structs.replace(settings, endpoint=endpoint)
    for override in options.set:
        settings = _with_override(settings, override)
    return settings


def _with_override(settings: Settings, override: str) -> Settings:
    pool, workers = _override(override)
    return settings.with_max_workers(pool, workers, "--set")


def _override(override: str) -> tuple[str, int]:
    """Return the pool and the number of workers of a `--set`. Raises UsageError."""
    pool, separator, workers = override.rpartition(".max_workers=")
    if not separator or not pool:
        raise UsageError(f"--set {override}: expected POOL.max_workers=N, such as database.max_workers=16")
    if not (workers.isascii() and workers.isdigit() and len(workers) <= 9):
        raise UsageError(f"--set {override}: expected a whole number of workers, found {workers!r}")
    return pool, int(workers)
