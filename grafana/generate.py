"""Write the dashboards: `python grafana/generate.py`; with `--check`, exit 1 if a committed one is not current."""

import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from panels import (
    HIGH_IS_BAD,
    LOW_IS_BAD,
    board,
    colours,
    lines,
    number,
    percentile,
    rate,
    spread,
    states,
    told,
    word,
)

FOLDER = Path(__file__).parent / "dashboards"

READY = (word(0, "not ready", "red"), word(1, "ready", "green"))
SYNCHRONIZED = (word(0, "not synchronized", "red"), word(1, "synchronized", "green"))

FULFILMENT = number(
    "Fulfilment",
    "Pushes achieved, of those that clients asked for and whose value had changed; mean of 5 minutes, of the worst "
    "server. It is made by a recording rule of deploy/prometheus/rules.yml.",
    "percentunit",
    ("min(clockd:push_fulfilment:ratio5m{CHOSEN})", ""),
    limits=colours(LOW_IS_BAD, 0.95, 0.99),
    alerts=("ClockdFulfilmentLow",),
    none="nothing asked for",
)
AVATARS = number(
    "Active avatars",
    "Subscribers that are logged in and pushed to.",
    "short",
    ("sum(clockd_avatars{CHOSEN})", ""),
)
RATES = number(
    "Requested and achieved",
    "Pushes a second that all subscriptions together ask for, and those that were made in the last 10 seconds.",
    "hertz",
    ("sum(clockd_push_requested_hertz{CHOSEN})", "requested"),
    ("sum(clockd_push_achieved_hertz{CHOSEN})", "achieved"),
)
LATE = number(
    "Lateness, p99",
    "99 of 100 pushes were written no later than this after they were due.",
    "s",
    (percentile(0.99, "clockd_push_lateness_seconds"), ""),
    limits=colours(HIGH_IS_BAD, 0.05, 0.1),
    alerts=("ClockdLatenessHigh",),
    none="no pushes",
)
IS_READY = number(
    "Ready",
    "Whether every server takes clients and pushes in time.",
    "short",
    ("min(clockd_ready{CHOSEN})", ""),
    alerts=("ClockdNotReady", "ClockdDown"),
    none="none scraped",
    words=READY,
)
BOUND = number(
    "Clock's error bound",
    "The clock of no server is further off than this, as their kernels say. A clock of which nothing is known, as in "
    "most containers, is infinitely wrong.",
    "s",
    ("max(clockd_clock_error_bound_seconds{CHOSEN})", ""),
    limits=colours(HIGH_IS_BAD, 0.05, 0.1),
    alerts=("ClockdClockErrorBoundHigh", "ClockdClockUnsynchronized"),
)
REQUESTED = lines(
    "Push rate",
    "What clients ask for, and what they get. The skipped pushes tell why the one is below the other.",
    "hertz",
    ("sum by (feed) (clockd_push_requested_hertz{CHOSEN})", "{{feed}} requested"),
    (rate("clockd_pushes_total", by="feed"), "{{feed}} achieved"),
    alerts=("ClockdFulfilmentLow",),
)
SKIPPED = lines(
    "Skipped pushes",
    "Pushes that were due and not made. unacknowledged and buffer: the client is slow; unchanged: there is nothing "
    "new; stall: the server was held up.",
    "hertz",
    (rate("clockd_pushes_skipped_total", by="reason"), "{{reason}}"),
    alerts=("ClockdManySlowSubscribers",),
)
LATENESS = lines(
    "Lateness",
    "From the moment a push was due to the moment it was written.",
    "s",
    (percentile(0.5, "clockd_push_lateness_seconds"), "p50"),
    (percentile(0.99, "clockd_push_lateness_seconds"), "p99"),
    limits=colours(("transparent", "red"), 0.1),
    alerts=("ClockdLatenessHigh",),
)
CONNECTIONS = lines(
    "Connections",
    "Open connections, logged in or not yet, the avatars that they have, and how many may be logged in.",
    "short",
    ("sum by (state) (clockd_connections{CHOSEN})", "{{state}}"),
    ("sum(clockd_avatars{CHOSEN})", "avatars"),
    ("sum(clockd_connections_limit{CHOSEN})", "limit"),
    alerts=("ClockdNearConnectionLimit",),
)

DASHBOARDS = {
    "overview": (
        "clockd overview",
        "Whether clients get what they asked for, at a glance.",
        ("", FULFILMENT, AVATARS, RATES, LATE, IS_READY, BOUND),
        ("Now and before", REQUESTED, LATENESS, CONNECTIONS, SKIPPED),
        (
            "Who comes and goes",
            lines(
                "Logins",
                "Logins that were decided, by what came of them. denied: wrong name or secret; limit: no room; "
                "throttled: too many failures before.",
                "hertz",
                (rate("clockd_logins_total", by="result"), "{{result}}"),
                alerts=("ClockdLoginFailures",),
            ),
            lines(
                "Connections that ended",
                "Why they did. lost: broken off; stale: silent for stale_seconds; protocol: sent what no client may.",
                "hertz",
                (rate("clockd_connections_closed_total", by="reason"), "{{reason}}"),
                alerts=("ClockdReconnectStorm",),
            ),
        ),
    ),
    "delivery": (
        "clockd delivery",
        "What was pushed, how late, how fast it was answered, and what was not pushed.",
        ("", FULFILMENT, RATES, LATE),
        (
            "Pushes",
            REQUESTED,
            SKIPPED,
            lines(
                "Fulfilment",
                "Pushes achieved, of those asked for whose value had changed; mean of 5 minutes. It is made by a "
                "recording rule.",
                "percentunit",
                ("clockd:push_fulfilment:ratio5m{CHOSEN}", "{{instance}}"),
                limits=colours(("red", "transparent"), 0.95),
                alerts=("ClockdFulfilmentLow",),
            ),
            lines(
                "Bytes",
                "Bytes of pushes, before TLS, and what the kernel has not taken yet.",
                "Bps",
                (rate("clockd_push_bytes_total", by="feed"), "{{feed}}"),
            ),
        ),
        (
            "Time",
            LATENESS,
            spread("Lateness", "How many pushes a second were how late.", "clockd_push_lateness_seconds"),
            lines(
                "Acknowledgement",
                "From a push that asks for an answer to the answer: the network, and the client.",
                "s",
                (percentile(0.5, "clockd_push_acknowledgement_seconds"), "p50"),
                (percentile(0.99, "clockd_push_acknowledgement_seconds"), "p99"),
                alerts=("ClockdManySlowSubscribers",),
            ),
            spread(
                "Acknowledgement",
                "How many answers a second took how long.",
                "clockd_push_acknowledgement_seconds",
            ),
        ),
        (
            "Feeds",
            lines(
                "Subscriptions",
                "Running subscriptions of each feed.",
                "short",
                ("sum by (feed) (clockd_subscriptions{CHOSEN})", "{{feed}}"),
            ),
            lines(
                "Age of the last sample",
                "How long ago the newest sample of each feed was published; nothing before the first.",
                "s",
                ("max by (feed) (time() - clockd_feed_last_update_timestamp_seconds{CHOSEN})", "{{feed}}"),
                alerts=("ClockdFeedStale",),
            ),
            lines(
                "Updates",
                "Samples published to each feed.",
                "hertz",
                (rate("clockd_feed_updates_total", by="feed"), "{{feed}}"),
            ),
            lines(
                "Errors of feeds",
                "Samples that a source could not give, and calls that were refused.",
                "hertz",
                (rate("clockd_feed_errors_total", by="feed"), "{{feed}}"),
                alerts=("ClockdFeedStale",),
            ),
            lines(
                "Changes of period",
                "Periods asked for: granted as they were, clamped to the limits, or refused.",
                "hertz",
                (rate("clockd_period_changes_total", by="result"), "{{result}}"),
            ),
            lines(
                "Unsent bytes",
                "What the kernel has not taken yet, over all connections.",
                "bytes",
                ("clockd_send_buffer_bytes{CHOSEN}", "{{instance}}"),
                alerts=("ClockdManySlowSubscribers",),
            ),
        ),
    ),
    "clock": (
        "clockd clock quality",
        "How right the time is that servers tell, and what clients make of it.",
        (
            "",
            BOUND,
            number(
                "Synchronized",
                "Whether something keeps the clock of every server right.",
                "short",
                ("min(clockd_clock_synchronized{CHOSEN})", ""),
                alerts=("ClockdClockUnsynchronized",),
                words=SYNCHRONIZED,
            ),
            number(
                "Steps in 24 hours",
                "How often the clock of a server was stepped by 0.1 ms or more.",
                "short",
                ("sum(increase(clockd_clock_steps_total{CHOSEN}[24h]))", ""),
                limits=colours(("green", "yellow"), 0.5),
                alerts=("ClockdClockStepped",),
            ),
            number(
                "Clients' offset, p99",
                "99 of 100 answers were of a client whose clock is off the server's by no more than this.",
                "s",
                (percentile(0.99, "clockd_subscriber_offset_seconds"), ""),
                none="no client tells",
            ),
            number(
                "Clients' bound, p99",
                "99 of 100 answers were of a client that knows the server's time to within this.",
                "s",
                (percentile(0.99, "clockd_subscriber_error_bound_seconds"), ""),
                none="no client tells",
            ),
        ),
        (
            "Servers",
            lines(
                "Error bound",
                "The clock is off by no more, as the kernel says. It has no value while nothing is known.",
                "s",
                ("clockd_clock_error_bound_seconds{CHOSEN} < Inf", "{{instance}}"),
                limits=colours(("transparent", "red"), 0.1),
                alerts=("ClockdClockErrorBoundHigh",),
            ),
            states(
                "Synchronized",
                "Whether something keeps the clock right.",
                "clockd_clock_synchronized{CHOSEN}",
                "{{instance}}",
                SYNCHRONIZED,
                alerts=("ClockdClockUnsynchronized",),
            ),
            lines(
                "Steps",
                "Steps of the clock by 0.1 ms or more.",
                "short",
                ("increase(clockd_clock_steps_total{CHOSEN}[$__rate_interval])", "{{instance}}"),
                alerts=("ClockdClockStepped",),
            ),
        ),
        (
            "Clients that tell their clock",
            spread(
                "Offset",
                "How many answers a second were of clients whose clock is off the server's by how much.",
                "clockd_subscriber_offset_seconds",
            ),
            spread(
                "Error bound",
                "How many answers a second were of clients that know the server's time to within how much.",
                "clockd_subscriber_error_bound_seconds",
            ),
        ),
    ),
    "runtime": (
        "clockd runtime",
        "The process: what it uses, what holds it up, and what it is made of.",
        (
            "",
            IS_READY,
            number(
                "Up since",
                "When the last process was started.",
                "dateTimeFromNow",
                ("1000 * max(process_start_time_seconds{CHOSEN})", ""),
            ),
            number(
                "Unhandled errors",
                "Errors of clockd's own since the start; each is a bug, and the log has it.",
                "short",
                ("sum(clockd_unhandled_errors_total{CHOSEN})", ""),
                limits=colours(("green", "red"), 1),
                alerts=("ClockdUnhandledErrors",),
            ),
            number(
                "Certificate",
                "Until the first certificate expires.",
                "s",
                ("min(clockd_tls_certificate_expiry_timestamp_seconds{CHOSEN}) - time()", ""),
                limits=colours(LOW_IS_BAD, 7 * 86400, 14 * 86400),
                alerts=("ClockdCertificateExpiring", "ClockdCertificateExpired"),
                none="no TLS",
            ),
            number(
                "Store",
                "Whether what is remembered is written.",
                "short",
                ("min(clockd_store_up{CHOSEN})", ""),
                alerts=("ClockdStoreDown",),
                words=(word(0, "in memory only", "red"), word(1, "written", "green")),
            ),
            told("Version", "What is running.", "sum by (version) (clockd_build_info{CHOSEN})", "{{version}}"),
        ),
        (
            "Resources",
            lines(
                "CPU",
                "Cores in use by each process; clockd runs on one.",
                "percentunit",
                ("rate(process_cpu_seconds_total{CHOSEN}[$__rate_interval])", "{{instance}}"),
                alerts=("ClockdLatenessHigh",),
            ),
            lines(
                "Memory",
                "Resident memory of each process.",
                "bytes",
                ("process_resident_memory_bytes{CHOSEN}", "{{instance}}"),
                alerts=("ClockdMemoryGrowing",),
            ),
            lines(
                "Descriptors",
                "Open ones, and how many there may be; each connection takes one.",
                "short",
                ("process_open_fds{CHOSEN}", "{{instance}} open"),
                ("process_max_fds{CHOSEN}", "{{instance}} at most"),
                alerts=("ClockdNearConnectionLimit",),
            ),
            lines(
                "Garbage collections",
                "Runs of Python's collector by generation; full ones stop pushes, and there should be none.",
                "hertz",
                (rate("python_gc_collections_total", by="generation"), "generation {{generation}}"),
            ),
        ),
        (
            "What holds it up",
            lines(
                "Reactor's lag",
                "For how long the reactor was busy before it looked again at what has happened.",
                "s",
                (percentile(0.5, "clockd_reactor_lag_seconds"), "p50"),
                (percentile(0.99, "clockd_reactor_lag_seconds"), "p99"),
                alerts=("ClockdReactorStalled",),
            ),
            spread(
                "Reactor's lag",
                "How many times a second the reactor was busy for how long.",
                "clockd_reactor_lag_seconds",
                alerts=("ClockdReactorStalled",),
            ),
            lines(
                "Errors of the store",
                "Reads and writes of what is remembered that failed.",
                "hertz",
                (rate("clockd_store_errors_total"), "errors"),
                alerts=("ClockdStoreDown",),
            ),
            states(
                "Ready",
                "Whether each server takes clients and pushes in time.",
                "clockd_ready{CHOSEN}",
                "{{instance}}",
                READY,
                alerts=("ClockdNotReady",),
            ),
        ),
    ),
}
"""Of each file its dashboard: title, description, and rows of panels."""


def main(arguments):
    """Write the dashboards, or compare them."""
    texts = {
        FOLDER / f"{name}.json": JSONEncoder(sort_keys=True, indent=2).encode(board(f"clockd-{name}", *what)) + "\n"
        for name, what in DASHBOARDS.items()
    }
    if arguments == ["--check"]:
        committed = {path: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.json")}
        return int(committed != texts)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
