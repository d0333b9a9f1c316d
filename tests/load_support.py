"""What a report must say of a service that was driven gently, into saturation, and gently again."""

from __future__ import annotations

from pathlib import Path

from service_support import Ended


def check_knee(ended: Ended, name: str, file: str, source: str, *, gentle_seconds: float) -> None:
    """The pool turned serial once, at that line of the user's, and is well again; nothing else is warned of. A crowd
    that comes at once, and no more after it, is a batch: a note.

    `gentle_seconds` is how long it had tasks before the overload, at least.
    """
    report = ended.report
    assert report["exit_code"] == ended.status
    assert not report["notices"]
    [finding] = [found for found in report["findings"] if found["pattern"] in ("batch", "async_then_serial")]
    assert ended.warnings() == ([] if finding["pattern"] == "batch" else [finding])
    assert report["verdict"] == ("concurrent" if finding["pattern"] == "batch" else "async_then_serial")
    assert finding["cause"] == "blocking_io"
    assert repr(name) in finding["summary"]
    frame = finding["frames"][0]
    assert (Path(frame["file"]).name, frame["source"]) == (file, source)
    assert frame["share"] > 0.9
    assert finding["until_seconds"] is not None
    assert finding["until_seconds"] < report["duration_seconds"]
    # Not before the overload.
    assert finding["since_seconds"] > ended.pool(name)["first_submit_seconds"] + gentle_seconds
