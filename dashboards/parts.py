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

GREEN, YELLOW, RED = "green", "yellow", "red"
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


def state(kind: str, labels: str) -> str:
    """0 concurrent, 1 warning, 2 critical, of each pool or loop; `labels` select its gauges."""
    gauge = {"pool": "poolscope_pool_max_workers", "loop": "poolscope_loop_tasks"}[kind]
    findings = {"pool": POOL_FINDINGS, "loop": LOOP_FINDINGS}[kind].replace('severity!="info"', 'severity="%s"')
    named = f'label_replace(%s poolscope_finding{{{findings}}}, "{kind}", "$1", "name", "(?s)(.*)")'
    return (
        f"max by (job, instance, {kind}) ({named % ('2 *', 'critical')} or {named % ('', 'warning')} "
        f"or 0 * {gauge}{{{labels}}})"
    )


def each_finding(findings: str) -> str:
    """1 while a finding lasts, then 0, whatever its severity; `findings` select them."""
    return f"max by (job, instance, name, pattern, cause) (poolscope_finding{{{findings}}})"


def variable(name: str, metric: str, selector: str = "") -> d.QueryVariable:
    """Return a choice of several label values, all of them at first."""
    return (
        d.QueryVariable(name)
        .label(name)
        .datasource(SOURCE)
        .query(f"label_values({metric}{selector}, {name})")
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(model.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(model.VariableOption(selected=True, text="All", value="$__all"))
    )


def board(title: str, description: str, uid: str, findings: str, *variables: d.QueryVariable) -> d.Dashboard:
    """Return an empty dashboard with what all have: variables, links to the others, findings as annotations."""
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
        .with_variable(variable("job", "poolscope_build_info"))
        .with_variable(variable("instance", "poolscope_build_info", '{job=~"$job"}'))
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
        .expr(each_finding(findings))
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


def number(
    title: str,
    description: str,
    unit: str,
    query: tuple[str, str],
    *,
    steps: tuple[tuple[float | None, str], ...] = ((None, GREEN),),
    names: bool = False,
    none: str = "none",
    size: tuple[int, int] = (4, 4),
) -> stat.Panel:
    """One number now; or with `names` the legend of what there is now, and `none` where there is nothing."""
    target = prometheus.Dataquery().expr(query[1]).legend_format(query[0]).instant()
    made: stat.Panel = _put(stat.Panel(), title, description, unit, size, [target])
    made.thresholds(thresholds(*steps)).no_value(none)
    made.color_mode(common.BigValueColorMode.VALUE).graph_mode(common.BigValueGraphMode.NONE)
    made.reduce_options(c.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    return made.text_mode(common.BigValueTextMode.NAME if names else common.BigValueTextMode.VALUE)


def verdict(findings: str, *, width: int, more: str = "") -> stat.Panel:
    """Return what is wrong now, of the pools or loops of a dashboard; `more` ends the description."""
    return number(
        "State",
        "The finding that lasts and its cause; concurrent if there is none above a note." + more,
        "none",
        ("{{pattern}} ({{cause}})", f"max by (pattern, cause) (poolscope_finding{{{findings}}} == 1)"),
        steps=((None, RED),),
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
    size: tuple[int, int] = (12, 8),
) -> timeseries.Panel:
    """Lines over time from zero on; `limit` draws a dashed line there.

    With `doubling` each step of the axis is twice the last, from 1 on.
    """
    targets = [prometheus.Dataquery().expr(expr).legend_format(legend).range() for legend, expr in queries]
    made: timeseries.Panel = _put(timeseries.Panel(), title, description, unit, size, targets)
    made.min(0).show_points(common.VisibilityMode.NEVER).line_width(1).fill_opacity(30 if stacked else 5)
    made.tooltip(c.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI).sort(common.SortOrder.DESCENDING))
    made.legend(
        c.VizLegendOptions()
        .display_mode(common.LegendDisplayMode.TABLE)
        .placement(common.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs(["mean", "max"])
    )
    if stacked:
        made.stacking(c.StackingConfig().mode(common.StackingMode.NORMAL))
    if doubling:
        made.min(1).scale_distribution(c.ScaleDistributionConfig().type(common.ScaleDistribution.LOG).log(2))
    if limit is not None:
        made.thresholds(thresholds((None, "transparent"), (limit, RED)))
        made.thresholds_style(c.GraphThresholdsStyleConfig().mode(common.GraphThresholdsStyleMode.DASHED))
    return made


def timeline(description: str, findings: str, size: tuple[int, int]) -> statetimeline.Panel:
    """Return a bar per finding for as long as it lasts."""
    legend = "{{instance}} {{name}}: {{pattern}} ({{cause}})"
    target = prometheus.Dataquery().expr(each_finding(findings)).legend_format(legend).range()
    made: statetimeline.Panel = _put(statetimeline.Panel(), "Findings", description, "none", size, [target])
    lasting = {
        "0": model.ValueMappingResult(text="no", color="transparent", index=0),
        "1": model.ValueMappingResult(text="lasts", color=YELLOW, index=1),
    }
    made.mappings([model.ValueMap(options=lasting)]).show_value(common.VisibilityMode.NEVER).row_height(0.8)
    made.legend(
        c.VizLegendOptions()
        .show_legend(False)
        .display_mode(common.LegendDisplayMode.LIST)
        .placement(common.LegendPlacement.BOTTOM)
        .calcs([])
    )
    return made.merge_values(True).fill_opacity(80)


def heat_map(title: str, description: str, metric: str, labels: str, size: tuple[int, int]) -> heatmap.Panel:
    """Return a histogram over time: how many in each bucket."""
    expr = f"sum by (le) (increase({metric}_bucket{{{labels}}}[$__rate_interval]))"
    target = prometheus.Dataquery().expr(expr).legend_format("{{le}}").format(PromQueryFormat.HEATMAP).range()
    made: heatmap.Panel = _put(heatmap.Panel(), title, description, "short", size, [target])
    color = heatmap.HeatmapColorOptions().mode(heat.HeatmapColorMode.SCHEME).scheme("Oranges").steps(64)
    made.color(color.fill("dark-orange").scale(heat.HeatmapColorScale.EXPONENTIAL).exponent(0.5).reverse(False))
    return made.y_axis(heatmap.YAxisConfig().unit("s"))


def rows(
    title: str,
    description: str,
    columns: tuple[tuple[str, str, str], ...],
    *,
    link: str,
    size: tuple[int, int],
) -> table.Panel:
    """Return a table of the latest values: `(column, unit, expression)`, joined by their labels. `link` is on the name.

    The first column is the state, and the worst are on top.
    """
    targets = [
        prometheus.Dataquery().expr(expr).instant().format(PromQueryFormat.TABLE) for _column, _unit, expr in columns
    ]
    made: table.Panel = _put(table.Panel(), title, description, "none", size, targets)
    made.with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
    renamed = {f"Value #{ref}": column for ref, (column, *_) in zip("ABCDEFGHIJ", columns, strict=False)}
    made.with_transformation(
        model.DataTransformerConfig(
            id_val="organize", options={"excludeByName": {"Time": True}, "renameByName": renamed, "indexByName": {}}
        )
    )
    for column, unit, _expr in columns:
        made.override_by_name(column, [model.DynamicConfigValue(id_val="unit", value=unit)])
    name = columns[0][0]
    shown = [
        model.DynamicConfigValue(id_val="mappings", value=STATES),
        model.DynamicConfigValue(id_val="custom.cellOptions", value={"type": "color-background"}),
    ]
    made.override_by_name(name, shown)
    made.override_by_name(
        link,
        [
            model.DynamicConfigValue(
                id_val="links",
                value=[
                    {
                        "title": f"This {link}",
                        "url": f"/d/poolscope-{link}?${{datasource:queryparam}}&var-job=${{__data.fields.job}}"
                        f"&var-instance=${{__data.fields.instance}}&var-{link}=${{__value.raw:percentencode}}"
                        "&${__url_time_range}",
                    }
                ],
            )
        ],
    )
    return made.sort_by([c.TableSortByFieldState().display_name(name).desc(True)]).filterable(True)
