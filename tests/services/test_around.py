"""What the newest libraries put around their users' functions is what their adapters expect."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from adapter_support import AROUND
from probe_support import FakeProbe

from poolscope.probe import targets
from poolscope.probe.recording import function_table


@pytest.mark.parametrize("module", AROUND)
def test_what_a_library_puts_around_functions_is_known(module, monkeypatch):
    monkeypatch.setattr(function_table, "WRAPPERS", {})
    importlib.import_module(module)
    probe: Any = FakeProbe()
    targets.meet(probe, module)
    assert [f"{module}.{name}" for name in AROUND[module][1]] == list(function_table.WRAPPERS)
    assert not probe.messages
    assert not probe.faults
