"""What the dashboards are made of: variables, links, annotations, and panels that cannot lack a unit or a description.

A query is `(legend, expression)`. Sizes are in Grafana's grid, 24 wide; panels flow from left to right, row by row.
"""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.builders import common as c
from grafana_foundation_sdk.builders import dashboard as d
from grafana_foundation_sdk.builders import heatmap, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import heatmap as heat
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
TARGETS = 'job=~"$job", instance=~"$instance"'
POOLS = f'{TARGETS}, pool=~"$pool"'
LOOPS = f'{TARGETS}, loop=~"$loop"'
#: Everything above a note. Findings bear the name of their pool or loop in the label `name`.
POOL_FINDINGS = f'{TARGETS}, kind="pool", name=~"$pool", severity!="info"'
LOOP_FINDINGS = f'{TARGETS}, kind="loop", name=~"$loop", severity!="info"'
#: Pools that have no workers of their own: their tasks are holds.
LIMITS = "semaphore|lock|connections"

#: What says nothing of health has the colour of text: a full pool is no sick one, and an empty one no sound one.
NEUTRAL, GREEN, YELLOW, RED = "text", "green", "yellow", "red"
STATES = [
    model.ValueMap(
        options={
            "0": model.ValueMappingResult(text="concurrent", color=GREEN, index=0),
            "1": model.ValueMappingResult(text="warning", color=YELLOW, index=1),
            "2": model.ValueMappingResult(text="critical", color=RED, index=2),
        }
    )
]


def rate(metric: str, labels: str) -> str:
    """Growth per second of a counter, as Grafana would have it for the width of a pixel."""
    return f"rate({metric}{{{labels}}}[$__rate_interval])"


def quantile(share: float, metric: str, labels: str, by: str) -> str:
    """Return a quantile of a histogram over what is selected."""
    return f"histogram_quantile({share}, sum by (le, {by}) ({rate(metric + '_bucket', labels)}))"


def share(expr: str) -> str:
    """Return a share that ends at all: rates look back a little further than they are divided by."""
    return f"clamp_max({expr}, 1)"


def severity(findings: str) -> str:
    """1 while a warning lasts, 2 while something critical does, for each finding; 0 after it."""
    critical, warning = (findings.replace('severity!="info"', f'severity="{it}"') for it in ("critical", "warning"))
    return f"2 * poolscope_finding{{{critical}}} or poolscope_finding{{{warning}}}"


def judged(expr: str, states: str) -> str:
    """Return the one value of an expression with a label `state`: 0, or the greatest of `states`, which are as those
    of `severity`."""
    return f'({expr}) * on () group_right () count_values("state", max({states}) or vector(0))'


def state(kind: str, labels: str) -> str:
    """0 concurrent, 1 warning, 2 critical, of each pool or loop; `labels` select its gauges."""
    gauge = {"pool": "poolscope_pool_max_workers", "loop": "poolscope_loop_tasks"}[kind]
    findings = {"pool": POOL_FINDINGS, "loop": LOOP_FINDINGS}[kind]
    named = f'label_replace({severity(findings)}, "{kind}", "$1", "name", "(?s)(.*)")'
    return f"max by (job, instance, {kind}) ({named} or 0 * {gauge}{{{labels}}})"


def each_finding(value: str) -> str:
    """Return a value of each finding, whatever its severity."""
    return f"max by (job, instance, name, pattern, cause) ({value})"


def variable(name: str, metric: str, selector: str = "", *, one: bool = False) -> d.QueryVariable:
    """Return a choice of several label values, all of them at first; or of `one`, the first of them at first."""
    made = (
        d.QueryVariable(name)
        .label(name)
        .datasource(SOURCE)
        .query(f"label_values({metric}{selector}, {name})")
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(not one)
        .include_all(not one)
    )
    if not one:
        made.all_value(".*").current(model.VariableOption(selected=True, text="All", value="$__all"))
    return made


def board(
    title: str,
    description: str,
    uid: str,
    findings: str,
    *variables: d.QueryVariable,
    targets: str = "poolscope_build_info",
    annotation: str = "",
) -> d.Dashboard:
    """Return an empty dashboard with what all have: variables, links to the others, findings as annotations, or what
    the expression `annotation` gives. `targets` is a metric of all that may be chosen."""
    made = (
        d.Dashboard(f"poolscope / {title}")
        .uid(uid)
        .description(description)
        .tags(["poolscope"])
        .editable()
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .with_variable(d.DatasourceVariable("datasource").label("datasource").type("prometheus"))
        .with_variable(variable("job", targets))
        .with_variable(variable("instance", targets, '{job=~"$job"}'))
    )
    for each in variables:
        made.with_variable(each)
    made.link(
        d.DashboardLink("poolscope")
        .type(model.DashboardLinkType.DASHBOARDS)
        .tags(["poolscope"])
        .icon("external link")
        .tooltip("The other dashboards of poolscope, for the same targets and time")
        .include_vars(True)
        .keep_time(True)
    )
    return made.annotation(
        d.AnnotationQuery()
        .name("Findings")
        .datasource(SOURCE)
        .enable(True)
        .icon_color("orange")
        .expr(annotation or each_finding(f"poolscope_finding{{{findings}}}"))
    )


def thresholds(*steps: tuple[float | None, str]) -> d.ThresholdsConfig:
    """Colours from the values on; the first is None, from the bottom on."""
    made = [model.Threshold(value=value, color=color) for value, color in steps]
    return d.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(made)


def _put(panel: Any, title: str, description: str, unit: str, size: tuple[int, int], targets: list[Any]) -> Any:
    for ref, target in zip("ABCDEFGHIJKLMNOP", targets, strict=False):
        panel.with_target(target.ref_id(ref))
    panel.title(title).description(description).datasource(SOURCE).unit(unit)
    return panel.span(size[0]).height(size[1])


def _painted(color: str) -> list[model.DynamicConfigValue]:
    return [model.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": color})]


def number(
    title: str,
    description: str,
    unit: str,
    query: tuple[str, str],
    *,
    steps: tuple[tuple[float | None, str], ...] = ((None, NEUTRAL),),
    findings: str = "",
    states: str = "",
    names: bool = False,
    none: str = "none",
    size: tuple[int, int] = (4, 4),
) -> stat.Panel:
    """One number now; or with `names` the legend of what there is now, and `none` where there is nothing.

    Its colour is that of `steps`; with `findings` that of the worst of them, while one lasts; with `states`, as
    `judged` has them, that of the greatest.
    """
    states = severity(findings) if findings else states
    legend, expr = ("{{state}}", judged(query[1], states)) if states else query
    target = prometheus.Dataquery().expr(expr).legend_format(legend).instant()
    made: stat.Panel = _put(stat.Panel(), title, description, unit, size, [target])
    made.thresholds(thresholds(*steps)).no_value(none)
    if states:
        made.override_by_name("1", _painted(YELLOW)).override_by_name("2", _painted(RED))
    made.color_mode(common.BigValueColorMode.VALUE).graph_mode(common.BigValueGraphMode.NONE)
    made.reduce_options(c.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    return made.text_mode(common.BigValueTextMode.NAME if names else common.BigValueTextMode.VALUE)


def verdict(findings: str, *, width: int, more: str = "") -> stat.Panel:
    """Return what is wrong now, of the pools or loops of a dashboard; `more` ends the description."""
    return number(
        "State",
        "The finding that lasts and its cause; concurrent if there is none above a note." + more,
        "none",
        ("{{pattern}} ({{cause}})", f"max by (pattern, cause) ({severity(findings)}) > 0"),
        # Where there is nothing, the text has the colour from the bottom on.
        steps=((None, GREEN), (1, YELLOW), (2, RED)),
        names=True,
        none="concurrent",
        size=(width, 4),
    )


def lines(
    title: str,
    description: str,
    unit: str,
    *queries: tuple[str, str],
    stacked: bool = False,
    limit: float | None = None,
    doubling: bool = False,
    by_name: bool = False,
    legend: bool = True,
    size: tuple[int, int] = (12, 8),
) -> timeseries.Panel:
    """Lines over time from zero on, shares to 100 %; `limit` draws a dashed line there.

    With `doubling` each step of the axis is twice the last, from 1 on. With `by_name` a name has the same colour in
    each panel, so that one legend is enough where all show the same; the tooltip has the names in any case.
    """
    targets = [prometheus.Dataquery().expr(expr).legend_format(legend).range() for legend, expr in queries]
    made: timeseries.Panel = _put(timeseries.Panel(), title, description, unit, size, targets)
    made.min(0).show_points(common.VisibilityMode.NEVER).line_width(1).fill_opacity(30 if stacked else 5)
    if unit == "percentunit":
        made.max(1)
    modes = model.FieldColorModeId
    made.color_scheme(d.FieldColor().mode(modes.PALETTE_CLASSIC_BY_NAME if by_name else modes.PALETTE_CLASSIC))
    made.tooltip(c.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
    made.legend(_legend(legend))
    if stacked:
        made.stacking(c.StackingConfig().mode(common.StackingMode.NORMAL))
    if doubling:
        made.min(1).scale_distribution(c.ScaleDistributionConfig().type(common.ScaleDistribution.LOG).log(2))
    if limit is not None:
        made.thresholds(thresholds((None, "transparent"), (limit, RED)))
        made.thresholds_style(c.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED))
    return made


def _legend(shown: bool) -> c.VizLegendOptions:
    return (
        c.VizLegendOptions()
        .show_legend(shown)
        .display_mode(common.LegendDisplayMode.LIST)
        .placement(common.LegendPlacement.BOTTOM)
        .calcs([])
    )


def timeline(
    description: str,
    findings: str,
    size: tuple[int, int],
    *,
    query: tuple[str, str] = ("{{instance}} {{name}}: {{pattern}} ({{cause}})", ""),
) -> statetimeline.Panel:
    """Return a bar per finding for as long as it lasts, in the colour of its severity; or of each series of another
    `query`, whose values are as those of `severity`."""
    legend, expr = query
    target = prometheus.Dataquery().expr(expr or each_finding(severity(findings))).legend_format(legend).range()
    made: statetimeline.Panel = _put(statetimeline.Panel(), "Findings", description, "none", size, [target])
    lasting = {
        "0": model.ValueMappingResult(text="no", color="transparent", index=0),
        "1": model.ValueMappingResult(text="warning", color=YELLOW, index=1),
        "2": model.ValueMappingResult(text="critical", color=RED, index=2),
    }
    made.mappings([model.ValueMap(options=lasting)]).show_value(common.VisibilityMode.NEVER).row_height(0.8)
    made.legend(_legend(False))
    return made.merge_values(True).fill_opacity(80)


def heat_map(title: str, description: str, metric: str, labels: str, size: tuple[int, int]) -> heatmap.Panel:
    """Return a histogram over time: how many in each bucket."""
    expr = f"sum by (le) (increase({metric}_bucket{{{labels}}}[$__rate_interval]))"
    target = prometheus.Dataquery().expr(expr).legend_format("{{le}}").format(PromQueryFormat.HEATMAP).range()
    made: heatmap.Panel = _put(heatmap.Panel(), title, description, "short", size, [target])
    color = heatmap.HeatmapColorOptions().mode(heat.HeatmapColorMode.SCHEME).scheme("Oranges").steps(64)
    made.color(color.fill("dark-orange").scale(heat.HeatmapColorScale.EXPONENTIAL).exponent(0.5).reverse(False))
    return made.y_axis(heatmap.YAxisConfig().unit("s"))


#: How the cells of a column look that is not mere text, by the unit or name of the column.
STATE_CELL = {
    "mappings": STATES,
    "custom.cellOptions": {"type": "color-background", "mode": "basic", "applyToRow": False},
    "custom.width": 110,
    "custom.align": "center",
}
SHARE_CELL = {
    "min": 0,
    "max": 1,
    "custom.cellOptions": {"type": "gauge", "mode": "basic", "valueDisplayMode": "text"},
    "custom.width": 150,
}
NUMBER_CELL = {"custom.width": 112}
#: Seconds that a task has been queued, from where on a look is worth while.
AGES = ((None, NEUTRAL), (10, YELLOW), (60, RED))


def rows(
    title: str,
    description: str,
    columns: tuple[tuple[str, str, str], ...],
    *,
    link: str,
    to: str = "",
    kinds: str = "",
    size: tuple[int, int],
) -> table.Panel:
    """Return a table of the latest values: `(column, unit, expression)`, joined by their labels. `link` is on the name,
    and leads to the dashboard of that name, or `to` another one.

    The first column is the state, and the worst are on top. Of `kinds`, an expression, only the label `kind` is shown.
    """
    exprs = [expr for _column, _unit, expr in columns] + [kinds] * bool(kinds)
    targets = [prometheus.Dataquery().expr(expr).instant().format(PromQueryFormat.TABLE) for expr in exprs]
    made: table.Panel = _put(table.Panel(), title, description, "none", size, targets)
    values = [f"Value #{ref}" for ref, _ in zip("ABCDEFGHIJKL", exprs, strict=False)]
    shown = values[: len(columns)]
    order = [shown[0], link, "kind", "job", "instance", *shown[1:]]
    made.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    made.with_transformation(
        model.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": dict.fromkeys(["Time", *values[len(columns) :]], True),
                "renameByName": {value: column for value, (column, *_) in zip(shown, columns, strict=True)},
                "indexByName": {name: place for place, name in enumerate(order) if kinds or name != "kind"},
            },
        )
    )
    made.thresholds(thresholds((None, NEUTRAL)))
    for place, (column, unit, _expr) in enumerate(columns):
        cell = STATE_CELL if place == 0 else SHARE_CELL if unit == "percentunit" else NUMBER_CELL
        if column.startswith("oldest"):
            cell = {
                "custom.width": 125,
                "custom.cellOptions": {"type": "color-text"},
                "thresholds": thresholds(*AGES).build(),
            }
        settings = {"unit": unit} | cell
        made.override_by_name(column, [model.DynamicConfigValue(id_val=key, value=it) for key, it in settings.items()])
    leads = {
        "title": f"This {link}",
        "url": f"/d/poolscope-{to or link}?${{datasource:queryparam}}&var-job=${{__data.fields.job}}"
        f"&var-instance=${{__data.fields.instance}}&var-{link}=${{__value.raw:percentencode}}"
        "&${__url_time_range}",
    }
    for label in ("kind", "job"):
        made.override_by_name(label, [model.DynamicConfigValue(id_val="custom.width", value=110)])
    made.override_by_name(link, [model.DynamicConfigValue(id_val="links", value=[leads])])
    return made.sort_by([c.TableSortByFieldState().display_name(columns[0][0]).desc(True)]).filterable(True)
