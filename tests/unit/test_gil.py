"""Whether the GIL is on, as each build tells it."""

from __future__ import annotations

import sys

import pytest

from poolscope.probe.interpreter.gil import gil_enabled


@pytest.mark.parametrize("on", [True, False])
def test_a_build_that_tells_is_believed(on: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: on, raising=False)
    assert gil_enabled() is on


def test_a_build_that_cannot_tell_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(sys, "_is_gil_enabled", raising=False)
    assert gil_enabled()
