"""What the service tells Prometheus: reads the tally and prints it.

Rules of this module: the tally is read in the reactor's thread, so a scrape sees one moment; labels are closed sets,
never an account, an address or a connection, and every label value is there from the start.
"""

import platform
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from itertools import accumulate
from typing import NamedTuple

import twisted
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

from clockd import __version__
from clockd.feeds import UNKNOWN
from clockd.values import OTHER, FeedTally, Histogram, Tally

InThread = Callable[[Callable[[], list[Metric]]], Deferred[list[Metric]]]
Encode = Callable[[Collector], bytes]

LABELLED_FEEDS = 32
"""As many feeds have labels of their own."""

RATE_SECONDS = 10
"""What the achieved rate is an average over."""


class TallyCollector(Collector):
    """Turns a tally into metrics whenever it is asked to.

    Args:
        tally: What to read.
        clock: Monotonic time, for the achieved rate.
    """

    def __init__(self, tally: Tally, clock: IReactorTime) -> None:
        self._tally = tally
        self._clock = clock
        self._history: deque[tuple[float, dict[str, int]]] = deque(maxlen=RATE_SECONDS + 1)
        self.remember()

    def remember(self) -> None:
        """Note how many pushes there were; called once a second."""
        pushes = {name: feed.pushes for name, feed in _shown(self._tally.feeds).items()}
        self._history.append((self._clock.seconds(), pushes))

    def collect(self) -> Iterator[Metric]:
        """Yield every metric as it is now."""
        yield from self._connections()
        yield from self._feeds()
        tally = self._tally
        yield _counter(
            "clockd_period_changes", "Periods asked for, with setperiod or subscribe.", "result", tally.periods
        )
        yield _histogram("clockd_push_lateness_seconds", "Seconds from due time to write.", tally.lateness)
        yield _histogram(
            "clockd_push_acknowledgement_seconds",
            "Seconds from a push that asks for an answer to the answer.",
            tally.acknowledgement,
        )
        yield _histogram(
            "clockd_reactor_lag_seconds",
            "Seconds for which the reactor was busy between two looks at what has happened.",
            tally.lag,
        )
        yield GaugeMetricFamily(
            "clockd_store_up", "1 while what is remembered is written, 0 while it is in memory only.", tally.store_up
        )
        yield CounterMetricFamily(
            "clockd_store_errors", "Reads and writes of the store that failed.", tally.store_errors
        )
        yield CounterMetricFamily(
            "clockd_unhandled_errors",
            "Errors that reached the log with a traceback; each is a bug.",
            tally.unhandled_errors,
        )
        yield from self._clocks()
        expiry = GaugeMetricFamily(
            "clockd_tls_certificate_expiry_timestamp_seconds",
            "When the server's certificate, or one of those it sends along, expires; nothing without TLS.",
        )
        if tally.tls_expiry is not None:
            expiry.add_metric([], tally.tls_expiry)
        yield expiry
        build = {"version": __version__, "twisted": twisted.__version__, "python": platform.python_version()}
        yield InfoMetricFamily("clockd_build", "What this clockd is made of.", build)

    def _clocks(self) -> Iterator[Metric]:
        tally = self._tally
        yield GaugeMetricFamily(
            "clockd_clock_error_bound_seconds",
            "The error of this host's wall clock is no larger; infinite while that is not known.",
            tally.clock_bound,
        )
        yield GaugeMetricFamily(
            "clockd_clock_synchronized",
            "1 while something keeps this host's wall clock right, 0 else, or while that is not known.",
            tally.clock_synchronized,
        )
        yield CounterMetricFamily("clockd_clock_steps", "Steps of this host's wall clock.", tally.clock_steps)
        yield _histogram(
            "clockd_subscriber_offset_seconds",
            "How far the clocks of clients that tell theirs are off this host's, forward or back.",
            tally.subscriber_offset,
        )
        yield _histogram(
            "clockd_subscriber_error_bound_seconds",
            "How far these clients may be wrong about this host's clock, where they know it.",
            tally.subscriber_bound,
        )

    def _connections(self) -> Iterator[Metric]:
        tally = self._tally
        yield GaugeMetricFamily("clockd_ready", "1 while /readyz answers 200.", tally.ready)
        yield GaugeMetricFamily("clockd_avatars", "Active avatars: logged in, timer running.", tally.avatars)
        states = {"pending": tally.pending, "authenticated": tally.authenticated}
        yield _gauge("clockd_connections", "Open connections.", "state", states)
        yield GaugeMetricFamily(
            "clockd_connections_limit", "As many connections may be logged in at a time.", tally.connections_limit
        )
        yield CounterMetricFamily("clockd_connections_opened", "Connections accepted.", tally.opened)
        yield _counter("clockd_connections_closed", "Connections ended.", "reason", tally.closed)
        yield GaugeMetricFamily(
            "clockd_send_buffer_bytes", "Bytes that wait to be sent, over all connections.", tally.unsent
        )
        logins = CounterMetricFamily("clockd_logins", "Logins that were decided.", labels=("method", "result"))
        for labels, count in tally.logins.items():
            logins.add_metric(labels, count)
        yield logins

    def _feeds(self) -> Iterator[Metric]:
        feeds = _shown(self._tally.feeds)

        def each(kind: Callable[..., Metric], name: str, text: str, value: Callable[[FeedTally], float]) -> Metric:
            return kind(name, text, "feed", {name: value(feed) for name, feed in feeds.items()})

        yield each(_gauge, "clockd_subscriptions", "Running subscriptions.", lambda feed: feed.subscriptions)
        yield each(
            _gauge,
            "clockd_push_requested_hertz",
            "Pushes a second that the running subscriptions ask for.",
            lambda feed: feed.requested,
        )
        yield _gauge(
            "clockd_push_achieved_hertz",
            f"Pushes a second over the last {RATE_SECONDS} seconds.",
            "feed",
            {name: self._achieved(name, feed.pushes) for name, feed in feeds.items()},
        )
        yield each(_counter, "clockd_pushes", "Pushes written.", lambda feed: feed.pushes)
        yield each(_counter, "clockd_push_bytes", "Bytes of pushes, before TLS.", lambda feed: feed.bytes)
        skipped = CounterMetricFamily("clockd_pushes_skipped", "Ticks that pushed nothing.", labels=("feed", "reason"))
        for name, feed in feeds.items():
            for reason, count in feed.skipped.items():
                skipped.add_metric((name, reason), count)
        yield skipped
        errors = {name: feed.errors for name, feed in feeds.items()} | {UNKNOWN: self._tally.feed(UNKNOWN).errors}
        yield _counter("clockd_feed_errors", "Samples that could not be had, and calls refused.", "feed", errors)
        feeds = {name: feed for name, feed in feeds.items() if name != "time"}  # nobody publishes the time
        yield each(_counter, "clockd_feed_updates", "Samples that were published.", lambda feed: feed.updates)
        yield _gauge(
            "clockd_feed_last_update_timestamp_seconds",
            "When a sample was published last, Unix seconds; nothing before the first.",
            "feed",
            {name: feed.updated for name, feed in feeds.items() if feed.updated is not None},
        )

    def _achieved(self, name: str, pushes: int) -> float:
        then, before = self._history[0]
        passed = self._clock.seconds() - then
        return (pushes - before.get(name, 0)) / passed if passed > 0 else 0.0


def _shown(feeds: dict[str, FeedTally]) -> dict[str, FeedTally]:
    """Return what is counted by feed, where the first so many have labels of their own and the rest shares one."""
    feeds = {name: feed for name, feed in feeds.items() if name != UNKNOWN}
    if len(feeds) <= LABELLED_FEEDS:
        return feeds
    names = list(feeds)
    return {name: feeds[name] for name in names[:LABELLED_FEEDS]} | {
        OTHER: FeedTally.sum(feeds[name] for name in names[LABELLED_FEEDS:])
    }


def _labelled(
    kind: type[GaugeMetricFamily] | type[CounterMetricFamily],
    name: str,
    text: str,
    label: str,
    values: dict[str, int] | dict[str, float],
) -> Metric:
    family = kind(name, text, labels=(label,))
    for value, number in values.items():
        family.add_metric((value,), number)
    return family


_gauge = partial(_labelled, GaugeMetricFamily)
_counter = partial(_labelled, CounterMetricFamily)


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    bounds = [*(str(bound) for bound in histogram.bounds), "+Inf"]
    buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
    return HistogramMetricFamily(name, text, buckets=buckets, sum_value=histogram.total)


class _Families(NamedTuple):
    """Metrics as what encodes them wants them."""

    families: list[Metric]

    def collect(self) -> list[Metric]:
        return self.families


class MetricsPage(Resource):
    """All metrics, those of the client library on the process and on Python among them.

    One collection is in flight at a time; who comes meanwhile shares it, and who leaves costs nothing more.

    The tally is read when it ends, after each of them has asked. What is said of the process is older than a request
    that came later, by a collection's few milliseconds at the most.

    Args:
        collector: What is shown beside them.
        in_thread: Calls something that takes a while outside the reactor's thread.
        give_way: Has calls made that are due, between one answer and the next.
    """

    isLeaf = True

    def __init__(self, collector: TallyCollector, in_thread: InThread, give_way: Callable[[], object]) -> None:
        super().__init__()
        self._registry = CollectorRegistry()
        self._registry.register(collector)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)
        self._process = ProcessCollector(registry=None)
        self._in_thread = in_thread
        self._give_way = give_way
        self._waiting: dict[Request, tuple[str, Encode]] = {}
        self._collecting = False

    def render_GET(self, request: Request) -> int:
        """Render all metrics in the format that the client asked for."""
        try:
            encode, content_type = choose_encoder(request.getHeader("accept") or "")
        except Exception:  # noqa: BLE001  # it raises many kinds on a header that makes no sense
            encode, content_type = choose_encoder("")
        request.setHeader("content-type", content_type)
        self._waiting[request] = content_type, encode
        request.notifyFinish().addBoth(lambda _: self._waiting.pop(request, None))
        if not self._collecting:
            self._collecting = True
            # it counts the open descriptors, which with 10,000 of them would stop pushes for 8 ms
            collected = self._in_thread(lambda: list(self._process.collect()))
            collected.addBoth(self._collected).addCallback(self._answer).addErrback(self._fail)
        return NOT_DONE_YET

    def _collected(self, result: list[Metric] | Failure) -> list[Metric] | Failure:
        self._collecting = False
        return result

    def _answer(self, process: list[Metric]) -> None:
        if not self._waiting:
            return
        families = _Families([*self._registry.collect(), *process])
        pages: dict[str, bytes] = {}
        for request, (content_type, encode) in list(self._waiting.items()):
            page = pages.get(content_type)
            if page is None:
                page = pages[content_type] = encode(families)
            request.setHeader("content-length", str(len(page)))
            request.write(page)
            request.finish()
            self._give_way()

    def _fail(self, failure: Failure) -> None:
        for request in list(self._waiting):
            request.processingFailed(failure)
