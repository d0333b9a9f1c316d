"""`poolscope check` in this process: a line for each problem, and never a traceback."""

from __future__ import annotations

import contextlib
import io
import random
import re
from pathlib import Path

import pytest
from config_support import DOCUMENTS
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from poolscope import commands

SHIPPED = Path(__file__).parents[2] / "config" / "poolscope.yaml"


def check(path: Path) -> tuple[int, str, str]:
    """Status, standard output and standard error, by the way the command itself goes."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        commands.main(["check", str(path)])
    assert isinstance(ended.value.code, int)
    return ended.value.code, out.getvalue(), err.getvalue()


def problems(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "pools.yaml"
    path.write_text(text)
    status, out, err = check(path)
    assert (status, out) == (2, "")
    prefix = f"poolscope: {path}, "
    lines = err.splitlines()
    assert all(line.startswith(prefix) for line in lines)
    return [line.removeprefix(prefix) for line in lines]


def test_the_shipped_settings_are_valid() -> None:
    assert check(SHIPPED) == (0, f"{SHIPPED}: valid\n", "")


def test_a_line_for_each_problem_in_reading_order(tmp_path: Path) -> None:
    text = """\
sample_intervall: 1
listen: nowhere
listen: 9464
endpoint:
  tls: {key: server.key}
  bearer_token_file: 3
  users: a
keep_tasks: !!int many
pools:
  - name: database
    max_workers: 0
  - match: a
    ordered: maybe
  - just words
detection: [1]
metrics:
  wait_buckets: [1, 1, 0]
  run_buckets: many
"""
    seconds = "expected a number of seconds above 1 (the one before) and up to 1000000, found 1"
    keys = "known here: insecure, tls, bearer_token_file, basic_auth_file"
    assert problems(tmp_path, text) == [
        "line 1: sample_intervall: unknown key 'sample_intervall'; did you mean \"sample_interval\"?",
        'line 2: listen: expected HOST:PORT or PORT, such as "127.0.0.1:9464" (an IPv6 address in brackets), '
        "found 'nowhere'",
        "line 3: listen: expected each key once, found it a second time",
        "line 5: endpoint.tls.key: expected the certificate that it belongs to beside it, found nothing",
        "line 6: endpoint.bearer_token_file: expected the path of a file, or null, found 3",
        f"line 7: endpoint.users: unknown key 'users'; {keys}",
        "line 8: keep_tasks: expected a value, found 'many'",
        "line 10: pools[0]: expected the key match (a shell pattern of pool names), found keys with values",
        "line 11: pools[0].max_workers: expected a whole number from 1 to 1000000000, found 0",
        "line 13: pools[1].ordered: expected true or false, found 'maybe'",
        "line 14: pools[2]: expected a rule (match: PATTERN, and what differs), found 'just words'",
        "line 15: detection: expected keys with values (key: value), found a list of 1",
        f"line 17: metrics.wait_buckets[1]: {seconds}",
        "line 18: metrics.run_buckets: expected a list of numbers, found 'many'",
    ]


def test_the_example_of_the_docs(tmp_path: Path) -> None:
    docs = (SHIPPED.parents[1] / "docs" / "settings.md").read_text()
    shown = re.findall(r"^poolscope: poolscope\.yaml, (.*)$", docs, re.MULTILINE)
    text = "detection:\n  sustain_second: 1\npools:\n- match: a\n  max_workers: 0\n"
    assert problems(tmp_path, text) == shown


def test_what_cannot_be_read_as_a_whole_is_one_problem(tmp_path: Path) -> None:
    assert problems(tmp_path, "listen: [\nsample_interval: -1") == [
        "line 2: expected YAML, found a mistake in it: expected ',' or ']', but got '<stream end>'"
    ]


def test_there_is_an_end_to_problems(tmp_path: Path) -> None:
    path = tmp_path / "pools.yaml"
    path.write_text("\n".join(f"k{number}: 1" for number in range(5000)))
    status, _, err = check(path)
    assert status == 2
    assert len(err.splitlines()) == 101
    assert err.splitlines()[-1] == f"poolscope: {path}: and 4900 more"


def is_well_behaved(path: Path) -> None:
    status, out, err = check(path)
    lines = err.splitlines()
    if status == 0:
        assert (out, err) == (f"{path}: valid\n", "")
    else:
        assert (status, out) == (2, "")
        assert lines
        assert all(line.startswith("poolscope: ") and line.isprintable() for line in lines)
    assert "Traceback" not in err


@pytest.mark.slow
@given(st.one_of(st.text(), st.text("[]{}:,-?*&!|>%@`'\"# \n\tab01.", max_size=60), DOCUMENTS))
@example("pools: [&a {match: a}, *a]")
@example("metrics: {wait_buckets: []}")
@settings(
    deadline=None, derandomize=True, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_text_causes_a_traceback(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pools.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    is_well_behaved(path)


@given(st.binary(max_size=200))
@settings(
    deadline=None, derandomize=True, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_bytes_cause_a_traceback(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "pools.yaml"
    path.write_bytes(data)
    is_well_behaved(path)


def test_no_change_of_the_shipped_settings_causes_a_traceback(tmp_path: Path) -> None:
    """Bytes of the real file swapped, dropped, doubled: nearer to what people do than random text."""
    chance = random.Random(6)
    original = SHIPPED.read_bytes()
    path = tmp_path / "pools.yaml"
    for _ in range(100):
        data = bytearray(original)
        for _ in range(chance.randint(1, 4)):
            at = chance.randrange(len(data))
            change = chance.randrange(4)
            if change == 0:
                del data[at : at + chance.randint(1, 80)]
            elif change == 1:
                data[at:at] = data[at : at + chance.randint(1, 200)]
            elif change == 2:
                data[at] = chance.choice(b" \t:-#[]{}&*!|>'\"%@`\n0\xff")
            else:
                data[at:at] = chance.choice([b"\n", b": ", b"- ", b"!!int ", b"null", b"<<: ", b"1e9999"])
        path.write_bytes(data)
        is_well_behaved(path)
