"""What the dashboards are made of: panels, the queries in them, and what stands around them.

Rules of this module: a panel says what it shows and in which unit, and links to the runbook; `CHOSEN` in an expression
selects the jobs and instances that were chosen. Colours are given as the value from which on each of them holds, with
None for the one that holds below all others.
"""

from copy import deepcopy

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.common import (
    BigValueColorMode,
    BigValueGraphMode,
    BigValueTextMode,
    GraphTresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
CHOSEN = 'job=~"$job", instance=~"$instance"'
RUNBOOK = "/public/clockd/runbook.md"
"""Where deploy/compose.yaml has its Grafana serve docs/runbook.md."""

HIGH_IS_BAD = ("green", "yellow", "red")
LOW_IS_BAD = ("red", "yellow", "green")


def query(expression, legend):
    """Return a query."""
    return prometheus.Dataquery().expr(expression.replace("CHOSEN", CHOSEN)).legend_format(legend)


def rate(metric, by="", where=""):
    """Return the expression of how much a counter grows in a second, summed by some labels."""
    chosen = f"CHOSEN, {where}" if where else "CHOSEN"
    summed = f"sum by ({by})" if by else "sum"
    return f"{summed} (rate({metric}{{{chosen}}}[$__rate_interval]))"


def percentile(share, metric):
    """Return the expression of a percentile of a histogram; it has no value where nothing was observed."""
    return f"histogram_quantile({share}, {rate(f'{metric}_bucket', by='le')}) >= 0"


def colours(names, *bounds):
    """Return thresholds: the first colour below the first bound, and each of the others from its bound on."""
    steps = [models.Threshold(value=value, color=name) for value, name in zip((None, *bounds), names, strict=True)]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def runbook(alert=""):
    """Return a link to the runbook, to an alert's heading if one is named."""
    link = dashboard.DashboardLink(f"Runbook: {alert}" if alert else "Runbook")
    anchor = f"#{alert.lower()}" if alert else ""
    return link.type(models.DashboardLinkType.LINK).url(f"${{runbook}}{anchor}").target_blank(True)


def panel(kind, title, description, unit, queries, alerts, width, height):
    """Return a panel of a kind of builder, with links to what the runbook says of the alerts that it explains."""
    built = kind.Panel().title(title).description(description).unit(unit).datasource(SOURCE).span(width).height(height)
    for name, each in zip("ABCDEF", queries, strict=False):
        built.with_target(each.ref_id(name))
    return built.links([runbook(alert) for alert in alerts or [""]])


def number(title, description, unit, *queries, limits=None, alerts=(), none="no data", words=()):
    """Return a panel of what is now, as large numbers.

    `limits` colour it, `none` stands there where there is no value, and `words` in place of values.
    """
    instant = [query(*each).instant() for each in queries]
    built = panel(stat, title, description, unit, instant, alerts, width=4, height=4)
    built.graph_mode(BigValueGraphMode.NONE).reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    built.color_mode(BigValueColorMode.BACKGROUND if limits else BigValueColorMode.VALUE)
    return built.thresholds(limits or colours(["text"])).no_value(none).mappings(list(words))


def told(title, description, expression, legend):
    """Return a panel of words, which are the legend of an expression."""
    return number(title, description, "short", (expression, legend)).text_mode(BigValueTextMode.NAME)


def lines(title, description, unit, *queries, limits=None, alerts=()):
    """Return a panel of lines over time."""
    built = panel(timeseries, title, description, unit, [query(*each) for each in queries], alerts, width=12, height=8)
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    built.legend(legend.show_legend(True)).tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    if limits:
        dashed = common.GraphThresholdsStyleConfig().mode(GraphTresholdsStyleMode.DASHED)
        built.thresholds(limits).thresholds_style(dashed)
    return built.fill_opacity(8).min(0)


def spread(title, description, metric, alerts=()):
    """Return a heatmap of a histogram of seconds: how many observations a second fell where."""
    buckets = query(rate(f"{metric}_bucket", by="le"), "{{le}}").format(PromQueryFormat.HEATMAP)
    built = panel(heatmap, title, description, "s", [buckets], alerts, width=12, height=8)
    colour = heatmap.HeatmapColorOptions().mode(HeatmapColorMode.SCHEME).scheme("Oranges").exponent(0.5).steps(64)
    return built.color(colour).y_axis(heatmap.YAxisConfig().unit("s")).cell_values(heatmap.CellValues().unit("hertz"))


def states(title, description, expression, legend, words, alerts=()):
    """Return a panel of states over time."""
    shown = [query(expression, legend)]
    built = panel(statetimeline, title, description, "short", shown, alerts, width=12, height=8)
    return built.show_value(VisibilityMode.NEVER).mappings(list(words)).thresholds(colours(["text"]))


def word(value, text, colour):
    """Return the mapping of a value to a word."""
    return models.ValueMap(options={str(value): models.ValueMappingResult(text=text, color=colour)})


class Annotation(models.AnnotationQuery):
    """An annotation with a title: Grafana's Prometheus has one, which the type does not know."""

    def to_json(self):
        """Return what is written."""
        return super().to_json() | {"titleFormat": self.title_format}


class Marks(dashboard.AnnotationQuery):
    """Marks on every panel where an expression is above 0.

    Args:
        name: What they are, on the switch that hides them.
        expression: When.
        title: What each says, with labels in double braces.
        colour: Theirs.
    """

    def __init__(self, name, expression, title, colour):
        super().__init__()
        self._internal = Annotation(
            name=name, datasource=SOURCE, expr=expression.replace("CHOSEN", CHOSEN), icon_color=colour
        )
        self._internal.title_format = title


def choice(name, label, expression):
    """Return a variable whose values are those of a label, all of them at first.

    All are no more than these: a program that is not clockd has metrics of a process, too.
    """
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(expression)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .include_all(True)
        .multi(True)
    )


def board(uid, title, description, *rows):
    """Return a dashboard of rows of panels, each with its heading; the first has none if that is empty."""
    others = dashboard.DashboardLink("clockd").type(models.DashboardLinkType.DASHBOARDS).tags(["clockd"])
    built = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags(["clockd"])
        .refresh("10s")
        .time("now-30m", "now")
        .timezone("utc")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Source").type("prometheus"))
        .with_variable(choice("job", "Job", "label_values(clockd_build_info, job)"))
        .with_variable(choice("instance", "Instance", 'label_values(clockd_build_info{job=~"$job"}, instance)'))
        .with_variable(dashboard.ConstantVariable("runbook").label("Runbook").value(RUNBOOK))
        .annotation(Marks("Alerts", 'ALERTS{CHOSEN, alertname=~"Clockd.+", alertstate="firing"}', ALERT, "red"))
        .annotation(Marks("Restarts", "changes(process_start_time_seconds{CHOSEN}[$__rate_interval])", START, "blue"))
        .link(others.include_vars(True).keep_time(True))
        .link(runbook())
    )
    numbers = iter(range(1, 1000))
    for heading, *panels in rows:
        if heading:
            built.with_row(dashboard.Row(heading).id(next(numbers)))
        for each in panels:
            built.with_panel(deepcopy(each).id(next(numbers)))  # it may be on another dashboard, in another place
    return built.build()


ALERT = "{{alertname}} {{instance}}"
START = "{{instance}} was started"
