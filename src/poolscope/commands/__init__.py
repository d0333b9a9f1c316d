"""The command line: what was asked becomes a plan; what is wrong with it becomes one line and status 2.

Each command has its file, with `do`. What it needs is imported by it: `poolscope run` has to be quick.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from poolscope import __version__
from poolscope.commands import demo, run
from poolscope.commands.console import OutputFailed, Parser, add_look, complain, leave_output
from poolscope.commands.demo import STORIES
from poolscope.errors import PoolscopeError
from poolscope.isolation import isolate
from poolscope.rendering import outputs

#: As in `export.SHIPPED`.
_EXPORTS = ("dashboards", "rules", "config")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command `poolscope`, and end the process, by the program's signal if that ended by one."""
    isolate()
    try:
        status = command(sys.argv[1:] if arguments is None else list(arguments))
    except PoolscopeError as error:
        complain(str(error))
        status = 2
    except BrokenPipeError:
        leave_output()
        status = 1
    except OutputFailed as error:
        leave_output()
        complain(f"standard output cannot be written: {error}; send it elsewhere")
        status = 2
    except KeyboardInterrupt:
        status = -2
    if status < 0:
        from poolscope.supervisor.supervisor import end_by

        status = end_by(status)
    sys.exit(status)


def command(arguments: list[str]) -> int:
    """Do what the arguments say; the exit status, negative for the signal that ended the program.

    Raises PoolscopeError.
    """
    if arguments[:1] == ["run"]:
        return run.do(arguments[1:])
    if arguments[:1] == ["demo"]:
        return demo.do(arguments[1:])
    parser = parser_of_all()
    chosen = parser.parse_args(arguments)
    if chosen.command is None:
        parser.print_help()
        return 0
    return _action(chosen.command)(chosen)


def _action(name: str) -> Callable[[argparse.Namespace], int]:
    """Return what does a command that runs no program."""
    if name == "report":
        from poolscope.commands.report import do
    elif name == "whatif":
        from poolscope.commands.whatif import do
    elif name == "compare":
        from poolscope.commands.compare import do
    elif name == "fleet":
        from poolscope.commands.fleet import do
    elif name == "top":
        from poolscope.commands.top import do
    elif name == "completion":
        from poolscope.commands.completion import do
    elif name == "observe":
        from poolscope.commands.observe import do
    elif name == "check":
        from poolscope.commands.check import do
    else:
        from poolscope.commands.export import do
    return do


def parser_of_all(*, completing: bool = False) -> argparse.ArgumentParser:
    """Return the parser of all commands; `completing`: with what follows `run` and `demo`, which it does not parse."""
    from poolscope.commands import fleet, observe

    parser = Parser(
        prog="poolscope",
        description="Says why an asynchronous Python program turned serial.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"poolscope {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    # Listed for the help; `command` handles them before.
    for name, do in (("run", "run a program and report"), ("demo", "run one of the stories: " + ", ".join(STORIES))):
        parents = [run.run_parser(name)] if completing else []
        listed = commands.add_parser(name, help=do, add_help=False, parents=parents)
        if completing and name == "run":
            listed.add_argument("program", nargs="...", metavar="SCRIPT")
        elif completing:
            listed.add_argument("story", nargs="?", choices=list(STORIES))
    report = commands.add_parser("report", help="the report of a recorded session", allow_abbrev=False)
    report.add_argument("session_file", metavar="SESSION", help="a file written by poolscope run --session")
    outputs.add_options(report, [name for name in outputs.OPTIONS if name != "--session"])
    outputs.add_annotations(report)
    report.add_argument("--verbose", action="store_true", help="every number of the evidence, and every notice")
    add_look(report)
    compare = commands.add_parser("compare", help="what changed from one recorded run to another", allow_abbrev=False)
    compare.add_argument("before", metavar="BEFORE", help="a file written by poolscope run --session")
    compare.add_argument("after", metavar="AFTER", help="another one")
    outputs.add_options(compare, ["--markdown"])
    compare.add_argument("--fail-on-regression", action="store_true", help="status 3 if something became worse")
    whatif = commands.add_parser("whatif", help="a recorded session with other pool sizes", allow_abbrev=False)
    whatif.add_argument("session", metavar="SESSION", help="a file written by poolscope run --session")
    whatif.add_argument("--pool", metavar="NAME", help="this pool only")
    whatif.add_argument("--workers", metavar="SIZES", help="sizes to try, such as 4,8,16-64")
    fleet.parser_into(commands)
    top = commands.add_parser("top", help="what a program does now, in the terminal", allow_abbrev=False)
    top.add_argument(
        "target",
        nargs="?",
        metavar="URL|PORT|PID",
        help="an endpoint, its port on this machine, or a process under poolscope run; 127.0.0.1:9464 if none is given",
    )
    top.add_argument("--bearer-token-file", metavar="FILE", help="a file with the endpoint's bearer token")
    top.add_argument("--ca", metavar="FILE", help="certificates to trust for an endpoint with TLS, as PEM")
    top.add_argument("--until", type=int, metavar="DESCRIPTOR", help=argparse.SUPPRESS)  # of `run --live`
    observe.parser_into(commands)
    check = commands.add_parser("check", help="validate a settings file", allow_abbrev=False)
    check.add_argument("config", metavar="CONFIG", help="the file")
    completion = commands.add_parser(
        "completion", help="completion for a shell, on standard output", allow_abbrev=False
    )
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    export = commands.add_parser("export", help="write the shipped Grafana and Prometheus files", allow_abbrev=False)
    export.add_argument("what", choices=_EXPORTS)
    export.add_argument("folder", metavar="DIR", help="where to; made if need be")
    export.add_argument("--force", action="store_true", help="overwrite files that differ")
    export.add_argument("--config", metavar="FILE", help="of rules: settings whose own mappings have rules too")
    return parser
