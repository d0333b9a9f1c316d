"""Runs labelled programs under `poolscope run`, and compares each report with the label and the realised log."""

import contextlib
import json
import linecache
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from statistics import quantiles

from benchmarks.diagnosis import program, truth
from benchmarks.diagnosis.scores import Subject

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = program.FAMILIES
TIMEOUT_SECONDS = 120
#: Which runs are stuck and which pools are stalled (docs/concepts.md#patterns).
STUCK_RUNS, STALL_RUNS = 10, 5
#: Its findings only inform, and may be the verdict.
IN_TURN = "not_concurrent"
#: A shorter block of a loop is none (the setting `loop_blocked_seconds`).
BLOCK_SECONDS = 0.1


@contextlib.contextmanager
def burning(count):
    """So many processes that compute beside the program."""
    burners = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def _paths(name, seed, folder):
    return {what: Path(folder) / f"{name}-{seed}.{what}" for what in ("report.json", "log.json", "yaml")}


def kept(name, seed, folder):
    """(report, log) of a program that was run before."""
    paths = _paths(name, seed, folder)
    return json.loads(paths["report.json"].read_text()), json.loads(paths["log.json"].read_text())


def run(name, seed, folder):
    """(report, log) of one program, which are left in `folder`."""
    family = FAMILIES[name]
    paths = _paths(name, seed, folder)
    paths["yaml"].write_text(json.dumps(family.settings))
    command = [sys.executable, "-m", "poolscope", "run", "--quiet", "--config", str(paths["yaml"])]
    command += ["--json", str(paths["report.json"]), "-m", "benchmarks.diagnosis.program"]
    command += [name, str(seed), str(paths["log.json"])]
    with burning(family.burners):
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
        )
    if done.returncode or done.stderr:
        raise RuntimeError(f"{name} {seed}: exit status {done.returncode}\n{done.stderr}")
    return kept(name, seed, folder)


def compare(name, seed, report, log):
    """A `Subject` for each pool and loop that something is expected of."""
    family = FAMILIES[name]
    wall, monotonic = log["clocks"]
    # When the report's clock was at 0, by the log's clock.
    origin = monotonic + round((datetime.fromisoformat(report["started_at"]).timestamp() - wall) * 1e9)
    return [_subject(family, seed, expected, report, log, origin) for expected in family.expected]


def _subject(family, seed, expected, report, log, origin):
    rows = report["event_loops"] if expected.name == "loop" else report["pools"]
    rows = [row for row in rows if expected.name in ("loop", row["name"])]
    subject = Subject(family.name, seed, expected.name, seconds=report["duration_seconds"])
    subject.findings = [finding for row in rows for finding in row["findings"] if finding["pattern"] != "burst"]
    subject.label(expected, *_right(family, expected, log))
    subject.limit = log["limit"] or expected.limit
    if not rows and not expected.optional:
        subject.unseen = True
    for finding in subject.findings:
        if finding["pattern"] == IN_TURN == report["verdict"] and expected.pattern != IN_TURN:
            finding["severity"] = "verdict"  # over a healthy program that is an alarm
        finding["marked"] = _marked(finding)
    subject.knees = tuple((knee - origin) / 1e9 for knee in subject.knees)
    if subject.due is not None:
        subject.due = (subject.due - origin) / 1e9
    if expected.size == "replay":
        pool = log["pools"][expected.name]
        subject.needed = truth.first_size(pool["workers"], pool["tasks"])
    return subject


def _right(family, expected, log):
    """(patterns, doubtful, knees, due): what is right, whether its absence is as well; ns."""
    if expected.pattern == IN_TURN:
        return (IN_TURN,), False, (), None
    if expected.name == "loop":
        if expected.pattern is None:
            return (), False, (), None
        first = next(begin for begin, end in log["blocks"] if end - begin >= BLOCK_SECONDS * 1e9)
        return (expected.pattern,), False, (first,), None
    pool = log["pools"][expected.name]
    if expected.full:
        return (expected.pattern,), False, (log["moments"]["full"],), None
    working = log.get("working")
    found, doubtful = truth.troubles(
        pool["workers"], pool["tasks"], log["limit"] or expected.limit, working and working * 1e9
    )
    if expected.pattern is None:
        return (), doubtful or bool(found), (), None
    moments, detection = log["moments"], family.settings.get("detection", {})
    if expected.pattern == "deadlock":
        return ("deadlock",), False, (moments["deadlock"],), moments["deadlock"]
    runs = [ended - started for _, started, ended, _ in pool["tasks"] if ended and ended < moments.get("stuck", 0)]
    if expected.pattern == "stuck_workers":
        usual, stuck = quantiles(runs, n=100)[98], moments["stuck"]
        due = stuck + max(detection["stuck_task_seconds"] * 1e9, STUCK_RUNS * usual)
        return (expected.pattern,), False, (stuck,), due
    if expected.pattern == "stalled":
        # The stretch that the hanging tasks made, and the last task that ended before it.
        stuck = moments["stuck"]
        stretch = next(each for each in truth.stretches(pool["workers"], pool["tasks"]) if each.end > stuck + 1e9)
        ends = [ended for _, _, ended, _ in pool["tasks"] if ended and ended <= stretch.begin + 1e9]
        last = max(ends, default=stuck)  # where none ever ended
        due = last + max(detection["stall_seconds"] * 1e9, STALL_RUNS * max(runs, default=0))
        return (expected.pattern,), False, (stretch.begin,), due
    if not found:
        return (), doubtful, (), None
    troubles = truth.main_troubles(found)
    names = troubles[0].patterns if expected.pattern == "saturated" else (expected.pattern,)
    return names, False, tuple(trouble.knee for trouble in troubles), troubles[0].due


def _marked(finding):
    """The comment `# <- name` at the first line of a finding."""
    frames = finding["frames"]
    if not frames:
        return None
    source = frames[0]["source"] or linecache.getline(frames[0]["file"], frames[0]["line"])
    return source.partition("# <- ")[2].strip() or f"{Path(frames[0]['file']).name}:{frames[0]['line']}"
