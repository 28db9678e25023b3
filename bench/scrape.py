"""What clockd says of itself on `/metrics`, and how late its pushes were between two looks."""

import http.client
import re
from typing import NamedTuple

LATENESS = "clockd_push_lateness_seconds"
SKIPPED = "clockd_pushes_skipped_total"


def scrape(port: int) -> dict[str, float]:
    """Fetch the metrics of the server whose HTTP is on a port of 127.0.0.1; return them by name and labels."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, value in lines}


Buckets = list[tuple[float, float]]
"""Upper bounds in seconds, ascending to infinity, and how many observations were not beyond each."""


class Counts(NamedTuple):
    """A histogram.

    Attributes:
        buckets: The observations by upper bound.
        total: Their sum, in seconds.
    """

    buckets: Buckets
    total: float


def lateness_counts(metrics: dict[str, float]) -> Counts:
    """Return how late how many pushes were since the server started, by a scrape."""
    buckets = [
        (float(bound[1]), count)
        for name, count in metrics.items()
        if (bound := re.fullmatch(LATENESS + r'_bucket\{le="(.*)"\}', name))
    ]
    return Counts(buckets, metrics[f"{LATENESS}_sum"])


class Lateness:
    """The pushes that were counted between two moments, by how late they were.

    Args:
        before: The counts at the first.
        after: At the second.

    Attributes:
        count: How many pushes.
        mean: How late they were on average, in seconds.
        p50: Half of them were less late than this, in seconds.
        p99: 99 % of them were.
        within: The least of the bounds that none of them was beyond, in seconds.
    """

    def __init__(self, before: Counts, after: Counts) -> None:
        counted = [
            (bound, count - earlier) for (bound, count), (_, earlier) in zip(after.buckets, before.buckets, strict=True)
        ]
        self.count = counted[-1][1]
        self.mean = (after.total - before.total) / self.count if self.count else 0.0
        self.p50 = quantile(0.5, counted)
        self.p99 = quantile(0.99, counted)
        self.within = next(bound for bound, count in counted if count == self.count)


def quantile(share: float, counted: Buckets) -> float:
    """Return a quantile, 0 to 1, as `histogram_quantile` of Prometheus does, between the bounds of its bucket."""
    rank = share * counted[-1][1]
    lower, below = 0.0, 0.0
    for upper, count in counted[:-1]:
        if count >= rank and count > below:
            return lower + (upper - lower) * (rank - below) / (count - below)
        lower, below = upper, count
    return lower


def skipped(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """Return how many pushes of all feeds were skipped between two scrapes, by reason."""
    found: dict[str, float] = {}
    for name, count in after.items():
        if name.startswith(SKIPPED):
            reason = re.search('reason="(.*?)"', name)[1]
            found[reason] = found.get(reason, 0) + count - before[name]
    return found
