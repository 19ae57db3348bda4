"""Makes the parts of dashboards: pages, rows, and the kinds of panel. Each panel needs a title, a description, a
unit and thresholds: without them, its reader has to guess whether a number is good.

Expressions are PromQL in which some words in capitals replace repeated parts: see `WORDS`.
The colour changes at a threshold; panels without a meaningful threshold have only the base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, Self, TypeVar

from grafana_foundation_sdk.builders import common, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders import dashboard as builders
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.variants import Dataquery
from grafana_foundation_sdk.models import dashboard, units
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    GraphThresholdsStyleMode,
    HeatmapCellLayout,
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = dashboard.DataSourceRef("prometheus", "${datasource}")
COUNT, SHARE, SECONDS, BYTES = units.Short, units.PercentUnit, units.Seconds, units.BytesIEC
PER_SECOND, REQUESTS_PER_SECOND = units.CountsPerSecond, units.RequestsPerSecond
REFERENCES = "ABCDEF"  # Grafana's names for the queries of a panel
GOOD, WARNING, BAD = "green", "orange", "red"
WORDS = {
    "GATEWAYS": 'instance=~"$gateway"',
    "WORKERS": 'instance=~"$worker"',
    "USERS": 'instance=~"$gateway", route!~"/healthz|/readyz|/health|/metrics"',  # without probes
    "VECTORS": 'instance=~"$gateway", route=~"/embed|/similar|/v1/embeddings|/encode"',
    "CHATS": 'instance=~"$gateway", route=~"/merge.*|/highlights|/collections/.+/(observe|topics.*)|/live|.*chat.*"',
    "RATE": "$__rate_interval",
}
Steps = Sequence[tuple[float, str]]


def page(uid: str, title: str, variable: str, series: str) -> builders.Dashboard:
    """Returns an empty dashboard; at its top, users choose among the instances that have the series."""
    source = builders.DatasourceVariable("datasource").type("prometheus").label("Data source")
    instances = (
        builders.QueryVariable(variable)
        .label(variable.capitalize())
        .datasource(SOURCE)
        .query(f"label_values({series}, instance)")
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(dashboard.VariableOption(text="All", value="$__all"))
    )
    links = builders.DashboardLink("danmaku").type(dashboard.DashboardLinkType.DASHBOARDS).tags(["danmaku"])
    return (
        builders.Dashboard(title)
        .uid(uid)
        .tags(["danmaku"])
        .readonly()
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("30s")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .with_variable(source)
        .with_variable(instances)
        .link(links.keep_time(True))
    )


def row(on: builders.Dashboard, title: str, *panels: Builder[dashboard.Panel]) -> builders.Dashboard:
    on.with_row(builders.Row(title))
    for panel in panels:
        on.with_panel(panel)
    return on


class Panel(Protocol):
    """The interface that the SDK's builders of panels share."""

    def title(self, title: str) -> Self: ...
    def description(self, description: str) -> Self: ...
    def datasource(self, datasource: dashboard.DataSourceRef) -> Self: ...
    def unit(self, unit: str) -> Self: ...
    def thresholds(self, thresholds: Builder[dashboard.ThresholdsConfig]) -> Self: ...
    def with_target(self, target: Builder[Dataquery]) -> Self: ...
    def span(self, w: int) -> Self: ...
    def height(self, h: int) -> Self: ...
    def build(self) -> dashboard.Panel: ...


P = TypeVar("P", bound=Panel)


def number(
    title: str, description: str, expression: str, unit: str, steps: Steps, *, width: int = 4, legend: str = ""
) -> stat.Panel:
    """Returns a panel with the latest value, in the colour of its threshold."""
    panel = stat.Panel().graph_mode(BigValueGraphMode.AREA).color_mode(BigValueColorMode.VALUE)
    return _common(panel, title, description, unit, steps, width, 4).with_target(
        _query(expression).range().legend_format(legend)
    )


def lines(
    title: str,
    description: str,
    expressions: Mapping[str, str],
    unit: str,
    steps: Steps = (),
    *,
    width: int = 8,
    stacked: bool = False,
) -> timeseries.Panel:
    """Returns a panel of `expressions`, with the legend of their series."""
    legend = common.VizLegendOptions().show_legend(True).display_mode(LegendDisplayMode.LIST)
    panel = (
        timeseries.Panel()
        .min(0)
        .fill_opacity(30 if stacked else 8)
        .legend(legend.placement(LegendPlacement.BOTTOM))
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    if steps:
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED))
    for index, (name, expression) in enumerate(expressions.items()):
        panel.with_target(_query(expression, index).range().legend_format(name))
    return _common(panel, title, description, unit, steps, width, 8)


def percentiles(title: str, description: str, buckets: str, steps: Steps = (), *, width: int = 8) -> timeseries.Panel:
    """Draws percentiles of a histogram in seconds, given its buckets with their selector."""
    rates = f"sum by (le) (rate({buckets}[RATE]))"
    expressions = {name: f"histogram_quantile({q}, {rates})" for name, q in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))}
    return lines(title, description, expressions, SECONDS, steps, width=width)


def heat(title: str, description: str, buckets: str, steps: Steps, *, width: int = 16) -> heatmap.Panel:
    """Returns a heat map of the buckets of a histogram in seconds."""
    target = _query(f"sum by (le) (increase({buckets}[RATE]))").range().legend_format("{{le}}")
    panel = (
        heatmap.Panel()
        .calculate(False)
        .cell_gap(1)
        .color(heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").steps(64))
        .rows_frame(heatmap.RowsHeatmapOptions().layout(HeatmapCellLayout.LE))
        .y_axis(heatmap.YAxisConfig().unit(SECONDS))
    )
    return _common(panel, title, description, SECONDS, steps, width, 8).with_target(
        target.format(PromQueryFormat.HEATMAP)
    )


def facts(title: str, description: str, expressions: Sequence[str], *, width: int = 24) -> table.Panel:
    """Returns a table of the labels of info metrics, one row per series."""
    panel = _common(table.Panel(), title, description, COUNT, (), width, 6)
    for index, expression in enumerate(expressions):
        panel.with_target(_query(expression, index).instant().format(PromQueryFormat.TABLE))
    hidden = dict.fromkeys(("Time", "__name__", "Value", *(f"Value #{name}" for name in REFERENCES)), True)
    panel.with_transformation(dashboard.DataTransformerConfig("merge", options={}))
    return panel.with_transformation(dashboard.DataTransformerConfig("organize", options={"excludeByName": hidden}))


def _query(expression: str, index: int = 0) -> prometheus.Dataquery:
    for word, meaning in WORDS.items():
        expression = expression.replace(word, meaning)
    return prometheus.Dataquery().expr(expression).ref_id(REFERENCES[index]).datasource(SOURCE)


def _common(panel: P, title: str, description: str, unit: str, steps: Steps, width: int, height: int) -> P:
    levels = [dashboard.Threshold(value=None, color=GOOD), *(dashboard.Threshold(v, c) for v, c in steps)]
    thresholds = builders.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(levels)
    panel.title(title).description(description).datasource(SOURCE).unit(unit).thresholds(thresholds)
    return panel.span(width).height(height)
