"""Where a pool is stored, read from the bytecode of whoever makes it."""

import sys
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from poolscope.probe.interpreter import stored


class Made:
    """Stands for a pool: knows what the frame that made it would store it in."""

    def __init__(self, *_, **__):
        self.told = stored.variable(sys._getframe(1))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None


class Service:
    made_in_the_class = Made()

    def __init__(self):
        self._pool = Made(4, name="x")
        self.inner = Made() if self._pool else None

    def others(self, other):
        other.pool = Made()
        first = second = Made()
        other.a = other.b = Made()
        annotated: Made = Made()
        if (walrus := Made()) is None:
            return None
        return other.pool, first, second, other.a, annotated, walrus


class Bag:
    pool: Made


module_level = Made()
everywhere: Made


def test_variables() -> None:
    pool = Made()
    assert pool.told == "pool"
    assert module_level.told == "module_level"
    used = Made()
    assert (used.told, used.told) == ("used", "used")
    either = None or Made()
    assert either.told == "either"
    chosen = Made(1) if pool else Made(2)
    assert chosen.told == "chosen"


def test_variables_of_other_scopes() -> None:
    global everywhere
    everywhere = Made()
    outer = Made()

    def inner() -> str:
        nonlocal outer
        outer = Made()
        return outer.told

    assert (everywhere.told, outer.told, inner()) == ("everywhere", "outer", "outer")


def test_attributes() -> None:
    service = Service()
    assert service.inner is not None
    assert (service._pool.told, service.inner.told) == ("_pool", "inner")
    assert Service.made_in_the_class.told == "made_in_the_class"
    told = [made.told for made in service.others(Bag())]
    assert told == ["pool", "first", "first", "a", "annotated", "walrus"]


def test_with() -> None:
    with Made() as pool:
        assert pool.told == "pool"
    bag = Bag()
    with Made() as bag.pool:
        assert bag.pool.told == "pool"
    with Made() as first, Made() as second:
        assert (first.told, second.told) == ("first", "second")


@contextmanager
def lent(made):
    yield made


def test_what_is_stored_in_no_variable() -> None:
    seen = []

    def keep(made):
        seen.append(made)
        return made

    def give():
        return Made()

    pools = {}
    pools["a"] = Made()
    seen.append(Made())
    seen.append(give())
    passed = keep(Made())
    with ExitStack() as stack:
        entered = stack.enter_context(Made())
    with lent(Made()) as borrowed:
        pass
    made, other = Made(), 1
    word = Made().told
    seen += [pools["a"], passed, entered, borrowed, *[Made() for _ in range(2)]]
    assert {each.told for each in seen} == {""}
    assert (word, other) == ("", 1)
    assert made.told in ("", "made")


@pytest.mark.parametrize("source", ["made = Made()", "\n" * 50 + "made = Made()", "x = 1\nmade = Made(1, 2)\ny = made"])
def test_code_of_other_lengths(source) -> None:
    space: dict[str, Any] = {"Made": Made, "__name__": "typed"}
    exec(compile(source, "<string>", "exec"), space)
    assert space["made"].told == "made"


def test_code_that_is_too_long_is_not_read() -> None:
    space: dict[str, Any] = {"Made": Made}
    exec(compile("x = 1\n" * 10_000 + "made = Made()", "<string>", "exec"), space)
    assert space["made"].told == ""


def test_it_fails_to_no_answer(monkeypatch) -> None:
    class Broken:
        def get_instructions(self, _):
            raise IndexError

        def stack_effect(self):
            raise IndexError

    monkeypatch.setattr(stored, "_known", {})
    monkeypatch.setattr(stored, "_dis", Broken)
    pool = Made()
    assert pool.told == ""


def test_a_module_of_the_programs_own_is_not_run(monkeypatch, tmp_path) -> None:
    (tmp_path / "opcode.py").write_text("raise SystemExit('it ran')")
    monkeypatch.setattr(stored, "_known", {})
    monkeypatch.delitem(sys.modules, "opcode", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    pool = Made()
    assert pool.told == ""
