"""Every pool and loop of the selected targets: what is wrong now, and where to look next."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as d
from parts import (
    AGES,
    GREEN,
    LIMITS,
    LOOPS,
    NEUTRAL,
    POOL_FINDINGS,
    POOLS,
    RED,
    TARGETS,
    board,
    each_finding,
    lines,
    number,
    quantile,
    rate,
    rows,
    share,
    state,
    timeline,
    variable,
)

BAD = ((None, GREEN), (1, RED))
EACH = "job, instance, pool"
#: Over a fleet one line per pool of a job, not per instance.
FLEET = "job, pool"
EVERY_FINDING = f'{TARGETS}, severity!="info"'
LOOP_FINDINGS = f'{EVERY_FINDING}, kind="loop"'
TURNS = f'{TARGETS}, pattern="not_concurrent"'


def in_trouble(kind: str) -> str:
    """Count the pools with a finding, of those whose kind matches."""
    of_kind = f'label_replace(poolscope_pool_info{{{POOLS}, {kind}}}, "name", "$1", "pool", "(?s)(.*)")'
    found = f"max by (job, instance, name) (poolscope_finding{{{POOL_FINDINGS}}}) == 1"
    return f"count(({found}) and on (job, instance, name) {of_kind}) or vector(0)"


def dashboard() -> d.Dashboard:
    """Return the dashboard to begin with."""
    loops = LOOPS.replace("$loop", ".*")
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
            "Pools of workers with a finding above a note. A merely full pool is not one.",
            "short",
            ("pools", in_trouble(f'kind!~"{LIMITS}"')),
            steps=BAD,
            size=(3, 4),
        )
    )
    made.with_panel(
        number(
            "Limits in trouble",
            "Semaphores, locks and pools of connections with a finding above a note.",
            "short",
            ("limits", in_trouble(f'kind=~"{LIMITS}"')),
            steps=BAD,
            size=(3, 4),
        )
    )
    made.with_panel(
        number(
            "Loops in trouble",
            "Event loops that a callback holds up, or that have no rest.",
            "short",
            (
                "loops",
                f"count(max by (job, instance, name) (poolscope_finding{{{LOOP_FINDINGS}}}) == 1) or vector(0)",
            ),
            steps=BAD,
            size=(3, 4),
        )
    )
    made.with_panel(
        number(
            "One at a time",
            "Pools, event loops and programs in which nothing is full, and yet one thing is done after the other "
            "(not_concurrent). Notes: nothing is broken, and it takes longer than it needs.",
            "short",
            ("notes", f"count({each_finding(f'poolscope_finding{{{TURNS}}}')} == 1) or vector(0)"),
            steps=((None, NEUTRAL), (1, "blue")),
            size=(3, 4),
        )
    )
    made.with_panel(
        number(
            "Oldest queued task",
            "Age of the task that has waited longest. It grows by a second a second where nothing moves at all.",
            "s",
            ("age", f"max(poolscope_pool_oldest_queued_seconds{{{POOLS}}})"),
            steps=AGES,
            size=(3, 4),
        )
    )
    made.with_panel(
        number(
            "Tasks queued",
            "Tasks that were submitted, have not started and were not cancelled. Many of them are no fault: the colour "
            "is that of the worst finding of their pools.",
            "short",
            ("queued", f"sum(poolscope_pool_queue_depth{{{POOLS}}})"),
            findings=POOL_FINDINGS,
            size=(3, 4),
        )
    )
    made.with_panel(
        number(
            "Targets down",
            "Selected targets that Prometheus cannot scrape now.",
            "short",
            ("down", f"count(up{{{TARGETS}}} == 0) or vector(0)"),
            steps=BAD,
            size=(3, 4),
        )
    )
    made.with_panel(
        number(
            "Cost of poolscope",
            "CPU time that poolscope itself uses in the watched processes, as a share of one core.",
            "percentunit",
            ("share", f"sum({rate('poolscope_overhead_cpu_seconds_total', TARGETS)})"),
            size=(3, 4),
        )
    )
    made.with_row(d.Row("Pools"))
    made.with_panel(
        rows(
            "Every pool",
            "The worst first; the name leads to the pool. The kind tells a pool of workers (thread, process, ...) from "
            "a limit (semaphore, lock, connections), whose tasks are holds, and from a queue, whose workers are "
            "consumers. Utilisation: busy workers over the workers there could be. Amplification: how many times "
            "longer a task takes than its own work.",
            (
                ("state", "none", state("pool", POOLS)),
                (
                    "utilisation",
                    "percentunit",
                    share(
                        f"sum by ({EACH}) ({rate('poolscope_pool_busy_seconds_total', POOLS)})"
                        f" / sum by ({EACH}) (poolscope_pool_max_workers{{{POOLS}}})"
                    ),
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
            # Of a pool that has ended the kind stays, and the gauges go.
            kinds=f"max by ({EACH}, kind) (poolscope_pool_info{{{POOLS}}})"
            f" and on ({EACH}) poolscope_pool_max_workers{{{POOLS}}}",
            size=(24, 10),
        )
    )
    made.with_panel(
        timeline(
            "A bar per finding above a note, of pools and of event loops, for as long as it lasts.",
            EVERY_FINDING,
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
                share(
                    f"sum by ({FLEET}) ({rate('poolscope_pool_busy_seconds_total', POOLS)})"
                    f" / sum by ({FLEET}) (poolscope_pool_max_workers{{{POOLS}}})"
                ),
            ),
            by_name=True,
        )
    )
    made.with_panel(
        lines(
            "Wait, 95th percentile",
            "Seconds from submission to start that 95 % of the tasks do not exceed, over the selected instances.",
            "s",
            ("{{job}} {{pool}}", quantile(0.95, "poolscope_task_wait_seconds", POOLS, FLEET)),
            by_name=True,
            legend=False,
        )
    )
    made.with_panel(
        lines(
            "Queue depth",
            "Tasks submitted, not started and not cancelled.",
            "short",
            ("{{job}} {{pool}}", f"sum by ({FLEET}) (poolscope_pool_queue_depth{{{POOLS}}})"),
            by_name=True,
            legend=False,
        )
    )
    made.with_panel(
        lines(
            "Time saturated",
            "Share of the time that no worker was idle while tasks waited, in the mean of the selected instances.",
            "percentunit",
            (
                "{{job}} {{pool}}",
                share(f"avg by ({FLEET}) ({rate('poolscope_pool_saturated_seconds_total', POOLS)})"),
            ),
            by_name=True,
            legend=False,
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
