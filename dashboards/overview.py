"""Every pool and loop of the selected targets: what is wrong now, and where to look next."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as d
from parts import (
    GREEN,
    LOOPS,
    POOL_FINDINGS,
    POOLS,
    RED,
    TARGETS,
    YELLOW,
    board,
    lines,
    number,
    quantile,
    rate,
    rows,
    state,
    timeline,
    variable,
)

BAD = ((None, GREEN), (1, RED))
EACH = "job, instance, pool"
#: Over a fleet one line per pool of a job, not per instance.
FLEET = "job, pool"


def dashboard() -> d.Dashboard:
    """Return the dashboard to begin with."""
    loops = LOOPS.replace("$loop", ".*")
    every_finding = f'{TARGETS}, severity!="info"'
    made = board(
        "Overview",
        "Every pool of workers and every event loop: which are in trouble, since when, and how full they are.",
        "poolscope-overview",
        POOL_FINDINGS,
        variable("pool", "poolscope_pool_max_workers", f"{{{TARGETS}}}"),
    )
    made.with_row(d.Row("Now"))
    made.with_panel(
        number(
            "Pools in trouble",
            "Pools with a finding above a note. A merely full pool is not one.",
            "short",
            ("pools", f"count(max by (job, instance, name) (poolscope_finding{{{POOL_FINDINGS}}}) == 1) or vector(0)"),
            steps=BAD,
        )
    )
    made.with_panel(
        number(
            "Event loops in trouble",
            "Event loops that a callback holds up.",
            "short",
            (
                "loops",
                f'count(max by (job, instance, name) (poolscope_finding{{{every_finding}, kind="loop"}}) == 1)'
                " or vector(0)",
            ),
            steps=BAD,
        )
    )
    made.with_panel(
        number(
            "Oldest queued task",
            "Age of the task that has waited longest. It grows by a second a second where nothing moves at all.",
            "s",
            ("age", f"max(poolscope_pool_oldest_queued_seconds{{{POOLS}}})"),
            steps=((None, GREEN), (10, YELLOW), (60, RED)),
        )
    )
    made.with_panel(
        number(
            "Tasks queued",
            "Tasks that were submitted, have not started and were not cancelled.",
            "short",
            ("queued", f"sum(poolscope_pool_queue_depth{{{POOLS}}})"),
        )
    )
    made.with_panel(
        number(
            "Targets down",
            "Selected targets that Prometheus cannot scrape now.",
            "short",
            ("down", f"count(up{{{TARGETS}}} == 0) or vector(0)"),
            steps=BAD,
        )
    )
    made.with_panel(
        number(
            "Cost of poolscope",
            "CPU time that poolscope itself uses in the watched processes, as a share of one core.",
            "percentunit",
            ("share", f"sum({rate('poolscope_overhead_cpu_seconds_total', TARGETS)})"),
        )
    )
    made.with_row(d.Row("Pools"))
    made.with_panel(
        rows(
            "Every pool",
            "The worst first. Utilisation: busy workers over the workers there could be. Amplification: how many times "
            "longer a task takes than its own work. The name leads to the pool.",
            (
                ("state", "none", state("pool", POOLS)),
                (
                    "utilisation",
                    "percentunit",
                    f"sum by ({EACH}) ({rate('poolscope_pool_busy_seconds_total', POOLS)})"
                    f" / sum by ({EACH}) (poolscope_pool_max_workers{{{POOLS}}})",
                ),
                ("active", "short", f"sum by ({EACH}) (poolscope_pool_active_workers{{{POOLS}}})"),
                ("max workers", "short", f"sum by ({EACH}) (poolscope_pool_max_workers{{{POOLS}}})"),
                ("queued", "short", f"sum by ({EACH}) (poolscope_pool_queue_depth{{{POOLS}}})"),
                ("oldest queued", "s", f"max by ({EACH}) (poolscope_pool_oldest_queued_seconds{{{POOLS}}})"),
                ("wait p95", "s", quantile(0.95, "poolscope_task_wait_seconds", POOLS, EACH)),
                ("run p95", "s", quantile(0.95, "poolscope_task_run_seconds", POOLS, EACH)),
                (
                    "amplification",
                    "short",
                    f"1 + sum by ({EACH}) ({rate('poolscope_pool_queued_seconds_total', POOLS)})"
                    f" / sum by ({EACH}) ({rate('poolscope_pool_busy_seconds_total', POOLS)})",
                ),
            ),
            link="pool",
            size=(24, 10),
        )
    )
    made.with_panel(
        timeline(
            "A bar per finding above a note, of pools and of event loops, for as long as it lasts.",
            every_finding,
            size=(24, 7),
        )
    )
    made.with_row(d.Row("Over time"))
    made.with_panel(
        lines(
            "Utilisation",
            "Busy workers over the workers there could be, in the mean of the selected instances. 100 % is full, "
            "which is no fault in itself.",
            "percentunit",
            (
                "{{job}} {{pool}}",
                f"sum by ({FLEET}) ({rate('poolscope_pool_busy_seconds_total', POOLS)})"
                f" / sum by ({FLEET}) (poolscope_pool_max_workers{{{POOLS}}})",
            ),
        )
    )
    made.with_panel(
        lines(
            "Wait, 95th percentile",
            "Seconds from submission to start that 95 % of the tasks do not exceed, over the selected instances.",
            "s",
            ("{{job}} {{pool}}", quantile(0.95, "poolscope_task_wait_seconds", POOLS, FLEET)),
        )
    )
    made.with_panel(
        lines(
            "Queue depth",
            "Tasks submitted, not started and not cancelled.",
            "short",
            ("{{job}} {{pool}}", f"sum by ({FLEET}) (poolscope_pool_queue_depth{{{POOLS}}})"),
        )
    )
    made.with_panel(
        lines(
            "Time saturated",
            "Share of the time that no worker was idle while tasks waited, in the mean of the selected instances.",
            "percentunit",
            ("{{job}} {{pool}}", f"avg by ({FLEET}) ({rate('poolscope_pool_saturated_seconds_total', POOLS)})"),
        )
    )
    made.with_panel(
        lines(
            "Event loop lag, 99th percentile",
            "Seconds late that 99 % of what is due on the loops does not exceed.",
            "s",
            ("{{job}} {{loop}}", quantile(0.99, "poolscope_loop_lag_seconds", loops, "job, loop")),
        )
    )
    made.with_panel(
        lines(
            "Failures of poolscope itself",
            "By part. The watched program goes on; metrics and findings may be incomplete. Empty is good.",
            "short",
            ("failures {{part}}", f"sum by (part) (poolscope_errors_total{{{TARGETS}}}) or vector(0)"),
        )
    )
    return made
