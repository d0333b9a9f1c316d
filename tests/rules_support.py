"""What the rules can say, read from their modules."""

import importlib
import pkgutil

from poolscope import rules
from poolscope.rules.in_turn import InTurnCause
from poolscope.rules.loop_cause import LoopCause
from poolscope.rules.reason import Cause


def causes_of_rules() -> set[str]:
    """The causes that rules can give, by a class each or by a constant."""
    found = set()
    for info in pkgutil.iter_modules(rules.__path__):
        module = importlib.import_module(f"{rules.__name__}.{info.name}")
        found.add(getattr(module, "CAUSE", "unknown"))
        for rule in vars(module).values():
            if isinstance(rule, type) and issubclass(rule, Cause | LoopCause):
                found.add(getattr(rule, "name", "unknown"))
            elif isinstance(rule, type) and issubclass(rule, InTurnCause):
                found.add(getattr(rule, "cause", "unknown"))
    return found
