"""What the service tells Prometheus and whoever asks for its health: reads the tally, prints it, serves it.

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
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.http import HTTPChannel
from twisted.web.http import Request as HTTPRequest
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request, Site

from clockd import __version__
from clockd.feeds import UNKNOWN
from clockd.logs import TwistedLogger
from clockd.values import OTHER, FeedTally, Histogram, Tally

InThread = Callable[[Callable[[], list[Metric]]], Deferred[list[Metric]]]
Encode = Callable[[Collector], bytes]

HTTP_CONNECTIONS = 32
"""As many connections the HTTP side has at most."""

LABELLED_FEEDS = 32
"""As many feeds have labels of their own."""

REQUEST_BYTES = 8192
"""As many bytes of a connection are read; a scrape of Prometheus has some hundred, and nginx takes lines of 8 kB."""

TOO_LARGE = b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
"""The answer to more bytes than that, and to a request with a body."""

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
        yield GaugeMetricFamily("clockd_avatars", "Active avatars: logged in, timer running.", tally.avatars)
        states = {"pending": tally.pending, "authenticated": tally.authenticated}
        yield _gauge("clockd_connections", "Open connections.", "state", states)
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


class _Scrape(Resource):
    """One collection is in flight at a time; who comes meanwhile shares it, and who leaves costs nothing more.

    The tally is read when it ends, after each of them has asked. What is said of the process is older than a request
    that came later, by a collection's few milliseconds at the most.
    """

    isLeaf = True

    def __init__(
        self,
        registry: CollectorRegistry,
        process: Collector,
        in_thread: InThread,
        give_way: Callable[[], object],
    ) -> None:
        super().__init__()
        self._registry = registry
        self._process = process
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


class _Health(Resource):
    isLeaf = True

    def __init__(self, trouble: Callable[[], str | None], remark: Callable[[], str | None]) -> None:
        super().__init__()
        self._trouble = trouble
        self._remark = remark

    def render_GET(self, request: Request) -> bytes:
        """Answer 200 `ok`, or 503 and what is wrong; in a second line what is to be looked after, if anything is."""
        request.setHeader("content-type", "text/plain; charset=utf-8")
        trouble = self._trouble()
        if trouble is not None:
            request.setResponseCode(503)
        return "".join(f"{line}\n" for line in (trouble or "ok", self._remark()) if line).encode()


class _Channel(HTTPChannel):
    """A connection that gets one answer, to a short request without a body, and is closed.

    However much it sends, no more than `REQUEST_BYTES` of it is read as HTTP.
    """

    transport: ProtocolWrapper  # type: ignore[assignment]  # `NewestStay` makes it
    _log = TwistedLogger("twisted.web")
    _received = 0

    def dataReceived(self, data: bytes) -> None:
        """Take bytes; too many of them end the connection."""
        if self.transport.disconnecting:
            return
        self._received += len(data)
        if self._received > REQUEST_BYTES:
            self._refuse()
        else:
            super().dataReceived(data)
        self.factory.give_way()

    def allHeadersReceived(self) -> None:
        """Answer a request, unless a body is to follow."""
        if self.length == 0:
            super().allHeadersReceived()
        else:
            self._refuse()

    def checkPersistence(self, request: HTTPRequest, version: bytes) -> bool:
        """Tell whether there may be another request: there may not."""
        request.setHeader("connection", "close")
        return False

    def _refuse(self) -> None:
        self.transport.write(TOO_LARGE)
        self.loseConnection()


class _QuietSite(Site):
    """A site that writes no access log; on a monotonic reactor the log would tell times of 1970."""

    noisy = False
    protocol = _Channel  # type: ignore[assignment]  # Twisted's own can change to HTTP/2, which nobody asks for

    def __init__(self, root: Resource, reactor: IReactorTime, give_way: Callable[[], object]) -> None:
        super().__init__(root, reactor=reactor)
        self.give_way = give_way

    def log(self, request: HTTPRequest) -> None:
        """Write nothing."""


class NewestStay(WrappingFactory):
    """Lets in so many connections; when there is one more, the oldest goes. Strangers who hold some keep nobody out."""

    noisy = False

    def registerProtocol(self, p: ProtocolWrapper) -> None:
        """Take note of a connection that was made."""
        super().registerProtocol(p)
        if len(self.protocols) > HTTP_CONNECTIONS:
            oldest = next(iter(self.protocols))
            del self.protocols[oldest]
            oldest.transport.abortConnection()

    def unregisterProtocol(self, p: ProtocolWrapper) -> None:
        """Take note of one that has ended."""
        self.protocols.pop(p, None)


def metrics_site(
    collector: TallyCollector,
    trouble: Callable[[], str | None],
    remark: Callable[[], str | None],
    reactor: IReactorTime,
    in_thread: InThread,
    give_way: Callable[[], object],
) -> Site:
    """Return the HTTP site: `/metrics`, `/healthz` and `/readyz`.

    Args:
        collector: What `/metrics` shows, beside what the client library knows of the process and of Python.
        trouble: Tells what keeps the service from being ready; None if nothing does.
        remark: Tells what is to be looked after though it is ready; None if nothing is.
        reactor: Where the site's own time-outs run.
        in_thread: Calls something that takes a while outside the reactor's thread.
        give_way: Has calls made that are due, if what connections send keeps the reactor from it.
    """
    registry = CollectorRegistry()
    registry.register(collector)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    root = Resource()
    root.putChild(b"metrics", _Scrape(registry, ProcessCollector(registry=None), in_thread, give_way))
    root.putChild(b"healthz", _Health(lambda: None, lambda: None))
    root.putChild(b"readyz", _Health(trouble, remark))
    return _QuietSite(root, reactor, give_way)
