"""The status page: what a server says of itself to people who look at it.

Rules of this module: no account, address or connection is told; what is told is encoded once a second for all who look,
once more for each who comes, and only while somebody does.
"""

import math
import platform
import re
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Sequence
from hashlib import sha256
from importlib.resources import files
from typing import Any

import msgspec
import twisted
from msgspec import Struct
from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.web.resource import Resource
from twisted.web.server import Request

from clockd.feeds import UNKNOWN
from clockd.hostclock import HostClock
from clockd.site import EventStreams
from clockd.values import FeedTally, Histogram, Readiness, ServerStatus, Tally

HISTORY_SECONDS = 300
"""As long lines on the page are."""

WINDOW_SECONDS = 60
"""As long is looked back for percentiles."""

Number = float | str
"""Of a number that may be infinite; JSON has no word for that, so it is the text `Infinity` then."""


class Moment(Struct, frozen=True, array_like=True, gc=False):
    """What was going on in one second; a list in JSON.

    Attributes:
        at: When it ended, in seconds since the start.
        avatars: Avatars whose timer ran.
        connections: Open connections, logged in or not.
        requested: Pushes a second that subscriptions asked for.
        achieved: Pushes a second that were made.
        unchanged: Pushes a second that were left out because the value had not changed.
        skipped: Pushes a second that were left out for any other reason.
    """

    at: float
    avatars: int
    connections: int
    requested: float
    achieved: float
    unchanged: float
    skipped: float


class Percentiles(Struct, frozen=True):
    """How long something took in the last while.

    Attributes:
        count: How often it was observed.
        p50: Half of it took no longer, in seconds; infinite beyond the last bound, None if there was nothing.
        p99: As much for 99 of a hundred.
        most: The last bound.
    """

    count: int
    p50: Number | None
    p99: Number | None
    most: float


class FeedRow(Struct, frozen=True):
    """What is told of a feed.

    Attributes:
        name: Its name.
        subscriptions: Running subscriptions.
        requested: Pushes a second that they ask for.
        age: Seconds since a sample was published; None if none was since the start.
    """

    name: str
    subscriptions: int
    requested: float
    age: float | None


class Status(Struct, frozen=True):
    """What is told once a second.

    Attributes:
        stamp: The server's time, Unix seconds UTC.
        uptime: Seconds since the start.
        status: What is known of the server's clock.
        bound: Its error is no larger, in seconds; infinite while that is not known.
        steps: How often it was stepped.
        pending: Connections not logged in.
        moment: What is going on.
        window: The seconds that percentiles are those of.
        lateness: From due time to write.
        acknowledgement: From a push that asks to its answer.
        feeds: All feeds, in the order of the configuration.
        readiness: Whether it is ready, and why not.
    """

    stamp: float
    uptime: float
    status: ServerStatus
    bound: Number
    steps: int
    pending: int
    moment: Moment
    window: float
    lateness: Percentiles
    acknowledgement: Percentiles
    feeds: list[FeedRow]
    readiness: Readiness


class Greeting(Struct, frozen=True):
    """What is told to one who comes.

    Attributes:
        page: Tells one edition of the page from another.
        twisted: The version of Twisted.
        python: Of Python.
        history: The last five minutes.
    """

    page: str
    twisted: str
    python: str
    history: list[Moment]


class History:
    """The last minutes of a tally; looked at once a second, whether or not anybody will ask.

    Args:
        tally: What is looked at.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self.moments = deque([Moment(0.0, 0, 0, 0.0, 0.0, 0.0, 0.0)], maxlen=HISTORY_SECONDS)
        self._before = 0.0, *_totals(FeedTally.sum(tally.feeds.values()))
        self._counts = deque([self._observed(0.0)], maxlen=WINDOW_SECONDS + 1)

    def look(self, at: float) -> None:
        """Note what is going on.

        Args:
            at: Seconds since the start; more than at the look before.
        """
        tally, feeds = self._tally, FeedTally.sum(self._tally.feeds.values())
        totals = _totals(feeds)
        (then, *before), self._before = self._before, (at, *totals)
        rates = (round((new - old) / (at - then), 2) for new, old in zip(totals, before, strict=True))
        connections = tally.authenticated + tally.pending
        self.moments.append(Moment(round(at, 2), tally.avatars, connections, round(feeds.requested, 2), *rates))
        self._counts.append(self._observed(at))

    def percentiles(self) -> tuple[float, Percentiles, Percentiles]:
        """Return the seconds looked back over, and how long it took to write pushes and to answer them."""
        (then, *before), (now, *_) = self._counts[0], self._counts[-1]
        histograms = self._tally.lateness, self._tally.acknowledgement
        lateness, acknowledgement = map(percentiles_since, before, histograms)
        return now - then, lateness, acknowledgement

    def _observed(self, at: float) -> tuple[float, list[int], list[int]]:
        return at, self._tally.lateness.counts.copy(), self._tally.acknowledgement.counts.copy()


def _totals(feeds: FeedTally) -> tuple[int, int, int]:
    """Return the pushes made, those left out because the value had not changed, and those for other reasons."""
    unchanged = feeds.skipped["unchanged"]
    return feeds.pushes, unchanged, sum(feeds.skipped.values()) - unchanged


def percentiles_since(before: Sequence[int], histogram: Histogram) -> Percentiles:
    """Return what a histogram has observed since it had these counts."""
    counts = [new - old for new, old in zip(histogram.counts, before, strict=True)]
    p50, p99 = (quantile(share, counts, histogram.bounds) for share in (0.5, 0.99))
    return Percentiles(sum(counts), p50, p99, histogram.bounds[-1])


def quantile(share: float, counts: Sequence[int], bounds: Sequence[float]) -> Number | None:
    """Return a quantile as `histogram_quantile` of Prometheus does: evenly between the bounds of its bucket.

    Args:
        share: 0 to 1.
        counts: Observations in each bucket, the last of which has no upper bound.
        bounds: Upper bounds, in seconds.

    Returns:
        Seconds; infinite beyond the last bound, and None if nothing was observed.
    """
    total = sum(counts)
    if not total:
        return None
    rank, lower, below = share * total, 0.0, 0
    for upper, count in zip(bounds, counts, strict=False):
        if count and below + count >= rank:
            return round(lower + (upper - lower) * (rank - below) / count, 6)
        lower, below = upper, below + count
    return number(math.inf)


def page_url(address: IAddress) -> str | None:
    """Return where the page is, for the address that HTTP listens on; None where no browser gets.

    Where it listens on every address of this host, 127.0.0.1 is one.
    """
    if not isinstance(address, IPv4Address | IPv6Address):
        return None
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104  # it is told, not bound
    return f"http://[{host}]:{address.port}/" if ":" in host else f"http://{host}:{address.port}/"


def number(value: float) -> Number:
    """Return a number as JSON can tell it."""
    return value if math.isfinite(value) else "Infinity"


class StatusPage(Resource):
    """The page itself: one file that asks for nothing but the events of this server."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self._html = files("clockd").joinpath("page.html").read_bytes()
        style, script = (
            b64encode(sha256(found).digest()).decode()
            for found in re.findall(rb"<(?:style|script)>(.*?)</(?:style|script)>", self._html, re.DOTALL)
        )
        self.edition = sha256(self._html).hexdigest()[:16]
        self._policy = (
            f"default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; img-src data:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )

    def render_GET(self, request: Request) -> bytes:
        """Answer with the page."""
        request.setHeader("content-type", "text/html; charset=utf-8")
        request.setHeader("content-security-policy", self._policy)
        request.setHeader("x-content-type-options", "nosniff")
        request.setHeader("referrer-policy", "no-referrer")
        request.setHeader("cache-control", "no-store")
        return self._html


class StatusBoard(Service):
    """What the page shows, while the service runs.

    Args:
        tally: What the service has done so far.
        host: This host's clock.
        readiness: Tells whether the service is ready.
        clock: Monotonic time.
        now: Unix seconds UTC by the host's wall clock.
        give_way: Has calls made that are due, between one who looks and the next.

    Attributes:
        pages: What is there, by path.
    """

    def __init__(
        self,
        tally: Tally,
        host: HostClock,
        readiness: Callable[[], Readiness],
        clock: IReactorTime,
        now: Callable[[], float],
        give_way: Callable[[], object],
    ) -> None:
        self._tally = tally
        self._host = host
        self._readiness = readiness
        self._clock = clock
        self._now = now
        page = StatusPage()
        self._edition = page.edition
        self._streams = EventStreams(self._greet, give_way)
        self.pages: dict[str, Resource] = {"": page, "events": self._streams}
        self._encode = msgspec.json.Encoder().encode
        self._begin()

    @property
    def looking(self) -> int:
        """How many look."""
        return self._streams.count

    def startService(self) -> None:
        """Count from here."""
        super().startService()
        self._begin()

    def stopService(self) -> None:
        """Tell those who look that this was all."""
        super().stopService()
        self._streams.end(self._event("stopped", self._now()))

    def look(self) -> None:
        """Note what is going on, and tell it to those who look; called once a second."""
        uptime = self._clock.seconds() - self._started
        if uptime > 0.5:  # the first is at the start
            self._history.look(uptime)
        if self.looking:
            self._streams.tell(self._status())

    def _begin(self) -> None:
        self._started = self._clock.seconds()
        self._history = History(self._tally)

    def _greet(self) -> bytes:
        build = twisted.__version__, platform.python_version()
        return self._event("greeting", Greeting(self._edition, *build, list(self._history.moments))) + self._status()

    def _status(self) -> bytes:
        tally, now, uptime = self._tally, self._now(), self._clock.seconds() - self._started
        feeds = [
            FeedRow(
                name,
                feed.subscriptions,
                round(feed.requested, 2),
                None if feed.updated is None else round(max(0.0, now - feed.updated), 1),
            )
            for name, feed in tally.feeds.items()
            if name != UNKNOWN
        ]
        return self._event(
            "status",
            Status(
                now,
                uptime,
                self._host.state.status,
                number(self._host.bound),
                tally.clock_steps,
                tally.pending,
                self._history.moments[-1],
                *self._history.percentiles(),
                feeds,
                self._readiness(),
            ),
        )

    def _event(self, name: str, value: Any) -> bytes:
        return b"event: %s\ndata: %s\n\n" % (name.encode(), self._encode(value))
