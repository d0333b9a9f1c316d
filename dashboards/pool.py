"""One pool: where the knee is, who holds the workers, what they do, and how large the pool should be."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as d
from parts import (
    AGES,
    NEUTRAL,
    TARGETS,
    YELLOW,
    board,
    heat_map,
    lines,
    number,
    quantile,
    rate,
    share,
    timeline,
    variable,
    verdict,
)

POOLS = f'{TARGETS}, pool="$pool"'
POOL_FINDINGS = f'{TARGETS}, kind="pool", name="$pool", severity!="info"'

WAIT, RUN = "poolscope_task_wait_seconds", "poolscope_task_run_seconds"


def total(metric: str, by: str = "pool") -> str:
    """Growth per second, of several instances together."""
    return f"sum by ({by}) ({rate(metric, POOLS)})"


def gauge(metric: str, how: str = "sum") -> str:
    """Return the value now, of several instances together."""
    return f"{how} by (pool) ({metric}{{{POOLS}}})"


BUSY = total("poolscope_pool_busy_seconds_total")
QUEUED = total("poolscope_pool_queued_seconds_total")
STARTS = total(f"{WAIT}_count")


def dashboard() -> d.Dashboard:
    """Return the dashboard that shows the knee."""
    made = board(
        "Pool",
        "One pool: since when its tasks wait for each other, who holds its workers, and how large it should be.",
        "poolscope-pool",
        POOL_FINDINGS,
        variable("pool", "poolscope_pool_max_workers", f"{{{TARGETS}}}", one=True),
    )
    _now(made)
    _knee(made)
    _holders(made)
    _outcomes(made)
    return made


def _now(made: d.Dashboard) -> None:
    made.with_row(d.Row("$pool now"))
    made.with_panel(verdict(POOL_FINDINGS, width=6))
    made.with_panel(
        number(
            "Utilisation",
            "Busy workers over the workers there could be. 100 % is full, which is no fault in itself: the colour is "
            "that of the finding, if there is one.",
            "percentunit",
            ("utilisation", share(f"max({BUSY} / {gauge('poolscope_pool_max_workers')})")),
            findings=POOL_FINDINGS,
        )
    )
    made.with_panel(
        number(
            "Queued",
            "Tasks submitted, not started and not cancelled. The colour is that of the finding, if there is one.",
            "short",
            ("queued", f"sum(poolscope_pool_queue_depth{{{POOLS}}})"),
            findings=POOL_FINDINGS,
            size=(3, 4),
        )
    )
    made.with_panel(
        number(
            "Oldest queued",
            "Age of the task that has waited longest: the only signal that moves in a total stall.",
            "s",
            ("age", f"max(poolscope_pool_oldest_queued_seconds{{{POOLS}}})"),
            steps=AGES,
            size=(3, 4),
        )
    )
    made.with_panel(
        number(
            "Drain time",
            "Seconds until the queue is empty if nothing more comes and tasks start as they do. The colour is that of "
            "the finding, if there is one.",
            "s",
            ("drain", f"max({gauge('poolscope_pool_queue_depth')} / ({STARTS} > 0))"),
            findings=POOL_FINDINGS,
        )
    )
    made.with_panel(
        number(
            "Suggested size",
            "max_workers that a replay of the recorded tasks keeps up with; only while there is such advice.",
            "short",
            ("workers", f"sum(poolscope_pool_suggested_max_workers{{{POOLS}}})"),
            steps=((None, NEUTRAL), (1, YELLOW)),
        )
    )


def _knee(made: d.Dashboard) -> None:
    made.with_row(d.Row("The knee"))
    made.with_panel(
        lines(
            "Amplification",
            "How many times longer a task takes than its own work, (wait + run) / run, from time integrals: the knee "
            "is where it leaves 1. From the dashed line on poolscope calls it trouble.",
            "short",
            ("amplification", f"1 + {QUEUED} / ({BUSY} > 0)"),
            limit=2,
            doubling=True,
        )
    )
    made.with_panel(
        lines(
            "Starts against completions",
            "Tasks a second. Before the knee tasks start as they are submitted; from it on as others are completed.",
            "ops",
            ("submitted", total("poolscope_pool_tasks_submitted_total")),
            ("started", STARTS),
            ("completed", f"sum by (pool) ({rate('poolscope_pool_tasks_finished_total', COMPLETED)})"),
        )
    )
    made.with_panel(
        lines(
            "Workers",
            "Workers that run a task, that exist, and that there may be.",
            "short",
            ("active", gauge("poolscope_pool_active_workers")),
            ("existing", gauge("poolscope_pool_workers")),
            ("at most", gauge("poolscope_pool_max_workers")),
        )
    )
    made.with_panel(
        lines(
            "Queue depth",
            "Tasks submitted, not started and not cancelled: now, and in the mean between two points, which misses "
            "nothing in between.",
            "short",
            ("now", gauge("poolscope_pool_queue_depth")),
            ("mean", QUEUED),
        )
    )
    made.with_panel(
        lines(
            "Wait",
            "Seconds from submission to start of the tasks that started, and the age of the one that waits longest. "
            "Percentiles are interpolated between the bounds of the histogram; beyond a minute these are far apart.",
            "s",
            ("p50", quantile(0.5, WAIT, POOLS, "pool")),
            ("p95", quantile(0.95, WAIT, POOLS, "pool")),
            ("p99", quantile(0.99, WAIT, POOLS, "pool")),
            ("oldest queued", gauge("poolscope_pool_oldest_queued_seconds", "max")),
        )
    )
    made.with_panel(
        lines(
            "Run",
            "Seconds from start to end of the tasks that ended, and of the one that has run longest. Growing from the "
            "knee on: what the tasks call has become slower, or they hinder each other.",
            "s",
            ("p50", quantile(0.5, RUN, POOLS, "pool")),
            ("p95", quantile(0.95, RUN, POOLS, "pool")),
            ("longest running", gauge("poolscope_pool_longest_running_seconds", "max")),
        )
    )
    made.with_panel(
        lines(
            "Time saturated",
            "Share of the time that no worker was idle while tasks waited, in the mean of the selected instances.",
            "percentunit",
            ("saturated", share(f"avg by (pool) ({rate('poolscope_pool_saturated_seconds_total', POOLS)})")),
        )
    )
    made.with_panel(
        timeline(
            "A bar per finding above a note, for as long as it lasts.",
            POOL_FINDINGS,
            size=(12, 8),
        )
    )


COMPLETED = f'{POOLS}, outcome!="cancelled"'


def _holders(made: d.Dashboard) -> None:
    made.with_row(d.Row("Who holds the workers, and what they do"))
    made.with_panel(
        lines(
            "Functions that hold the workers",
            "Workers held by each submitted function, in the mean.",
            "short",
            ("{{task}}", total("poolscope_function_busy_seconds_total", "pool, task")),
            stacked=True,
        )
    )
    made.with_panel(
        lines(
            "Starts of each function",
            "Tasks started a second, by submitted function.",
            "ops",
            ("{{task}}", total("poolscope_function_started_total", "pool, task")),
            stacked=True,
        )
    )
    cpu = total("poolscope_pool_cpu_seconds_total")
    made.with_panel(
        lines(
            "CPU against waiting",
            "Busy workers that compute, in cores, and that wait for something: I/O, a lock, another task, the GIL. "
            "Where most wait, more workers may help; where they compute, they do not.",
            "short",
            ("on a CPU", cpu),
            ("waiting", f"clamp_min({BUSY} - {cpu}, 0)"),
            stacked=True,
        )
    )
    made.with_panel(
        lines(
            "Sizing",
            "The size the pool has, the workers that the load asks for (tasks submitted a second times their mean run, "
            "Little's law), and the size that a replay suggests while there is such advice.",
            "short",
            ("at most", gauge("poolscope_pool_max_workers")),
            (
                "asked for",
                f"{total('poolscope_pool_tasks_submitted_total')}"
                f" * {total(f'{RUN}_sum')} / ({total(f'{RUN}_count')} > 0)",
            ),
            ("suggested", gauge("poolscope_pool_suggested_max_workers")),
        )
    )


def _outcomes(made: d.Dashboard) -> None:
    made.with_row(d.Row("Outcomes and distributions"))
    made.with_panel(
        lines(
            "Outcomes",
            "Tasks that ended a second, by outcome, and submissions that the pool refused.",
            "ops",
            ("{{outcome}}", total("poolscope_pool_tasks_finished_total", "pool, outcome")),
            ("rejected", total("poolscope_pool_tasks_rejected_total")),
            size=(8, 8),
        )
    )
    made.with_panel(heat_map("Waits", "Tasks by how long they waited, in seconds.", WAIT, POOLS, (8, 8)))
    made.with_panel(heat_map("Runs", "Tasks by how long they ran, in seconds.", RUN, POOLS, (8, 8)))
