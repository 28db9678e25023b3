"""Feeds that are filled with what an exporter has for Prometheus.

Rules of this module: of Prometheus it knows the parser only.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from socket import AF_INET6, SOCK_STREAM, getaddrinfo
from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar

from prometheus_client.parser import text_string_to_metric_families
from twisted.application.service import Service
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import (
    IProtocol,
    IProtocolFactory,
    IReactorPluggableNameResolver,
    IReactorTime,
    IResolutionReceiver,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.internet.task import LoopingCall
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool, ResponseDone, ResponseFailed
from twisted.web.http import OK, PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import directlyProvides, implementer

from clockd import __version__
from clockd.certificate import ClientTLS, failed_for
from clockd.errors import InvalidValue, Misconfigured
from clockd.feeds import LatestFeed

PAGE_BYTES = 8 * 2**20
"""Longest page."""

SCRAPE_SECONDS = 10.0
"""As long as a scrape may take, from the beginning of the request to the end of the page."""

T = TypeVar("T")

Addresses = Sequence[tuple[Any, ...]]
"""What `getaddrinfo` returns."""

_HEADERS = Headers({"accept": ["text/plain;version=0.0.4"], "user-agent": [f"clockd/{__version__}"]})
_URL = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?)(:[0-9]{1,5})?([/?][!-~]*)?")
_LABEL = r'[A-Za-z_][A-Za-z0-9_]*="(?:[^"\\\n]|\\[\\n"])*"'
_SELECTOR = re.compile(rf"[A-Za-z_:][A-Za-z0-9_:]*(\{{({_LABEL}(, *{_LABEL})*)?\}})?")
_ESCAPES = {ord("\\"): "\\\\", ord("\n"): "\\n", ord('"'): '\\"'}


class InThread(Protocol):
    """Calls what takes a while, one at a time and outside the reactor's thread."""

    def __call__(self, what: Callable[[], T]) -> Deferred[T]:
        """Call; to cancel is to hear no more of it, or to have it not called if it has not begun."""


def endpoint_for(key: str, url: str, reactor: object, in_thread: InThread) -> IStreamClientEndpoint:
    """Return where an exporter listens.

    Args:
        key: The configuration key, for errors.
        url: As the operator wrote it.
        reactor: A Twisted reactor.
        in_thread: Where its name is looked up, which takes long if no name server answers.

    Raises:
        Misconfigured: It is no URL that can be scraped.
    """
    found = _URL.fullmatch(url)
    uri = URI.fromBytes(url.encode("ascii")) if found else None
    if uri is None or not 0 < uri.port < 65536:
        raise Misconfigured(
            f"{key}: {url}: is no URL such as http://localhost:9100/metrics, without a name and password"
        )
    host = uri.host.decode()
    endpoint = _Host(reactor, host, uri.port, in_thread)
    return wrapClientTLS(ClientTLS(host), endpoint) if uri.scheme == b"https" else endpoint


@implementer(IStreamClientEndpoint)
class _Host:
    """A host, looked up each time it is connected to.

    A `HostnameEndpoint` alone does so in the reactor's own threads, and a name server that does not answer fills them.
    """

    def __init__(self, reactor: object, host: str, port: int, in_thread: InThread) -> None:
        self._reactor = reactor
        self._host = host
        self._port = port
        self._in_thread = in_thread

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect to the one of its addresses that answers first."""
        return self._in_thread(self._look_up).addCallback(self._connect, protocolFactory)

    def _look_up(self) -> Addresses:
        try:
            return getaddrinfo(self._host, self._port, type=SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise ConnectionError(f"{self._host} is not found: {error}") from error

    def _connect(self, found: Addresses, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        address = found[0][4][0]  # not the name: it takes none with an underscore
        endpoint = HostnameEndpoint(_LookedUp(self._reactor, found), address, self._port)
        return endpoint.connect(protocolFactory)


class _LookedUp:
    """A reactor that knows the one name it will be asked for."""

    def __init__(self, reactor: object, found: Addresses) -> None:
        directlyProvides(self, IReactorPluggableNameResolver)
        self._reactor = reactor
        self._found = found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    @property
    def nameResolver(self) -> "_LookedUp":
        """Itself."""
        return self

    def resolveHostName(self, resolutionReceiver: IResolutionReceiver, hostName: str, portNumber: int) -> None:
        """Tell all that was found."""
        for family, _, _, _, (host, *_) in self._found:
            kind = IPv6Address if family == AF_INET6 else IPv4Address
            resolutionReceiver.addressResolved(kind("TCP", host, portNumber))
        resolutionReceiver.resolutionComplete()


class Selector(NamedTuple):
    """Chooses samples by their name, and by some of their labels or none."""

    name: str
    labels: dict[str, str]

    def __str__(self) -> str:
        return _key(self.name, self.labels)

    def fits(self, name: str, labels: dict[str, str]) -> bool:
        """Tell whether it chooses a sample."""
        return name == self.name and self.labels.items() <= labels.items()


def selector_for(key: str, words: str) -> Selector:
    """Return what chooses the samples that an operator wants.

    Args:
        key: The configuration key, for errors.
        words: As written there: `name`, or `name{label="value",...}`.

    Raises:
        Misconfigured: It is neither.
    """
    families = text_string_to_metric_families(f"{words} 1") if _SELECTOR.fullmatch(words) else ()
    try:
        ((sample,),) = (each.samples for each in families)
    except ValueError as error:  # also if a label is there twice
        raise Misconfigured(
            f'{key}: {words}: is neither a name such as up nor one with labels such as up{{job="node"}}'
        ) from error
    return Selector(sample.name, sample.labels)


class PageSource(Protocol):
    """Where the page of an exporter is had."""

    async def page(self) -> bytes:
        """Return the page as it is now; if this is cancelled, the connection ends.

        Raises:
            Exception: There is none; the message says why.
        """

    def close(self) -> Deferred[None]:
        """Let go of the connection; fires when it is closed."""


@implementer(IAgentEndpointFactory, IStreamClientEndpoint)
class Exporter:
    """An exporter, asked over a connection that is kept.

    Twisted's agent cannot end a connection on which a body comes, so this remembers the one that it has made.

    Args:
        url: Where the metrics are.
        endpoint: Where the exporter listens.
        clock: Monotonic time.
    """

    def __init__(self, url: str, endpoint: IStreamClientEndpoint, clock: IReactorTime) -> None:
        self._url = url
        self._endpoint = endpoint
        self._pool = HTTPConnectionPool(clock)
        self._agent = Agent.usingEndpointFactory(clock, self, self._pool)
        self._connection: IProtocol | None = None

    async def page(self) -> bytes:
        """As for any `PageSource`; an answer other than 200 is an error."""
        response = await self._agent.request(b"GET", self._url.encode("ascii"), _HEADERS)
        body = _Body(self._abort)
        response.deliverBody(body)
        page = await body.whole
        if response.code != OK:
            raise ConnectionError(f"{self._url} answers {response.code} {response.phrase.decode(errors='replace')}")
        return page

    def close(self) -> Deferred[None]:
        """As for any `PageSource`."""
        closed: Deferred[None] = self._pool.closeCachedConnections()
        self._abort()
        return closed

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """Return where the agent connects to."""
        return self

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """Connect, and remember the connection."""
        connecting: Deferred[IProtocol] = self._endpoint.connect(protocolFactory)
        return connecting.addCallback(self._connected)

    def _connected(self, connection: IProtocol) -> IProtocol:
        self._connection = connection
        return connection

    def _abort(self) -> None:
        transport = getattr(self._connection, "transport", None)
        if transport is not None:
            transport.abortConnection()


class _Body(TwistedProtocol):
    """Takes the body of an answer.

    Args:
        abort: Ends the connection.

    Attributes:
        whole: Fires with all of it.
    """

    def __init__(self, abort: Callable[[], None]) -> None:
        self.whole: Deferred[bytes] = Deferred(lambda _: abort())
        self._abort = abort
        self._data = bytearray()

    def dataReceived(self, data: bytes) -> None:
        """Take a part, or give up if there is too much."""
        self._data += data
        if len(self._data) > PAGE_BYTES and not self.whole.called:
            self._abort()
            self.whole.errback(ValueError(f"the page is longer than {PAGE_BYTES} bytes"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Tell that it has ended, well or not; an exporter may say neither how long it is nor send it in chunks."""
        if self.whole.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.whole.callback(bytes(self._data))
        else:
            self.whole.errback(reason)


class Scraper(Service):
    """Scrapes an exporter while it runs, and publishes the metrics that were chosen.

    Args:
        feed: Where they are published, stamped with the moment at which the page had come.
        exporter: What is scraped.
        metrics: Choose samples.
        every: Seconds between the beginnings of two scrapes.
        in_thread: Where pages are read.
        clock: Monotonic time.
        now: Unix seconds UTC by the host's wall clock.
        report: Is told the feed's name and why there is no new sample.
    """

    def __init__(
        self,
        feed: LatestFeed,
        exporter: PageSource,
        metrics: Sequence[Selector],
        every: float,
        in_thread: InThread,
        clock: IReactorTime,
        now: Callable[[], float],
        report: Callable[[str, Exception], object],
    ) -> None:
        self._feed = feed
        self._exporter = exporter
        self._metrics = metrics
        self._every = every
        self._in_thread = in_thread
        self._clock = clock
        self._now = now
        self._report = report
        self._loop = LoopingCall(self._scrape)
        self._loop.clock = clock
        self._scraping: Deferred[None] = succeed(None)

    def startService(self) -> None:
        """Begin to scrape, at once."""
        super().startService()
        self._loop.start(self._every)

    def stopService(self) -> Deferred[None]:
        """Scrape no more; fires when the connection is closed. What a thread still finds out is not looked at."""
        if not self.running:
            return succeed(None)
        super().stopService()
        self._loop.stop()
        self._scraping.cancel()
        return self._exporter.close()

    def _scrape(self) -> Deferred[None]:
        self._scraping = Deferred.fromCoroutine(self._sample()).addErrback(self._failed)
        return self._scraping

    async def _sample(self) -> None:
        seconds = min(self._every, SCRAPE_SECONDS)
        asked = Deferred.fromCoroutine(self._exporter.page())
        page = await asked.addTimeout(seconds, self._clock, _too_slow)
        stamp = self._now()
        found = await self._in_thread(partial(choose, page, self._metrics))
        try:
            self._feed.publish(found, stamp)
        except InvalidValue as error:
            raise InvalidValue(f"{error}: choose fewer metrics") from error

    def _failed(self, failure: Failure) -> None:
        if self.running:
            self._report(self._feed.name, _reason(failure.value))


def choose(page: bytes, metrics: Sequence[Selector]) -> dict[str, float]:
    """Return the samples of a page that were chosen, by name with labels as on the page, but sorted.

    Lines of other names are not looked at, nor are those that tell types: the parser would rename counters by them.

    Raises:
        ValueError: There are none, or what is there makes no sense.
    """
    wanted = re.compile(rf"^[ \t]*(?:{'|'.join({each.name for each in metrics})})[ \t{{].*$", re.MULTILINE)
    try:
        lines = wanted.findall(page.decode())
        families = text_string_to_metric_families("\n".join(lines))
        samples = [sample for each in families for sample in each.samples]
        found = {
            _key(s.name, s.labels): float(s.value)
            for s in samples
            if any(each.fits(s.name, s.labels) for each in metrics)
        }
    except Exception as error:
        raise ValueError(f"the page is not in Prometheus' text format: {error!r}") from error
    if not found:
        raise ValueError(f"the page has none of the metrics {', '.join(map(str, metrics))}")
    return found


def _key(name: str, labels: dict[str, str]) -> str:
    if not labels:
        return name
    parts = ",".join(f'{label}="{value.translate(_ESCAPES)}"' for label, value in sorted(labels.items()))
    return f"{name}{{{parts}}}"


def _too_slow(_: object, seconds: float) -> NoReturn:
    raise TimeoutError(f"no answer, or no end of it, within {seconds:g} s")


def _reason(error: BaseException | None) -> Exception:
    """Return what is behind an error of the agent."""
    while isinstance(error, ResponseFailed) and error.reasons:
        error = error.reasons[0].value
    return failed_for(error) or (error if isinstance(error, Exception) else RuntimeError(repr(error)))
