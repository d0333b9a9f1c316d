"""The command line: what was asked becomes a plan; what is wrong with it becomes one line and status 2.

Whatever a command needs is imported by it: `poolscope run` has to be quick.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NoReturn

from poolscope import __version__
from poolscope.errors import PoolscopeError

if TYPE_CHECKING:
    from poolscope.config import Settings
    from poolscope.parent.plan import Plan
    from poolscope.parent.programs import Program

#: As in `model.SEVERITIES`, whose import takes longer than all of this.
_SEVERITIES = ("info", "warning", "critical")

#: Story -> what happens in it. The program is `examples/<story>.py`.
STORIES = {
    "overlap": "three coroutines await 2, 1 and 3 s: concurrent, 3 s in all",
    "blocking-call": "the same with time.sleep: the loop is blocked, 6 s in all",
    "hard-limit": "a scheduler feeds a pool of 4, gently at first: concurrent, then serial",
}

#: As in `export.SHIPPED`.
_EXPORTS = ("dashboards", "rules", "config")


class UsageError(PoolscopeError):
    """A command line that says nothing we know."""


class _Parser(argparse.ArgumentParser):
    """One that raises, in one line, instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """The command `poolscope`; ends the process, by the program's signal if that ended by one."""
    try:
        status = command(sys.argv[1:] if arguments is None else list(arguments))
    except PoolscopeError as error:
        if sys.stderr is not None:
            print(f"poolscope: {error}", file=sys.stderr)
        status = 2
    except BrokenPipeError:
        # Nobody reads standard output any more; nor shall the interpreter complain when it flushes it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        status = 1
    except KeyboardInterrupt:
        status = -2
    if status < 0:
        from poolscope.parent.supervisor import end_by

        status = end_by(status)
    sys.exit(status)


def command(arguments: list[str]) -> int:
    """Does what the arguments say; the exit status, negative for the signal that ended the program.

    Raises PoolscopeError.
    """
    parser = _parser()
    if arguments[:1] == ["run"]:
        # What follows the program is the program's, whatever it looks like: argparse must not see it.
        options = _run_parser("run")
        ours, rest = _split(arguments[1:], options)
        return _run(options.parse_args(ours), rest)
    if arguments[:1] == ["demo"]:
        options = _run_parser("demo")
        options.add_argument("story", nargs="?", metavar="STORY", help="; ".join(STORIES))
        return _demo(options.parse_args(arguments[1:]))
    chosen = parser.parse_args(arguments)
    if chosen.command is None:
        parser.print_help()
        return 0
    action: Callable[[argparse.Namespace], int] = _ACTIONS[chosen.command]
    return action(chosen)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="poolscope",
        description="Says why an asynchronous Python program turned serial.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"poolscope {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    # Listed for the help; `command` handles them before.
    commands.add_parser("run", help="run a program and report", add_help=False)
    commands.add_parser("demo", help="run one of the stories: " + ", ".join(STORIES), add_help=False)
    report = commands.add_parser("report", help="the report of a recorded session", allow_abbrev=False)
    report.add_argument("session", metavar="SESSION", help="a file written by poolscope run --session")
    report.add_argument("--json", metavar="PATH", help="write the report as JSON instead of showing it")
    whatif = commands.add_parser("whatif", help="a recorded session with other pool sizes", allow_abbrev=False)
    whatif.add_argument("session", metavar="SESSION", help="a file written by poolscope run --session")
    whatif.add_argument("--pool", metavar="NAME", help="this pool only")
    whatif.add_argument("--workers", metavar="SIZES", help="sizes to try, such as 4,8,16-64")
    check = commands.add_parser("check", help="validate a settings file", allow_abbrev=False)
    check.add_argument("config", metavar="CONFIG", help="the file")
    export = commands.add_parser("export", help="write the shipped Grafana and Prometheus files", allow_abbrev=False)
    export.add_argument("what", choices=_EXPORTS)
    export.add_argument("folder", metavar="DIR", help="where to; made if need be")
    export.add_argument("--force", action="store_true", help="overwrite files that differ")
    return parser


def _run_parser(name: str) -> argparse.ArgumentParser:
    usage = {
        "run": "poolscope run [options] SCRIPT [ARGS...]\n"
        "       poolscope run [options] -m MODULE [ARGS...]\n"
        "       poolscope run [options] -- COMMAND [ARGS...]",
        "demo": "poolscope demo [options] [STORY]",
    }
    parser = _Parser(prog=f"poolscope {name}", usage=usage[name], allow_abbrev=False)
    parser.add_argument("--json", metavar="PATH", help="the report as JSON")
    parser.add_argument("--session", metavar="PATH", help="what was recorded, to look at again later")
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
        help="run with another size of that pool",
    )
    parser.add_argument(
        "--fail-on",
        metavar="SEVERITY",
        choices=_SEVERITIES,
        help="status 3 if the program succeeded and a finding is this severe or worse: " + ", ".join(_SEVERITIES),
    )
    parser.add_argument("--quiet", action="store_true", help="no report on standard error")
    return parser


def _split(arguments: list[str], parser: argparse.ArgumentParser) -> tuple[list[str], list[str]]:
    """(our options, the program and all that is its own): the program begins where no option of ours does."""
    takes_value = {option: action.nargs != 0 for action in parser._actions for option in action.option_strings}
    at = 0
    while at < len(arguments):
        word = arguments[at]
        if word.startswith("-m") or word in ("-", "--") or not word.startswith("-"):
            break
        at += 2 if takes_value.get(word) else 1
    return arguments[:at], arguments[at:]


def _run(options: argparse.Namespace, rest: list[str]) -> int:
    from poolscope.parent.supervisor import supervise

    return supervise(_plan(_program(rest), options))


def _program(rest: list[str]) -> Program:
    from poolscope.parent import programs

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
    if not rest:
        raise UsageError("nothing to run: name a SCRIPT, -m MODULE or -- COMMAND (see poolscope run --help)")
    return programs.script(rest[0], rest[1:])


def _demo(options: argparse.Namespace) -> int:
    from poolscope.export import shipped
    from poolscope.parent import programs
    from poolscope.parent.supervisor import supervise

    story = options.story
    if story is None:
        for name, text in STORIES.items():
            print(f"{name:<15}{text}")
        return 0
    if story not in STORIES:
        raise UsageError(f"there is no story {story!r}: choose from {', '.join(STORIES)}")
    path = shipped(f"examples/{story.replace('-', '_')}.py")
    if path is None:
        raise PoolscopeError(f"the story {story} is not part of this installation: install poolscope again")
    return supervise(_plan(programs.script(path, ()), options))


def _plan(program: Program, options: argparse.Namespace) -> Plan:
    from poolscope import outputs
    from poolscope.parent.plan import Plan

    json_path = outputs.check(options.json, "--json") if options.json is not None else None
    session_path = outputs.check(options.session, "--session") if options.session is not None else None
    if session_path is not None and session_path == json_path:
        raise UsageError(f"--session and --json name the same file {options.session}: name two")
    return Plan(
        program=program,
        settings=_settings(options),
        json_path=json_path,
        session_path=session_path,
        fail_on=options.fail_on,
        quiet=options.quiet,
    )


def _settings(options: argparse.Namespace) -> Settings | None:
    """The settings of the command line over those of the environment; None if there are none."""
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
    pool, separator, workers = override.rpartition(".max_workers=")
    if not separator or not pool:
        raise UsageError(f"--set {override}: expected POOL.max_workers=N, such as database.max_workers=16")
    if not (workers.isascii() and workers.isdigit() and len(workers) <= 9):
        raise UsageError(f"--set {override}: expected a whole number of workers, found {workers!r}")
    return settings.with_max_workers(pool, int(workers), "--set")


def _report(options: argparse.Namespace) -> int:
    from poolscope import outputs, session
    from poolscope.rendering.terminal import render

    target = outputs.check(options.json, "--json") if options.json is not None else None
    recorded = session.load(options.session)
    if target is not None:
        outputs.write(target, recorded.report.to_json())
    else:
        render(recorded, sys.stdout)
        sys.stdout.flush()
    return 0


def _whatif(options: argparse.Namespace) -> int:
    from poolscope import session, whatif

    workers = whatif.sizes(options.workers) if options.workers is not None else None
    for line in whatif.lines(session.load(options.session), options.pool, workers):
        print(line)
    sys.stdout.flush()
    return 0


def _check(options: argparse.Namespace) -> int:
    from poolscope import config
    from poolscope.errors import ConfigError

    try:
        config.load(options.config)
    except ConfigError as error:
        # Here all of them: whoever asks wants to mend the file in one go.
        for problem in error.problems:
            print(f"poolscope: {problem}", file=sys.stderr)
        return 2
    print(f"{options.config}: valid")
    return 0


def _export(options: argparse.Namespace) -> int:
    from poolscope.export import export

    export(options.what, options.folder, force=options.force)
    print(f"{options.what} written to {options.folder}")
    return 0


_ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "report": _report,
    "whatif": _whatif,
    "check": _check,
    "export": _export,
}
