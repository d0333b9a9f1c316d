"""Pools for a moment as one: its size, its threads, and what a fork leaves."""

from __future__ import annotations

from probe_support import FakeProbe

from poolscope.probe.recording.ephemeral_pools import READINGS, EphemeralPools

SITE = ("lib/made.py:1", "lib:make", "")


class Member:
    pass


def test_the_size_is_the_most_members_lately():
    probe, group = FakeProbe(), EphemeralPools("group", "kind", "lib.Pool")
    members = [Member() for _ in range(5)]
    watches = {id(group.add(member, probe, SITE)) for member in members}
    assert watches == {id(group.watch)}
    assert probe.opened == [("group", "", "kind")]
    [recorder] = probe.recorders
    assert recorder.executor == "lib.Pool"
    assert len(group.members()) == 5
    del members[2:]
    sizes = [recorder.size()[1] for _ in range(READINGS + 2)]
    assert sizes == [5] * READINGS + [2, 2]
    assert recorder.settled()
    del members[:]
    assert not recorder.settled()
    assert [recorder.size()[1] for _ in range(READINGS + 1)][-1] == 1
    assert not group.members()


def test_members_that_are_to_be_ignored_or_cannot_be_recorded_have_no_watch():
    probe, group = FakeProbe(), EphemeralPools("group", "kind", "lib.Pool")
    probe.ignored.add("group")
    member = Member()
    assert group.add(member, probe, SITE) is None
    group.forget()
    probe.ignored.clear()
    watch = group.add(member, probe, SITE)
    assert watch is not None
    watch.recorder.given_up = True
    assert group.add(Member(), probe, SITE) is None


def test_it_is_opened_anew_once_it_has_forgotten():
    first, second, group = FakeProbe(), FakeProbe(), EphemeralPools("group", "kind", "lib.Pool")
    member = Member()
    before = group.add(member, first, SITE)
    group.forget()
    assert not group.members()
    after = group.add(member, second, SITE)
    assert before is not after
    assert [len(probe.recorders) for probe in (first, second)] == [1, 1]
