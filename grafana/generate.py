"""Write the dashboards: `python grafana/generate.py`; with `--check`, exit 1 if a committed one is not current.

Each panel says what it shows and in which unit; its queries are PromQL over the metrics that clockd has.
"""

import sys
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import LegendDisplayMode, LegendPlacement
from grafana_foundation_sdk.models.dashboard import DashboardCursorSync, DataSourceRef, VariableRefresh

FOLDER = Path(__file__).parent / "dashboards"
SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
CHOSEN = 'job=~"$job", instance=~"$instance"'


def query(expression, legend):
    """Return a query; `CHOSEN` in it selects the job and instance of the dashboard."""
    return prometheus.Dataquery().expr(expression.replace("CHOSEN", CHOSEN)).legend_format(legend)


def panel(kind, title, description, unit, queries, width=12, height=8):
    """Return a panel of a kind of builder."""
    built = kind.Panel().title(title).description(description).unit(unit).datasource(SOURCE).span(width).height(height)
    for each in queries:
        built.with_target(query(*each))
    return built


def number(title, description, unit, expression):
    """Return a panel that shows one number."""
    return panel(stat, title, description, unit, [(expression, "")], width=4, height=4)


def lines(title, description, unit, *queries):
    """Return a panel of lines over time."""
    legend = common.VizLegendOptions().display_mode(LegendDisplayMode.LIST).placement(LegendPlacement.BOTTOM)
    return panel(timeseries, title, description, unit, queries).legend(legend.show_legend(True)).fill_opacity(8).min(0)


def percentile(share, metric):
    """Return the expression of a percentile of a histogram."""
    return f"histogram_quantile({share}, sum by (le) (rate({metric}_bucket{{CHOSEN}}[$__rate_interval])))"


NUMBERS = (
    number(
        "Active avatars",
        "Clients that are logged in and have their timer running.",
        "short",
        "sum(clockd_avatars{CHOSEN})",
    ),
    number(
        "Requested",
        "Pushes a second that all subscriptions together ask for.",
        "hertz",
        "sum(clockd_push_requested_hertz{CHOSEN})",
    ),
    number("Achieved", "Pushes a second over the last 10 s.", "hertz", "sum(clockd_push_achieved_hertz{CHOSEN})"),
    number(
        "Lateness, 99th percentile",
        "99 of 100 pushes are written no later than this after they were due.",
        "s",
        percentile(0.99, "clockd_push_lateness_seconds"),
    ),
    number(
        "Unhandled errors",
        "Errors of clockd's own; each is a bug, and the log has it.",
        "short",
        "sum(clockd_unhandled_errors_total{CHOSEN})",
    ),
    number(
        "Up since", "When the process was started.", "dateTimeFromNow", "1000 * max(process_start_time_seconds{CHOSEN})"
    ),
)

GRAPHS = (
    lines(
        "Push rate",
        "What clients ask for, and what they get. A gap between the two has its reason in the panel of skipped pushes.",
        "hertz",
        ("sum by (feed) (clockd_push_requested_hertz{CHOSEN})", "{{feed}} requested"),
        ("sum by (feed) (rate(clockd_pushes_total{CHOSEN}[$__rate_interval]))", "{{feed}} achieved"),
    ),
    lines(
        "Skipped pushes",
        "Ticks that pushed nothing. unacknowledged: the client owes an answer; stall: the server itself was held up.",
        "hertz",
        ("sum by (reason) (rate(clockd_pushes_skipped_total{CHOSEN}[$__rate_interval]))", "{{reason}}"),
    ),
    lines(
        "Lateness",
        "From the moment a push was due to the moment it was written.",
        "s",
        (percentile(0.5, "clockd_push_lateness_seconds"), "median"),
        (percentile(0.99, "clockd_push_lateness_seconds"), "99th percentile"),
    ),
    lines(
        "Acknowledgement",
        "From a push that asks for an answer to the answer.",
        "s",
        (percentile(0.5, "clockd_push_acknowledgement_seconds"), "median"),
        (percentile(0.99, "clockd_push_acknowledgement_seconds"), "99th percentile"),
    ),
    lines(
        "Connections",
        "Open connections, logged in or not yet, and the avatars they have.",
        "short",
        ("sum by (state) (clockd_connections{CHOSEN})", "{{state}}"),
        ("sum(clockd_avatars{CHOSEN})", "avatars"),
    ),
    lines(
        "Ended connections",
        "Why connections end. lost: broken off; stale: silent for stale_seconds; protocol: not what a client may send.",
        "hertz",
        ("sum by (reason) (rate(clockd_connections_closed_total{CHOSEN}[$__rate_interval]))", "{{reason}}"),
    ),
    lines(
        "Logins",
        "Logins that succeeded.",
        "hertz",
        (
            'sum by (method) (rate(clockd_logins_total{CHOSEN, result="ok"}[$__rate_interval]))',
            "{{method}}",
        ),
    ),
    lines(
        "Rejections",
        "Logins that failed, and periods that were refused. denied: wrong name or secret; limit: too many connections.",
        "hertz",
        (
            'sum by (result) (rate(clockd_logins_total{CHOSEN, result!="ok"}[$__rate_interval]))',
            "login {{result}}",
        ),
        (
            'sum(rate(clockd_period_changes_total{CHOSEN, result="refused"}[$__rate_interval]))',
            "period refused",
        ),
    ),
    lines(
        "CPU",
        "Cores in use by the process; clockd runs on one.",
        "percentunit",
        ("sum by (instance) (rate(process_cpu_seconds_total{CHOSEN}[$__rate_interval]))", "{{instance}}"),
    ),
    lines(
        "Memory",
        "Resident memory of the process.",
        "bytes",
        ("process_resident_memory_bytes{CHOSEN}", "{{instance}}"),
    ),
)


def choice(name, label, expression):
    """Return a variable whose values are those of a label, all of them at first."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(expression)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .include_all(True)
        .all_value(".*")
        .multi(True)
    )


def overview():
    """Return the dashboard of a clockd, or of several."""
    board = (
        dashboard.Dashboard("clockd")
        .uid("clockd")
        .description("What clients ask of clockd, what they get, and what keeps them from it.")
        .tags(["clockd"])
        .refresh("10s")
        .time("now-30m", "now")
        .timezone("utc")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("datasource").label("Source").type("prometheus"))
        .with_variable(choice("job", "Job", "label_values(clockd_build_info, job)"))
        .with_variable(choice("instance", "Instance", 'label_values(clockd_build_info{job=~"$job"}, instance)'))
    )
    for each in (*NUMBERS, *GRAPHS):
        board.with_panel(each)
    return board.build()


def main(arguments):
    """Write the dashboards, or compare them."""
    path = FOLDER / "clockd.json"
    text = JSONEncoder(sort_keys=True, indent=2).encode(overview()) + "\n"
    if arguments == ["--check"]:
        return int(not path.exists() or path.read_text(encoding="utf-8") != text)
    path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
