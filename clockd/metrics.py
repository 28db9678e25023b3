"""What the service tells Prometheus: a table of all metrics, read from the tally and printed.

Rules of this module: the tally is read in the reactor's thread, so a scrape sees one moment; labels are closed sets,
never an account, an address or a connection, and every label value is there from the start. What is said of a metric is
said here: `docs/metrics.md` is made of it.
"""

import platform
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from typing import Any, Literal, NamedTuple

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
from clockd.values import (
    CLOSE_REASONS,
    CONNECTION_STATES,
    LOGIN_METHODS,
    LOGIN_RESULTS,
    OTHER,
    PERIOD_RESULTS,
    SKIP_REASONS,
    FeedTally,
    Histogram,
    Tally,
)

InThread = Callable[[Callable[[], list[Metric]]], Deferred[list[Metric]]]
Encode = Callable[[Collector], bytes]

LABELLED_FEEDS = 32
"""As many feeds have labels of their own."""

RATE_SECONDS = 10
"""What the achieved rate is an average over."""

UNITS = ("seconds", "bytes", "hertz")
"""With one of these a metric's name ends that has a unit."""


def unit_of(name: str) -> str:
    """Return the unit of a metric, which its name ends with; nothing for a number of things, and for yes or no."""
    last = name.removesuffix("_total").rpartition("_")[2]
    return last if last in UNITS else ""


class Facts(NamedTuple):
    """What an info tells: its labels, with their values."""

    labels: dict[str, str]


Value = float | Histogram | Facts | Mapping[Any, float] | None


class Moment(NamedTuple):
    """What all metrics of one scrape are read from.

    Attributes:
        tally: What has been counted.
        feeds: Of it what is shown by feed.
        achieved: Pushes a second of each of them.
    """

    tally: Tally
    feeds: Mapping[str, FeedTally]
    achieved: Mapping[str, float]


class Entry(NamedTuple):
    """A metric.

    Attributes:
        name: As in a query.
        kind: Its type.
        text: What it means, in a sentence or two.
        read: Returns what it is now: a number, or None if there is none; a number for each value of its label, or for
            each tuple of values of its labels.
        labels: By name, the values that it can have and what each means; feeds and versions have others.
    """

    name: str
    kind: Literal["gauge", "counter", "histogram", "info"]
    text: str
    read: Callable[[Moment], Value]
    labels: Mapping[str, Mapping[str, str]] = {}

    def family(self, moment: Moment) -> Metric:
        """Return the metric as the client library has it."""
        value, unit = self.read(moment), unit_of(self.name)
        if isinstance(value, Histogram):
            bounds = [*(str(bound) for bound in value.bounds), "+Inf"]
            buckets = list(zip(bounds, accumulate(value.counts), strict=True))
            return HistogramMetricFamily(self.name, self.text, buckets=buckets, sum_value=value.total, unit=unit)
        if isinstance(value, Facts):
            return InfoMetricFamily(self.name.removesuffix("_info"), self.text, value.labels)
        kind: type[GaugeMetricFamily | CounterMetricFamily] = (
            CounterMetricFamily if self.kind == "counter" else GaugeMetricFamily
        )
        family = kind(self.name, self.text, labels=tuple(self.labels), unit=unit)
        if isinstance(value, Mapping):
            for key, number in value.items():
                family.add_metric((key,) if isinstance(key, str) else key, number)
        elif value is not None:
            family.add_metric((), value)
        return family


def _each(value: Callable[[FeedTally], float]) -> Callable[[Moment], Value]:
    """Return what reads a number of each feed."""
    return lambda moment: {name: value(feed) for name, feed in moment.feeds.items()}


def _each_published(value: Callable[[FeedTally], float | None]) -> Callable[[Moment], Value]:
    """Return what reads a number of each feed that has one; nobody publishes the time."""

    def read(moment: Moment) -> Value:
        numbers = ((name, value(feed)) for name, feed in moment.feeds.items() if name != "time")
        return {name: number for name, number in numbers if number is not None}

    return read


def _skipped(moment: Moment) -> Value:
    return {(name, reason): count for name, feed in moment.feeds.items() for reason, count in feed.skipped.items()}


def _build(_: Moment) -> Value:
    return Facts({"version": __version__, "twisted": twisted.__version__, "python": platform.python_version()})


_PUBLISHED = {OTHER: f"what lies behind the first {LABELLED_FEEDS} feeds, together"}
_FEED = {"time": "the feed that every server has"} | _PUBLISHED
_CALLED = _FEED | {UNKNOWN: "calls that name no feed of this server"}

METRICS = (
    Entry("clockd_ready", "gauge", "1 while /readyz answers 200, 0 else.", lambda now: now.tally.ready),
    Entry(
        "clockd_avatars",
        "gauge",
        "Active avatars: they have a client that is logged in, and their timer runs.",
        lambda now: now.tally.avatars,
    ),
    Entry(
        "clockd_connections",
        "gauge",
        "Open connections to the Perspective Broker ports.",
        lambda now: {state: getattr(now.tally, state) for state in CONNECTION_STATES},
        {"state": CONNECTION_STATES},
    ),
    Entry(
        "clockd_connections_limit",
        "gauge",
        "As many connections may be logged in at a time: limits.connections, or fewer where descriptors are fewer.",
        lambda now: now.tally.connections_limit,
    ),
    Entry(
        "clockd_connections_opened_total",
        "counter",
        "Connections to the Perspective Broker ports that were accepted.",
        lambda now: now.tally.opened,
    ),
    Entry(
        "clockd_connections_closed_total",
        "counter",
        "Connections that have ended, by what ended them.",
        lambda now: now.tally.closed,
        {"reason": CLOSE_REASONS},
    ),
    Entry(
        "clockd_send_buffer_bytes",
        "gauge",
        "Bytes that the kernel has not taken yet, sum over all connections to the Perspective Broker ports.",
        lambda now: now.tally.unsent,
    ),
    Entry(
        "clockd_logins_total",
        "counter",
        "Logins that were decided.",
        lambda now: now.tally.logins,
        {"method": LOGIN_METHODS, "result": LOGIN_RESULTS},
    ),
    Entry(
        "clockd_subscriptions",
        "gauge",
        "Running subscriptions, one for each avatar and feed.",
        _each(lambda feed: feed.subscriptions),
        {"feed": _FEED},
    ),
    Entry(
        "clockd_push_requested_hertz",
        "gauge",
        "Pushes a second that the running subscriptions ask for together; several clients of an avatar ask once.",
        _each(lambda feed: feed.requested),
        {"feed": _FEED},
    ),
    Entry(
        "clockd_push_achieved_hertz",
        "gauge",
        f"Pushes a second, mean of the last {RATE_SECONDS} seconds.",
        lambda now: now.achieved,
        {"feed": _FEED},
    ),
    Entry("clockd_pushes_total", "counter", "Pushes written.", _each(lambda feed: feed.pushes), {"feed": _FEED}),
    Entry(
        "clockd_push_bytes_total",
        "counter",
        "Bytes of the pushes written, before TLS.",
        _each(lambda feed: feed.bytes),
        {"feed": _FEED},
    ),
    Entry(
        "clockd_pushes_skipped_total",
        "counter",
        "Pushes that were due and not written.",
        _skipped,
        {"feed": _FEED, "reason": SKIP_REASONS},
    ),
    Entry(
        "clockd_feed_errors_total",
        "counter",
        "Samples that a source could not give, or not in time; each publish that was refused; each subscribe by an "
        "account that may not read the feed, or to one that is not there.",
        lambda now: {name: feed.errors for name, feed in now.feeds.items()} | {UNKNOWN: now.tally.feed(UNKNOWN).errors},
        {"feed": _CALLED},
    ),
    Entry(
        "clockd_feed_updates_total",
        "counter",
        "Samples that were published; not of time.",
        _each_published(lambda feed: feed.updates),
        {"feed": _PUBLISHED},
    ),
    Entry(
        "clockd_feed_last_update_timestamp_seconds",
        "gauge",
        "When a sample was published last, Unix time; nothing before the first.",
        _each_published(lambda feed: feed.updated),
        {"feed": _PUBLISHED},
    ),
    Entry(
        "clockd_period_changes_total",
        "counter",
        "Periods asked for, with setperiod or subscribe; a subscribe without one asks for the default.",
        lambda now: now.tally.periods,
        {"result": PERIOD_RESULTS},
    ),
    Entry(
        "clockd_push_lateness_seconds",
        "histogram",
        "From the moment a push was due to the moment it was written.",
        lambda now: now.tally.lateness,
    ),
    Entry(
        "clockd_push_acknowledgement_seconds",
        "histogram",
        "From a push that asks for an answer to the answer.",
        lambda now: now.tally.acknowledgement,
    ),
    Entry(
        "clockd_reactor_lag_seconds",
        "histogram",
        "For how long the reactor was busy between two looks at what has happened: whatever happens meanwhile has to "
        "wait as long.",
        lambda now: now.tally.lag,
    ),
    Entry(
        "clockd_store_up",
        "gauge",
        "1 while what is remembered is written to server.state, or that is empty; 0 while it is in memory only.",
        lambda now: now.tally.store_up,
    ),
    Entry(
        "clockd_store_errors_total",
        "counter",
        "Reads and writes of server.state that failed.",
        lambda now: now.tally.store_errors,
    ),
    Entry(
        "clockd_unhandled_errors_total",
        "counter",
        "Errors of clockd's own, each with a traceback in the log; each is a bug.",
        lambda now: now.tally.unhandled_errors,
    ),
    Entry(
        "clockd_clock_error_bound_seconds",
        "gauge",
        "The error of this host's wall clock is no larger, as its kernel says; +Inf while that is not known.",
        lambda now: now.tally.clock_bound,
    ),
    Entry(
        "clockd_clock_synchronized",
        "gauge",
        "1 while something keeps this host's wall clock right, 0 else, and while that is not known.",
        lambda now: now.tally.clock_synchronized,
    ),
    Entry(
        "clockd_clock_steps_total",
        "counter",
        "Steps of this host's wall clock by 0.1 ms or more, forward or back.",
        lambda now: now.tally.clock_steps,
    ),
    Entry(
        "clockd_subscriber_offset_seconds",
        "histogram",
        "How far clocks of clients are off this host's, forward or back; of those that tell with their answers.",
        lambda now: now.tally.subscriber_offset,
    ),
    Entry(
        "clockd_subscriber_error_bound_seconds",
        "histogram",
        "How far clients that tell their clock may be wrong about this host's, where they know that.",
        lambda now: now.tally.subscriber_bound,
    ),
    Entry(
        "clockd_tls_certificate_expiry_timestamp_seconds",
        "gauge",
        "When the first of the server's certificates expires, Unix time; nothing without TLS.",
        lambda now: now.tally.tls_expiry,
    ),
    Entry(
        "clockd_build_info",
        "info",
        "What this clockd is made of.",
        _build,
        {"version": {}, "twisted": {}, "python": {}},
    ),
)
"""All metrics of our own."""


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
        feeds = _shown(self._tally.feeds)
        achieved = {name: self._achieved(name, feed.pushes) for name, feed in feeds.items()}
        moment = Moment(self._tally, feeds, achieved)
        for entry in METRICS:
            yield entry.family(moment)

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
