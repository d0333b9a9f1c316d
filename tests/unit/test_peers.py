"""What the comparison of other projects' suites makes of what they tell; the suites themselves run by night."""

from __future__ import annotations

from pathlib import Path

import pytest
from peers import compare, parsing, projects

LIST = Path(compare.__file__).with_name("projects.toml")


def outcome(tests, status=0, errors=()):
    return compare.Outcome(tests=tests, status=status, errors=frozenset(errors), seconds=1.0)


def test_what_is_the_same_does_not_differ():
    plain = outcome({"a": "passed", "b": "skipped"})
    assert compare.differences(plain, plain) == {}


def test_a_test_that_did_not_run_a_status_and_a_line_differ():
    plain = outcome({"a": "passed", "b": "passed"})
    watched = outcome({"a": "failed"}, status=-6, errors=["Traceback"])
    assert compare.differences(plain, watched) == {
        "a": ("passed", "failed"),
        "b": ("passed", "not run"),
        "[exit status]": ("0", "-6"),
        "[standard error] Traceback": ("", "printed"),
    }


def test_of_tests_that_a_run_had_no_time_for_nothing_is_said():
    whole, cut = outcome({"a": "passed", "b": "passed"}), outcome({"a": "passed"}, status=None)
    assert compare.differences(whole, cut) == {"[exit status]": ("0", "time was up")}
    assert compare.differences(cut, cut) == {}
    assert compare.differences(cut, outcome({"a": "failed"}, status=None)) == {"a": ("passed", "failed")}


def test_what_does_not_differ_again_is_flaky_and_what_is_documented_is_known():
    first = dict.fromkeys(["a", "b", "c[1]", "d [x]"], ("passed", "failed"))
    told = compare.settled(first, {"a": ("passed", "failed"), "b": ("failed", "failed")}, ["c", "*[x]"])
    assert (list(told.certain), list(told.flaky), list(told.known)) == (["a"], ["b"], ["c[1]", "d [x]"])


def test_lines_are_compared_without_numbers_addresses_and_folders():
    lines = compare.lines_of("at 0x7f12 in /tmp/peerabc/x: 12.5 s\n\n", ["/tmp/peerabc"])
    assert lines == {"at N in TMP/x: N.N s"}


def test_verbose_lines_of_unittest():
    text = (
        "test_a (m.T.test_a) ... ok\n"
        "test_b (m.T.test_b)\n"
        "What it is for. ... printed by the test\n"
        "FAIL\n"
        "test_c (m.T.test_c)\nWhat it is for. ... skipped 'why'\n"
    )
    assert parsing.verbose(text) == {"test_a (m.T.test_a)": "passed", "test_c (m.T.test_c)": "skipped"}


def test_a_test_with_parts_fails_if_one_of_them_does():
    text = '<s><testcase name="a"><failure/></testcase><testcase name="a"/><testcase name="b"><skipped/></testcase></s>'
    assert parsing.junit(text) == {"a": "failed", "b": "skipped"}


def test_modules_that_leave_something_behind():
    text = "2 tests altered the execution environment (env changed):\n    test.test_a test_b\n\n3 tests OK.\n"
    assert parsing.environments(text) == {"test.test_a [environment]": "changed", "test_b [environment]": "changed"}


def test_the_list_has_each_project_once_with_what_it_needs():
    listed = projects.read(LIST)
    names = [project.name for project in listed]
    assert len(names) == len(set(names))
    assert all(project.version or project.kind == "cpython" for project in listed)
    assert all(note.reason for project in listed for note in (*project.deselect, *project.known))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nothing = 1", "cannot read"),
        ("[[project]]\nname = 'a'\nverison = '1'", "a: unknown keys: verison"),
        ("[[project]]\nname = 'a'\nkind = 'nose'", "a: its kind is 'nose'"),
    ],
)
def test_a_list_that_does_not_fit(tmp_path, text, message):
    (tmp_path / "projects.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        projects.read(tmp_path / "projects.toml")


def test_a_project_that_is_not_in_the_list():
    with pytest.raises(ValueError, match="there is no project nope: choose from"):
        projects.chosen(projects.read(LIST), ["nope"])
