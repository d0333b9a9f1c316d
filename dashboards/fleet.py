"""The pools of any runtime, by the series that the rules of config/prometheus/fleet.yml record."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard as d
from parts import GREEN, POOLS, TARGETS, YELLOW, board, lines, number, rows, share, timeline, variable

#: How one that is serial reads as an annotation.
ANNOTATION = {"titleFormat": "{{pool}}: serial", "textFormat": "{{job}} on {{instance}}", "tagKeys": "runtime"}
EACH = "job, instance, pool"
#: Over a fleet one line per pool of a job, not per instance.
FLEET = "job, pool"
ACTIVE, LIMIT, QUEUED = (f"pool:fleet_{name}:sum{{{POOLS}}}" for name in ("active", "limit", "queued"))
SERIAL = f"pool:fleet_serial:bool{{{POOLS}}}"
#: 1 while it is serial, 0 for every other pool, and for those whose metrics cannot carry the rule.
STATES = f"max by ({EACH}) ({SERIAL} or 0 * {LIMIT} or 0 * {QUEUED})"


def mean(name: str, by: str = FLEET) -> str:
    """Return the mean of a recorded series over the selected instances."""
    return f"avg by ({by}) (pool:fleet_{name}{{{POOLS}}})"


def dashboard() -> d.Dashboard:
    """Return the dashboard of a fleet."""
    made = board(
        "Fleet",
        "Pools of any runtime (JVM, Go, Ruby, PHP, Python, servers): which turned serial, and how full they are. It "
        "needs the rules of fleet.yml; `poolscope fleet` judges more of them, and says why and what to do.",
        "poolscope-fleet",
        "",
        variable("pool", "pool:fleet_active:sum", f"{{{TARGETS}}}"),
        targets="pool:fleet_active:sum",
        annotation=f"max by ({EACH}, runtime) ({SERIAL}) == 1",
    )
    made.with_row(d.Row("Now"))
    made.with_panel(
        number(
            "Serial",
            "Pools that have been full for half an hour while tasks waited for longer than they ran, and so many were "
            "done meanwhile that chance is no reason. A merely full pool is not one.",
            "short",
            ("pools", f"sum({SERIAL}) or vector(0)"),
            steps=((None, GREEN), (1, YELLOW)),
            size=(4, 4),
        )
    )
    made.with_panel(
        number(
            "Pools",
            "Pools of the selected instances whose workers or queue are known.",
            "short",
            ("pools", f"count(max by ({EACH}) ({ACTIVE} or {QUEUED}))"),
            size=(4, 4),
        )
    )
    made.with_panel(
        number(
            "Instances",
            "Selected instances that have such pools.",
            "short",
            ("instances", f"count(count by (job, instance) ({ACTIVE} or {QUEUED}))"),
            size=(4, 4),
        )
    )
    made.with_panel(
        number(
            "Full, and tasks wait",
            "Pools of which that is so at this moment. It is no fault where it is soon over: the colour is that of the "
            "pools that are serial.",
            "short",
            ("pools", f"sum(pool:fleet_saturated:bool{{{POOLS}}}) or vector(0)"),
            states=STATES,
            size=(4, 4),
        )
    )
    made.with_panel(
        number(
            "Tasks queued",
            "Tasks and callers that wait. Many of them are no fault: the colour is that of the pools that are serial.",
            "short",
            ("queued", f"sum({QUEUED})"),
            states=STATES,
            size=(4, 4),
        )
    )
    made.with_panel(
        number(
            "Utilisation",
            "Busy workers over the workers there could be, in the mean of 5 minutes and of the selected pools.",
            "percentunit",
            ("utilisation", f"avg(pool:fleet_utilisation:ratio_avg5m{{{POOLS}}})"),
            states=STATES,
            size=(4, 4),
        )
    )
    made.with_row(d.Row("Pools"))
    made.with_panel(
        rows(
            "Every pool",
            "The worst first; the name leads to that pool alone. The kind is the runtime. Wait and run are means over "
            "5 minutes by Little's law. Amplification: how many times longer a task takes than its own work.",
            (
                ("state", "none", STATES),
                ("utilisation", "percentunit", f"max by ({EACH}) (pool:fleet_utilisation:ratio_avg5m{{{POOLS}}})"),
                ("active", "short", f"sum by ({EACH}) ({ACTIVE})"),
                ("limit", "short", f"sum by ({EACH}) ({LIMIT})"),
                ("queued", "short", f"sum by ({EACH}) ({QUEUED})"),
                ("done a second", "short", f"sum by ({EACH}) (pool:fleet_done:rate5m{{{POOLS}}})"),
                ("wait", "s", f"max by ({EACH}) (pool:fleet_wait_seconds:avg5m{{{POOLS}}})"),
                ("run", "s", f"max by ({EACH}) (pool:fleet_run_seconds:avg5m{{{POOLS}}})"),
                ("amplification", "short", f"max by ({EACH}) (pool:fleet_amplification:ratio_avg5m{{{POOLS}}})"),
            ),
            link="pool",
            to="fleet",
            kinds=f'max by ({EACH}, kind) (label_replace({ACTIVE} or {QUEUED}, "kind", "$1", "runtime", "(.*)"))',
            size=(24, 10),
        )
    )
    made.with_panel(
        timeline(
            "A bar per pool, yellow for as long as it is serial.",
            "",
            (24, 7),
            query=("{{instance}} {{pool}}", f"max by ({EACH}) ({SERIAL}) == 1"),
        )
    )
    made.with_row(d.Row("Over time"))
    made.with_panel(
        lines(
            "Utilisation",
            "Busy workers over the workers there could be, in the mean of the selected instances. 100 % is full, which "
            "is no fault in itself.",
            "percentunit",
            ("{{job}} {{pool}}", share(mean("utilisation:ratio_avg5m"))),
            by_name=True,
        )
    )
    made.with_panel(
        lines(
            "Time saturated",
            "Share of 5 minutes in which no worker was idle while tasks waited, in the mean of the selected instances.",
            "percentunit",
            ("{{job}} {{pool}}", share(mean("saturated:ratio_avg5m"))),
            by_name=True,
            legend=False,
        )
    )
    made.with_panel(
        lines(
            "Queued",
            "Tasks and callers that wait, of all selected instances.",
            "short",
            ("{{job}} {{pool}}", f"sum by ({FLEET}) ({QUEUED})"),
            by_name=True,
            legend=False,
        )
    )
    made.with_panel(
        lines(
            "Amplification",
            "How many times longer a task takes than its own work, of the instance where that is most. 1 is no wait.",
            "short",
            ("{{job}} {{pool}}", f"max by ({FLEET}) (pool:fleet_amplification:ratio_avg5m{{{POOLS}}})"),
            doubling=True,
            by_name=True,
            legend=False,
        )
    )
    return made
