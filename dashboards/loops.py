"""Event loops: how late they run what is due, and how long callbacks hold them."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as d
from parts import (
    GREEN,
    LOOP_FINDINGS,
    LOOPS,
    RED,
    TARGETS,
    YELLOW,
    board,
    heat_map,
    lines,
    number,
    quantile,
    rate,
    rows,
    share,
    state,
    timeline,
    variable,
    verdict,
)

LAG = "poolscope_loop_lag_seconds"
EACH = "job, instance, loop"


def dashboard() -> d.Dashboard:
    """Return the dashboard of the event loops."""
    made = board(
        "Event loops",
        "Event loops: how late they run what is due, how long callbacks hold them, and which findings there are.",
        "poolscope-loop",
        LOOP_FINDINGS,
        variable("loop", "poolscope_loop_tasks", f"{{{TARGETS}}}"),
    )
    blocked = share(rate("poolscope_loop_blocked_seconds_total", LOOPS))
    busy = share(rate("poolscope_loop_busy_seconds_total", LOOPS))
    made.with_row(d.Row("Now"))
    made.with_panel(verdict(LOOP_FINDINGS, width=9, more=" The log names the line."))
    made.with_panel(
        number(
            "Worst lag, 99th percentile",
            "Seconds late that 99 % of what is due does not exceed, of the loop where that is most.",
            "s",
            ("lag", f"max({quantile(0.99, LAG, LOOPS, EACH)})"),
            steps=((None, GREEN), (0.1, YELLOW), (0.5, RED)),
            size=(5, 4),
        )
    )
    made.with_panel(
        number(
            "Most blocked",
            "Share of its time that a callback of loop_blocked_seconds or more held the loop, where that is most.",
            "percentunit",
            ("blocked", f"max({blocked})"),
            steps=((None, GREEN), (0.02, YELLOW), (0.2, RED)),
            size=(5, 4),
        )
    )
    made.with_panel(
        number(
            "Tasks",
            "Tasks of the event loops that are not done.",
            "short",
            ("tasks", f"sum(poolscope_loop_tasks{{{LOOPS}}})"),
            size=(5, 4),
        )
    )
    made.with_row(d.Row("Loops"))
    made.with_panel(
        rows(
            "Every event loop",
            "The worst first.",
            (
                ("state", "none", state("loop", LOOPS)),
                ("blocked", "percentunit", f"max by ({EACH}) ({blocked})"),
                ("at work", "percentunit", f"max by ({EACH}) ({busy})"),
                ("lag p50", "s", quantile(0.5, LAG, LOOPS, EACH)),
                ("lag p99", "s", quantile(0.99, LAG, LOOPS, EACH)),
                ("tasks", "short", f"sum by ({EACH}) (poolscope_loop_tasks{{{LOOPS}}})"),
            ),
            link="loop",
            size=(24, 7),
        )
    )
    made.with_panel(
        lines(
            "Lag",
            "How late the loop runs what is due, in seconds.",
            "s",
            ("{{instance}} {{loop}} p50", quantile(0.5, LAG, LOOPS, EACH)),
            ("{{instance}} {{loop}} p99", quantile(0.99, LAG, LOOPS, EACH)),
        )
    )
    made.with_panel(
        lines(
            "Time blocked",
            "Share of its time that a callback of loop_blocked_seconds or more held the loop. From the dashed line on "
            "poolscope calls it trouble.",
            "percentunit",
            ("{{instance}} {{loop}}", f"max by ({EACH}) ({blocked})"),
            limit=0.02,
        )
    )
    made.with_panel(
        lines(
            "Time at work",
            "Share of its time that the loop was in callbacks, long or short. Near 1 it has no rest: whatever is due "
            "waits.",
            "percentunit",
            ("{{instance}} {{loop}}", f"max by ({EACH}) ({busy})"),
        )
    )
    made.with_panel(
        lines(
            "Tasks of each loop",
            "Tasks of the event loop that are not done. Growing without end: they are made faster than they finish.",
            "short",
            ("{{instance}} {{loop}}", f"sum by ({EACH}) (poolscope_loop_tasks{{{LOOPS}}})"),
            size=(12, 8),
        )
    )
    made.with_panel(heat_map("Lags", "Callbacks by how late they ran, in seconds.", LAG, LOOPS, (12, 8)))
    made.with_panel(
        timeline(
            "A bar per finding above a note, for as long as it lasts.",
            LOOP_FINDINGS,
            size=(12, 8),
        )
    )
    return made
