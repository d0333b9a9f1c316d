"""`poolscope demo`: runs one of the stories that are shipped."""

from __future__ import annotations

from poolscope.commands.console import UsageError, tell
from poolscope.commands.run import plan, run_parser
from poolscope.errors import PoolscopeError

#: Story -> what happens in it. The program is `examples/<story>.py`.
STORIES = {
    "overlap": "three coroutines await 2, 1 and 3 s: concurrent, 3 s in all",
    "blocking-call": "the same with time.sleep: the loop is blocked, 6 s in all",
    "hard-limit": "a scheduler feeds a pool of 4, gently at first: concurrent, then serial",
    "in-turn": "coroutines awaited one after another in a loop: 8 s for what could take half a second",
    "gate": "150 coroutines behind a semaphore of 3, then behind a lock that is held across an await",
}


def do(arguments: list[str]) -> int:
    """Run a story, or list them; the exit status of its program."""
    from poolscope.commands.export import shipped
    from poolscope.supervisor import programs
    from poolscope.supervisor.supervisor import supervise

    parser = run_parser("demo")
    parser.add_argument("story", nargs="?", metavar="STORY", help="; ".join(STORIES))
    options = parser.parse_args(arguments)
    story = options.story
    if story is None:
        tell(f"{name:<15}{text}" for name, text in STORIES.items())
        return 0
    if story not in STORIES:
        raise UsageError(f"there is no story {story!r}: choose from {', '.join(STORIES)}")
    path = shipped(f"examples/{story.replace('-', '_')}.py")
    if path is None:
        raise PoolscopeError(f"the story {story} is not part of this installation: install poolscope again")
    return supervise(plan(programs.script(path, ()), options))
